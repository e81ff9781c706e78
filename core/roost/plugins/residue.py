"""What an unloaded plugin left behind, told apart from what others hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from roost import leaks
from roost.leaks import Holdings

if TYPE_CHECKING:
    from roost.plugins.host import PluginHost
    from roost.plugins.records import PluginRecord


class Ledger:
    """Measures what plugins take and whether they give it back.

    A thing that came while a plugin was imported or loaded is that plugin's. One that came later is, when the plugin's
    code runs in it, or for child processes, when no other plugin is named on its command line. Descriptors count when
    they came during the load and lead neither to Discord nor to the store.
    """

    def __init__(self, host: PluginHost) -> None:
        self._host = host

    def stock(self, record: PluginRecord) -> Holdings:
        """What the process holds now, of modules only the plugin's."""
        return leaks.measure(self._host.bot, modules=(self._host.prefix(record),))

    @contextlib.contextmanager
    def watch(self, record: PluginRecord) -> Iterator[None]:
        """Whatever comes in this block is the plugin's."""
        before = self.stock(record)
        try:
            yield
        finally:
            record.windows.append((before, self.stock(record)))

    def released(self, record: PluginRecord, held: Holdings) -> tuple[str, ...]:
        """What of `held` is gone."""
        return tuple(leaks.grown(self.stock(record), held))

    async def residue(self, record: PluginRecord, *, modules: bool = True) -> list[str]:
        """What is still there of an unloaded plugin, given a moment to go; forgets what was measured.

        Args:
            modules: Whether its modules should be gone.
        """
        try:
            return await leaks.settle(lambda: self._look(record, modules))
        finally:
            record.windows.clear()

    def _look(self, record: PluginRecord, modules: bool) -> list[str]:
        if not record.windows:
            return []
        host = self._host
        prefix = host.prefix(record)
        loaded = [host.records[name] for name in host.loaded]
        others = [host.prefix(other) for other in loaded]
        before, now = record.windows[0][0], self.stock(record)

        def own(names: set[str]) -> bool:
            return any(leaks.within(name, (prefix,)) for name in names)

        found = [
            f"listener {name}"
            for key, name in now.listeners.items()
            if key not in before.listeners and own({name.partition(" ")[0]})
        ]
        found += [
            f"task {name}"
            for task, name in now.tasks.items()
            if task not in before.tasks and own(leaks.task_modules(task))
        ]
        for thread, name in now.threads.items():
            if thread in before.threads:
                continue
            names = leaks.thread_modules(thread)
            came = any(thread in late.threads and thread not in early.threads for early, late in record.windows)
            if own(names) or (came and not any(leaks.within(each, others) for each in names)):
                found.append(name)
        theirs = {
            pid
            for other in loaded
            for early, late in other.windows
            for pid in late.children
            if pid not in early.children
        }
        found += [
            f"child process {pid}: {line}"
            for pid, line in now.children.items()
            if pid not in before.children and pid not in theirs and not any(other in line for other in others)
        ]
        url = urlsplit(host.config.core.discord.rest_url or "")
        database = host.store.address
        ports = {leaks.DISCORD_PORT, *([url.port] if url.port else []), *([database.port] if database.port else [])}
        files = (str(host.config.data_dir), *([database.path] if database.path else []))
        opened = {each for early, late in record.windows for each in late.descriptors - early.descriptors}
        found += [
            f"descriptor {number}: {target}"
            for number, target in sorted(opened & now.descriptors)
            if not leaks.is_remote(number, ports, files) and not target.startswith(files)
        ]
        if modules:
            found += [f"module {name}" for name in sorted(now.modules)]
        found += [f"command /{name}" for name in host.command_names(record.name)]
        if host.dispatcher.manager.has_plugin(record.name):
            found.append("hook implementations")
        return found
