"""How soon the main gateway is reached again when the network was down."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import hikari
import hikari.impl.shard

_log = logging.getLogger("roost.gateway")

PAUSE_S = 2.0
"""Between two tries to reach the gateway."""


def try_often() -> None:
    """Have connections of the main gateway that do not come about tried again soon.

    hikari's own pauses grow to a minute, in which voice could not come back, and it has no setting for them. They stay
    for whatever happens once Discord has been reached, so sessions are begun no more often than before: a token has
    1000 of those a day. Where hikari's insides have changed, everything stays as it is.
    """
    transport = getattr(hikari.impl.shard, "_GatewayTransport", None)
    original = getattr(transport, "connect", None)
    if transport is None or original is None:
        _log.warning("this version of hikari takes its own time to reconnect after an outage: up to a minute")
        return
    if getattr(original, "tries_often", False):
        return

    async def connect(**options: Any) -> Any:
        while True:
            try:
                return await original(**options)
            except hikari.GatewayConnectionError as error:
                _log.warning("Discord's gateway cannot be reached: %s", error.reason)
            await asyncio.sleep(PAUSE_S)

    connect.tries_often = True  # type: ignore[attr-defined]
    transport.connect = staticmethod(connect)
