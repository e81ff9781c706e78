from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
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
    """Plugins are imported anew here; other tests go on with the modules they know."""
    before = dict(sys.modules)
    yield
    for name in list(sys.modules):
        if name not in before and name.startswith(("roost_dropins", "roost_test_logs", "plug_")):
            del sys.modules[name]
    mine = {name: module for name, module in before.items() if name.startswith(("roost_voice", "roost_stt"))}
    for name in [name for name in sys.modules if name.startswith(("roost_voice", "roost_stt"))]:
        if name not in mine:
            del sys.modules[name]
    sys.modules.update(mine)
    # ``from package import module`` looks at the package first.
    for name, module in mine.items():
        for last, value in list(vars(module).items()):
            if isinstance(value, ModuleType) and value.__name__ == f"{name}.{last}":
                delattr(module, last)
    for name, module in mine.items():
        package, _, last = name.rpartition(".")
        if package in mine:
            setattr(mine[package], last, module)


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
