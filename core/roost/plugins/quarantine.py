"""Circuit breakers: how many failures of a plugin in which place are too many. Pure; time is a parameter.

One breaker for each plugin and place (see `roost.places`), and one for a plugin's work that has no place::

    CLOSED     --- `failures` within `window_s` --->  OPEN
    OPEN       --- `retry` (the host's timer) ----->  HALF_OPEN
    HALF_OPEN  --- one failure within `window_s` -->  OPEN, for twice as long as before
    HALF_OPEN  --- `window_s` without a failure --->  CLOSED

The whole plugin is stopped when work without a place fails that often, or when its breakers are open in the guilds of
most of the owners that used it lately: owners are counted, not guilds, so one owner of many guilds counts once.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict, deque
from collections.abc import Callable

from roost.places import Place

ACTIVE_S = 3600.0
"""A guild in which a plugin was called this recently is an active one."""
MOST_RETRY_S = 6 * 3600.0
"""The longest pause."""
MOST_PLACES = 4096
"""Open breakers kept, others kept, and active guilds kept of each plugin; the oldest are forgotten."""


class Standing(enum.Enum):
    """Of one breaker; see the module's diagram."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Verdict(enum.Enum):
    """What a failure leads to."""

    COUNTED = "counted"
    PAUSE = "pause"
    """The plugin is to be paused in the place of the failure."""
    QUARANTINE = "quarantine"
    """The plugin is to be stopped in the whole bot."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """When a breaker opens and for how long; see `roost.config.PluginsConfig`."""

    failures: int
    window_s: float
    retry_s: float
    owners: int


class _Breaker:
    __slots__ = ("half_open_at", "openings", "owner", "recent", "standing")

    def __init__(self, limit: int, owner: int | None) -> None:
        self.recent: deque[float] = deque(maxlen=limit)
        self.standing = Standing.CLOSED
        self.half_open_at = 0.0
        self.openings = 0
        """How often it opened since it was last closed."""
        self.owner = owner


class Breakers:
    """The breakers of all plugins.

    Args:
        limits: See `Limits`.
        owner_of: The owner of a guild, None when they are not known. Direct messages have none.
    """

    def __init__(self, limits: Limits, owner_of: Callable[[Place], int | None]) -> None:
        self._limits = limits
        self._owner_of = owner_of
        self._open: OrderedDict[tuple[str, Place | None], _Breaker] = OrderedDict()
        self._others: OrderedDict[tuple[str, Place | None], _Breaker] = OrderedDict()
        self._active: dict[str, OrderedDict[Place, tuple[int | None, float]]] = {}

    def note(self, plugin: str, place: Place, now: float) -> None:
        """A plugin was called for a place."""
        places = self._active.get(plugin)
        if places is None:
            places = self._active[plugin] = OrderedDict()
        known = places.get(place)
        if known is not None:
            if now - known[1] > 1.0:
                places[place] = (known[0], now)
                places.move_to_end(place)
            return
        places[place] = (self._owner_of(place), now)
        if len(places) > MOST_PLACES:
            places.popitem(last=False)

    def add(self, plugin: str, place: Place | None, now: float, *, at_once: bool = False) -> Verdict:
        """Count a failure.

        Args:
            at_once: It is one too many by itself.
        """
        breaker = self._breaker(plugin, place)
        if breaker.standing is Standing.HALF_OPEN and now - breaker.half_open_at > self._limits.window_s:
            breaker.standing, breaker.openings = Standing.CLOSED, 0
        if breaker.standing is Standing.OPEN:
            return Verdict.COUNTED
        recent = breaker.recent
        recent.append(now)
        many = len(recent) == self._limits.failures and now - recent[0] <= self._limits.window_s
        if not (many or at_once or breaker.standing is Standing.HALF_OPEN):
            return Verdict.COUNTED
        recent.clear()
        breaker.standing = Standing.OPEN
        breaker.openings += 1
        self._others.pop((plugin, place), None)
        _keep(self._open, (plugin, place), breaker)
        if place is None or self._is_everywhere(plugin, now):
            return Verdict.QUARANTINE
        return Verdict.PAUSE

    def retry_s(self, plugin: str, place: Place) -> float:
        """How long the plugin is paused in a place whose breaker has just opened."""
        openings = self._breaker(plugin, place).openings
        longest = max(MOST_RETRY_S, self._limits.retry_s)
        return min(longest, self._limits.retry_s * 2.0 ** min(openings - 1, 32))

    def half_open(self, plugin: str, place: Place, now: float) -> None:
        """The pause is over: one more failure and the next one begins."""
        breaker = self._breaker(plugin, place)
        if breaker.standing is Standing.OPEN:
            breaker.standing, breaker.half_open_at = Standing.HALF_OPEN, now
            self._open.pop((plugin, place), None)
            _keep(self._others, (plugin, place), breaker)

    def standing(self, plugin: str, place: Place | None) -> Standing:
        key = (plugin, place)
        breaker = self._open.get(key) or self._others.get(key)
        return breaker.standing if breaker is not None else Standing.CLOSED

    def size(self) -> int:
        """How many breakers and active guilds are kept."""
        return len(self._open) + len(self._others) + sum(len(places) for places in self._active.values())

    def forget(self, plugin: str) -> None:
        """All of its breakers are closed and new."""
        for kept in (self._open, self._others):
            for key in [key for key in kept if key[0] == plugin]:
                del kept[key]
        self._active.pop(plugin, None)

    def _breaker(self, plugin: str, place: Place | None) -> _Breaker:
        key = (plugin, place)
        breaker = self._open.get(key) or self._others.get(key)
        if breaker is None:
            owner = self._owner_of(place) if place is not None else None
            breaker = _Breaker(self._limits.failures, owner)
            _keep(self._others, key, breaker)
        return breaker

    def _is_everywhere(self, plugin: str, now: float) -> bool:
        """Whether it fails in the guilds of most of the owners that used it lately."""
        failing = {each.owner for (name, _), each in self._open.items() if name == plugin and each.owner is not None}
        active = {owner for owner, at in self._active.get(plugin, {}).values() if now - at <= ACTIVE_S} - {None}
        return len(failing) >= self._limits.owners and 2 * len(failing) > len(active | failing)


def _keep(
    kept: OrderedDict[tuple[str, Place | None], _Breaker], key: tuple[str, Place | None], breaker: _Breaker
) -> None:
    kept[key] = breaker
    if len(kept) > MOST_PLACES:
        kept.popitem(last=False)
