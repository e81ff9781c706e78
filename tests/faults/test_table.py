"""The table itself: whole, and what `docs/faults.md` says."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_report import Fault, Report
from fault_table import BY_NUMBER, GROUPS, ROWS, page

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


def test_every_number_is_there_once_and_in_one_group() -> None:
    numbers = [row.number for row in ROWS]
    assert numbers == sorted(set(numbers))
    grouped = [number for group in GROUPS.values() for number in group if number in BY_NUMBER]
    assert grouped == numbers


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run make docs"


def test_too_slow_fails() -> None:
    with pytest.raises(AssertionError, match="fault 42: 9"):
        Fault(BY_NUMBER[42]).note(9.0)


def test_a_row_counts_when_all_its_tests_pass_and_measure() -> None:
    def outcome(passed: bool, clocks: list[dict[str, float]], row: int = 42) -> pytest.TestReport:
        return pytest.TestReport(
            nodeid=f"test_{passed}",
            location=("", 0, ""),
            keywords={},
            outcome="passed" if passed else "failed",
            longrepr=None,
            when="call",
            user_properties=[("fault_row", row), ("fault", clocks)],
        )

    fast = {"seconds": 0.1, "bound_s": 1.0, "limit_s": 0.8}
    slow = {"seconds": 0.2, "bound_s": 1.0, "limit_s": 0.8}
    report = Report()
    assert report.rows()["42"]["reason"] == "no test claims it"
    report.take(outcome(True, []))
    assert report.rows()["42"]["reason"] == "its tests measure nothing"
    report.take(outcome(True, [fast, slow]))
    assert report.rows()["42"] == {
        "ok": True,
        "seconds": 0.2,
        "bound_s": 1.0,
        "fault": BY_NUMBER[42].fault,
        "measured": 2,
    }
    report.take(outcome(False, [fast]))
    assert report.rows()["42"]["ok"] is False
    assert report.rows()["41"]["ok"] is False
