"""Virtual time: a loop whose clock jumps to the next timer instead of waiting for it.

For code that sleeps and has deadlines but no sockets, threads or child processes. Pure code takes ``now`` as an
argument and needs no clock at all.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Never waits: what the loop would wait for passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.stuck = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            self.stuck = True
            raise RuntimeError("every task waits for something that no timer will bring: a deadlock in virtual time")
        self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._jumping = _Jumping()
        self._jumping.now_s = start_s
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class VirtualTime:
    """Owns a `VirtualLoop`; close it, or use it in ``with``.

    Args:
        start_s: What ``loop.time()`` says at first.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(start_s))

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; an hour of sleep takes no time.

        Raises:
            RuntimeError: Everything waits and no timer runs.
        """
        return self._runner.run(coro)

    @property
    def now_s(self) -> float:
        return self._runner.get_loop().time()

    def close(self) -> None:
        self._runner.close()

    def __enter__(self) -> VirtualTime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
