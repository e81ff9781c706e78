"""The hooks a plugin may implement, and how each is called.

Write a hook as a function or method decorated with `hookimpl`; ``def`` and ``async def`` both work except where the
kind says sync. Take only the arguments you need.

Kinds: *own*: only the plugin concerned. *all*: one after the other, isolated, each with a deadline. *par*:
concurrently, isolated. *first*: in order until one answers something other than None.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from roost.context import Deny as Deny  # noqa: PLC0414 - plugins may import it from here

if TYPE_CHECKING:
    import hikari
    import lightbulb
    from pydantic import BaseModel

    from roost.audio import (
        AudioFrame,
        CallStatus,
        DriverSettings,
        JoinRequest,
        SessionStats,
        VoiceDriver,
        VoiceSession,
    )
    from roost.context import PluginContext
    from roost.speech import EngineSpec, Transcript
    from roost.store import PluginStore

PROJECT = "roost"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Kind(enum.Enum):
    """How the host calls a hook."""

    OWN = "own"
    ALL = "all"
    PAR = "par"
    FIRST = "first"


@dataclasses.dataclass(frozen=True, slots=True)
class HookInfo:
    """The calling rules of one hook.

    Attributes:
        kind: See `Kind`.
        sync: Whether implementations must be plain functions.
        deadline_s: Limit of each implementation's run time; None for sync hooks.
        graph_order: Order by the dependency graph, dependents first, whatever tryfirst and trylast say.
        drains: It waits for work to finish, and is cut short when the operator asks a second time to stop.
        always: A plugin that is paused or quarantined is called all the same: the hook ends something.
        guard: It allows something. A plugin that implements it and does not work has refused: one that is paused,
            quarantined, being loaded or could not be loaded.
        prompt: A member waits for it, and Discord for the first answer, so no call waits until a failure is handled.
        personal: It is about the member who asked for it, so a failure counts where they asked.
        private: It handles words, sound or data of members, so the text of its errors is told to nobody.
    """

    kind: Kind
    sync: bool = False
    deadline_s: float | None = 5.0
    graph_order: bool = False
    drains: bool = False
    always: bool = False
    guard: bool = False
    prompt: bool = False
    personal: bool = False
    private: bool = False


EVERY_PLUGIN = "*"
"""In ``Meta.errors_of``."""
NO_VERSION = "0"
"""Of a plugin that names none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Meta:
    """What a plugin says about itself.

    Attributes:
        name: Lower-case letters, digits, ``-`` and ``_``; unique.
        version: Of the plugin.
        requires: Names of plugins that must be loaded first.
        description: One line for people.
        roost_api: The major version of this hook interface that the plugin was written for.
        data_version: Of what it keeps in ``ctx.store`` and ``ctx.settings``; see the hook ``migrate_data``.
        stop_commands: Paths of its commands that end what it runs, such as ``voice leave``. Members can use them while
            it is paused or quarantined.
        errors_of: Names of other plugins whose errors its hook ``handle_error`` is asked about; `EVERY_PLUGIN` for all.
    """

    name: str
    version: str = NO_VERSION
    requires: tuple[str, ...] = ()
    description: str = ""
    roost_api: int = 1
    data_version: int = 1
    stop_commands: tuple[str, ...] = ()
    errors_of: tuple[str, ...] = ()


class SwitchCause(enum.Enum):
    """Why a plugin was switched on or off in a guild."""

    ADMIN = "admin"
    """Somebody who manages the guild wanted it."""
    FAILURES = "failures"
    """It failed too often there, and is paused or quarantined; or that is over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """A plugin's own view of its health."""

    ok: bool
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Leftover:
    """What a deletion of somebody's data leaves elsewhere, and how they can have it deleted too.

    Attributes:
        what: In words, such as "your captions in 3 messages at Discord".
        delete: Called when the member asks for it, within some minutes; returns what came of it, in words, also of
            what could not be deleted. It is ended 13 minutes after the deletion of all leftovers began.
    """

    what: str
    delete: Callable[[], Awaitable[str]]


INFO: dict[str, HookInfo] = {
    "plugin_meta": HookInfo(Kind.OWN, sync=True, deadline_s=None),
    "register_config": HookInfo(Kind.OWN, sync=True, deadline_s=None),
    "register_loaders": HookInfo(Kind.OWN, sync=True, deadline_s=None),
    "migrate_data": HookInfo(Kind.OWN, deadline_s=600.0),
    "on_load": HookInfo(Kind.OWN, deadline_s=30.0),
    "on_unload": HookInfo(Kind.OWN, deadline_s=3.0),
    "handover": HookInfo(Kind.OWN),
    "plugin_loaded": HookInfo(Kind.PAR),
    "plugin_unloading": HookInfo(Kind.ALL, deadline_s=3.0),
    "plugin_unloaded": HookInfo(Kind.PAR),
    "plugin_switched": HookInfo(Kind.PAR),
    "on_started": HookInfo(Kind.PAR),
    "on_stopping": HookInfo(Kind.ALL, deadline_s=2.7, graph_order=True, always=True),
    "guild_enabled": HookInfo(Kind.OWN),
    "guild_disabled": HookInfo(Kind.OWN),
    "config_changed": HookInfo(Kind.OWN),
    "command_check": HookInfo(Kind.PAR, deadline_s=2.0, guard=True, prompt=True),
    "handle_error": HookInfo(Kind.FIRST, deadline_s=1.0, private=True),
    "health": HookInfo(Kind.PAR),
    "diagnostics": HookInfo(Kind.PAR),
    "user_data_export": HookInfo(Kind.ALL, personal=True, private=True),
    "user_data_leftover": HookInfo(Kind.ALL, personal=True, private=True),
    "user_data_delete": HookInfo(Kind.ALL, personal=True, private=True),
    "voice_driver": HookInfo(Kind.FIRST),
    "voice_join_check": HookInfo(Kind.ALL, guard=True),
    "voice_session_opening": HookInfo(Kind.ALL, guard=True),
    "voice_session_opened": HookInfo(Kind.PAR),
    "voice_session_moved": HookInfo(Kind.PAR),
    "voice_session_interrupted": HookInfo(Kind.PAR),
    "voice_session_restored": HookInfo(Kind.PAR),
    "voice_member_joined": HookInfo(Kind.PAR),
    "voice_member_left": HookInfo(Kind.PAR),
    "voice_speaking": HookInfo(Kind.PAR),
    "call_status": HookInfo(Kind.PAR, deadline_s=0.5, prompt=True),
    "voice_consent": HookInfo(Kind.ALL, sync=True, deadline_s=None, guard=True),
    "voice_audio_frame": HookInfo(Kind.ALL, sync=True, deadline_s=None, private=True),
    "voice_session_closing": HookInfo(Kind.ALL, deadline_s=2.0, graph_order=True, drains=True, always=True),
    "voice_session_closed": HookInfo(Kind.PAR, always=True),
    "voice_idle": HookInfo(Kind.PAR),
    "stt_engine": HookInfo(Kind.FIRST, sync=True, deadline_s=None),
    "transcript_process": HookInfo(Kind.ALL, guard=True, private=True),
    "transcript_ready": HookInfo(Kind.PAR, private=True),
}


def defined_at(function: Any) -> str:
    """``file:line`` of a function, of what it wraps if it wraps one."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else "unknown place"


def unknown_hook(name: str, function: Any) -> str:
    """What to say of an implementation of a hook that does not exist: its place, and the name that was meant."""
    near = difflib.get_close_matches(name, INFO, 1)
    hint = f"; did you mean {near[0]}?" if near else "; `roost hooks` lists them all"
    return f"there is no hook {name} ({defined_at(function)}){hint}"


class RoostSpec:
    """The hook specifications."""

    @hookspec
    def plugin_meta(self) -> Meta:
        """Say who you are. Required; called before anything else, with nothing open."""
        raise AssertionError

    @hookspec
    def register_config(self) -> type[BaseModel]:
        """Give the pydantic model of your settings; the validated instance is ``ctx.config``."""
        raise AssertionError

    @hookspec
    def register_loaders(self) -> list[lightbulb.Loader]:
        """Give lightbulb loaders that hold your commands; listeners and tasks go through `ctx`."""
        raise AssertionError

    @hookspec
    async def migrate_data(self, store: PluginStore, old: int, new: int) -> None:
        """Bring what you keep from version `old` to `new` (``Meta.data_version``); called before ``on_load``, once. It
        is one transaction with a backup before it: raise, and all is as it was and you are not loaded."""

    @hookspec
    async def on_load(self, ctx: PluginContext) -> None:
        """Open what you need. Push clean-ups with ``ctx.on_unload``; they run even if this fails midway."""

    @hookspec
    async def on_unload(self, ctx: PluginContext, reason: str) -> None:
        """Release what you hold. Reason is disable, reload, shutdown or failed. Must be idempotent; never drains."""

    @hookspec
    async def handover(self) -> Any:
        """Give what your next version needs to go on where you are; called before a reload. It finds it in
        ``ctx.handover``. Hand over plain data: your classes are another version's classes then."""

    @hookspec
    async def plugin_loaded(self, name: str) -> None:
        """Another plugin was loaded."""

    @hookspec
    async def plugin_unloading(self, name: str, reason: str, deadline: float) -> None:
        """Another plugin is about to be unloaded, and still works: finish with it before `deadline` (event loop
        time). Not called when the bot goes down."""

    @hookspec
    async def plugin_unloaded(self, name: str, reason: str) -> None:
        """Another plugin was unloaded. Not called when the bot goes down."""

    @hookspec
    async def plugin_switched(self, name: str, guild_id: int | None, enabled: bool) -> None:
        """Another plugin was switched on or off in a guild, or paused there after failures, or that is over; without a
        guild: everywhere, by quarantine."""

    @hookspec
    async def on_started(self, bot: hikari.GatewayBot) -> None:
        """The bot is connected. Commands that changed may still be on their way to Discord."""

    @hookspec
    async def on_stopping(self, bot: hikari.GatewayBot, deadline: float) -> None:
        """The bot is going down; the gateway is still up. Finish before `deadline` (event loop time)."""

    @hookspec
    async def guild_enabled(self, ctx: PluginContext, guild_id: int, cause: SwitchCause) -> None:
        """You are called again in a guild, where you were disabled, paused or quarantined: learn what you missed."""

    @hookspec
    async def guild_disabled(self, ctx: PluginContext, guild_id: int, cause: SwitchCause) -> None:
        """You were disabled in a guild, or are paused or quarantined after failures: end what you run there, and in the
        latter case tell those who use it. A quarantine calls this for every guild."""

    @hookspec
    async def config_changed(self, ctx: PluginContext, guild_id: int, old: BaseModel, new: BaseModel) -> None:
        """A server changed its own values: `old` and `new` are what ``ctx.config_for`` gave and gives. No reload
        follows. Not called while you are switched off there."""

    @hookspec
    async def command_check(self, ctx: Any) -> Deny | None:
        """Refuse a slash command of a plugin before it runs. The first `Deny` counts; a raise or a time-out refuses
        too, except commands that end something (``Meta.stop_commands``), for which you have 1 s. All plugins are asked
        at the same time, because Discord waits 3 s for the first answer to a command. You are asked too each time that
        choices are wanted for an option that a member types: then ``ctx.interaction`` is a
        `hikari.AutocompleteInteraction`, and what you say through `ctx` reaches nobody."""

    @hookspec
    async def handle_error(
        self, error: BaseException, source: str, plugin: str, guild_id: int | None, ctx: lightbulb.Context | None
    ) -> bool | None:
        """Take over an error of your own, or of a plugin that you name in ``Meta.errors_of``: `plugin` is the one that
        failed, and is asked first. True means it is dealt with: no other plugin is asked, it is not counted, and the
        member who ran a command gets no other answer than yours; if nobody has answered by then, a short one. `source`
        is what failed: the name of a hook, or words such as ``its command /music play``. `ctx` is the command's, where
        it was one; it may have been answered before. Not called for what a check, cooldown or concurrency limit
        refuses. Source ``quarantine`` tells the others that the plugin was paused in the guild, or without a guild
        quarantined."""

    @hookspec
    async def health(self) -> Report:
        """Say whether you work."""
        raise AssertionError

    @hookspec
    async def diagnostics(self) -> dict[str, Any]:
        """Facts for a bug report; no secrets, no transcript text."""
        raise AssertionError

    @hookspec
    async def user_data_export(self, user_id: int) -> Mapping[str, Any] | None:
        """Everything you hold about a user."""

    @hookspec
    async def user_data_leftover(self, user_id: int) -> Leftover | None:
        """What ``user_data_delete`` leaves elsewhere, such as messages at Discord. Called before it; the member is
        told, and offered its deletion."""

    @hookspec
    async def user_data_delete(self, user_id: int, reason: str) -> None:
        """Delete everything you hold about a user. Called after a load, too, for who asked when you could not be."""

    @hookspec
    async def voice_driver(self, name: str, settings: DriverSettings) -> VoiceDriver | None:
        """Provide the voice driver called `name`; asked for at each connection, so keep what you made."""

    @hookspec
    async def voice_join_check(self, request: JoinRequest) -> Deny | None:
        """Refuse a wish to enter a voice channel before anything is sent; a raise or a time-out refuses too."""

    @hookspec
    async def voice_session_opening(self, session: VoiceSession) -> Deny | None:
        """A session is connected and hears nothing yet: warm up, or refuse it. A raise or a time-out refuses too.
        Called for the sessions that are open when you are loaded or switched on, too: nobody is heard in them until you
        have answered, and a refusal ends them."""

    @hookspec
    async def voice_session_opened(self, session: VoiceSession) -> None:
        """A session is open; attach sinks now or later. Replayed for live sessions to plugins loaded late."""

    @hookspec
    async def voice_session_moved(self, session: VoiceSession, old: int, new: int, by_request: bool) -> None:
        """The session is in another channel now; `by_request` is False when a moderator moved the bot."""

    @hookspec
    async def voice_session_interrupted(self, session: VoiceSession, reason: str) -> None:
        """The session lost its link and tries to get it back."""

    @hookspec
    async def voice_session_restored(self, session: VoiceSession, reason: str) -> None:
        """The session has its link back."""

    @hookspec
    async def voice_member_joined(self, session: VoiceSession, user_id: int) -> None:
        """Someone came into the session's channel."""

    @hookspec
    async def voice_member_left(self, session: VoiceSession, user_id: int) -> None:
        """Someone left the session's channel."""

    @hookspec
    async def voice_speaking(self, session: VoiceSession, user_id: int, speaking: bool) -> None:
        """Someone started or stopped speaking, by their client's word."""

    @hookspec
    async def call_status(self, guild_id: int, user_id: int) -> CallStatus | None:
        """Say what holds for a member in the call that they are in now, as far as you know it: whether they are heard,
        and whether captions are shown. None if they are in none of yours. The member reads it in ``/privacy status``
        and in the replies to their decisions."""

    @hookspec
    def voice_consent(self, session: VoiceSession, user_id: int) -> Deny | None:
        """Forbid hearing a user. Can only forbid; a raise forbids, and you are asked again 30 s later. The user alone
        reads the reason. An answer is kept for the session and the user until a change of consent or permissions, or
        until plugins come, go or are switched."""

    @hookspec
    def voice_audio_frame(self, session: VoiceSession, frame: AudioFrame) -> None:
        """One consented Opus packet of 2.5 to 120 ms.

        Runs in the receive path: be done in microseconds, never block.
        """

    @hookspec
    async def voice_session_closing(self, session: VoiceSession, reason: str, deadline: float) -> None:
        """The session is about to end and is still connected: drain before `deadline` (event loop time)."""

    @hookspec
    async def voice_session_closed(self, session: VoiceSession, reason: str, stats: SessionStats) -> None:
        """The session has ended. Called exactly once per opened session."""

    @hookspec
    async def voice_idle(self, seconds: float) -> None:
        """There has been no session anywhere for `seconds`."""

    @hookspec
    def stt_engine(self, name: str) -> EngineSpec | None:
        """Provide the speech engine called `name`."""

    @hookspec
    async def transcript_process(self, session: VoiceSession, draft: Transcript) -> Transcript | None:
        """Change a final transcript before anyone sees it; return one with empty text to drop it, None to keep it. It
        is dropped, too, if you raise, run out of time or change ``utterance_id``, ``guild_id`` or ``user_id``. If you
        change the text and leave `words`, they are dropped. Its speaker's withdrawal cancels you."""

    @hookspec
    async def transcript_ready(self, session: VoiceSession, transcript: Transcript) -> None:
        """A final transcript is stored and on its way to the channel. Called for what was said after a notice named
        your plugin; when you are loaded or switched on in mid-call, another one is posted."""
