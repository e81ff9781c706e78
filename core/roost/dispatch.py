"""Calling hooks: pluggy registers, validates and orders; this module calls, awaits, isolates and bounds.

pluggy itself neither awaits nor isolates: one raising implementation would abort the call for all, and ``firstresult``
would stop at the first coroutine.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from roost.hooks import INFO, PROJECT, Deny, Kind, RoostSpec

_log = logging.getLogger("roost.hooks")

_FAILED = object()


class Dispatcher:
    """Calls hooks on the registered plugins.

    Args:
        load_order: Names of loaded plugins, dependencies first.
        enabled: Whether a plugin is to be called for a guild.
    """

    def __init__(self, load_order: Callable[[], Sequence[str]], enabled: Callable[[str, int], bool]) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(RoostSpec)
        self._load_order = load_order
        self._enabled = enabled
        self.failures: Counter[tuple[str, str]] = Counter()
        """Failed calls by (plugin, hook)."""

    def implementers(self, hook: str, guild_id: int | None = None) -> tuple[str, ...]:
        return tuple(impl.plugin_name for impl in self._implementations(hook, guild_id))

    def bound(self, hook: str, guild_id: int | None = None) -> tuple[tuple[str, Callable[..., Any]], ...]:
        """(plugin, function) pairs in call order, for callers that cannot afford the dispatcher per call."""
        return tuple((impl.plugin_name, impl.function) for impl in self._implementations(hook, guild_id))

    async def call(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Any:
        info = INFO[hook]
        implementations = self._implementations(hook, guild_id)
        if info.kind is Kind.FIRST:
            for impl in implementations:
                answer = await self._isolated(hook, impl, arguments)
                if answer is not None and answer is not _FAILED:
                    return answer
            return None
        if info.kind is Kind.PAR:
            answers = await asyncio.gather(*(self._isolated(hook, impl, arguments) for impl in implementations))
        else:
            answers = [await self._isolated(hook, impl, arguments) for impl in implementations]
        return [answer for answer in answers if answer is not None and answer is not _FAILED]

    async def call_strict(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> list[Any]:
        """Like `call` where a failure is a refusal; stops at the first `Deny`."""
        answers: list[Any] = []
        for impl in self._implementations(hook, guild_id):
            answer = await self._isolated(hook, impl, arguments)
            if answer is _FAILED:
                answer = Deny(f"the plugin {impl.plugin_name} failed")
            if answer is not None:
                answers.append(answer)
            if isinstance(answer, Deny):
                break
        return answers

    def call_sync(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> list[Any]:
        """For sync hooks: the non-None answers; a failure is answered as a `Deny`."""
        answers: list[Any] = []
        for impl in self._implementations(hook, guild_id):
            try:
                answer = impl.function(*[arguments[name] for name in impl.argnames])
            except Exception as error:  # noqa: BLE001 - isolation is this module's purpose
                self._failed(impl.plugin_name, hook, error)
                answer = Deny(f"the plugin {impl.plugin_name} failed")
            if answer is not None:
                answers.append(answer)
        return answers

    async def call_plugin(self, plugin: str, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Any:
        """Call one plugin's implementation, isolated; None if it has none, failed or is disabled in the guild."""
        for impl in self._implementations(hook, guild_id):
            if impl.plugin_name == plugin:
                answer = await self._isolated(hook, impl, arguments)
                return None if answer is _FAILED else answer
        return None

    async def call_own(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """Call one plugin's implementation with its deadline and let its error out.

        Raises:
            TimeoutError: It took longer than the hook allows.
            Exception: Whatever it raised.
        """
        for impl in self._implementations(hook, None):
            if impl.plugin_name == plugin:
                return await self._run(hook, impl, arguments)
        return None

    def has(self, plugin: str, hook: str) -> bool:
        return plugin in self.implementers(hook)

    def _implementations(self, hook: str, guild_id: int | None) -> list[Any]:
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        found = [impl for impl in reversed(caller.get_hookimpls())]
        if guild_id is not None:
            found = [impl for impl in found if self._enabled(impl.plugin_name, guild_id)]
        if INFO[hook].graph_order:
            rank = {name: position for position, name in enumerate(self._load_order())}
            found.sort(key=lambda impl: -rank.get(impl.plugin_name, 0))
        return found

    async def _isolated(self, hook: str, impl: Any, arguments: dict[str, Any]) -> Any:
        try:
            return await self._run(hook, impl, arguments)
        except Exception as error:  # noqa: BLE001 - isolation is this module's purpose
            self._failed(impl.plugin_name, hook, error)
            return _FAILED

    async def _run(self, hook: str, impl: Any, arguments: dict[str, Any]) -> Any:
        limit = INFO[hook].deadline_s
        if "deadline" in arguments:
            left = max(arguments["deadline"] - asyncio.get_running_loop().time(), 0.0)
            limit = left if limit is None else min(limit, left)
        async with asyncio.timeout(limit):
            answer = impl.function(*[arguments[name] for name in impl.argnames])
            if inspect.isawaitable(answer):
                answer = await answer
        return answer

    def _failed(self, plugin: str, hook: str, error: BaseException) -> None:
        self.failures[plugin, hook] += 1
        what = "ran out of time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        _log.error(
            "plugin %s failed in %s (%s): %s",
            plugin,
            hook,
            where(error),
            what,
            extra={"plugin": plugin, "hook": hook},
            exc_info=error if _log.isEnabledFor(logging.DEBUG) else None,
        )


def where(error: BaseException) -> str:
    """``file:line`` of the innermost frame of an error, or of a syntax error's own place."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
