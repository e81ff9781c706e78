"""A real card: used by real engines, and back at the baseline within two seconds of the worker's end."""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from stt_house import ADA, GUILD, TEXT, House, houses
from stt_rig import manifest, packets_of, scripted
from test_speech_process import Stage, transcribing_bot

from roost.demo.bot_process import wait_gone
from roost.errors import ResourceError
from roost.hooks import hookimpl
from roost.speech import EngineSpec
from roost.text import wer
from roost_stt import gpu
from roost_stt.ladder import whisper_ladder
from roost_stt.models import locate

GIB = 1 << 30
SAID = "lv_0920"
Make = Callable[..., Awaitable[House]]
NO_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
TORCH_PLUGIN = """
from roost import Meta, hookimpl
from roost.speech import EngineSpec

@hookimpl
def plugin_meta(): return Meta("card")

@hookimpl
def stt_engine(name):
    return EngineSpec("torch_engine:create", {}, needs_gpu=True) if name == "torch" else None
"""


def why_not() -> str:
    """Why there is no card to test with; empty when there is one."""
    try:
        gpu.look("0")
    except ResourceError as error:
        return f"NO CARD HERE, SO NOTHING OF THIS WAS TESTED: {error}"
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a card")]


class Provider:
    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @hookimpl
    def stt_engine(self, name: str) -> EngineSpec | None:
        return self.spec if name == "real" else None


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setenv("ROOST_LEASE_DIR", str(tmp_path / "leases"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "card"), prepend=os.pathsep)
    async with houses() as build:

        async def furnished(spec: EngineSpec) -> House:
            house = await build(engine="real", device="cuda")
            house.dispatcher.manager.register(Provider(spec), "guest")
            await house.open()
            await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
            return house

        yield furnished


def cublas_is_there() -> bool:
    if any((folder / "libcublas.so.12").exists() for folder in gpu.library_folders()):
        return True
    try:
        ctypes.CDLL("libcublas.so.12")
    except OSError:
        return False
    return True


def engines() -> list[object]:
    whisper = whisper_ladder(
        {"model": locate("tiny.en")}, "roost_stt.worker.engines.whisper:create", gpu=True, compute_type="auto"
    )
    torch = EngineSpec("torch_engine:create", {}, needs_gpu=True)
    no_cublas = pytest.mark.skipif(
        not cublas_is_there(), reason="CTranslate2 cannot use a card without cuBLAS 12: pip install nvidia-cublas-cu12"
    )
    return [pytest.param(whisper, id="whisper", marks=no_cublas), pytest.param(torch, id="torch", marks=NO_TORCH)]


async def said(house: House) -> str:
    before = len(house.texts)
    house.session.say(packets_of(SAID))
    await house.plugin._worker.drain(GUILD, asyncio.get_running_loop().time() + 60)  # type: ignore[union-attr]
    await house.until(lambda: len(house.texts) > before, 60)
    return " ".join(house.texts[before:])


@pytest.mark.parametrize("spec", engines())
@pytest.mark.parametrize("how", ["unload", "killed"])
async def test_the_card_is_back_at_the_baseline(make: Make, spec: EngineSpec, how: str) -> None:
    before = gpu.look("0")
    house = await make(spec)
    text = await said(house)
    worker = house.plugin._worker
    assert worker is not None
    if spec.factory.startswith("torch"):
        assert "heard on cuda torch" in text
        assert gpu.look("0").used > before.used + GIB
    elif "cuda" in worker.runs_on:
        assert wer(manifest()[SAID], text.replace("**Ada\\***:", "")) <= 0.2
        assert gpu.look("0").used > before.used + gpu.SLACK_BYTES
    else:
        pytest.skip(f"CTranslate2 cannot use the card of this machine: {worker.ladder.why}")
    if how == "killed":
        (pid,) = house.workers()
        os.kill(pid, signal.SIGKILL)
        await house.until(lambda: house.workers() not in ([], [pid]), 30)
    await house.unload()
    owner = house.plugin._owner
    assert owner is not None
    assert owner.card is not None
    assert owner.card.last is not None
    assert owner.card.last.ok, owner.card.last
    assert owner.card.last.took_s <= 2.0
    assert gpu.look("0").used <= before.used + gpu.SLACK_BYTES


async def test_looking_at_the_card_keeps_nothing_of_it_open(make: Make) -> None:
    house = await make(scripted("hello"))
    await house.plugin.gpu_status()
    gpu.look("0")
    assert os.getpid() not in gpu.device_holders()
    assert os.getpid() not in gpu.look("0").processes


@pytest.fixture
def torch_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a bot whose plugin offers the engine of torch."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "card.py").write_text(TORCH_PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "card"), prepend=os.pathsep)
    return {"plugins__dir": tmp_path / "plugins", "stt__engine": "torch", "stt__device": "cuda"}


async def ask(stage: Stage, command: str, member: int | None = None, **options: Any) -> str:
    answer = await stage.discord.slash(
        member_id=member or stage.owner, channel_id=stage.text, command=command, options=options, wait_s=30
    )
    return "\n".join(str(each["content"]) for each in answer["replies"])


async def heard_on_the_card(stage: Stage) -> None:
    def count(captions: list[str]) -> int:
        return sum("heard on cuda torch" in each for each in captions)

    before = count(await stage.captions())
    await stage.speak()
    await stage.until(lambda captions: count(captions) > before)


async def back_at(used: int, within_s: float) -> None:
    """Wait until no more of the card is in use than before."""
    async with asyncio.timeout(within_s):
        while gpu.look("0").used > used + gpu.SLACK_BYTES:
            await asyncio.sleep(0.02)


@NO_TORCH
@pytest.mark.e2e
@pytest.mark.parametrize("how", ["release", "SIGTERM", "SIGKILL", "worker killed"])
async def test_a_whole_bot_gives_a_real_card_back(tmp_path: Path, torch_settings: dict[str, Any], how: str) -> None:
    before = gpu.look("0")
    async with transcribing_bot(tmp_path, **torch_settings) as stage:
        await heard_on_the_card(stage)
        worker = stage.worker
        assert gpu.look("0").used > before.used + GIB
        status = await ask(stage, "/bot gpu status")
        assert f"process {worker}) runs on cuda torch for 1 transcription" in status
        assert before.uuid in status
        if how == "release":
            assert "is going on" in await ask(stage, "/bot gpu release")
            assert "The card is free after" in await ask(stage, "/bot gpu release", force=True)
            assert await wait_gone([worker], 0.0) is not None
        elif how == "SIGTERM":
            stage.bot.terminate()
            event = await stage.bot.wait_for(lambda event: event.get("event") == "gpu_release", 10, "release")
            assert event["outcome"] == "clean"
            assert await stage.bot.wait(5.0) == 0
        elif how == "SIGKILL":
            stage.bot.kill()
        else:
            os.kill(worker, signal.SIGKILL)
            await stage.until(lambda captions: any("starting again" in each for each in captions))
            await heard_on_the_card(stage)
            assert stage.worker != worker
            assert "The card is free after" in await ask(stage, "/bot gpu release", force=True)
        assert await wait_gone([worker], 5.0) is not None
        await back_at(before.used, 2.0)


@NO_TORCH
@pytest.mark.e2e
async def test_two_bots_take_a_real_card_in_turn(tmp_path: Path, torch_settings: dict[str, Any]) -> None:
    before = gpu.look("0")
    (tmp_path / "leases").mkdir(mode=0o700)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "leases").symlink_to(tmp_path / "leases")
    async with (
        transcribing_bot(tmp_path / "one", **torch_settings) as one,
        transcribing_bot(tmp_path / "two", started=False, **torch_settings) as two,
    ):
        await heard_on_the_card(one)
        assert "slots of GPU" in await ask(two, "/transcribe start", two.ada)
        assert "The card is free after" in await ask(one, "/bot gpu release", force=True)
        assert "Transcribing" in await ask(two, "/transcribe start", two.ada)
        assert f"process {two.worker}) runs on cuda torch" in await ask(two, "/bot gpu status")
        assert "The card is free after" in await ask(two, "/bot gpu release", force=True)
        await back_at(before.used, 2.0)


@pytest.mark.e2e
async def test_a_bot_without_cublas_says_what_to_install(tmp_path: Path) -> None:
    if cublas_is_there():
        pytest.skip("cuBLAS 12 is installed")
    before = gpu.look("0")
    async with transcribing_bot(tmp_path, started=False, stt__device="cuda") as stage:
        assert "pip install nvidia-cublas-cu12" in await ask(stage, "/transcribe start", stage.ada)
        assert "Last release: free" in await ask(stage, "/bot gpu status")
    await back_at(before.used, 2.0)


@NO_TORCH
@pytest.mark.e2e
async def test_a_full_card_leads_to_the_cpu(tmp_path: Path) -> None:
    """What CUDA and CTranslate2 say of a card without room is understood."""
    if not cublas_is_there():
        pytest.skip("without cuBLAS 12 the card is not asked for memory")
    fill = (
        "import sys, torch; free = torch.cuda.mem_get_info()[0] - (600 << 20); "
        "held = torch.zeros(free, dtype=torch.uint8, device='cuda'); print('full', flush=True); sys.stdin.read()"
    )
    filler = await asyncio.create_subprocess_exec(
        sys.executable, "-c", fill, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert filler.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await filler.stdout.readline() == b"full\n"
        async with transcribing_bot(tmp_path, stt__device="cuda") as stage:
            status = await ask(stage, "/bot gpu status")
            assert "out of memory" in status
            assert "runs on cpu" in status
            await stage.speak()
            await stage.until(lambda captions: any("amiable woman" in each for each in captions))
            assert sum("no room" in each for each in await stage.captions()) == 1
    finally:
        filler.kill()
        await filler.wait()
