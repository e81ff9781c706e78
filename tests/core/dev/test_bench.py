"""The benchmark runs and says what it promises; the figures themselves are for quiet machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

BENCH = Path(__file__).parents[3] / "bench" / "plugins.py"


def test_a_quick_run_writes_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "build" / "bench.json"
    done = subprocess.run(
        [sys.executable, str(BENCH), str(file), "--quick"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(file.read_text())
    rows = {(row["kind"], row["implementers"]): row for row in [*result["dispatch"], *result["frames"]]}
    assert set(rows) == {("own", 1)} | {(k, n) for k in ("all", "par", "first", "sync", "frame") for n in (1, 3, 10)}
    assert all(row["ratio"] > 0 for row in rows.values())
    assert result["reload"]["reload_s"] > 0
    assert set(result["goals"]) == {"frame_us_per_implementer", "reload_s"}
    assert "a reload takes" in done.stdout
