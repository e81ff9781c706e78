"""Pausing a plugin where it failed too often: an orderly stop there, a while without it, and another try."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from roost.errors import PluginError
from roost.places import Place, current, guild_in
from roost.plugins.quarantine import MOST_PLACES
from roost.plugins.records import Failure
from roost.scopes import Kept, Scope

if TYPE_CHECKING:
    from roost.plugins.host import PluginHost
    from roost.plugins.quarantine import Breakers

_log = logging.getLogger("roost.plugins")


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """One plugin's pause in one place.

    Attributes:
        until: When it ends, in seconds since the epoch.
    """

    plugin: str
    place: Place
    failure: Failure
    until: float


class Pauses:
    """Knows which plugin is paused where, and ends each pause by itself."""

    def __init__(self, host: PluginHost, breakers: Breakers) -> None:
        self._host = host
        self._breakers = breakers
        self._open: dict[tuple[str, Place], Pause] = {}
        self._tasks: dict[Pause, tuple[asyncio.Task[None], Kept]] = {}
        """What stops the plugin, and what ends the pause in time."""
        self._scope = Scope("pauses")

    def of(self, plugin: str, place: Place | None) -> Pause | None:
        """The pause that keeps a plugin from working in a place: its own, or that of a plugin it needs."""
        if not self._open or place is None:
            return None
        if (mine := self._open.get((plugin, place))) is not None:
            return mine
        for needed in self._host.requires(plugin):
            if (found := self.of(needed, place)) is not None:
                return found
        return None

    def places_of(self, plugin: str) -> list[Place]:
        """Where a plugin is paused by its own failures."""
        return [place for name, place in self._open if name == plugin]

    def begin(self, plugin: str, place: Place, failure: Failure, error: Exception) -> None:
        """Pause a plugin from now on; it is stopped in order, and the pause ends by itself."""
        if self._scope.closed:
            return
        if len(self._open) >= MOST_PLACES:
            oldest = next(iter(self._open))
            self._scope.spawn(self.end(*oldest), f"end {oldest[0]} in {oldest[1]}")
        retry_s = self._breakers.retry_s(plugin, place)
        pause = Pause(plugin, place, failure, time.time() + retry_s)
        self._open[plugin, place] = pause
        self._host.dispatcher.changed()
        guild_id = guild_in(place)
        _log.error(
            "plugin %s: paused %s for %.0f s after too many failures, last in %s: %s (failure %s)",
            plugin,
            f"in guild {guild_id}" if guild_id is not None else f"for user {-place}",
            retry_s,
            failure.source,
            failure.detail,
            failure.id,
            extra={"plugin": plugin, "guild": guild_id, "event": "plugin_paused", "failure": failure.id},
        )
        # It outlives the work that failed, and what it calls belongs to no member's input.
        token = current.set(None)
        try:
            stop = self._scope.spawn(self._stop(pause, error), f"stop {plugin} in {place}")
            until_s = asyncio.get_running_loop().time() + retry_s
            hold = self._scope.keep(partial(self._hold, pause, until_s, stop), f"{plugin} in {place}")
            self._tasks[pause] = (stop, hold)
        finally:
            current.reset(token)

    async def end(self, plugin: str, place: Place) -> None:
        """Call a paused plugin again, on probation, once its stop is over."""
        pause = self._open.get((plugin, place))
        if pause is None:
            return
        stop, _ = self._tasks[pause]
        await asyncio.wait({stop})
        if self._open.get((plugin, place)) is not pause:
            return  # It ended meanwhile.
        del self._open[plugin, place]
        self._breakers.half_open(plugin, place, time.monotonic())
        self._host.dispatcher.changed()
        _log.info("plugin %s: called again %s", plugin, f"in guild {place}" if place > 0 else f"for user {-place}")
        try:
            await self._host.resume_in(plugin, place)
        finally:
            self._drop(pause)

    def forget(self, plugin: str) -> None:
        """Drop the pauses of a plugin that was loaded anew, or that stops in the whole bot, without resuming it."""
        for key in [key for key in self._open if key[0] == plugin]:
            self._drop(self._open.pop(key))
        self._host.dispatcher.changed()

    async def aclose(self) -> None:
        await self._scope.aclose(0.3)

    def _drop(self, pause: Pause) -> None:
        stop, hold = self._tasks.pop(pause)
        if stop is not asyncio.current_task():
            stop.cancel()
        hold.end()

    async def _stop(self, pause: Pause, error: Exception) -> None:
        told = PluginError(f"paused after too many failures (failure {pause.failure.id})", plugin=pause.plugin)
        told.__cause__ = error
        await self._host.stop_in(pause.plugin, pause.place)
        await self._host.tell_stopped(pause.plugin, told, guild_in(pause.place))

    async def _hold(self, pause: Pause, until_s: float, stop: asyncio.Task[None]) -> None:
        """End the pause in time, and not before the plugin has stopped; whether that went well does not matter."""
        await asyncio.wait({stop})
        await asyncio.sleep(max(0.0, until_s - asyncio.get_running_loop().time()))
        await self.end(pause.plugin, pause.place)
