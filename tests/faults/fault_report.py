"""Measures what tests say of the fault table, and gathers it into one file."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_table import BY_NUMBER, ROWS, Row

FULL = os.environ.get("ROOST_FAULTS_FULL", "") not in ("", "0")
"""True: Discord's real delays, False: a tenth of them."""
SCALE = 1.0 if FULL else 0.1
DRIVER = os.environ.get("ROOST_FAULTS_DRIVER") or "native"
"""The voice driver under the actors; what another one than the native does differently is in docs/drivers.md."""
TELLS = DRIVER == "native"
"""Whether the driver tells of its encryption and of everything it dropped; else only Discord's word counts."""
HANDSHAKES = 1 if DRIVER == "native" else 2
"""How often one connect of the driver identifies before it gives up."""
SLACK_S = 0.75
"""What a busy machine may add to any bound."""
PROPERTY = "fault"


class Fault:
    """The row a test claims; the fixture `fault`."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.clocks: list[dict[str, float]] = []

    @contextlib.contextmanager
    def clock(self, bound_s: float | None = None, *, scaled: bool = True) -> Iterator[None]:
        """Measure the block, from the fault to what Roost promises, and fail when it takes too long.

        Args:
            bound_s: Another bound than the row's, at real delays.
            scaled: False when nothing in the block depends on `Timing`, so that the bound holds as it is.
        """
        bound_s = self.row.bound_s if bound_s is None else bound_s
        began = time.monotonic()
        yield
        self.note(time.monotonic() - began, bound_s, scaled=scaled)

    def note(self, seconds: float, bound_s: float | None = None, *, scaled: bool = True, virtual: bool = False) -> None:
        """Claim a figure measured otherwise; in virtual time there is no slack.

        Raises:
            AssertionError: When it is over the bound.
        """
        bound_s = self.row.bound_s if bound_s is None else bound_s
        limit = bound_s * (SCALE if scaled and not virtual else 1.0) + (0.0 if virtual else SLACK_S)
        self.clocks.append({"seconds": round(seconds, 3), "bound_s": bound_s, "limit_s": round(limit, 3)})
        assert seconds <= limit, f"fault {self.row.number}: {seconds:.2f} s, {limit:.2f} s allowed"


class Report:
    """What the tests of a run said, by row."""

    def __init__(self) -> None:
        self.failed: dict[int, list[str]] = {}
        self.skipped: dict[int, str] = {}
        self.differs: dict[int, set[str]] = {}
        self.clocks: dict[int, list[dict[str, float]]] = {}

    def take(self, report: pytest.TestReport) -> None:
        numbers = [value for key, value in report.user_properties if key == "fault_row"]
        if not numbers:
            return
        for number in numbers:
            if report.failed:
                self.failed.setdefault(number, []).append(report.nodeid)
            elif hasattr(report, "wasxfail"):
                self.differs.setdefault(number, set()).add(report.wasxfail)
            elif report.skipped:
                self.skipped[number] = str(
                    report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
                )
            elif report.when == "call":
                clocks = [value for key, value in report.user_properties if key == PROPERTY]
                self.clocks.setdefault(number, []).extend(clocks[0] if clocks else [])

    def rows(self) -> dict[str, dict[str, Any]]:
        return {str(row.number): self._row(row) for row in ROWS}

    def _row(self, row: Row) -> dict[str, Any]:
        result: dict[str, Any] = {"ok": False, "seconds": None, "bound_s": row.bound_s, "fault": row.fault}
        clocks = self.clocks.get(row.number)
        if row.not_injected:
            result |= {"ok": None, "reason": row.not_injected}
        elif row.number in self.failed:
            result["reason"] = "failed: " + ", ".join(self.failed[row.number])
        elif row.number in self.differs:
            result |= {"ok": None, "reason": f"{DRIVER} decides: " + "; ".join(sorted(self.differs[row.number]))}
        elif row.number in self.skipped:
            result |= {"ok": None, "reason": self.skipped[row.number]}
        elif clocks is None:
            result["reason"] = "no test claims it"
        elif not clocks:
            result["reason"] = "its tests measure nothing"
        else:
            worst = max(clocks, key=lambda clock: clock["seconds"] / clock["limit_s"] if clock["limit_s"] else 0.0)
            result |= {"ok": True, "seconds": worst["seconds"], "bound_s": worst["bound_s"], "measured": len(clocks)}
        return result

    def write(self, path: Path) -> str:
        """Write the file; one line on it for people."""
        rows = self.rows()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"scale": SCALE, "slack_s": SLACK_S, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )
        good = sum(row["ok"] is True for row in rows.values())
        rest = [f"{number} ({row['reason']})" for number, row in rows.items() if row["ok"] is not True]
        return f"faults: {good} of {len(rows)} ok" + ("; not: " + "; ".join(rest) if rest else "") + f"; {path}"


def claims(item: pytest.Item) -> list[int]:
    """The rows that a test claims.

    Raises:
        pytest.UsageError: For a row that is not in the table.
    """
    numbers = [number for mark in item.iter_markers("fault") for number in mark.args]
    unknown = [number for number in numbers if number not in BY_NUMBER]
    if unknown:
        raise pytest.UsageError(f"{item.nodeid} claims rows that are not in the fault table: {unknown}")
    return numbers
