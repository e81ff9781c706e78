"""Feed every parser of foreign bytes with changed and random input.

Usage: ``python tests/fuzz/run.py [--seconds 30] [--seed N] [--target NAME ...] [--jobs 2] [--list] [--replay FILE]``;
seconds are for each target. An input that breaks a promise is printed as hex, kept below ``build/fuzz``, and makes the
exit code 1.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import secrets
import sys
from functools import partial
from pathlib import Path

from fuzz_targets import TARGETS
from fuzzing import Finding, Tally, Target, attempt, fuzz, smaller

FOLDER = Path(__file__).parents[2] / "build" / "fuzz"


def report(finding: Finding, target: Target) -> None:
    """Print a finding and keep its input."""
    if finding.data:
        finding = smaller(finding, target)
    name = f"{finding.target}-{hashlib.sha256(finding.data).hexdigest()[:12]}.bin"
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_bytes(finding.data)
    print(f"{finding.target}: FOUND\n{finding.why}\n{finding.data.hex()}\nkept: {FOLDER / name}", flush=True)
    print(f"again: python tests/fuzz/run.py --target {finding.target} --replay {FOLDER / name}", flush=True)


def progress(name: str, tally: Tally) -> None:
    print(f"{name}: {tally.inputs:,} inputs in {tally.seconds:.0f} s", flush=True)


def run(name: str, seconds: float, seed: int) -> bool:
    """Fuzz one target and say what came of it; whether something was found."""
    target = TARGETS[name]
    tally = fuzz(target, seconds, seed, partial(progress, name))
    if tally.finding is None:
        progress(name, tally)
        return False
    report(tally.finding, target)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the parsers of foreign bytes.")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each target (30)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the inputs of a run; by default a new one")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="targets at once, each in a process (2)")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    parser.add_argument("--replay", type=Path, help="run the input in this file once, with one --target")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TARGETS))
        return 0
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    if options.replay is not None:
        if len(chosen) != 1:
            parser.error("--replay needs one --target")
        found = attempt(chosen[0], options.replay.read_bytes())
        print(found.why if found else "no promise was broken")
        return int(found is not None)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with concurrent.futures.ProcessPoolExecutor(options.jobs, max_tasks_per_child=1) as pool:
        names = [target.name for target in chosen]
        findings = sum(pool.map(partial(run, seconds=options.seconds, seed=seed), names))
    print(f"fuzz: {len(chosen)} targets, {findings} with a finding; seed {seed}")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
