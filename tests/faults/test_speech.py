"""Speech-to-text: rows 80 to 86, with real worker processes and real signals."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import fault_engine
import psutil
import pytest
from fault_report import FULL, SCALE, Fault
from stt_house import ADA, BEN, TEXT, FakeSession, House, houses
from stt_rig import Build, Rig, manifest, packets_of, scripted, workers

from roost.audio import SILENCE_FRAME
from roost.demo.bot_process import is_gone
from roost.hooks import hookimpl
from roost.speech import EngineSpec
from roost.testing.leftovers import leak_check
from roost.text import wer
from roost_stt.supervision import State, Trouble

pytestmark = pytest.mark.e2e

Make = Callable[..., Awaitable[House]]
WATCH = {"heartbeat_s": 1.0 * SCALE, "silent_s": 5.0 * SCALE, "busy_s": 25.0 * SCALE}
"""The supervision's delays at the scale of the run."""


@pytest.fixture
async def rig() -> AsyncIterator[Build]:
    async with workers() as build:
        yield build


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with houses() as build:
        yield build


@pytest.fixture(autouse=True)
def fault_engine_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    # Before what is there already: a worker must run the same sources as the test.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """Two seconds of speech, and how Discord's clients end it."""
    return packets_of("lv_0880")[:100] + [SILENCE_FRAME] * 5


class Provider:
    """A plugin with an engine of its own."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @hookimpl
    def stt_engine(self, name: str) -> EngineSpec | None:
        return self.spec if name == "faulty" else None


async def transcribing(make: Make, spec: EngineSpec, **settings: object) -> House:
    """A house whose session is being transcribed by that engine."""
    house = await make(engine="faulty", **settings)
    house.dispatcher.manager.register(Provider(spec), "guest")
    await house.open()
    await house.plugin.start_transcribing(house.session.guild_id, ADA, TEXT, False)
    return house


def pid_of(made: Rig) -> int:
    pid = made.worker.pid
    assert pid is not None
    return pid


async def until(check: Callable[[], object], timeout_s: float = 90.0 if FULL else 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.005)


def lease_is_free(folder: Path) -> bool:
    """Whether another bot could take the GPU now."""
    for path in folder.glob("*.lock"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


# Row 82


@pytest.mark.fault(82)
async def test_a_stopped_worker_is_killed_and_the_words_come(rig: Build, fault: Fault, packets: list[bytes]) -> None:
    made = await rig(scripted("late"), **WATCH)
    pid = pid_of(made)
    os.kill(pid, signal.SIGSTOP)
    with fault.clock():
        await made.say(packets)
        await made.until(1)
    assert is_gone(pid)
    assert made.text() == "late"
    assert [what for what, *_ in made.troubles] == [Trouble.CRASHED]


@pytest.mark.fault(82)
@pytest.mark.parametrize("faults", [["hang"], ["hang", "segv"]], ids=["hangs", "hangs, then crashes"])
async def test_an_inference_that_hangs_is_killed_and_tried_again(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path, faults: list[str]
) -> None:
    made = await rig(fault_engine.spec(tmp_path, *faults), **WATCH)
    pid = pid_of(made)
    await made.say(packets)
    await until((tmp_path / "hang").exists)
    with fault.clock():
        await until(lambda: is_gone(pid))
    await made.until(1)
    assert made.text() == "said by 7"
    assert made.worker.stats()["crashes"] == len(faults)


@pytest.mark.fault(82)
async def test_a_worker_that_is_stopped_while_it_starts_is_replaced(
    rig: Build, fault: Fault, packets: list[bytes]
) -> None:
    made = await rig(scripted("late"), **WATCH, handshake_s=30.0 * SCALE)
    os.kill(pid_of(made), signal.SIGKILL)
    await until(lambda: made.worker.stats()["starts"] == 2)
    pid = pid_of(made)
    os.kill(pid, signal.SIGSTOP)
    with fault.clock():
        await until(lambda: is_gone(pid))
    await made.say(packets)
    await made.until(1)


@pytest.mark.fault(82)
async def test_a_worker_that_stops_while_it_is_told_what_it_missed_is_replaced(
    rig: Build, fault: Fault, packets: list[bytes]
) -> None:
    made = await rig(scripted("{user}"), **WATCH)
    os.kill(pid_of(made), signal.SIGSTOP)
    speech = packets_of("lv_0890")
    for user in range(25):  # far more than the pipe holds
        await made.say(speech + packets[-5:], user=user + 1)
    with fault.clock(2 * fault.row.bound_s):
        await until(lambda: made.worker.stats()["starts"] == 2)
        second = pid_of(made)
        await until(lambda: made.worker.stats()["frames_replayed"], 5.0)
        os.kill(second, signal.SIGSTOP)
        await until(lambda: is_gone(second))
    assert await made.drain(timeout_s=60.0)
    assert {each.user_id for each in made.transcripts if each.text} == set(range(1, 26))
    assert made.worker.stats()["frames_dropped"] == 0


# Row 81


@pytest.mark.fault(81)
@pytest.mark.parametrize(
    "what",
    [["segv"], ["oom"], ["no_memory"], ["oom", "load_oom"], ["segv", "oom"]],
    ids=["SIGSEGV", "GPU memory", "memory", "GPU memory, then again at the load", "SIGSEGV, then GPU memory"],
)
async def test_a_crash_in_an_inference_costs_time_but_no_words(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path, what: list[str]
) -> None:
    made = await rig(fault_engine.spec(tmp_path, *what))
    with fault.clock(scaled=False):
        await made.say(packets)
        await made.until(1)
    assert made.text() == "said by 7"
    assert {each for each, *_ in made.troubles} == {Trouble.CRASHED}
    assert made.worker.stats()["crashes"] == len(what)
    assert made.worker.stats()["utterances_lost"] == 0


@pytest.mark.fault(81)
async def test_a_batch_too_big_for_the_memory_is_decoded_one_by_one(
    rig: Build, fault: Fault, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(fault_engine.spec(tmp_path, "big", delay_s=0.5))
    with fault.clock(scaled=False):
        for user in (1, 2, 3, 4):
            await made.say(packets, user=user)
        await made.until(4)
    assert (tmp_path / "big").exists()
    assert sorted(each.user_id for each in made.transcripts) == [1, 2, 3, 4]
    assert made.worker.stats()["utterances_lost"] == 0


@pytest.mark.fault(81)
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
async def test_the_model_process_dies_and_the_words_come(rig: Build, fault: Fault, number: signal.Signals) -> None:
    made = await rig()
    await made.say(packets_of("lv_0890"))
    os.kill(pid_of(made), number)
    with fault.clock(scaled=False):
        await made.say(packets_of("lv_0930"), user=8)
        assert await made.drain()
    assert wer(manifest()["lv_0890"], made.text()) <= 0.1
    assert wer(manifest()["lv_0930"], made.text(8)) <= 0.15
    assert [what for what, *_ in made.troubles] == [Trouble.CRASHED]


@pytest.mark.fault(81)
async def test_an_engine_that_dies_of_everything_is_given_up_and_may_be_asked_again(
    make: Make, fault: Fault, tmp_path: Path, packets: list[bytes]
) -> None:
    house = await transcribing(make, fault_engine.spec(tmp_path, "segv", "oom"))
    worker = house.plugin._worker
    assert worker is not None
    with fault.clock(30.0, scaled=False):  # with the pauses between the starts
        for life in range(1, 6):  # five deaths in a minute are enough
            await until(lambda life=life: worker.stats()["starts"] == life and worker.state is State.READY)
            (pid,) = house.workers()
            os.kill(pid, signal.SIGSEGV)
            await until(lambda: worker.state is not State.READY)
        await house.until(lambda: any("keeps failing" in text for text in house.texts))
    assert house.workers() == []
    assert await house.plugin.start_transcribing(house.session.guild_id, ADA, TEXT, False) == (
        "Transcribing <#20> into <#30> again."
    )
    house.session.say(packets)
    await house.until(lambda: any("said by" in text for text in house.texts))
    assert sum("starting again" in text for text in house.texts) == 1


# Row 80


async def in_an_inference(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: float) -> House:
    """A house whose engine, which holds the GPU's lease, works on Ada's first words."""
    monkeypatch.setenv("ROOST_LEASE_DIR", str(folder / "lease"))
    spec = fault_engine.spec(folder, needs_gpu=True, delay_s=options.get("delay_s", 0.5))
    house = await transcribing(make, spec, idle_s=options.get("idle_s", 0.1))
    house.session.say(packets_of("lv_0880")[:100] + [SILENCE_FRAME] * 5)
    await until((folder / "busy").exists)
    assert not lease_is_free(folder / "lease")
    return house


@pytest.mark.fault(80)
@pytest.mark.parametrize("delay_s", [0.5, 60.0], ids=["short", "endless"])
@pytest.mark.parametrize("how", ["leave", "kick", "unload"])
async def test_the_end_of_a_session_in_the_middle_of_an_inference_leaves_nothing(
    make: Make, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, delay_s: float
) -> None:
    house = await in_an_inference(make, tmp_path, monkeypatch, delay_s=delay_s)
    worker = house.plugin._worker
    assert worker is not None
    with fault.clock(scaled=False):
        if how == "unload":
            await house.unload()
        else:
            await house.close(2.0 if how == "leave" else 0.0)
        await until(lambda: house.workers() == [] and lease_is_free(tmp_path / "lease"))
    assert house.session.sinks == []
    assert worker.stats()["kept_frames"] == 0
    said = [text for text in house.texts if "said by" in text]
    assert len(said) == (1 if how == "leave" and delay_s < 1 else 0)


@pytest.mark.fault(80)
async def test_the_words_of_an_ended_session_are_not_posted_in_the_next(
    make: Make, fault: Fault, packets: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await in_an_inference(make, tmp_path, monkeypatch, delay_s=1.0, idle_s=60.0)
    with fault.clock(scaled=False):
        await house.close(0.0)
        house.session = FakeSession()
        house.session.id = "s2"
        await house.open()
        await house.plugin.start_transcribing(house.session.guild_id, ADA, TEXT, False)
        house.session.say(packets, BEN)
        await house.until(lambda: bool(house.messages))
    await house.close()
    assert house.texts == [f"**Ben**: said by {BEN}"]


# Row 84


@pytest.mark.long
@pytest.mark.fault(84)
async def test_twenty_models_loaded_and_released_leave_nothing(make: Make, fault: Fault) -> None:
    house = await make(engine="faster-whisper", model="tiny.en", idle_s=0.0)
    await house.open()
    await house.fill_pool()
    me, pids, sizes = psutil.Process(), set[int](), list[int]()
    async with leak_check():
        for _ in range(20):
            await house.plugin.start_transcribing(house.session.guild_id, ADA, TEXT, False)
            (pid,) = house.workers()
            assert psutil.Process(pid).memory_info().rss > 100 << 20  # with the model in it
            with fault.clock(scaled=False):
                await house.plugin.stop_transcribing(house.session.guild_id, ADA, False)
                await until(lambda: not psutil.pid_exists(pid))  # noqa: B023  awaited in this round
            assert house.workers() == []
            pids.add(pid)
            sizes.append(me.memory_info().rss)
    assert len(pids) == 20
    assert sizes[-1] - sizes[2] < 2 << 20
