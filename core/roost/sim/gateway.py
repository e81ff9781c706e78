"""The simulated main gateway: identify, resume, events, op 4, and sessions that outlive a lost connection."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import hikari
from aiohttp import WSCloseCode, WSMsgType, web

from roost.sim.connection import CLOSE_S, Connection, GatewaySession
from roost.sim.damage import FRAMES, HELLOS, RawFrame, without
from roost.sim.faults import GATEWAY_STRIKES
from roost.sim.messages import Message
from roost.sim.state import SimState
from roost.sim.world import STRANGER, Bot, Guild

PRIVILEGED = int(hikari.Intents.GUILD_MEMBERS | hikari.Intents.GUILD_PRESENCES | hikari.Intents.MESSAGE_CONTENT)
MESSAGE_CONTENT = int(hikari.Intents.MESSAGE_CONTENT)
PAYLOAD_LIMIT_BYTES = 4096
MEMBERS_AT_ONCE = 1000
MISSED_BEATS = 1.5
"""Of the heartbeat interval: after so long without a heartbeat the connection is closed."""


class Gateway:
    """All gateway connections and sessions of the simulated Discord.

    Args:
        sim: The state that all parts share.
        take_op4: Called with a session and the data of its op 4: a request to join, move, leave or mute.
        session_ended: Called with each session that has ended.
    """

    def __init__(
        self,
        sim: SimState,
        take_op4: Callable[[GatewaySession, Any], Awaitable[None]],
        session_ended: Callable[[GatewaySession], None],
    ) -> None:
        self._sim = sim
        self._take_op4 = take_op4
        self._session_ended = session_ended
        self.sessions: dict[str, GatewaySession] = {}
        self.connections: set[Connection] = set()

    def dispatch(self, event: str, data: Any, *, guild_id: int | None = None, bot: Bot | None = None) -> None:
        """Send an event to every session that may see it: of members of the guild, on its shard, with the intent."""
        guild = self._sim.world.guilds.get(guild_id) if guild_id is not None else None
        for session in list(self.sessions.values()):
            if bot is not None and session.bot is not bot:
                continue
            if guild is not None and session.bot.user.id not in guild.members:
                continue
            if session.wants(event, guild_id):
                session.dispatch(event, data)

    def show_message(self, event: str, message: Message) -> None:
        """MESSAGE_CREATE or MESSAGE_UPDATE to every bot that sees the channel.

        Without the MESSAGE_CONTENT intent the text of others is empty, unless it mentions the bot.
        """
        guild = self._sim.world.guilds[message.guild_id]
        channel = guild.channels.get(message.channel_id) or guild.threads[message.channel_id]
        data = message.discord() | {"guild_id": str(guild.id)}
        author = int(message.author["id"])
        if author in guild.members and message.application_id is None:
            data["member"] = {key: value for key, value in guild.member_payload(author).items() if key != "user"}
        hidden: dict[str, Any] = {"content": "", "embeds": [], "components": [], "attachments": []}
        for session in list(self.sessions.values()):
            bot = session.bot.user.id
            if not guild.permissions(bot, channel) & int(hikari.Permissions.VIEW_CHANNEL):
                continue
            if session.wants(event, guild.id):
                open_ = bot == author or session.has(MESSAGE_CONTENT) or f"<@{bot}>" in data["content"]
                session.dispatch(event, data if open_ else data | hidden)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One client, from its connection to its end."""
        if self._sim.faults.take("refuse_gateway") is not None:
            self._sim.log("gateway_refused", code=None)
            return web.Response(status=503)
        socket = web.WebSocketResponse(max_msg_size=1 << 16, timeout=CLOSE_S)
        await socket.prepare(request)
        connection = Connection(socket, request, request.query.get("compress") == "zlib-stream")
        self.connections.add(connection)
        writer = self._sim.scope.spawn(self._write(connection), "gateway writer")
        connection.send(self._hello())
        self._sim.log("gateway_connect")
        session: GatewaySession | None = None
        try:
            while not socket.closed:
                raw = await self._receive(connection)
                if raw is None:
                    break
                if connection.over_limit(time.monotonic()):
                    await connection.close(4008)
                    break
                if session is not None and self.sessions.get(session.id) is not session:
                    session = None  # Ended by op 9: the client may identify again on the same connection.
                try:
                    payload = json.loads(raw)
                    op, data = int(payload["op"]), payload.get("d")
                    session = await self._take(connection, session, op, data)
                except (ValueError, KeyError, TypeError, AttributeError):
                    await connection.close(4002)
        finally:
            self.connections.discard(connection)
            writer.cancel()
            self._gone(connection, session, socket.close_code)
        return socket

    def _hello(self) -> RawFrame:
        hello: Any = {"op": 10, "d": {"heartbeat_interval": self._sim.settings.heartbeat_ms}, "s": None, "t": None}
        if (damage := self._sim.faults.take("damaged_hello")) is not None:
            hello = HELLOS[str(damage.get("kind", "no_d"))]
            self._sim.log("fault_struck", name="damaged_hello")
        return RawFrame(json.dumps(hello).encode())

    def _damaged(self, fault: str, payload: dict[str, Any], guild_id: int | None = None) -> dict[str, Any]:
        damage = self._sim.faults.take(fault, guild_id)
        if damage is None:
            return payload
        self._sim.log("fault_struck", name=fault)
        return without(payload, damage.get("without") or [], damage.get("replaced") or {})

    async def _receive(self, connection: Connection) -> str | bytes | None:
        """The next message; None when the connection has ended, or ends here because its heartbeat stopped."""
        silence_s = MISSED_BEATS * self._sim.settings.heartbeat_ms / 1000
        left_s = connection.beat_at + silence_s - time.monotonic()
        try:
            message = await connection.socket.receive(timeout=max(left_s, 0.01))
        except TimeoutError:
            self._sim.log("gateway_silent")
            connection.abort()
            return None
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return None
        raw: str | bytes = message.data
        if len(raw) > PAYLOAD_LIMIT_BYTES:
            await connection.close(4002)
            return None
        return raw

    async def _write(self, connection: Connection) -> None:
        try:
            await connection.write()
        except (ConnectionError, RuntimeError):
            return

    async def _take(
        self, connection: Connection, session: GatewaySession | None, op: int, data: Any
    ) -> GatewaySession | None:
        if op == 1:
            connection.beat_at = time.monotonic()
            connection.beats += 1
            if session is None or self._sim.faults.take_for_bot("mute_gateway", self._number(session.bot)) is None:
                connection.send({"op": 11})
            return session
        if op == 2:
            return await self._identify(connection, session, data)
        if op == 6:
            return await self._resume(connection, data)
        if session is None:
            if op != 3:
                await connection.close(4003)
            return None
        if op == 4:
            await self._take_op4(session, data)
        elif op == 8:
            self._members(session, data)
        elif op not in (3, 31, 43):
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
        intents = int(data["intents"])
        shard_id, shards = (int(each) for each in data.get("shard") or (0, 1))
        if bot is None:
            sim.log("gateway_refused", code=4004)
            await connection.close(4004)
            return None
        if intents & PRIVILEGED & ~sim.settings.intents_allowed:
            sim.log("gateway_refused", code=4014, bot_id=str(bot.user.id))
            await connection.close(4014)
            return None
        if not 0 <= shard_id < shards:
            await connection.close(4010)
            return None
        if bot.identifies_left <= 0 or sim.faults.take("deny_identify") is not None:
            sim.log("gateway_refused", code=None, bot_id=str(bot.user.id))
            connection.send({"op": 9, "d": False})
            return None
        if not bot.may_identify(shard_id, sim.settings, time.monotonic()):
            sim.log("identify_too_soon", bot_id=str(bot.user.id), shard=[shard_id, shards])
            connection.send({"op": 9, "d": False})
            return None
        bot.identifies_left -= 1
        session = GatewaySession(bot, intents, (shard_id, shards))
        session.connection = connection
        self.sessions[session.id] = session
        sim.log("gateway_identify", bot_id=str(bot.user.id), shard=list(session.shard))
        guilds = [guild for guild in sim.world.guilds.values() if bot.user.id in guild.members]
        guilds = [guild for guild in guilds if (guild.id >> 22) % session.shard[1] == session.shard[0]]
        if sim.faults.take("withhold_ready") is not None:
            return session
        ready = self._damaged(
            "damaged_ready",
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
        session.dispatch("READY", ready)
        for guild in guilds:
            if session.wants("GUILD_CREATE", guild.id):
                self.show_guild(session, guild)
        self.strike()
        return session

    def show_guild(self, session: GatewaySession, guild: Guild) -> None:
        """GUILD_CREATE, with what the intents of a session let it see."""
        everybody = session.has(int(hikari.Intents.GUILD_PRESENCES))
        voice = session.has(int(hikari.Intents.GUILD_VOICE_STATES))
        shown = guild.gateway_payload(session.bot.user.id, all_members=everybody, voice=voice)
        odd = self._sim.faults.take("bad_entries", guild.id)
        if odd is not None:
            guild.spoil(shown, int(odd.get("user_id", STRANGER)))
        session.dispatch("GUILD_CREATE", self._damaged("damaged_guild", shown, guild.id))

    async def _resume(self, connection: Connection, data: Any) -> GatewaySession | None:
        session = self.sessions.get(str(data.get("session_id")))
        token = str(data.get("token", "")).removeprefix("Bot ")
        if session is None or session.bot.token != token or self._sim.faults.take("swallow_resume") is not None:
            connection.send({"op": 9, "d": False})
            return None
        session.found()
        old, session.connection = session.connection, connection
        if old is not None and old is not connection:
            old.abort()
        if not session.replay(int(data.get("seq") or 0)):
            session.connection = None
            self.end(session)
            connection.send({"op": 9, "d": False})
            return None
        self._sim.log("gateway_resume", bot_id=str(session.bot.user.id))
        session.dispatch("RESUMED", {"_trace": []})
        self.strike()
        return session

    def _members(self, session: GatewaySession, data: Any) -> None:
        """Op 8: a thousand members at a time."""
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
        late = self._sim.faults.take("late_members", guild.id)
        size = MEMBERS_AT_ONCE if late is None else int(late.get("size", 1))
        count = max(1, math.ceil(len(members) / size))
        for number in range(count):
            chunk: dict[str, Any] = {
                "guild_id": str(guild.id),
                "members": members[number * size : (number + 1) * size],
                "chunk_index": number,
                "chunk_count": count,
                "not_found": [str(user) for user in wanted if user not in guild.members],
                "presences": [],
            }
            if "nonce" in data:
                chunk["nonce"] = data["nonce"]
            if late is None:
                session.dispatch("GUILD_MEMBERS_CHUNK", chunk)
            else:
                delay_s = number * float(late.get("delay_s", 1.0))
                self._sim.later(delay_s, functools.partial(session.dispatch, "GUILD_MEMBERS_CHUNK", chunk))

    def _gone(self, connection: Connection, session: GatewaySession | None, code: int | None) -> None:
        """A socket ended: 1000 and 1001 from the client end the session at once, anything else leaves it resumable."""
        self._sim.log(
            "gateway_close",
            code=connection.closed_by_us or code,
            by="server" if connection.closed_by_us else "client",
            shard=list(session.shard) if session else None,
            bot_id=str(session.bot.user.id) if session else None,
        )
        if session is None or session.connection is not connection:
            return
        session.connection = None
        if connection.closed_by_us is None and code in (WSCloseCode.OK, WSCloseCode.GOING_AWAY):
            self.end(session)
            return
        session.found()
        session.expiry = self._sim.later(self._sim.settings.ghost_timeout_s, lambda: self._expire(session))

    def _expire(self, session: GatewaySession) -> None:
        session.expiry = None
        self._sim.log("gateway_expired", bot_id=str(session.bot.user.id))
        self.end(session)

    def end(self, session: GatewaySession) -> None:
        """The session is over, and the voice states it made with it."""
        session.found()
        if self.sessions.pop(session.id, None) is None:
            return
        self._sim.log("gateway_session_end", bot_id=str(session.bot.user.id), shard=list(session.shard))
        self._session_ended(session)

    # From outside

    def _number(self, bot: Bot) -> int:
        return self._sim.world.bots.index(bot)

    def strike(self) -> None:
        """Let every armed fault that waits for a connection have it."""
        for number, bot in enumerate(self._sim.world.bots):
            for name in GATEWAY_STRIKES:
                if self._connections_of(bot):
                    params = self._sim.faults.take_for_bot(name, number)
                    if params is not None:
                        self._sim.log("fault_struck", name=name, bot_id=str(bot.user.id))
                        self._strike(bot, name, params)

    def _strike(self, bot: Bot, name: str, params: Mapping[str, Any]) -> None:
        if name == "invalid_session":
            self.invalidate(bot)
        elif name == "gateway_abort":
            self.abort(bot)
        elif name == "gateway_frame":
            frame = FRAMES[str(params.get("kind", "not_json"))]()
            for connection in self._connections_of(bot):
                connection.send(frame)
        else:
            self._sim.scope.spawn(self.drop(bot, int(params.get("code", 4000))), "gateway drop")

    def _connections_of(self, bot: Bot) -> list[Connection]:
        return [each.connection for each in self.sessions.values() if each.bot is bot and each.connection]

    async def drop(self, bot: Bot, code: int) -> int:
        """Close every connection of a bot from this side; its sessions stay resumable. Gives how many."""
        connections = self._connections_of(bot)
        await asyncio.gather(*(connection.close(code) for connection in connections))
        return len(connections)

    def abort(self, bot: Bot) -> int:
        """Reset every connection of a bot, as a network does; its sessions stay resumable. Gives how many."""
        connections = self._connections_of(bot)
        for connection in connections:
            connection.abort()
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
