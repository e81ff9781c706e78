"""A real card: used by real engines, and back at the baseline within two seconds of the worker's end."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from stt_house import ADA, GUILD, TEXT, House, houses
from stt_rig import manifest, packets_of, scripted

from roost.errors import ResourceError
from roost.hooks import hookimpl
from roost.speech import EngineSpec
from roost.text import wer
from roost_stt import gpu
from roost_stt.ladder import whisper_ladder
from roost_stt.models import locate

GIB = 1 << 30
SAID = "lv_0880"
Make = Callable[..., Awaitable[House]]


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
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "card"))
    async with houses() as build:

        async def furnished(spec: EngineSpec) -> House:
            house = await build(engine="real", device="cuda")
            house.dispatcher.manager.register(Provider(spec), "guest")
            await house.open()
            await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
            return house

        yield furnished


def engines() -> list[object]:
    whisper = whisper_ladder(
        {"model": locate("tiny.en")}, "roost_stt.worker.engines.whisper:create", gpu=True, compute_type="auto"
    )
    torch = EngineSpec("torch_engine:create", {}, needs_gpu=True)
    no_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
    return [pytest.param(whisper, id="whisper"), pytest.param(torch, id="torch", marks=no_torch)]


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
