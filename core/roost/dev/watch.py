"""``--watch``: a plugin whose files change is reloaded at once, one that is new or mended is loaded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from roost.errors import RoostError

if TYPE_CHECKING:
    from roost.plugins import PluginHost

EVERY_S = 0.25

Stamps = dict[str, tuple[tuple[str, int, int], ...]]


def stamps(folder: Path) -> Stamps:
    """Plugin name to (file, time of change, size) of all its files, packages, catalogues and all."""
    found: Stamps = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.suffix == ".py" and entry.is_file():
            files = [entry]
        elif (entry / "__init__.py").is_file():
            files = [each for each in sorted(entry.rglob("*")) if each.suffix in (".py", ".toml")]
        else:
            continue
        rows = []
        for file in files:
            try:
                status = file.stat()
            except OSError:
                continue  # It is being replaced; the next look sees the new one.
            rows.append((str(file), status.st_mtime_ns, status.st_size))
        found[entry.stem] = tuple(rows)
    return found


async def watch(host: PluginHost, folder: Path, show: Callable[[str], None]) -> None:
    """Reload changed plugins until cancelled, and load new and mended ones. Code that does not load leaves the running
    version as it is."""
    seen = await asyncio.to_thread(stamps, folder)
    while True:
        await asyncio.sleep(EVERY_S)
        now = await asyncio.to_thread(stamps, folder)
        changed = [name for name in now if now[name] != seen.get(name)]
        seen = now
        for name in changed:
            runs = name in host.loaded
            done = "reloaded" if runs else "loaded"
            began = time.monotonic()
            try:
                await (host.reload(name) if runs else host.load(name))
            except RoostError as error:
                show(f"plugin {name} was not {done}: {error}")
            else:
                show(f"plugin {name} {done} in {time.monotonic() - began:.2f} s")
