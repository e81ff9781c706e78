"""Guards: plugins that decide whether something may happen. What a guard that does not work decides about is refused.

A guard is a plugin that implements a hook whose `roost.hooks.HookInfo` says ``guard``. It is refused in its place from
the moment it is to work until it works, is switched off in a guild or is unloaded. The owner is told in the log.
"""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roost.context import Unasked
from roost.dispatch import Dispatcher
from roost.hooks import INFO
from roost.plugins.declared import source_files
from roost.plugins.importing import implementations

if TYPE_CHECKING:
    from roost.plugins.records import PluginRecord

_log = logging.getLogger("roost.plugins")

HOOKS = frozenset(name for name, info in INFO.items() if info.guard)
"""The hooks that make a plugin a guard."""


class Guards:
    """Has the dispatcher refuse in the place of guards that do not work, and tells the owner.

    Args:
        dispatcher: Calls the hooks.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def loading(self, *records: PluginRecord, also: Any = None) -> None:
        """Plugins are about to be loaded, or loaded anew.

        Args:
            also: The instance of the version to come.
        """
        for record in records:
            hooks = (guarded_by(record.instance) if record.instance is not None else frozenset()) | (
                guarded_by(also) if also is not None else frozenset()
            )
            self._dispatcher.hold(record.name, hooks, Unasked.LOADING)

    def works(self, name: str) -> None:
        """A plugin is asked itself from now on."""
        self._dispatcher.release(name)

    def is_missing(self, record: PluginRecord) -> None:
        """A plugin that is to work does not: it could not be loaded."""
        hooks = guarded_by(record.instance) if record.instance is not None else named_in(record)
        self._dispatcher.hold(record.name, hooks, Unasked.MISSING)
        if hooks:
            self._tell(record.name, hooks, "could not be loaded", None)

    def goes_down(self, record: PluginRecord) -> None:
        """A plugin is unloaded because the bot goes down: nobody is asked any more, and nobody slips through."""
        if record.instance is not None:
            self._dispatcher.hold(record.name, guarded_by(record.instance), Unasked.MISSING)

    def is_stopped(self, name: str, guild_id: int | None) -> None:
        """A plugin is paused in a guild, or without a guild quarantined."""
        hooks = frozenset(hook for hook in HOOKS if name in self._dispatcher.having(hook))
        if hooks:
            self._tell(name, hooks, "failed too often", guild_id)

    def refuses(self, name: str, guild_id: int) -> bool:
        """Whether something is refused in a plugin's place in a guild."""
        return any(name in self._dispatcher.stopped_guards(hook, guild_id) for hook in HOOKS)

    def forget(self, name: str) -> bool:
        """The owner does without a plugin; return whether it was refused in its place."""
        return self._dispatcher.release(name)

    def _tell(self, name: str, hooks: frozenset[str], why: str, guild_id: int | None) -> None:
        _log.error(
            "plugin %s %s and decides about %s: what it would be asked is refused%s until it works, is disabled in a "
            "server (/plugins disable) or is unloaded (/bot plugins unload)",
            name,
            why,
            ", ".join(sorted(hooks)),
            f" in guild {guild_id}" if guild_id is not None else "",
            extra={"plugin": name, "event": "guard_refuses", "guild": guild_id},
        )


def guarded_by(instance: Any) -> frozenset[str]:
    """The guards' hooks that a plugin implements."""
    return frozenset(name for name, _function, _options in implementations(instance) if name in HOOKS)


def named_in(record: PluginRecord) -> frozenset[str]:
    """The guards' hooks that the source of a plugin names, for one that could not be imported.

    Nothing is known of a plugin without source.
    """
    found: frozenset[str] = frozenset()
    for origin in (record.origin, *record.doubles):
        for file in source_files(origin):
            found |= _named(file)
    return found


def _named(file: Path) -> frozenset[str]:
    """The hooks that are defined or written as text in a file; every mention counts where it cannot be parsed."""
    try:
        code = file.read_bytes()
    except OSError:
        return frozenset()
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        text = code.decode("utf-8", "replace")
        return frozenset(hook for hook in HOOKS if re.search(rf"\b{hook}\b", text))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    members = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return HOOKS & (names | texts | stored | members)
