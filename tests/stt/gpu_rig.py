"""The pretended card: a driver library compiled here (``card/fake_nvml.c``), and bots whose engine takes its memory."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
from prometheus_client import generate_latest
from stt_house import ADA, GUILD, TEXT, House, houses
from stt_rig import packets_of

from roost.hooks import hookimpl
from roost.speech import EngineSpec
from roost_stt import gpu
from roost_stt.ladder import whisper_ladder

HERE = Path(__file__).parent / "card"
UUID = "GPU-00000000-1111-2222-3333-444444444444"
MIB = 1 << 20
Make = Callable[..., Awaitable[House]]
DROP_IN = """
from roost import Meta, hookimpl
from roost_stt.ladder import whisper_ladder

@hookimpl
def plugin_meta(): return Meta("card")

@hookimpl
def stt_engine(name):
    return whisper_ladder({}, "card_engine:create", gpu=True, compute_type="auto") if name == "card" else None
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in for the driver's library."""
    folder = tmp_path_factory.mktemp("driver")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "a C compiler is needed for the pretended card"
    options = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *options, "-o", folder / "libnvidia-ml.so.1", HERE / "fake_nvml.c"], check=True)
    return folder


class PretendCard:
    """The machine's card, to be filled by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "used").mkdir(parents=True)
        self.size(24_000)

    def size(self, mib: int) -> None:
        (self.folder / "total").write_text(str(mib * MIB))

    def other(self, mib: int) -> None:
        (self.folder / "other").write_text(str(mib * MIB))

    def used_by(self, pid: int, mib: int) -> None:
        (self.folder / "used" / str(pid)).write_text(str(mib * MIB))

    def hide_processes(self) -> None:
        (self.folder / "hidden").touch()

    def fail(self, function: str, code: int) -> None:
        """Have a function of the driver answer with an error; 0 mends it."""
        (self.folder / "errors").mkdir(exist_ok=True)
        (self.folder / "errors" / function).write_text(str(code))

    def hang(self, function: str, *, still: bool = True) -> None:
        """Have a function of the driver not return while `still`."""
        (self.folder / "hangs").mkdir(exist_ok=True)
        (self.folder / "hangs" / function).write_text("1" if still else "0")

    @property
    def used(self) -> int:
        return gpu.look("0").used // MIB


@pytest.fixture
def card(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendCard:
    """A card of 24 GB, seen by this process and by its children."""
    monkeypatch.setenv("PRETEND_CARD", str(tmp_path / "card"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    monkeypatch.setenv("ROOST_LEASE_DIR", str(tmp_path / "leases"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(driver / "libnvidia-ml.so.1")))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return PretendCard(tmp_path / "card")


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Some process that is none of ours."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


class Provider:
    """A plugin with the engine of the pretended card, on the steps of the Whisper engine."""

    def __init__(self, **config: Any) -> None:
        self.config = config

    @hookimpl
    def stt_engine(self, name: str) -> EngineSpec | None:
        if name != "card":
            return None
        return whisper_ladder(self.config, "card_engine:create", gpu=True, compute_type="auto")


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with houses() as build:

        async def furnished(*, broken: bool = False, helper: bool = False, **settings: Any) -> House:
            house = await build(engine="card", device=settings.pop("device", "cuda"), **settings)
            house.dispatcher.manager.register(Provider(broken=broken, helper=helper), "guest")
            await house.open()
            return house

        yield furnished


async def start(house: House) -> str:
    return await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)


async def heard(house: House) -> str:
    """Where what Ada says now is understood."""
    before = len(house.messages)
    house.session.say(packets_of("lv_0880")[:100])
    await house.plugin._worker.drain(GUILD, asyncio.get_running_loop().time() + 20)  # type: ignore[union-attr]
    await house.until(lambda: any("heard on" in text for text in house.texts[before:]), 20)
    return next(text.replace("\\", "") for text in house.texts[before:] if "heard on" in text)


def figures(house: House) -> dict[str, float]:
    lines = generate_latest(house.ctx.metrics).decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("roost_gpu")}
