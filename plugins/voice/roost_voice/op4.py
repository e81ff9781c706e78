"""Voice state updates (main gateway op 4): one queue per shard, by urgency and in fair shares, within Discord's limits.

Discord closes a gateway connection (4008) that sends more than 120 commands in 60 s; hikari itself stops at 117. Voice
keeps to 100 per 60 s and shard, and to one a second per guild.

Leaves go out before moves, moves before joins, joins before reaps. Within one of these classes the requester with the
fewest op 4s in the window comes first, so one member with many guilds does not hold up the others. Each class may fill
the window up to its share in `ROOM`; the rest is kept for the more urgent ones, and its last part for requesters who
have used little of it.

Ending a ghost may take three op 4s (leave, claim, leave): no more ghosts are begun than can be ended, else the first
leaves of many would use the minute up and none be gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping

import hikari

from roost.audio import Timing
from roost.scopes import Scope
from roost_voice.moves import Op4Sent, Priority, SendOp4

_log = logging.getLogger("roost.voice.op4")

REAP_OP4S = 3
"""What the end of one ghost may take."""


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """How far the window may be filled by a class of op 4.

    Attributes:
        light_below: A requester with fewer op 4s in the window counts as light.
        light: For light requesters, in percent of the window.
        heavy: For the others.
    """

    light_below: int
    light: int
    heavy: int

    def of(self, per_window: int, used: int = 0) -> int:
        """The same in op 4s, for a requester with `used` op 4s in the window."""
        return per_window * (self.light if used < self.light_below else self.heavy) // 100


ROOM: Mapping[Priority, Room] = {
    Priority.LEAVE: Room(light_below=15, light=100, heavy=75),
    Priority.MOVE: Room(light_below=15, light=90, heavy=75),
    Priority.JOIN: Room(light_below=5, light=85, heavy=50),
    Priority.REAP: Room(light_below=5, light=75, heavy=75),
}
"""A ghost whose end has begun may go as far as a light move."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One op 4 of one guild, waiting."""

    guild_id: int
    order: SendOp4
    number: int

    @property
    def requester(self) -> int:
        """The user who asked; an op 4 that nobody asked for is its guild's own (a negative number)."""
        return self.order.requester or -self.guild_id


class Op4Queue:
    """The order and pace of one shard's op 4. Pure: `now` is a parameter."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._waiting: dict[int, Entry] = {}
        self._sent: deque[tuple[float, int]] = deque()
        """Time and requester of each op 4 in the window."""
        self._used: Counter[int] = Counter()
        """Op 4s in the window by requester."""
        self._last: dict[int, float] = {}
        self._reserved: dict[int, int] = {}
        """By guild: op 4s that the end of its ghost, which has begun, may still take."""
        self._number = 0
        self.replaced = 0
        """Entries that a later one of the same guild took the place of."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, guild_id: int, order: SendOp4) -> None:
        """Queue, in place of whatever the guild still had waiting. So the queue is never longer than its guilds."""
        self._number += 1
        if guild_id in self._waiting:
            self.replaced += 1
        self._waiting[guild_id] = Entry(guild_id, order, self._number)

    def drop(self, guild_id: int) -> None:
        self._waiting.pop(guild_id, None)

    def release(self, guild_id: int) -> None:
        """The guild's ghost is gone: what was kept for its end is for others."""
        self._reserved.pop(guild_id, None)

    def take(self, now: float) -> Entry | None:
        """The most urgent entry that may go out now, counted as sent; None when none may."""
        self._slide(now)
        ready = [
            entry for entry in self._waiting.values() if self._free_at(entry.guild_id) <= now and self._has_room(entry)
        ]
        if not ready:
            return None
        entry = min(ready, key=self._rank)
        del self._waiting[entry.guild_id]
        self._sent.append((now, entry.requester))
        self._used[entry.requester] += 1
        self._last[entry.guild_id] = now
        if entry.order.priority is Priority.REAP:
            self._reserved[entry.guild_id] = max(0, self._reserved.get(entry.guild_id, REAP_OP4S) - 1)
        else:
            self.release(entry.guild_id)
        return entry

    def _rank(self, entry: Entry) -> tuple[int, bool, int, int]:
        """The smallest goes first."""
        begun = entry.guild_id in self._reserved
        return entry.order.priority, not begun, self._used[entry.requester], entry.number

    def _has_room(self, entry: Entry) -> bool:
        per_window, sent, used = self._timing.op4_per_window, len(self._sent), self._used[entry.requester]
        if entry.order.priority is not Priority.REAP:
            return sent < ROOM[entry.order.priority].of(per_window, used)
        if entry.guild_id in self._reserved:
            return sent < ROOM[Priority.MOVE].of(per_window)
        # A ghost whose end has not begun: all of it has to fit.
        promised = sum(self._reserved.values())
        return sent + promised + REAP_OP4S <= ROOM[Priority.REAP].of(per_window)

    def put_back(self, entry: Entry) -> None:
        """The entry could not be sent; it waits again unless a later one has come."""
        self._waiting.setdefault(entry.guild_id, entry)

    def wake_at(self, now: float) -> float | None:
        """When to call `take` again; None while nothing waits."""
        if not self._waiting:
            return None
        self._slide(now)
        free = [self._free_at(entry.guild_id) for entry in self._waiting.values() if self._has_room(entry)]
        slides_at = self._sent[0][0] + self._timing.op4_window_s if self._sent else None
        if len(free) < len(self._waiting):
            # Some wait for room. Nothing sent in the window means that reservations hold it.
            free.append(slides_at if slides_at is not None else now + self._timing.op4_window_s)
        return min(free)

    def _slide(self, now: float) -> None:
        """Forget what has left the window."""
        while self._sent and self._sent[0][0] <= now - self._timing.op4_window_s:
            _at, requester = self._sent.popleft()
            self._used[requester] -= 1
            if not self._used[requester]:
                del self._used[requester]
        if not self._waiting and len(self._last) > 64:
            self._last = {guild: at for guild, at in self._last.items() if at > now - self._timing.op4_guild_s}

    def _free_at(self, guild_id: int) -> float:
        last = self._last.get(guild_id)
        return float("-inf") if last is None else last + self._timing.op4_guild_s


class ShardSender:
    """Sends one shard's queue. Owned by `Op4Sender`.

    Args:
        on_sent: Called with (guild id, what is being sent); again if it has to be sent again.
    """

    def __init__(self, timing: Timing, scope: Scope, on_sent: Callable[[int, Op4Sent], None], name: str) -> None:
        self.queue = Op4Queue(timing)
        self.shard: hikari.api.GatewayShard | None = None
        self._on_sent = on_sent
        self._wake = asyncio.Event()
        scope.keep(self._run, f"op4 {name}")

    def put(self, guild_id: int, order: SendOp4) -> None:
        self.queue.put(guild_id, order)
        self._wake.set()

    def release(self, guild_id: int) -> None:
        self.queue.release(guild_id)
        self._wake.set()

    def resume(self, shard: hikari.api.GatewayShard) -> None:
        """The shard is connected (again)."""
        self.shard = shard
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            entry = self.queue.take(loop.time()) if self._connected() else None
            if entry is not None:
                await self._send(entry)
                continue
            at = self.queue.wake_at(loop.time()) if self._connected() else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await self._wake.wait()

    def _connected(self) -> bool:
        return self.shard is not None and self.shard.is_connected

    async def _send(self, entry: Entry) -> None:
        assert self.shard is not None
        order = entry.order
        # Told before it is sent: from here it cannot be withdrawn, and what fails below may still have gone out.
        self._on_sent(entry.guild_id, Op4Sent(order.ticket, order.channel_id))
        try:
            if order.channel_id is None:
                await self.shard.update_voice_state(entry.guild_id, None)
            else:
                await self.shard.update_voice_state(
                    entry.guild_id, order.channel_id, self_mute=order.hidden, self_deaf=order.hidden
                )
        except BaseException as error:
            # At once, so that it can be replaced and withdrawn while it waits.
            self.queue.put_back(entry)
            if not _means_no_connection(error):
                raise
            _log.info("op 4 of guild %d waits for the gateway: %s", entry.guild_id, type(error).__name__)
            # The shard sets the wake-up when it is ready or resumed.
            await self._wake.wait()


def _means_no_connection(error: BaseException) -> bool:
    """Whether an op 4 was not sent because the shard is not connected."""
    if isinstance(error, asyncio.CancelledError):
        # When hikari connects anew, it cancels those who wait for its rate limit.
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, hikari.ComponentStateConflictError | hikari.GatewayError | OSError)


class Op4Sender:
    """All shards' senders.

    Args:
        shard_of: The shard id of a guild.
    """

    def __init__(
        self, timing: Timing, scope: Scope, shard_of: Callable[[int], int], on_sent: Callable[[int, Op4Sent], None]
    ) -> None:
        self._timing = timing
        self._scope = scope
        self._shard_of = shard_of
        self._on_sent = on_sent
        self._shards: dict[int, ShardSender] = {}

    def _sender(self, shard_id: int) -> ShardSender:
        sender = self._shards.get(shard_id)
        if sender is None:
            sender = ShardSender(self._timing, self._scope, self._on_sent, str(shard_id))
            self._shards[shard_id] = sender
        return sender

    def put(self, guild_id: int, order: SendOp4) -> None:
        self._sender(self._shard_of(guild_id)).put(guild_id, order)

    def drop(self, guild_id: int) -> None:
        self._sender(self._shard_of(guild_id)).queue.drop(guild_id)

    def release(self, guild_id: int) -> None:
        """The guild's ghost is gone, or its actor is."""
        self._sender(self._shard_of(guild_id)).release(guild_id)

    def connected(self, shard: hikari.api.GatewayShard) -> None:
        """Note a shard that can be sent through: at its READY `bot.shards` is still empty."""
        self._sender(shard.id).resume(shard)
