"""Discord's rate limits as token windows. Pure: `now` is a parameter."""

from __future__ import annotations

import dataclasses
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
    bucket: str
    is_global: bool = False


class RateLimiter:
    """Fixed windows per bucket, and the global limit."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, bucket: str, limit: int, window_s: float, now: float) -> Verdict:
        """Use one request of a bucket, if there is one left."""
        started, used = self._windows.pop(bucket, (now, 0))
        if now - started >= window_s:
            started, used = now, 0
        allowed = used < limit
        self._windows[bucket] = (started, used + allowed)
        while len(self._windows) > MAX_BUCKETS:
            self._windows.popitem(last=False)
        return Verdict(allowed, limit, max(limit - used - 1, 0), max(started + window_s - now, 0.0), bucket)

    def take_global(self, token: str, now: float) -> Verdict:
        verdict = self.take(f"global:{token}", GLOBAL_PER_SECOND, 1.0, now)
        return dataclasses.replace(verdict, is_global=True)


def bucket_of(method: str, path: str) -> tuple[str, int, float]:
    """(bucket, limit, window in seconds) of a REST path below /api/vN."""
    parts = path.strip("/").split("/")
    if method == "POST" and parts[0] == "channels" and parts[-1] == "messages":
        return f"messages:{parts[1]}", 5, 5.0
    if method in ("PATCH", "DELETE") and parts[0] == "channels" and "messages" in parts:
        return f"{method}:messages:{parts[1]}", 5, 5.0
    if parts[0] in ("webhooks", "interactions"):
        return f"{parts[0]}:{':'.join(parts[1:3])}", 30, 5.0
    major = ":".join(parts[:2])
    return f"{method}:{major}:{':'.join(part for part in parts[2:] if not part.isdigit())}", 40, 1.0
