"""The card: who uses it, less of it when there is no room, and all of it given back.

There is no card here. What is real: worker processes, their leases, their deaths, NVML's Python side and the loading of
the driver's library, which is a stand-in compiled here (``card/fake_nvml.c``). Its figures follow living processes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_rig import DROP_IN, MIB, UUID, Make, PretendCard, figures, heard, start
from stt_house import FakeSession
from test_speech_process import transcribing_bot

from roost.demo.bot_process import wait_gone
from roost.errors import ConfigError, ResourceError, RoostError
from roost_stt import gpu
from roost_stt.ladder import CPU, SMALLER, Ladder, whisper_ladder
from roost_stt.lease import acquire
from roost_stt.supervision import State

pytestmark = pytest.mark.sim


def test_a_look_at_the_card(card: PretendCard, stranger: subprocess.Popen[bytes]) -> None:
    card.other(100)
    card.used_by(stranger.pid, 400)
    for name in ("0", UUID):
        seen = gpu.look(name)
        assert (seen.uuid, seen.name, seen.total, seen.used) == (UUID, "Pretend Card", 24_000 * MIB, 500 * MIB)
        assert seen.processes == {stranger.pid: 400 * MIB}
    stranger.kill()
    stranger.wait()
    assert gpu.look("0").used == 100 * MIB
    with pytest.raises(ResourceError, match="GPU 1: Invalid Argument"):
        gpu.look("1")
    with pytest.raises(ResourceError, match="GPU GPU-x: Not Found"):
        gpu.look("GPU-x")
    card.size(0)
    with pytest.raises(ResourceError, match="Driver Not Loaded"):
        gpu.look("0")


@pytest.mark.unit
def test_the_card_meant_is_one_that_may_be_used() -> None:
    assert gpu.chosen("0", {}) == "0"
    assert gpu.chosen("0", {"CUDA_VISIBLE_DEVICES": "2,GPU-abc"}) == "2"
    assert gpu.chosen("1", {"CUDA_VISIBLE_DEVICES": "2, GPU-abc"}) == "GPU-abc"
    assert gpu.chosen("GPU-x", {"CUDA_VISIBLE_DEVICES": "2"}) == "GPU-x"
    assert not any(gpu.is_there({"CUDA_VISIBLE_DEVICES": none}) for none in ("", "-1", "NoDevFiles"))


@pytest.mark.unit
def test_libraries_installed_as_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia" / "cublas" / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    folders = gpu.Card("0").environment()["LD_LIBRARY_PATH"].split(os.pathsep)
    assert folders[0] == "/before"
    assert str(tmp_path / "nvidia" / "cublas" / "lib") in folders


def steps(compute_type: str, **options: bool) -> list[str]:
    spec = whisper_ladder({}, "x:y", gpu=options.get("gpu", True), compute_type=compute_type)
    return [f"{each.config['device']} {each.config['compute_type']}" for each in (spec, *spec.smaller)]


@pytest.mark.unit
def test_the_steps() -> None:
    assert steps("auto") == ["cuda float16", "cuda int8_float16", "cuda int8", "cpu int8"]
    assert steps("float32") == ["cuda float32", "cuda float16", "cuda int8_float16", "cuda int8", "cpu int8"]
    assert steps("bfloat16") == ["cuda bfloat16", "cuda int8_float16", "cuda int8", "cpu int8"]
    assert steps("int8") == ["cuda int8", "cpu int8"]
    assert steps("auto", gpu=False) == ["cpu int8"]
    assert steps("float32", gpu=False) == ["cpu float32"]
    ladder = Ladder(whisper_ladder({}, "x:y", gpu=True, compute_type="auto"), cpu_if_gpu_fails=True)
    assert ladder.down(SMALLER, "no room")
    assert ladder.why == "cuda float16 gave up (no room), so it runs on cuda int8_float16"
    assert not ladder.down("", "a bug")
    assert ladder.down(CPU, "no driver")
    assert ladder.spec.config["device"] == "cpu"
    assert not ladder.down(SMALLER, "no room")
    ladder.reset()
    assert (ladder.spec.config["compute_type"], ladder.why) == ("float16", "")
    assert not Ladder(ladder.spec).down(CPU, "no driver")


async def test_the_card_is_used_and_given_back(make: Make, card: PretendCard) -> None:
    """From the first start to the idle worker's end, as an owner of the bot sees it."""
    card.other(500)
    house = await make(idle_s=0.0)
    assert await house.plugin.gpu_status() == "No speech worker runs, so nothing of a GPU is held."
    assert figures(house) == {"roost_gpu_held": 0.0}
    await start(house)
    assert await heard(house) == "**Ada***: heard on cuda float16"
    assert card.used == 4800
    status = await house.plugin.gpu_status()
    (pid,) = house.workers()
    assert f"The speech worker (process {pid}) runs on cuda float16 for 1 transcription." in status
    assert f"Pretend Card {UUID}: 4800 of 24000 MiB in use, 4300 MiB of that by the speech worker." in status
    assert figures(house)["roost_gpu_held"] == 1.0
    assert figures(house)[f'roost_gpu_worker_memory_bytes{{gpu="{UUID}"}}'] == 4300 * MIB
    with pytest.raises(RoostError, match="all 1 slots"):
        acquire(Path(os.environ["ROOST_LEASE_DIR"]), UUID, 1, 0)
    await house.close()
    await house.until(lambda: figures(house).get('roost_gpu_releases_total{outcome="clean"}') == 1.0)
    assert card.used == 500
    acquire(Path(os.environ["ROOST_LEASE_DIR"]), UUID, 1, 0).release()
    status = await house.plugin.gpu_status()
    assert re.search(r"Last release: free after 0\.\d\d s \(500 MiB in use, 500 before the worker\)\.", status)
    assert "500 of 24000 MiB in use." in status
    assert (await house.plugin.health()).ok


@pytest.mark.parametrize(
    ("mib", "where"), [(3000, "cuda int8_float16"), (2600, "cuda int8"), (1000, "cpu int8")], ids=["some", "less", "no"]
)
async def test_without_room_it_runs_with_less_and_says_so(
    make: Make, card: PretendCard, mib: int, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """2600 MiB are enough to load the second step and too few for its first inference: no word is lost by that."""
    card.size(mib)
    house = await make()
    await start(house)
    assert await heard(house) == f"**Ada***: heard on {where}"
    told = [text for text in house.texts if "has no room for the speech engine" in text]
    assert len(told) == 1
    assert "so it runs on " + where in (await house.plugin.gpu_status())
    assert any("out of memory" in record.getMessage() for record in caplog.records)
    stats = house.plugin._worker.stats()  # type: ignore[union-attr]
    assert stats["utterances_lost"] == 0
    assert (await house.plugin.health()).ok
    await house.close()


async def test_the_next_start_tries_the_whole_card_again(make: Make, card: PretendCard) -> None:
    card.size(1000)
    house = await make(idle_s=0.0)
    await start(house)
    assert "cpu int8" in await heard(house)
    await house.close()
    worker = house.plugin._worker
    await house.until(lambda: worker is not None and worker.state is State.STOPPED)
    card.size(24_000)
    house.session = FakeSession()
    house.session.id = "s2"
    await house.open()
    await start(house)
    assert "cuda float16" in await heard(house)


async def test_a_card_out_of_order(make: Make, card: PretendCard) -> None:
    """With ``auto`` the CPU does; who asked for the card is told."""
    house = await make(broken=True, device="auto")
    await start(house)
    assert "cpu int8" in await heard(house)
    assert "driver version is insufficient" in await house.plugin.gpu_status()
    assert sum("The graphics card cannot be used now" in text for text in house.texts) == 1
    assert not any("no room" in text for text in house.texts)
    await house.unload()
    house = await make(broken=True, device="cuda")
    with pytest.raises(RoostError, match="driver version is insufficient"):
        await start(house)
    assert house.texts == []


async def test_a_card_in_other_hands(make: Make, card: PretendCard) -> None:
    taken = acquire(Path(os.environ["ROOST_LEASE_DIR"]), UUID, 1, 0)
    try:
        house = await make(device="auto", lease={"wait_s": 0.1})
        await start(house)
        assert "cpu int8" in await heard(house)
        await house.unload()
        house = await make(device="cuda", lease={"wait_s": 0.1})
        with pytest.raises(RoostError, match=r"all 1 slots of GPU .* are taken; raise stt\.lease\.slots"):
            await start(house)
    finally:
        taken.release()
    await start(house)
    assert "cuda float16" in await heard(house)


async def test_two_bots_share_a_card(make: Make, card: PretendCard) -> None:
    first, second = await make(lease={"slots": 2}), await make(lease={"slots": 2})
    await start(first)
    await start(second)
    assert "cuda float16" in await heard(first)
    assert "cuda float16" in await heard(second)
    assert card.used == 8600
    await first.unload()
    # What the other one took meanwhile, or had, is not ours to give back.
    assert card.used == 4300
    assert first.plugin._owner.card.last.outcome == "shared"  # type: ignore[union-attr]
    await second.unload()
    assert second.plugin._owner.card.last.outcome == "clean"  # type: ignore[union-attr]
    assert card.used == 0


async def test_the_next_worker_waits_for_the_last_ones_memory(
    make: Make, card: PretendCard, stranger: subprocess.Popen[bytes]
) -> None:
    """Another bot has given its slot back a moment ago and is still on the card."""
    card.used_by(stranger.pid, 23_000)
    house = await make(lease={"memory_mib": 5000, "wait_s": 10.0})
    starting = asyncio.create_task(start(house))
    async with asyncio.timeout(10):
        while not house.workers():
            await asyncio.sleep(0.01)
        while not list(Path(os.environ["ROOST_LEASE_DIR"]).glob("*.lock")):
            await asyncio.sleep(0.01)
    stranger.kill()
    stranger.wait()
    await starting
    assert "cuda float16" in await heard(house)


@pytest.mark.parametrize("how", ["killed", "unload", "release"])
async def test_nothing_is_left_on_the_card(make: Make, card: PretendCard, how: str) -> None:
    house = await make()
    await start(house)
    assert "cuda float16" in await heard(house)
    (pid,) = house.workers()
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
        assert "cuda float16" in await heard(house)
        assert house.workers() != [pid]
        assert card.used == 4300
    elif how == "release":
        with pytest.raises(ResourceError, match=r"1 transcription is going on\. `/bot gpu release force:True`"):
            await house.plugin.release_gpu(force=False)
        assert house.workers() == [pid]
        assert "The card is free after" in await house.plugin.release_gpu(force=True)
        assert any("Transcription stopped: the bot's operator needs the GPU." in text for text in house.texts)
        assert house.session.sinks == []
        assert await house.plugin.release_gpu(force=False) == (await house.plugin.gpu_status())
        assert await start(house) == "Transcribing <#20> into <#30>."
        assert "cuda float16" in await heard(house)
    await house.unload()
    assert card.used == 0
    assert house.plugin._owner.card.last.outcome == "clean"  # type: ignore[union-attr]


async def test_memory_that_does_not_come_back_is_an_error_that_names_who(
    make: Make, card: PretendCard, caplog: pytest.LogCaptureFixture
) -> None:
    house = await make(idle_s=0.0)
    await start(house)
    await heard(house)
    card.other(700)
    with caplog.at_level(logging.ERROR, "roost.stt"):
        await house.close()
        await house.until(lambda: figures(house).get('roost_gpu_releases_total{outcome="kept"}') == 1.0)
    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "gpu_release"]
    assert "is not free" in record.getMessage()
    assert (
        "700 MiB more are in use than before the speech worker, by no process that can be seen" in record.getMessage()
    )
    health = await house.plugin.health()
    assert not health.ok
    assert "was not given back" in health.detail
    assert "**the card is not free**" in await house.plugin.gpu_status()


async def test_a_process_that_has_the_device_open_is_named(
    card: PretendCard, stranger: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Where NVML shows no processes, as in many containers, ``/proc`` still does."""
    device = tmp_path / "nvidia0"
    device.touch()
    pattern = re.compile(rf"^{re.escape(str(device))}$")
    watched = gpu.Card("0", holders=lambda: gpu.device_holders(device=pattern))
    card.hide_processes()
    await watched.before_start()
    assert watched.key == UUID
    code = f"file = open({str(device)!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        card.used_by(holder.pid, 300)
        release = await watched.after_end(stranger.pid, 0.5)
        assert (release.outcome, release.ok) == ("kept", False)
        assert f"by process {holder.pid} (python" in release.detail
        holder.kill()
    assert (await watched.after_end(stranger.pid, 0.5)).outcome == "clean"


async def test_a_worker_still_shown_by_nvml_is_not_gone(card: PretendCard, stranger: subprocess.Popen[bytes]) -> None:
    watched = gpu.Card("0")
    await watched.before_start()
    card.used_by(stranger.pid, 1)
    assert (await watched.after_end(stranger.pid, 0.5)).outcome == "kept"
    watching = asyncio.create_task(watched.after_end(stranger.pid, 5.0))
    await asyncio.sleep(0.05)
    stranger.kill()
    stranger.wait()
    assert (await watching).outcome == "clean"


async def test_without_a_driver_nothing_is_claimed(card: PretendCard) -> None:
    card.size(0)
    watched = gpu.Card("0")
    await watched.before_start()
    release = await watched.after_end(1, 0.5)
    assert release.outcome == "unverified"
    assert "Driver Not Loaded" in release.detail


async def test_settings_that_name_no_card(make: Make, card: PretendCard) -> None:
    with pytest.raises(ConfigError, match=r"lease\.gpu"):
        await make(lease={"gpu": "first"})
    with pytest.raises(ConfigError, match="compute_type"):
        await make(compute_type="float8")


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "release"])
async def test_a_whole_bot_gives_the_card_back(card: PretendCard, tmp_path: Path, how: str) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "card.py").write_text(DROP_IN)
    settings = {"plugins__dir": tmp_path / "plugins", "stt__engine": "card", "stt__device": "cuda"}
    async with transcribing_bot(tmp_path, **settings) as stage:

        async def ask(command: str, **options: Any) -> str:
            answer = await stage.discord.slash(
                member_id=stage.owner, channel_id=stage.text, command=command, options=options, wait_s=10
            )
            return str(answer["replies"][-1]["content"])

        await stage.speak()
        await stage.until(lambda captions: any("heard on cuda" in each for each in captions))
        assert card.used == 4300
        worker = stage.worker
        assert f"process {worker}) runs on cuda float16" in await ask("/bot gpu status")
        if how == "SIGKILL":
            stage.bot.kill()
        elif how == "SIGTERM":
            stage.bot.terminate()
            await stage.bot.wait_for(
                lambda event: event.get("event") == "gpu_release" and event.get("outcome") == "clean", 10, "release"
            )
        else:
            assert "is going on" in await ask("/bot gpu release")
            assert "The card is free after" in await ask("/bot gpu release", force=True)
        assert await wait_gone([worker], 5.0) is not None
        assert card.used == 0
