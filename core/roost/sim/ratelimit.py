"""Discord's rate limits as token windows. Pure: `now` is a parameter."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict

MAX_BUCKETS = 10_000
GLOBAL_PER_SECOND = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What one request may do; the fields become the X-RateLimit headers."""

    allowed: bool
    limit: int
    remaining: int
    reset_after_s: float
    is_global: bool = False


class RateLimiter:
    """Fixed windows per bucket, and the global limit."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str, limit: int, window_s: float, now: float) -> Verdict:
        """Use one request of a bucket, if there is one left."""
        started, used = self._windows.pop(key, (now, 0))
        if now - started >= window_s:
            started, used = now, 0
        allowed = used < limit
        self._windows[key] = (started, used + allowed)
        while len(self._windows) > MAX_BUCKETS:
            self._windows.popitem(last=False)
        return Verdict(allowed, limit, max(limit - used - 1, 0), max(started + window_s - now, 0.0))

    def take_global(self, token: str, now: float) -> Verdict:
        verdict = self.take(f"global:{token}", GLOBAL_PER_SECOND, 1.0, now)
        return dataclasses.replace(verdict, is_global=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """The limit of a REST path.

    Attributes:
        route: What the X-RateLimit-Bucket header names: the same for every channel, server or token.
        major: The channel, server, or webhook with its token that is counted separately.
        limit: Requests in the window.
        window_s: Length of the window.
    """

    route: str
    major: str
    limit: int
    window_s: float

    @property
    def name(self) -> str:
        """The header, as opaque as Discord's."""
        return hashlib.sha256(self.route.encode()).hexdigest()[:32]


def bucket_of(method: str, path: str) -> Bucket:
    """The bucket of a REST path below /api/vN."""
    parts = path.strip("/").split("/")
    if method == "POST" and parts[0] == "channels" and parts[-1] == "messages":
        return Bucket("POST:messages", parts[1], 5, 5.0)
    if method in ("PATCH", "DELETE") and parts[0] == "channels" and "messages" in parts:
        return Bucket(f"{method}:messages", parts[1], 5, 5.0)
    if parts[0] == "interactions":
        return Bucket("interactions", ":".join(parts[1:3]), 30, 5.0)
    if parts[0] == "webhooks":
        return Bucket(f"{method}:webhooks", ":".join(parts[1:3]), 5, 2.0)
    route = ":".join(part for part in [parts[0], *parts[2:]] if not part.isdigit())
    return Bucket(f"{method}:{route}", ":".join(parts[1:2]), 40, 1.0)
