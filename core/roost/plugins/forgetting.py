"""Asking plugins again to delete what they hold about people who asked while they could not be asked."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from roost.store.tables import table_name

if TYPE_CHECKING:
    from roost.plugins.host import PluginHost

_log = logging.getLogger("roost.privacy")

DELETE = "user_data_delete"
REASON = "user request"
MOST_FAILURES = 2
"""More would count as the plugin's own, and have it quarantined."""


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
    # The backup of a migration at this load holds what is deleted only now.
    async with host.store.erasure.everywhere():
        for user_id in random.sample(waiting, len(waiting)):
            if plugin not in host.loaded:
                return  # It went meanwhile; its next load goes on.
            if plugin not in host.dispatcher.having(DELETE):
                await deletions.documents(user_id, [holder])
            elif not (await host.dispatcher.ask_plugin(plugin, DELETE, user_id=user_id, reason=REASON)).worked:
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
