"""The plugin host: owns every plugin from discovery to unload, and everything that switches one on or off."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import hikari

from roost.blocking import LIMIT_S, OPENING_LIMIT_S, BlockedError, is_core, note_counted
from roost.commands.running import ANSWER_S
from roost.commands.shapes import MOST
from roost.dispatch import Dispatcher, log_failure
from roost.errors import ConfigError, PluginError, ResourceError
from roost.errortext import is_error
from roost.frames import OverBudget
from roost.hooks import EVERY_PLUGIN, Meta, SwitchCause
from roost.metrics import Metrics
from roost.places import Place, current, guild_in
from roost.plugins.blame import EXCUSES, Blame, blame
from roost.plugins.declared import IncompatibleError
from roost.plugins.discovery import discover, others_with, refuse_unknown_tables
from roost.plugins.forgetting import carry_out
from roost.plugins.guards import Guards
from roost.plugins.guild_config import SETTINGS, GuildConfig
from roost.plugins.importing import (
    Code,
    check_hooks,
    forget_modules,
    import_code,
    is_below,
    prefix_of,
    restore_modules,
    texts_of,
)
from roost.plugins.order import load_order, stop_levels, with_needed
from roost.plugins.pauses import Pauses
from roost.plugins.plugin_context import Context
from roost.plugins.quarantine import Breakers, Limits, Verdict
from roost.plugins.records import (
    RUNNING,
    LastFailure,
    LastFailures,
    PluginRecord,
    State,
    describe,
    failure_of,
    kind_of,
)
from roost.plugins.residue import Ledger
from roost.plugins.switches import Switches
from roost.schema import unmet
from roost.scopes import Scope, outlive_cancellation
from roost.store.tables import table_name
from roost.strays import taming
from roost.threads import end_threads

if TYPE_CHECKING:
    import lightbulb

    from roost.commands.registry import CommandRegistry
    from roost.config import Config
    from roost.consent import Consent
    from roost.store import PluginStore, Store

_log = logging.getLogger("roost.plugins")
T = TypeVar("T")

HANDLER = "handle_error"
DISTRIBUTION = "roost"
"""What the core and the plugins that come with it are installed as."""
STOP_CALLS = 2
"""How often ``on_stopping`` of one plugin is called, should something cancel the stop."""
DRAIN_S = 3.0
"""How long other plugins, and its own commands, may take to finish with one that is about to be unloaded."""
MOST_OFFERS = 256
"""Errors that plugins are asked to take over at once; more are counted without asking."""
COMMANDS_STOP_S = 0.2
"""How long commands may take to finish when the bot goes down, and as long again to answer those that did not."""


class PluginHost:
    """Owns every plugin from discovery to unload. Whatever changes the set of plugins happens one at a time.

    Args:
        mark_stop: Writes a step into the app's stop log.
    """

    def __init__(
        self,
        *,
        bot: hikari.GatewayBot,
        config: Config,
        store: Store,
        consent: Consent,
        instance_id: str,
        mark_stop: Callable[[str, int | None], None],
    ) -> None:
        self.bot = bot
        self.config = config
        self.store = store
        self.consent = consent
        self.instance_id = instance_id
        self.mark_stop = mark_stop
        self.records: dict[str, PluginRecord] = {}
        settings = config.core.plugins
        self._breakers = Breakers(
            Limits(
                settings.quarantine_failures,
                settings.quarantine_window_s,
                settings.quarantine_retry_s,
                settings.quarantine_owners,
            ),
            self._owner_of,
        )
        self.pauses = Pauses(self, self._breakers)
        self.last_failures = LastFailures()
        self.switches = Switches(self)
        self.dispatcher = Dispatcher(
            lambda: self._order,
            self.switches.enabled,
            self.failed,
            self._paused,
            self.called,
            name_of=self.plugin_of,
            comes_along=self._comes_along,
        )
        self.dispatcher.guard.name_of = self.plugin_of
        self.dispatcher.guard.is_own = self._is_own
        self.dispatcher.guard.on_blocked = self._blocked
        self.guards = Guards(self.dispatcher)
        self.metrics = Metrics(self.dispatcher.guard.inside)
        self.guild_config = GuildConfig(self)
        self._order: list[str] = []
        self._commands: CommandRegistry | None = None
        self._started = False
        self._offers: set[asyncio.Task[bool]] = set()
        self._changing = asyncio.Lock()
        self._changes = Scope("plugin changes")
        self._scope = Scope("plugin host")
        self._ledger = Ledger(self)
        self._stop_calls: Counter[str] = Counter()
        """How often each plugin's ``on_stopping`` was called."""
        self._room_kept: dict[str, int] = {}
        """How many commands each required plugin had when it was loaded last."""

    # What others ask ------------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of loaded plugins, dependencies first."""
        return tuple(self._order)

    def requires(self, name: str) -> tuple[str, ...]:
        meta = self.records[name].meta if name in self.records else None
        return meta.requires if meta else ()

    def enabled_in(self, plugin: str, guild_id: int) -> bool:
        """Whether a plugin, and all it needs, is switched on in a guild, and not paused there."""
        return self.switches.enabled(plugin, guild_id) and not self._paused(plugin, guild_id)

    def delivers(self, plugin: str, place: Place | None, *, always: bool = False) -> bool:
        """Whether events of a place are passed to a plugin's listeners.

        Args:
            always: The listener works while the plugin is paused, quarantined or switched off, too.
        """
        record = self.records.get(plugin)
        if record is None or (record.state is State.QUARANTINED and not always):
            return False
        if place is None:
            return True
        guild_id = guild_in(place)
        if guild_id is not None and not self.switches.enabled(plugin, guild_id):
            return always
        if not always and self._paused(plugin, place):
            return False
        self.called(plugin, place)
        return True

    def called(self, plugin: str, place: Place) -> None:
        """A plugin is given work of a place."""
        self._breakers.note(plugin, place, time.monotonic())

    def _paused(self, plugin: str, place: Place) -> bool:
        return self.pauses.of(plugin, place) is not None

    def _owner_of(self, place: Place) -> int | None:
        guild_id = guild_in(place)
        guild = self.bot.cache.get_guild(guild_id) if guild_id is not None else None
        return int(guild.owner_id) if guild is not None else None

    def table(self) -> list[dict[str, Any]]:
        """One summary per plugin, for people and programs."""
        manager = self.dispatcher.manager
        rows = []
        for record in sorted(self.records.values(), key=lambda each: each.name):
            callers = manager.get_hookcallers(record.instance) if record.instance is not None else None
            rows.append(record.summary(tuple(sorted(caller.name for caller in callers or ()))))
        return rows

    # Start and stop -------------------------------------------------------------------------------------------------

    async def load_all(self, commands: CommandRegistry) -> None:
        """Find and load every allowed plugin. A plugin that fails is unwound and harms nobody.

        Raises:
            ConfigError: A table of the configuration belongs to nobody, or a required plugin failed.
        """
        self._commands = commands
        await self.switches.read()
        await self.guild_config.read()
        self.records = discover(self.config)
        refuse_unknown_tables(self.config, self.records)
        async with self._changing:
            for record in self.records.values():
                if record.state is not State.FOUND:
                    record.set(record.state, record.detail)
                if record.state not in (State.FOUND, State.DISABLED):
                    self.guards.is_missing(record)
            codes = {}
            for record in self.records.values():
                if record.state is State.FOUND and (code := await self._import(record)) is not None:
                    codes[record.name] = code
            required = self.config.core.plugins.required
            order, circles = load_order({name: code.meta.requires for name, code in codes.items()}, required)
            for circle in circles:
                for name in circle:
                    self._fail(self.records[name], f"circular dependency: {' -> '.join([*circle, circle[0]])}")
                    self.guards.is_missing(self.records[name])
            for name in order:
                await self._load(self.records[name], codes[name])
            await self._make_room()
            self._refuse_unmet()
        # In load order, so that the cause is named and not a plugin that could not load because of it.
        for name in [*order, *self.records]:
            if self.records[name].state is State.FAILED and name in self.config.core.plugins.required:
                raise ConfigError(self.records[name].detail)

    async def started(self) -> None:
        """The bot is connected. Commands that changed may still be on their way to Discord."""
        self._started = True
        await self.dispatcher.call("on_started", bot=self.bot)

    async def stop(self, t0: float, hurry: asyncio.Event) -> None:
        """Call ``on_stopping``, dependents first, each level with its own deadline; then unload everything.

        Levels that others do not wait on (plugins that nothing depends on but which depend on something) only stop
        their intake and get 0.2 s; the last level, which ends the voice sessions, has until 2.7 s after `t0`.

        Called again if it was cancelled: then it calls the plugins of a level one after the other, each once more, so
        that the one that cancels everything does not reach the others.
        """
        loop = asyncio.get_running_loop()
        again = bool(self._stop_calls)
        watch = Scope("hurry")
        watch.spawn(self._pass_on(hurry), "watch")
        await self.pauses.aclose()
        await self._changes.aclose(0.3)
        implementers = set(self.dispatcher.implementers("on_stopping"))
        levels = stop_levels(self._order, {name: self.requires(name) for name in self._order})
        for position, level in enumerate(levels):
            last = position == len(levels) - 1
            deadline = t0 + 2.7 if last else max(t0, loop.time()) + 0.2
            due = [name for name in level if name in implementers and self._stop_calls[name] < STOP_CALLS]
            if again:
                for name in due:
                    await self._stop_one(name, deadline)
            else:
                await asyncio.gather(*(self._stop_one(name, deadline) for name in due))
        await self.unload_all("shutdown")
        await watch.aclose(0.3)
        await self._scope.aclose(0.3)

    async def _pass_on(self, hurry: asyncio.Event) -> None:
        """Stop draining once the operator has asked twice to stop; voice is left all the same."""
        await hurry.wait()
        self.dispatcher.hurry()

    async def _stop_one(self, name: str, deadline: float) -> None:
        self._stop_calls[name] += 1
        self.mark_stop(f"{name}.stopping", None)
        scope = Scope(f"stop:{name}")
        work = scope.spawn(
            self.dispatcher.call_plugin(name, "on_stopping", bot=self.bot, deadline=deadline), "on_stopping"
        )
        await asyncio.wait({work}, timeout=max(deadline - asyncio.get_running_loop().time(), 0.0) + 0.1)
        await scope.aclose(0.3)

    async def unload_all(self, reason: str) -> None:
        """Unload everything, dependents first. Never raises for a plugin's failure; waits for no other change."""
        while self._order:
            await self._unload_one(self.records[self._order[-1]], reason)

    # At run time ----------------------------------------------------------------------------------------------------

    async def load(self, name: str) -> PluginRecord:
        """Load a plugin that is not loaded; new ones are looked for.

        Raises:
            PluginError: It is unknown, not allowed or did not load; says why.
        """
        return await self._change(self._load_named(name), f"load {name}")

    async def unload(self, name: str, reason: str) -> list[str]:
        """Unload one plugin and, before it, those that need it; gives their names in that order.

        Raises:
            PluginError: There is no such plugin.
        """
        return await self._change(self._unload_named(name, reason), f"unload {name}")

    async def reload(self, name: str) -> PluginRecord:
        """Put a plugin's code of now in place of what runs. If that does not load, the running version stays.

        Plugins that need it are unloaded before and loaded again after.

        Raises:
            PluginError: It is not loaded, or its new code is broken; says where.
        """
        return await self._change(self._reload_named(name), f"reload {name}")

    async def check(self) -> list[dict[str, Any]]:
        """Look for new plugins; import what is found but not loaded, and say what of it would load."""
        return await self._change(self._check(), "check")

    async def _change(self, coro: Coroutine[Any, Any, T], name: str) -> T:
        """Run a change to its end, whatever becomes of the caller; one at a time, and none once the bot goes down."""

        async def alone() -> T:
            try:
                async with self._changing:
                    return await coro
            finally:
                coro.close()

        if self._changes.closed:
            coro.close()
            raise PluginError("the bot is going down", plugin=name.partition(" ")[2] or "any")
        return await asyncio.shield(self._changes.spawn(alone(), name, awaited=True))

    async def _load_named(self, name: str) -> PluginRecord:
        self._look_again()
        record = self._known(name)
        if record.state in RUNNING:
            return record
        if record.state in (State.DISABLED, State.UNAVAILABLE) or record.namesake:
            raise PluginError(f"it is {record.state.value}: {record.detail}", plugin=name)
        code = await self._import(record)
        if code is not None:
            await self._load(record, code)
        if record.state not in RUNNING:
            raise PluginError(f"it is {record.state.value}: {record.detail}", plugin=name)
        await self._told_discord()
        return record

    async def _unload_named(self, name: str, reason: str) -> list[str]:
        self._known(name)
        going = self._with_dependents(name)
        for each in going:
            await self._unload_one(self.records[each], reason)
        if going:
            await self._told_discord()
        elif self.guards.forget(name):
            self.records[name].set(State.UNLOADED)
            await self.dispatcher.call("plugin_unloaded", name=name, reason=reason)
            return [name]
        return going

    async def _reload_named(self, name: str) -> PluginRecord:
        record = self._known(name)
        if record.state not in RUNNING:
            raise PluginError(f"it is {record.state.value}; load it instead", plugin=name)
        prefix = self.prefix(record)
        old_modules = forget_modules(prefix)
        old = Code(record.factory or Any, record.instance, record.meta or Meta(name))
        try:
            new = await self._checked_code(record)
            self._fits(new)
        except Exception as error:  # noqa: BLE001 - a plugin must not take the bot down
            restore_modules(prefix, old_modules)
            raise PluginError(f"the running version stays: {_plain(error, name)}", plugin=name) from None
        new_modules = forget_modules(prefix)
        restore_modules(prefix, old_modules)
        dependents = [each for each in self._with_dependents(name) if each != name]
        await self._end_commands((*dependents, name), "reload", asyncio.get_running_loop().time() + DRAIN_S)
        handovers = {each: await self._handover(each) for each in (*dependents, name)}
        self.guards.loading(record, also=new.instance)
        self.guards.loading(*(self.records[each] for each in dependents))
        for each in (*dependents, name):
            await self._unload_one(self.records[each], "reload", keep_modules=True)
        left = record.detail
        restore_modules(prefix, new_modules)
        failure = ""
        await self._load(record, new, handovers[name], last=False)
        if record.state not in RUNNING:
            failure = record.detail
            await self._undo_migration(record)
            restore_modules(prefix, old_modules)
            if (again := self._again(record, old)) is not None:
                await self._load(record, again, handovers[name])
        if left and record.state in RUNNING:
            record.detail = f"the version before left behind: {left}"
        for each in reversed(dependents):
            other = self.records[each]
            if other.factory is None or other.meta is None:
                continue
            if (again := self._again(other, Code(other.factory, None, other.meta))) is not None:
                await self._load(other, again, handovers[each])
        await self._told_discord()
        if failure:
            what = "was loaded again" if record.state in RUNNING else f"does not load any more either ({record.detail})"
            raise PluginError(f"the version before {what}: {failure}", plugin=name)
        return record

    def _fits(self, code: Code) -> None:
        """Refuse new code for what can be known before the running version is unloaded."""
        name = code.meta.name
        missing = [needed for needed in code.meta.requires if needed not in self._order]
        if missing:
            raise PluginError(f"it needs the plugin {missing[0]}, which is not loaded", plugin=name)
        if hasattr(code.instance, "register_config"):
            self.guarded(lambda: self.config.plugin(name, code.instance.register_config()), OPENING_LIMIT_S)

    async def _check(self) -> list[dict[str, Any]]:
        self._look_again()
        for record in self.records.values():
            if record.state not in (State.FOUND, State.FAILED, State.UNLOADED) or record.namesake:
                continue
            forget_modules(self.prefix(record))
            try:
                record.meta = (await self._checked_code(record)).meta
            except IncompatibleError as error:
                record.turned_down(error.detail, error.version)
            except Exception as error:  # noqa: BLE001 - a broken plugin is a row, not an end
                if describe(error) != record.detail:
                    record.set(State.FAILED, describe(error))
            forget_modules(self.prefix(record))
        return self.table()

    def _look_again(self) -> None:
        for name, record in discover(self.config).items():
            known = self.records.get(name)
            if known is None or known.state in (State.DISABLED, State.UNAVAILABLE):
                self.records[name] = record

    def _known(self, name: str) -> PluginRecord:
        record = self.records.get(name)
        if record is None:
            known = ", ".join(sorted(self.records)) or "none"
            raise PluginError(f"there is no plugin of that name (there is: {known})", plugin=name)
        return record

    def plugin_of(self, module: str) -> str | None:
        """The plugin whose code a module is; None for all other code."""
        owners = (record for record in self.records.values() if is_below(module, self.prefix(record)))
        return next((record.name for record in owners), None)

    def _comes_along(self, plugin: str) -> bool:
        """Whether a plugin comes with the core."""
        return plugin in self.records and self.records[plugin].source == DISTRIBUTION

    def _is_own(self, module: str) -> bool:
        """Whether a module is the core's or of a plugin that comes with it, which ends voice whatever else blocks."""
        mine = (record for record in self.records.values() if record.source == DISTRIBUTION)
        return is_core(module) or any(is_below(module, self.prefix(record)) for record in mine)

    def prefix(self, record: PluginRecord) -> str:
        """The modules that are this plugin's alone."""
        return prefix_of(record, self.records.values())

    def _with_dependents(self, name: str) -> list[str]:
        """A loaded plugin and everything loaded that needs it, directly or not; in the order of their unload."""
        going = {name}
        for each in self._order:
            if going & set(self.requires(each)):
                going.add(each)
        return [each for each in reversed(self._order) if each in going]

    async def _told_discord(self) -> None:
        if self._commands is not None and self._started:
            await self._commands.sync_known()

    async def rebuild_commands(self) -> None:
        """Dispatch exactly the commands of plugins that are on; Discord is not told."""
        if self._commands is not None:
            await self._commands.rebuild()

    async def sync_commands(self, guild_id: int, plugins: list[str]) -> None:
        """Tell Discord what some plugins' change means for a guild, with one PUT, or none if they have no commands.

        Raises:
            hikari.HikariError: Discord refused.
        """
        if self._commands is not None and any(self._commands.names(name) for name in plugins):
            await self._commands.sync_guild(guild_id)

    def command_names(self, name: str) -> list[str]:
        return self._commands.names(name) if self._commands is not None else []

    # Failures -------------------------------------------------------------------------------------------------------

    def failed(
        self,
        plugin: str,
        source: str,
        error: Exception,
        place: Place | None = None,
        ctx: lightbulb.Context | None = None,
    ) -> asyncio.Task[bool] | None:
        """A plugin's hook, listener, task or command failed: log it, and count it where it belongs.

        Args:
            place: Where; None when the work was of no guild and no person.
            ctx: Of the command.

        Returns:
            Whether a plugin has dealt with it, once those that take errors were asked; None if there are none.
        """
        note_counted(plugin, error)
        whose = blame(error)
        log_failure(plugin, source, error, place, excuse=EXCUSES[whose])
        record = self.records.get(plugin)
        if record is None or record.state is not State.LOADED:
            return None
        counts = whose is Blame.PLUGIN
        asked = source != HANDLER and self._handlers(plugin, guild_in(place))
        if asked and not self._scope.closed and len(self._offers) < MOST_OFFERS:
            offer = self._scope.spawn(
                self._offer(record, source, error, place, ctx, counts=counts), f"error of {plugin}"
            )
            self._offers.add(offer)
            offer.add_done_callback(self._offers.discard)
            return offer
        if counts:
            self._count(record, source, error, place)
        return None

    def _blocked(self, error: BlockedError) -> None:
        """A plugin was interrupted, and whatever called it has not said so: it caught that, or nobody awaits it."""
        record = self.records.get(error.plugin or "")
        if record is not None and record.state in RUNNING and error.context is not None:
            place = error.context.get(current)
            self.failed(record.name, f"its function {error.function}", error, place)

    async def _offer(
        self,
        record: PluginRecord,
        source: str,
        error: Exception,
        place: Place | None,
        ctx: lightbulb.Context | None,
        *,
        counts: bool,
    ) -> bool:
        handled = await self._ask_handlers(record.name, source, error, guild_in(place), ctx)
        if counts and not handled and record.state is State.LOADED:
            self._count(record, source, error, place)
        return handled

    def _handlers(self, plugin: str, guild_id: int | None) -> list[str]:
        """The plugins that are asked about an error of a plugin: itself first, then those that ask for its errors."""
        takers = self.dispatcher.implementers(HANDLER, guild_id)
        return [name for name in takers if name == plugin] + [
            name for name in takers if name != plugin and {plugin, EVERY_PLUGIN} & set(self._errors_of(name))
        ]

    def _errors_of(self, name: str) -> tuple[str, ...]:
        meta = self.records[name].meta
        return meta.errors_of if meta is not None else ()

    async def _ask_handlers(
        self, plugin: str, source: str, error: Exception, guild_id: int | None, ctx: lightbulb.Context | None
    ) -> bool:
        """Have plugins deal with an error, in turn, until one has; return whether one has."""
        for name in self._handlers(plugin, guild_id):
            asked = await self.dispatcher.ask_plugin(
                name, HANDLER, guild_id=guild_id, error=error, source=source, plugin=plugin, ctx=ctx
            )
            if asked.answer is True:
                return True
        return False

    async def tell_stopped(self, plugin: str, error: PluginError, guild_id: int | None) -> None:
        """Tell those that take a plugin's errors of its pause in a guild, or without a guild of its quarantine."""
        await self._ask_handlers(plugin, "quarantine", error, guild_id, None)

    def _count(self, record: PluginRecord, source: str, error: Exception, place: Place | None) -> None:
        self.last_failures.note(record.name, LastFailure(time.time(), kind_of(error), source, place))
        at_once = is_error(error, OverBudget)
        verdict = self._breakers.add(record.name, place, time.monotonic(), at_once=at_once)
        if verdict is Verdict.COUNTED:
            return
        failure = failure_of(source, error)
        if verdict is Verdict.PAUSE and place is not None:
            self.pauses.begin(record.name, place, failure, error)
            if (guild_id := guild_in(place)) is not None:
                self.guards.is_stopped(record.name, guild_id)
            return
        record.set(State.QUARANTINED, f"{source} failed once too often, last with {failure.detail}", failure=failure)
        self.guards.is_stopped(record.name, None)
        self._breakers.forget(record.name)
        self.pauses.forget(record.name)
        self.dispatcher.mute(record.name, True)
        if not self._scope.closed:
            self._scope.spawn(self._quarantine(record, error), f"quarantine {record.name}")

    async def _quarantine(self, record: PluginRecord, error: Exception) -> None:
        """Stop a plugin in order, everywhere: it ends what it runs in each guild, then its tasks end."""
        told = PluginError(f"quarantined: {record.detail}", plugin=record.name)
        told.__cause__ = error
        guilds = [int(guild_id) for guild_id in self.bot.cache.get_guilds_view()]
        await asyncio.gather(*(self._switch_hook(record.name, "guild_disabled", guild_id) for guild_id in guilds))
        if record.context is not None:
            record.ended_tasks = await record.context.end_tasks()
        await self.tell_stopped(record.name, told, None)
        await self.dispatcher.call("plugin_switched", name=record.name, guild_id=None, enabled=False)

    async def _switch_hook(self, name: str, hook: str, guild_id: int) -> None:
        context = self.records[name].context
        if context is not None:
            await self.dispatcher.call_plugin(name, hook, guild_id=guild_id, ctx=context, cause=SwitchCause.FAILURES)

    async def stop_in(self, name: str, place: Place) -> None:
        """A plugin was paused: it, and what needs it, ends in order what it runs in a guild. See `Pauses`."""
        guild_id = guild_in(place)
        if guild_id is None:
            return
        for each in self._with_dependents(name):
            await self._switch_hook(each, "guild_disabled", guild_id)
            context = self.records[each].context
            if context is not None:
                await context.end_guild(guild_id)
            await self.dispatcher.call_others(each, "plugin_switched", name=each, guild_id=guild_id, enabled=False)

    async def resume_in(self, name: str, place: Place) -> None:
        """A pause is over: the plugin, and what needs it, learns what it missed in a guild."""
        guild_id = guild_in(place)
        if guild_id is None:
            return
        for each in reversed(self._with_dependents(name)):
            if self.enabled_in(each, guild_id):
                await self._switch_hook(each, "guild_enabled", guild_id)
                await self.dispatcher.call_others(each, "plugin_switched", name=each, guild_id=guild_id, enabled=True)

    async def unquarantine(self, name: str) -> PluginRecord:
        """Call a plugin again that is quarantined, or paused anywhere.

        If tasks of it were ended by a quarantine, it is reloaded: only its start starts them.

        Raises:
            PluginError: It is neither, or did not reload.
        """
        record = self._known(name)
        paused = self.pauses.places_of(name)
        if record.state is not State.QUARANTINED and not paused:
            raise PluginError(f"it is {record.state.value}, not quarantined", plugin=name)
        if record.state is State.QUARANTINED and record.ended_tasks:
            return await self.reload(name)
        for place in paused:
            await self.pauses.end(name, place)
        if record.state is not State.QUARANTINED:
            return record
        async with self._changing:
            self.dispatcher.mute(name, False)
            record.set(State.LOADED)
        await self._carry_out_deletions(name)
        guilds = [int(guild_id) for guild_id in self.bot.cache.get_guilds_view()]
        await asyncio.gather(*(self._switch_hook(name, "guild_enabled", guild_id) for guild_id in guilds))
        await self.dispatcher.call("plugin_switched", name=name, guild_id=None, enabled=True)
        return record

    # One plugin -----------------------------------------------------------------------------------------------------

    async def _import(self, record: PluginRecord) -> Code | None:
        """Import a plugin's code; a failure becomes its state."""
        try:
            with self._ledger.watch(record):
                code = await self._checked_code(record)
        except Exception as error:  # noqa: BLE001 - a plugin must not take the bot down
            forget_modules(self.prefix(record))
            detail = describe(error)
            if is_error(error, IncompatibleError):
                record.turned_down(error.detail, error.version)
            else:
                self._fail(record, detail if detail.startswith("plugin ") else f"cannot be imported: {detail}")
            self.guards.is_missing(record)
            return None
        record.meta = code.meta
        return code

    async def _checked_code(self, record: PluginRecord) -> Code:
        code = await import_code(record, self.config.core.plugins.load_timeout_s)
        check_hooks(record, code.instance)
        return code

    async def _load(self, record: PluginRecord, code: Code, handover: Any = None, *, last: bool = True) -> None:
        """Open imported code; a failure is unwound and becomes the plugin's state.

        A plugin that cancels every task ends its own load alone: a load that was cancelled is tried once more, because
        it may have been another plugin's task.

        Args:
            last: No other version is loaded if this one fails.
        """
        what = f"load {record.name}"
        if await self._apart(self._load_now(record, code, handover, last=last), what):
            return
        if (again := self._again(record, code)) is None:
            return
        if not await self._apart(self._load_now(record, again, handover, last=last), what):
            self._forget(record)

    def _again(self, record: PluginRecord, code: Code) -> Code | None:
        """The same code with a new instance; None where that could not be made, which becomes the plugin's state."""
        try:
            return self.guarded(code.again, OPENING_LIMIT_S)
        except Exception as error:  # noqa: BLE001 - a plugin must not take the bot down
            self.guards.is_missing(record)
            self._forget(record)
            self._fail(record, describe(error))
            return None

    async def _apart(self, work: Coroutine[Any, Any, None], name: str) -> bool:
        """Run a change that calls plugins in a task of its own, to its end, though a plugin cancels every task.

        A cancellation that reaches a task which nobody but such a plugin cancels is the plugin's. Any other is the
        caller's: it ends the work, and is raised.

        Returns:
            Whether the work was done, and not cancelled.
        """
        task = self._scope.spawn(work, name, awaited=True)
        canary = self._scope.spawn(asyncio.Event().wait(), f"{name}, canary")
        try:
            while not task.done():
                try:
                    await asyncio.wait({task})
                except asyncio.CancelledError:
                    if not canary.cancelling():
                        task.cancel()
                        await asyncio.wait({task})
                        raise
                    outlive_cancellation()
                    _log.error("every task was cancelled by something else, perhaps a plugin, at: %s; it goes on", name)
                    canary = self._scope.spawn(asyncio.Event().wait(), f"{name}, canary")
        finally:
            canary.cancel()
        if task.cancelled():
            return False
        task.result()
        return True

    async def _load_now(self, record: PluginRecord, code: Code, handover: Any, *, last: bool) -> None:
        record.meta, record.factory, record.instance = code.meta, code.factory, code.instance
        missing = [name for name in code.meta.requires if name not in self._order]
        if missing:
            self._fail(record, f"it needs the plugin {missing[0]}, which is not loaded")
            self.guards.is_missing(record)
            self._forget(record)
            return
        record.set(State.LOADING)
        self.guards.loading(record)
        try:
            with self._ledger.watch(record):
                await self._migrate(record)
                async with asyncio.timeout(self.config.core.plugins.load_timeout_s):
                    await self._open(record, handover)
        except Exception as error:  # noqa: BLE001 - a plugin must not take the bot down
            if last:
                self.guards.is_missing(record)
            problems = await self._close(record, "failed")
            self._forget(record)
            problems += await self._ledger.residue(record)
            self._fail(record, "; it left behind: ".join([describe(error), *filter(None, ["; ".join(problems)])]))
            return
        except asyncio.CancelledError:
            outlive_cancellation()
            if last:
                self.guards.is_missing(record)
            await self._close(record, "failed")
            self._fail(record, "it was cancelled while it was loading")
            raise
        self._order.append(record.name)
        self._breakers.forget(record.name)
        self.last_failures.forget(record.name)
        self.pauses.forget(record.name)
        record.ended_tasks = 0
        self.guards.works(record.name)
        self.dispatcher.changed()
        record.set(State.LOADED)
        if self._started:
            await self.dispatcher.call_plugin(record.name, "on_started", bot=self.bot)
        await self._carry_out_deletions(record.name)
        await self.dispatcher.call_others(record.name, "plugin_loaded", name=record.name)

    async def _carry_out_deletions(self, name: str) -> None:
        """Run the deletion requests that were queued while the plugin was not loaded."""
        try:
            waiting = await self.store.deletions.waiting(table_name(name))
        except ResourceError as error:
            log_failure(name, "the requests to delete data that wait for it", error)
            return
        if waiting and not self._scope.closed:
            self._scope.spawn(carry_out(self, name, waiting), f"deletions of {name}")

    async def _migrate(self, record: PluginRecord) -> None:
        """Register the plugin's hooks, and bring its data to the version it wants."""
        name = record.name
        assert record.meta is not None
        self.dispatcher.manager.register(record.instance, name)
        record.backup = None

        async def call(store: PluginStore, old: int, new: int) -> None:
            await self.dispatcher.call_own(name, "migrate_data", store=store, old=old, new=new)

        has_hook = self.dispatcher.has(name, "migrate_data")
        self.dispatcher.hide(name, True)
        try:
            record.backup = await self.store.migrate(
                name, record.meta.data_version, call if has_hook else None, describe=describe
            )
        finally:
            self.dispatcher.hide(name, False)

    async def _undo_migration(self, record: PluginRecord) -> None:
        """Restore the data of the previous version, which is loaded again.

        Where that fails, because a member had the backup deleted, say, the previous version refuses the newer data.
        """
        backup, record.backup = record.backup, None
        if backup is not None:
            try:
                await self.store.restore(backup)
            except ResourceError as error:
                log_failure(record.name, "the restoration of its data", error)

    async def _open(self, record: PluginRecord, handover: Any) -> None:
        assert self._commands is not None
        name = record.name
        model = await self.dispatcher.call_own(name, "register_config")
        config = self.guarded(lambda: self.config.plugin(name, model), OPENING_LIMIT_S) if model else None
        record.context = Context(self, name, config, handover)
        await self.dispatcher.call_own(name, "on_load", ctx=record.context)
        loaders = await self.dispatcher.call_own(name, "register_loaders") or []
        # At the start all are collected first, so that the one with the most is refused and not the last.
        room = self._room_for(name) if self._started else None
        self._commands.add(name, await self._commands.collect(name, loaders, room), texts_of(record))
        if name in self.config.core.plugins.required:
            self._room_kept[name] = len(self._commands.names(name))
        if self._started:
            await self._commands.rebuild()

    def guarded(self, work: Callable[[], T], limit_s: float = LIMIT_S) -> T:
        """Run code of a plugin that hooks do not call, such as the checks of its settings.

        Raises:
            BlockedError: It took longer than `limit_s`.
            Exception: Whatever it raises.
        """
        with self.dispatcher.guard.inside(limit_s), taming():
            return work()

    def _room_for(self, name: str) -> int:
        """How many commands there may be with those of a plugin: required ones that are not loaded keep their room."""
        assert self._commands is not None
        present = {name, *self._commands.sizes()}
        return MOST - sum(size for other, size in self._room_kept.items() if other not in present)

    def _refuse_unmet(self) -> None:
        """Log what plugins are configured to use and no plugin provides.

        Raises:
            ConfigError: A required plugin is configured so.
        """
        for name in self._order:
            context = self.records[name].context
            if context is None or context.whole_config is None:
                continue
            config, offered_by = context.whole_config, partial(others_with, self.dispatcher, name)
            try:
                errors = self.guarded(partial(unmet, config, name, offered_by), OPENING_LIMIT_S)
            except Exception as failure:  # noqa: BLE001 - code of the plugin
                self.failed(name, SETTINGS, failure)
                continue
            for error in errors:
                if name in self.config.core.plugins.required:
                    raise error
                _log.error("%s", error, extra={"plugin": name})

    async def _make_room(self) -> None:
        """Refuse the plugin with the most commands, a required one last, until Discord takes all that are left."""
        assert self._commands is not None
        needed = with_needed(self.config.core.plugins.required, {name: self.requires(name) for name in self.records})
        while (total := sum((sizes := self._commands.sizes()).values())) > MOST:
            crowd = [name for name in self._order if sizes.get(name, 0)]
            most = max(crowd, key=lambda name: (name not in needed, sizes[name]))
            detail = (
                f"it has {sizes[most]} commands; with them all plugins have {total}, and Discord takes {MOST}: put "
                "them into groups, or deny a plugin: plugins.deny"
            )
            for name in self._with_dependents(most):
                await self._apart(self._unload_one(self.records[name], "failed"), f"unload {name}")
                self._fail(self.records[name], detail if name == most else f"it needs the plugin {most}: {detail}")

    async def _handover(self, name: str) -> Any:
        try:
            return await self.dispatcher.call_own(name, "handover")
        except Exception as error:  # noqa: BLE001 - isolated; the reload goes on without
            log_failure(name, "handover", error)
            return None

    async def _unload_one(self, record: PluginRecord, reason: str, *, keep_modules: bool = False) -> None:
        name = record.name
        deadline = asyncio.get_running_loop().time() + (COMMANDS_STOP_S if reason == "shutdown" else DRAIN_S)
        if self._commands is not None:
            self._commands.running.close(name, reason)
        if reason != "shutdown":
            await self.dispatcher.call_others(name, "plugin_unloading", name=name, reason=reason, deadline=deadline)
        problems = await self._end_commands((name,), reason, deadline)
        record.set(State.UNLOADING)
        if reason == "failed":
            self.guards.is_missing(record)
        elif reason == "shutdown":
            self.guards.goes_down(record)
        if reason == "shutdown":
            problems += await self._close(record, reason)
            self._order.remove(name)
        else:
            held = self._ledger.stock(record)
            problems += await self._close(record, reason)
            self._order.remove(name)
            self.dispatcher.mute(name, False)
            self.pauses.forget(name)
            if not keep_modules:
                self._forget(record)
            problems += await self._ledger.residue(record, modules=not keep_modules)
            record.released = self._ledger.released(record, held)
        record.set(State.LEAKED if problems else State.UNLOADED, "; ".join(problems))
        self.mark_stop(f"{name}.unload", None)
        if reason != "shutdown":
            await self.dispatcher.call("plugin_unloaded", name=name, reason=reason)

    async def _end_commands(self, names: Sequence[str], reason: str, deadline: float) -> list[str]:
        """Let the commands of some plugins finish and end the rest, before anything is taken from under them."""
        if self._commands is None:
            return []
        running = self._commands.running
        for name in names:
            running.close(name, reason)
        answer_s = COMMANDS_STOP_S if reason == "shutdown" else ANSWER_S
        left = await asyncio.gather(*(running.finish(name, deadline, answer_s=answer_s) for name in names))
        return [problem for each in left for problem in each]

    async def _close(self, record: PluginRecord, reason: str) -> list[str]:
        problems: list[str] = []
        name = record.name
        if record.context is not None:
            try:
                await self.dispatcher.call_own(name, "on_unload", ctx=record.context, reason=reason)
            except Exception as error:  # noqa: BLE001 - unloading goes on whatever a plugin does
                problems.append(f"on_unload failed: {describe(error)}")
            problems += await record.context.close()
        end_threads(name)
        if self._commands is not None:
            self._commands.remove(name)
        if self.dispatcher.manager.has_plugin(name):
            self.dispatcher.manager.unregister(name=name)
        self.dispatcher.changed()
        return problems

    def _forget(self, record: PluginRecord) -> None:
        """Let go of a plugin's code."""
        record.instance = record.context = record.factory = None
        forget_modules(self.prefix(record))

    def _fail(self, record: PluginRecord, detail: str) -> None:
        record.set(State.FAILED, detail)


def _plain(error: BaseException, name: str) -> str:
    return describe(error).removeprefix(f"plugin {name}: ")
