from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from host_rig import simulated, source

Drop = Callable[..., Path]


@pytest.fixture(scope="session")
def card() -> Iterator[dict[str, Any]]:
    """The card of one simulated Discord for all tests of a run."""
    with simulated() as made:
        yield made


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    """Drop-in plugins are imported anew in each test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("roost_dropins", "roost_test_logs")):
            del sys.modules[name]


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    """Put a plugin into the folder: drop(name, body, requires=, says=)."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)

    def put(name: str, body: str = "", **options: Any) -> Path:
        path = folder / f"{name}.py"
        path.write_text(source(name, body, **options))
        path.chmod(0o600)
        return path

    return put
