"""In which order plugins are loaded and stopped."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence


def load_order(requires: Mapping[str, Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Names with dependencies first, and the circles that had to be left out.

    Args:
        requires: What each plugin needs; names that are no key are somebody else's worry.
    """
    candidates = {name: set(needed) for name, needed in requires.items()}
    circles: list[list[str]] = []
    while True:
        try:
            order = list(graphlib.TopologicalSorter(candidates).static_order())
        except graphlib.CycleError as error:
            circle = list(dict.fromkeys(error.args[1]))
            circles.append(circle)
            for name in circle:
                candidates.pop(name, None)
        else:
            return [name for name in order if name in candidates], circles


def stop_levels(order: Sequence[str], requires: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Loaded plugins by distance from the top of the dependency graph: dependents first."""
    depth = {name: 0 for name in order}
    for name in reversed(order):
        for needed in requires[name]:
            depth[needed] = max(depth[needed], depth[name] + 1)
    deepest = max(depth.values(), default=0)
    # A plugin that nothing depends on and that needs nothing belongs to the last level: it may use all the time.
    for name in order:
        if depth[name] == 0 and not requires[name]:
            depth[name] = deepest
    return [[name for name in order if depth[name] == level] for level in range(deepest + 1)]
