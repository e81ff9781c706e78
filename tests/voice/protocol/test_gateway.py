"""The gateway's state machine in virtual time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.audio import Credentials, Retry, Timing
from roost_voice.protocol import gateway as gw
from roost_voice.protocol import messages
from roost_voice.protocol.gateway import GatewayState, VoiceGateway
from roost_voice.protocol.opcodes import MODE_GCM, MODE_XCHACHA

pytestmark = pytest.mark.unit

CRED = Credentials(1, 2, 3, "the-session", "the-token", "localhost:1")
KEY = list(range(32))


def text(op: int, d: Any, seq: int | None = None) -> str:
    return json.dumps({"op": op, "d": d} | ({} if seq is None else {"seq": seq}))


class Line:
    """A gateway with a clock."""

    def __init__(self, **changes: Any) -> None:
        self.timing = Timing(**changes)
        self.gateway = VoiceGateway(CRED, self.timing, max_dave_version=1)
        self.now = 100.0
        self.events: list[gw.Event] = []

    def do(self, events: list[gw.Event]) -> list[gw.Event]:
        self.events += events
        return events

    def say(self, op: int, d: Any, seq: int | None = None) -> list[gw.Event]:
        return self.do(self.gateway.text(text(op, d, seq), self.now))

    def sent(self) -> list[dict[str, Any]]:
        out = [json.loads(frame) for frame in self.gateway.out if isinstance(frame, str)]
        self.gateway.out.clear()
        return out

    def advance(self, seconds: float) -> None:
        """Let time pass, firing timers when they are due."""
        until = self.now + seconds
        while (due := self.gateway.get_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.do(self.gateway.handle_timer(self.now))
        self.now = until

    def live(self) -> Line:
        self.do(self.gateway.start(self.now))
        self.do(self.gateway.opened(self.now))
        self.say(8, {"v": 8, "heartbeat_interval": 13_750.0})
        self.say(2, {"ssrc": 7, "ip": "127.0.0.1", "port": 9, "modes": [MODE_XCHACHA, MODE_GCM]})
        self.do(self.gateway.select("1.2.3.4", 5, self.now))
        self.sent()
        self.say(4, {"mode": MODE_GCM, "secret_key": KEY, "dave_protocol_version": 1})
        assert self.gateway.state is GatewayState.LIVE
        return self

    @property
    def drops(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, gw.PacketDropped)]


def test_the_handshake() -> None:
    line = Line()
    assert line.do(line.gateway.start(line.now)) == [gw.StateChanged("opening"), gw.OpenSocket(0.0)]
    line.do(line.gateway.opened(line.now))
    assert line.sent() == []
    line.say(8, {"v": 8, "heartbeat_interval": 13_750.0})
    assert line.sent() == [
        {
            "op": 0,
            "d": {
                "server_id": "1",
                "user_id": "3",
                "session_id": "the-session",
                "token": "the-token",
                "max_dave_protocol_version": 1,
            },
        }
    ]
    ready = line.say(2, {"ssrc": 7, "ip": "127.0.0.1", "port": 9, "modes": [MODE_XCHACHA, MODE_GCM], "x": 1})
    assert gw.ReadyReceived(7, "127.0.0.1", 9) in ready
    line.do(line.gateway.select("1.2.3.4", 5, line.now))
    assert line.sent() == [
        {"op": 1, "d": {"protocol": "udp", "data": {"address": "1.2.3.4", "port": 5, "mode": MODE_GCM}}}
    ]
    described = line.say(4, {"mode": MODE_GCM, "secret_key": KEY, "dave_protocol_version": 1})
    assert gw.Described(MODE_GCM, bytes(KEY), 1) in described
    names = [event.name for event in line.events if isinstance(event, gw.StateChanged)]
    assert names == ["opening", "hello", "ready", "discovery", "select", "live"]
    assert line.drops == []


@pytest.mark.parametrize(
    ("steps", "limit", "word"),
    [(1, 2.0, "hello"), (2, 3.0, "accept"), (3, 3.0, "UDP"), (4, 2.0, "describe")],
)
def test_every_step_has_its_deadline(steps: int, limit: float, word: str) -> None:
    line = Line()
    line.do(line.gateway.start(line.now))
    line.do(line.gateway.opened(line.now))
    if steps > 1:
        line.say(8, {"heartbeat_interval": 60_000})
    if steps > 2:
        line.say(2, {"ssrc": 7, "ip": "127.0.0.1", "port": 9, "modes": [MODE_GCM]})
    if steps > 3:
        line.do(line.gateway.select("1.2.3.4", 5, line.now))
    line.advance(limit - 0.01)
    assert line.gateway.end is None
    line.advance(0.02)
    end = line.gateway.end
    assert end is not None
    assert end.retry is Retry.REJOIN
    assert word in end.reason


def test_opening_is_tried_three_times() -> None:
    line = Line()
    line.do(line.gateway.start(line.now))
    line.advance(3.0)
    line.do(line.gateway.open_failed("refused", line.now))
    assert [event for event in line.events if isinstance(event, gw.OpenSocket)] == [
        gw.OpenSocket(0.0),
        gw.OpenSocket(0.2),
        gw.OpenSocket(0.2),
    ]
    assert line.gateway.end is None
    line.advance(3.3)
    assert line.gateway.end is not None
    assert line.gateway.end.retry is Retry.REJOIN


def test_what_cannot_be_mended_is_tried_once() -> None:
    line = Line()
    line.do(line.gateway.start(line.now))
    line.do(line.gateway.open_failed("bad certificate", line.now, retryable=False))
    assert line.gateway.end is not None
    assert line.gateway.end.retry is Retry.STOP


def resume(line: Line) -> None:
    assert line.gateway.state is GatewayState.RESUME_OPENING
    line.do(line.gateway.opened(line.now))
    line.say(8, {"heartbeat_interval": 13_750})
    assert line.gateway.state is GatewayState.RESUMING


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 4009, 4013, 4015])
def test_a_lost_connection_resumes_with_the_last_sequence(code: int | None) -> None:
    line = Line().live()
    line.say(13, {"user_id": "5"}, 65_535)
    line.do(line.gateway.binary(b"\0\0\x19body", line.now))
    line.do(line.gateway.closed(code, line.now))
    assert line.events[-1] == gw.OpenSocket(0.0)
    resume(line)
    assert line.sent() == [
        {"op": 7, "d": {"server_id": "1", "session_id": "the-session", "token": "the-token", "seq_ack": 0}}
    ]
    line.say(9, None)
    assert line.gateway.state is GatewayState.LIVE
    assert line.gateway.resumes == 1
    line.advance(2.4)
    assert line.gateway.end is None


def test_a_resume_may_knock_again_until_its_time_is_up() -> None:
    line = Line().live()
    line.do(line.gateway.closed(1006, line.now))
    for _ in range(3):
        line.do(line.gateway.open_failed("refused", line.now))
        line.advance(0.2)
    assert line.gateway.end is None
    line.advance(3.0)
    assert line.gateway.end is not None
    assert line.gateway.end.retry is Retry.RESUME_FAILED


@pytest.mark.parametrize(
    ("code", "retry"),
    [
        (4006, Retry.RESUME_FAILED),
        (1006, Retry.RESUME_FAILED),
        (4014, Retry.AWAIT_SERVER),
        (4017, Retry.STOP),
        (4099, Retry.RESUME_FAILED),
    ],
)
def test_a_refused_resume_is_over(code: int, retry: Retry) -> None:
    line = Line().live()
    line.do(line.gateway.closed(4015, line.now))
    resume(line)
    line.do(line.gateway.closed(code, line.now))
    assert line.gateway.end is not None
    assert (line.gateway.end.code, line.gateway.end.retry) == (code, retry)


def test_resuming_again_and_again_is_given_up() -> None:
    line = Line().live()
    for _ in range(5):
        line.do(line.gateway.closed(4015, line.now))
        resume(line)
        line.say(9, None)
        line.advance(1.0)
    line.do(line.gateway.closed(4015, line.now))
    assert line.gateway.end is not None
    assert line.gateway.end.retry is Retry.RESUME_FAILED


def test_heartbeats_carry_nonce_and_sequence() -> None:
    line = Line().live()
    line.say(13, {"user_id": "5"}, 41)
    line.advance(5.0)
    (beat,) = line.sent()
    assert beat["op"] == 3
    assert beat["d"]["seq_ack"] == 41
    line.now += 0.03
    line.say(6, {"t": beat["d"]["t"]})
    assert line.gateway.ping_s == pytest.approx(0.03)
    line.advance(5.0)
    (second,) = line.sent()
    assert second["d"]["t"] > beat["d"]["t"]


@pytest.mark.parametrize("broke_after", [0.0, 2.0, 4.9])
def test_a_dead_line_is_noticed_within_two_intervals(broke_after: float) -> None:
    line = Line().live()
    line.advance(5.0)
    line.say(6, {"t": line.sent()[0]["d"]["t"]})
    line.advance(broke_after)
    broke_at = line.now
    while line.gateway.state is GatewayState.LIVE:
        line.advance(0.1)
        assert line.now < broke_at + 10.2
    assert line.gateway.state is GatewayState.RESUME_OPENING


def test_a_wrong_acknowledgement_counts_as_none() -> None:
    line = Line().live()
    line.advance(5.0)
    line.say(6, {"t": 1})
    line.say(6, None)
    line.say(6, {"t": True})
    assert line.drops == ["heartbeat_ack"] * 3
    line.advance(5.0)
    assert line.gateway.state is GatewayState.RESUME_OPENING


def test_a_stalled_loop_is_no_dead_line() -> None:
    line = Line().live()
    for _ in range(4):
        line.now += 15.0
        line.do(line.gateway.handle_timer(line.now))
        assert line.gateway.state is GatewayState.LIVE
        line.say(6, {"t": line.sent()[-1]["d"]["t"]})


def test_the_server_may_ask_for_a_heartbeat() -> None:
    line = Line().live()
    line.say(3, None)
    assert line.sent()[0]["op"] == 3


def test_what_a_resume_replays_twice_is_taken_once() -> None:
    line = Line().live()
    line.say(13, {"user_id": "5"}, 1)
    line.say(13, {"user_id": "6"}, 2)
    line.say(13, {"user_id": "6"}, 2)
    assert line.drops == ["duplicate"]
    assert [event for event in line.events if isinstance(event, gw.MemberLeft)] == [gw.MemberLeft(5), gw.MemberLeft(6)]
    assert line.gateway.seq_ack == 2


def test_unusable_session_descriptions_end_the_link() -> None:
    for description in (
        None,
        {},
        {"mode": MODE_GCM, "secret_key": KEY[:-1]},
        {"mode": MODE_GCM, "secret_key": [*KEY[:-1], 256]},
        {"mode": MODE_GCM, "secret_key": [*KEY[:-1], "1"]},
        {"mode": MODE_XCHACHA, "secret_key": KEY},
        {"mode": MODE_GCM, "secret_key": KEY, "dave_protocol_version": "1"},
    ):
        line = Line()
        line.do(line.gateway.start(line.now))
        line.do(line.gateway.opened(line.now))
        line.say(8, {"heartbeat_interval": 13_750})
        line.say(2, {"ssrc": 7, "ip": "127.0.0.1", "port": 9, "modes": [MODE_XCHACHA, MODE_GCM]})
        line.do(line.gateway.select("1.2.3.4", 5, line.now))
        line.say(4, description)
        assert line.gateway.end is not None, description
        assert line.gateway.end.retry is Retry.STOP


def test_nonsense_is_counted_and_changes_nothing() -> None:
    line = Line().live()
    for frame in (
        "",
        "null",
        "[]",
        "{}",
        '{"op": "3"}',
        '{"op": true}',
        "[" * 100_000,
        "9" * 5000,
        text(2, {"ssrc": 1}),
        text(5, {"user_id": "x", "ssrc": 1, "speaking": 1}),
        text(5, {"user_id": str(2**64), "ssrc": 1, "speaking": 1}),
        text(5, {"user_id": "5", "ssrc": 2**32, "speaking": 1}),
        text(5, {"user_id": "5", "ssrc": 1, "speaking": None}),
        text(8, {"heartbeat_interval": 5000}),
        text(8, {"heartbeat_interval": -1}),
        text(9, None),
        text(11, {"user_ids": "5"}),
        text(13, []),
        text(21, []),
        text(77, {}),
        "x" * 300_000,
    ):
        before = len(line.drops)
        line.do(line.gateway.text(frame, line.now))
        assert len(line.drops) == before + 1, frame[:60]
    for binary in (b"", b"\0", b"\0\1", b"\0\1\x05abc", b"\0\1\x1aabc"):
        before = len(line.drops)
        line.do(line.gateway.binary(binary, line.now))
        assert len(line.drops) == before + 1, binary
    assert line.gateway.state is GatewayState.LIVE


def test_silent_ops_are_no_violation() -> None:
    line = Line().live()
    for op in (12, 14, 15, 16, 18, 20):
        line.say(op, {"any": ["thing"]})
    assert line.drops == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("123"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["user_id", "ssrc", "speaking", "user_ids", "t", "heartbeat_interval", "modes", "ip", "d"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 32), JSON, st.none() | st.integers(-5, 70_000)), max_size=8), st.booleans())
def test_no_message_raises(said: list[tuple[int, Any, int | None]], live: bool) -> None:
    line = Line()
    if live:
        line.live()
    else:
        line.do(line.gateway.start(line.now))
        line.do(line.gateway.opened(line.now))
    for op, d, seq in said:
        line.say(op, d, seq)
        line.advance(0.3)
    assert line.gateway.get_timer() is None or line.gateway.end is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.binary(max_size=60))
def test_no_bytes_raise(frame: str, binary: bytes) -> None:
    messages.parse_text(frame)
    messages.parse_binary(binary)
    line = Line().live()
    line.do(line.gateway.text(frame, line.now))
    line.do(line.gateway.binary(binary, line.now))
    line.do(line.gateway.binary(b"\0\1\x1d" + binary, line.now))


def test_secrets_do_not_show() -> None:
    assert "the-token" not in repr(CRED)
    assert "the-session" not in repr(CRED)
    assert repr(bytes(KEY)) not in repr(gw.Described(MODE_GCM, bytes(KEY), 1))


@pytest.mark.parametrize(
    ("asked", "beats_s"), [(1, 1.0), (0.001, 1.0), (999, 1.0), (2500, 2.5), (13_750, 5.0), (600_000, 5.0)]
)
def test_heartbeats_are_neither_too_frequent_nor_too_rare(asked: float, beats_s: float) -> None:
    line = Line()
    line.do(line.gateway.start(line.now))
    line.do(line.gateway.opened(line.now))
    line.say(8, {"heartbeat_interval": asked})
    assert line.gateway.get_timer() == pytest.approx(line.now + min(beats_s, Timing().ready_s))
    line.now += beats_s
    if beats_s < Timing().ready_s:
        line.do(line.gateway.handle_timer(line.now))
        assert line.sent()[-1]["op"] == 3


@pytest.mark.parametrize(
    "asked", [0, -1, -1e9, 600_001, 1e300, 10**400, float("nan"), float("inf"), "41250", True, None, [1], {"a": 1}]
)
def test_a_heartbeat_interval_that_is_none_is_no_hello(asked: object) -> None:
    line = Line()
    line.do(line.gateway.start(line.now))
    line.do(line.gateway.opened(line.now))
    line.say(8, {"heartbeat_interval": asked})
    assert line.drops == ["hello"]
    assert line.gateway.state is GatewayState.HELLO
    assert line.gateway.get_timer() == pytest.approx(line.now + Timing().hello_s)


@pytest.mark.parametrize(
    "body", [None, [], {}, {"user_id": "5"}, {"user_id": "5", "audio_ssrc": -1}, {"user_id": 0, "audio_ssrc": 3}]
)
def test_an_op_12_without_an_audio_stream_names_none(body: object) -> None:
    assert Line().live().say(12, body) == []


def test_a_stream_is_named_by_op_12() -> None:
    line = Line().live()
    assert line.say(12, {"user_id": "5", "audio_ssrc": 9, "video_ssrc": 10, "rtx_ssrc": 11}) == [gw.StreamNamed(5, 9)]
    assert line.say(12, {"user_id": "5", "audio_ssrc": 0}) == []
