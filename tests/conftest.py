"""Shared by all tests: every test states its category; those that claim rows of the fault table are measured."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fault_report import DRIVER, PROPERTY, Fault, Report, claims
from fault_table import BY_NUMBER

CATEGORIES = {"unit", "sim", "e2e", "gpu"}
REPORT = pytest.StashKey[Report]()
PLUGINS = ("roost_voice", "roost_stt")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    bare = [item.nodeid for item in items if not CATEGORIES & {mark.name for mark in item.iter_markers()}]
    if bare:
        raise pytest.UsageError(f"mark these tests {', '.join(sorted(CATEGORIES))}: {bare[:5]}")
    for item in items:
        item.user_properties.extend(("fault_row", number) for number in claims(item))
    dearest_first(items)


def dearest_first(items: list[pytest.Item]) -> None:
    """Order files by what their tests cost, so that at the end no worker is left alone with a long one."""
    costs = {"long": 3, "e2e": 2, "sim": 1}
    dearest: dict[Path, int] = {}
    for item in items:
        cost = max((costs.get(mark.name, 0) for mark in item.iter_markers()), default=0)
        dearest[item.path] = max(dearest.get(item.path, 0), cost)
    items.sort(key=lambda item: -dearest[item.path])


@pytest.fixture(autouse=True)
def plugin_modules_as_before() -> Iterator[None]:
    """A test that has a plugin imported anew leaves others, and what they patch, the modules they know."""
    before = {name: module for name, module in sys.modules.items() if name.startswith(PLUGINS)}
    yield
    if all(sys.modules.get(name) is module for name, module in before.items()):
        return
    for name in [name for name in sys.modules if name.startswith(PLUGINS)]:
        if name not in before:
            del sys.modules[name]
    sys.modules.update(before)
    # ``from package import module`` looks at the package first.
    for name, module in before.items():
        for last, value in list(vars(module).items()):
            if isinstance(value, ModuleType) and value.__name__ == f"{name}.{last}":
                delattr(module, last)
    for name, module in before.items():
        package, _, last = name.rpartition(".")
        if package in before:
            setattr(before[package], last, module)


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
