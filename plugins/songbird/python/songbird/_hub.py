"""One queue from Songbird's threads to each asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any, Protocol

from songbird import _songbird
from songbird.errors import ConnectError, NotConnectedError, SongbirdError, SourceError, TrackError, connect_error

_HUBS: dict[asyncio.AbstractEventLoop, LoopHub] = {}


def _forget_closed() -> None:
    """Loops that ended before their drivers did: what they hold ends with whoever still has it."""
    for loop, hub in list(_HUBS.items()):
        if loop.is_closed():
            del _HUBS[loop]
            hub.native.close()


class Receiver(Protocol):
    """Whoever gets a driver's messages."""

    def receive(self, kind: str, content: Any) -> None: ...


class LoopHub:
    """Watches the native queue and hands out what it holds, in the loop's thread.

    Made with the loop's first user and closed with its last: until then it is one watched socket.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.native = _songbird.Hub()
        self._loop = loop
        self._ids = itertools.count(1)
        self._receivers: dict[int, Receiver] = {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        loop.add_reader(self.native.fileno(), self._drain)

    @staticmethod
    def of_this_loop() -> LoopHub:
        """Raises RuntimeError outside a loop."""
        loop = asyncio.get_running_loop()
        hub = _HUBS.get(loop)
        if hub is None:
            _forget_closed()
            hub = _HUBS[loop] = LoopHub(loop)
        return hub

    def register(self, receiver: Receiver) -> int:
        number = next(self._ids)
        self._receivers[number] = receiver
        return number

    def unregister(self, number: int) -> None:
        self._receivers.pop(number, None)
        self._close_unused()

    def begin(self) -> tuple[int, asyncio.Future[Any]]:
        """A number to give to the native half, and the future that it will settle."""
        number = next(self._ids)
        future = self._loop.create_future()
        self._waiting[number] = future
        return number, future

    async def answer(self, number: int, future: asyncio.Future[Any], timeout: float | None) -> Any:
        """Wait for an answer; TimeoutError without one."""
        try:
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._waiting.pop(number, None)
            future.cancel()
            self._close_unused()

    @property
    def dropped(self) -> int:
        """Packets dropped because the loop was too slow for them."""
        return int(self.native.dropped)

    def _close_unused(self) -> None:
        if self._receivers or self._waiting or _HUBS.get(self._loop) is not self:
            return
        del _HUBS[self._loop]
        if not self._loop.is_closed():
            self._loop.remove_reader(self.native.fileno())
        self.native.close()

    def _drain(self) -> None:
        for number, kind, content in self.native.drain():
            if kind in ("done", "failed"):
                self._settle(number, kind, content)
                continue
            concerned = self._receivers.get(number)
            # A panic is of some driver, and nobody knows of which.
            for receiver in list(self._receivers.values()) if kind == "panicked" else [concerned]:
                if receiver is None:
                    continue
                # A listener that raises must not cost the others their messages.
                try:
                    receiver.receive(kind, content)
                except Exception as error:  # noqa: BLE001 - reported where the loop reports such things
                    self._loop.call_exception_handler(
                        {"message": f"songbird: an event ({kind}) could not be handed on", "exception": error}
                    )

    def _settle(self, number: int, kind: str, content: Any) -> None:
        future = self._waiting.pop(number, None)
        if future is None or future.done():
            return
        if kind == "done":
            future.set_result(content)
        else:
            future.set_exception(_error(*content))


def _error(kind: str, code: int | None, text: str) -> SongbirdError:
    if kind in ("finished", "play", "control"):
        return TrackError(text)
    if kind == "source":
        return SourceError(text)
    if kind == "closed":
        return NotConnectedError(text)
    return connect_error(kind, code, text)


async def ask(hub: LoopHub, start: Any, timeout: float | None) -> Any:
    """Start a native operation by its number and wait for its answer."""
    number, future = hub.begin()
    try:
        start(number)
    except BaseException:
        future.cancel()
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await hub.answer(number, future, 0)
        raise
    return await hub.answer(number, future, timeout)


__all__ = ["ConnectError", "LoopHub", "Receiver", "ask"]
