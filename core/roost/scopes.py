"""The only home of ``create_task``: every task has an owner that ends it.

A `Scope` owns tasks. Closing it cancels what still runs and waits for it, bounded; a task that fails is reported at
once and never lost. A task that has to live as long as its owner is started with `Scope.keep`, which restarts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from roost.strays import Tamed

T = TypeVar("T")
_log = logging.getLogger("roost.scopes")

FailureHandler = Callable[[str, BaseException], None]
FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 60.0
STEADY_S = 60.0
"""A kept task that ran for so long before it failed is restarted as soon as at its first failure."""


class Scope:
    """A named owner of tasks.

    Args:
        name: Prefix of the tasks' names, for logs and leak reports.
        on_failure: Called with (task name, error) when a task raises; by default the error is logged.
        tames: The tasks are a plugin's: one that raises SystemExit and the like fails, and ends nothing else.
    """

    def __init__(self, name: str, on_failure: FailureHandler | None = None, *, tames: bool = False) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._on_failure = on_failure
        self._tames = tames

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def task_names(self) -> list[str]:
        return sorted(task.get_name() for task in self._tasks)

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """Those that run."""
        return set(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, T], name: str, *, awaited: bool = False) -> asyncio.Task[T]:
        """Start a task owned by this scope.

        Args:
            awaited: The caller awaits the task's result itself, so its failure is not reported a second time.

        Raises:
            RuntimeError: The scope is closed; the coroutine is closed too, so nothing is left un-awaited.
        """
        if self._closed:
            coro.close()
            raise RuntimeError(f"scope {self.name} is closed, {name} was not started")
        run = Tamed(coro) if self._tames and asyncio.iscoroutine(coro) else coro
        task = asyncio.get_running_loop().create_task(run, name=f"{self.name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not awaited:
            task.add_done_callback(self._report)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        """Start a task that must not end before its scope: what it raises is logged, and it is started again.

        The pause before that grows with each failure. A cancellation that it raises without having been asked to end is
        a failure too: of a future that somebody else gave up, say. Cancelled by anything but its scope it is started
        again at once. It ends when it returns.

        Args:
            work: Makes the coroutine, anew each time; it goes on with what its owner remembers.

        Raises:
            RuntimeError: The scope is closed.
        """
        task = self.spawn(self._kept(work, name), name)
        task.add_done_callback(partial(self._revive, work, name))
        return task

    def _revive(self, work: Callable[[], Coroutine[Any, Any, None]], name: str, task: asyncio.Task[None]) -> None:
        if task.cancelled() and not self._closed:
            _log.error("task %s was cancelled by something else and starts again", task.get_name())
            self.keep(work, name)

    async def _kept(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        pause_s = FIRST_RESTART_S
        while True:
            began = loop.time()
            try:
                await work()
            except asyncio.CancelledError as error:
                if task is None or task.cancelling():
                    raise
                failure: BaseException = error
            except Exception as error:  # noqa: BLE001 - logged, and mended by starting again
                failure = error
            else:
                return
            if loop.time() - began >= STEADY_S:
                pause_s = FIRST_RESTART_S
            _log.error(
                "task %s/%s failed and starts again in %.1f s: %s",
                self.name,
                name,
                pause_s,
                type(failure).__name__,
                exc_info=failure,
                extra={"event": "task_restarts", "task": name},
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RESTART_S)

    def _report(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            if not task.cancelling():
                # Nobody asked the task to end: what it awaited was given up by somebody else.
                _log.warning("task %s ended: something it waited for was cancelled", task.get_name())
            return
        error = task.exception()
        if error is None:
            return
        if self._on_failure is not None:
            self._on_failure(task.get_name(), error)
        else:
            _log.error("task %s failed", task.get_name(), exc_info=error)

    async def aclose(self, timeout_s: float = 2.0) -> list[str]:
        """Cancel every task and wait for their ends, at most `timeout_s`.

        Safe to call twice and while being cancelled. Never waits for the calling task.

        Returns:
            Names of tasks that ignored their cancellation.
        """
        self._closed = True
        current = asyncio.current_task()
        mine = {task for task in self._tasks if task is not current}
        for task in mine:
            task.cancel()
        if mine:
            await asyncio.wait(mine, timeout=timeout_s)
        return sorted(task.get_name() for task in mine if not task.done())


def outlive_cancellation() -> None:
    """Forget that somebody cancelled the current task, which goes on."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Await brief work that must not be interrupted. A cancellation of the caller takes effect once the work is done.

    For work whose interruption would leave something open.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # its failure is of no interest to anybody any more
        raise
