"""Exceptions that are no `Exception`, raised by plugin code: ``sys.exit()`` in a hook would end the whole bot.

asyncio lets ``SystemExit`` and ``KeyboardInterrupt`` out of its loop, and a ``CancelledError`` that nobody asked for
looks like the bot's own. Whatever calls plugin code makes an ordinary error of them here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Generator, Iterator
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


@contextlib.contextmanager
def taming() -> Iterator[None]:
    """Whatever a plugin raises in this block leaves it as an `Exception`; a cancellation of the task stays one."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if is_error(error, GeneratorExit) or being_cancelled(error):
            raise
        raise StrayError(error) from error


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
