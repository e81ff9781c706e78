"""The worker's owner at awkward moments: whatever is cut short, the worker and the card do not stay."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gpu_rig import DROP_IN, MIB, UUID, Make, PretendCard, figures, heard, start
from stt_house import GUILD, FakeSession, House
from test_speech_process import transcribing_bot

from roost.demo.bot_process import wait_gone
from roost.errors import ClosedError, ResourceError, RoostError
from roost_stt import gpu, worker_owner
from roost_stt.lease import GpuLease, acquire

pytestmark = pytest.mark.sim
RELEASES = 'roost_gpu_releases_total{outcome="%s"}'


@pytest.fixture
async def elsewhere(card: PretendCard) -> AsyncIterator[GpuLease]:
    """The card's one slot, in other hands."""
    lease = acquire(Path(os.environ["ROOST_LEASE_DIR"]), UUID, 1, 0)
    yield lease
    lease.release()


async def waiting(house: House) -> asyncio.Task[str]:
    """A start that has come as far as the worker's wait for the card."""
    starting = asyncio.create_task(start(house))
    await house.until(lambda: house.workers() != [])
    return starting


def tasks(house: House, name: str) -> int:
    return house.scope.task_names.count(f"plugin:stt/{name}")


async def test_a_worker_whose_session_ended_while_it_started_does_not_stay(make: Make, elsewhere: GpuLease) -> None:
    house = await make(idle_s=0.0, lease={"wait_s": 10.0})
    starting = await waiting(house)
    await house.close()
    elsewhere.release()
    with pytest.raises(ClosedError):
        await starting
    await house.until(lambda: house.workers() == [])


async def test_a_start_that_is_cancelled_leaves_no_worker(make: Make, elsewhere: GpuLease) -> None:
    house = await make(idle_s=0.0, lease={"wait_s": 10.0})
    starting = await waiting(house)
    starting.cancel()
    await asyncio.wait({starting})
    await house.until(lambda: house.workers() == [])


async def test_an_end_does_not_take_the_worker_from_who_begins(make: Make, card: PretendCard) -> None:
    """The one before ends, with no time to idle, while the worker of the next is started."""
    house = await make(idle_s=0.0)
    owner = house.plugin._owner
    assert owner is not None
    make_one = owner._make

    async def slowly() -> object:
        owner.arm_idle()
        made = await make_one()
        owner.worker = made
        owner.arm_idle()
        return made

    owner._make = slowly  # type: ignore[assignment]
    assert await start(house) == "Transcribing <#20> into <#30>."
    assert "cuda float16" in await heard(house)


@pytest.mark.parametrize("reason", ["unload", "shutdown"])
@pytest.mark.parametrize("when", ["lease", "look", "spec"])
async def test_an_unload_cuts_a_start_short(
    make: Make, card: PretendCard, elsewhere: GpuLease, when: str, reason: str
) -> None:
    house = await make(lease={"wait_s": 10.0})
    if when == "look":
        card.hang("nvmlDeviceGetMemoryInfo")
    if when == "spec":
        gate = asyncio.Event()
        call = house.dispatcher.call

        async def slow_call(hook: str, /, **arguments: object) -> object:
            if hook == "stt_engine":
                await gate.wait()
            return await call(hook, **arguments)

        house.dispatcher.call = slow_call  # type: ignore[method-assign, assignment]
    starting = await waiting(house) if when == "lease" else asyncio.create_task(start(house))
    try:
        if when != "lease":
            await asyncio.sleep(0.1)
        async with asyncio.timeout(3.0):
            await house.unload(reason)
        if when == "spec":
            gate.set()
        elsewhere.release()
        card.hang("nvmlDeviceGetMemoryInfo", still=False)
        with pytest.raises(RoostError):
            await starting
    finally:
        card.hang("nvmlDeviceGetMemoryInfo", still=False)
    assert house.workers() == []
    assert card.used == 0


async def test_a_release_without_force_ends_nothing_that_began_meanwhile(make: Make, elsewhere: GpuLease) -> None:
    house = await make(lease={"wait_s": 10.0})
    starting = await waiting(house)
    release = asyncio.create_task(house.plugin.release_gpu(force=False))
    await asyncio.sleep(0)
    elsewhere.release()
    await starting
    with pytest.raises(ResourceError, match="is going on"):
        await release
    assert "cuda float16" in await heard(house)


async def test_a_release_with_force_does_not_wait_for_a_start(make: Make, elsewhere: GpuLease) -> None:
    house = await make(lease={"wait_s": 10.0})
    starting = await waiting(house)
    async with asyncio.timeout(5):
        said = await house.plugin.release_gpu(force=True)
    assert house.workers() == []
    assert "nothing of a GPU is held" in said
    with pytest.raises(RoostError, match="stopped"):
        await starting


async def test_a_release_before_there_is_a_process_waits_for_it(make: Make, card: PretendCard) -> None:
    house = await make()
    card.hang("nvmlDeviceGetMemoryInfo")
    try:
        starting = asyncio.create_task(start(house))
        await asyncio.sleep(0.1)
        release = asyncio.create_task(house.plugin.release_gpu(force=True))
        await asyncio.sleep(0)
    finally:
        card.hang("nvmlDeviceGetMemoryInfo", still=False)
    await starting
    assert "The card is free after" in await release
    assert (house.workers(), card.used) == ([], 0)


async def test_two_releases_at_once(make: Make, card: PretendCard) -> None:
    house = await make()
    await start(house)
    said = await asyncio.gather(*(house.plugin.release_gpu(force=True) for _ in range(3)))
    assert said[0].startswith("The speech worker has ended. The card is free after")
    assert all("free after" in each for each in said)
    assert figures(house)[RELEASES % "clean"] == 1.0
    assert card.used == 0


async def test_what_a_release_says_is_a_sentence(
    make: Make, card: PretendCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_owner, "RELEASE_S", 0.1)
    house = await make()
    await start(house)
    await heard(house)
    card.other(700)
    said = await house.plugin.release_gpu(force=True)
    assert said.startswith("The speech worker has ended, but **the card is not free** (700 MiB in use")
    await start(house)
    card.fail("nvmlInitWithFlags", 999)
    said = await house.plugin.release_gpu(force=True)
    assert said.startswith("The speech worker has ended, but whether the card is free cannot be told: NVML cannot say")
    status = await house.plugin.gpu_status()
    assert "so nothing of a GPU is held" in status


async def test_while_a_card_is_not_free_nobody_says_it_is(
    make: Make, card: PretendCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when it comes back late, that is said, too."""
    monkeypatch.setattr(worker_owner, "RELEASE_S", 0.1)
    monkeypatch.setattr(worker_owner, "SAMPLE_S", 0.1)
    house = await make()
    await start(house)
    await heard(house)
    card.other(700)
    await house.plugin.release_gpu(force=True)
    assert "nothing of a GPU is held" not in await house.plugin.gpu_status()
    assert not (await house.plugin.health()).ok
    card.other(0)
    await house.until(lambda: tasks(house, "gpu-late") == 0)
    assert (await house.plugin.health()).ok
    status = await house.plugin.gpu_status()
    assert "nothing of a GPU is held" in status
    assert "Last release: free after" in status
    assert (figures(house)[RELEASES % "kept"], figures(house)[RELEASES % "clean"]) == (1.0, 0.0)


async def test_the_status_of_a_worker_that_starts(make: Make, elsewhere: GpuLease) -> None:
    house = await make(lease={"wait_s": 10.0})
    starting = await waiting(house)
    (pid,) = house.workers()
    await house.until(lambda: figures(house)["roost_gpu_held"] == 1.0)
    assert f"The speech worker (process {pid}) is starting on cuda float16" in await house.plugin.gpu_status()
    elsewhere.release()
    await starting
    assert "runs on cuda float16" in await house.plugin.gpu_status()


async def test_one_task_samples_through_crashes_and_restarts(
    make: Make, card: PretendCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_owner, "SAMPLE_S", 0.02)
    house = await make()
    for _ in range(3):
        await start(house)
        await house.plugin.release_gpu(force=True)
    await start(house)
    assert tasks(house, "gpu") == 1
    await heard(house)
    (pid,) = house.workers()
    os.kill(pid, signal.SIGKILL)
    await heard(house)
    await house.until(lambda: figures(house)[f'roost_gpu_worker_memory_bytes{{gpu="{UUID}"}}'] == 4300 * MIB)
    assert tasks(house, "gpu") == 1
    card.other(77)
    await house.until(lambda: figures(house)[f'roost_gpu_memory_used_bytes{{gpu="{UUID}"}}'] == 4377 * MIB)
    await house.plugin.release_gpu(force=True)
    await house.until(lambda: tasks(house, "gpu") == 0)


@pytest.mark.parametrize("reason", ["unload", "shutdown"])
async def test_an_unload_while_the_release_is_looked_at(
    make: Make, card: PretendCard, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """It is looked at to the end, within what is left of the time, and counted once."""
    monkeypatch.setattr(worker_owner, "RELEASE_S", 30.0 if reason == "shutdown" else 1.0)
    house = await make(idle_s=0.0)
    await start(house)
    await heard(house)
    card.other(700)
    await house.close()
    await house.until(lambda: house.workers() == [])
    async with asyncio.timeout(3.0):
        await house.unload(reason)
    assert figures(house)[RELEASES % "kept"] == 1.0
    assert house.plugin._owner.card.last.outcome == "kept"  # type: ignore[union-attr]


async def test_a_card_that_was_not_seen_at_first_is_leased_by_its_name(make: Make, card: PretendCard) -> None:
    """Whoever starts later must not find the slot free under another name."""
    card.fail("nvmlInitWithFlags", 999)
    house = await make(idle_s=0.0)
    with pytest.raises(RoostError):
        await start(house)
    card.fail("nvmlInitWithFlags", 0)
    house.session = FakeSession()
    await house.open()
    await start(house)
    with pytest.raises(RoostError, match="all 1 slots"):
        acquire(Path(os.environ["ROOST_LEASE_DIR"]), UUID, 1, 0)
    assert GUILD in house.plugin._running


@pytest.mark.parametrize("how", ["release", "killed", "unload"])
async def test_what_an_engine_starts_ends_with_its_worker(make: Make, card: PretendCard, how: str) -> None:
    """A process of the engine's own would keep the card when the worker is gone."""
    house = await make(helper=True)
    await start(house)
    await heard(house)
    (worker,) = (pid for pid in gpu.look("0").processes if pid in house.workers())
    (helper,) = gpu.look("0").processes.keys() - {worker}
    try:
        assert card.used == 5300
        if how == "killed":
            os.kill(worker, signal.SIGKILL)
            await heard(house)
            assert helper not in gpu.look("0").processes
        elif how == "release":
            assert "The card is free after" in await house.plugin.release_gpu(force=True)
        await house.unload()
        assert card.used == 0
        assert house.plugin._owner.card.last.outcome == "clean"  # type: ignore[union-attr]
    finally:
        for pid in gpu.look("0").processes:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("driver_hangs", [False, True])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "reload"])
async def test_a_whole_bot_in_the_middle_of_a_start(
    card: PretendCard, elsewhere: GpuLease, tmp_path: Path, how: str, driver_hangs: bool
) -> None:
    """The worker waits for the card, or the bot for the driver, which from then on says nothing."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "card.py").write_text(DROP_IN)
    settings = {
        "plugins__dir": tmp_path / "plugins",
        "stt__engine": "card",
        "stt__device": "cuda",
        "stt__lease__wait_s": 10,
    }
    async with transcribing_bot(tmp_path, started=False, **settings) as stage:

        async def ask(member: int, command: str, **options: Any) -> str:
            answer = await stage.discord.slash(
                member_id=member, channel_id=stage.text, command=command, options=options, wait_s=12
            )
            return " ".join(str(each["content"]) for each in answer["replies"])

        if driver_hangs:
            card.hang("nvmlDeviceGetMemoryInfo")
        try:
            starting = asyncio.create_task(ask(stage.ada, "/transcribe start"))
            if driver_hangs:
                await asyncio.sleep(0.5)
                assert stage.bot.descendants() == []
            else:
                async with asyncio.timeout(10):
                    while not stage.bot.descendants():
                        await asyncio.sleep(0.01)
            left = [*stage.bot.descendants(), *([] if how == "reload" else [stage.bot.pid])]
            if how == "SIGKILL":
                stage.bot.kill()
            elif how == "SIGTERM":
                stage.bot.terminate()
            else:
                assert "**stt**" in await ask(stage.owner, "/bot plugins reload", plugin="stt")
                assert "leaked" not in await ask(stage.owner, "/plugins list")
            assert await wait_gone(left, 5.0) is not None
            if how == "SIGTERM":
                assert await stage.bot.wait(1.0) == 0
            if how == "reload":
                assert "Transcribing" not in await starting
                assert stage.bot.descendants() == []
        finally:
            card.hang("nvmlDeviceGetMemoryInfo", still=False)
            starting.cancel()
            await asyncio.wait({starting})
        if how == "reload":
            elsewhere.release()
            assert "Transcribing" in await ask(stage.ada, "/transcribe start")


async def test_a_card_that_was_given_up_is_looked_at_then(
    make: Make, card: PretendCard, stranger: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Not when the worker on the CPU ends, hours later: what others use by then is theirs."""
    card.size(1000)
    house = await make()
    await start(house)
    assert "cpu int8" in await heard(house)
    await house.until(lambda: figures(house)[RELEASES % "clean"] == 1.0)
    assert figures(house)["roost_gpu_held"] == 0.0
    card.used_by(stranger.pid, 900)
    card.hide_processes()
    assert "free after" in await house.plugin.release_gpu(force=True)
    assert (figures(house)[RELEASES % "clean"], figures(house)[RELEASES % "kept"]) == (1.0, 0.0)
    assert not [each for each in caplog.records if each.levelname == "ERROR" and each.name == "roost.stt"]


async def test_a_stranger_with_the_workers_number_is_not_the_worker(
    card: PretendCard, stranger: subprocess.Popen[bytes]
) -> None:
    """In a container NVML shows the host's numbers, and one may be that of our worker here."""
    card.used_by(stranger.pid, 500)
    watched = gpu.Card("0")
    await watched.before_start()
    assert watched.share(stranger.pid) == 0
    assert (await watched.after_end(stranger.pid, 0.5)).outcome == "clean"


async def test_what_the_worker_started_is_no_neighbour(card: PretendCard) -> None:
    watched = gpu.Card("0")
    await watched.before_start()
    with subprocess.Popen(["sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout is not None
        helper = int(leader.stdout.readline())
        try:
            leader.wait()
            card.used_by(helper, 500)
            release = await watched.after_end(leader.pid, 0.5)
        finally:
            os.kill(helper, signal.SIGKILL)
    assert release.outcome == "kept"
    assert f"process {helper}" in release.detail
