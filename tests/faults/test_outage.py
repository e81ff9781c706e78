"""The network is down: row 56, and what a network that loses a third of everything does to joins."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from context import Rig, eventually, running
from fault_report import FULL, Fault
from voice_scene import company, connections, hears, live_again

from roost.audio import JoinRequest, Timing
from roost.sim.server import SimulatedDiscord
from roost.sim.world import Guild, SimSettings
from roost.testing.leftovers import leak_check
from roost.testing.relay import Shares, TcpRelay, UdpRelay, Weather
from roost_voice.moves import Told
from roost_voice.protocol.aead import make_opener
from roost_voice.protocol.dave import DaveGroup
from roost_voice.protocol.jitter import MAX_HELD
from roost_voice.protocol.receive import Receiver
from roost_voice.sessions import JoinResult
from roost_voice.sim import rtp
from roost_voice.sim.part import SimulatedVoice
from roost_voice.sim.settings import VoiceSettings

pytestmark = [pytest.mark.sim, pytest.mark.long]

REAL = Timing()
BAD = Shares(loss=0.3, reorder=0.1, duplicate=0.05, jitter_s=0.02)
GROWTH = 8
"""Descriptors that tries to connect may hold at a time, those of the simulator included."""


class Network:
    """Everything between a bot and Discord."""

    def __init__(self, main: TcpRelay, voice: TcpRelay, media: UdpRelay) -> None:
        self.main, self.voice, self.media = main, voice, media

    async def down(self, how: str) -> None:
        self.media.off = True
        for each in (self.main, self.voice):
            if how == "silent":
                each.silence()
            else:
                await each.refuse()

    def descriptors(self) -> int:
        """Of this process, without those that stand for the network itself."""
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - self.main.held - self.voice.held

    async def up(self) -> None:
        self.media.off = False
        for each in (self.main, self.voice):
            await each.restore()


@contextlib.asynccontextmanager
async def network(sim: SimulatedDiscord) -> AsyncIterator[Network]:
    part = sim.part
    assert isinstance(part, SimulatedVoice)
    async with TcpRelay(sim.port) as main, TcpRelay(part.gateway_port) as voice, UdpRelay(part.udp_address) as media:
        sim.lead_through(main.port)
        part.lead_through(udp=media.address, gateway_port=voice.port)
        yield Network(main, voice, media)


OUTAGES = (
    [(60.0, "silent", 1.0), (60.0, "refused", 1.0), (600.0, "silent", 1.0), (600.0, "refused", 1.0)]
    if FULL
    else [(60.0, "silent", 0.05), (60.0, "refused", 0.05), (150.0, "refused", 0.03)]
)
"""Seconds, how connections fail, and the scale; after 120 s the session of the main gateway is over as well."""


@pytest.mark.fault(56)
@pytest.mark.parametrize(("outage_s", "how", "scale"), OUTAGES)
async def test_the_network_is_down(tmp_path: Path, fault: Fault, outage_s: float, how: str, scale: float) -> None:
    settings = SimSettings(guilds=1, heartbeat_ms=round(41_250 * scale), ghost_timeout_s=120 * scale)
    part = SimulatedVoice(VoiceSettings(resume_window_s=30 * scale))
    async with (
        leak_check(),
        SimulatedDiscord(settings, part=part) as sim,
        network(sim) as net,
        running(sim, tmp_path, timing_scale=scale) as rig,
    ):
        sink = await company(rig, 0)
        result = await rig.join(0)
        await hears(rig, sink)
        before = peak = net.descriptors()
        await net.down(how)
        end = asyncio.get_running_loop().time() + outage_s * scale
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
            peak = max(peak, net.descriptors())
        with fault.clock(scaled=False):
            await net.up()
            await live_again(rig, 2)
        if scale >= 0.05:  # at less, the encryption's own deadlines are shorter than its work
            await hears(rig, sink)
        assert peak <= before + GROWTH
        assert result.session is rig.manager.session(rig.guild_id)
        assert rig.place == rig.channels[0]
        await eventually(lambda: connections(rig) == 1)
        await rig.leave()
        await rig.at_rest()
        assert rig.most == 1


JOINS = 50
"""A minute's op 4s are enough for so many joins and leaves."""
ABREAST = 5


@pytest.mark.fault(59)
async def test_joins_over_a_bad_network(tmp_path: Path, fault: Fault) -> None:
    """The scale is such that discovery is tried as often as in real time."""
    failed = []
    for run in (1, 2):
        part = SimulatedVoice(VoiceSettings())
        folder = tmp_path / str(run)
        folder.mkdir()
        async with (
            leak_check(),
            SimulatedDiscord(SimSettings(guilds=JOINS, members=JOINS), part=part) as sim,
            UdpRelay(part.udp_address, Shares(loss=0.3, reorder=0.1), seed=run) as relay,
            running(sim, folder, timing_scale=1.0 if FULL else 0.2) as rig,
        ):
            part.lead_through(udp=relay.address)
            results = []
            guilds = list(sim.world.guilds.values())
            for at in range(0, JOINS, ABREAST):
                with fault.clock(2 * REAL.discovery_s, scaled=False):
                    results += await asyncio.gather(*(join(rig, guild) for guild in guilds[at : at + ABREAST]))
            failed += [result for result in results if result.told is not Told.JOINED]
            assert relay.counts["lost"] > 0.1 * relay.counts["in"]
            await asyncio.gather(*(rig.manager.leave(guild, "the test is over") for guild in sim.world.guilds))
            assert rig.most == 1
    assert len(failed) <= 2 * JOINS // 100, failed


async def join(rig: Rig, guild: Guild) -> JoinResult:
    channel, text = guild.of_type(2)[0].id, guild.of_type(0)[0].id
    # One member alone would have a share of the op 4s.
    members = [each.user.id for each in guild.members.values() if not each.user.bot]
    member = members[list(rig.sim.world.guilds).index(guild.id)]
    return await rig.manager.join(JoinRequest(guild.id, channel, member, text))


def sound(sequence: int, ssrc: int, cipher: rtp.Cipher, clock: int) -> bytes:
    return rtp.seal(rtp.Packet(ssrc, sequence % 65536, clock % 2**32, bytes(60)), cipher)


@pytest.mark.fault(59)
def test_minutes_of_a_bad_network(fault: Fault) -> None:
    """Three speakers in virtual time, packet for packet; what is lost is spread as the seed says."""
    minutes = 10 if FULL else 2
    waits: list[float] = []
    at = 0.0
    timing, key = Timing(), bytes(range(32))
    group = DaveGroup(1, 2, timing, allow_unencrypted=True)
    group.describe(0)
    receiver = Receiver(7, group, lambda frame: waits.append(at - frame.rtp_timestamp / 48_000), timing)
    receiver.set_opener(make_opener(rtp.AES256_GCM, key))
    cipher, weather = rtp.Cipher(rtp.AES256_GCM, key), Weather(dataclasses.replace(BAD, loss=0.3), seed=59)
    speakers = {100 + each: 1000 + each for each in range(3)}
    for ssrc, user in speakers.items():
        receiver.learn(ssrc, user, 0.0)
    under_way: list[tuple[float, int, bytes]] = []
    arrived, held, warm, worst = 0, 0, 0, 0.0
    tracemalloc.start()
    for tick in range(minutes * 60 * 50):
        now = tick * 0.02
        for ssrc in speakers:
            data = sound(tick, ssrc, cipher, tick * 960)
            for delay_s in weather.fate():
                heapq.heappush(under_way, (now + delay_s, tick, data))
        while under_way and under_way[0][0] <= now:
            arrival, _, data = heapq.heappop(under_way)
            while receiver.due is not None and receiver.due <= arrival:
                at = receiver.due
                receiver.handle_timer(at)
            at = arrival
            receiver.datagram(data, at)
            arrived += 1
        if tick % 50 == 0:
            worst, waits = max([worst, *waits]), []
            now_held = tracemalloc.get_traced_memory()[0]
            held = max(held, now_held) if tick > 50 * 30 else held
            warm = now_held if tick == 50 * 30 else warm
    tracemalloc.stop()
    while receiver.due is not None and receiver.due < minutes * 60 + 1.0:
        receiver.handle_timer(receiver.due)
    assert receiver.packets_in == arrived
    assert receiver.packets_in == receiver.frames_out + sum(receiver.dropped.values())
    assert receiver.frames_out > 0.65 * minutes * 60 * 50 * len(speakers)
    assert set(receiver.dropped) <= {"replayed", "late", "duplicate"}
    assert held - warm < 100_000, "it grows"
    # Gaps are waited for one after the other, so what bounds the wait is how many packets may be held.
    fault.note(worst, MAX_HELD * 0.02 + BAD.jitter_s + BAD.reorder_s, virtual=True)
