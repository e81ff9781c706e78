"""What a plugin is given: its context, the only door to the bot, the hooks and the host's stores."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    import types

    import hikari
    from prometheus_client import CollectorRegistry
    from pydantic import BaseModel

    from roost.audio import FrameSink
    from roost.consent import Consent
    from roost.scopes import Kept, Scope
    from roost.store import PluginStore

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """How a call of one plugin's hook ended.

    Attributes:
        called: Whether the plugin was called: it has the hook, and is neither disabled, paused nor quarantined there.
        worked: Whether it was called and did not fail.
        answer: What it answered; None where it did not work.
    """

    called: bool
    worked: bool
    answer: Any = None


class Unasked(enum.Enum):
    """Why there is no answer of a plugin that decides about something."""

    STOPPED = "stopped"
    """It is paused or quarantined."""
    LOADING = "loading"
    """It is being loaded, perhaps anew."""
    MISSING = "missing"
    """It could not be loaded."""
    FAILED = "failed"
    """It was asked, and failed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deny:
    """A refusal; the reason is shown to the person concerned."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A plugin that decides about something has refused, or was refused in its place.

    Attributes:
        plugin: Its name.
        reason: What it said, or why it said nothing; for the member concerned.
        unasked: Why it said nothing; None where it refused.
    """

    plugin: str
    reason: str
    unasked: Unasked | None = None


class HookCaller(Protocol):
    """Calls hooks of other plugins, in the way their kind prescribes, failures isolated and counted."""

    generation: int
    """Increases whenever the set of plugins to call, or to refuse in the place of, may have changed."""

    async def call(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Any:
        """*all* and *par* give the list of non-None answers (exceptions dropped, counted and logged); *first* gives
        the first non-None answer or None. Plugins disabled in `guild_id` are skipped."""
        ...

    async def call_named(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> tuple[str, Any] | None:
        """`call` of a *first* hook: the plugin that answered, and its answer."""
        ...

    def failed(self, plugin: str, hook: str, error: Exception, place: int | None = None) -> Any:
        """Log and count that what a plugin answered to a hook did not work, in a guild or in the whole bot."""

    async def call_strict(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> list[Any]:
        """Like `call` for *all* hooks where a raise or timeout means refusal: it is answered as a `Deny`."""
        ...

    async def ask_strict(self, plugin: str, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Deny | None:
        """`call_strict` of one plugin alone."""
        ...

    def call_sync(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> list[Any]:
        """For sync hooks; a raise is answered as a `Deny`."""
        ...

    def refusal_sync(self, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Refusal | None:
        """Ask the plugins that decide about something, through a sync hook; the first refusal, or one in the place of
        a plugin that does not work. None: all allow it."""
        ...

    def frame_sink(self, guild_id: int, session: Any) -> FrameSink:
        """One sink that passes frames to every plugin that implements ``voice_audio_frame``, as of each frame."""
        ...

    async def call_plugin(self, plugin: str, hook: str, *, guild_id: int | None = None, **arguments: Any) -> Any:
        """Call one plugin only (replays for late plugins)."""
        ...

    async def ask_plugin(self, plugin: str, hook: str, /, *, guild_id: int | None = None, **arguments: Any) -> Asked:
        """`call_plugin` for callers that need to know whether this very call worked."""
        ...

    def stopped_guards(self, hook: str, guild_id: int | None) -> list[str]:
        """Plugins that decide about something in a guild and cannot be asked, because they do not work."""
        ...

    def is_loading(self, plugin: str) -> bool:
        """Whether a plugin that decides about something is being loaded, perhaps anew, and works in a moment."""
        ...

    def implementers(self, hook: str, guild_id: int | None = None) -> tuple[str, ...]:
        """Names of plugins that implement a hook and would be called."""
        ...

    def reaches(self, plugin: str, guild_id: int) -> bool:
        """Whether a plugin is loaded, switched on in a guild, and not stopped there after failures."""
        ...

    def owners_of(self, sink: FrameSink, frame: types.FrameType, said: str = "") -> frozenset[str]:
        """Plugins whose code a sink is, or attaches it; empty: they are not known.

        Args:
            frame: Of the code that attaches it.
            said: The plugin that the sink is said to be of, which counts only where nothing else tells.
        """
        ...

    def comes_along(self, plugin: str) -> bool:
        """Whether a plugin comes with the bot, which takes its word for what it does."""
        ...


class Settings(Protocol):
    """Per-plugin values kept in the store. Values are JSON-serialisable."""

    async def get(self, guild_id: int | None, key: str, default: Any = None) -> Any: ...

    async def set(self, guild_id: int | None, key: str, value: Any) -> None: ...


class PluginContext(Protocol):
    """One plugin's context. Revoked when the plugin is unloaded: later use raises `ClosedError`."""

    name: str
    bot: hikari.GatewayBot
    hooks: HookCaller
    consent: Consent
    data_dir: Path
    handover: Any
    """What the version before this one gave from its hook ``handover``; None when there was none."""
    metrics: CollectorRegistry
    """For counters and gauges of the plugin, named ``roost_<plugin>_...``; shown at ``/metrics`` while it is loaded."""
    instance_id: str
    """Unique per process; the holder of ``<data_dir>/instances/<instance_id>.lock``."""

    @property
    def config(self) -> BaseModel:
        """The validated instance of the model given by ``register_config``."""
        ...

    def config_for(self, guild_id: int) -> BaseModel:
        """`config` with what the server set for itself, of the same model.

        Cheap: ask each time, and keep nothing. Only settings marked with `roost.config.guild_setting` can differ.
        """
        ...

    @property
    def settings(self) -> Settings:
        """Values the plugin keeps for itself."""
        ...

    @property
    def store(self) -> PluginStore:
        """Documents the plugin keeps, in a table of its own. ``Meta.data_version`` is their version."""
        ...

    @property
    def scope(self) -> Scope:
        """Owns the plugin's tasks; closed by the host after ``on_unload``."""
        ...

    def on_unload(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        """Push a clean-up; they run in reverse order after ``on_unload``, even if ``on_load`` failed."""

    def listen(
        self,
        event: type[hikari.Event],
        callback: Callable[[Any], Coroutine[Any, Any, None]],
        *,
        always: bool = False,
    ) -> None:
        """Subscribe to a concrete hikari event until unload. `hikari.StoppingEvent` is refused.

        Args:
            event: Its class.
            callback: Called with each event, except of guilds in which the plugin is switched off or paused.
            always: Call it while the plugin is paused, quarantined or switched off, too: for what ends things.
        """

    def task(
        self, coro: Coroutine[Any, Any, T], name: str, *, guild_id: int | None = None, always: bool = False
    ) -> asyncio.Task[T]:
        """Start a task owned by the plugin. With a guild it ends when the plugin is switched off there.

        With `always` it goes on while the plugin is quarantined: for work that deletes what must not stay. For work
        that lasts use `keep`: a task that somebody cancels is over.

        Raises:
            ClosedError: The plugin is switched off in the guild; start the task in ``guild_enabled``.
        """
        ...

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> Kept:
        """Start work that lasts until the plugin is unloaded, such as deleting what is too old once an hour.

        Whatever else ends it, it is started again: an exception, which counts as a failure of the plugin, or a
        cancellation by anybody. The pause before that grows from 0.5 s to a minute, and is short again after a minute
        without trouble. It goes on while the plugin is paused, quarantined or switched off. It is over when it
        returns, or when it is ended by what this returns.

        Args:
            work: Makes the coroutine, anew each time; what it has to go on with is in what you keep, not in it.
            name: For logs. What follows a colon is left out of the metric ``roost_restarted_tasks_total``.

        Raises:
            ClosedError: The plugin was unloaded.
        """
        ...

    def mark_stop(self, name: str, guild_id: int | None = None) -> None:
        """Write a step of the shutdown into the ordered stop log."""

    def enabled_in(self, guild_id: int) -> bool: ...
