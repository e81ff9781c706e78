"""Asking plugins about a person, and asking again those that could not be asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from roost.store.tables import table_name

if TYPE_CHECKING:
    from roost.plugins.host import PluginHost

_log = logging.getLogger("roost.privacy")

DELETE = "user_data_delete"


async def ask(host: PluginHost, plugin: str, hook: str, **arguments: Any) -> tuple[bool, Any]:
    """Call one plugin's hook; whether that worked, and what it answered. Whoever is quarantined is not called."""
    dispatcher = host.dispatcher
    if not dispatcher.has(plugin, hook):
        return False, None
    before = dispatcher.failures[plugin, hook]
    answer = await dispatcher.call_plugin(plugin, hook, **arguments)
    return dispatcher.failures[plugin, hook] == before, answer


async def carry_out(host: PluginHost, plugin: str, waiting: Sequence[int]) -> None:
    """Have a plugin that was loaded delete what it holds about those users who asked while it could not be asked.

    The first failure ends that: the rest waits for its next load.

    Raises:
        ResourceError: The store failed; what was not carried out still waits.
    """
    deletions, holder = host.store.deletions, table_name(plugin)
    for position, user_id in enumerate(waiting):
        if plugin not in host.loaded:
            return  # It went meanwhile; its next load goes on.
        if plugin not in host.dispatcher.having(DELETE):
            await deletions.documents(user_id, [holder])
        elif not (await ask(host, plugin, DELETE, user_id=user_id, reason="user request"))[0]:
            _log.warning(
                "plugin %s: %d requests to delete data wait for its next load", plugin, len(waiting) - position
            )
            return
        await deletions.done(user_id, holder)
    _log.info("plugin %s: deleted the data of %d people who had asked before it was loaded", plugin, len(waiting))
