"""Asking plugins about a person, and asking again those that could not be asked."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from roost.store.tables import table_name

if TYPE_CHECKING:
    from roost.plugins.host import PluginHost

_log = logging.getLogger("roost.privacy")

DELETE = "user_data_delete"
MOST_FAILURES = 2
"""More would count as the plugin's own, and have it quarantined."""


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

    A request that fails waits for its next load and holds up no other. After `MOST_FAILURES` all the rest waits, for
    then it is the plugin that fails. The order is another one each time, so that the same requests are not always the
    last.

    Raises:
        ResourceError: The store failed; what was not carried out still waits.
    """
    deletions, holder = host.store.deletions, table_name(plugin)
    failures = done = 0
    for user_id in random.sample(waiting, len(waiting)):
        if plugin not in host.loaded:
            return  # It went meanwhile; its next load goes on.
        if plugin not in host.dispatcher.having(DELETE):
            await deletions.documents(user_id, [holder])
        elif not (await ask(host, plugin, DELETE, user_id=user_id, reason="user request"))[0]:
            failures += 1
            if failures == MOST_FAILURES:
                break
            continue
        await deletions.done(user_id, holder)
        done += 1
    if failures:
        left = len(waiting) - done
        _log.warning("plugin %s: %d requests to delete data failed or wait for its next load", plugin, left)
    if done:
        _log.info("plugin %s: deleted the data of %d people who had asked before it was loaded", plugin, done)
