"""Row 73: a few rounds of the kill loop; ``python tests/kill_loop.py --n 1000`` plays many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fault_report import Fault

pytestmark = [pytest.mark.e2e, pytest.mark.long]

LOOP = Path(__file__).parents[1] / "kill_loop.py"
ROUNDS = 6
"""Half of them with each of the semantics of ghosts."""


@pytest.mark.fault(73)
def test_a_bot_killed_anywhere_leaves_no_ghost_behind_its_next_start(fault: Fault) -> None:
    done = subprocess.run(
        [sys.executable, str(LOOP), "--n", str(ROUNDS)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert [summary[f"ghosts_{name}"]["rounds"] for name in ("honoured", "ignored")] == [ROUNDS / 2, ROUNDS / 2]
    fault.note(summary["worst_ghost_s"], scaled=False)


def test_the_loop_says_nothing_on_standard_error_that_is_no_terminal() -> None:
    done = subprocess.run(
        [sys.executable, str(LOOP), "--n", "0", "--seed", "7"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "seed 7"
    assert json.loads(done.stdout.splitlines()[-1])["seed"] == 7
