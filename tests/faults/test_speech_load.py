"""Speech-to-text under too much: rows 85 and 86."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fault_engine
import psutil
import pytest
from context import Rig, SinkRecorder, eventually
from fault_report import FULL, SCALE, Fault
from stt_house import GUILD, House, houses
from stt_rig import Build, packets_of, scripted, workers
from test_speech import Make, fault_engine_importable, transcribing, until  # noqa: F401  the fixture among them

from roost.audio import SILENCE_FRAME, AudioFrame
from roost_stt.kept import KEPT_FRAMES
from roost_stt.supervision import WorkerTiming
from roost_stt.worker.backlog import MAX_SECONDS
from roost_stt.worker.speakers import MAX_SPEAKERS
from roost_voice.protocol.jitter import SequenceTracker
from roost_voice.protocol.receive import MAX_SOURCES, Source

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CROWD = range(101, 126)
MIB = 1 << 20


@pytest.fixture
async def work() -> AsyncIterator[Build]:
    async with workers() as build:
        yield build


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with houses() as build:
        yield build


class Gauge:
    """The most that was seen of a few figures."""

    def __init__(self, house: House) -> None:
        self.house = house
        worker = house.plugin._worker
        assert worker is not None
        self.worker = worker
        self.me = psutil.Process()
        assert worker.pid is not None
        self.child = psutil.Process(worker.pid)
        self.lag_s = self.waiting_s = 0.0
        self.kept = 0
        self.grown = [self.sizes(), self.sizes()]

    def sizes(self) -> tuple[int, int]:
        return self.me.memory_info().rss, self.child.memory_info().rss

    def look(self) -> None:
        stats = self.worker.stats()
        self.kept = max(self.kept, stats["kept_frames"])
        self.waiting_s = max(self.waiting_s, stats["worker"].get("waiting_s", 0.0))
        self.grown[1] = (max(self.grown[1][0], self.sizes()[0]), max(self.grown[1][1], self.sizes()[1]))

    async def watch_lag(self) -> None:
        """How late this loop wakes anybody, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            self.lag_s = max(self.lag_s, loop.time() - due)

    @property
    def decoded(self) -> int:
        return sum(self.worker.stats()["decoded"].values())

    @property
    def growth(self) -> tuple[int, int]:
        """Of this process and of the worker, in bytes."""
        (mine, theirs), (mine_now, theirs_now) = self.grown
        return mine_now - mine, theirs_now - theirs


async def flood(gauge: Gauge, rounds: int, speed: float) -> int:
    """Everybody says so many frames without a pause, faster than anyone can; gives how many that was in all."""
    speech = [packet for packet in packets_of("lv_0890") if packet != SILENCE_FRAME]
    loop = asyncio.get_running_loop()
    watch = asyncio.create_task(gauge.watch_lag())
    due = loop.time()
    for number in range(rounds):
        opus = speech[number % len(speech)]
        for user in CROWD:
            for sink in gauge.house.session.sinks:
                sink.write(AudioFrame(GUILD, user, user, number * 960, opus))
        if number % 20 == 0:
            gauge.look()
        due += 0.02 / speed
        await asyncio.sleep(max(0.0, due - loop.time()))
    watch.cancel()
    return rounds * len(CROWD)


@pytest.mark.fault(85)
async def test_a_crowd_and_a_slow_engine_drop_what_is_too_much_and_say_so_once(
    make: Make, fault: Fault, tmp_path: Path
) -> None:
    house = await transcribing(make, fault_engine.spec(tmp_path, delay_s=2.0))
    gauge = Gauge(house)
    written = await flood(gauge, 9000 if FULL else 900, 3.0)
    fault.note(gauge.lag_s)
    # Every frame became sound or was counted, and every loss of words too.
    await until(lambda: gauge.decoded + gauge.worker.stats()["frames_dropped"] == written)
    await until(lambda: gauge.worker.stats()["utterances_lost"] > 0)
    await house.close()
    assert gauge.kept <= len(CROWD) * KEPT_FRAMES
    assert gauge.waiting_s <= MAX_SECONDS
    assert max(gauge.growth) < 64 * MIB
    assert len([text for text in house.texts if "could not be turned into text" in text]) == 1
    assert len([text for text in house.texts if "**Roost**" in text]) == 1


@pytest.mark.fault(85)
async def test_a_crowd_and_a_worker_that_takes_nothing_stay_within_bounds(
    make: Make, fault: Fault, tmp_path: Path
) -> None:
    house = await transcribing(make, fault_engine.spec(tmp_path))
    gauge = Gauge(house)
    os.kill(gauge.child.pid, signal.SIGSTOP)
    written = await flood(gauge, KEPT_FRAMES + 200, 15.0)  # done before the watchdog acts
    fault.note(gauge.lag_s)
    stats = gauge.worker.stats()
    assert stats["starts"] == 1
    counted = stats["kept_frames"] + stats["frames_dropped"]
    assert counted <= written <= counted + stats["frames_sent"]
    assert stats["frames_dropped"] > 0
    assert gauge.kept <= len(CROWD) * KEPT_FRAMES
    assert gauge.growth[0] < 64 * MIB
    await until(lambda: gauge.worker.stats()["utterances"] > 0)  # the next process has it
    await house.close()
    assert len([text for text in house.texts if "could not be turned into text" in text]) == 1


# Row 86


@pytest.mark.fault(86)
@pytest.mark.parametrize(
    ("streams", "talking"), [(1000, False), (10_000, True)], ids=["then silence", "while one talks on"]
)
async def test_ten_thousand_streams_leave_no_decoder_in_the_worker(
    work: Build, fault: Fault, streams: int, talking: bool
) -> None:
    made = await work(scripted("x"), heartbeat_s=0.2, decoder_idle_s=WorkerTiming().decoder_idle_s * SCALE)
    assert made.worker.pid is not None
    worker, me = psutil.Process(made.worker.pid), psutil.Process()
    speech, sizes = packets_of("lv_0880"), list[tuple[int, int]]()

    def stats() -> dict[str, Any]:
        return dict(made.worker.stats()["worker"])

    for number in range(streams):
        for packet in speech[50:52]:
            made.worker.write(AudioFrame(1, 1000 + number, number, 960, packet))
        if number % 500 == 499:
            await until(lambda: made.worker.stats()["decoded"].get(1000 + number, 0) == 2)  # noqa: B023  at once
            assert stats()["speakers"] <= MAX_SPEAKERS
        if number % 1000 == 999:
            sizes.append((me.memory_info().rss, worker.memory_info().rss))
    assert made.worker.stats()["starts"] == 1
    assert max(sizes[-1][0] - sizes[0][0], sizes[-1][1] - sizes[0][1]) < 16 * MIB
    with fault.clock():
        number = 0
        while stats()["speakers"] > talking:
            if talking:  # the worker always has something to do
                made.worker.write(AudioFrame(1, 7, 7, 960 * number, speech[number % len(speech)]))
                number += 1
            await asyncio.sleep(0.01)


def held_streams() -> int:
    """What the bot holds for streams it hears, whoever holds it."""
    return sum(type(each) is SequenceTracker for each in gc.get_objects())


@pytest.mark.fault(86)
async def test_ten_thousand_streams_leave_nothing_in_the_bot(rig: Rig, fault: Fault) -> None:
    rig.recorder.sink = SinkRecorder()
    session = (await rig.join(0)).session
    assert session is not None
    await eventually(lambda: session.capture_state == "on")
    before, me, sizes = held_streams(), psutil.Process(), list[int]()
    for first in range(1_000_000, 1_010_000, 800):
        seen = session.stats().link.packets_in
        rig.sim.faults.arm("new_streams", rig.guild_id, {"count": 800, "first": first}, 1)
        await eventually(lambda: session.stats().link.packets_in >= seen + 700)  # noqa: B023  at once
        assert held_streams() == before, "what nobody may hear is not put in order"
        assert sum(type(each) is Source for each in gc.get_objects()) <= MAX_SOURCES
        sizes.append(me.memory_info().rss)
    with fault.clock():
        await eventually(lambda: session.stats().frames_refused > 9_000)
    assert sizes[-1] - sizes[2] < 16 * MIB
    assert session.generation == 1
    assert session.stats().link.resumes == 0
    assert rig.recorder.sink.frames == []
    assert set(session.stats().refused_by_user) == {0}
