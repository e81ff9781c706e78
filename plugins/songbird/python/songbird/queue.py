"""Track after track."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Union

from songbird.driver import Driver
from songbird.errors import QueueError, SongbirdError
from songbird.events import Event
from songbird.tracks import Source, Track, TrackHandle

Item = Union[Track, Source, Awaitable[Union[Track, Source]]]  # noqa: UP007 - an alias that is evaluated
LISTENER_S = 10.0


class Queue:
    """Plays one item after the other on a driver, which it does not own.

    Items are sources, tracks, or awaitables of them; an awaitable is awaited when its turn comes. End it with `stop`
    or as an asynchronous context; leaving the driver ends what plays, not the queue.

    Args:
        driver: A `Driver`, or a `Voicebox`.
        on_next: Awaited with (driver, handle) when an item begins.
        on_fail: Awaited with (driver, item) when an item could not be played.
        most: Items that may wait.
    """

    def __init__(
        self,
        driver: Any,
        on_next: Callable[[Driver, TrackHandle], Awaitable[None]] | None = None,
        on_fail: Callable[[Driver, Any], Awaitable[None]] | None = None,
        *,
        most: int = 1000,
    ) -> None:
        self.driver: Driver = driver if isinstance(driver, Driver) else driver.driver
        self.on_next = on_next
        self.on_fail = on_fail
        self.track_handle: TrackHandle | None = None
        self._most = most
        self._items: collections.deque[Item] = collections.deque()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.start()

    @classmethod
    def with_items(cls, driver: Any, items: Iterable[Item], **options: Any) -> Queue:
        queue = cls(driver, **options)
        queue.extend(items)
        return queue

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Go on after `stop`. A new queue has started."""
        if not self.running:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="songbird-queue")

    async def stop(self) -> None:
        """Play nothing after the present track, which goes on."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait((task,), timeout=LISTENER_S)

    async def __aenter__(self) -> Queue:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def append(self, item: Item) -> None:
        """Raises QueueError when the queue is full."""
        self._check(item)
        self._items.append(item)
        self._changed.set()

    def extend(self, items: Iterable[Item]) -> None:
        for item in items:
            self.append(item)

    def insert(self, index: int, item: Item) -> None:
        self._check(item)
        self._items.insert(index, item)
        self._changed.set()

    def clear(self) -> None:
        """Drop what waits."""
        for item in self._items:
            _discard(item)
        self._items.clear()

    def skip(self) -> None:
        """End the present track."""
        if self.track_handle is None:
            raise QueueError("no track plays")
        with contextlib.suppress(SongbirdError):
            self.track_handle.stop()

    def __iadd__(self, items: Iterable[Item]) -> Queue:
        self.extend(items)
        return self

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Queue({list(self._items)!r})"

    def _check(self, item: Item) -> None:
        if not isinstance(item, (Track, Source, Awaitable)):
            raise QueueError(f"neither a Source nor a Track: {item!r}")
        if len(self._items) >= self._most:
            _discard(item)
            raise QueueError(f"{self._most} items wait already")

    async def _run(self) -> None:
        while True:
            while not self._items:
                self._changed.clear()
                await self._changed.wait()
            item = self._items.popleft()
            ended = asyncio.Event()
            try:
                handle = await self._begin(item, ended)
            except Exception as error:  # noqa: BLE001 - told, and the next item has its turn
                await self._tell(self.on_fail, item, error)
                continue
            self.track_handle = handle
            try:
                await self._tell(self.on_next, handle, None)
                await ended.wait()
            finally:
                self.track_handle = None

    async def _begin(self, item: Item, ended: asyncio.Event) -> TrackHandle:
        playable = item if isinstance(item, (Track, Source)) else await item
        track = Track(playable) if isinstance(playable, Source) else playable
        # Silent until the listener stands, so that no end can be missed.
        begin, track.paused = not track.paused, True
        handle = await self.driver.play(track)
        handle.add_event(Event.End, lambda _: ended.set())
        if begin:
            handle.play()
        return handle

    async def _tell(self, listener: Callable[..., Awaitable[None]] | None, what: Any, error: Exception | None) -> None:
        if listener is not None:
            try:
                async with asyncio.timeout(LISTENER_S):
                    await listener(self.driver, what)
                return
            except Exception as raised:  # noqa: BLE001 - a listener's mistake does not end the queue
                error = raised
        if error is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "songbird: a queue", "exception": error})


def _discard(item: Item) -> None:
    if asyncio.iscoroutine(item):
        item.close()
