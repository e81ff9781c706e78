"""Rows 110 to 115: what members' own clients and voice servers may send, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from context import Rig, SinkRecorder, eventually
from fault_report import SCALE, TELLS, Fault
from voice_scene import company, encrypted

from roost.audio import SAMPLE_RATE_HZ, SILENCE_FRAME, Timing
from roost_voice.moves import State, Told
from roost_voice.session import Session

pytestmark = pytest.mark.sim

INVALID = {
    "empty": b"",
    "a frame that is too long": b"\x78" + bytes(1290),
    "no frames": b"\x7b\x00" + bytes(20),
    "more than 120 ms": b"\x7b\x07" + bytes(70),
    "frames of unequal size": b"\x79" + bytes(7),
    "a length beyond the end": b"\x7a\x40" + bytes(9),
    "padding beyond the end": b"\x7b\x41\xff\xff",
}
"""Payloads that are well encrypted and no Opus."""


async def in_call(rig: Rig) -> tuple[Session, SinkRecorder]:
    """The bot with a member who agreed, encrypted end to end."""
    sink = await company(rig, 0)
    result = await rig.join(0)
    assert result.told is Told.JOINED, result.reason
    session = result.session
    assert session is not None
    await eventually(lambda: session.capture_state == "on" and encrypted(rig, session))
    return session, sink


async def speak(rig: Rig, **params: Any) -> dict[str, Any]:
    """Have the member say a recording, to its end."""
    assert rig.sim.part is not None
    return await rig.sim.part.speak(rig.guild_id, rig.members[0], wav=None, recording="lv_0880", params=params)


@contextlib.asynccontextmanager
async def speaking(rig: Rig, **params: Any) -> AsyncIterator[None]:
    """The member speaks on and on."""
    task = asyncio.create_task(speak(rig, repeat=50, **params))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def strike(rig: Rig, name: str, **params: Any) -> None:
    """Arm a fault of the voice server and wait until it has happened."""
    rig.sim.faults.arm(name, rig.guild_id, params, 1)
    await eventually(lambda: not rig.sim.faults.armed())


def heartbeats(rig: Rig) -> int:
    """How many the voice server got of the bot."""
    assert rig.sim.part is not None
    sessions = rig.sim.part.state()["voice_sessions"]
    return sum(each["heartbeats"] for each in sessions if each["user_id"] == str(rig.bot_id))


def balanced(session: Session) -> bool:
    link = session.stats().link
    return link.packets_in == link.frames_out + sum(link.dropped.values())


@pytest.mark.fault(110)
async def test_packets_that_are_no_opus_are_dropped_before_any_sink(rig: Rig, fault: Fault) -> None:
    session, sink = await in_call(rig)
    bad = list(INVALID.values())
    told = await speak(rig, insert=[packet.hex() for packet in bad])
    good = told["frames"] - len(bad)
    with fault.clock(scaled=False):
        await eventually(lambda: session.stats().link.dropped.get("opus") == len(bad))
        await eventually(lambda: sum(frame.opus != SILENCE_FRAME for frame in sink.frames) == good)
    assert not {frame.opus for frame in sink.frames} & set(bad)
    assert all(frame.samples == 960 for frame in sink.frames)
    assert max(frame.lost_before for frame in sink.frames) == len(bad)
    assert session.stats().link.lost == len(bad)
    assert balanced(session)
    assert rig.manager.state(rig.guild_id) is State.LIVE


@pytest.mark.fault(111)
@pytest.mark.parametrize("packet_ms", [2.5, 40, 60, 120])
async def test_packets_of_every_length_arrive_whole(rig: Rig, fault: Fault, packet_ms: float) -> None:
    session, sink = await in_call(rig)
    with fault.clock(6.0, scaled=False):  # the recording lasts 5 s
        told = await speak(rig, packet_ms=packet_ms)
        await eventually(lambda: len(sink.frames) == told["frames"] + 5)
    speech = [frame for frame in sink.frames if frame.opus != SILENCE_FRAME]
    assert {frame.samples for frame in speech} == {packet_ms * SAMPLE_RATE_HZ / 1000}
    steps = [after.rtp_timestamp - frame.rtp_timestamp for frame, after in itertools.pairwise(speech)]
    assert set(steps) == {speech[0].samples}
    assert {frame.lost_before for frame in sink.frames} == {0}
    assert session.stats().link.lost == 0


@pytest.mark.fault(111)
async def test_the_voice_test_tells_how_long_somebody_spoke(rig: Rig, fault: Fault) -> None:
    await in_call(rig)
    async with speaking(rig, packet_ms=120):
        with fault.clock(4.0, scaled=False):  # listening is one second of it, measuring the rest
            hearing = await rig.manager.test(rig.guild_id, 1.0)
    heard = hearing.heard[rig.members[0]]
    assert heard is not None
    assert 0.8 < heard.seconds < 1.3
    assert heard.frames < 12
    assert heard.lost == 0
    assert f"{heard.seconds:.1f} s of speech" in hearing.words(0)
    assert heard.level is not None
    assert heard.level.damaged == 0


@pytest.mark.fault(112)
@pytest.mark.parametrize("packet_ms", [20, 60])
@pytest.mark.parametrize("by", [-1400, -50, 30, 1400, -20_000])
async def test_a_speaker_whose_numbers_jump_is_heard_after_a_few_packets(
    rig: Rig, fault: Fault, by: int, packet_ms: int
) -> None:
    session, sink = await in_call(rig)
    async with speaking(rig, packet_ms=packet_ms):
        # Numbers up here, so that a jump back does not wrap into what looks like a jump forward.
        await strike(rig, "renumber", by=30_000, user_id=rig.members[0])
        await sink.until(60 // (packet_ms // 20))
        with fault.clock(scaled=False):
            before = len(sink.frames)
            await strike(rig, "renumber", by=by, user_id=rig.members[0])
            await sink.until(before + 20 // (packet_ms // 20))
    link = session.stats().link
    # At most three packets are dropped, and every one of them is counted.
    assert sum(link.dropped.values()) == link.lost == sum(frame.lost_before for frame in sink.frames) <= 3
    assert balanced(session) or not TELLS


@pytest.mark.fault(113)
async def test_a_member_is_heard_on_when_another_client_of_theirs_leaves(rig: Rig, fault: Fault) -> None:
    session, sink = await in_call(rig)
    async with speaking(rig):
        await sink.until(20)
        with fault.clock(scaled=False):
            await strike(rig, "second_client", member=rig.members[0])
            await sink.until(len(sink.frames) + 5)
        await sink.until(len(sink.frames) + 50)
    speech = [frame for frame in sink.frames if frame.opus != SILENCE_FRAME]
    assert len({frame.ssrc for frame in speech}) == 1
    steps = {after.rtp_timestamp - frame.rtp_timestamp for frame, after in itertools.pairwise(speech)}
    assert steps == {960}, "not one packet is missing"
    assert session.stats().link.dropped == {}


@pytest.mark.fault(114)
async def test_a_heartbeat_every_millisecond_is_not_sent(rig: Rig, fault: Fault) -> None:
    rig.sim.faults.arm("odd_hello", rig.guild_id, {"interval": 1}, 1)
    with fault.clock(scaled=False):
        _session, sink = await in_call(rig)
    async with speaking(rig):
        await sink.until(20)
        before, began_s = heartbeats(rig), time.monotonic()
        await sink.until(len(sink.frames) + 50)
        most = 2 + (time.monotonic() - began_s) / (Timing().heartbeat_min_s * SCALE)
    assert heartbeats(rig) - before <= most
    assert not rig.sim.faults.armed()


@pytest.mark.fault(114)
@pytest.mark.parametrize("interval", [0, -41_250, 1e12, "41250", None, [1]])
async def test_a_heartbeat_that_makes_no_sense_ends_the_handshake(rig: Rig, fault: Fault, interval: object) -> None:
    rig.sim.faults.arm("odd_hello", rig.guild_id, {"interval": interval}, 5)
    with fault.clock(16.0):  # a deadline for each try
        result = await rig.join(0)
    assert result.told is Told.FAILED
    assert rig.place is None


@pytest.mark.fault(115)
@pytest.mark.parametrize(
    ("ip", "port"),
    [
        ("169.254.169.254", 80),
        ("127.0.0.2", 9),
        ("10.0.0.1", 9),
        ("224.0.0.251", 5353),
        ("::ffff:169.254.169.254", 80),
        ("fe80::1", 9),
    ],
)
async def test_media_goes_to_no_address_that_is_not_public(rig: Rig, fault: Fault, ip: str, port: int) -> None:
    rig.sim.faults.arm("odd_ready", rig.guild_id, {"ip": ip, "port": port}, 5)
    with fault.clock():
        result = await rig.join(0)
    assert result.told is Told.FAILED
    assert "no public address" in result.reason
    assert rig.place is None
    assert [each.name for each in rig.sim.faults.armed()] == ["odd_ready"], "tried once"
