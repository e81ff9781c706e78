"""The synchronous path of ``voice_audio_frame``: one sink per session that calls every plugin's implementation.

Budget: 200 us a call. One frame in 16 is timed; after an overrun every frame is, for ten seconds, and the 50th overrun
in that time pauses the plugin in the guild.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from roost.strays import frames, tamed

if TYPE_CHECKING:
    from roost.audio import AudioFrame, FrameSink
    from roost.blocking import Guard

HOOK = "voice_audio_frame"
BUDGET_NS = 200_000
SAMPLED = 16
WINDOW_NS = 10_000_000_000
OVERRUNS = 50


class OverBudget(Exception):
    """A plugin took too long over too many frames."""

    def __init__(self) -> None:
        super().__init__(f"{OVERRUNS} frames took longer than {BUDGET_NS // 1000} us each within 10 s")


class Calls(Protocol):
    """What `FrameFan` needs of the dispatcher."""

    generation: int
    guard: Guard

    def bound(self, hook: str, guild_id: int | None = None) -> tuple[tuple[str, tuple[str, ...], Any], ...]: ...

    def failed(self, plugin: str, hook: str, error: Exception, place: int | None = None) -> Any: ...


class FrameFan:
    """A `roost.audio.FrameSink`. Keeps bound functions and makes them anew when plugins came, went or were switched."""

    __slots__ = ("_calls", "_generation", "_guild_id", "_hooks", "_overruns", "_session", "_tick", "_timed_until")

    def __init__(self, hooks: Calls, guild_id: int, session: Any) -> None:
        self._hooks = hooks
        self._guild_id = guild_id
        self._session = session
        self._generation = -1
        self._calls: tuple[tuple[str, Callable[[AudioFrame], Any]], ...] = ()
        self._tick = SAMPLED
        self._timed_until = 0
        self._overruns: dict[str, int] = {}

    def write(self, frame: AudioFrame) -> None:
        """Pass one frame on. Never raises."""
        if self._generation != self._hooks.generation:
            self._rebuild()
        self._tick -= 1
        if self._tick <= 0:
            self._timed(frame)
            return
        calls = self._calls
        done = 0
        guard = self._hooks.guard
        before = guard.enter()
        frames.inside = True
        try:
            while done < len(calls):
                try:
                    for _plugin, call in calls[done:] if done else calls:
                        done += 1
                        call(frame)
                except BaseException as error:  # noqa: BLE001 - one plugin must not silence the others
                    self._hooks.failed(calls[done - 1][0], HOOK, tamed(error), self._guild_id)
        finally:
            frames.inside = False
            guard.leave(before)

    def purge(self, user_id: int) -> None:
        """Nothing is held here."""

    def _rebuild(self) -> None:
        self._generation = self._hooks.generation
        self._calls = tuple(
            (plugin, _fitted(function, names, self._session))
            for plugin, names, function in self._hooks.bound(HOOK, self._guild_id)
        )
        self._overruns = {}

    def _timed(self, frame: AudioFrame) -> None:
        """The same with a stopwatch."""
        guard = self._hooks.guard
        now = time.perf_counter_ns()
        if self._timed_until and now > self._timed_until:
            self._timed_until = 0
            self._overruns = {}
        for plugin, call in self._calls:
            before = guard.enter()
            started = time.perf_counter_ns()
            frames.inside = True
            try:
                call(frame)
            except BaseException as error:  # noqa: BLE001 - one plugin must not silence the others
                self._hooks.failed(plugin, HOOK, tamed(error), self._guild_id)
            finally:
                frames.inside = False
                guard.leave(before)
            now = time.perf_counter_ns()
            if now - started > BUDGET_NS:
                self._overran(plugin, now)
        self._tick = 1 if self._timed_until else SAMPLED

    def _overran(self, plugin: str, now: int) -> None:
        if not self._timed_until:
            self._timed_until = now + WINDOW_NS
        self._overruns[plugin] = count = self._overruns.get(plugin, 0) + 1
        if count == OVERRUNS:
            self._hooks.failed(plugin, HOOK, OverBudget(), self._guild_id)


def modules_of(sink: FrameSink) -> Iterator[str]:
    """Names of the modules that the code of a sink is in: its classes, and the functions that take the frames."""
    for kind in type(sink).__mro__:
        yield str(kind.__module__)
    for function in (sink.write, sink.purge):
        code: Any = function
        while isinstance(code, functools.partial):
            code = code.func
        for each in (inspect.unwrap(code), type(getattr(code, "__self__", None))):
            yield str(getattr(each, "__module__", ""))


def _fitted(function: Any, names: tuple[str, ...], session: Any) -> Callable[[AudioFrame], Any]:
    """A function of the frame alone, with as little in between as can be."""
    match names:
        case ("frame",):
            return function  # type: ignore[no-any-return]
        case ("session", "frame"):
            return functools.partial(function, session)
        case ("frame", "session"):
            return lambda frame: function(frame, session)
        case ("session",):
            return lambda _frame: function(session)
        case _:
            return lambda _frame: function()
