"""The running bot: one object that owns hikari's bot, the store, the plugins and the way down.

``App.stop`` is the only way down: a signal, ``/bot shutdown``, a failed start and the app's own end all go through it.
It closes hikari's bot; the one listener on StoppingEvent then runs the whole ordered sequence while the gateway is
still up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import types
from collections.abc import Collection, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import hikari
import lightbulb

from roost.audience import count_members
from roost.audio import CallStatus
from roost.backstop import Backstop
from roost.commands.access import Access
from roost.commands.configure import Configure, config_loader
from roost.commands.failures import CommandFailures
from roost.commands.personal_data import PersonalData
from roost.commands.plugins import bot_loader, plugins_loader
from roost.commands.privacy import TEXTS, ConsentButtons, privacy_loader
from roost.commands.registry import CommandRegistry
from roost.config import Config, bot_id
from roost.confirming import Confirmations
from roost.consent import StoredConsent, open_consent
from roost.errors import ConfigError, ResourceError
from roost.gateway import MADE_FOR, Bot, Shard, on_loop_error
from roost.guild_entries import read_entries_one_by_one
from roost.holder import Folder, Holder, Owner, hold_folder
from roost.identifies import Identifies, Limit, Turns
from roost.instances import hold_instance
from roost.metrics import serve_metrics
from roost.plugins import PluginHost
from roost.preflight import Preflight, fetch_application, fetch_gateway, start_error
from roost.proxies import find_proxy
from roost.rest_buckets import (
    ask_before_sending,
    believe_first_answers,
    check_windows,
    learn_apart,
    pause_after_refusals,
)
from roost.scopes import Scope, outlive_cancellation
from roost.signals import KeptSignals, plugin_at
from roost.store import StoreHold, open_held_store
from roost.strays import host_task

AnswerT = TypeVar("AnswerT")

_log = logging.getLogger("roost.app")
_stop_log = logging.getLogger("roost.stop")

CORE = "core"
GATEWAY_CLOSED_S = 5.0
STOP_ATTEMPTS = 10
"""How often the stop of the plugins is repeated when something cancels it."""
SEQUENCE_S = 6.0
"""When the stop goes on without what is still not closed."""
LOOK_S = 0.25
"""Seconds between two checks whether a shard takes too long to connect."""
GUILDS_S = 5.0
"""How long the announced guilds may take to arrive before the bot calls itself ready without them."""
HOLD_LOOK_S = 2.0
"""Seconds between two checks that the data folder and the database still belong to this process."""
BACKSTOP_S = 8.0
CANCELLED_START = "the start was cancelled by something that is not the bot, perhaps by a plugin"
EXIT_BACKSTOP = 70
"""Exit status when a stuck thread or library had to be left behind."""


class App:
    """Build with a validated configuration and a token, then ``await run()``."""

    def __init__(self, config: Config, token: str) -> None:
        self.config = config
        self._token = token
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._t0: float | None = None
        self._sequence: asyncio.Task[None] | None = None
        self._started = False
        self._scope = Scope("app")
        self._guilds_to_come: set[int] = set()
        self._guilds_announced: set[int] = set()
        self._guilds_here = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once the bot is connected and ``on_started`` has been called."""
        self.commands_in_place = asyncio.Event()
        """Set once Discord has the commands of every guild, or has refused them."""
        self.stop_reason = ""
        self.stop_steps: list[str] = []
        self._unreached: list[str] = []
        """What the stop could not tell Discord, for the log and the exit status."""
        self._host: PluginHost | None = None
        self._registry: CommandRegistry | None = None
        self._identifies = Identifies(config.data_dir, config.core.start.max_identify_per_hour)
        self._bot: hikari.GatewayBot | None = None
        self._client: lightbulb.GatewayEnabledClient | None = None
        self._failure: Exception | None = None
        self._backstop: Backstop | None = None
        self._proxy = find_proxy(config.core.discord.rest_url)
        self._preflight = Preflight(token, config.core, self._proxy.settings)

    @property
    def plugins(self) -> PluginHost:
        if self._host is None:
            raise RuntimeError("the app is not running")
        return self._host

    @property
    def _made_shards(self) -> tuple[Shard, ...]:
        return self._bot.made_shards if isinstance(self._bot, Bot) else ()

    async def run(self) -> None:
        """Run until `request_stop`. Once the bot is connected, a cancellation is logged and does not end it.

        Raises:
            ConfigError: The configuration, the token or an intent is refused, or the data is another bot's.
            HeldError: Another process of the bot runs.
            ResourceError: Discord cannot be reached, was not reached by the stop, or the data was lost.
        """
        loop = asyncio.get_running_loop()
        handled_before, factory_before = loop.get_exception_handler(), loop.get_task_factory()
        loop.set_exception_handler(on_loop_error)
        if factory_before is None:
            loop.set_task_factory(host_task)
        signals = KeptSignals(self._on_signal, self.plugin_of)
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(signals.held())
                holder = Holder.of_this_process(self._bot_id())
                folder = stack.enter_context(hold_folder(self.config.data_dir, holder))
                instance_id = stack.enter_context(hold_instance(self.config.data_dir))
                opened = await self._unless_stopped(
                    stack.enter_async_context(
                        open_held_store(self.config.data_dir, holder, self.config.core.store.url)
                    ),
                    "open the store",
                )
                if opened is None:
                    _log.info("stopping: %s", self.stop_reason)
                    return
                store, hold = opened
                consent = await stack.enter_async_context(
                    open_consent(store, self.config.core.consent.mode, self.config.data_dir)
                )
                if self._proxy.place:
                    _log.warning(
                        "Discord is reached through the proxy %s; voice connects directly: no HTTP proxy carries UDP",
                        self._proxy.place,
                    )
                bot = self._bot = self._make_bot()
                read_entries_one_by_one(bot)
                stack.push_async_callback(self._scope.aclose)
                self._scope.keep(signals.watch, "signals")
                self._host = PluginHost(
                    bot=bot,
                    config=self.config,
                    store=store,
                    consent=consent,
                    instance_id=instance_id,
                    mark_stop=self.mark_stop,
                )
                await stack.enter_async_context(serve_metrics(self._host.metrics, self.config.core.metrics.listen))
                access = await Access.load(store, bot)
                configure = Configure(self._host, access)
                confirmations = Confirmations("roost:confirm", spawn=self._scope.spawn)
                failures = CommandFailures(self._host, access)
                client = self._client = lightbulb.client_from_app(bot, sync_commands=False, hooks=[failures.check])
                client.error_handler(failures.on_error)
                registry = self._registry = failures.registry = CommandRegistry(
                    bot,
                    client,
                    self._enabled,
                    failures.completes,
                    failures.choices_failed,
                    records=store,
                    remove_foreign=self.config.core.commands.remove_foreign,
                )
                stack.push_async_callback(registry.aclose)
                count_members(bot)
                bot.subscribe(hikari.StoppingEvent, self._on_stopping)
                bot.subscribe(hikari.InteractionCreateEvent, ConsentButtons(consent, self._ask_call).on_interaction)
                bot.subscribe(hikari.InteractionCreateEvent, confirmations.on_interaction)
                bot.subscribe(hikari.InteractionCreateEvent, configure.on_interaction)
                bot.subscribe(hikari.InteractionCreateEvent, registry.on_interaction)
                bot.subscribe(hikari.ShardReadyEvent, self._on_shard_ready)
                bot.subscribe(hikari.GuildAvailableEvent, self._on_guild_available)
                bot.subscribe(hikari.GuildJoinEvent, self._on_guild_join)
                bot.subscribe(hikari.GuildLeaveEvent, self._on_guild_leave)
                stack.enter_context(self._host.dispatcher.guard.watching(loop))
                try:
                    loaders = [
                        privacy_loader(
                            consent, PersonalData(self._host, consent, access), confirmations, self._ask_call
                        ),
                        plugins_loader(self._host, failures.owns),
                        config_loader(configure, access, registry),
                        bot_loader(self._host, self.request_stop),
                    ]
                    core = await self._registry.collect(CORE, loaders)
                    self._registry.add(CORE, core, TEXTS)
                    await self._unless_stopped(self._host.load_all(self._registry), "load the plugins")
                    if self._stop_requested.is_set():
                        return
                    self._scope.keep(lambda: self._watch_data(folder, hold, consent), "data watch")
                    self._scope.keep(
                        partial(store.backups.sweep_daily, self.config.core.store.backup_days), "old backups"
                    )
                    await self._start_and_wait(bot, folder, hold)
                finally:
                    await self.stop(self.stop_reason or "the app ended")
                if self._failure is not None:
                    raise self._failure
        finally:
            loop.set_exception_handler(handled_before)
            loop.set_task_factory(factory_before)
            if self._backstop is not None:
                # Not before the store is closed, which waits for a disk or a server.
                self._backstop.cancel()
        if self._unreached:
            raise ResourceError(f"the stop did not reach Discord: {'; '.join(self._unreached)}")

    def request_stop(self, reason: str) -> None:
        """Ask the app to go down; a second request makes it hurry: nothing is drained any more."""
        if self._stop_requested.is_set():
            self._hurry.set()
            return
        self.stop_reason = reason
        self._stop_requested.set()

    async def stop_requested(self) -> None:
        """Wait until the app is asked to go down."""
        await self._stop_requested.wait()

    def mark_stop(self, name: str, guild_id: int | None = None) -> None:
        """Write one step of the shutdown into the ordered log. Steps outside a shutdown are not written.

        A start that failed has one line that says why; what was undone after it is for those who look for more.
        """
        if self._t0 is None:
            return
        at_s = asyncio.get_running_loop().time() - self._t0
        self.stop_steps.append(name)
        _stop_log.log(
            logging.INFO if self._started else logging.DEBUG,
            "stop: %s%s at %.3f s",
            name,
            f" guild {guild_id}" if guild_id else "",
            at_s,
            extra={"step": name, "guild": guild_id, "at_s": round(at_s, 4)},
        )

    async def stop(self, reason: str) -> None:
        """Go down in order; idempotent. Never raises. The backstop ends the process unless `run` returns in time."""
        if self._t0 is not None:
            return
        loop = asyncio.get_running_loop()
        self._t0 = loop.time()
        _log.info("stopping: %s", reason)
        if self._host is not None:
            self._host.dispatcher.guard.stopping()
        self._backstop = Backstop(BACKSTOP_S, lambda: os._exit(EXIT_BACKSTOP))
        self._backstop.start()
        bot = self._bot
        try:
            if bot is not None and bot.is_alive:
                await self._close(bot, self._t0 + GATEWAY_CLOSED_S)
        finally:
            sequence = self._begin_sequence()
            await _outlast({sequence}, self._t0 + SEQUENCE_S)
            sequence.cancel()
            await self._close_shards(self._t0 + SEQUENCE_S)
            untold = [shard.id for shard in self._made_shards if shard.at_discord]
            if untold:
                self.fail_stop(f"the session of shard {', '.join(map(str, untold))} is still open there")
            self.mark_stop("gateway.lost" if untold else "gateway.closed")

    async def _close(self, bot: hikari.GatewayBot, until: float) -> None:
        closing = self._scope.spawn(bot.close(), "close", awaited=True)
        await _outlast({closing}, until)
        if not closing.done():
            _log.error("the gateway did not close within %.0f s", GATEWAY_CLOSED_S)
            closing.cancel()
            await _outlast({closing}, until + LOOK_S)
        elif closing.cancelled():
            _log.error("closing the gateway was cancelled by something else")
        elif error := closing.exception():
            _log.error("closing the gateway failed", exc_info=error)

    async def _close_shards(self, until: float) -> None:
        """Close what hikari's own close has left open."""
        left = [shard for shard in self._made_shards if shard.at_discord and shard.is_alive]
        closing = {self._scope.spawn(shard.close(), f"close shard {shard.id}") for shard in left}
        await _outlast(closing, until)
        for shard in self._made_shards:
            shard.expect_end()

    def _may_close(self, caller: types.FrameType) -> bool:
        """Whether a call of ``bot.close()`` closes the bot: a plugin's asks for a stop in order."""
        if self._t0 is not None:
            return True
        plugin, place = plugin_at(caller, self.plugin_of)
        who = f"plugin {plugin}" if plugin else "something"
        _log.error("%s called bot.close() (%s): the bot stops in order", who, place, extra={"plugin": plugin})
        self.request_stop(f"{who} called bot.close()")
        return False

    def fail_stop(self, what: str) -> None:
        """Log what the stop could not tell Discord, and make the exit status non-zero."""
        self._unreached.append(what)
        _log.error("the stop did not reach Discord: %s", what, extra={"event": "stop_unreached"})

    def _make_bot(self) -> hikari.GatewayBot:
        settings = self.config.core.discord
        intents = hikari.Intents.NONE
        for name in settings.intents:
            try:
                intents |= hikari.Intents[name.upper()]
            except KeyError:
                raise ConfigError(f"{name} is not one of Discord's intents", key="discord.intents") from None
        learn_apart()
        check_windows()
        pause_after_refusals()
        believe_first_answers()
        ask_before_sending()
        options: dict[str, Any] = {
            "intents": intents,
            "rest_url": settings.rest_url,
            "proxy_settings": self._proxy.settings,
            "banner": None,
            "logs": None,
            "suppress_optimization_warning": True,
        }
        if not hikari.__version__.startswith(MADE_FOR):
            _log.warning("hikari %s is not known here: its own shards are used as they are", hikari.__version__)
            return hikari.GatewayBot(self._token, **options)
        return Bot(
            self._token,
            turn=Turns(self._identifies, partial(self._ask_limit, waits=False)).turn,
            may_close=self._may_close,
            **options,
        )

    async def _ask_call(self, guild_id: int, user_id: int) -> list[CallStatus]:
        """What plugins know of a member in a call."""
        found: list[CallStatus] = await self.plugins.dispatcher.call("call_status", guild_id=guild_id, user_id=user_id)
        return found

    def _enabled(self, owner: str, guild_id: int) -> bool:
        return owner == CORE or self.plugins.switches.takes_commands(owner, guild_id)

    def _on_signal(self, number: signal.Signals) -> None:
        self.request_stop(number.name)

    def plugin_of(self, module: str) -> str | None:
        """The plugin whose code a module is; None for all other code."""
        return self._host.plugin_of(module) if self._host is not None else None

    def _bot_id(self) -> int:
        found = bot_id(self._token)
        if found is None:
            raise ConfigError("the token is not a bot token")
        return found

    async def _watch_data(self, folder: Folder, hold: StoreHold, consent: StoredConsent) -> None:
        """Stop the bot when its data folder or database is lost: the next start would not find what it writes."""
        while True:
            if trouble := folder.trouble() or consent.trouble() or await hold.trouble():
                break
            await asyncio.sleep(HOLD_LOOK_S)
        _log.error("%s", trouble, extra={"event": "data_lost"})
        self._failure = ResourceError(trouble)
        self.request_stop("the data was lost")

    async def _claim_data(self, folder: Folder, hold: StoreHold) -> None:
        application = await self._preflight.ask(fetch_application)
        owner = Owner(self._bot_id(), int(application.id), application.name)
        folder.claim(owner)
        await hold.claim(owner)

    async def _unless_stopped(self, work: Coroutine[Any, Any, AnswerT], name: str) -> AnswerT | None:
        """Do a part of the start; cancelled, and None, when the bot is asked to stop before it is done."""
        task = self._scope.spawn(work, name, awaited=True)
        await self._stop_or_end_of({task})
        if not await _ended(task):
            return None
        if not task.cancelled():
            return task.result()
        if not self._stop_requested.is_set():
            raise ResourceError(CANCELLED_START)
        return None

    async def _start_and_wait(self, bot: hikari.GatewayBot, folder: Folder, hold: StoreHold) -> None:
        await self._unless_stopped(self._start(bot, folder, hold), "start")
        if self._stop_requested.is_set():
            return
        announce = self._scope.spawn(self.plugins.started(), "started", awaited=True)
        await self._stop_or_end_of({announce})
        if not await _ended(announce):
            return
        if announce.cancelled():
            _log.error("some plugins were not told that the bot has started: that was cancelled by something else")
        else:
            announce.result()
        self.ready.set()
        while not self._stop_requested.is_set():
            joins = {self._scope.spawn(_joined(each), f"shard {each.id}", awaited=True) for each in bot.shards.values()}
            await self._stop_or_end_of(joins)
            ended = [join for join in joins if join.done() and not join.cancelled()]
            for join in joins:
                join.cancel()
            if ended and not self._stop_requested.is_set():
                raise start_error(ended[0].exception())

    async def _stop_or_end_of(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Wait until a stop is requested or a task is over, whatever cancels this."""
        while not self._stop_requested.is_set() and not any(each.done() for each in tasks):
            stop = self._scope.spawn(self._stop_requested.wait(), "stop requested", awaited=True)
            try:
                await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                _outlive("the bot's main task was cancelled by something else, perhaps a plugin; it goes on")
            finally:
                stop.cancel()

    async def _start(self, bot: hikari.GatewayBot, folder: Folder, hold: StoreHold) -> None:
        assert self._client is not None
        assert self._registry is not None
        try:
            await self._claim_data(folder, hold)
            await self._identifies.wait(self._ask_limit)
            await self._connect(bot)
        except Exception as error:  # noqa: BLE001 - translated and raised again
            raise start_error(error) from None
        # hikari has started before its guilds have arrived.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GUILDS_S):
                await self._guilds_here.wait()
        await self._client.start()
        self._started = True
        guilds = [int(guild) for guild in bot.cache.get_guilds_view()]
        # Commands of the last run work at once. The start does not wait until Discord has the changed ones.
        self._registry.sync_soon({*guilds, *self._guilds_announced})
        await self._registry.rebuild()
        self._scope.keep(partial(self._tell_commands, self._registry), "commands")
        me = bot.get_me()
        _log.info(
            "ready as %s in %d guilds; plugins: %s",
            me.username if me else "?",
            len(guilds),
            ", ".join(self.plugins.loaded) or "none",
            extra={"event": "ready", "guilds": guilds},
        )

    async def _tell_commands(self, registry: CommandRegistry) -> None:
        await registry.tidy_globals()
        await registry.settled(None)
        self.commands_in_place.set()

    async def _connect(self, bot: hikari.GatewayBot) -> None:
        """Start hikari. Each shard has `start.timeout_s` for itself, from its turn on.

        Raises:
            TimeoutError: One of them took longer.
        """
        limit_s = self.config.core.start.timeout_s
        # What Discord still allows was asked already, and is asked again before each session.
        start = self._scope.spawn(
            bot.start(check_for_updates=False, ignore_session_start_limit=True), "gateway", awaited=True
        )
        end_at = asyncio.get_running_loop().time() + limit_s
        try:
            while not start.done():
                await asyncio.wait({start}, timeout=LOOK_S)
                late = not self._made_shards and asyncio.get_running_loop().time() > end_at
                if not start.done() and (late or any(shard.is_overdue(limit_s) for shard in self._made_shards)):
                    raise TimeoutError
        finally:
            start.cancel()
            await asyncio.wait({start})
        start.result()

    async def _ask_limit(self, *, waits: bool = True) -> tuple[Limit, int]:
        """Ask Discord for its session start limit and the number of shards, before hikari's own client has started."""
        info = await self._preflight.ask(fetch_gateway, waits=waits)
        left = info.session_start_limit
        return (
            Limit(left.total, left.remaining, left.reset_after.total_seconds(), max(left.max_concurrency, 1)),
            info.shard_count,
        )

    async def _on_shard_ready(self, event: hikari.ShardReadyEvent) -> None:
        announced = {int(guild) for guild in event.unavailable_guilds}
        self._guilds_to_come |= announced
        self._guilds_announced |= announced
        if not self._guilds_to_come:
            self._guilds_here.set()

    async def _on_guild_available(self, event: hikari.GuildAvailableEvent) -> None:
        """Sync the commands of a guild that becomes available after the start, for example after an outage."""
        guild_id = int(event.guild_id)
        self._guilds_to_come.discard(guild_id)
        if not self._guilds_to_come:
            self._guilds_here.set()
        if self._started and self._registry is not None and not self._registry.knows(guild_id):
            self._registry.sync_soon([guild_id])

    async def _on_guild_join(self, event: hikari.GuildJoinEvent) -> None:
        if self._registry is not None:
            self._registry.sync_soon([int(event.guild_id)], always=True)

    async def _on_guild_leave(self, event: hikari.GuildLeaveEvent) -> None:
        if self._registry is not None:
            await self._registry.forget_guild(int(event.guild_id))

    async def _on_stopping(self, _event: hikari.StoppingEvent) -> None:
        """hikari awaits this without a limit and swallows what it raises; a CancelledError would wedge its close."""
        if self._t0 is None:
            self._t0 = asyncio.get_running_loop().time()
        await _outlast({self._begin_sequence()}, self._t0 + GATEWAY_CLOSED_S)

    def _begin_sequence(self) -> asyncio.Task[None]:
        """The one task that ends the plugins in order."""
        if self._sequence is None:
            self._sequence = self._scope.spawn(self._run_sequence(), "stop sequence")
        return self._sequence

    async def _run_sequence(self) -> None:
        assert self._t0 is not None
        if self._host is None:
            return
        for _attempt in range(STOP_ATTEMPTS):
            try:
                await self._host.stop(self._t0, self._hurry)
            except asyncio.CancelledError:
                if asyncio.get_running_loop().time() >= self._t0 + GATEWAY_CLOSED_S:
                    _log.error("the shutdown sequence did not end within %.0f s", GATEWAY_CLOSED_S)
                    return
                _outlive("the shutdown sequence was cancelled by something else, perhaps a plugin; it is repeated")
            except Exception:  # noqa: BLE001 - logged; hikari's close must go on
                _log.exception("the shutdown sequence failed")
                return
            else:
                return


async def _ended(task: asyncio.Task[Any]) -> bool:
    """Whether a task is over; one that is not is cancelled."""
    if task.done():
        return True
    task.cancel()
    await asyncio.wait({task}, timeout=2.0)
    return False


async def _joined(shard: hikari.api.GatewayShard) -> None:
    """Wait until a shard has ended, by a cancellation too."""
    task = asyncio.current_task()
    try:
        await shard.join()
    except hikari.ComponentStateConflictError:
        pass
    except asyncio.CancelledError:
        if task is None or task.cancelling():
            raise


async def _outlast(tasks: set[asyncio.Task[None]], until: float) -> None:
    """Wait for tasks, whatever cancels this, until some time of the loop's clock."""
    loop = asyncio.get_running_loop()
    while (left := {each for each in tasks if not each.done()}) and loop.time() < until:
        try:
            await asyncio.wait(left, timeout=until - loop.time())
        except asyncio.CancelledError:
            _outlive("the stop was cancelled by something else, perhaps a plugin; it goes on")


def _outlive(what: str) -> None:
    """Log a cancellation of the current task that is not the bot's, and forget it."""
    _log.error(what, extra={"event": "end_refused"})
    outlive_cancellation()
