"""What is left after `leave`: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from roost.testing.driver_conformance import ANN, tone

songbird = pytest.importorskip(
    "songbird", reason="the module songbird is not built: make songbird", exc_type=ImportError
)

pytestmark = pytest.mark.sim

CYCLES = 50


def held() -> tuple[int, int]:
    """Threads that Python did not start, and open files."""
    gc.collect()
    threads = len(list(Path("/proc/self/task").iterdir())) - threading.active_count()
    return threads, len(list(Path("/proc/self/fd").iterdir()))


def left() -> list[str]:
    """The names of threads and files, for the message of a failure."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    for file in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            names.append(str(file.readlink()))
    return sorted(names)


async def settled(before: tuple[int, int], stage: Any) -> None:
    """Wait until the simulated server has closed its side too."""
    give_up_at = time.monotonic() + 10
    while any(now > then for now, then in zip(held(), before, strict=True)):
        assert time.monotonic() < give_up_at, f"threads and files: {before} before, {held()} now: {left()}"
        await asyncio.sleep(0.02)


async def test_leave_leaves_nothing(stage: Any, driver: Any) -> None:
    # The first use of tokio in a process opens a pair of sockets for signals, which stays; so do files of the
    # simulator's first speaker.
    await stage.bench.speak(ANN, 0.02)
    await stage.connect(driver)
    await driver.leave()
    await stage.until(lambda: not stage.bench.host.open)
    before, tasks = held(), asyncio.all_tasks()
    packets: list[Any] = []
    driver.on_packets = packets.extend
    await driver.add_event(songbird.Event.periodic(0.01), lambda: asyncio.sleep(60))
    await stage.connect(driver)
    await stage.encrypted()
    handle = await driver.play_source(songbird.Source.bytes(tone(5.0)))
    await stage.bench.speak(ANN)
    await stage.until(lambda: bool(packets) and bool(stage.bench.sessions()[0]["packets_in"] > 3))
    assert held()[0] > before[0]
    started_at = time.monotonic()
    await driver.leave()
    assert time.monotonic() - started_at < songbird.driver.CLOSE_S
    await settled(before, stage)
    await stage.until(lambda: not (asyncio.all_tasks() - tasks) and not stage.bench.host.open)
    with pytest.raises(songbird.TrackError):
        while time.monotonic() < started_at + 20:
            handle.stop()
            await asyncio.sleep(0.01)
    with pytest.raises(songbird.SongbirdError):
        await handle.get_info()


async def test_fifty_cycles_leave_nothing(stage: Any, driver: Any) -> None:
    for _ in range(2):
        await stage.connect(driver)
        await driver.leave()
    await stage.until(lambda: not stage.bench.host.open)
    before = held()
    for _ in range(CYCLES):
        await stage.connect(driver)
        driver.send_opus(b"\x78" + bytes(30))
        await driver.leave()
    await stage.until(lambda: not stage.bench.host.open)
    await settled(before, stage)
    assert stage.bench.host.most_sessions <= 2


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.01, 0.03])
async def test_given_up_while_connecting(stage: Any, driver: Any, after_s: float) -> None:
    """Cancelled at any moment: threads, sockets and session are gone, the driver can be used again."""
    before = held()
    task = asyncio.ensure_future(stage.connect(driver))
    await asyncio.sleep(after_s)
    task.cancel()
    await asyncio.wait((task,), timeout=10)
    assert task.done()
    await driver.leave()
    await settled(before, stage)
    await stage.until(lambda: not stage.bench.host.open)
    await stage.connect(driver)


async def test_one_goes_the_others_stay(stage: Any) -> None:
    """The threads are shared: they end with the last driver."""
    await stage.bench.speak(ANN, 0.02)
    before = held()
    first, second = await songbird.Driver.create(), await songbird.Driver.create()
    await first.play_source(songbird.Source.bytes(tone(0.1)))
    threads = held()[0]
    packets: list[Any] = []
    second.on_packets = packets.extend
    await stage.connect(second)
    assert held()[0] <= threads + 1
    await stage.encrypted()
    await first.leave()
    await stage.bench.speak(ANN)
    await stage.until(lambda: len(packets) > 5)
    await second.leave()
    await settled(before, stage)


async def test_a_server_that_says_nothing(stage: Any, driver: Any) -> None:
    """Every wait has its deadline, and it is the configured one."""
    config = songbird.Config(driver_timeout=0.3, retry_strategy=songbird.Strategy.every(0.05))
    await driver.set_config(config)
    before = held()
    stage.bench.host.arm("mute_hello", times=2)
    with pytest.raises(songbird.ConnectError) as caught:
        await stage.connect(driver)
    assert caught.value.kind == "timed_out"
    await settled(before, stage)
