"""Targets that take what a voice gateway sends: JSON and binary frames, in every state; the whole link; addresses."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from fuzz_packets import KEY, PACKETS, REPLIES, REPORTS
from fuzzing import Script, Target, mutate_json

from roost.audio import AudioFrame, Credentials, Timing
from roost.errors import VoiceError
from roost_voice.protocol import messages
from roost_voice.protocol.address import ALLOWED_HOSTS, check_address
from roost_voice.protocol.close_codes import policy
from roost_voice.protocol.gateway import GatewayState, VoiceGateway
from roost_voice.protocol.link import MAX_MEMBERS, LinkProtocol
from roost_voice.protocol.opcodes import MODE_GCM, MODES

CRED = Credentials(1, 2, 3, "the-session", "the-token", "localhost:1")
SSRC = 1001

HELLO = {"op": 8, "d": {"v": 8, "heartbeat_interval": 13_750}}
READY = {"op": 2, "d": {"ssrc": SSRC, "ip": "127.0.0.1", "port": 9, "modes": list(MODES), "experiments": []}}
DESCRIBED = {
    "op": 4,
    "d": {
        "mode": MODE_GCM,
        "secret_key": list(KEY),
        "audio_codec": "opus",
        "video_codec": "H264",
        "media_session_id": "0" * 32,
        "dave_protocol_version": 1,
    },
}
FRAMES: list[dict[str, Any]] = [
    HELLO,
    READY,
    {"op": 3, "d": None},
    DESCRIBED,
    {"op": 5, "d": {"user_id": "800000000000000001", "ssrc": SSRC, "speaking": 1}, "seq": 1},
    {"op": 6, "d": {"t": 50_000}},
    {"op": 9, "d": None},
    {"op": 11, "d": {"user_ids": ["800000000000000001", "2"]}, "seq": 2},
    {"op": 12, "d": {"video_ssrc": 1}, "seq": 3},
    {"op": 13, "d": {"user_id": "2"}, "seq": 4},
    {"op": 21, "d": {"protocol_version": 1, "transition_id": 7}, "seq": 5},
    {"op": 22, "d": {"transition_id": 7}, "seq": 6},
    {"op": 24, "d": {"protocol_version": 1, "epoch": 1}, "seq": 65_535},
]
BINARY = [struct.pack(">HB", 7, op) + body for op in range(24, 32) for body in (b"", b"\0\1", bytes(range(80)))]
ADDRESSES = [b"rotterdam1.discord.media:443", b"a-b.c.discord.media", b"[::1]:80", b"evil.example/#.discord.media"]


def gateway_in(state: int) -> VoiceGateway:
    """A gateway that has got a certain way, from nothing to resuming."""
    gateway = VoiceGateway(CRED, Timing(), max_dave_version=1)
    steps = (
        lambda: gateway.start(50.0),
        lambda: gateway.opened(50.0),
        lambda: gateway.text(json.dumps(HELLO), 50.0),
        lambda: gateway.text(json.dumps(READY), 50.0),
        lambda: gateway.select("127.0.0.1", 9, 50.0),
        lambda: gateway.text(json.dumps(DESCRIBED), 50.0),
        lambda: gateway.handle_timer(55.0),
        lambda: gateway.closed(4015, 55.0),
        lambda: gateway.opened(55.0),
        lambda: gateway.text(json.dumps(HELLO), 55.0),
    )
    for step in steps[: state % (len(steps) + 1)]:
        step()
    return gateway


def check_gateway(gateway: VoiceGateway, taken: int) -> None:
    """What holds after any message: a state, a timer that is a number, frames that are sent, all bounded."""
    assert isinstance(gateway.state, GatewayState)
    assert (gateway.end is not None) == (gateway.state is GatewayState.ENDED)
    due = gateway.get_timer()
    assert due is None or due == due
    assert len(gateway.out) <= taken + 5
    for frame in gateway.out:
        if isinstance(frame, str):
            assert len(frame) < 2000, "what is sent does not grow with what was received"
            assert set(json.loads(frame)) == {"op", "d"}
    assert -1 <= gateway.seq_ack < 1 << 32


def run_json(data: bytes) -> None:
    """How far the gateway is, then one text frame; then the timers."""
    gateway = gateway_in(data[0] if data else 0)
    text = data[1:].decode("utf-8", "replace")
    parsed = messages.parse_text(text)
    assert isinstance(parsed, str) or (len(parsed) == 3 and type(parsed[0]) is int)
    gateway.text(text, 56.0)
    gateway.text(text, 56.1)
    check_gateway(gateway, 3)
    for _ in range(5):
        due = gateway.get_timer()
        if due is None:
            break
        gateway.handle_timer(due)
    check_gateway(gateway, 13)


def make_json(dice: random.Random) -> bytes:
    return bytes([dice.randrange(11)]) + mutate_json(dice, FRAMES)


def run_binary(data: bytes) -> None:
    """How far the gateway is, then one binary frame."""
    gateway = gateway_in(data[0] if data else 0)
    frame = data[1:]
    parsed = messages.parse_binary(frame)
    assert isinstance(parsed, str) or parsed[2] == frame[3:]
    for event in gateway.binary(frame, 56.0):
        assert event is not None
    check_gateway(gateway, 3)


class Owner:
    """`roost.audio.LinkEvents`: counts."""

    def __init__(self) -> None:
        self.frames = 0
        self.members: set[int] = set()

    def wants(self, user_id: int) -> bool:
        return True

    def frame(self, frame: AudioFrame) -> None:
        assert frame.opus
        self.frames += 1

    def member_joined(self, user_id: int) -> None:
        assert user_id not in self.members
        self.members.add(user_id)

    def member_left(self, user_id: int) -> None:
        self.members.remove(user_id)

    def speaking(self, user_id: int, on: bool) -> None:
        assert 0 < user_id < 1 << 64

    def dave(self, version: int, epoch: int, state: str) -> None:
        assert state in ("none", "pending", "active", "recovering")

    def state(self, name: str) -> None:
        assert name


def run_link(data: bytes) -> None:
    """Steps for a whole link: frames, datagrams, sockets that come and go, time; nothing raises, all stays bounded."""
    script = Script(data)
    owner = Owner()
    link = LinkProtocol(
        CRED, owner, Timing(), allow_unencrypted=bool(script.number() & 1), allowed_hosts=("localhost",)
    )
    now = 50.0
    link.start(now)
    link.socket_wanted = None
    link.ws_opened(now)
    if script.number() & 3:
        for frame in (HELLO, READY):
            link.ws_frame(json.dumps(frame), now)
        link.udp_opened(now)
        link.datagram(bytes.fromhex("0002 0046 000003e9") + b"192.0.2.1".ljust(64, b"\0") + b"\x13\x88", now)
        link.ws_frame(json.dumps(DESCRIBED), now)
    while script:
        step = script.number() % 9
        if step <= 1:
            frame = json.loads(json.dumps(script.pick(FRAMES)))
            if step and isinstance(frame["d"], dict):
                frame["d"][script.pick(sorted(frame["d"]))] = script.pick((None, -1, 1, 2**70, "1", "x", [], [1], {}))
            frame["seq"] = script.number()
            link.ws_frame(json.dumps(frame), now)
        elif step == 2:
            link.ws_frame(script.take(script.number()).decode("latin-1"), now)
        elif step == 3:
            link.ws_frame(
                struct.pack(">HB", script.number(), 25 + script.number() % 6) + script.take(script.number()), now
            )
        elif step == 4:
            packet = bytearray(script.pick(SENT))
            packet[script.number() % len(packet)] ^= script.number()
            link.datagram(bytes(packet), now)
        elif step == 5:
            link.datagram(script.take(script.number()), now)
        elif step == 6:
            now += script.number(2) / 2000
            link.handle_timer(now)
        elif step == 7:
            link.ws_closed(script.pick((None, 1000, 1006, 4006, 4014, 4015, 4017, 4999, 0)), now)
        elif link.socket_wanted is not None:
            link.socket_wanted = None
            link.ws_opened(now)
        link.send_opus(b"\x78abc", now)
        assert len(link.take_frames()) < 1100
        assert len(link.datagrams) < 1000
        link.datagrams.clear()
        assert len(owner.members) <= MAX_MEMBERS
    stats = link.stats()
    assert stats.packets_in == stats.frames_out + sum(stats.dropped.values())
    assert stats.frames_out == owner.frames
    assert len(stats.violations) < 100
    link.close(now)
    assert link.end is not None
    assert link.get_timer() is None


SENT = [*PACKETS, *REPLIES, *REPORTS, bytes(8), b"\1" + bytes(7)]


def run_address(data: bytes) -> None:
    """`check_address`: an allowed host with its port, or `VoiceError`."""
    try:
        address = check_address(data.decode("utf-8", "replace"), ALLOWED_HOSTS)
    except VoiceError:
        return
    host = address.split(":", 1)[0]
    assert host.endswith(".discord.media")
    assert not set(host) & set("/#?@\\ \n")


def run_close_code(data: bytes) -> None:
    """`policy`: words for every code."""
    code = int.from_bytes(data[:2], "big") if data else None
    assert policy(code).reason
    assert policy(code).end(code).reason


JSON = [bytes([state]) + json.dumps(frame).encode() for state in range(11) for frame in FRAMES]
TARGETS = (
    Target("gateway_json", JSON, run_json, make_json),
    Target("gateway_binary", [bytes([6]) + frame for frame in BINARY], run_binary),
    Target("link", [bytes(40), bytes([0, 1, *range(60)])], run_link, lambda dice: dice.randbytes(dice.randrange(600))),
    Target("address", ADDRESSES, run_address),
    Target("close_code", [struct.pack(">H", code) for code in (1000, 4006, 65_535)], run_close_code),
)
