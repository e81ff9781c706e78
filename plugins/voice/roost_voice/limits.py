"""How many joins a member, a server and a shard may ask for in a minute. Pure: `now` is a parameter."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import deque

SWEEP_AT = 1024
"""Members and servers remembered before those without a join in the window are forgotten."""


class Counted(enum.Enum):
    """Whose joins a limit counts."""

    USER = "user"
    GUILD = "guild"
    SHARD = "shard"


WORDS = {
    Counted.USER: "you have asked me to join {limit} times in a minute; try again in {seconds} s",
    Counted.GUILD: "this server has asked me to join {limit} times in a minute; try again in {seconds} s",
    Counted.SHARD: "too many servers ask me to join at the moment; try again in {seconds} s",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Joins and moves in one window.

    Attributes:
        user: For one member, over all servers.
        guild: For one server.
        shard: For all servers of a shard together.
        newcomers: The same for members without a join in the window; more than `shard`, so that a crowd of busy
            members does not shut out the others.
    """

    user: int
    guild: int
    shard: int
    newcomers: int


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A join over a limit.

    Attributes:
        after_s: When the limit has room again.
    """

    scope: Counted
    limit: int
    after_s: float

    @property
    def words(self) -> str:
        """The reason, for the member who asked."""
        return WORDS[self.scope].format(limit=self.limit, seconds=max(1, math.ceil(self.after_s)))


class JoinLimits:
    """Counts joins in a sliding window, and refuses those over a limit."""

    def __init__(self, limits: Limits, window_s: float) -> None:
        self._limits = limits
        self._window_s = window_s
        self._joins: dict[tuple[Counted, int], deque[float]] = {}

    def __len__(self) -> int:
        """Members, servers and shards remembered."""
        return len(self._joins)

    def take(self, user_id: int, guild_id: int, shard_id: int, now: float) -> Refused | None:
        """Count a join; a refused one is not counted. User 0 (a plugin asks for nobody) has no limit of its own."""
        refused = self.look(user_id, guild_id, shard_id, now)
        if refused is not None:
            return refused
        for scope, key, _limit in self._checks(user_id, guild_id, shard_id, now):
            self._joins.setdefault((scope, key), deque()).append(now)
        if len(self._joins) > SWEEP_AT:
            self._joins = {key: made for key, made in self._joins.items() if made and made[-1] > now - self._window_s}
        return None

    def look(self, user_id: int, guild_id: int, shard_id: int, now: float) -> Refused | None:
        """What `take` would answer; counts nothing."""
        for scope, key, limit in self._checks(user_id, guild_id, shard_id, now):
            made = self._made(scope, key, now)
            if len(made) >= limit:
                return Refused(scope, limit, made[-limit] + self._window_s - now)
        return None

    def _checks(self, user_id: int, guild_id: int, shard_id: int, now: float) -> list[tuple[Counted, int, int]]:
        newcomer = not self._made(Counted.USER, user_id, now)
        checks = [
            (Counted.GUILD, guild_id, self._limits.guild),
            (Counted.SHARD, shard_id, self._limits.newcomers if newcomer else self._limits.shard),
        ]
        if user_id:
            checks.insert(0, (Counted.USER, user_id, self._limits.user))
        return checks

    def _made(self, scope: Counted, key: int, now: float) -> deque[float]:
        made = self._joins.get((scope, key))
        if made is None:
            return deque()
        while made and made[0] <= now - self._window_s:
            made.popleft()
        return made
