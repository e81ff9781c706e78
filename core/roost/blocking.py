"""Cutting off plugin code that blocks the event loop.

A deadline of asyncio ends what awaits; it cannot end ``time.sleep(3600)`` or an endless loop, which would take the
whole bot along. A watching thread therefore interrupts the main thread with a signal, whose handler raises
`BlockedError` at the very line that blocks:

- Hooks run between `Guard.enter` and `Guard.leave`. One that stays there for too long is interrupted.
- Everything else (commands, listeners, tasks, callbacks, destructors) is a step of the event loop. While the loop does
  not come round, the signal's handler looks at the stack: it raises if one step has taken too long and the innermost
  code on the stack that belongs to anybody is a plugin's. Code of `_OWN` is never interrupted, whoever called it; the
  handler waits until it has returned to the plugin.

Code that catches the interruption and goes on is interrupted again `INSIST_S` later, and from then on at every chance
until it has returned.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from roost.errortext import is_error, own
from roost.strays import StrayError, being_cancelled

TICK_S = 0.25
LIMIT_S = 2.0
"""How long plugin code may keep the event loop from everything else."""
OPENING_LIMIT_S = 10.0
"""For ``on_load`` and ``on_unload``, which may have files to read."""
STALL_S = 1.0
"""A process that does not run for less long is merely busy."""
OWN_SHARE = 0.25
"""A step that had the processor, or slept, for less than this share of its limit is not what holds up the loop."""
STOPPING_LIMIT_S = 0.5
"""For everything, once the bot goes down: voice must be left in less than three seconds."""

GRACE_S = 0.5
"""How long a coroutine of a plugin may go on after its cancellation, to clean up."""
INSIST_S = TICK_S
"""How long code may go on after it was interrupted. A command that came just before it must be answered within 3 s."""
REPORT_S = 1.0
"""How long an interruption may take to be counted by whatever called the plugin."""

_SIGNAL = signal.SIGVTALRM
_STEP = asyncio.Handle._run.__code__
"""Calls every callback, and every step of a task; a frame of it is one step of the event loop."""
_OWN = frozenset({"roost", "hikari", "lightbulb", "pluggy", "asyncio", "logging"})
"""Packages that are never interrupted: they are the bot's, or hold its locks."""
_SCHEDULED = Path("/proc/thread-self/schedstat")

_CAUSES = 8
"""How many causes of causes are looked at."""

NameOf = Callable[[str], str | None]
"""The plugin that a module belongs to."""

working: ContextVar[str | None] = ContextVar("roost_plugin", default=None)
"""The plugin that the work at hand was started for; what that starts inherits it."""


class BlockedError(TimeoutError):
    """The plugin code at this line blocked the event loop for too long.

    Attributes:
        plugin: Whose code; None where that is not known.
        function: Its qualified name.
        at: ``file:line`` of the plugin's code; empty where it is not known.
        context: That of the interrupted code.
        counted: It was counted as a failure of the plugin.
        first: The first interruption of the same code, which caught that; itself for the first one.
    """

    def __init__(
        self,
        plugin: str | None = None,
        function: str = "",
        at: str = "",
        context: Context | None = None,
        first: BlockedError | None = None,
    ) -> None:
        super().__init__("it blocked the event loop")
        self.plugin = plugin
        self.function = function
        self.at = at
        self.context = context
        self.counted = False
        self.first: BlockedError = first if first is not None else self


def note_counted(plugin: str, error: BaseException) -> None:
    """Note that an interruption is counted, with the error that it led to, as a failure of its plugin."""
    each: BaseException | None = error
    for _ in range(_CAUSES):
        if each is None:
            return
        if is_error(each, BlockedError) and each.plugin == plugin:
            each.first.counted = True
        each = each.original if is_error(each, StrayError) else own(each, "__cause__") or own(each, "__context__")


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
        line = frame.f_lineno or 0  # None in code that was compiled without lines
        trace = types.TracebackType(trace, frame, frame.f_lasti, line)
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


class Holding(NamedTuple):
    """Whose code holds the event loop.

    Attributes:
        step: The frame of the loop's step; None outside of any.
        plugin: The plugin, if its code may be interrupted now.
        function: Its qualified name.
        at: ``file:line`` of the plugin's code.
        frame: That code; without a `plugin`, code of one that has called the bot's own, which is at work.
    """

    step: types.FrameType | None
    plugin: str | None = None
    function: str = ""
    at: str = ""
    frame: types.FrameType | None = None


def is_core(module: str) -> bool:
    """Whether a module is never interrupted in a step of the event loop."""
    return module.partition(".")[0] in _OWN


def holding(frame: types.FrameType | None, name_of: NameOf, is_own: Callable[[str], bool] = is_core) -> Holding:
    """Say whose code a stack is in: the innermost that is a plugin's or the bot's decides, not what it has called.

    Where there is neither, as in ``loop.call_later(1, time.sleep, 30)``, the work that started it decides.

    Args:
        frame: The innermost one.
        name_of: Names the plugin that a module belongs to.
        is_own: Whether a module is the bot's, whatever `name_of` says.
    """
    nearest = each = frame
    plugin: str | None = None
    caller: types.FrameType | None = None
    own_code = False
    while each is not None and each.f_code is not _STEP:
        if plugin is None and caller is None:
            module = str(each.f_globals.get("__name__", ""))
            found = None if is_own(module) else name_of(module)
            if found is not None and own_code:
                caller = each
            elif found is not None:
                plugin, nearest = found, each
            else:
                own_code = own_code or is_own(module)
        each = each.f_back
    if plugin is None and not own_code:
        plugin = working.get()
    if plugin is None or nearest is None:
        return Holding(each, frame=caller)
    if nearest is each:
        callback = each.f_locals["self"]._callback  # native code, without a frame
        return Holding(each, plugin, str(getattr(callback, "__qualname__", type(callback).__qualname__)))
    code = nearest.f_code
    return Holding(each, plugin, code.co_qualname, f"{code.co_filename}:{nearest.f_lineno}", nearest)


def _waited_s() -> float:
    """How long the calling thread has waited for a processor, in all; 0 where the system does not say."""
    try:
        return int(_SCHEDULED.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Guard:
    """Knows which piece of plugin code the event loop is in. Entering and leaving cost no system call.

    Attributes:
        name_of: Names the plugin that a module belongs to.
        is_own: Whether a module is the bot's and not interrupted outside of hooks, though it is a plugin's.
        on_blocked: Called on the event loop for an interruption that nobody has counted: the plugin caught it, or
            nobody awaits its work.
    """

    __slots__ = (
        "_answered",
        "_blocked_s",
        "_condemned",
        "_count",
        "_errors",
        "_first",
        "_insists",
        "_limit_s",
        "_looking",
        "_most_s",
        "_raised",
        "_raised_in",
        "_since",
        "_step",
        "_token",
        "_traced",
        "_traced_by",
        "_waited_s",
        "_wakes",
        "is_own",
        "name_of",
        "on_blocked",
    )

    def __init__(self) -> None:
        self.name_of: NameOf = lambda _module: None
        self.is_own: Callable[[str], bool] = is_core
        self.on_blocked: Callable[[BlockedError], None] = lambda _error: None
        self._token = 0
        self._count = 0
        self._limit_s = LIMIT_S
        self._most_s = float("inf")
        self._condemned = 0
        self._raised_in = 0
        """The token of the hook that was interrupted last."""
        self._blocked_s = 0.0
        self._wakes: int | None = None
        self._answered = True
        """The event loop has come round since it was asked to."""
        self._step: types.FrameType | None = None
        """The step that the loop is in, if it takes long."""
        self._since = 0
        """The wake-up of the watching thread at which it was seen first, or was interrupted."""
        self._waited_s = 0.0
        """How long the main thread had waited for a processor by then."""
        self._raised = False
        """The step was interrupted."""
        self._traced: list[types.FrameType] = []
        """Code of a plugin that holds the loop. Each of its lines is a chance."""
        self._traced_by: Any = None
        """The trace function of before: a debugger's, say."""
        self._looking = False
        """`_interrupted` is at work, which may be interrupted itself."""
        self._insists = False
        """Raise at every chance."""
        self._first: BlockedError | None = None
        """The last interruption of code that had caught none before."""
        self._errors: list[BlockedError] = []
        """Interruptions whose counting is yet to be checked."""

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
    def watching(self, loop: asyncio.AbstractEventLoop | None = None) -> Iterator[None]:
        """Watch until the end of the block. Does nothing outside the main thread, which alone gets signals.

        Args:
            loop: Watch its steps too, and not hooks alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stop, loop), name="loop guard", daemon=True)
        before = signal.signal(_SIGNAL, self._interrupted)
        self._wakes, self._answered = 0, True
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            self._end_trace()
            self._wakes = self._step = None
            signal.signal(_SIGNAL, before)

    def _watch(self, stop: threading.Event, loop: asyncio.AbstractEventLoop | None) -> None:
        """Counts own wake-ups, not time: a process that was stopped for a while has blocked nobody."""
        last, same = 0, 0
        while not stop.wait(TICK_S):
            self._wakes = (self._wakes or 0) + 1
            token = self._token
            same = same + 1 if token and token == last else 0
            last = token
            limit_s = min(INSIST_S, self._limit_s) if token and token == self._raised_in else self._limit_s
            if same and same * TICK_S >= limit_s:
                self._blocked_s += same * TICK_S
                self._condemned, same = token, 0
                _signal()
            if loop is not None:
                self._watch_steps(loop)

    def _watch_steps(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask the loop to come round; while it does not, have `_interrupted` look at why."""
        if self._answered:
            self._answered = False
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._comes_round, loop)
        elif not self._token:
            _signal()

    def _comes_round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._answered = True
        self._step = None
        self._insists = False
        self._end_trace()
        if self._traced_by is not None:
            sys.settrace(self._traced_by)  # Python dropped it when `_line` raised
            self._traced_by = None
        errors, self._errors = self._errors, []
        for error in errors:
            loop.call_later(REPORT_S, self._check_counted, error)

    def _check_counted(self, error: BlockedError) -> None:
        if not error.counted:
            error.counted = True
            self.on_blocked(error)

    def _interrupted(self, _number: int, frame: types.FrameType | None) -> None:
        if self._looking or (frame is not None and frame.f_code in _TRACERS):
            return  # a look has begun, or goes on
        self._looking = True
        try:
            condemned, self._condemned = self._condemned, 0
            if self._token:
                self._look_at_hook(frame, condemned=condemned == self._token)
            else:
                self._look_at_step(holding(frame, self.name_of, self.is_own))
        finally:
            self._looking = False

    def _look_at_hook(self, frame: types.FrameType | None, *, condemned: bool) -> None:
        again = self._raised_in == self._token
        if not condemned and not (again and self._insists):
            return
        found = holding(frame, self.name_of)
        self._step = None  # what called the hook has all its time before it
        self._insists = again and found.plugin is not None
        if condemned or self._insists:
            self._raised_in = self._token
            self._raise(found)

    def _look_at_step(self, found: Holding) -> None:
        if found.step is None or self._wakes is None:
            return
        if found.step is not self._step:
            self._begin(found.step)
            return
        held_s = (self._wakes - self._since) * TICK_S
        limit_s = min(INSIST_S if self._raised else LIMIT_S - TICK_S, self._most_s)
        if not self._insists and held_s < limit_s:
            return
        if found.plugin is None:
            self._insists = False
            if found.frame is not None and not self._traced:
                self._trace(found.frame)
            return
        if not self._insists:
            if held_s - (_waited_s() - self._waited_s) < OWN_SHARE * limit_s:
                return  # other processes had the processor for nearly all of that time
            self._blocked_s += held_s
            self._insists = self._raised
        self._end_trace()
        self._raised, self._since = True, self._wakes
        self._raise(found)

    def _begin(self, step: types.FrameType) -> None:
        """Measure a step from now on."""
        self._step, self._since, self._waited_s = step, self._wakes or 0, _waited_s()
        self._raised = self._insists = False
        self._end_trace()

    def _trace(self, frame: types.FrameType) -> None:
        """Look at the stack again as soon as a line of a plugin's begins: this one, or one that called it."""
        if not self._traced:
            self._traced_by = sys.gettrace()
        each: types.FrameType | None = frame
        while each is not None and each.f_code is not _STEP:
            module = str(each.f_globals.get("__name__", ""))
            if not self.is_own(module) and self.name_of(module) is not None:
                each.f_trace = self._line
                self._traced.append(each)
            each = each.f_back
        sys.settrace(_trace_nothing)

    def _line(self, frame: types.FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self._interrupted(_SIGNAL, frame)
        return self._line

    def _end_trace(self) -> None:
        if self._traced:
            for frame in self._traced:
                frame.f_trace = None
            self._traced.clear()
            sys.settrace(self._traced_by)

    def _raise(self, found: Holding) -> NoReturn:
        first = self._first if self._insists else None
        error = BlockedError(found.plugin, found.function, found.at, copy_context(), first)
        if not self._insists:
            self._first = error
            if found.plugin is not None:
                self._errors.append(error)
            raise error
        # Two kinds of chances: Python 3.12 takes the end of a loop's turn for its beginning, inside the same `try`.
        if found.frame is not None:
            self._trace(found.frame)
        for _ in _once_more():
            raise error
        raise error


def _once_more() -> Iterator[None]:
    """An iterator that sends the signal anew as it begins.

    Python handles a signal at the next call or jump, so that ``return`` or ``raise`` in the first turn of a ``for``
    leaves it to the interrupted code.
    """
    return map(_thread.interrupt_main, (_SIGNAL,))


def _trace_nothing(_frame: types.FrameType, _event: str, _argument: Any) -> None:
    """The trace function of new frames."""


_TRACERS = frozenset({Guard._line.__code__, _trace_nothing.__code__})


def _signal() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
