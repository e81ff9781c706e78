"""The simulated main gateway: identify, resume, events, op 4, and sessions that outlive a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any

import hikari
from aiohttp import WSCloseCode, WSMsgType, web

from roost.sim.world import Bot

if TYPE_CHECKING:
    from roost.sim.server import SimulatedDiscord

REPLAY_LIMIT = 2000
PRIVILEGED = int(hikari.Intents.GUILD_MEMBERS | hikari.Intents.GUILD_PRESENCES | hikari.Intents.MESSAGE_CONTENT)
NEEDED: dict[str, int] = {
    "VOICE_STATE_UPDATE": int(hikari.Intents.GUILD_VOICE_STATES),
    "GUILD_CREATE": int(hikari.Intents.GUILDS),
    "GUILD_DELETE": int(hikari.Intents.GUILDS),
    "CHANNEL_UPDATE": int(hikari.Intents.GUILDS),
    "CHANNEL_DELETE": int(hikari.Intents.GUILDS),
    "GUILD_ROLE_UPDATE": int(hikari.Intents.GUILDS),
    "GUILD_MEMBER_ADD": int(hikari.Intents.GUILD_MEMBERS),
    "MESSAGE_CREATE": int(hikari.Intents.GUILD_MESSAGES),
    "MESSAGE_UPDATE": int(hikari.Intents.GUILD_MESSAGES),
}
"""Events that need an intent; all others always come."""
COMMANDS_PER_MINUTE = 120


class Connection:
    """One gateway websocket. Sends through its own queue, so that nobody waits for a slow client."""

    def __init__(self, socket: web.WebSocketResponse, compress: bool) -> None:
        self.socket = socket
        self._deflate = zlib.compressobj() if compress else None
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=4096)
        self.closed_by_us: int | None = None
        self.commands: deque[float] = deque(maxlen=COMMANDS_PER_MINUTE)

    def send(self, payload: dict[str, Any]) -> None:
        """Queue a payload; a client that reads nothing for 4096 of them loses its connection."""
        try:
            self._queue.put_nowait(payload)
        except asyncio.QueueFull:
            self.closed_by_us = 4000

    async def write(self) -> None:
        """Send what is queued, in order, until cancelled or closed."""
        while not self.socket.closed and self.closed_by_us is None:
            raw = json.dumps(await self._queue.get()).encode()
            try:
                if self._deflate is None:
                    await self.socket.send_str(raw.decode())
                else:
                    await self.socket.send_bytes(self._deflate.compress(raw) + self._deflate.flush(zlib.Z_SYNC_FLUSH))
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Let the writer send what is queued, at most a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._queue.join()

    async def close(self, code: int) -> None:
        await self.flush()
        self.closed_by_us = code
        await self.socket.close(code=code)

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

    def wants(self, event: str, guild_id: int | None) -> bool:
        if guild_id is not None and (guild_id >> 22) % self.shard[1] != self.shard[0]:
            return False
        needed = NEEDED.get(event, 0)
        return not needed or bool(self.intents & needed)

    def dispatch(self, event: str, data: Any) -> None:
        self.sequence += 1
        self.log.append((self.sequence, event, data))
        if self.connection is not None:
            self.connection.send({"op": 0, "t": event, "s": self.sequence, "d": data})

    def replay(self, after: int) -> bool:
        """Send again what came after a sequence number; False if it is too old or too new."""
        assert self.connection is not None
        if after > self.sequence or (self.log and self.log[0][0] > after + 1):
            return False
        for number, event, data in self.log:
            if number > after:
                self.connection.send({"op": 0, "t": event, "s": number, "d": data})
        return True


class Gateway:
    """All gateway connections and sessions of the simulated Discord."""

    def __init__(self, sim: SimulatedDiscord) -> None:
        self._sim = sim
        self.sessions: dict[str, GatewaySession] = {}
        self.connections: set[Connection] = set()

    def dispatch(self, event: str, data: Any, *, guild_id: int | None = None, bot: Bot | None = None) -> None:
        """Send an event to every session that may see it."""
        for session in list(self.sessions.values()):
            if (bot is None or session.bot is bot) and session.wants(event, guild_id):
                session.dispatch(event, data)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """One client, from its connection to its end."""
        socket = web.WebSocketResponse(max_msg_size=1 << 16, heartbeat=None)
        await socket.prepare(request)
        connection = Connection(socket, request.query.get("compress") == "zlib-stream")
        self.connections.add(connection)
        writer = self._sim.scope.spawn(self._write(connection), "gateway writer")
        connection.send({"op": 10, "d": {"heartbeat_interval": self._sim.settings.heartbeat_ms}, "s": None, "t": None})
        session: GatewaySession | None = None
        try:
            async for message in socket:
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    continue
                try:
                    payload = json.loads(message.data)
                    op, data = int(payload["op"]), payload.get("d")
                except (ValueError, KeyError, TypeError):
                    await connection.close(4002)
                    break
                if connection.over_limit(time.monotonic()):
                    await connection.close(4008)
                    break
                session = await self._take(connection, session, op, data)
                if socket.closed:
                    break
        finally:
            self.connections.discard(connection)
            writer.cancel()
            self._gone(connection, session, socket.close_code)
        return socket

    async def _write(self, connection: Connection) -> None:
        try:
            await connection.write()
        except (ConnectionError, RuntimeError):
            return

    async def _take(
        self, connection: Connection, session: GatewaySession | None, op: int, data: Any
    ) -> GatewaySession | None:
        if op == 1:
            connection.send({"op": 11})
            return session
        if op == 2:
            return await self._identify(connection, session, data)
        if op == 6:
            return await self._resume(connection, data)
        if session is None:
            await connection.close(4003)
            return None
        if op == 4:
            await self._sim.voice.op4(session, data)
        elif op == 8:
            self._members(session, data)
        elif op not in (3, 43, 31):
            await connection.close(4001)
        return session

    async def _identify(
        self, connection: Connection, session: GatewaySession | None, data: Any
    ) -> GatewaySession | None:
        sim = self._sim
        if session is not None:
            await connection.close(4005)
            return session
        bot = sim.world.bot_by_token(str(data.get("token", "")).removeprefix("Bot "))
        intents = int(data.get("intents", 0))
        if bot is None:
            sim.log("gateway_refused", code=4004)
            await connection.close(4004)
            return None
        if intents & PRIVILEGED & ~sim.settings.intents_allowed:
            sim.log("gateway_refused", code=4014, bot_id=str(bot.user.id))
            await connection.close(4014)
            return None
        if bot.identifies_left <= 0 or sim.faults.take("deny_identify") is not None:
            connection.send({"op": 9, "d": False})
            return None
        bot.identifies_left -= 1
        shard = tuple(data.get("shard") or (0, 1))
        session = GatewaySession(bot, intents, (int(shard[0]), int(shard[1])))
        session.connection = connection
        self.sessions[session.id] = session
        sim.log("gateway_identify", bot_id=str(bot.user.id), shard=list(session.shard))
        guilds = [guild for guild in sim.world.guilds.values() if bot.user.id in guild.members]
        guilds = [guild for guild in guilds if (guild.id >> 22) % session.shard[1] == session.shard[0]]
        session.dispatch(
            "READY",
            {
                "v": 10,
                "user": bot.user.payload() | {"verified": True, "mfa_enabled": False, "email": None},
                "session_id": session.id,
                "resume_gateway_url": sim.gateway_url,
                "guilds": [{"id": str(guild.id), "unavailable": True} for guild in guilds],
                "application": {"id": str(bot.application_id), "flags": 0},
                "shard": list(session.shard),
                "session_type": "normal",
                "private_channels": [],
                "_trace": [],
            },
        )
        for guild in guilds:
            if session.wants("GUILD_CREATE", guild.id):
                session.dispatch("GUILD_CREATE", guild.gateway_payload())
        return session

    async def _resume(self, connection: Connection, data: Any) -> GatewaySession | None:
        session = self.sessions.get(str(data.get("session_id")))
        token = str(data.get("token", "")).removeprefix("Bot ")
        if session is None or session.bot.token != token or self._sim.faults.take("swallow_resume") is not None:
            connection.send({"op": 9, "d": False})
            return None
        old, session.connection = session.connection, connection
        if old is not None and old is not connection:
            await old.close(4000)
        if not session.replay(int(data.get("seq") or 0)):
            session.connection = None
            self.end(session)
            connection.send({"op": 9, "d": False})
            return None
        self._sim.log("gateway_resume", bot_id=str(session.bot.user.id))
        session.dispatch("RESUMED", {"_trace": []})
        return session

    def _members(self, session: GatewaySession, data: Any) -> None:
        """Op 8: one chunk with everybody (the guilds are small)."""
        guild = self._sim.world.guilds.get(int(data["guild_id"]))
        if guild is None:
            return
        wanted = {int(user) for user in data.get("user_ids") or ()}
        prefix = str(data.get("query") or "").lower()
        members = [
            guild.member_payload(user_id)
            for user_id, member in guild.members.items()
            if (not wanted or user_id in wanted) and member.user.name.lower().startswith(prefix)
        ]
        chunk: dict[str, Any] = {
            "guild_id": str(guild.id),
            "members": members,
            "chunk_index": 0,
            "chunk_count": 1,
            "not_found": [str(user) for user in wanted if user not in guild.members],
            "presences": [],
        }
        if "nonce" in data:
            chunk["nonce"] = data["nonce"]
        session.dispatch("GUILD_MEMBERS_CHUNK", chunk)

    def _gone(self, connection: Connection, session: GatewaySession | None, code: int | None) -> None:
        """A socket ended: 1000 and 1001 from the client end the session at once, anything else leaves it resumable."""
        self._sim.log(
            "gateway_close",
            code=connection.closed_by_us or code,
            by="server" if connection.closed_by_us else "client",
            bot_id=str(session.bot.user.id) if session else None,
        )
        if session is None or session.connection is not connection:
            return
        session.connection = None
        if connection.closed_by_us is None and code in (WSCloseCode.OK, WSCloseCode.GOING_AWAY):
            self.end(session)
            return
        self._sim.later(self._sim.settings.ghost_timeout_s, lambda: self._expire(session))

    def _expire(self, session: GatewaySession) -> None:
        if session.connection is None and self.sessions.get(session.id) is session:
            self.end(session)

    def end(self, session: GatewaySession) -> None:
        """The session is over, and the voice states it made with it."""
        self.sessions.pop(session.id, None)
        self._sim.voice.gateway_session_ended(session)

    async def drop(self, bot: Bot, code: int) -> int:
        """Close every connection of a bot from this side; its sessions stay resumable. Gives how many."""
        connections = [each.connection for each in self.sessions.values() if each.bot is bot and each.connection]
        for connection in connections:
            await connection.close(code)
        return len(connections)

    def invalidate(self, bot: Bot) -> int:
        """Op 9 (not resumable) to every session of a bot. Gives how many."""
        sessions = [each for each in self.sessions.values() if each.bot is bot]
        for session in sessions:
            connection = session.connection
            session.connection = None
            self.end(session)
            if connection is not None:
                connection.send({"op": 9, "d": False})
        return len(sessions)
