"""Entry points of the installed distributions, read one distribution at a time: a damaged one harms itself alone.

``importlib.metadata.entry_points`` raises for all of them when the metadata of one cannot be read.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from roost.errortext import error_line

_log = logging.getLogger("roost.plugins")


def spare_pydantic() -> None:
    """Keep pydantic from reading entry points where a damaged distribution would make that fail.

    pydantic looks for plugins of its own when it makes the first model, and lets the error out. Call this before it is
    imported.
    """
    try:
        importlib.metadata.entry_points()
    except Exception:  # noqa: BLE001 - `installed_points` says which distribution it is
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def installed_points(group: str) -> list[importlib.metadata.EntryPoint]:
    """Every entry point of a group, sorted by name and value. A distribution that cannot be read is logged."""
    found: list[importlib.metadata.EntryPoint] = []
    for dist in _distributions():
        try:
            found += dist.entry_points.select(group=group)
        except Exception as error:  # noqa: BLE001 - what a damaged file makes the library raise is nowhere written
            _log.warning(
                "the entry points of %s cannot be read (%s), so plugins in it are not found; %s",
                place_of(dist),
                error_line(error),
                remedy(dist),
            )
    return sorted(found, key=lambda each: (each.name, each.value))


def remedy(dist: importlib.metadata.Distribution) -> str:
    """What to do about a damaged distribution."""
    return f"run: pip install --force-reinstall {name_of(dist)}"


def name_of(dist: importlib.metadata.Distribution) -> str:
    """Name of a distribution, by its metadata or else by its folder."""
    try:
        name = dist.metadata["Name"]
    except Exception:  # noqa: BLE001 - unreadable; the folder's name is as good
        name = None
    return str(name or _folder(dist).partition("-")[0] or "unknown")


def version_of(dist: importlib.metadata.Distribution) -> str:
    """Version of a distribution, by its metadata or else by its folder."""
    try:
        version = dist.metadata["Version"]
    except Exception:  # noqa: BLE001 - unreadable; the folder's name is as good
        version = None
    return str(version or _folder(dist).partition("-")[2] or "0")


def place_of(dist: importlib.metadata.Distribution) -> str:
    """The distribution's metadata folder, or its name."""
    path = getattr(dist, "_path", None)
    return str(path) if path is not None else name_of(dist)


def _folder(dist: importlib.metadata.Distribution) -> str:
    """``name-version``."""
    path = getattr(dist, "_path", None)
    return Path(str(path)).name.removesuffix(".dist-info").removesuffix(".egg-info") if path is not None else ""


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    """Every installed distribution; of two with one name the first on the path, which is the one that is imported."""
    seen: set[str] = set()
    for dist in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", _folder(dist).partition("-")[0] or name_of(dist)).lower()
        if name not in seen:
            seen.add(name)
            yield dist
