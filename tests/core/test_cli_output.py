from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_has_room_for_is_one_line(unbuffered: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "roost", "config", "schema", "store"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env={"ROOST_DATA_DIR": str(tmp_path), "PYTHONUNBUFFERED": unbuffered},
        )
    said = "roost: No space left on device; free some space where this command writes to\n"
    assert (done.returncode, done.stderr) == (1, said)
