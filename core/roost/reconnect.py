"""How soon the main gateway is tried again when the network was down."""

from __future__ import annotations

import logging

import hikari.impl.shard

_log = logging.getLogger("roost.gateway")

PAUSE_S = 4.0
"""The longest pause between two tries to connect; hikari adds up to a second of its own."""


def try_often() -> None:
    """Keep hikari's pauses between tries short: they grow to a minute, in which voice could not come back.

    A try that fails reaches no Discord, so none of its limits is touched; those of identifying are kept elsewhere.
    hikari offers no setting for it. Where its insides have changed, its own pauses stay.
    """
    if isinstance(getattr(hikari.impl.shard, "_BACKOFF_CAP", None), float):
        hikari.impl.shard._BACKOFF_CAP = PAUSE_S  # type: ignore[misc]
    else:
        _log.warning("this version of hikari takes its own time to reconnect after an outage: up to a minute")
