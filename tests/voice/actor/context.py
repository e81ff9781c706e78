"""A small host for the voice plugin: a real hikari bot, a real dispatcher, consent in memory."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import hikari
import lightbulb
from fault_report import DRIVER, FULL, SCALE
from prometheus_client import CollectorRegistry

from roost.audio import AudioFrame, JoinRequest, NoticeFacts, SessionStats, Use, VoiceSession
from roost.commands.registry import CommandRegistry
from roost.consent import USUAL, Terms
from roost.dispatch import Dispatcher
from roost.gateway import Bot
from roost.hooks import Deny, hookimpl
from roost.instances import hold_instance
from roost.rest_buckets import learn_apart
from roost.scopes import Scope
from roost.sim.server import SimulatedDiscord
from roost_voice.config import VoiceConfig
from roost_voice.plugin import VoicePlugin
from roost_voice.sessions import JoinResult, SessionManager

DEADLINE_S = 60.0 if FULL else 8.0
NO_LIMITS = {"joins_per_user": 1000, "joins_per_guild": 1000, "joins_per_shard": 1000}
"""Tests ask for more joins in a minute than members may; those about the limits set them."""


class MemoryConsent:
    """`roost.consent.Consent` without a store."""

    def __init__(self, mode: str = "opt-in") -> None:
        self.agreed: set[tuple[int, int]] = set()
        self.refused: set[tuple[int, int]] = set()
        self.terms: dict[tuple[int, int], Terms] = {}
        self._mode = mode
        self._callbacks: list[Callable[[int, int], None]] = []

    def mode(self, guild_id: int) -> str:
        return self._mode

    def allows(self, guild_id: int, user_id: int) -> bool:
        decision = self.decision(guild_id, user_id)
        return self._mode == "notice" if decision is None else decision

    def decision(self, guild_id: int, user_id: int) -> bool | None:
        key = guild_id, user_id
        return True if key in self.agreed else False if key in self.refused else None

    def agreed_to(self, guild_id: int, user_id: int) -> Terms | None:
        key = guild_id, user_id
        return self.terms.get(key, USUAL) if key in self.agreed else None

    async def agree(self, guild_id: int, user_id: int, terms: Terms = USUAL) -> None:
        self.agreed.add((guild_id, user_id))
        self.refused.discard((guild_id, user_id))
        self.terms[guild_id, user_id] = terms
        self._changed(guild_id, user_id)

    async def opt_out(self, guild_id: int, user_id: int) -> None:
        self.agreed.discard((guild_id, user_id))
        self.refused.add((guild_id, user_id))
        self._changed(guild_id, user_id)

    def subscribe(self, callback: Callable[[int, int], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def _changed(self, guild_id: int, user_id: int) -> None:
        for callback in self._callbacks:
            callback(guild_id, user_id)


class Context:
    """`roost.context.PluginContext`."""

    def __init__(self, bot: hikari.GatewayBot, data_dir: Path, instance_id: str, config: VoiceConfig) -> None:
        self.name = "voice"
        self.bot = bot
        self.data_dir = data_dir
        self.instance_id = instance_id
        self.config = config
        self.hooks = Dispatcher(
            lambda: ["voice", "recorder"],
            lambda _plugin, _guild: True,
            name_of=lambda _module: "voice",
            comes_along=lambda _plugin: True,
        )
        self.consent = MemoryConsent()
        self.settings = None
        self.metrics = CollectorRegistry()
        self.scope = Scope("plugin:voice")
        self.steps: list[str] = []
        self._cleanups: list[Callable[[], Awaitable[None] | None]] = []
        self._listeners: list[tuple[type[hikari.Event], Any]] = []

    def config_for(self, guild_id: int) -> VoiceConfig:
        return self.config

    def on_unload(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        self._cleanups.append(callback)

    def listen(
        self, event: type[hikari.Event], callback: Callable[[Any], Coroutine[Any, Any, None]], *, always: bool = False
    ) -> None:
        self.bot.subscribe(event, callback)
        self._listeners.append((event, callback))

    def task(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return self.scope.spawn(coro, name)

    def mark_stop(self, name: str, guild_id: int | None = None) -> None:
        self.steps.append(name)

    def enabled_in(self, guild_id: int) -> bool:
        return True

    async def close(self) -> None:
        while self._cleanups:
            result = self._cleanups.pop()()
            if inspect.isawaitable(result):
                await result
        for event, callback in self._listeners:
            self.bot.unsubscribe(event, callback)
        await self.scope.aclose()


class Recorder:
    """A second plugin, which notes every hook and vetoes when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.deny: str | None = None
        self.sink: SinkRecorder | None = None
        self._news = asyncio.Event()

    def _note(self, name: str, detail: Any = None) -> None:
        self.calls.append((name, detail))
        self._news.set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    async def until(self, name: str, count: int = 1) -> Any:
        """The detail of the `count`-th call of this name."""
        async with asyncio.timeout(DEADLINE_S):
            while self.names.count(name) < count:
                self._news.clear()
                await self._news.wait()
        return [detail for each, detail in self.calls if each == name][count - 1]

    @hookimpl
    async def voice_join_check(self, request: JoinRequest) -> None:
        self._note("join_check", request.channel_id)

    @hookimpl
    async def voice_session_opening(self, session: VoiceSession) -> Deny | None:
        self._note("opening", session.channel_id)
        return Deny(self.deny) if self.deny else None

    @hookimpl
    async def voice_session_opened(self, session: VoiceSession) -> None:
        self._note("opened", session.members)
        if self.sink is not None:
            session.attach(self.sink, facts=NoticeFacts(Use.TEXT))

    @hookimpl
    async def voice_session_moved(self, session: VoiceSession, old: int, new: int, by_request: bool) -> None:
        self._note("moved", (old, new, by_request))

    @hookimpl
    async def voice_session_interrupted(self, session: VoiceSession, reason: str) -> None:
        self._note("interrupted", reason)

    @hookimpl
    async def voice_session_restored(self, session: VoiceSession, reason: str) -> None:
        self._note("restored", reason)

    @hookimpl
    async def voice_member_joined(self, session: VoiceSession, user_id: int) -> None:
        self._note("member_joined", user_id)

    @hookimpl
    async def voice_member_left(self, session: VoiceSession, user_id: int) -> None:
        self._note("member_left", user_id)

    @hookimpl
    async def voice_session_closing(self, session: VoiceSession, reason: str, deadline: float) -> None:
        self._note("closing", reason)

    @hookimpl
    async def voice_session_closed(self, session: VoiceSession, reason: str, stats: SessionStats) -> None:
        self._note("closed", (reason, stats))


class SinkRecorder:
    """A frame sink that keeps what it gets."""

    def __init__(self) -> None:
        self.frames: list[AudioFrame] = []
        self.purged: list[int] = []
        self._news = asyncio.Event()

    def write(self, frame: AudioFrame) -> None:
        self.frames.append(frame)
        self._news.set()

    def purge(self, user_id: int) -> None:
        self.purged.append(user_id)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.frames) < count:
                self._news.clear()
                await self._news.wait()


class Rig:
    """A bot with the voice plugin, logged in at a simulated Discord."""

    def __init__(self, sim: SimulatedDiscord, ctx: Context, plugin: VoicePlugin, recorder: Recorder) -> None:
        self.sim = sim
        self.ctx = ctx
        self.plugin = plugin
        self.recorder = recorder
        guild = next(iter(sim.world.guilds.values()))
        self.guild = guild
        self.guild_id = guild.id
        self.channels = [channel.id for channel in guild.of_type(2)]
        self.text = guild.of_type(0)[0].id
        self.members = [member.user.id for member in guild.members.values() if not member.user.bot]
        self.bot_id = sim.world.bots[0].user.id

    @property
    def manager(self) -> SessionManager:
        assert self.plugin.manager is not None
        return self.plugin.manager

    async def join(self, channel: int, *, member: int = 0, force: bool = False) -> JoinResult:
        request = JoinRequest(self.guild_id, self.channels[channel], self.members[member], self.text)
        return await self.manager.join(request, may_move_others=force)

    async def leave(self) -> JoinResult:
        return await self.manager.leave(self.guild_id, "the test says so")

    @property
    def place(self) -> int | None:
        """Where Discord shows the bot."""
        state = self.guild.voice_states.get(self.bot_id)
        return state.channel_id if state else None

    @property
    def most(self) -> int:
        return max((tally.most for tally in self.sim.voice.tallies.values()), default=0)

    def op4(self) -> list[str | None]:
        return [entry["channel_id"] for entry in self.sim.entries if entry["kind"] == "op4"]

    async def at_rest(self) -> None:
        """Wait until no actor is left."""
        await eventually(lambda: not self.manager.states())


async def eventually(condition: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    """Wait for something that announces itself by no event."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def at_once(_shard: int) -> AsyncIterator[Callable[[], None]]:
    """Let every shard begin a session when it likes."""
    yield lambda: None


@contextlib.asynccontextmanager
async def running(
    sim: SimulatedDiscord,
    data_dir: Path,
    *,
    recorder: Recorder | None = None,
    commands: bool = False,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """Run a bot with the voice plugin against `sim`; stops in order."""
    assert sim.part is not None
    config = VoiceConfig(
        **{
            "ca_file": sim.part.ca_file,
            "allowed_hosts": ("localhost", "127.0.0.1"),
            "driver": DRIVER,
            "timing_scale": SCALE,
            "drain_s": 0.5,
            **NO_LIMITS,
            **settings,
        }
    )
    learn_apart()
    bot = Bot(
        sim.world.bots[0].token,
        turn=at_once,
        rest_url=sim.rest_url,
        banner=None,
        logs=None,
        suppress_optimization_warning=True,
    )
    with hold_instance(data_dir) as instance_id:
        ctx = Context(bot, data_dir, instance_id, config)
        plugin, recorder = VoicePlugin(), recorder or Recorder()
        ctx.hooks.manager.register(plugin, "voice")
        ctx.hooks.manager.register(recorder, "recorder")
        await ctx.hooks.call_own("voice", "on_load", ctx=ctx)
        rig = Rig(sim, ctx, plugin, recorder)
        try:
            await bot.start(check_for_updates=False)
            if commands:
                client = lightbulb.client_from_app(bot, sync_commands=False)
                registry = CommandRegistry(bot, client, lambda _owner, _guild: True)
                registry.add("voice", await registry.collect("voice", plugin.register_loaders()))
                await registry.sync_all(list(sim.world.guilds))
                await client.start()
            yield rig
        finally:
            deadline = asyncio.get_running_loop().time() + 2.7
            await plugin.on_stopping(bot, deadline)
            await plugin.on_unload(ctx, "shutdown")
            await ctx.close()
            if bot.is_alive:
                await bot.close()


async def leave_ghost(sim: SimulatedDiscord, *channel_ids: int) -> None:
    """Be a bot that enters channels and is killed: its gateway socket dies without a word."""
    bot = sim.world.bots[0]
    places = []
    for channel_id in channel_ids:
        guild, _channel = sim.world.channel(channel_id) or (None, None)
        assert guild is not None
        places.append((guild, channel_id))
    async with aiohttp.ClientSession() as http:
        socket = await http.ws_connect(sim.gateway_url + "?v=10&encoding=json")
        await socket.receive_json()
        await socket.send_json(
            {
                "op": 2,
                "d": {"token": bot.token, "intents": 1 | 1 << 7, "properties": {"os": "", "browser": "", "device": ""}},
            }
        )
        while (await socket.receive_json())["t"] != "READY":
            pass
        for guild, channel_id in places:
            where = {"guild_id": str(guild.id), "channel_id": str(channel_id), "self_mute": False, "self_deaf": False}
            await socket.send_json({"op": 4, "d": where})
            while (await socket.receive_json())["t"] != "VOICE_SERVER_UPDATE":
                pass
        connection = socket._conn  # type: ignore[attr-defined]  # a kill has no public method
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()
    assert all(bot.user.id in guild.voice_states for guild, _channel_id in places)
