"""The only home of ``create_task``: every task has an owner that ends it.

A `Scope` owns tasks. Closing it cancels what still runs and waits for it, bounded; a task that fails is reported at
once and never lost. Work that has to last as long as its owner is started with `Scope.keep`, which restarts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from roost.errortext import class_name
from roost.strays import Tamed, taming

T = TypeVar("T")
_log = logging.getLogger("roost.scopes")

FailureHandler = Callable[[str, BaseException], None]
FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 60.0
STEADY_S = 60.0
"""Kept work that ran for so long before it ended is restarted as soon as at its first end."""


class Scope:
    """A named owner of tasks.

    Args:
        name: Prefix of the tasks' names, for logs and leak reports.
        on_failure: Called with (task name, error) when a task raises; by default the error is logged.
        tames: The tasks are a plugin's: one that raises SystemExit and the like fails, and ends nothing else.
        on_restart: Called with the name of kept work that starts again.
    """

    def __init__(
        self,
        name: str,
        on_failure: FailureHandler | None = None,
        *,
        tames: bool = False,
        on_restart: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._on_failure = on_failure
        self._on_restart = on_restart
        self._tames = tames

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def tames(self) -> bool:
        """Whether the tasks are a plugin's."""
        return self._tames

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

    def keep(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        *,
        on_start: Callable[[asyncio.Task[None]], None] | None = None,
    ) -> Kept:
        """Start work that must not end before its scope: what it raises is reported, and it is started again.

        So it is when anything but its owner cancels it. The pause before that grows with each time. A cancellation that
        it raises without having been asked to end is a failure: of a future that somebody else gave up, say. It is over
        when it returns.

        Args:
            work: Makes the coroutine, anew each time; it goes on with what its owner remembers.
            on_start: Called with each task that does the work.

        Raises:
            RuntimeError: The scope is closed.
        """
        return Kept(self, work, name, on_start)

    def is_ending(self, task: asyncio.Task[Any]) -> bool:
        """Whether the owner of a task of this scope wants its end."""
        return self._closed or task in self._ending

    def note_restart(self, name: str, failure: BaseException | None, pause_s: float) -> None:
        """Report that kept work starts again: after a failure, or because something cancelled it."""
        told = failure is not None and self._on_failure is not None
        _log.error(
            "task %s/%s %s and starts again in %.1f s",
            self.name,
            name,
            "was cancelled by something else" if failure is None else f"failed ({class_name(failure)})",
            pause_s,
            exc_info=None if told else failure,
            extra={"event": "task_restarts", "task": name},
        )
        if self._on_restart is not None:
            self._on_restart(name)
        if failure is not None and self._on_failure is not None:
            self._on_failure(f"{self.name}/{name}", failure)

    async def end(self, tasks: Collection[asyncio.Task[Any]], timeout_s: float = 2.0) -> None:
        """Cancel some of the tasks, kept ones for good, and wait for their ends, at most `timeout_s`.

        Never waits for the calling task.
        """
        ending = set(tasks) & self._tasks - {asyncio.current_task()}
        self._ending |= ending
        for task in ending:
            task.add_done_callback(self._ending.discard)
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=timeout_s)

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


class Kept:
    """Work that is started again whenever anything but its owner ends it. `Scope.keep` makes one."""

    __slots__ = ("_began_s", "_name", "_on_start", "_over", "_pause_s", "_scope", "_task", "_work")

    def __init__(
        self,
        scope: Scope,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        on_start: Callable[[asyncio.Task[None]], None] | None = None,
    ) -> None:
        self._scope = scope
        self._work = work
        self._name = name
        self._on_start = on_start
        self._over = False
        self._pause_s = 0.0
        """Before the next start; a failure has at least `FIRST_RESTART_S`."""
        self._began_s: float | None = None
        """When the work began; None during a pause."""
        self._task = self._start(0.0)

    @property
    def task(self) -> asyncio.Task[None]:
        """The one that does the work now, or did it last."""
        return self._task

    def is_ending(self) -> bool:
        """Whether its owner wants its end."""
        return self._over or self._scope.is_ending(self._task)

    def done(self) -> bool:
        """Whether the work is over for good."""
        return self._task.done() and (not self._task.cancelled() or self.is_ending())

    def end(self) -> None:
        """End the work for good; does not wait, and does not cancel the calling task."""
        self._over = True
        if self._task is not asyncio.current_task():
            self._task.cancel()

    def _start(self, pause_s: float) -> asyncio.Task[None]:
        task = self._scope.spawn(self._run(pause_s), self._name)
        task.add_done_callback(self._done)
        if self._on_start is not None:
            self._on_start(task)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._over or not task.cancelled() or self._scope.is_ending(task):
            self._over = True
            return
        pause_s = self._next_pause(0.0)
        self._scope.note_restart(self._name, None, pause_s)
        self._task = self._start(pause_s)

    async def _run(self, pause_s: float) -> None:
        task = asyncio.current_task()
        while True:
            self._began_s = None
            if pause_s:
                await asyncio.sleep(pause_s)
            self._began_s = asyncio.get_running_loop().time()
            try:
                with taming() if self._scope.tames else contextlib.nullcontext():
                    await self._work()
            except asyncio.CancelledError as error:
                if task is None or task.cancelling():
                    raise
                failure: BaseException = error
            except Exception as error:
                if self.is_ending():
                    raise  # it is over, however it ends
                failure = error
            else:
                return
            pause_s = self._next_pause(FIRST_RESTART_S)
            self._scope.note_restart(self._name, failure, pause_s)

    def _next_pause(self, least_s: float) -> float:
        began_s = self._began_s
        if began_s is not None and asyncio.get_running_loop().time() - began_s >= STEADY_S:
            self._pause_s = 0.0
        pause_s = max(self._pause_s, least_s)
        self._pause_s = min(max(2 * pause_s, FIRST_RESTART_S), LONGEST_RESTART_S)
        return pause_s


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
