"""Workers that are gone when the test is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from stt_rig import WHISPER, Build, Rig, worker_pids

from roost.scopes import Scope
from roost.speech import EngineSpec, Transcript
from roost_stt.engine import SpeechWorker, Trouble, WorkerSettings, WorkerTiming
from roost_stt.models import locate


@pytest.fixture
async def rig() -> AsyncIterator[Build]:
    """Start workers; afterwards none may be left."""
    rigs: list[Rig] = []

    async def build(spec: EngineSpec | None = None, **timing: Any) -> Rig:
        if spec is None:
            spec = EngineSpec(WHISPER, {"model": locate("tiny.en"), "device": "cpu"})
        transcripts: list[Transcript] = []
        arrived: list[float] = []
        troubles: list[tuple[Trouble, int | None, str]] = []
        changed = asyncio.Event()

        def take(transcript: Transcript) -> None:
            transcripts.append(transcript)
            arrived.append(asyncio.get_running_loop().time())
            changed.set()

        def trouble(what: Trouble, guild: int | None, detail: str) -> None:
            troubles.append((what, guild, detail))
            changed.set()

        worker = SpeechWorker(WorkerSettings(spec, timing=WorkerTiming(**timing)), take, trouble)
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
