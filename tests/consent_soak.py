"""Long random walks of members, decisions, permissions and failures: ``python tests/consent_soak.py --steps N``.

First N steps of who is heard (`tests/voice/actor/consent_world.py`), then N of who reads captions and transcripts
(`tests/stt/reading_world.py`); after every step a small model says who must not. At a breach the seed of that run and
its last steps are printed (``--seed`` plays it again) and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / part) for part in ("voice/actor", "core/store", "stt")]

import consent_world  # noqa: E402
import reading_world  # noqa: E402

from roost.testing.clock import VirtualTime  # noqa: E402

RUN_STEPS = 200


def hearing(seed: int) -> int:
    """One run of who is heard; how many steps it had."""
    with consent_world.quick():
        return len(asyncio.run(consent_world.play(seed, RUN_STEPS)))


def reading(seed: int) -> int:
    """One run of who reads along; how many steps it had."""
    with VirtualTime() as clock:
        return len(clock.run(reading_world.play(seed, RUN_STEPS)))


WALKS: dict[str, tuple[Callable[[int], int], str]] = {
    "hearing": (hearing, "nobody heard against their will"),
    "reading": (reading, "nobody read what they may not"),
}


def walk(run: Callable[[int], int], well: str, steps: int, seed: int) -> bool:
    """Run after run until there were so many steps; whether the model agreed with each."""
    began = shown = time.monotonic()
    done = runs = 0
    while done < steps:
        try:
            done += run(seed + runs)
        except Exception as breach:  # the model's verdict, or an error that nobody foresaw
            print(f"BREACH {breach!r}", *getattr(breach, "__notes__", ()), sep="\n")
            return False
        runs += 1
        if time.monotonic() - shown >= 5 or done >= steps:
            shown = time.monotonic()
            print(f"{done} steps in {shown - began:.0f} s, {runs} runs, {well}", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="of each walk (100,000)")
    parser.add_argument("--walk", choices=WALKS, action="append", help="only this one; by default both")
    parser.add_argument("--seed", type=int, help="of the first run; by default a fresh one")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 40)
    print(f"seed {seed}", flush=True)
    return 0 if all([walk(*WALKS[name], options.steps, seed) for name in options.walk or WALKS]) else 1


if __name__ == "__main__":
    sys.exit(main())
