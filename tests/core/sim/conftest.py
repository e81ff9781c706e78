"""A simulated Discord with a voice part that only notes what it is asked, and clients of it: raw ones and real bots."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import hikari
import pytest

from roost.sim import ControlClient, SimSettings, SimulatedDiscord
from roost.sim.faults import Param
from roost.sim.voice_part import SimHost, Ticket
from roost.sim.world import TEXT, VOICE

DEADLINE_S = 8.0
INTENTS = int(hikari.Intents.GUILDS | hikari.Intents.GUILD_VOICE_STATES | hikari.Intents.GUILD_MESSAGES)


class NotingVoice:
    """`roost.sim.voice_part.VoicePart` with no sockets: connections are what a test says they are."""

    ca_file = Path("/nonexistent/ca.pem")

    def __init__(self) -> None:
        self.tickets: list[tuple[int, int, int, str]] = []
        self.ended: list[tuple[int, int, int]] = []
        self.members: list[tuple[int, int | None]] = []
        self.connections: dict[int, tuple[int, int]] = {}
        self.refuse_members = False
        self._host: SimHost | None = None

    @property
    def host(self) -> SimHost:
        assert self._host is not None
        return self._host

    async def start(self, host: SimHost) -> None:
        self._host = host

    async def aclose(self) -> None:
        self._host = None

    def connect(self, guild_id: int, user_id: int) -> int:
        number = len(self.connections) + 1
        self.connections[number] = (guild_id, user_id)
        self.host.voice_identified(guild_id, user_id, number)
        return number

    def disconnect(self, number: int, code: int | None = None) -> None:
        self.host.voice_closed(*self.connections[number], number, code)

    def allocate(self, guild_id: int, channel_id: int, user_id: int, session_id: str) -> Ticket:
        self.tickets.append((guild_id, channel_id, user_id, session_id))
        return Ticket(f"voice-token-{len(self.tickets)}", "localhost:4443")

    def end(self, guild_id: int, user_id: int, code: int) -> None:
        self.ended.append((guild_id, user_id, code))

    async def member_join(self, guild_id: int, channel_id: int, user_id: int, session_id: str) -> None:
        if self.refuse_members:
            raise RuntimeError("refused")
        self.members.append((user_id, channel_id))

    async def member_leave(self, guild_id: int, user_id: int) -> None:
        self.members.append((user_id, None))

    async def speak(self, guild_id: int, user_id: int, *, wav: Any, recording: Any, params: Any) -> dict[str, Any]:
        return {"started_at": 1.0, "ended_at": 2.0, "frames": 50, "bytes": len(wav or b"")}

    def recordings(self) -> list[dict[str, Any]]:
        return [{"name": "one", "text": "hello"}]

    def state(self) -> dict[str, Any]:
        return {"voice_sessions": [], "voice_ws": 0, "udp": 0}

    def faults(self) -> dict[str, str]:
        return {"mute_hello": "says nothing"}

    def fault_params(self) -> dict[str, dict[str, Param]]:
        return {"mute_hello": {"reason": Param(str)}}


class Gateway:
    """A gateway client that does nothing on its own."""

    def __init__(self, sim: SimulatedDiscord, http: aiohttp.ClientSession, bot: int) -> None:
        self._sim = sim
        self._http = http
        self.bot = sim.world.bots[bot]
        self.user_id = self.bot.user.id
        self.socket: aiohttp.ClientWebSocketResponse = None  # type: ignore[assignment]
        self._inflate: Any = None
        self.sequence = 0
        self.session_id = ""

    async def connect(self, *, compress: bool = False) -> Gateway:
        query = "?v=10&encoding=json" + ("&compress=zlib-stream" if compress else "")
        self.socket = await self._http.ws_connect(self._sim.gateway_url + query)
        self._inflate = zlib.decompressobj() if compress else None
        assert (await self.receive())["op"] == 10
        return self

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            message = await self.socket.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), (message, self.socket.close_code)
        if self._inflate is not None:
            assert message.type is aiohttp.WSMsgType.BINARY
            assert message.data.endswith(b"\x00\x00\xff\xff")
        raw = message.data if self._inflate is None else self._inflate.decompress(message.data)
        payload: dict[str, Any] = json.loads(raw)
        self.sequence = payload.get("s") or self.sequence
        return payload

    async def send(self, op: int, data: Any) -> None:
        await self.socket.send_json({"op": op, "d": data})

    async def identify(self, intents: int = INTENTS, token: str | None = None, **fields: Any) -> Gateway:
        data = {"token": token or self.bot.token, "intents": intents, "properties": {}, **fields}
        await self.send(2, data)
        return self

    async def ready(self, intents: int = INTENTS, **fields: Any) -> Gateway:
        await self.identify(intents, **fields)
        self.session_id = (await self.event("READY"))["session_id"]
        return self

    async def resume(self, session_id: str, sequence: int) -> None:
        self.session_id = session_id
        await self.send(6, {"token": self.bot.token, "session_id": session_id, "seq": sequence})

    async def op4(self, guild_id: int, channel_id: int | None, *, mute: bool = False) -> None:
        data = {"guild_id": str(guild_id), "channel_id": channel_id and str(channel_id), "self_mute": mute}
        await self.send(4, data | {"self_deaf": False})

    async def event(self, name: str) -> Any:
        """The data of the next event of this name; others in between are skipped."""
        while True:
            payload = await self.receive()
            if payload["op"] == 0 and payload["t"] == name:
                return payload["d"]

    async def settled(self) -> list[tuple[str, Any]]:
        """Every event up to the answer to a heartbeat sent now: what is not among them was not sent."""
        await self.send(1, self.sequence)
        events = []
        while (payload := await self.receive())["op"] != 11:
            if payload["op"] == 0:
                events.append((payload["t"], payload["d"]))
        return events

    async def names(self) -> list[str]:
        return [name for name, _ in await self.settled()]

    async def close_code(self) -> int | None:
        async with asyncio.timeout(DEADLINE_S):
            while (await self.socket.receive()).type not in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.CLOSING,
                aiohttp.WSMsgType.ERROR,
            ):
                pass
        return self.socket.close_code

    def kill(self) -> None:
        """As SIGKILL does: TCP ends, no close frame."""
        connection = self.socket._conn  # type: ignore[attr-defined]
        connection.transport.abort()


class Bench:
    """A simulated Discord and the means to use it."""

    def __init__(self, sim: SimulatedDiscord, voice: NotingVoice, control: ControlClient, http: Any) -> None:
        self.sim = sim
        self.part = voice
        self.control = control
        self.http: aiohttp.ClientSession = http
        self.guild = next(iter(sim.world.guilds.values()))
        self.text = self.guild.of_type(TEXT)[0].id
        self.voice = [channel.id for channel in self.guild.of_type(VOICE)]
        self.mod, self.ada, self.ben, self.cleo = (user.id for user in sim.world.humans[:4])
        self.bot = sim.world.bots[0]
        self.bot_id = self.bot.user.id

    def gateway(self, bot: int = 0) -> Gateway:
        return Gateway(self.sim, self.http, bot)

    async def ready(self, bot: int = 0, intents: int = INTENTS) -> Gateway:
        gateway = await (await self.gateway(bot).connect()).ready(intents)
        await gateway.settled()
        return gateway

    async def rest(
        self, method: str, path: str, body: Any = None, *, bot: int = 0, token: str | None = None
    ) -> tuple[int, Any]:
        status, answer, _ = await self.rest_full(method, path, body, bot=bot, token=token)
        return status, answer

    async def rest_full(
        self, method: str, path: str, body: Any = None, *, bot: int = 0, token: str | None = None
    ) -> tuple[int, Any, Any]:
        headers = {"Authorization": f"Bot {token or self.sim.world.bots[bot].token}"}
        async with self.http.request(method, self.sim.rest_url + path, json=body, headers=headers) as response:
            answer = await response.json(content_type=None) if response.status != 204 else None
            return response.status, answer, response.headers

    def logged(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.sim.entries if entry["kind"] == kind]

    def channel_of_bot(self) -> int | None:
        state = self.guild.voice_states.get(self.bot_id)
        return state.channel_id if state else None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_in(self, channel: int | None) -> None:
        await self.until(lambda: self.channel_of_bot() == channel)


def _sockets() -> list[str]:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return sorted(link for link in links if link.startswith("socket:"))


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task and no socket survives a test."""
    before = set(asyncio.all_tasks())
    sockets = _sockets()
    yield
    end = time.monotonic() + 2.0
    while True:
        tasks = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
        if not tasks and _sockets() == sockets:
            return
        assert time.monotonic() < end, (tasks, sockets, _sockets())
        await asyncio.sleep(0.01)


OpenBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def open_bench(nothing_left: None) -> AsyncIterator[OpenBench]:
    """Make a bench with settings of one's own."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> Bench:
            voice = NotingVoice()
            sim = await stack.enter_async_context(SimulatedDiscord(SimSettings(**settings), part=voice))
            control = await stack.enter_async_context(ControlClient(sim.control_url))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Bench(sim, voice, control, http)

        yield make


@pytest.fixture
async def bench(open_bench: OpenBench) -> Bench:
    return await open_bench()


@pytest.fixture
def wav() -> str:
    return base64.b64encode(b"RIFF").decode()
