"""A long random walk of the voice actor in virtual time: ``python tests/soak.py --steps 1000000`` or ``--seconds 3600``.

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
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "voice" / "actor"))

from actor_world import OPERATIONS, World  # noqa: E402 - the folder is only now on the path

from roost_voice.actor import TRANSITIONS  # noqa: E402
from roost_voice.moves import State  # noqa: E402

RUN_STEPS = 300
"""Steps of one run, from a start to the last leave."""
SHOWN = 60
"""Steps of a trace that are printed."""
Step = tuple[str, dict[str, Any]]


class Violation(AssertionError):
    """An invariant broke.

    Attributes:
        seed: Plays the run again.
        trace: What happened until then.
    """

    def __init__(self, seed: int, trace: list[Step], cause: BaseException) -> None:
        super().__init__(f"seed {seed}, step {len(trace)}: {type(cause).__name__}: {cause}")
        self.seed = seed
        self.trace = trace


def play(seed: int, steps: int = RUN_STEPS, *, loud: bool = False) -> World:
    """One run, the same for the same seed.

    Args:
        loud: Print every input and what the actor decides.

    Raises:
        Violation: An invariant broke, or the actor raised.
    """
    random_ = random.Random(seed)
    start = {name: random_.random() < 0.5 for name in ("null_honoured", "exclusive", "ghost")}
    # Each run does without half of what can go wrong, so that some come far and others fail in one way again and again.
    weights = {
        name: 0.1 if operation.fault and random_.random() < 0.5 else operation.weight
        for name, operation in OPERATIONS.items()
    }
    trace: list[Step] = [("start", start)]
    try:
        world = World(**start)
        world.loud = loud
        for _ in range(steps):
            possible = [name for name, operation in OPERATIONS.items() if operation.possible(world)]
            (name,) = random_.choices(possible, [weights[each] for each in possible])
            choices = {key: random_.choice(values) for key, values in OPERATIONS[name].choices.items()}
            trace.append((name, choices))
            if loud:
                print(f"{len(trace) - 1}. {written(name, choices)}")
            getattr(world, name)(**choices)
            world.check()
        trace.append(("settle", {}))
        world.settle()
    except Exception as error:
        raise Violation(seed, trace, error) from error
    return world


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


def written(name: str, choices: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in choices.items())})"


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
