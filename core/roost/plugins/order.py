"""In which order plugins are loaded and stopped."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Iterable, Mapping, Sequence


def with_needed(names: Iterable[str], requires: Mapping[str, Sequence[str]]) -> set[str]:
    """Some plugins and all that they need, directly or not."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += requires.get(name, ())
    return found


def load_order(requires: Mapping[str, Sequence[str]], first: Collection[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Names with dependencies first, and the circles that had to be left out.

    Args:
        requires: What each plugin needs; names that are no key are somebody else's worry.
        first: Plugins that come before all others, with what they need: nobody is to take a name or room from them.
    """
    before = with_needed(first, requires)
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
            found = [name for name in order if name in candidates]
            return sorted(found, key=lambda name: name not in before), circles


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
