"""The listeners of one driver."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
from collections.abc import Callable
from typing import Any

from songbird import _songbird
from songbird.events import (
    ClientDisconnect,
    ConnectData,
    DisconnectData,
    DisconnectKind,
    DisconnectReason,
    Event,
    Panic,
    Speaking,
    SpeakingState,
)
from songbird.track_state import TrackState

CLOSE_S = 6.0
"""`Driver.leave` takes no longer than this; a few milliseconds are usual."""

FORGET_S = 2.0
"""For so long after a track's end its listeners are kept."""


Listener = Callable[..., Any]


@dataclasses.dataclass(slots=True)
class _Subscribed:
    event: Event
    call: Listener
    native: _songbird.Subscription | None = None
    timer: asyncio.TimerHandle | None = None
    track: str | None = None

    def cancel(self) -> None:
        if self.native is not None:
            self.native.cancel()
        if self.timer is not None:
            self.timer.cancel()


class Listeners:
    """Callbacks of one driver and its tracks; they run in the loop.

    They outlive the native half of the driver: `attach` installs them in a new one, `detach` lets go of an old one.
    """

    def __init__(self) -> None:
        self._link: _songbird.Link | None = None
        self._subscribed: dict[int, _Subscribed] = {}
        self._keys = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: dict[str, float] = {}
        self._on_packets: Callable[[list[_songbird.OpusPacket]], None] | None = None

    def __len__(self) -> int:
        return len(self._subscribed)

    @property
    def on_packets(self) -> Callable[[list[_songbird.OpusPacket]], None] | None:
        """See `songbird.driver.Driver.on_packets`."""
        return self._on_packets

    @on_packets.setter
    def on_packets(self, call: Callable[[list[_songbird.OpusPacket]], None] | None) -> None:
        self._on_packets = call
        self._want_packets()

    def add(self, event: Event, call: Listener) -> None:
        """Call back when something happens to the driver; see `songbird.driver.Driver.add_event`."""
        if event is Event.Cancel:
            raise ValueError("Event.Cancel is what a listener gives back, nothing that happens")
        key = next(self._keys)
        self._subscribed[key] = subscribed = _Subscribed(event, call)
        if self._link is not None:
            self._install(self._link, key, subscribed)

    def clear(self) -> None:
        """Forget every listener, also those of tracks."""
        for subscribed in self._subscribed.values():
            subscribed.cancel()
        self._subscribed.clear()
        self._want_packets()

    def attach(self, link: _songbird.Link) -> None:
        """Install the listeners in the native half that the driver has opened."""
        self._link = link
        self._want_packets()
        for key, subscribed in list(self._subscribed.items()):
            self._install(link, key, subscribed)

    def detach(self) -> None:
        """Let go of the native half: timers end, and the listeners of tracks go."""
        self._link = None
        self._ended.clear()
        for key, subscribed in list(self._subscribed.items()):
            if subscribed.timer is not None:
                subscribed.timer.cancel()
                subscribed.timer = None
            if subscribed.track is not None:
                del self._subscribed[key]

    def _install(self, link: _songbird.Link, key: int, subscribed: _Subscribed) -> None:
        event = subscribed.event
        if event.is_of_tracks:
            subscribed.native = _songbird.Subscription(key)
            link.add_track_event(event.name, subscribed.native)
        elif event.is_timer:
            self._arm(key, subscribed, event.delay_s if event.phase_s is None else event.phase_s)
        elif event is Event.VoicePacket:
            self._want_packets()

    def _want_packets(self) -> None:
        if self._link is not None:
            wanted = any(subscribed.event is Event.VoicePacket for subscribed in self._subscribed.values())
            self._link.want_packets(self._on_packets is not None or wanted)

    def subscribe(self, native: _songbird.NativeHandle, event: Event, call: Listener) -> None:
        """Listen to one track. Its listener goes with the track, and with `leave` at the latest."""
        self._forget_ended()
        track = native.uuid
        if track not in self._ended and not any(each.track == track for each in self._subscribed.values()):
            self._watch_end(native, track)
        key = next(self._keys)
        subscription = _songbird.Subscription(key)
        if event.is_timer:
            native.add_timer(event.delay_s, event.phase_s, event.name == "periodic", subscription)
        else:
            native.add_event(event.name, subscription)
        self._subscribed[key] = _Subscribed(event, call, subscription, track=track)

    def _watch_end(self, native: _songbird.NativeHandle, track: str) -> None:
        """Note when a track is over, for its listeners go then: a queue adds one for every item."""
        loop = asyncio.get_running_loop()

        def over(_: list[TrackState]) -> None:
            self._ended[track] = loop.time()

        key = next(self._keys)
        subscription = _songbird.Subscription(key)
        native.add_event(Event.End.name, subscription)
        self._subscribed[key] = _Subscribed(Event.End, over, subscription, track=track)

    def _forget_ended(self) -> None:
        """Drop listeners of tracks that ended a while ago; until then their last messages may be on the way."""
        long_ago = asyncio.get_running_loop().time() - FORGET_S
        gone = {track for track, at in self._ended.items() if at < long_ago}
        for key in [key for key, subscribed in self._subscribed.items() if subscribed.track in gone]:
            del self._subscribed[key]
        for track in gone:
            del self._ended[track]

    def _arm(self, key: int, subscribed: _Subscribed, delay_s: float) -> None:
        def strike() -> None:
            subscribed.timer = None
            if subscribed.event.name == "delayed":
                self._subscribed.pop(key, None)
            self._call(key, subscribed)
            if key in self._subscribed and self._link is not None:
                self._arm(key, subscribed, subscribed.event.delay_s)

        subscribed.timer = asyncio.get_running_loop().call_later(delay_s, strike)

    def receive(self, kind: str, content: Any) -> None:
        if kind == "packets":
            if self._on_packets is not None:
                self._on_packets(content)
            self._fire(kind, content)
        elif kind == "tracks":
            key, reports = content
            subscribed = self._subscribed.get(key)
            if subscribed is not None:
                self._call(key, subscribed, [TrackState.of(report) for report in reports])
        elif kind == "speaking":
            user, ssrc, flags, delay = content
            self._fire(kind, Speaking(user, ssrc, SpeakingState(flags), delay))
        elif kind == "left":
            self._fire(kind, ClientDisconnect(*content))
        elif kind == "panicked":
            self._fire(kind, Panic(content))
        elif kind == "disconnected":
            what, why, code, *rest = content
            self._fire(kind, DisconnectData(DisconnectKind(what), DisconnectReason(why), code, *rest))
        else:
            self._fire(kind, ConnectData(*content))

    def _fire(self, kind: str, content: Any) -> None:
        for key, subscribed in list(self._subscribed.items()):
            if subscribed.event.name == kind:
                self._call(key, subscribed, content)

    def _call(self, key: int, subscribed: _Subscribed, *content: Any) -> None:
        try:
            answer = subscribed.call(*content)
        except Exception as error:  # noqa: BLE001 - a listener's mistake is reported, and costs nobody else
            self._report(subscribed, error)
            return
        if inspect.isawaitable(answer):
            task = asyncio.get_running_loop().create_task(self._await(key, subscribed, answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif answer is Event.Cancel:
            self._cancel(key, subscribed)

    async def _await(self, key: int, subscribed: _Subscribed, answer: Any) -> None:
        try:
            if await answer is Event.Cancel:
                self._cancel(key, subscribed)
        except Exception as error:  # noqa: BLE001 - as above
            self._report(subscribed, error)

    def _cancel(self, key: int, subscribed: _Subscribed) -> None:
        subscribed.cancel()
        self._subscribed.pop(key, None)

    def _report(self, subscribed: _Subscribed, error: Exception) -> None:
        message = f"songbird: a listener of {subscribed.event.name} raised"
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

    async def end_tasks(self) -> None:
        """End listeners that still run; one of them may be who calls."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
