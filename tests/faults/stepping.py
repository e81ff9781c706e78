"""Knows every await of a coroutine, and of all tasks, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that says so each time it is suspended."""

    def __init__(self, coro: Coroutine[Any, Any, Any], suspended: Callable[[], None]) -> None:
        self._coro = coro
        self._suspended = suspended

    def send(self, value: Any) -> Any:
        waits_for = self._coro.send(value)
        self._suspended()
        return waits_for

    def throw(self, *error: Any) -> Any:
        waits_for = self._coro.throw(*error)
        self._suspended()
        return waits_for

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("it is for a task alone")


@contextlib.contextmanager
def watching(suspended: Callable[[str], None]) -> Iterator[None]:
    """Say the name of each task that is started meanwhile whenever it is suspended."""
    loop = asyncio.get_running_loop()

    def told() -> None:
        task = asyncio.current_task()
        suspended(task.get_name() if task is not None else "")

    def make(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(Stepped(coro, told), loop=loop, **options)

    before = loop.get_task_factory()
    loop.set_task_factory(make)  # type: ignore[arg-type]
    try:
        yield
    finally:
        loop.set_task_factory(before)


class Countdown:
    """Cancels a task at the k-th suspension that is counted. Nothing counts before the first one of its own."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.task: asyncio.Task[Any] | None = None
        self._begun = False

    @property
    def struck(self) -> bool:
        return self.left <= 0

    def step(self) -> None:
        if self.task is None or self.task.done():
            return
        self._begun = self._begun or asyncio.current_task() is self.task
        if self._begun:
            self.left -= 1
            if self.left == 0:
                self.task.cancel()


async def cancelled_at(make: Callable[[], Coroutine[Any, Any, Any]], steps: int) -> bool:
    """Run a coroutine and cancel it at its k-th await; False when it came to its end before that.

    Raises:
        AssertionError: It swallowed the cancellation, or made another exception of it.
    """
    countdown = Countdown(steps)
    countdown.task = asyncio.get_running_loop().create_task(Stepped(make(), countdown.step))
    await asyncio.wait({countdown.task})
    if not countdown.struck:
        countdown.task.result()
        return False
    assert countdown.task.cancelled(), f"the cancellation at await {steps} did not come out"
    return True
