"""The whole link in virtual time: sending, liveness, and any order of anything."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.audio import SILENCE_FRAME, Credentials, Retry, Timing
from roost.testing.driver_conformance import RecordingEvents
from roost_voice.protocol.link import LinkProtocol, UdpTarget
from roost_voice.protocol.liveness import PathAction, PathWatch
from roost_voice.protocol.opcodes import MODE_GCM
from roost_voice.sim import rtp as sim_rtp

pytestmark = pytest.mark.unit

CRED = Credentials(1, 2, 3, "the-session", "the-token", "localhost:1")
KEY = bytes(range(32))
SSRC = 7


class Link:
    """A link with a clock and the server's hand."""

    def __init__(self, *, allow_unencrypted: bool = True, **timing: Any) -> None:
        self.events = RecordingEvents()
        self.protocol = LinkProtocol(
            CRED,
            self.events,
            Timing(**timing),
            sequence=65_535,
            rtp_timestamp=2**32 - 960,
            allow_unencrypted=allow_unencrypted,
            allowed_hosts=("localhost",),
        )
        self.now = 50.0
        self.frames: list[dict[str, Any]] = []
        self.datagrams: list[tuple[float, bytes]] = []
        self.sealer = sim_rtp.Cipher(MODE_GCM, KEY)
        self.opener = sim_rtp.Cipher(MODE_GCM, KEY)

    def say(self, op: int, d: Any) -> None:
        self.protocol.ws_frame(json.dumps({"op": op, "d": d}), self.now)
        self.drain()

    def drain(self) -> None:
        self.frames += [json.loads(frame) for frame in self.protocol.take_frames() if isinstance(frame, str)]
        self.datagrams += [(self.now, data) for data in self.protocol.datagrams]
        self.protocol.datagrams.clear()

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.protocol.get_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.protocol.handle_timer(self.now)
            self.drain()
            if self.frames and self.frames[-1]["op"] == 3:
                self.say(6, {"t": self.frames.pop()["d"]["t"]})
        self.now = until
        self.drain()

    def discovered(self) -> None:
        data = sim_rtp.discovery_reply(SSRC, "192.0.2.1", 5000)
        self.protocol.datagram(data, self.now)
        self.drain()

    def live(self, dave_version: int = 0) -> Link:
        self.protocol.start(self.now)
        assert self.protocol.socket_wanted == 0.0
        self.protocol.socket_wanted = None
        self.protocol.ws_opened(self.now)
        self.say(8, {"heartbeat_interval": 13_750})
        self.say(2, {"ssrc": SSRC, "ip": "127.0.0.1", "port": 9, "modes": [MODE_GCM]})
        assert self.protocol.udp_wanted == UdpTarget("127.0.0.1", 9)
        self.protocol.udp_opened(self.now)
        self.drain()
        self.discovered()
        self.say(4, {"mode": MODE_GCM, "secret_key": list(KEY), "dave_protocol_version": dave_version})
        assert self.protocol.live
        self.frames.clear()
        self.datagrams.clear()
        return self

    def audio(self) -> list[tuple[float, sim_rtp.Packet]]:
        return [
            (at, sim_rtp.open_packet(data, self.opener))
            for at, data in self.datagrams
            if len(data) > 12 and data[0] == 0x80
        ]


def test_sending_announces_then_paces() -> None:
    link = Link().live()
    for number in range(5):
        link.protocol.send_opus(bytes([0x78, number]), link.now)
    link.drain()
    assert link.frames == [{"op": 5, "d": {"speaking": 1, "delay": 0, "ssrc": SSRC}}]
    link.protocol.set_speaking(False, link.now)
    link.advance(1.0)
    audio = link.audio()
    assert [packet.payload for _, packet in audio] == [bytes([0x78, n]) for n in range(5)] + [SILENCE_FRAME] * 5
    assert [packet.sequence for _, packet in audio] == [65_535, *range(9)]
    assert {packet.ssrc for _, packet in audio} == {SSRC}
    times = [at for at, _ in audio]
    assert times[0] == pytest.approx(50.02)
    assert [round(b - a, 3) for a, b in itertools.pairwise(times)] == [0.02] * 9
    stamps = [packet.timestamp for _, packet in audio]
    assert {(b - a) % 2**32 for a, b in itertools.pairwise(stamps)} == {960}
    assert link.frames[-1] == {"op": 5, "d": {"speaking": 0, "delay": 0, "ssrc": SSRC}}


def test_the_media_clock_runs_on_in_silence() -> None:
    link = Link().live()
    link.protocol.send_opus(b"\x78a", link.now)
    link.advance(2.0)
    link.protocol.send_opus(b"\x78b", link.now)
    link.advance(0.1)
    (_, first), (_, second) = link.audio()
    step = (second.timestamp - first.timestamp) % 2**32
    assert step % 960 == 0
    assert step / 48_000 == pytest.approx(2.0, abs=0.06)
    assert second.sequence == (first.sequence + 1) % 2**16


def test_speaking_is_announced_again_after_a_resume() -> None:
    link = Link().live()
    link.protocol.set_speaking(True, link.now)
    link.drain()
    link.protocol.ws_closed(4015, link.now)
    link.protocol.send_opus(b"\x78a", link.now)
    assert link.protocol.stats().send_dropped == 1
    link.protocol.ws_opened(link.now)
    link.say(8, {"heartbeat_interval": 13_750})
    link.frames.clear()
    link.say(9, None)
    assert [frame["op"] for frame in link.frames] == [5]


def test_group_messages_wait_for_the_resume() -> None:
    link = Link(allow_unencrypted=False).live(dave_version=1)
    link.protocol.take_frames()
    link.protocol.ws_closed(4015, link.now)
    link.protocol.ws_opened(link.now)
    link.say(8, {"heartbeat_interval": 13_750})
    link.frames.clear()
    link.say(21, {"protocol_version": 1, "transition_id": 3})
    assert link.frames == []
    link.say(9, None)
    assert link.frames == [{"op": 23, "d": {"transition_id": 3}}]


def test_a_call_without_encryption_is_refused() -> None:
    link = Link(allow_unencrypted=False)
    with pytest.raises(AssertionError):
        link.live(dave_version=0)
    end = link.protocol.end
    assert end is not None
    assert end.retry is Retry.STOP
    assert link.events.states[-1] == "ended"


def test_described_again_a_new_key_is_used_and_the_group_stays() -> None:
    link = Link(allow_unencrypted=False).live(dave_version=1)
    states = list(link.events.encryption)
    link.say(4, {"mode": MODE_GCM, "secret_key": list(KEY), "dave_protocol_version": 1})
    link.say(4, {"mode": MODE_GCM, "secret_key": list(KEY[::-1]), "dave_protocol_version": 1})
    assert link.events.encryption == states
    link.say(5, {"user_id": "5", "ssrc": 9, "speaking": 1})
    sealed = sim_rtp.seal(sim_rtp.Packet(9, 1, 0, SILENCE_FRAME), sim_rtp.Cipher(MODE_GCM, KEY[::-1]))
    link.protocol.datagram(sealed, link.now)
    assert [frame.opus for frame in link.events.frames] == [SILENCE_FRAME]


def test_discovery_is_asked_again_and_times_out() -> None:
    link = Link()
    link.protocol.start(link.now)
    link.protocol.ws_opened(link.now)
    link.say(8, {"heartbeat_interval": 13_750})
    link.say(2, {"ssrc": SSRC, "ip": "127.0.0.1", "port": 9, "modes": [MODE_GCM]})
    link.protocol.udp_opened(link.now)
    link.drain()
    link.advance(2.9)
    assert len(link.datagrams) == 12
    link.protocol.datagram(sim_rtp.discovery_reply(SSRC + 1, "192.0.2.1", 5000), link.now)
    link.advance(0.2)
    assert link.protocol.end is not None
    assert "UDP" in link.protocol.end.reason
    assert link.protocol.stats().violations == {"discovery_ssrc": 1}


def test_members_are_told_once_and_never_ourselves() -> None:
    link = Link().live()
    link.say(11, {"user_ids": ["3", "5", "5", "x", "6"]})
    link.say(11, {"user_ids": ["5"]})
    link.say(13, {"user_id": "5"})
    link.say(13, {"user_id": "5"})
    link.say(13, {"user_id": "99"})
    link.say(5, {"user_id": "3", "ssrc": 1, "speaking": 1})
    assert link.events.joined == [5, 6]
    assert link.events.left == [5]
    assert link.events.spoke == []


def test_echoed_keepalives_that_stop_make_the_path_dead() -> None:
    link = Link().live()
    link.advance(0.01)
    (_, first) = link.datagrams.pop()
    assert len(first) == 8
    link.protocol.datagram(first, link.now)
    assert link.protocol.stats().packets_in == 0
    link.advance(25.0)
    end = link.protocol.end
    assert end is not None
    assert end.retry is Retry.RESUME_FAILED
    assert any(len(data) == 74 for _, data in link.datagrams)


def test_a_server_that_never_echoes_is_no_fault() -> None:
    link = Link().live()
    link.advance(600.0)
    assert link.protocol.end is None
    assert sum(len(data) == 8 for _, data in link.datagrams) == 121


def test_speech_nobody_hears_asks_discovery_first() -> None:
    link = Link().live()
    link.say(5, {"user_id": "5", "ssrc": 9, "speaking": 1})
    link.advance(15.1)
    assert any(len(data) == 74 for _, data in link.datagrams)
    link.discovered()
    link.advance(20.0)
    assert link.protocol.end is None
    link.say(5, {"user_id": "5", "ssrc": 9, "speaking": 1})
    link.advance(15.1)
    assert link.protocol.end is not None


def test_a_new_address_ends_the_link() -> None:
    link = Link().live()
    link.say(5, {"user_id": "5", "ssrc": 9, "speaking": 1})
    link.advance(15.1)
    link.protocol.datagram(sim_rtp.discovery_reply(SSRC, "192.0.2.1", 5001), link.now)
    assert link.protocol.end is not None
    assert link.protocol.end.retry is Retry.RESUME_FAILED


def test_a_packet_heard_calms_the_watch() -> None:
    watch = PathWatch(Timing())
    watch.start(0.0)
    watch.speech(0.0)
    watch.heard()
    assert PathAction.SEND_DISCOVERY not in watch.handle_timer(16.0)


def test_after_its_end_a_link_is_silent() -> None:
    link = Link().live()
    link.say(5, {"user_id": "5", "ssrc": 9, "speaking": 1})
    link.protocol.close(link.now)
    assert link.protocol.get_timer() is None
    link.protocol.datagram(sim_rtp.seal(sim_rtp.Packet(9, 1, 0, b"\x78a"), link.sealer), link.now)
    link.protocol.handle_timer(link.now + 100)
    link.protocol.send_opus(b"\x78a", link.now)
    link.protocol.set_speaking(True, link.now)
    link.drain()
    assert link.events.frames == []
    assert link.datagrams == []
    assert link.frames == []


STEP = st.one_of(
    st.tuples(st.just("text"), st.integers(0, 31), st.sampled_from([None, {}, {"user_id": "5", "ssrc": 9}])),
    st.tuples(
        st.just("text"),
        st.sampled_from([2, 4, 5, 6, 8, 9, 11, 13, 21, 22, 24]),
        st.fixed_dictionaries(
            {},
            optional={
                "user_id": st.sampled_from(["5", "6", 3, "x"]),
                "user_ids": st.lists(st.sampled_from(["5", "6", None]), max_size=3),
                "ssrc": st.sampled_from([7, 9, -1]),
                "speaking": st.integers(0, 4),
                "protocol_version": st.integers(0, 2),
                "transition_id": st.integers(0, 3),
                "epoch": st.integers(0, 2),
                "mode": st.just(MODE_GCM),
                "secret_key": st.sampled_from([list(KEY), list(KEY[::-1]), []]),
                "heartbeat_interval": st.sampled_from([1000, 0]),
            },
        ),
    ),
    st.tuples(st.just("binary"), st.sampled_from([25, 27, 29, 30]), st.binary(max_size=30)),
    st.tuples(st.just("datagram"), st.integers(0, 3), st.binary(max_size=90)),
    st.tuples(st.just("voice"), st.integers(0, 20), st.sampled_from([SILENCE_FRAME, b"\x78abc"])),
    st.tuples(st.just("send"), st.integers(0, 1), st.sampled_from([b"", b"\x78abc", b"x" * 5000])),
    st.tuples(st.just("closed"), st.sampled_from([1006, 4015, 4006, 4014]), st.none()),
    st.tuples(st.just("opened"), st.just(0), st.none()),
    st.tuples(st.just("failed"), st.just(0), st.none()),
    st.tuples(st.just("pass"), st.integers(0, 100), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=25), st.booleans())
def test_anything_in_any_order_raises_nothing(steps: list[tuple[str, int, Any]], encrypted: bool) -> None:
    link = Link().live(dave_version=int(encrypted))
    protocol = link.protocol
    for kind, number, body in steps:
        if kind == "text":
            link.say(number, body)
        elif kind == "binary":
            protocol.ws_frame(b"\0\1" + bytes([number]) + body, link.now)
        elif kind == "datagram":
            protocol.datagram([b"", b"\x80\x78", b"\0\2", b"\x90\x78"][number] + body, link.now)
        elif kind == "voice":
            protocol.datagram(sim_rtp.seal(sim_rtp.Packet(9, number, 960 * number, body), link.sealer), link.now)
        elif kind == "send":
            protocol.send_opus(body, link.now)
            protocol.set_speaking(bool(number), link.now)
        elif kind == "closed":
            protocol.ws_closed(number, link.now)
        elif kind == "opened":
            protocol.ws_opened(link.now)
        elif kind == "failed":
            protocol.ws_open_failed("no", link.now)
        else:
            link.advance(number / 10)
        link.drain()
        stats = protocol.stats()
        assert stats.packets_in == stats.frames_out + sum(stats.dropped.values())
        assert protocol.end is None or protocol.get_timer() is None
    protocol.close(link.now)
    assert protocol.end is not None


def media_wanted_at(ip: object, port: object = 9) -> Link:
    link = Link()
    link.protocol.start(link.now)
    link.protocol.ws_opened(link.now)
    link.say(8, {"heartbeat_interval": 13_750})
    link.say(2, {"ssrc": SSRC, "ip": ip, "port": port, "modes": [MODE_GCM]})
    return link


@pytest.mark.parametrize(
    "ip",
    ["169.254.169.254", "10.0.0.1", "192.168.1.1", "0.0.0.0", "224.0.0.1", "127.0.0.2", "fe80::1", "::ffff:10.0.0.1"],
)
def test_media_is_not_sent_to_addresses_that_are_not_public(ip: str) -> None:
    link = media_wanted_at(ip)
    assert link.protocol.udp_wanted is None
    assert link.protocol.end is not None
    assert link.protocol.end.retry is Retry.STOP
    assert "no public address" in link.protocol.end.reason
    assert link.datagrams == []


@pytest.mark.parametrize("port", [0, -1, 65_536, 2**40, 1.5, "9", True, None])
def test_a_port_out_of_range_is_no_ready(port: object) -> None:
    link = media_wanted_at("127.0.0.1", port)
    assert link.protocol.udp_wanted is None
    assert link.protocol.stats().violations == {"ready": 1}


def test_one_of_two_clients_leaves() -> None:
    link = Link().live()
    link.say(11, {"user_ids": ["4001"]})
    link.say(12, {"user_id": "4001", "audio_ssrc": 21, "video_ssrc": 0, "rtx_ssrc": 0})
    link.say(11, {"user_ids": ["4001"]})
    link.say(5, {"user_id": "4001", "ssrc": 22, "speaking": 1})
    link.say(13, {"user_id": "4001"})
    assert link.events.joined == [4001]
    assert link.events.left == []
    for sequence in range(30):
        packet = sim_rtp.Packet(21, sequence, 960 * sequence, b"\x78" + bytes(20))
        link.protocol.datagram(sim_rtp.seal(packet, link.sealer), link.now)
        link.advance(0.02)
    assert len(link.events.frames) == 30
    assert {frame.user_id for frame in link.events.frames} == {4001}
    link.say(13, {"user_id": "4001"})
    link.say(13, {"user_id": "4001"})
    assert link.events.left == [4001]
