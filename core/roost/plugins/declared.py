"""What a plugin's source says of the hook interface it was written for, read without running any of it.

Code for a newer Roost may not even import here, and code for an older one may do harm; neither is tried.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from roost.errors import PluginError
from roost.plugins.records import Origin

API_VERSION = 1
"""The major version of the hook interface."""

_BIGGEST = 1_000_000
_MOST_FILES = 50
_POSITION = {"version": 1, "roost_api": 4}
"""Of the arguments of ``Meta``."""


class IncompatibleError(PluginError):
    """A plugin was written for another hook interface.

    Attributes:
        detail: That, without the plugin's name.
        version: Of the plugin, where known.
    """

    def __init__(self, plugin: str, written_for: int, version: str | None) -> None:
        self.detail = f"it was written for hook interface {written_for}, this Roost has {API_VERSION}"
        self.version = version
        super().__init__(self.detail, plugin=plugin)


def refuse_other_interface(plugin: str, origin: Origin) -> None:
    """Look for ``Meta(..., roost_api=N)`` in the source of a plugin.

    What is computed instead of written out is seen only after the import.

    Raises:
        IncompatibleError: It is written there, and is not this one.
    """
    found = [each for file in _files(origin) for each in _metas(file)]
    if found and all(api != API_VERSION for api, _version in found):
        raise IncompatibleError(plugin, *found[0])


def source_files(origin: Origin) -> list[Path]:
    """All source of a plugin: its module, or every file of its package. Empty for a plugin without source."""
    file = Path(origin.file) if origin.file is not None else _source(origin.module)
    if file is None:
        return []
    if file.name != "__init__.py":
        return [file]
    try:
        return sorted(file.parent.rglob("*.py"))
    except OSError:
        return [file]


def _files(origin: Origin) -> list[Path]:
    """The plugin's own module; of a package all files at its top."""
    file = Path(origin.file) if origin.file is not None else _source(origin.module)
    if file is None:
        return []
    if file.name != "__init__.py":
        return [file]
    try:
        return sorted(file.parent.glob("*.py"))[:_MOST_FILES]
    except OSError:
        return []


def _source(module: str) -> Path | None:
    """The file of an installed module, found without importing the packages above it."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *inner)
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                return file
    return None if inner else Path(spec.origin)


def _metas(file: Path) -> Iterator[tuple[int, str | None]]:
    """(hook interface, version) of every ``Meta(...)`` in a file; the interface is ours where it is not written."""
    try:
        if file.suffix != ".py" or file.stat().st_size > _BIGGEST:
            return
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # The import says what is wrong with it.
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "Meta":
            api, version = _argument(node, "roost_api"), _argument(node, "version")
            if not isinstance(api, int):
                api = API_VERSION
            yield api, version if isinstance(version, str) else None


def _argument(call: ast.Call, name: str) -> object:
    given = next((each.value for each in call.keywords if each.arg == name), None)
    if given is None and len(call.args) > _POSITION[name]:
        given = call.args[_POSITION[name]]
    return given.value if isinstance(given, ast.Constant) else None
