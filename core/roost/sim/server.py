"""The simulated Discord as a whole: REST, gateway and control API on one loopback port, voice beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from roost.entrypoints import installed_points
from roost.errors import ConfigError
from roost.sim.connection import GatewaySession
from roost.sim.control import ControlApi
from roost.sim.gateway import Gateway
from roost.sim.rest import VERSIONS, RestApi
from roost.sim.rest_commands import CommandRoutes
from roost.sim.rest_messages import MessageRoutes
from roost.sim.signalling import Signalling
from roost.sim.state import SimState
from roost.sim.voice_part import VoicePart
from roost.sim.world import STAGE, TEXT, VOICE, SimSettings

VOICE_GROUP = "roost.sim"
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SimulatedDiscord:
    """Use as an async context manager; at the end no socket, task or file is left.

    Args:
        settings: How it behaves.
        port: Of REST, gateway and control API; None for any.
        part: The voice part; None for the installed one, if there is one.
    """

    def __init__(
        self, settings: SimSettings | None = None, *, port: int | None = None, part: VoicePart | None = None
    ) -> None:
        self._shared = shared = SimState(settings or SimSettings(), part if part is not None else _installed_part())
        self.settings = shared.settings
        self.world = shared.world
        self.book = shared.book
        self.limits = shared.limits
        self.commands = shared.commands
        self.part = shared.part
        self.faults = shared.faults
        self.scope = shared.scope
        self.entries = shared.entries
        # Voice states need the gateway, which in turn reports to them by these two methods.
        self.gateway = Gateway(shared, take_op4=self._take_op4, session_ended=self._session_ended)
        self.voice = Signalling(shared, self.gateway)
        self._wanted_port = port
        self._port = 0
        self._relay_port: int | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        rest = RestApi(self._shared, self.voice)
        commands = CommandRoutes(self._shared)
        messages = MessageRoutes(self._shared, self.gateway)
        control = ControlApi(self._shared, self.gateway, self.voice, messages, state=self.state, card=self.card)
        app = web.Application(middlewares=[rest.guard, control.guard], client_max_size=64 << 20)
        for routes in (rest, commands, messages):
            routes.add_to(app.router, VERSIONS)
        control.add_to(app.router)
        app.on_response_prepare.append(_without_charset)
        app.router.add_get("/gateway", self.gateway.handle)
        app.router.add_get("/gateway/", self.gateway.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        try:
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", self._wanted_port or 0)
            try:
                await site.start()
            except (OSError, OverflowError) as error:
                why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a port number"
                raise ConfigError(
                    f"port {self._wanted_port} cannot be used ({why}); name a free one with --port"
                ) from None
            self._port = int(self._runner.addresses[0][1])
            self._shared.gateway_url = self.gateway_url
            if self.part is not None:
                await self.part.start(_PartHost(self._shared, self.voice))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            closes = (connection.close(1001) for connection in list(self.gateway.connections))
            await asyncio.gather(*closes, return_exceptions=True)
            if self.part is not None:
                await self.part.aclose()
        finally:
            await self.scope.aclose()
            if self._runner is not None:
                await self._runner.cleanup()

    async def _take_op4(self, session: GatewaySession, data: Any) -> None:
        await self.voice.op4(session, data)

    def _session_ended(self, session: GatewaySession) -> None:
        self.voice.gateway_session_ended(session)

    # Addresses

    @property
    def port(self) -> int:
        """Where REST, gateway and control API listen."""
        return self._port

    def lead_through(self, port: int | None) -> None:
        """Announce this port to bots in place of the true one: that of a relay, which leads there."""
        self._relay_port = port
        self._shared.gateway_url = self.gateway_url

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._relay_port or self._port}/api/v10"

    @property
    def gateway_url(self) -> str:
        return f"ws://127.0.0.1:{self._relay_port or self._port}/gateway"

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/control"

    def card(self) -> dict[str, Any]:
        """The line that ``roost sim`` prints: where everything is, and who is there."""
        return {
            "rest_url": self.rest_url,
            "gateway_url": self.gateway_url,
            "control_url": self.control_url,
            "ca_file": str(self.part.ca_file) if self.part else None,
            "bots": [
                {"token": bot.token, "application_id": str(bot.application_id), "user_id": str(bot.user.id)}
                for bot in self.world.bots
            ],
            "guilds": [
                {
                    "id": str(guild.id),
                    "name": guild.name,
                    "voice_channels": [{"id": str(each.id), "name": each.name} for each in guild.of_type(VOICE)],
                    "text_channels": [{"id": str(each.id), "name": each.name} for each in guild.of_type(TEXT)],
                    "members": [
                        {"id": str(member.user.id), "name": member.user.name}
                        for member in guild.members.values()
                        if not member.user.bot
                    ],
                }
                for guild in self.world.guilds.values()
            ],
        }

    def state(self) -> dict[str, Any]:
        """What ``GET /state`` answers."""
        voice = self.part.state() if self.part else {"voice_sessions": [], "voice_ws": 0, "udp": 0}
        tallies = self.voice.tallies
        return {
            "voice_sessions": voice["voice_sessions"],
            "voice_states": [
                {"guild_id": str(guild.id), "channel_id": str(state.channel_id), "user_id": str(state.user_id)}
                for guild in self.world.guilds.values()
                for state in guild.voice_states.values()
            ],
            "sessions": {
                "live": sum(tally.live for tally in tallies.values()),
                "opened": sum(tally.opened for tally in tallies.values()),
                "closed": sum(tally.closed for tally in tallies.values()),
                "per_guild": [
                    {
                        "guild_id": str(guild_id),
                        "user_id": str(user_id),
                        "live": tally.live,
                        "opened": tally.opened,
                        "closed": tally.closed,
                        "max": tally.most,
                    }
                    for (guild_id, user_id), tally in tallies.items()
                ],
            },
            "max_sessions_per_guild": max((tally.most for tally in tallies.values()), default=0),
            "connections": {
                "gateway": len(self.gateway.connections),
                "voice_ws": voice["voice_ws"],
                "udp": voice["udp"],
            },
            "gateway_sessions": [
                {"bot_id": str(each.bot.user.id), "connected": each.connection is not None, "shard": list(each.shard)}
                for each in self.gateway.sessions.values()
            ],
            "commands": self._command_names(),
            "commands_by_bot": {
                str(bot.application_id): self._command_names(bot.application_id) for bot in self.world.bots
            },
            "voice_available": self.part is not None,
            "t": time.monotonic(),
        }

    def _command_names(self, application: int | None = None) -> dict[str, list[str]]:
        """Guild id or "global" -> the names of a bot's commands, or of all bots' commands, each once."""
        names: dict[str, list[str]] = {}
        for (owner, guild), commands in self.commands.items():
            if application in (None, owner):
                here = names.setdefault("global" if guild is None else str(guild), [])
                here.extend(each["name"] for each in commands if each["name"] not in here)
        return names


class _PartHost:
    """The simulated Discord as its voice part sees it; see `roost.sim.voice_part.SimHost`."""

    def __init__(self, sim: SimState, voice: Signalling) -> None:
        self._sim = sim
        self._voice = voice

    def log(self, kind: str, **fields: Any) -> None:
        self._sim.log(kind, **fields)

    def voice_identified(self, guild_id: int, user_id: int, connection_id: int) -> None:
        self._voice.identified(guild_id, user_id, connection_id)

    def voice_closed(self, guild_id: int, user_id: int, connection_id: int, code: int | None) -> None:
        self._voice.closed(guild_id, user_id, connection_id)

    def take_fault(self, name: str, guild_id: int | None) -> Mapping[str, Any] | None:
        return self._sim.faults.take(name, guild_id)

    def is_bot(self, user_id: int) -> bool:
        return self._sim.world.is_bot(user_id)

    def is_stage(self, channel_id: int) -> bool:
        found = self._sim.world.channel(channel_id)
        return found is not None and found[1].type == STAGE


async def _without_charset(_request: web.Request, response: web.StreamResponse) -> None:
    """Discord's JSON has no charset in its Content-Type, and discord.py compares the whole header."""
    if response.content_type == "application/json":
        response.headers["Content-Type"] = "application/json"


def _installed_part() -> VoicePart | None:
    for point in installed_points(VOICE_GROUP):
        try:
            create = point.load()
        except ModuleNotFoundError:
            continue
        made: VoicePart = create()
        return made
    return None


async def run(port: int | None, settings: SimSettings, *, exit_with_parent: bool = False) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; prints the card as one JSON line when everything is open.

    Args:
        port: None for any free one.
        settings: How it behaves.
        exit_with_parent: Also end when standard input closes.

    Raises:
        ConfigError: The port is taken, or with `exit_with_parent` standard input is no pipe.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, stop.set)
    try:
        async with SimulatedDiscord(settings, port=port) as sim:
            # Where nobody reads the card, nobody waits for this simulator either.
            with _parent_watch(stop) if exit_with_parent else nullcontext(), suppress(BrokenPipeError):
                print(json.dumps(sim.card()), flush=True)
                await stop.wait()
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)


@contextmanager
def _parent_watch(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` when standard input, a pipe that the parent holds, closes."""
    loop = asyncio.get_running_loop()
    number = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(number, 4096):
            stop.set()

    try:
        loop.add_reader(number, readable)
    except OSError:
        raise ConfigError("--exit-with-parent needs standard input to be a pipe") from None
    try:
        yield
    finally:
        loop.remove_reader(number)
