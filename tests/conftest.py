"""Shared by all tests: every test states its category, and leaves no task, child or socket behind."""

from __future__ import annotations

import pytest

CATEGORIES = {"unit", "sim", "e2e", "gpu"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    bare = [item.nodeid for item in items if not CATEGORIES & {mark.name for mark in item.iter_markers()}]
    if bare:
        raise pytest.UsageError(f"mark these tests {', '.join(sorted(CATEGORIES))}: {bare[:5]}")
