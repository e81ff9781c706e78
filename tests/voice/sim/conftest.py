"""A simulated voice server on its own, and a bare client that says exactly what a test wants said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
import pytest

from roost.sim.voice_part import Ticket
from roost_voice.sim import SimulatedVoice, create

GUILD, CHANNEL, BOT = 100, 200, 900
DEADLINE_S = 5.0


class FakeHost:
    """The simulated Discord as the voice part sees it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.armed: dict[str, list[Mapping[str, Any]]] = {}
        self.open: dict[int, tuple[int, int]] = {}
        self.closed: list[tuple[int, int | None]] = []
        self._more = asyncio.Event()

    def log(self, kind: str, **fields: Any) -> None:
        self.rows.append({"kind": kind, **fields})
        self._more.set()

    def voice_identified(self, guild_id: int, user_id: int, connection_id: int) -> None:
        assert connection_id not in self.open
        self.open[connection_id] = (guild_id, user_id)

    def voice_closed(self, guild_id: int, user_id: int, connection_id: int, code: int | None) -> None:
        assert self.open.pop(connection_id) == (guild_id, user_id)
        self.closed.append((user_id, code))

    def arm(self, name: str, times: int = 1, **params: Any) -> None:
        self.armed.setdefault(name, []).extend([params] * times)

    def take_fault(self, name: str, guild_id: int | None) -> Mapping[str, Any] | None:
        return self.armed[name].pop(0) if self.armed.get(name) and guild_id in (GUILD, None) else None

    def is_stage(self, channel_id: int) -> bool:
        return False

    def is_bot(self, user_id: int) -> bool:
        return user_id == BOT

    async def logged(self, **wanted: Any) -> dict[str, Any]:
        """Wait for a row with these fields."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for row in self.rows:
                    if all(row.get(key) == value for key, value in wanted.items()):
                        return row
                self._more.clear()
                await self._more.wait()


class BareClient:
    """A websocket to the voice gateway; sends and expects single messages."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, ticket: Ticket | None, session_id: str) -> None:
        self.websocket = websocket
        self.ticket = ticket
        self.session_id = session_id
        self.seen: list[dict[str, Any]] = []

    async def send(self, op: int, payload: Any) -> None:
        await self.websocket.send_str(json.dumps({"op": op, "d": payload}))

    async def identify(self, **changes: Any) -> None:
        assert self.ticket is not None
        payload = {
            "server_id": str(GUILD),
            "user_id": str(BOT),
            "session_id": self.session_id,
            "token": self.ticket.token,
            "max_dave_protocol_version": 1,
        }
        await self.send(0, {**payload, **changes})

    async def resume(self, seq_ack: int, **changes: Any) -> None:
        assert self.ticket is not None
        payload = {
            "server_id": str(GUILD),
            "session_id": self.session_id,
            "token": self.ticket.token,
            "seq_ack": seq_ack,
        }
        await self.send(7, {**payload, **changes})

    async def next(self) -> dict[str, Any]:
        """The next message; a binary one as ``{"op", "seq", "body"}``, a close as ``{"close": code}``."""
        async with asyncio.timeout(DEADLINE_S):
            message = await self.websocket.receive()
        found: dict[str, Any]
        if message.type is aiohttp.WSMsgType.TEXT:
            found = json.loads(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            found = {"op": message.data[2], "seq": int.from_bytes(message.data[:2], "big"), "body": message.data[3:]}
        else:
            found = {"close": self.websocket.close_code}
        self.seen.append(found)
        return found

    async def until(self, op: int) -> dict[str, Any]:
        """Skip to the next message of `op`."""
        while True:
            message = await self.next()
            assert "close" not in message, message
            if message["op"] == op:
                return message

    async def until_close(self) -> int | None:
        while True:
            message = await self.next()
            if "close" in message:
                code: int | None = message["close"]
                return code

    async def to_ready(self) -> dict[str, Any]:
        await self.until(8)
        await self.identify()
        ready: dict[str, Any] = (await self.until(2))["d"]
        return ready

    async def to_described(self, mode: str = "aead_aes256_gcm_rtpsize", port: int = 9) -> dict[str, Any]:
        await self.to_ready()
        await self.send(1, {"protocol": "udp", "data": {"address": "127.0.0.1", "port": port, "mode": mode}})
        description: dict[str, Any] = (await self.until(4))["d"]
        return description


class Rig:
    """A running voice part with its host; opens bare clients."""

    def __init__(self, voice: SimulatedVoice, host: FakeHost, stack: contextlib.AsyncExitStack) -> None:
        self.voice = voice
        self.host = host
        self._stack = stack
        self._http: aiohttp.ClientSession | None = None

    async def client(self, *, allocate: bool = True, like: BareClient | None = None) -> BareClient:
        """A new websocket, with a ticket of its own or with that of `like`."""
        if self._http is None:
            self._http = await self._stack.enter_async_context(aiohttp.ClientSession())
        context = ssl.create_default_context(cafile=str(self.voice.ca_file))
        websocket = await self._stack.enter_async_context(
            self._http.ws_connect(f"wss://{self.voice.endpoint}/?v=8", ssl=context)
        )
        if like is not None:
            return BareClient(websocket, like.ticket, like.session_id)
        ticket = self.voice.allocate(GUILD, CHANNEL, BOT, "bot-session") if allocate else None
        return BareClient(websocket, ticket, "bot-session")

    async def join(self, *users: int) -> None:
        for user in users:
            await self.voice.member_join(GUILD, CHANNEL, user, f"session-{user}")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on state holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)

    def dave(self, user: int) -> Any:
        for session in self.voice.state()["voice_sessions"]:
            if session["user_id"] == str(user):
                return session["dave"]
        raise AssertionError(f"{user} has no session")


RigMaker = Callable[..., Any]


@pytest.fixture
async def make_rig() -> AsyncIterator[RigMaker]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(**settings: Any) -> Rig:
            host = FakeHost()
            voice = create(**{"tick_s": 0.01, **settings})
            await voice.start(host)
            stack.push_async_callback(voice.aclose)
            return Rig(voice, host, stack)

        yield make


@pytest.fixture
async def rig(make_rig: RigMaker) -> Rig:
    made: Rig = await make_rig()
    return made
