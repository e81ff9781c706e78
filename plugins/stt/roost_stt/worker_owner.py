"""The bot's one speech worker and the card it may use: from the first use to a release that was looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from roost.context import PluginContext
from roost.errors import ConfigError, SpeechError
from roost.speech import EngineSpec, Transcript
from roost_stt.config import SttConfig, lease_folder
from roost_stt.engine import SpeechWorker
from roost_stt.gpu import MIB, Card
from roost_stt.partials import Partial
from roost_stt.reports import report
from roost_stt.supervision import State, Trouble, WorkerSettings

_log = logging.getLogger("roost.stt")

RELEASE_S = 2.0
STOP_RELEASE_S = 0.25
"""When the bot goes down, which may take 3 s in all."""
SAMPLE_S = 10.0
CONTEXT_BYTES = 600 * MIB
"""Of CUDA itself, and what an inference takes."""


class WorkerOwner:
    """Makes the worker when it is wanted, ends it when it is idle, and then looks whether the card is free.

    Args:
        ctx: Of the plugin; its tasks run there.
        config: Of the plugin.
        in_use: Whether anything is being transcribed.
        on_transcript: See `SpeechWorker`.
        on_trouble: See `SpeechWorker`.
        on_partial: See `SpeechWorker`.
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
    ) -> None:
        self._ctx = ctx
        self._config = config
        self._in_use = in_use
        self._on_transcript = on_transcript
        self._on_trouble = on_trouble
        self._on_partial = on_partial
        self.worker: SpeechWorker | None = None
        self.card: Card | None = None
        """None while no engine has wanted one."""
        self._looked_for: int | None = None
        """The worker whose release was looked at last."""
        self._idle: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    @property
    def holds_card(self) -> bool:
        """Whether a worker lives that may use a card."""
        worker = self.worker
        return worker is not None and worker.pid is not None and worker.ladder.spec.needs_gpu

    async def ready(self) -> SpeechWorker:
        """A worker that works.

        Raises:
            ConfigError: No plugin provides the engine.
            SpeechError: It cannot be started; says why.
        """
        async with self._changing:
            self._disarm()
            if self.worker is None:
                self.worker = await self._make()
            worker = self.worker
            if self.card is not None and worker.pid is None:
                await self.card.before_start()
                self._ctx.task(self._sample(), "gpu")
            try:
                await worker.start(self._ctx.scope)
            except SpeechError:
                self.arm_idle()
                raise
            return worker

    async def _make(self) -> SpeechWorker:
        config = self._config
        spec: EngineSpec | None = await self._ctx.hooks.call("stt_engine", name=config.engine)
        if spec is None:
            raise ConfigError(f"no plugin provides the engine {config.engine}", key="stt.engine")
        lease, environment = None, dict[str, str]()
        if spec.needs_gpu:
            card = self.card = Card(config.lease.gpu)
            await card.sample()
            environment = card.environment()
            lease = {"folder": str(lease_folder()), "gpu": card.key, "needed_bytes": self._needed(spec)}
            lease |= {"slots": config.lease.slots, "wait_s": config.lease.wait_s}
        settings = WorkerSettings(
            spec,
            config.endpointing.options(),
            config.threads,
            config.max_batch,
            lease,
            environment,
            cpu_if_gpu_fails=config.device == "auto",
        )
        return SpeechWorker(settings, self._on_transcript, self._trouble, self._on_partial)

    def _needed(self, spec: EngineSpec) -> int:
        """Bytes that the card should have free: as was set, or by the size of the model."""
        if self._config.lease.memory_mib:
            return self._config.lease.memory_mib * MIB
        file = Path(str(spec.config.get("model", ""))) / "model.bin"
        return 2 * file.stat().st_size + CONTEXT_BYTES if file.is_file() else 0

    def _trouble(self, what: Trouble, guild_id: int | None, detail: str) -> None:
        self._on_trouble(what, guild_id, detail)
        if what is Trouble.FAILED:
            self._ctx.task(self._look_after(RELEASE_S), "gpu-release")

    def arm_idle(self) -> None:
        """End the worker after a while without use."""
        if self.worker is None or self._in_use():
            return
        if self._idle is None or self._idle.done():
            self._idle = self._ctx.task(self._close_when_idle(), "idle")

    def _disarm(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _close_when_idle(self) -> None:
        await asyncio.sleep(self._config.idle_s)
        async with self._changing:
            if not self._in_use():
                await self._close("the speech worker was idle and has ended", RELEASE_S)

    async def release(self) -> None:
        """End the worker now, and look."""
        async with self._changing:
            await self._close("the speech worker was told to end", RELEASE_S)

    async def close(self, *, stopping: bool) -> None:
        """The plugin's end. Idempotent."""
        worker = self.worker
        if worker is not None:
            await self._close("the speech worker is gone", STOP_RELEASE_S if stopping else RELEASE_S)

    async def _close(self, why: str, limit_s: float) -> None:
        worker = self.worker
        if worker is not None and worker.state is not State.STOPPED:
            await worker.close()
            report(why, worker)
            await self._look_after(limit_s)

    async def _look_after(self, limit_s: float) -> None:
        """Whether the card is as it was before the worker, which has ended."""
        worker, card = self.worker, self.card
        if card is None or worker is None or worker.last_pid in (None, self._looked_for):
            return
        self._looked_for = worker.last_pid
        release = await card.after_end(worker.last_pid, limit_s)
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
                worker.last_pid,
                release.detail,
                extra=extra,
            )
        else:
            _log.info("GPU %s after the speech worker: %s", card.key, release.detail or release.outcome, extra=extra)

    async def _sample(self) -> None:
        """Look now and then while the card is held, for `/metrics`."""
        while self.card is not None:
            await asyncio.sleep(SAMPLE_S)
            if not self.holds_card:
                return
            await self.card.sample()
