"""One gateway websocket, and the gateway session that outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
import zlib
from collections import deque
from typing import Any

import hikari
from aiohttp import WSCloseCode, web

from roost.sim.damage import Carrier, RawFrame
from roost.sim.world import Bot

REPLAY_LIMIT = 2000
NEEDED: dict[str, int] = {
    "VOICE_STATE_UPDATE": int(hikari.Intents.GUILD_VOICE_STATES),
    "GUILD_CREATE": int(hikari.Intents.GUILDS),
    "GUILD_DELETE": int(hikari.Intents.GUILDS),
    "CHANNEL_CREATE": int(hikari.Intents.GUILDS),
    "CHANNEL_UPDATE": int(hikari.Intents.GUILDS),
    "CHANNEL_DELETE": int(hikari.Intents.GUILDS),
    "GUILD_ROLE_CREATE": int(hikari.Intents.GUILDS),
    "GUILD_ROLE_UPDATE": int(hikari.Intents.GUILDS),
    "GUILD_ROLE_DELETE": int(hikari.Intents.GUILDS),
    "THREAD_CREATE": int(hikari.Intents.GUILDS),
    "GUILD_MEMBER_ADD": int(hikari.Intents.GUILD_MEMBERS),
    "GUILD_MEMBER_REMOVE": int(hikari.Intents.GUILD_MEMBERS),
    "MESSAGE_CREATE": int(hikari.Intents.GUILD_MESSAGES),
    "MESSAGE_UPDATE": int(hikari.Intents.GUILD_MESSAGES),
    "MESSAGE_DELETE": int(hikari.Intents.GUILD_MESSAGES),
    "MESSAGE_REACTION_ADD": int(hikari.Intents.GUILD_MESSAGE_REACTIONS),
    "MESSAGE_REACTION_REMOVE": int(hikari.Intents.GUILD_MESSAGE_REACTIONS),
}
"""Events that need an intent; all others always come."""
COMMANDS_PER_MINUTE = 120
CLOSE_S = 1.0
"""How long a client has to answer a close frame before its TCP connection is cut."""


class Connection:
    """One gateway websocket. Sends through its own queue, so that nobody waits for a slow client."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request, compress: bool) -> None:
        self.socket = socket
        self._request = request
        self._deflate = zlib.compressobj() if compress else None
        self._queue: asyncio.Queue[dict[str, Any] | RawFrame] = asyncio.Queue(maxsize=4096)
        self.closed_by_us: int | None = None
        self.beat_at = time.monotonic()
        self.beats = 0
        """Heartbeats that the bot has sent."""
        self.commands: deque[float] = deque(maxlen=COMMANDS_PER_MINUTE)

    def send(self, payload: dict[str, Any] | RawFrame) -> None:
        """Queue a payload; a client that reads nothing for 4096 of them loses its connection."""
        try:
            self._queue.put_nowait(payload)
        except asyncio.QueueFull:
            self.abort()

    async def write(self) -> None:
        """Send what is queued, in order, until cancelled or closed."""
        while not self.socket.closed and self.closed_by_us is None:
            payload = await self._queue.get()
            frame = payload if isinstance(payload, RawFrame) else RawFrame(json.dumps(payload).encode())
            try:
                await self._send(frame)
            finally:
                self._queue.task_done()

    async def _send(self, frame: RawFrame) -> None:
        if frame.carrier is Carrier.BYTES:
            await self.socket.send_bytes(frame.raw)
        elif frame.carrier is Carrier.TEXT:
            await self.socket.send_str(frame.raw.decode())
        elif self._deflate is None:
            await self.socket.send_str(frame.raw.decode(errors="replace"))
        else:
            compressed = self._deflate.compress(frame.raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            await self.socket.send_bytes(compressed)

    async def flush(self) -> None:
        """Let the writer send what is queued, at most a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._queue.join()

    async def close(self, code: int) -> None:
        """Send what is queued and a close frame; a client that does not answer it is cut off."""
        if self.closed_by_us is not None:
            return
        await self.flush()
        self.closed_by_us = code
        try:
            async with asyncio.timeout(2 * CLOSE_S):
                await self.socket.close(code=code)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Reset the TCP connection, with no close frame."""
        self.closed_by_us = self.closed_by_us or WSCloseCode.ABNORMAL_CLOSURE
        if self._request.transport is not None:
            self._request.transport.abort()

    def over_limit(self, now: float) -> bool:
        """Count one payload; more than 120 in 60 s is too many."""
        full = len(self.commands) == COMMANDS_PER_MINUTE and now - self.commands[0] < 60.0
        self.commands.append(now)
        return full


class GatewaySession:
    """What survives a lost connection: the sequence and the events to replay."""

    def __init__(self, bot: Bot, intents: int, shard: tuple[int, int]) -> None:
        self.id = secrets.token_hex(16)
        self.bot = bot
        self.intents = intents
        self.shard = shard
        self.sequence = 0
        self.log: deque[tuple[int, str, Any]] = deque(maxlen=REPLAY_LIMIT)
        self.connection: Connection | None = None
        self.expiry: asyncio.Task[None] | None = None
        """Runs while it has no connection, and ends it."""

    def wants(self, event: str, guild_id: int | None) -> bool:
        if guild_id is not None and (guild_id >> 22) % self.shard[1] != self.shard[0]:
            return False
        needed = NEEDED.get(event, 0)
        return not needed or self.has(needed)

    def has(self, intents: int) -> bool:
        return bool(self.intents & intents)

    def dispatch(self, event: str, data: Any) -> None:
        self.sequence += 1
        self.log.append((self.sequence, event, data))
        if self.connection is not None:
            self.connection.send({"op": 0, "t": event, "s": self.sequence, "d": data})

    def found(self) -> None:
        """It has a connection again, or has ended: it does not expire any more."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None

    def replay(self, after: int) -> bool:
        """Send again what came after a sequence number; False if it is too old or too new."""
        assert self.connection is not None
        if after > self.sequence or (self.log and self.log[0][0] > after + 1):
            return False
        for number, event, data in self.log:
            if number > after:
                self.connection.send({"op": 0, "t": event, "s": number, "d": data})
        return True
