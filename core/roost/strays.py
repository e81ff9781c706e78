"""Exceptions that are no `Exception`, raised by plugin code: ``sys.exit()`` in a hook would end the whole bot.

asyncio lets ``SystemExit`` and ``KeyboardInterrupt`` out of its loop, and a ``CancelledError`` that nobody asked for
looks like the bot's own. Whatever calls plugin code makes an ordinary error of them here. The same holds for a
cancellation that such code asks of the task in which it was called.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types
from collections.abc import Coroutine, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from roost.errortext import error_line, is_error

T = TypeVar("T")


class StrayError(Exception):
    """Stands for what a plugin raised.

    Attributes:
        original: That.
    """

    def __init__(self, original: BaseException) -> None:
        super().__init__(error_line(original))
        self.original = original


def tamed(error: BaseException) -> Exception:
    """The error itself, or an ordinary one in its place."""
    return error if is_error(error, Exception) else StrayError(error)


class CancelledItselfError(Exception):
    """Plugin code cancelled the task that called it; the call is over, and the task goes on.

    Attributes:
        place: ``file:line`` of that.
    """

    def __init__(self, place: str) -> None:
        super().__init__("it cancelled the task that called it")
        self.place = place


class HostTask(asyncio.Task[T]):
    """A task that plugin code which is called in it cannot end: that ends the call alone. See `taming`."""

    __slots__ = ()

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the task to end, or only the plugin's call if that is what asks, while it runs."""
        asks = sys._getframe(1)
        if asyncio.current_task(self.get_loop()) is not self or asks.f_globals is _GROUPS:
            return super().cancel(msg)
        if frames.inside:
            raise CancelledItselfError(_place_of(asks))
        call = _calls.get(self)
        if call is None:
            return super().cancel(msg)
        call.refuse(_place_of(asks))
        return True


class Frames:
    """The calls of ``voice_audio_frame``, which are too many for `taming`.

    Attributes:
        inside: Whether one runs. If it cancels its task it gets a `CancelledItselfError` at once.
    """

    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside = False


frames = Frames()


def host_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
) -> HostTask[T]:
    """The task factory of an event loop that runs a bot."""
    return HostTask(coro, loop=loop, **options)


_GROUPS = vars(asyncio.taskgroups)
"""A `TaskGroup` whose parent was cancelled asks it anew as it ends, since Python 3.13."""


def _place_of(frame: types.FrameType) -> str:
    """``file:line`` of a call, below what asyncio itself does."""
    each: types.FrameType | None = frame
    while each is not None and each.f_code.co_filename.startswith(_ASYNCIO):
        each = each.f_back
    frame = each or frame
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


_ASYNCIO = str(Path(asyncio.__file__).parent)


class _Call:
    """Plugin code that is called in a task which is not the plugin's.

    Attributes:
        refused_at: Where it has cancelled that task; empty where it has not.
    """

    __slots__ = ("_before", "_interrupts", "_outer", "_over", "_task", "refused_at")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._outer = _calls.get(task)
        """Of the plugin that has called this one."""
        _calls[task] = self
        self._before = task.cancelling()
        self._interrupts = False
        self._over = False
        self.refused_at = ""

    def is_cancelled(self) -> bool:
        """Whether somebody else wants the task to end. A time-out of the code's own takes its request back."""
        return self._task.cancelling() - self._interrupts > self._before

    def refuse(self, place: str) -> None:
        """The code wants the task to end: end what it waits for next, if it goes on."""
        if not self.refused_at:
            self.refused_at = place
            self._task.get_loop().call_soon(self._interrupt)

    def _interrupt(self) -> None:
        if not self._over:
            self._interrupts = True
            self._task.cancel()

    def end(self) -> None:
        """The code is over, or is left behind with all that it has called."""
        mine = each = _calls.get(self._task)
        while each is not None and each is not self:
            each = each._outer
        if each is None:
            return
        while mine is not None and mine is not self._outer:
            mine._over = True
            if mine._interrupts:
                mine._interrupts = False
                self._task.uncancel()
            mine = mine._outer
        if self._outer is not None:
            _calls[self._task] = self._outer
        else:
            del _calls[self._task]


_calls: dict[asyncio.Task[Any], _Call] = {}
"""The innermost one of each task that plugin code is called in."""


@contextlib.contextmanager
def taming() -> Iterator[None]:
    """Whatever a plugin raises in this block leaves it as an `Exception`; a cancellation of the task stays one.

    A `HostTask` that the plugin's code itself cancels, while it runs, goes on: what the block waits for is cancelled,
    and it raises `CancelledItselfError`, unless the code raises another error.
    """
    task = _current_task()
    call = _Call(task) if task is not None else None
    try:
        yield
        if call is not None and call.refused_at:
            raise CancelledItselfError(call.refused_at)
    except Exception:
        raise
    except BaseException as error:
        if is_error(error, GeneratorExit):
            raise
        if call is None or not is_error(error, asyncio.CancelledError):
            raise StrayError(error) from error
        if call.is_cancelled():
            raise
        raise (CancelledItselfError(call.refused_at) if call.refused_at else StrayError(error)) from error
    finally:
        if call is not None:
            call.end()


def _current_task() -> asyncio.Task[Any] | None:
    """The task that runs; None in callbacks, and where no event loop runs."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def being_cancelled(error: BaseException) -> bool:
    """Whether an error is the cancellation that somebody asked of the current task, and not made up by a plugin."""
    if not is_error(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class Tamed(Coroutine[Any, Any, T]):
    """A coroutine for a task of a plugin; what it raises to end the process fails that task alone.

    A cancellation ends the task whoever raised it.
    """

    __slots__ = ("_coro",)

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro

    def send(self, value: Any, /) -> Any:
        try:
            return self._coro.send(value)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise StrayError(error) from error

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None, /) -> Any:
        try:
            return self._coro.throw(value if value is not None else kind)
        except (Exception, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            raise StrayError(error) from error

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coro.__await__()

    def __getattr__(self, name: str) -> Any:
        """Its name and its frame, for those who list tasks."""
        return getattr(self._coro, name)
