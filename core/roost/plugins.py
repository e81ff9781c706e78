"""The plugin host: find, order, open, isolate and unload plugins.

Built-in plugins come through the entry-point group ``roost.plugins`` like anybody's. Plugins are trusted code: they
run in the bot's process with the bot's rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import graphlib
import importlib.metadata
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hikari
import pluggy
from packaging.requirements import Requirement

from roost.dispatch import Dispatcher, where
from roost.errors import ClosedError, ConfigError, PluginError, RoostError
from roost.hooks import Meta
from roost.scopes import Scope

if TYPE_CHECKING:
    from pydantic import BaseModel

    from roost.commands.registry import CommandRegistry
    from roost.config import Config
    from roost.consent import Consent
    from roost.store import Store

_log = logging.getLogger("roost.plugins")

GROUP = "roost.plugins"
API_VERSION = 1
T = TypeVar("T")


class State(enum.Enum):
    """Where a plugin is in its life."""

    FOUND = "found"
    UNAVAILABLE = "unavailable"
    INCOMPATIBLE = "incompatible"
    DISABLED = "disabled"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"
    LEAKED = "leaked"


@dataclasses.dataclass
class PluginRecord:
    """What the host knows of one plugin."""

    name: str
    source: str
    version: str
    entry_point: importlib.metadata.EntryPoint
    state: State = State.FOUND
    detail: str = ""
    """Why it is in this state, when that needs saying."""
    meta: Meta | None = None
    instance: Any = None
    context: Context | None = None

    def summary(self, hooks: tuple[str, ...] = ()) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.meta.version if self.meta else self.version,
            "source": self.source,
            "state": self.state.value,
            "detail": self.detail,
            "hooks": list(hooks),
        }


class PluginSettings:
    """`roost.context.Settings` of one plugin, over the store."""

    def __init__(self, store: Store, plugin: str) -> None:
        self._store = store
        self._plugin = plugin

    async def get(self, guild_id: int | None, key: str, default: Any = None) -> Any:
        return await self._store.get_setting(self._plugin, guild_id, key, default)

    async def set(self, guild_id: int | None, key: str, value: Any) -> None:
        await self._store.set_setting(self._plugin, guild_id, key, value)


class Context:
    """`roost.context.PluginContext` as the host makes it."""

    def __init__(self, host: PluginHost, name: str, config: BaseModel | None) -> None:
        self.name = name
        self._host = host
        self._config = config
        self._scope = Scope(f"plugin:{name}")
        self._cleanups: list[Callable[[], Awaitable[None] | None]] = []
        self._listeners: list[tuple[type[hikari.Event], Callable[[Any], Coroutine[Any, Any, None]]]] = []
        self._revoked = False
        self.settings = PluginSettings(host.store, name)

    def _alive(self) -> PluginHost:
        if self._revoked:
            raise ClosedError(f"the context of plugin {self.name} ended when it was unloaded")
        return self._host

    @property
    def bot(self) -> hikari.GatewayBot:
        return self._alive().bot

    @property
    def hooks(self) -> Dispatcher:
        return self._alive().dispatcher

    @property
    def consent(self) -> Consent:
        return self._alive().consent

    @property
    def data_dir(self) -> Path:
        return self._alive().config.data_dir

    @property
    def instance_id(self) -> str:
        return self._alive().instance_id

    @property
    def config(self) -> BaseModel:
        if self._config is None:
            raise PluginError("it has no settings; implement register_config", plugin=self.name)
        return self._config

    @property
    def scope(self) -> Scope:
        return self._scope

    def on_unload(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        self._alive()
        self._cleanups.append(callback)

    def listen(self, event: type[hikari.Event], callback: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        host = self._alive()
        if issubclass(event, hikari.StoppingEvent):
            raise PluginError("StoppingEvent is the core's; implement the hook on_stopping", plugin=self.name)

        async def gated(received: Any) -> None:
            guild_id = getattr(received, "guild_id", None)
            if guild_id is None or host.enabled_in(self.name, int(guild_id)):
                await callback(received)

        host.bot.subscribe(event, gated)
        self._listeners.append((event, gated))

    def task(self, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        self._alive()
        return self._scope.spawn(coro, name)

    def mark_stop(self, name: str, guild_id: int | None = None) -> None:
        self._host.mark_stop(name, guild_id)

    def enabled_in(self, guild_id: int) -> bool:
        return self._alive().enabled_in(self.name, guild_id)

    async def close(self) -> list[str]:
        """Run the clean-ups, unsubscribe, end the tasks; give what went wrong."""
        problems: list[str] = []
        while self._cleanups:
            callback = self._cleanups.pop()
            try:
                async with asyncio.timeout(3.0):
                    result = callback()
                    if inspect.isawaitable(result):
                        await result
            except Exception as error:  # noqa: BLE001 - a plugin's clean-up must not stop the others
                problems.append(f"clean-up failed at {where(error)}: {type(error).__name__}: {error}")
        for event, listener in self._listeners:
            with contextlib.suppress(ValueError):
                self._host.bot.unsubscribe(event, listener)
        self._listeners.clear()
        problems += [f"task {name} ignored its cancellation" for name in await self._scope.aclose()]
        self._revoked = True
        return problems


class PluginHost:
    """Owns every plugin from discovery to unload.

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
        self.dispatcher = Dispatcher(lambda: self._order, self.enabled_in)
        self._order: list[str] = []
        self._switches: dict[tuple[str, int], bool] = {}
        self._commands: CommandRegistry | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of loaded plugins, dependencies first."""
        return tuple(self._order)

    def enabled_in(self, plugin: str, guild_id: int) -> bool:
        return self._switches.get((plugin, guild_id), True)

    async def load_all(self, commands: CommandRegistry) -> None:
        """Find and load every allowed plugin. A plugin that fails is unwound and harms nobody.

        Raises:
            ConfigError: A table of the configuration belongs to nobody, or a required plugin failed.
        """
        self._commands = commands
        self._switches = await self.store.enablement()
        self.records = discover(self.config)
        refuse_unknown_tables(self.config, self.records)
        order = self._sorted()
        for name in order:
            await self._load(self.records[name])
        # In load order, so that the cause is named and not a plugin that could not load because of it.
        for name in [*order, *self.records]:
            if self.records[name].state is State.FAILED and name in self.config.core.plugins.required:
                raise ConfigError(self.records[name].detail)

    def _sorted(self) -> list[str]:
        """Names to load, dependencies first; what cannot be ordered or is missing a dependency fails here."""
        candidates = {}
        for record in self.records.values():
            if record.state is State.FOUND and self._import(record):
                candidates[record.name] = set(record.meta.requires if record.meta else ())
        order: list[str] = []
        while True:
            try:
                order = list(graphlib.TopologicalSorter(candidates).static_order())
                break
            except graphlib.CycleError as error:
                cycle = list(dict.fromkeys(error.args[1]))
                for name in cycle:
                    if name in candidates:
                        del candidates[name]
                        self._fail(self.records[name], f"circular dependency: {' -> '.join([*cycle, cycle[0]])}")
        return [name for name in order if name in candidates]

    def _import(self, record: PluginRecord) -> bool:
        """Import a plugin's entry point and read its meta."""
        try:
            import_plugin(record)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin must not take the bot down
            self._fail(record, f"cannot be imported: {describe(error)}")
            return False
        assert record.meta is not None
        if record.meta.roost_api != API_VERSION:
            wanted = f"it was written for hook interface {record.meta.roost_api}, this Roost has {API_VERSION}"
            self._set(record, State.INCOMPATIBLE, wanted)
            return False
        return True

    async def _load(self, record: PluginRecord) -> None:
        assert self._commands is not None
        assert record.meta is not None
        missing = [name for name in record.meta.requires if name not in self._order]
        if missing:
            self._fail(record, f"it needs the plugin {missing[0]}, which is not loaded")
            return
        self._set(record, State.LOADING)
        try:
            await self._open(record)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin must not take the bot down
            await self._close(record, "failed")
            self._fail(record, describe(error))
            return
        self._order.append(record.name)
        self._set(record, State.LOADED)

    async def _open(self, record: PluginRecord) -> None:
        assert self._commands is not None
        name = record.name
        self.dispatcher.manager.register(record.instance, name)
        self.dispatcher.manager.check_pending()
        model = await self.dispatcher.call_own(name, "register_config")
        record.context = Context(self, name, self.config.plugin(name, model) if model else None)
        await self.dispatcher.call_own(name, "on_load", ctx=record.context)
        loaders = await self.dispatcher.call_own(name, "register_loaders") or []
        self._commands.add(name, await self._commands.collect(name, loaders))

    async def unload(self, name: str, reason: str) -> None:
        """Unload one plugin and, before it, those that need it."""
        for other in [other for other in reversed(self._order) if self._needs(other, name)]:
            await self.unload(other, reason)
        if name not in self._order:
            return
        record = self.records[name]
        self._set(record, State.UNLOADING)
        problems = await self._close(record, reason)
        self._order.remove(name)
        self._set(record, State.LEAKED if problems else State.UNLOADED, "; ".join(problems))
        self.mark_stop(f"{name}.unload", None)

    async def unload_all(self, reason: str) -> None:
        """Unload everything, dependents first. Never raises for a plugin's failure."""
        while self._order:
            await self.unload(self._order[-1], reason)

    def _needs(self, plugin: str, dependency: str) -> bool:
        meta = self.records[plugin].meta
        return meta is not None and dependency in meta.requires

    async def _close(self, record: PluginRecord, reason: str) -> list[str]:
        problems: list[str] = []
        name = record.name
        if record.context is not None:
            try:
                await self.dispatcher.call_own(name, "on_unload", ctx=record.context, reason=reason)
            except Exception as error:  # noqa: BLE001 - unloading goes on whatever a plugin does
                problems.append(f"on_unload failed: {describe(error)}")
            problems += await record.context.close()
        if self._commands is not None:
            self._commands.remove(name)
        if self.dispatcher.manager.has_plugin(name):
            self.dispatcher.manager.unregister(name=name)
        return problems

    async def stop(self, t0: float, hurry: asyncio.Event) -> None:
        """Call ``on_stopping``, dependents first, each level with its own deadline; then unload everything.

        Levels that others do not wait on (plugins that nothing depends on but which depend on something) only stop
        their intake and get 0.2 s; the last level, which ends the voice sessions, has until 2.7 s after `t0`.
        """
        loop = asyncio.get_running_loop()
        implementers = set(self.dispatcher.implementers("on_stopping"))
        levels = self._levels()
        for position, level in enumerate(levels):
            last = position == len(levels) - 1
            deadline = t0 + 2.7 if last else max(t0, loop.time()) + 0.2
            calls = [self._stop_one(name, deadline, hurry) for name in level if name in implementers]
            await asyncio.gather(*calls)
        await self.unload_all("shutdown")

    async def _stop_one(self, name: str, deadline: float, hurry: asyncio.Event) -> None:
        self.mark_stop(f"{name}.stopping", None)
        scope = Scope(f"stop:{name}")
        work = scope.spawn(
            self.dispatcher.call_plugin(name, "on_stopping", bot=self.bot, deadline=deadline), "on_stopping"
        )
        hurried = scope.spawn(hurry.wait(), "hurry")
        await asyncio.wait(
            {work, hurried},
            timeout=max(deadline - asyncio.get_running_loop().time(), 0.0) + 0.1,
            return_when=asyncio.FIRST_COMPLETED,
        )
        await scope.aclose(0.3)

    def _levels(self) -> list[list[str]]:
        """Loaded plugins by distance from the top of the dependency graph: dependents first."""
        depth = {name: 0 for name in self._order}
        for name in reversed(self._order):
            meta = self.records[name].meta
            for needed in meta.requires if meta else ():
                depth[needed] = max(depth[needed], depth[name] + 1)
        deepest = max(depth.values(), default=0)
        # A plugin that nothing depends on and that needs nothing belongs to the last level: it may use all the time.
        for name in self._order:
            meta = self.records[name].meta
            if depth[name] == 0 and not (meta and meta.requires):
                depth[name] = deepest
        return [[name for name in self._order if depth[name] == level] for level in range(deepest + 1)]

    def _set(self, record: PluginRecord, state: State, detail: str = "") -> None:
        record.state, record.detail = state, detail
        level = logging.ERROR if state in (State.FAILED, State.LEAKED) else logging.INFO
        _log.log(
            level,
            "plugin %s: %s%s",
            record.name,
            state.value,
            f" ({detail})" if detail else "",
            extra={"plugin": record.name},
        )

    def _fail(self, record: PluginRecord, detail: str) -> None:
        self._set(record, State.FAILED, detail)

    def table(self) -> list[dict[str, Any]]:
        """One summary per plugin, for people and programs."""
        manager = self.dispatcher.manager
        rows = []
        for record in sorted(self.records.values(), key=lambda each: each.name):
            callers = manager.get_hookcallers(record.instance) if record.instance is not None else None
            rows.append(record.summary(tuple(sorted(caller.name for caller in callers or ()))))
        return rows


def describe(error: BaseException) -> str:
    """One line about an error; errors made for people speak for themselves."""
    if isinstance(error, RoostError):
        return str(error)
    if isinstance(error, pluggy.PluginValidationError):
        return str(error).replace("\n", " ")
    if isinstance(error, TimeoutError):
        return f"it took too long ({where(error)})"
    return f"{type(error).__name__} at {where(error)}: {error}"


def discover(config: Config) -> dict[str, PluginRecord]:
    """Every installed plugin by name, none imported; denied and unavailable ones say why."""
    settings = config.core.plugins
    records: dict[str, PluginRecord] = {}
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda each: each.name):
        dist = point.dist.metadata["Name"] if point.dist else "unknown"
        version = point.dist.version if point.dist else "0"
        if point.name in records:
            _log.error(
                "two plugins are called %s (%s and %s); the first is used", point.name, records[point.name].source, dist
            )
            continue
        record = PluginRecord(point.name, dist, version, point)
        records[point.name] = record
        if (settings.allow is not None and point.name not in settings.allow) or point.name in settings.deny:
            record.state, record.detail = State.DISABLED, "the configuration does not allow it"
        elif point.dist is not None and (missing := _missing(point.dist, point.name)):
            record.state = State.UNAVAILABLE
            record.detail = f"needs {', '.join(missing)}; run: pip install '{dist}[{point.name}]'"
    return records


def _missing(dist: importlib.metadata.Distribution, extra: str) -> list[str]:
    """Packages of an extra that are not installed."""
    missing = []
    environment: Mapping[str, str] = {"extra": extra}
    for line in dist.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate(dict(environment)):
            continue
        if requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
    return missing


def inspect_plugins(config: Config, *, validate: bool = False) -> list[dict[str, Any]]:
    """What ``roost plugins`` shows: every plugin found, imported for its meta and hooks but not opened.

    Args:
        validate: Also check each plugin's table against its model; a misfit makes its state ``failed``.

    Raises:
        ConfigError: A table of the configuration belongs to no plugin.
    """
    dispatcher = Dispatcher(list, lambda _plugin, _guild: True)
    records = discover(config)
    refuse_unknown_tables(config, records)
    rows = []
    for record in records.values():
        hooks: tuple[str, ...] = ()
        if record.state is State.FOUND:
            try:
                import_plugin(record)
                dispatcher.manager.register(record.instance, record.name)
                callers = dispatcher.manager.get_hookcallers(record.instance) or []
                hooks = tuple(sorted(caller.name for caller in callers))
                if validate and "register_config" in hooks:
                    config.plugin(record.name, record.instance.register_config())
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken plugin is a row, not an end
                record.state, record.detail = State.FAILED, describe(error)
        rows.append(record.summary(hooks))
    return sorted(rows, key=lambda row: str(row["name"]))


def refuse_unknown_tables(config: Config, records: Mapping[str, PluginRecord]) -> None:
    """Raises ConfigError for a table of the configuration that belongs to nobody."""
    unknown = [table for table in config.plugin_tables if table not in records]
    if unknown:
        known = ", ".join(sorted(records)) or "none"
        raise ConfigError(f"there is no plugin of that name (found: {known})", key=unknown[0])


def import_plugin(record: PluginRecord) -> None:
    """Import a plugin's entry point and read its meta. Raises whatever the plugin's code raises."""
    loaded = record.entry_point.load()
    instance: Any = loaded() if inspect.isclass(loaded) else loaded
    record.meta = instance.plugin_meta()
    record.instance = instance
