"""Cutting off plugin code that blocks the event loop.

A deadline of asyncio ends what awaits; it cannot end ``time.sleep(3600)`` or an endless loop, which would take the
whole bot along. Plugin code therefore runs between `Guard.enter` and `Guard.leave`; a watching thread that sees the
same entry for too long interrupts the main thread with a signal, whose handler raises `BlockedError` at the very line
that blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import threading
import time
import types
from collections.abc import Coroutine, Generator, Iterator
from typing import Any, NamedTuple

from roost.strays import StrayError, being_cancelled

TICK_S = 0.25
LIMIT_S = 2.0
"""How long a hook or listener may keep the event loop from everything else."""
OPENING_LIMIT_S = 10.0
"""For ``on_load`` and ``on_unload``, which may have files to read."""
STALL_S = 1.0
"""A process that does not run for less long is merely busy."""
STOPPING_LIMIT_S = 0.5
"""For everything, once the bot goes down: voice must be left in less than three seconds."""

GRACE_S = 0.5
"""How long a coroutine of a plugin may go on after its cancellation, to clean up."""

_SIGNAL = signal.SIGVTALRM


class BlockedError(TimeoutError):
    """The plugin code at this line blocked the event loop for too long."""

    def __init__(self) -> None:
        super().__init__("it blocked the event loop")


class StalledError(TimeoutError):
    """A deadline passed while the process stood still or other code blocked it: it is not the caller's failure."""

    def __init__(self) -> None:
        super().__init__("its time passed while the whole process stood still")


class Moment(NamedTuple):
    """What `Guard.stood_still` compares.

    Attributes:
        at_s: The time.
        used_s: Processor time that the process has used.
        blocked_s: How long plugin code that was interrupted had kept everything else waiting, in all.
        wakes: How often the watching thread woke; None while nobody watches.
    """

    at_s: float
    used_s: float
    blocked_s: float
    wakes: int | None


class _Cancellation:
    """What becomes of a cancellation of the current task that is handed into a coroutine of a plugin."""

    __slots__ = ("_before", "_error", "_outer", "_overdue", "_task", "_timer")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._outer = _innermost.get(task)
        """Of the coroutine of another plugin that has called this one."""
        _innermost[task] = self
        self._before = task.cancelling()
        self._error: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._overdue = False

    @property
    def _asked(self) -> bool:
        """Whether somebody wants the task to end. A time-out inside the coroutine takes its own request back."""
        return self._task.cancelling() > self._before

    def is_overdue(self, error: BaseException) -> bool:
        """Take what is about to be thrown into the coroutine; True when it had `GRACE_S` and is to be left behind."""
        if self._overdue:
            self._task.uncancel()  # the request of `_give_up`
            return True
        if self._timer is None and self._asked and isinstance(error, asyncio.CancelledError):
            self._error = error
            self._timer = self._task.get_loop().call_later(GRACE_S, self._give_up)
        return False

    def went_on(self) -> None:
        """The coroutine awaits something again."""
        if not self._asked:
            self._drop()

    def raise_if_asked(self, trace: types.TracebackType | None = None) -> None:
        """Raises the cancellation that somebody still wants.

        Args:
            trace: Where the coroutine was left behind.
        """
        if self._error is not None and self._asked:
            raise self._error if trace is None else self._error.with_traceback(trace)

    def end(self) -> None:
        """The coroutine is over, or is left behind with all that it has called."""
        self._drop()
        each = _innermost.get(self._task)
        while each is not None and each is not self:
            each = each._outer
        if each is None:
            return
        if self._outer is not None:
            _innermost[self._task] = self._outer
        else:
            del _innermost[self._task]

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._error = None

    def _give_up(self) -> None:
        if _innermost.get(self._task) is not self:
            # Another plugin's that it has called goes on, and is left behind first. This one may be over then.
            self._timer = self._task.get_loop().call_later(GRACE_S, self._give_up)
            return
        self._overdue = True
        self._task.cancel()


_innermost: dict[asyncio.Task[Any], _Cancellation] = {}
"""Of each task that is in a coroutine of a plugin."""


def _waits_in(coro: object) -> types.TracebackType | None:
    """Where a coroutine waits, as the traceback of an error that was raised there."""
    frames: list[types.FrameType] = []
    while True:
        frame: types.FrameType | None = None
        if isinstance(coro, types.CoroutineType):
            frame, coro = coro.cr_frame, coro.cr_await
        elif isinstance(coro, types.GeneratorType):
            frame, coro = coro.gi_frame, coro.gi_yieldfrom
        if frame is None:
            break
        frames.append(frame)
    trace = None
    for frame in reversed(frames):
        trace = types.TracebackType(trace, frame, frame.f_lasti, frame.f_lineno)
    return trace


def _leave_behind(coro: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine; keep one that goes on all the same for ever.

    Python closes it once more when it frees it. At the end of the process no event loop makes its next ``await`` wait,
    and a loop in it would never end.
    """
    try:
        coro.close()
    except BaseException:  # noqa: BLE001 - whatever the plugin makes of it
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(coro))


class Guard:
    """Knows which piece of plugin code the event loop is in. Entering and leaving cost no system call."""

    __slots__ = ("_blocked_s", "_condemned", "_count", "_limit_s", "_most_s", "_token", "_wakes")

    def __init__(self) -> None:
        self._token = 0
        self._count = 0
        self._limit_s = LIMIT_S
        self._most_s = float("inf")
        self._condemned = 0
        self._blocked_s = 0.0
        self._wakes: int | None = None

    def moment(self) -> Moment:
        """Now; give it to `stood_still`."""
        return Moment(time.monotonic(), time.process_time(), self._blocked_s, self._wakes)

    def stood_still(self, since: Moment) -> bool:
        """Whether the event loop did not run for most of the time since a moment, for a reason that is known.

        Either the whole process did not run, for its watching thread did not either and no processor time was used, or
        plugin code blocked it until it was interrupted.
        """
        if since.wakes is None or self._wakes is None:
            return False
        now = self.moment()
        passed_s = now.at_s - since.at_s
        away_s = passed_s - (self._wakes - since.wakes) * TICK_S
        if now.used_s - since.used_s > away_s / 2:
            away_s = 0.0  # native code that lets no other thread run
        lost_s = away_s + now.blocked_s - since.blocked_s
        return lost_s > STALL_S and lost_s > passed_s / 2

    def enter(self, limit_s: float = LIMIT_S) -> tuple[int, float]:
        """Plugin code begins; give the result to `leave`."""
        before = (self._token, self._limit_s)
        self._count += 1
        self._token, self._limit_s = self._count, min(limit_s, self._most_s)
        return before

    def leave(self, before: tuple[int, float]) -> None:
        self._token, self._limit_s = before

    @contextlib.contextmanager
    def inside(self, limit_s: float = LIMIT_S) -> Iterator[None]:
        """Plugin code runs in this block. `enter` and `leave` cost less."""
        before = self.enter(limit_s)
        try:
            yield
        finally:
            self.leave(before)

    def stopping(self) -> None:
        """The bot goes down: nobody may block for long any more."""
        self._most_s = STOPPING_LIMIT_S
        self._limit_s = min(self._limit_s, self._most_s)

    @types.coroutine
    def stepped(self, coro: Coroutine[Any, Any, Any], limit_s: float = LIMIT_S) -> Generator[Any, Any, Any]:
        """Await a coroutine of a plugin with each of its steps guarded; what it raises is an `Exception`.

        A cancellation ends this whatever the coroutine does: its answer does not count any more, and it is left behind
        if it is not over `GRACE_S` later. An ``except BaseException`` in a loop would outlast every deadline.
        """
        cancellation = _Cancellation()
        error: BaseException | None = None
        try:
            while True:
                before = self.enter(limit_s)
                try:
                    waits_for = coro.send(None) if error is None else coro.throw(error)
                except StopIteration as stop:
                    cancellation.raise_if_asked()
                    return stop.value
                except Exception:
                    cancellation.raise_if_asked()
                    raise
                except BaseException as stray:
                    if being_cancelled(stray):
                        raise
                    raise StrayError(stray) from stray
                finally:
                    self.leave(before)
                error = None
                cancellation.went_on()
                try:
                    yield waits_for
                except GeneratorExit:
                    coro.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - handed into the coroutine, cancellation too
                    error = thrown
                if error is not None and cancellation.is_overdue(error):
                    # It tells who is to blame, and is gone once the coroutine is closed.
                    trace = _waits_in(coro)
                    with self.inside(limit_s):
                        _leave_behind(coro)
                    cancellation.raise_if_asked(trace)
                    raise TimeoutError().with_traceback(trace)  # of the coroutine's own making
        finally:
            cancellation.end()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the end of the block. Does nothing outside the main thread, which alone gets signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stop,), name="loop guard", daemon=True)
        before = signal.signal(_SIGNAL, self._interrupted)
        self._wakes = 0
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            self._wakes = None
            signal.signal(_SIGNAL, before)

    def _watch(self, stop: threading.Event) -> None:
        """Counts own wake-ups, not time: a process that was stopped for a while has blocked nobody."""
        last, same = 0, 0
        while not stop.wait(TICK_S):
            self._wakes = (self._wakes or 0) + 1
            token = self._token
            same = same + 1 if token and token == last else 0
            last = token
            if same and same * TICK_S >= self._limit_s:
                self._blocked_s += same * TICK_S
                self._condemned, same = token, 0
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)

    def _interrupted(self, _number: int, _frame: types.FrameType | None) -> None:
        condemned, self._condemned = self._condemned, 0
        if condemned and condemned == self._token:
            raise BlockedError
