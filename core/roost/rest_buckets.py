"""How hikari learns Discord's rate limits: each channel, server and interaction for itself."""

from __future__ import annotations

import inspect
import logging

from hikari.impl import buckets
from hikari.internal import routes

_log = logging.getLogger("roost.rest")


def learn_apart() -> None:
    """Have the first requests to different channels, servers and interactions not wait for each other.

    Discord limits a route for each of its major parameters (a channel, a server, or a webhook with its token)
    separately. Until hikari knows the limit it sends one request at a time, which is right, but it keeps one such
    queue for the whole route. What waits there is then counted against the limit that the first answer brings, of one
    interaction: of 50 replies to 50 interactions that one allows 5 in 2 s, the rest go out one by one, seconds apart.

    With this the queue belongs to the route and its major parameters. Where hikari's insides have changed, everything
    stays as it is.
    """
    original = getattr(buckets, "_create_unknown_hash", None)
    if getattr(original, "learns_apart", False):
        return
    known = (
        original is not None
        and list(inspect.signature(original).parameters) == ["route", "authentication_hash"]
        and hasattr(routes.CompiledRoute, "major_param_hash")
    )
    if not known:
        _log.warning("this version of hikari sends the first replies to several interactions one after the other")
        return

    def create_unknown_hash(route: routes.CompiledRoute, authentication_hash: str) -> str:
        shared: str = original(route, authentication_hash)  # type: ignore[misc]
        return f"{shared}{routes.HASH_SEPARATOR}{route.major_param_hash}"

    create_unknown_hash.learns_apart = True  # type: ignore[attr-defined]
    buckets._create_unknown_hash = create_unknown_hash
