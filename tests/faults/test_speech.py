"""Speech-to-text: rows 80 to 86, with real worker processes and real signals."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from fault_report import SCALE, Fault
from stt_house import ADA, TEXT, House, houses
from stt_rig import Build, Rig, packets_of, scripted, workers

from roost.audio import SILENCE_FRAME
from roost.demo.bot_process import is_gone
from roost.hooks import hookimpl
from roost.speech import EngineSpec
from roost_stt.engine import Trouble

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
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


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


async def until(check: Callable[[], object], timeout_s: float = 15.0) -> None:
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
