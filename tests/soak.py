"""A long random walk of the voice actor in virtual time: ``python tests/soak.py --steps N`` or ``--seconds N``.

Every step is a command, an event, a close code, a timer, a cancellation or a kill; after each the invariants are
checked, and every run of a few hundred steps must come to rest with nothing left. At a violation the seed of that run
and its trace are printed (``--replay SEED`` plays it again) and the exit status is 1.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "voice" / "actor"))

from actor_runs import Violation, play, written
from actor_world import World

from roost_voice.actor import TRANSITIONS
from roost_voice.moves import State

SHOWN = 60
"""Steps of a trace that are printed."""


class Figures:
    """What a soak has seen."""

    def __init__(self) -> None:
        self.runs = self.steps = self.opened = self.reaped = self.starts = 0
        self.slowest_s = 0.0
        self.states: Counter[State] = Counter()
        self.rows: set[tuple[State, type]] = set()
        self.began = time.monotonic()

    def add(self, world: World) -> None:
        self.runs += 1
        self.steps += world.steps
        self.opened += world.opened
        self.reaped += world.reaped
        self.starts += world.starts
        self.slowest_s = max(self.slowest_s, world.slowest_s)
        self.states += world.states
        self.rows |= world.rows & TRANSITIONS.keys()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def line(self) -> str:
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return (
            f"{self.steps} steps in {self.seconds:.0f} s ({self.steps / max(self.seconds, 1e-9):.0f} a second), "
            f"{self.runs} runs, {self.starts} process starts, {self.opened} sessions, {self.reaped} ghosts reaped, "
            f"{len(self.rows)} of {len(TRANSITIONS)} rows of the table, "
            f"at rest within {self.slowest_s:.0f} s, peak {rss:.0f} MiB"
        )


def show(violation: Violation) -> None:
    print(f"VIOLATION {violation}")
    skipped = len(violation.trace) - SHOWN
    if skipped > 0:
        print(f"  ... {skipped} steps before")
    for name, choices in violation.trace[-SHOWN:]:
        print(f"  {written(name, choices)}")
    print(f"again: python tests/soak.py --replay {violation.seed}")


def soak(steps: int | None, seconds: float | None, seed: int) -> Figures:
    """Play runs of ascending seeds until enough has been done; says so every few seconds.

    Raises:
        Violation: At the first.
    """
    figures = Figures()
    shown = 0.0
    while (steps is None or figures.steps < steps) and (seconds is None or figures.seconds < seconds):
        figures.add(play(seed))
        seed += 1
        if figures.seconds - shown >= 5:
            shown = figures.seconds
            print(figures.line(), flush=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="end after so many steps")
    parser.add_argument("--seconds", type=float, help="end after so many seconds")
    parser.add_argument("--seed", type=int, help="of the first run; by default a fresh one")
    parser.add_argument("--replay", type=int, metavar="SEED", help="play one run again")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 40)
    steps = 1_000_000 if options.steps is None and options.seconds is None else options.steps
    try:
        if options.replay is not None:
            play(options.replay, loud=True)
            print(f"seed {options.replay}: nothing is wrong")
            return 0
        print(f"seed {seed}", flush=True)
        print("done: " + soak(steps, options.seconds, seed).line())
    except Violation as violation:
        show(violation)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
