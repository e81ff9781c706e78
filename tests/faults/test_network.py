"""The machine and the network: rows 55 to 59."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from context import Rig, SinkRecorder, eventually, running
from fault_report import HANDSHAKES, SCALE, TELLS, Fault
from voice_log import arm, words
from voice_scene import company, ends, hears, order

from roost.audio import Timing
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost.testing.leftovers import leak_check
from roost.testing.relay import Shares, UdpRelay
from roost_voice.moves import State, Told
from roost_voice.sim.part import SimulatedVoice
from roost_voice.sim.settings import VoiceSettings

pytestmark = pytest.mark.sim

T = TypeVar("T")
REAL = Timing()
BAD = Shares(loss=0.3, reorder=0.1, duplicate=0.05, jitter_s=0.02)


def part_of(sim: SimulatedDiscord) -> SimulatedVoice:
    assert isinstance(sim.part, SimulatedVoice)
    return sim.part


@pytest.fixture
def voice() -> VoiceSettings:
    """What the voice servers are like; a test that wants others overrides this."""
    return VoiceSettings()


@pytest.fixture
async def sim(settings: SimSettings, voice: VoiceSettings) -> AsyncIterator[SimulatedDiscord]:
    async with SimulatedDiscord(settings, part=SimulatedVoice(voice)) as made:
        yield made


@pytest.fixture
async def relay(rig: Rig) -> AsyncIterator[UdpRelay]:
    """Between the bot's UDP sockets and the voice server."""
    part = part_of(rig.sim)
    async with UdpRelay(part.udp_address, seed=59) as made:
        part.lead_through(udp=made.address)
        yield made


async def speak(rig: Rig, member: int = 0, repeat: int = 100) -> None:
    part, name = part_of(rig.sim), part_of(rig.sim).recordings()[0]["name"]
    await part.speak(rig.guild_id, rig.members[member], wav=None, recording=name, params={"repeat": repeat})


@contextlib.asynccontextmanager
async def speaking(rig: Rig, member: int = 0) -> AsyncIterator[None]:
    """A member speaks all the while."""
    task = asyncio.create_task(speak(rig, member))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class ElsewhereSim:
    """A simulated Discord on a thread of its own: it goes on while the bot's event loop stands still."""

    def __init__(self, settings: SimSettings, part: SimulatedVoice) -> None:
        self.sim = SimulatedDiscord(settings, part=part)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulated discord")

    def start(self) -> None:
        self._thread.start()
        self.do(self.sim.__aenter__()).result(10)

    def stop(self) -> None:
        self.do(self.sim.__aexit__(None, None, None)).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def do(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something where the simulator runs."""
        return asyncio.run_coroutine_threadsafe(coro, self._loop)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> Iterator[ElsewhereSim]:
    voice = VoiceSettings(heartbeat_interval_s=13.75 * SCALE)
    made = ElsewhereSim(SimSettings(guilds=1, heartbeat_ms=round(41_250 * SCALE)), SimulatedVoice(voice))
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.fault(55)
@pytest.mark.parametrize("stall_s", [5.0, 15.0])
@pytest.mark.parametrize("meanwhile", ["nothing else", "the voice server gives up", "the gateway breaks"])
async def test_the_event_loop_stands_still(
    elsewhere: ElsewhereSim, tmp_path: Path, fault: Fault, stall_s: float, meanwhile: str
) -> None:
    sim = elsewhere.sim
    async with leak_check(), running(sim, tmp_path) as rig:
        member, channel = rig.members[0], rig.guild.channels[rig.channels[0]]
        await asyncio.wrap_future(elsewhere.do(sim.voice.member(rig.guild, member, channel)))
        await rig.ctx.consent.agree(rig.guild_id, member)
        sink = rig.recorder.sink = SinkRecorder()
        result = await rig.join(0)
        name = part_of(sim).recordings()[0]["name"]
        speaking = elsewhere.do(sim.part.speak(rig.guild_id, member, wav=None, recording=name, params={"repeat": 20}))
        await sink.until(5)
        if meanwhile == "the voice server gives up":
            arm(rig, "close", code=4009, resumable=True)
        elif meanwhile == "the gateway breaks":
            sim.faults.arm("gateway_abort", None, {}, 1)
            elsewhere.do(_strike(sim))
        time.sleep(stall_s * SCALE)
        heard = len(sink.frames)
        with fault.clock():
            await sink.until(heard + int(stall_s * SCALE / 0.02) + 25)
        with fault.clock(scaled=False):  # hikari's pauses are its own
            await eventually(lambda: sim.gateway.connections != set() and rig.ctx.bot.shards[0].is_connected)
        assert rig.manager.state(rig.guild_id) is State.LIVE
        assert result.session is rig.manager.session(rig.guild_id)
        assert order(rig).count("identify") == 1
        assert rig.op4() == [str(rig.channels[0])]
        assert rig.most == 1
        elsewhere.do(part_of(sim).member_leave(rig.guild_id, member))
        await eventually(speaking.done)


async def _strike(sim: SimulatedDiscord) -> None:
    sim.gateway.strike()


@pytest.mark.fault(57)
async def test_no_echo_comes_any_more(rig: Rig, relay: UdpRelay, fault: Fault) -> None:
    sink = await company(rig, 0)
    result = await rig.join(0)
    await eventually(lambda: relay.counts["out"] >= 2)
    with fault.clock():
        relay.deaf = True
        await rig.recorder.until("interrupted")
        relay.deaf = False
        await rig.recorder.until("restored")
    assert result.session is rig.manager.session(rig.guild_id)
    await hears(rig, sink)


@pytest.mark.fault(57)
@pytest.mark.parametrize("voice", [VoiceSettings(keepalive_echo=False), VoiceSettings()], ids=["mute", "echoes"])
@pytest.mark.parametrize("how", ["blackhole", "rebind"])
async def test_nobody_is_heard_though_somebody_speaks(rig: Rig, relay: UdpRelay, fault: Fault, how: str) -> None:
    """A router that forgot us lets the echoes through, for they go to where the question came from; speech it does
    not."""
    sink = await company(rig, 0)
    result = await rig.join(0)
    await hears(rig, sink)
    await asyncio.sleep(0.1)
    heard = len(sink.frames)
    if how == "blackhole":
        relay.deaf = True
    else:
        await relay.rebind()
    async with speaking(rig):
        with fault.clock():
            await rig.recorder.until("interrupted")
            relay.deaf = False
            await rig.recorder.until("restored")
            await eventually(lambda: len(sink.frames) > heard + 10)
    assert result.session is rig.manager.session(rig.guild_id)
    assert [each["code"] for each in ends(rig)] == [1000]


@pytest.mark.fault(57)
@pytest.mark.parametrize("voice", [VoiceSettings(keepalive_echo=False)], ids=["mute"])
async def test_silence_alone_is_no_fault(rig: Rig, relay: UdpRelay, fault: Fault) -> None:
    sink = await company(rig, 0)
    result = await rig.join(0)
    relay.deaf = True
    await asyncio.sleep((REAL.deaf_after_s + 2 * REAL.discovery_s + REAL.keepalive_s) * SCALE)
    assert rig.manager.state(rig.guild_id) is State.LIVE
    relay.deaf = False
    with fault.clock(1):
        await hears(rig, sink)
    assert result.session is not None
    assert result.session.generation == 1
    assert order(rig) == ["identify"]


@pytest.mark.fault(58)
async def test_the_system_refuses_datagrams(rig: Rig, relay: UdpRelay, fault: Fault) -> None:
    """Nobody listens any more where the bot sends: each datagram is answered with ICMP, port unreachable."""
    sink = await company(rig, 0)
    result = await rig.join(0)
    assert result.session is not None
    session = result.session
    await hears(rig, sink)
    await relay.close_port()
    for _ in range(5):
        session.send_opus(SILENCE)
        await asyncio.sleep(0.03)
    if TELLS:
        await eventually(lambda: session.stats().link.udp_errors >= 3)
    assert rig.manager.state(rig.guild_id) is State.LIVE
    with fault.clock():
        await relay.open_port()
        await hears(rig, sink)
    assert session.generation == 1
    assert order(rig) == ["identify"]


SILENCE = b"\xf8\xff\xfe"
REFUSED = {"255.255.255.255": errno.EACCES, "fe80::1": errno.EINVAL}
"""Addresses that no system sends to as we ask; ENETUNREACH would need a machine without a route."""


@pytest.mark.fault(58)
@pytest.mark.parametrize("ip", REFUSED)
async def test_the_system_refuses_the_socket(sim: SimulatedDiscord, tmp_path: Path, fault: Fault, ip: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        assert probe.connect_ex((ip, 9)) == REFUSED[ip]
    # Neither is public, so they have to be allowed for the system to be asked at all.
    async with leak_check(), running(sim, tmp_path, allowed_hosts=("localhost", ip)) as rig:
        part_of(rig.sim).lead_through(udp=(ip, 9))
        with fault.clock(1):
            result = await rig.join(0)
            await rig.at_rest()
        assert result.told is Told.FAILED
        assert "refused a UDP socket" in words(rig, result)
        assert rig.op4() == [str(rig.channels[0]), None]
        part_of(rig.sim).lead_through()
        assert (await rig.join(0)).told is Told.JOINED


@pytest.mark.fault(58)
async def test_nobody_listens_where_the_bot_is_to_send(rig: Rig, relay: UdpRelay, fault: Fault) -> None:
    await relay.close_port()
    with fault.clock(REAL.discovery_s):
        result = await rig.join(0)
        await rig.at_rest()
    assert "is outgoing UDP blocked?" in words(rig, result)
    assert rig.op4() == [str(rig.channels[0]), None]


@pytest.mark.fault(59)
@pytest.mark.parametrize("loss", [0.05, 0.3])
async def test_a_bad_network(
    rig: Rig, relay: UdpRelay, fault: Fault, loss: float, caplog: pytest.LogCaptureFixture
) -> None:
    relay.weather(dataclasses.replace(BAD, loss=loss))
    sink = await company(rig, 0)
    await company(rig, 0, member=1)
    with fault.clock(REAL.discovery_s):
        result = await rig.join(0)
    assert result.session is not None
    async with speaking(rig, 0), speaking(rig, 1):
        await sink.until(10)
        with fault.clock():
            await sink.until(len(sink.frames) + 5)
        await asyncio.sleep(1.5)
    await asyncio.sleep(0.2)
    stats = result.session.stats()
    link = stats.link
    assert link.packets_in == link.frames_out + sum(link.dropped.values())
    assert {frame.user_id for frame in sink.frames} == set(rig.members[:2])
    expected = relay.counts["out"]
    assert relay.counts["lost"] > 0.2 * loss * expected
    assert link.lost > 0
    assert link.frames_out > 0.5 * (1 - loss) * expected
    for user in rig.members[:2]:
        stamps = [frame.rtp_timestamp for frame in sink.frames if frame.user_id == user]
        assert len(set(stamps)) == len(stamps), "a packet that came twice was heard twice"
    assert stats.generation == 1
    if HANDSHAKES == 1:
        assert order(rig) == ["identify"]
    else:
        assert "resume" not in order(rig)
        assert 1 <= order(rig).count("identify") <= HANDSHAKES
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
