"""The bot's one speech worker and the card it may use: from the first use to a release that was looked at."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from roost.context import PluginContext
from roost.errors import ClosedError, ConfigError
from roost.scopes import Kept
from roost.speech import EngineSpec, Transcript
from roost_stt.config import SttConfig, lease_folder
from roost_stt.engine import SpeechWorker
from roost_stt.gpu import MIB, Card, Release
from roost_stt.partials import Partial
from roost_stt.reports import report
from roost_stt.supervision import STEPS_DOWN, State, Trouble, WorkerSettings

_log = logging.getLogger("roost.stt")

RELEASE_S = 2.0
STOP_RELEASE_S = 0.25
"""When the bot goes down, which may take 3 s in all."""
SAMPLE_S = 10.0
CONTEXT_BYTES = 600 * MIB
"""Of CUDA itself, and what an inference takes."""
_RESTS = (State.STOPPED, State.FAILED)


class WorkerOwner:
    """Makes the worker when it is wanted, ends it when it is idle, and then looks whether the card is free.

    Args:
        ctx: Of the plugin; its tasks run there.
        config: Of the plugin.
        in_use: Whether anything is being transcribed.
        on_transcript: See `SpeechWorker`.
        on_trouble: See `SpeechWorker`.
        on_partial: See `SpeechWorker`.
        on_muted: See `SpeechWorker`.
        owner_of: See `SpeechWorker`.
    """

    def __init__(
        self,
        ctx: PluginContext,
        config: SttConfig,
        in_use: Callable[[], bool],
        on_transcript: Callable[[Transcript], None],
        on_trouble: Callable[[Trouble, int | None, str], None],
        *,
        on_partial: Callable[[Partial], None],
        on_muted: Callable[[int, int], None],
        owner_of: Callable[[int], int],
    ) -> None:
        self._ctx = ctx
        self._config = config
        self._in_use = in_use
        self._on_transcript = on_transcript
        self._on_trouble = on_trouble
        self._on_partial = on_partial
        self._on_muted = on_muted
        self._owner_of = owner_of
        self.worker: SpeechWorker | None = None
        self.card: Card | None = None
        """None while no engine has wanted one."""
        self._closed = False
        self._patience_s = math.inf
        """The longest look at the card."""
        self._wanted = 0
        self._looked_for: int | None = None
        """The worker whose release was looked at last."""
        self._idle: Kept | None = None
        self._sampling: Kept | None = None
        self._late: Kept | None = None
        self._changing = asyncio.Lock()
        self._looking = asyncio.Lock()

    @property
    def holds_card(self) -> bool:
        """Whether a worker lives that may use a card."""
        worker = self.worker
        return worker is not None and worker.pid is not None and worker.ladder.spec.needs_gpu

    @property
    def rests(self) -> bool:
        """Whether there is no worker and none is about to come."""
        worker = self.worker
        return worker is None or (worker.pid is None and worker.state in _RESTS)

    @contextlib.asynccontextmanager
    async def wanted(self) -> AsyncIterator[None]:
        """While somebody is about to use the worker it is not idle; if they do not come to it, it is afterwards."""
        self._wanted += 1
        try:
            yield
        finally:
            self._wanted -= 1
            self.arm_idle()

    async def ready(self) -> SpeechWorker:
        """A worker that works; call it within `wanted`.

        Raises:
            ClosedError: The plugin is being unloaded.
            ConfigError: No plugin provides the engine, or there is no such card.
            SpeechError: It cannot be started; says why.
        """
        async with self._changing:
            self._disarm()
            if self.worker is None:
                self.worker = await self._make()
            worker = self.worker
            if self.card is not None and self.rests:
                async with self._looking:
                    await self.card.before_start()
                # By now the driver may have said which card it is.
                environment, lease = self.card.environment(), self._lease(self.card, worker.settings.spec)
                worker.settings = dataclasses.replace(worker.settings, environment=environment, lease=lease)
            if self._closed:
                raise ClosedError("The speech-to-text plugin is not loaded.")
            if self.card is not None and (self._sampling is None or self._sampling.done()):
                self._sampling = self._ctx.keep(partial(self._sample, self.card, worker), "gpu")
            await worker.start(self._ctx.scope)
            return worker

    async def _make(self) -> SpeechWorker:
        config = self._config
        spec: EngineSpec | None = await self._ctx.hooks.call("stt_engine", name=config.engine)
        if spec is None:
            raise ConfigError(f"no plugin provides the engine {config.engine}", key="stt.engine")
        if spec.needs_gpu and self.card is None:
            self.card = Card(config.lease.gpu)
        settings = WorkerSettings(
            spec,
            config.endpointing.options(),
            config.threads,
            config.max_batch,
            cpu_if_gpu_fails=config.device == "auto",
        )
        return SpeechWorker(
            settings, self._on_transcript, self._trouble, self._on_partial, self._on_muted, owner_of=self._owner_of
        )

    def _lease(self, card: Card, spec: EngineSpec) -> dict[str, Any]:
        lease = self._config.lease
        return {
            "folder": str(lease_folder()),
            "gpu": card.key,
            "needed_bytes": self._needed(spec),
            "slots": lease.slots,
            "wait_s": lease.wait_s,
        }

    def _needed(self, spec: EngineSpec) -> int:
        """Bytes that the card should have free: as was set, or by the size of the model."""
        if self._config.lease.memory_mib:
            return self._config.lease.memory_mib * MIB
        file = Path(str(spec.config.get("model", ""))) / "model.bin"
        return 2 * file.stat().st_size + CONTEXT_BYTES if file.is_file() else 0

    def _trouble(self, what: Trouble, guild_id: int | None, detail: str) -> None:
        self._on_trouble(what, guild_id, detail)
        worker = self.worker
        if worker is None or self._closed:
            return
        on_card = worker.ladder.spec.needs_gpu
        if (what is Trouble.FAILED and on_card) or (what in STEPS_DOWN.values() and not on_card):
            self._ctx.task(self._look_after(RELEASE_S, worker.last_pid), "gpu-release")

    def arm_idle(self) -> None:
        """End the worker after a while without use."""
        if self.worker is None or self._is_used() or self._closed:
            return
        if self._idle is None or self._idle.done():
            self._idle = self._ctx.keep(self._close_when_idle, "idle")

    def _is_used(self) -> bool:
        return self._wanted > 0 or self._in_use()

    def _disarm(self) -> None:
        """Call it with `_changing` held: then it is not at its work."""
        if self._idle is not None:
            self._idle.end()
            self._idle = None

    async def _close_when_idle(self) -> None:
        await asyncio.sleep(self._config.idle_s)
        async with self._changing:
            if not self._is_used():
                await self._close("the speech worker was idle and has ended", RELEASE_S)

    async def release(self) -> None:
        """End the worker now, and look."""
        async with self._changing:
            await self._close("the speech worker was told to end", RELEASE_S)

    async def cut_short(self) -> None:
        """End a worker that has not become ready; whoever waits for it is told so."""
        if self.worker is not None and self.worker.state in (State.STARTING, State.WAITING):
            await self.worker.close()

    async def close(self, *, stopping: bool) -> None:
        """The plugin's end. Idempotent. Whoever starts the worker, or looks at the card, is cut short."""
        self._closed = True
        limit_s = self._patience_s = STOP_RELEASE_S if stopping else RELEASE_S
        if self.card is not None:
            self.card.hurry(limit_s)
        await self._close("the speech worker is gone", limit_s)

    async def _close(self, why: str, limit_s: float) -> None:
        worker = self.worker
        if worker is None:
            return
        on_card = worker.ladder.spec.needs_gpu
        if worker.state is not State.STOPPED:
            await worker.close()
            report(why, worker)
        if on_card:
            await self._look_after(limit_s, worker.last_pid)

    async def _look_after(self, limit_s: float, pid: int | None) -> None:
        """Whether the card is as it was before the worker, which has ended."""
        if pid in (None, self._looked_for):
            return
        async with self._looking:
            card = self.card
            if card is None or pid in (None, self._looked_for):
                return
            release = await card.after_end(pid, min(limit_s, self._patience_s))
            self._looked_for = pid  # only now: if this one is cancelled, the next one looks
            self._tell(card, release, pid)
            if release.outcome == "kept" and not self._closed:
                if self._late is not None:
                    self._late.end()
                self._late = self._ctx.keep(partial(self._look_again, card, release, pid), "gpu-late")

    async def _look_again(self, card: Card, release: Release, pid: int | None) -> None:
        """Look now and then whether memory that was kept comes back after all, until there is another worker."""
        while self.rests and card.last is release:
            await asyncio.sleep(SAMPLE_S)
            async with self._looking:
                if self.rests and card.last is release and await card.came_back(pid):
                    _log.info(
                        "GPU %s is free now, %.0f s after the end of the speech worker", card.key, card.last.took_s
                    )
                    return

    def _tell(self, card: Card, release: Release, pid: int | None) -> None:
        extra = {
            "event": "gpu_release",
            "outcome": release.outcome,
            "took_s": release.took_s,
            "before_bytes": release.before,
            "after_bytes": release.after,
        }
        if release.outcome == "kept":
            _log.error(
                "GPU %s is not free %.1f s after the end of the speech worker (process %s): %s",
                card.key,
                release.took_s,
                pid,
                release.detail,
                extra=extra,
            )
        else:
            _log.info("GPU %s after the speech worker: %s", card.key, release.detail or release.outcome, extra=extra)

    async def _sample(self, card: Card, worker: SpeechWorker) -> None:
        """Look now and then while the card is held, for `/metrics`; through crashes, too."""
        while True:
            await asyncio.sleep(SAMPLE_S)
            if worker.state in _RESTS or not worker.ladder.spec.needs_gpu:
                return
            await card.sample()
