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
def no_dropped_modules() -> Iterator[None]:
    """What a test dropped in is not there for the next one."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("roost_dropins", "roost_test_logs", "plug_")):
            del sys.modules[name]


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    """Put a plugin into the folder: drop(name, body, requires=, says=), or drop(name, code=...)."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)

    def put(name: str, body: str = "", *, code: str | None = None, file: str | None = None, **options: Any) -> Path:
        path = folder / (file or f"{name}.py")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(source(name, body, **options) if code is None else code)
        path.chmod(0o600)
        return path

    return put
