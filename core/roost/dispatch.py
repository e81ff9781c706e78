"""Calling hooks: pluggy registers, validates and orders; this module calls, awaits, isolates and bounds.

pluggy itself neither awaits nor isolates: one raising implementation would abort the call for all, and ``firstresult``
would stop at the first coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
import traceback
import types
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from roost import blocking
from roost.blocking import LIMIT_S, OPENING_LIMIT_S, BlockedError, Guard, StalledError, working
from roost.context import Asked, Refusal, Unasked
from roost.errortext import class_name, error_line, is_error, own, text_of
from roost.frames import FrameFan, OverBudget, modules_of
from roost.hook_answers import WrongAnswerError, checked
from roost.hooks import INFO, PROJECT, Deny, Kind, RoostSpec
from roost.places import Place, current, guild_in
from roost.strays import CancelledItselfError, StrayError, tamed, taming

if TYPE_CHECKING:
    from roost.audio import FrameSink

_log = logging.getLogger("roost.hooks")
_trace = logging.getLogger("roost.hooks.trace")
"""Logs every hook call at DEBUG."""
_trace.setLevel(logging.INFO)
_NO_TRACE = contextlib.nullcontext()

_FAILED = object()
_WAITING = (str(Path(asyncio.__file__).parent), blocking.__file__)
_SLOW_HOOKS = frozenset({"migrate_data", "on_load", "on_unload"})

OWN_ERRORS = (WrongAnswerError, BlockedError, StalledError, OverBudget, CancelledItselfError)
"""Errors whose text is the bot's own."""
LEFT_OUT = "its text is left out because it may hold what members said"

OnFailure = Callable[[str, str, Exception, Place | None], asyncio.Task[bool] | None]
"""Counts and logs a failure: plugin, source (such as "its hook on_started"), error and place.

The failed call waits for the returned task, except in hooks that are synchronous or `HookInfo.prompt`.
"""
ENDING_S = 1.0
"""How long each plugin may take to say something against a command that ends something."""


REASONS = {
    Unasked.STOPPED: (
        "the plugin {plugin} decides about this, and is stopped because it failed too often; tell the owner of this bot"
    ),
    Unasked.LOADING: "the plugin {plugin} decides about this, and is being loaded; try again in a moment",
    Unasked.MISSING: "the plugin {plugin} decides about this, and does not work; tell the owner of this bot",
    Unasked.FAILED: "the plugin {plugin} failed",
}
"""Reasons of refusals in the place of such plugins."""


class Dispatcher:
    """Calls hooks on the registered plugins.

    Args:
        load_order: Names of loaded plugins, dependencies first.
        enabled: Whether a plugin is to be called for a guild.
        on_failure: Called for every failed call; by default the failure is logged.
        paused: Whether a plugin is paused in a guild after failures: then only hooks that end something are called.
        on_call: Called before every call for a guild.
        name_of: Names the plugin that a module belongs to.
        comes_along: Whether a plugin comes with the bot.
    """

    def __init__(
        self,
        load_order: Callable[[], Sequence[str]],
        enabled: Callable[[str, int], bool],
        on_failure: OnFailure | None = None,
        paused: Callable[[str, int], bool] = lambda _plugin, _guild: False,
        on_call: Callable[[str, int], None] = lambda _plugin, _guild: None,
        *,
        name_of: Callable[[str], str | None] = lambda _module: None,
        comes_along: Callable[[str], bool] = lambda _plugin: False,
    ) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(RoostSpec)
        self._load_order = load_order
        self._enabled = enabled
        self.failures: Counter[tuple[str, str]] = Counter()
        """Failed calls by (plugin, hook)."""
        self._hurried = False
        self._drains: set[asyncio.Timeout] = set()
        self.guard = Guard()
        self.generation = 0
        """Increases whenever the set of plugins to call may have changed."""
        self._on_failure = on_failure or log_failure
        self._paused = paused
        self._on_call = on_call
        self._name_of = name_of
        self._comes_along = comes_along
        self._muted: set[str] = set()
        self._hidden: set[str] = set()
        self._held: dict[str, tuple[frozenset[str], Unasked]] = {}
        """By plugin: the guards' hooks that are refused in its place, and why."""

    def mute(self, plugin: str, muted: bool) -> None:
        """Stop calling a plugin, or call it again; its own life cycle hooks are called all the same."""
        (self._muted.add if muted else self._muted.discard)(plugin)
        self.changed()

    def hide(self, plugin: str, hidden: bool) -> None:
        """Call nothing but a plugin's own life cycle hooks while it is not open yet, or all its hooks from now on."""
        (self._hidden.add if hidden else self._hidden.discard)(plugin)
        self.changed()

    def hold(self, plugin: str, hooks: frozenset[str], why: Unasked) -> None:
        """Refuse what a plugin would decide about, without asking it, until `release`."""
        if hooks:
            self._held[plugin] = (hooks, why)
            self.changed()

    def release(self, plugin: str) -> bool:
        """End a `hold`; return whether there was one."""
        if self._held.pop(plugin, None) is None:
            return False
        self.changed()
        return True

    def changed(self) -> None:
        """Note that a plugin was loaded, unloaded or switched."""
        self.generation += 1

    def frame_sink(self, guild_id: int, session: Any) -> FrameFan:
        """See `roost.context.HookCaller.frame_sink`."""
        return FrameFan(self, guild_id, session)

    def implementers(self, hook: str, guild_id: int | None = None) -> tuple[str, ...]:
        return tuple(impl.plugin_name for impl in self._implementations(hook, guild_id))

    def bound(self, hook: str, guild_id: int | None = None) -> tuple[tuple[str, tuple[str, ...], Any], ...]:
        """(plugin, argument names, function) in call order, for callers that cannot afford the dispatcher per call."""
        return tuple(
            (impl.plugin_name, tuple(impl.argnames), impl.function) for impl in self._implementations(hook, guild_id)
        )

    async def call(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Any:
        return await self._call(hook, self._implementations(hook, guild_id), arguments | {"guild_id": guild_id})

    async def call_others(self, but: str, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Any:
        """`call` without one plugin: the one that the hook is about."""
        implementations = [impl for impl in self._implementations(hook, guild_id) if impl.plugin_name != but]
        return await self._call(hook, implementations, arguments | {"guild_id": guild_id})

    async def _call(self, hook: str, implementations: list[Any], arguments: dict[str, Any]) -> Any:
        info = INFO[hook]
        if info.kind is Kind.FIRST:
            first = await self._first(hook, implementations, arguments)
            return None if first is None else first[1]
        if info.kind is Kind.PAR:
            answers = await asyncio.gather(*(self._isolated(hook, impl, arguments) for impl in implementations))
        else:
            answers = [await self._isolated(hook, impl, arguments) for impl in implementations]
        return [answer for answer in answers if answer is not None and answer is not _FAILED]

    async def call_named(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> tuple[str, Any] | None:
        """`call` of a *first* hook; return the plugin that answered together with its answer."""
        return await self._first(hook, self._implementations(hook, guild_id), arguments | {"guild_id": guild_id})

    async def _first(self, hook: str, implementations: list[Any], arguments: dict[str, Any]) -> tuple[str, Any] | None:
        for impl in implementations:
            answer = await self._isolated(hook, impl, arguments)
            if answer is not None and answer is not _FAILED:
                return impl.plugin_name, answer
        return None

    async def call_strict(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> list[Any]:
        """Like `call` where a failure is a refusal, and so is a guard that is not called.

        The first `Deny` counts; plugins that are asked in turn are asked no further.
        """
        if refused := self._refusals(hook, guild_id)[:1]:
            return refused
        arguments["guild_id"] = guild_id
        answers: list[Any] = []
        if INFO[hook].kind is Kind.PAR:
            asked = (self._strict(hook, impl, arguments) for impl in self._implementations(hook, guild_id))
            return [answer for answer in await asyncio.gather(*asked) if answer is not None]
        for impl in self._implementations(hook, guild_id):
            answer = await self._strict(hook, impl, arguments)
            if answer is not None:
                answers.append(answer)
            if isinstance(answer, Deny):
                break
        return answers

    async def call_ending(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> list[Any]:
        """Ask the guards that work about something that ends something: at the same time, with `ENDING_S` for each.

        Only what they say counts. One that fails, or takes longer, has said nothing.
        """
        arguments["guild_id"] = guild_id
        implementations = self._implementations(hook, guild_id)
        answers = await asyncio.gather(*(self._brief(hook, impl, arguments) for impl in implementations))
        return [answer for answer in answers if answer is not None and answer is not _FAILED]

    async def _brief(self, hook: str, impl: Any, arguments: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(ENDING_S):
                return await self._isolated(hook, impl, arguments)
        except TimeoutError as error:
            self.failed(impl.plugin_name, hook, error, arguments["guild_id"])
            return _FAILED

    async def ask_strict(self, plugin: str, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Deny | None:
        """Ask one plugin alone, in the way of `call_strict`; None without an implementation of it."""
        arguments["guild_id"] = guild_id
        for impl in self._implementations(hook, guild_id):
            if impl.plugin_name == plugin:
                answer = await self._strict(hook, impl, arguments)
                return answer if isinstance(answer, Deny) else None
        return None

    async def _strict(self, hook: str, impl: Any, arguments: dict[str, Any]) -> Any:
        answer = await self._isolated(hook, impl, arguments)
        return Deny(f"the plugin {impl.plugin_name} failed in its check") if answer is _FAILED else answer

    def call_sync(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> list[Any]:
        """For sync hooks: the non-None answers; a failure, and a guard that is not called, is answered as a `Deny`."""
        answers: list[Any] = self._refusals(hook, guild_id)
        for impl in self._implementations(hook, guild_id):
            answer = self._answer_sync(hook, impl, guild_id, arguments)
            if answer is _FAILED:
                answers.append(Deny(REASONS[Unasked.FAILED].format(plugin=impl.plugin_name)))
            elif answer is not None:
                answers.append(answer)
        return answers

    def refusal_sync(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Refusal | None:
        """See `roost.context.HookCaller.refusal_sync`."""
        for name, why in self._unasked(hook, guild_id).items():
            return Refusal(name, REASONS[why].format(plugin=name), why)
        for impl in self._implementations(hook, guild_id):
            answer, name = self._answer_sync(hook, impl, guild_id, arguments), impl.plugin_name
            if answer is _FAILED:
                return Refusal(name, REASONS[Unasked.FAILED].format(plugin=name), Unasked.FAILED)
            if isinstance(answer, Deny):
                return Refusal(name, answer.reason)
        return None

    def _answer_sync(self, hook: str, impl: Any, guild_id: int | None, arguments: dict[str, Any]) -> Any:
        """The answer of one plugin to a sync hook, or `_FAILED`."""
        before = self.guard.enter()
        try:
            with self._traced(hook, impl, arguments), taming():
                return checked(hook, impl.function, impl.function(*[arguments[name] for name in impl.argnames]))
        except BaseException as error:  # noqa: BLE001 - isolation is this module's purpose; nothing awaits here
            self.failed(impl.plugin_name, hook, tamed(error), guild_id)
            return _FAILED
        finally:
            self.guard.leave(before)

    async def call_plugin(self, plugin: str, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Any:
        """Call one plugin's implementation, isolated; None if it has none, failed or is disabled in the guild."""
        return (await self.ask_plugin(plugin, hook, guild_id=guild_id, **arguments)).answer

    async def ask_plugin(self, plugin: str, hook: str, /, *, guild_id: int | None = None, **arguments: Any) -> Asked:
        """`call_plugin` for callers that need to know whether this very call worked."""
        arguments["guild_id"] = guild_id
        for impl in self._implementations(hook, guild_id):
            if impl.plugin_name == plugin:
                answer = await self._isolated(hook, impl, arguments)
                return Asked(True, False) if answer is _FAILED else Asked(True, True, answer)
        return Asked(False, False)

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

    def reaches(self, plugin: str, guild_id: int) -> bool:
        """See `roost.context.HookCaller.reaches`."""
        is_on = self.manager.has_plugin(plugin) and self._enabled(plugin, guild_id)
        return is_on and not self._stopped(plugin, guild_id)

    def comes_along(self, plugin: str) -> bool:
        """See `roost.context.HookCaller.comes_along`."""
        return self._comes_along(plugin)

    def owners_of(self, sink: FrameSink, frame: types.FrameType, said: str = "") -> frozenset[str]:
        """See `roost.context.HookCaller.owners_of`."""
        names = (self._plugin_at(frame), *map(self._name_of, modules_of(sink)))
        if found := frozenset(name for name in names if name is not None):
            return found
        # A callback of the event loop, with code that is nobody's. What is left to go by is no proof of being the
        # bot's own: a synchronous hook runs in the work of whatever called it.
        names = (working.get(), said)
        return frozenset([name for name in names if name and not self.comes_along(name)][:1])

    def _plugin_at(self, frame: types.FrameType) -> str | None:
        """The plugin whose code made a call; None if it was the bot's own, or nobody's that is known."""
        each: types.FrameType | None = frame
        while each is not None:
            module = str(each.f_globals.get("__name__", ""))
            plugin = self._name_of(module)
            if plugin is not None or module.partition(".")[0] == "roost":
                return plugin
            each = each.f_back
        return None

    def having(self, hook: str) -> frozenset[str]:
        """All plugins with a hook, those that are not called at present included."""
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        return frozenset(impl.plugin_name for impl in caller.get_hookimpls())

    def has(self, plugin: str, hook: str) -> bool:
        return plugin in self.implementers(hook)

    def _implementations(self, hook: str, guild_id: int | None) -> list[Any]:
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        found = [impl for impl in reversed(caller.get_hookimpls())]
        if guild_id is not None:
            found = [impl for impl in found if self._enabled(impl.plugin_name, guild_id)]
        if self._hidden and INFO[hook].kind is not Kind.OWN:
            found = [impl for impl in found if impl.plugin_name not in self._hidden]
        if self._held and INFO[hook].guard:
            found = [impl for impl in found if not self._holds(impl.plugin_name, hook)]
        if not self._reaches_stopped(hook):
            found = [impl for impl in found if not self._stopped(impl.plugin_name, guild_id)]
        if INFO[hook].graph_order:
            rank = {name: position for position, name in enumerate(self._load_order())}
            found.sort(key=lambda impl: -rank.get(impl.plugin_name, 0))
        return found

    @staticmethod
    def _reaches_stopped(hook: str) -> bool:
        """Whether plugins that are paused or quarantined are called."""
        return INFO[hook].always or INFO[hook].kind is Kind.OWN

    def _stopped(self, plugin: str, guild_id: int | None) -> bool:
        """Whether a plugin is quarantined, or paused in the guild."""
        return plugin in self._muted or (guild_id is not None and self._paused(plugin, guild_id))

    def _holds(self, plugin: str, hook: str) -> bool:
        return plugin in self._held and hook in self._held[plugin][0]

    def _unasked(self, hook: str, guild_id: int | None) -> dict[str, Unasked]:
        """Plugins that decide about something in a guild and cannot be asked, and why."""
        if not INFO[hook].guard:
            return {}
        found = {name: Unasked.STOPPED for name in self.having(hook) if self._stopped(name, guild_id)}
        found |= {name: why for name, (hooks, why) in self._held.items() if hook in hooks}
        return {name: why for name, why in found.items() if guild_id is None or self._enabled(name, guild_id)}

    def stopped_guards(self, hook: str, guild_id: int | None) -> list[str]:
        """Plugins that decide about something in a guild and cannot be asked, because they do not work."""
        return list(self._unasked(hook, guild_id))

    def is_loading(self, plugin: str) -> bool:
        """See `roost.context.HookCaller.is_loading`."""
        return plugin in self._held and self._held[plugin][1] is Unasked.LOADING

    def _refusals(self, hook: str, guild_id: int | None) -> list[Any]:
        """Refusals in the place of guards that cannot be asked: what they cannot decide is refused."""
        return [Deny(REASONS[why].format(plugin=name)) for name, why in self._unasked(hook, guild_id).items()]

    async def _isolated(self, hook: str, impl: Any, arguments: dict[str, Any]) -> Any:
        try:
            return await self._run(hook, impl, arguments)
        except Exception as error:  # noqa: BLE001 - isolation is this module's purpose
            place = current.get() if INFO[hook].personal else arguments.get("guild_id")
            offered = self.failed(impl.plugin_name, hook, error, place)
            if offered is not None and not INFO[hook].prompt:
                await asyncio.wait({offered})
            return _FAILED

    async def _run(self, hook: str, impl: Any, arguments: dict[str, Any]) -> Any:
        limit = INFO[hook].deadline_s
        if "deadline" in arguments:
            left = max(arguments["deadline"] - asyncio.get_running_loop().time(), 0.0)
            limit = left if limit is None else min(limit, left)
        step_s = OPENING_LIMIT_S if hook in _SLOW_HOOKS else LIMIT_S
        guild_id = arguments.get("guild_id")
        if guild_id is not None:
            self._on_call(impl.plugin_name, guild_id)
        token = current.set(current.get() if INFO[hook].personal else guild_id)
        owner = working.set(impl.plugin_name)
        began = self.guard.moment()
        try:
            return await self._called(hook, impl, arguments, limit, step_s)
        except TimeoutError as error:
            if not is_error(error, BlockedError) and self.guard.stood_still(began):
                raise StalledError from error
            raise
        finally:
            working.reset(owner)
            current.reset(token)

    async def _called(self, hook: str, impl: Any, arguments: dict[str, Any], limit: float | None, step_s: float) -> Any:
        answer: Any = None
        with self._traced(hook, impl, arguments):
            async with self._limited(hook, limit):
                with taming():
                    with self.guard.inside(step_s):
                        answer = impl.function(*[arguments[name] for name in impl.argnames])
                    if inspect.iscoroutine(answer):
                        answer = await self.guard.stepped(answer, step_s)
                    elif inspect.isawaitable(answer):
                        answer = await self.guard.stepped(_awaited(answer), step_s)
                    with self.guard.inside(step_s):  # looking at an answer may run the plugin's code
                        answer = checked(hook, impl.function, answer)
        return answer

    def hurry(self) -> None:
        """Cut short every call that drains, now and from now on: the operator asked a second time to stop."""
        self._hurried = True
        for timer in self._drains:
            timer.reschedule(asyncio.get_running_loop().time())

    @contextlib.asynccontextmanager
    async def _limited(self, hook: str, limit: float | None) -> AsyncIterator[None]:
        """Bound a call. A drain that is cut short because somebody is in a hurry is no failure."""
        drains = INFO[hook].drains
        try:
            async with asyncio.timeout(0.0 if drains and self._hurried else limit) as timer:
                if not drains:
                    yield
                    return
                self._drains.add(timer)
                try:
                    yield
                finally:
                    self._drains.discard(timer)
        except TimeoutError:
            if not (drains and self._hurried):
                raise

    def _traced(self, hook: str, impl: Any, arguments: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Log the call and its duration where ``--trace-hooks`` asked for it; the frame path is not traced."""
        return _trace_call(hook, impl.plugin_name, arguments) if _trace.isEnabledFor(logging.DEBUG) else _NO_TRACE

    def failed(self, plugin: str, hook: str, error: Exception, place: Place | None = None) -> asyncio.Task[bool] | None:
        """Count a failed call and pass it to `OnFailure`."""
        self.failures[plugin, hook] += 1
        return self._on_failure(plugin, hook, error, place)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@contextlib.contextmanager
def _trace_call(hook: str, plugin: str, arguments: dict[str, Any]) -> Iterator[None]:
    started, outcome = time.perf_counter(), "raised"
    try:
        yield
        outcome = "done"
    finally:
        duration_ms = (time.perf_counter() - started) * 1000
        guild = arguments.get("guild_id") or next(
            (each.guild_id for each in arguments.values() if getattr(each, "guild_id", None) is not None), None
        )
        _trace.debug(
            "hook %s of %s%s: %s in %.3f ms",
            hook,
            plugin,
            f" for guild {guild}" if guild else "",
            outcome,
            duration_ms,
            extra={"plugin": plugin, "hook": hook, "guild": guild and str(guild), "duration_ms": round(duration_ms, 4)},
        )


def log_failure(plugin: str, source: str, error: Exception, place: Place | None = None, *, excuse: str = "") -> None:
    """Write one line about a failure of a plugin, or about one that is not the plugin's.

    Args:
        source: The hook's name, or words such as "its listener for GuildJoinEvent".
        place: Where it failed.
        excuse: Why it is not the plugin's, such as "Discord refused"; empty where it is.
    """
    private = is_private(source, error)
    if is_error(error, TimeoutError):
        what = text_of(error) if is_error(error, BlockedError, StalledError) else "ran out of time"
    elif private:
        what = f"{raised_class(error)}, {LEFT_OUT}"
    else:
        what = text_of(error) if is_error(error, StrayError, CancelledItselfError) else error_line(error)
    _log.log(
        logging.WARNING if excuse else logging.ERROR,
        "plugin %s: %s did not finish because %s (%s): %s" if excuse else "plugin %s failed in %s (%s): %s",
        plugin,
        source,
        *([excuse] if excuse else []),
        where(error),
        what,
        extra={"plugin": plugin, "hook": source, "guild": guild_in(place)},
        exc_info=(
            (type(error), error, own(error, "__traceback__"))
            if _log.isEnabledFor(logging.DEBUG) and not private
            else None
        ),
    )


def is_private(source: str, error: BaseException) -> bool:
    """Whether the text of an error may hold words, sound or data of members, so that nobody may be told it."""
    info = INFO.get(source)
    return info is not None and info.private and not is_error(error, *OWN_ERRORS)


def raised_class(error: BaseException) -> str:
    """The class of what was raised."""
    return class_name(error.original if is_error(error, StrayError) else error)


def where(error: BaseException) -> str:
    """``file:line`` of the innermost frame of an error, or of a syntax error's own place."""
    if is_error(error, CancelledItselfError):
        return error.place
    if is_error(error, StrayError):
        error = error.original
    if is_error(error, BlockedError) and error.at:
        return error.at
    if is_error(error, SyntaxError) and (file := own(error, "filename", SyntaxError)):
        return f"{file}:{own(error, 'lineno', SyntaxError)}"
    if is_error(error, TimeoutError):
        # Where it hung is in the cancellation that became the time-out, below what merely waits and measures.
        frames = [each for each in traceback.extract_tb(hung_trace(error)) if not each.filename.startswith(_WAITING)]
    else:
        frames = list(traceback.extract_tb(own(error, "__traceback__")))
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"


def hung_trace(error: TimeoutError) -> types.TracebackType | None:
    """Traceback of what was awaited when a deadline passed, or of the error where that is not known."""
    cause = own(error, "__cause__")
    hung = cause if cause is not None and is_error(cause, asyncio.CancelledError) else error
    trace: types.TracebackType | None = own(hung, "__traceback__")
    return trace
