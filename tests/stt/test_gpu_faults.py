"""A driver that hangs, fails or is too old, and hidden cards: nothing waits for ever, nothing false is said."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from pathlib import Path

import pytest
from gpu_rig import MIB, UUID, Make, PretendCard, figures, heard, start

from roost.errors import ConfigError, ResourceError, RoostError
from roost_stt import gpu

pytestmark = pytest.mark.sim
NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE, FUNCTION_NOT_FOUND, GPU_IS_LOST, UNKNOWN = 3, 4, 7, 13, 15, 999
PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v"


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE, FUNCTION_NOT_FOUND, UNKNOWN])
def test_a_driver_that_shows_no_processes_still_shows_memory(card: PretendCard, code: int) -> None:
    card.other(500)
    card.fail(PROCESSES + "3", code)
    card.fail(PROCESSES + "2", code)
    seen = gpu.look("0")
    assert (seen.used, dict(seen.processes)) == (500 * MIB, {})


def test_an_older_driver_shows_its_processes_another_way(card: PretendCard, stranger: subprocess.Popen[bytes]) -> None:
    card.used_by(stranger.pid, 400)
    card.fail(PROCESSES + "3", FUNCTION_NOT_FOUND)
    assert gpu.look("0").processes == {stranger.pid: 400 * MIB}


@pytest.mark.parametrize(
    "function", ["nvmlInitWithFlags", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"]
)
def test_what_the_driver_will_not_say_is_said(card: PretendCard, function: str) -> None:
    card.fail(function, GPU_IS_LOST)
    with pytest.raises(ResourceError, match="GPU 0: GPU is lost"):
        gpu.look("0")
    card.fail(function, 0)
    assert gpu.look("0").uuid == UUID


def test_what_else_fails_costs_no_look(card: PretendCard) -> None:
    card.fail("nvmlShutdown", UNKNOWN)
    card.fail("nvmlDeviceGetName", NOT_SUPPORTED)
    assert (gpu.look("0").uuid, gpu.look("0").name) == (UUID, "GPU")


@pytest.mark.parametrize("name", ["9" * 5000, str(1 << 32), "GPU-\udc80", "\u00b2"])
def test_a_name_of_no_card_is_no_crash(card: PretendCard, name: str) -> None:
    with pytest.raises(ResourceError, match="GPU"):
        gpu.look(name)


def test_a_driver_that_hangs_is_given_up(card: PretendCard) -> None:
    """One thread waits for it, however often it is asked; once it answers, it is asked again."""
    card.hang("nvmlDeviceGetMemoryInfo")
    before = threading.active_count()
    try:
        for _ in range(3):
            with pytest.raises(ResourceError, match="does not answer"):
                gpu.look("0", 0.2)
        assert threading.active_count() <= before + 1
        assert all(each.daemon for each in threading.enumerate() if each.name == "gpu-look")
    finally:
        card.hang("nvmlDeviceGetMemoryInfo", still=False)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gpu.look("0").uuid == UUID


async def test_a_driver_that_hangs_holds_nothing_up(make: Make, card: PretendCard) -> None:
    """Not the bot's way down, and not the release."""
    house = await make()
    await start(house)
    await heard(house)
    card.hang("nvmlDeviceGetMemoryInfo")
    try:
        async with asyncio.timeout(3.0):
            await house.unload()
        assert house.workers() == []
        release = house.plugin._owner.card.last  # type: ignore[union-attr]
        assert release.outcome == "unverified"
        assert "does not answer" in release.detail
        assert figures(house)['roost_gpu_releases_total{outcome="unverified"}'] == 1.0
    finally:
        card.hang("nvmlDeviceGetMemoryInfo", still=False)


def test_room_is_not_waited_for_where_there_can_be_none(card: PretendCard) -> None:
    began_s = time.monotonic()
    gpu.wait_for_room("0", 25_000 * MIB, 20.0)
    card.other(20_000)
    card.hang("nvmlDeviceGetMemoryInfo")
    try:
        gpu.wait_for_room("0", 10_000 * MIB, 0.3)
    finally:
        card.hang("nvmlDeviceGetMemoryInfo", still=False)
    assert time.monotonic() - began_s < 15


def test_a_card_is_one_card_by_whichever_name(card: PretendCard) -> None:
    """CUDA takes the beginning of a UUID, too; the lease must be on the same name for all."""
    assert gpu.look(UUID[:12]).uuid == UUID


async def test_the_lease_stays_on_the_card_when_the_driver_says_nothing(card: PretendCard) -> None:
    watched = gpu.Card("0")
    await watched.sample()
    card.fail("nvmlInitWithFlags", UNKNOWN)
    assert await watched.sample() is None
    assert watched.key == UUID
    assert watched.environment()["CUDA_VISIBLE_DEVICES"] == UUID


@pytest.mark.unit
@pytest.mark.parametrize(
    ("visible", "wanted"), [("", "0"), ("-1", "0"), ("none", "0"), ("0,1", "2"), ("0,-1,1", "1"), ("gpu0", "0")]
)
def test_a_hidden_card_is_not_taken(visible: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"stt\.lease\.gpu: .*CUDA_VISIBLE_DEVICES"):
        gpu.chosen(wanted, {"CUDA_VISIBLE_DEVICES": visible})


async def test_a_bot_whose_cards_are_hidden_takes_none(
    make: Make, card: PretendCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    house = await make()
    with pytest.raises(ConfigError, match="hides"):
        await start(house)
    assert house.workers() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    await start(house)
    assert "cuda float16" in await heard(house)


async def test_a_new_neighbour_does_not_hide_what_is_kept(card: PretendCard, stranger: subprocess.Popen[bytes]) -> None:
    watched = gpu.Card("0")
    await watched.before_start()
    card.used_by(stranger.pid, 50)
    card.other(4000)
    release = await watched.after_end(1, 0.5)
    assert release.outcome == "kept"
    assert "4050 MiB more" in release.detail


async def test_what_was_seen_stands_when_the_driver_falls_silent(card: PretendCard) -> None:
    watched = gpu.Card("0")
    await watched.before_start()
    card.other(4000)
    looking = asyncio.create_task(watched.after_end(1, 1.0))
    while watched.seen is None or watched.seen.used < 4000 * MIB:
        await asyncio.sleep(0.005)
    card.hang("nvmlDeviceGetMemoryInfo")
    try:
        assert (await looking).outcome == "kept"
    finally:
        card.hang("nvmlDeviceGetMemoryInfo", still=False)


async def test_a_driver_that_fails_once_is_asked_again(card: PretendCard) -> None:
    watched = gpu.Card("0")
    await watched.before_start()
    card.fail("nvmlInitWithFlags", UNKNOWN)
    looking = asyncio.create_task(watched.after_end(1, 10.0))
    while not watched.blind:
        await asyncio.sleep(0.005)
    card.fail("nvmlInitWithFlags", 0)
    assert (await looking).outcome == "clean"


async def test_a_neighbour_that_grows_is_not_ours_to_give_back(
    card: PretendCard, stranger: subprocess.Popen[bytes]
) -> None:
    card.used_by(stranger.pid, 50)
    watched = gpu.Card("0")
    await watched.before_start()
    card.used_by(stranger.pid, 4050)
    release = await watched.after_end(1, 0.5)
    assert release.outcome == "shared"
    assert f"process {stranger.pid}" in release.detail


async def test_a_lease_folder_that_cannot_be_used(
    make: Make, card: PretendCard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The card is not used without a lease; with ``auto`` the CPU does."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROOST_LEASE_DIR", str(tmp_path / "file"))
    house = await make(device="auto")
    await start(house)
    assert "cpu int8" in await heard(house)
    assert "ROOST_LEASE_DIR" in await house.plugin.gpu_status()
    await house.unload()
    house = await make(device="cuda")
    with pytest.raises(RoostError, match=r"the lease folder .* cannot be used: .*ROOST_LEASE_DIR"):
        await start(house)
    assert house.workers() == []
