"""`roost.context.PluginContext` as the host makes it: what a plugin opens through it can be gated and taken back."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hikari

from roost.blocking import working
from roost.dispatch import Dispatcher, where
from roost.errors import ClosedError, PluginError
from roost.errortext import error_line, is_error, text_of
from roost.places import current, place_of_event
from roost.scopes import Kept, Scope
from roost.strays import CancelledItselfError, StrayError, taming

if TYPE_CHECKING:
    from pydantic import BaseModel

    from roost.consent import Consent
    from roost.plugins.host import PluginHost
    from roost.store import PluginStore, StoredSettings

T = TypeVar("T")

CLEAN_UP_S = 3.0
LISTENERS_END_S = 0.5


class Context:
    """One plugin's context, from its load to its unload."""

    def __init__(self, host: PluginHost, name: str, config: BaseModel | None, handover: Any = None) -> None:
        self.name = name
        self.handover = handover
        self._host = host
        self._config = config
        self._scope = Scope(f"plugin:{name}", self._task_failed, tames=True, on_restart=self._restarted)
        self._guild_tasks: dict[int, set[asyncio.Task[Any]]] = {}
        self._always: set[asyncio.Task[Any]] = set()
        """Tasks that a quarantine does not end."""
        self._cleanups: list[Callable[[], Awaitable[None] | None]] = []
        self._listeners: list[tuple[type[hikari.Event], Callable[[Any], Coroutine[Any, Any, None]]]] = []
        self._handling: set[asyncio.Task[Any]] = set()
        self._revoked = False
        self._kept = host.store.of_plugin(name)
        self.metrics = host.metrics.open(name)

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

    def config_for(self, guild_id: int) -> BaseModel:
        return self._host.guild_config.of(self.name, self.config, guild_id)

    @property
    def whole_config(self) -> BaseModel | None:
        """`config`, or None for a plugin without settings."""
        return self._config

    @property
    def store(self) -> PluginStore:
        self._alive()
        return self._kept

    @property
    def settings(self) -> StoredSettings:
        self._alive()
        return self._kept.settings

    @property
    def scope(self) -> Scope:
        return self._scope

    def on_unload(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        self._alive()
        self._cleanups.append(callback)

    def listen(
        self,
        event: type[hikari.Event],
        callback: Callable[[Any], Coroutine[Any, Any, None]],
        *,
        always: bool = False,
    ) -> None:
        host = self._alive()
        if issubclass(event, hikari.StoppingEvent):
            raise PluginError("StoppingEvent is the core's; implement the hook on_stopping", plugin=self.name)

        async def gated(received: Any) -> None:
            place = place_of_event(received)
            if self._revoked or not host.delivers(self.name, place, always=always):
                return
            task = asyncio.current_task()
            assert task is not None
            self._handling.add(task)
            token, owner = current.set(place), working.set(self.name)
            try:
                with taming():
                    await callback(received)
            except Exception as error:  # noqa: BLE001 - isolated like a hook
                host.failed(self.name, f"its listener for {event.__name__}", error, place)
            finally:
                working.reset(owner)
                current.reset(token)
                self._handling.discard(task)

        host.bot.subscribe(event, gated)
        self._listeners.append((event, gated))

    def task(
        self, coro: Coroutine[Any, Any, T], name: str, *, guild_id: int | None = None, always: bool = False
    ) -> asyncio.Task[T]:
        try:
            host = self._alive()
            if guild_id is not None and not host.enabled_in(self.name, guild_id):
                raise ClosedError(f"the plugin {self.name} is switched off in the server {guild_id}")
        except ClosedError:
            coro.close()
            raise
        # What the task does, and its failure, belongs to the guild, or to where it was asked for.
        token, owner = current.set(guild_id if guild_id is not None else current.get()), working.set(self.name)
        try:
            task = self._scope.spawn(coro, name)
        finally:
            working.reset(owner)
            current.reset(token)
        if guild_id is not None:
            mine = self._guild_tasks.setdefault(guild_id, set())
            mine.add(task)
            task.add_done_callback(mine.discard)
        if always:
            self._goes_on(task)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> Kept:
        self._alive()
        return self._scope.keep(work, name, on_start=self._goes_on)

    def _goes_on(self, task: asyncio.Task[Any]) -> None:
        self._always.add(task)
        task.add_done_callback(self._always.discard)

    def _restarted(self, name: str) -> None:
        self._host.metrics.restarted(self.name, name.partition(":")[0])

    def _task_failed(self, task: str, error: BaseException) -> None:
        if is_error(error, Exception):
            # This runs in the context in which the task was started.
            self._host.failed(self.name, f"its task {task.partition('/')[2]}", error, current.get())

    def mark_stop(self, name: str, guild_id: int | None = None) -> None:
        self._host.mark_stop(name, guild_id)

    def enabled_in(self, guild_id: int) -> bool:
        return self._alive().enabled_in(self.name, guild_id)

    # Of the host ----------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether tasks of the plugin run."""
        return bool(self._scope.task_names)

    async def end_guild(self, guild_id: int) -> None:
        """End the tasks that belong to a guild."""
        await self._scope.end(self._guild_tasks.pop(guild_id, set()))

    async def end_tasks(self) -> int:
        """End the tasks but those that always go on, and keep the scope open; return how many tasks there were."""
        tasks = self._scope.tasks
        await self._scope.end(tasks - self._always)
        return len(tasks)

    async def close(self) -> list[str]:
        """Run the clean-ups, unsubscribe, end the tasks; give what went wrong."""
        problems: list[str] = []
        while self._cleanups:
            callback = self._cleanups.pop()
            try:
                async with asyncio.timeout(CLEAN_UP_S):
                    with taming():
                        result = callback()
                        if inspect.isawaitable(result):
                            await result
            except Exception as error:  # noqa: BLE001 - a plugin's clean-up must not stop the others
                what = text_of(error) if is_error(error, StrayError, CancelledItselfError) else error_line(error)
                problems.append(f"clean-up failed at {where(error)}: {what}")
        for event, listener in self._listeners:
            with contextlib.suppress(ValueError):
                self._host.bot.unsubscribe(event, listener)
        self._listeners.clear()
        self._host.metrics.close(self.name, self.metrics)
        problems += await self._end_listeners()
        problems += [f"task {name} ignored its cancellation" for name in await self._scope.aclose()]
        self._revoked = True
        return problems

    async def _end_listeners(self) -> list[str]:
        """Let listeners that are at work finish, then cancel them."""
        working = self._handling - {asyncio.current_task()}
        if not working:
            return []
        _, late = await asyncio.wait(working, timeout=LISTENERS_END_S)
        for task in late:
            task.cancel()
        if late:
            _, late = await asyncio.wait(late, timeout=LISTENERS_END_S)
        return [f"a listener ignored its cancellation ({task.get_name()})" for task in late]
