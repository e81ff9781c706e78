"""A long random walk of members, decisions, notices and failures: ``python tests/consent_soak.py --steps N``.

After every step a small model says who must not be heard (`tests/voice/actor/consent_world.py`). At a breach the seed
of that run and its last steps are printed (``--seed`` plays it again) and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / part) for part in ("voice/actor", "core/store")]

from consent_world import Breach, play, quick  # noqa: E402

RUN_STEPS = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="end after so many steps (100,000)")
    parser.add_argument("--seed", type=int, help="of the first run; by default a fresh one")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 40)
    print(f"seed {seed}", flush=True)
    began = shown = time.monotonic()
    steps = runs = 0
    with quick():
        while steps < options.steps:
            try:
                steps += len(asyncio.run(play(seed + runs, RUN_STEPS)))
            except (Breach, TimeoutError) as breach:
                print(f"BREACH {breach!r}", *getattr(breach, "__notes__", ()), sep="\n")
                return 1
            runs += 1
            if time.monotonic() - shown >= 5 or steps >= options.steps:
                shown = time.monotonic()
                print(
                    f"{steps} steps in {shown - began:.0f} s, {runs} runs, nobody heard against their will", flush=True
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
