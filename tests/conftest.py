"""Shared by all tests: every test states its category; those that claim rows of the fault table are measured."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from fault_report import DRIVER, PROPERTY, Fault, Report, claims
from fault_table import BY_NUMBER

CATEGORIES = {"unit", "sim", "e2e", "gpu"}
REPORT = pytest.StashKey[Report]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    bare = [item.nodeid for item in items if not CATEGORIES & {mark.name for mark in item.iter_markers()}]
    if bare:
        raise pytest.UsageError(f"mark these tests {', '.join(sorted(CATEGORIES))}: {bare[:5]}")
    for item in items:
        item.user_properties.extend(("fault_row", number) for number in claims(item))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """The clock of the fault that the test claims (the first, if it claims several)."""
    found = Fault(BY_NUMBER[claims(request.node)[0]])
    request.node.user_properties.append((PROPERTY, found.clocks))
    return found


def pytest_configure(config: pytest.Config) -> None:
    if DRIVER == "songbird" and importlib.util.find_spec("songbird") is None:
        raise pytest.UsageError("ROOST_FAULTS_DRIVER is songbird, but the module is not built: make songbird")
    config.stash[REPORT] = Report()
    config.pluginmanager.register(_Gather(config.stash[REPORT]))


class _Gather:
    def __init__(self, report: Report) -> None:
        self._report = report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._report.take(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = os.environ.get("ROOST_FAULTS_JSON")
    if path:
        terminalreporter.write_line(config.stash[REPORT].write(Path(path)))
