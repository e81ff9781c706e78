"""Counting the failures of plugins: too many in too short a time, and a plugin is quarantined."""

from __future__ import annotations

from collections import deque


class FailureCounter:
    """Failures of each plugin within a sliding window.

    Args:
        limit: The failure that is one too many.
        window_s: How long a failure counts.
    """

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._recent: dict[str, deque[float]] = {}

    def add(self, plugin: str, now: float) -> bool:
        """Note a failure; True when it is one too many."""
        recent = self._recent.setdefault(plugin, deque(maxlen=self._limit))
        recent.append(now)
        return len(recent) == self._limit and now - recent[0] <= self._window_s

    def count(self, plugin: str, now: float) -> int:
        """Failures that count now, at most the limit."""
        return sum(now - at <= self._window_s for at in self._recent.get(plugin, ()))

    def forget(self, plugin: str) -> None:
        self._recent.pop(plugin, None)
