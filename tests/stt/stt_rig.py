"""Recordings as Opus packets, and a worker with what came out of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

import roost_voice.sim
from roost.audio import AudioFrame
from roost.opus import encode_all
from roost.scopes import Scope
from roost.speech import EngineSpec, Transcript
from roost_stt.engine import SpeechWorker
from roost_stt.models import locate
from roost_stt.partials import Partial
from roost_stt.supervision import Trouble, WorkerSettings, WorkerTiming

RECORDINGS = Path(roost_voice.sim.__file__).parent / "recordings"
SCRIPTED = "roost_stt.worker.engines.scripted:create"
WHISPER = "roost_stt.worker.engines.whisper:create"


def samples_of(name: str) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A shipped recording, 48 kHz mono."""
    resampler = av.AudioResampler("s16", "mono", 48_000)
    parts = []
    with av.open(next(RECORDINGS.glob(f"{name}.*"))) as file:
        for frame in file.decode(audio=0):
            parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(frame)]
    parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(None)]
    return np.concatenate(parts)


def packets_of(name: str, packet_ms: float = 20) -> list[bytes]:
    return encode_all(samples_of(name), packet_ms=packet_ms)


def manifest() -> dict[str, str]:
    """Name to text."""
    entries = json.loads((RECORDINGS / "manifest.json").read_text())
    entries = entries.get("recordings", entries) if isinstance(entries, dict) else entries
    return {str(entry.get("name") or entry.get("id")): str(entry["text"]) for entry in entries}


@dataclasses.dataclass
class Rig:
    """A worker and what came out of it."""

    worker: SpeechWorker
    scope: Scope
    transcripts: list[Transcript]
    arrived_s: list[float]
    troubles: list[tuple[Trouble, int | None, str]]
    changed: asyncio.Event
    partials: list[Partial] = dataclasses.field(default_factory=list)
    muted: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    events: list[Partial | Transcript] = dataclasses.field(default_factory=list)
    """Partials and transcripts as they came."""

    async def until_partial(self, count: int = 1, timeout_s: float = 20.0) -> None:
        """Wait for that many partials."""
        async with asyncio.timeout(timeout_s):
            while len(self.partials) < count:
                self.changed.clear()
                await self.changed.wait()

    async def until(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait for that many transcripts."""
        async with asyncio.timeout(timeout_s):
            while len(self.transcripts) < count:
                self.changed.clear()
                await self.changed.wait()

    async def say(self, packets: list[bytes], *, user: int = 7, guild: int = 1, real_time: bool = False) -> float:
        """Write packets as one speaker; gives the loop's time at the last one."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, packet in enumerate(packets):
            self.worker.write(AudioFrame(guild, user, user, number * 960, packet))
            if real_time:
                await asyncio.sleep(max(0.0, begin + (number + 1) * 0.02 - loop.time()))
            elif number % 100 == 99:
                await asyncio.sleep(0.005)
        return loop.time()

    async def drain(self, guild: int = 1, timeout_s: float = 20.0) -> bool:
        return await self.worker.drain(guild, asyncio.get_running_loop().time() + timeout_s)

    def text(self, user: int = 7) -> str:
        return " ".join(each.text for each in self.transcripts if each.user_id == user and each.text)


Build = Callable[..., Awaitable[Rig]]


def scripted(*texts: str, delay_s: float = 0.0) -> EngineSpec:
    return EngineSpec(SCRIPTED, {"texts": list(texts), "delay_s": delay_s})


def worker_pids() -> list[int]:
    """Speech workers that are children of this process, unreaped ones included."""
    found = []
    for child in psutil.Process().children():
        try:
            if "roost_stt.worker" in child.cmdline():
                found.append(child.pid)
        except psutil.ZombieProcess:
            found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@contextlib.asynccontextmanager
async def workers() -> AsyncIterator[Build]:
    """Start workers; afterwards none may be left."""
    rigs: list[Rig] = []

    async def build(
        spec: EngineSpec | None = None,
        lease: dict[str, Any] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        cpu_if_gpu_fails: bool = False,
        **timing: Any,
    ) -> Rig:
        if spec is None:
            spec = EngineSpec(WHISPER, {"model": locate("tiny.en"), "device": "cpu"})
        transcripts: list[Transcript] = []
        arrived: list[float] = []
        troubles: list[tuple[Trouble, int | None, str]] = []
        changed = asyncio.Event()

        def take(transcript: Transcript) -> None:
            transcripts.append(transcript)
            made.events.append(transcript)
            arrived.append(asyncio.get_running_loop().time())
            changed.set()

        def trouble(what: Trouble, guild: int | None, detail: str) -> None:
            troubles.append((what, guild, detail))
            changed.set()

        def take_partial(partial: Partial) -> None:
            made.partials.append(partial)
            made.events.append(partial)
            changed.set()

        def take_muted(guild: int, user: int) -> None:
            made.muted.append((guild, user))
            changed.set()

        settings = WorkerSettings(
            spec,
            lease=lease,
            environment=environment or {},
            cpu_if_gpu_fails=cpu_if_gpu_fails,
            timing=WorkerTiming(**timing),
        )
        worker = SpeechWorker(settings, take, trouble, take_partial, take_muted)
        made = Rig(worker, Scope("test"), transcripts, arrived, troubles, changed)
        rigs.append(made)
        await worker.start(made.scope)
        return made

    yield build
    for each in rigs:
        await each.worker.close()
        assert await each.scope.aclose() == []
        assert each.worker.pid is None
    assert worker_pids() == []
