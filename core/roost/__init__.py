"""Roost: a plugin-based Discord bot framework with voice that never leaks.

Plugin developers need this module alone: hooks, the context a plugin is given, and the types that hooks carry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roost.audio import (
    AudioFrame,
    CallStatus,
    FrameSink,
    JoinRequest,
    NotHeard,
    SessionStats,
    Unheard,
    Unshown,
    VoiceDriver,
    VoiceSession,
)
from roost.authoring import Hooks, Plugin
from roost.context import PluginContext
from roost.errors import (
    BusyError,
    ClosedError,
    ConfigError,
    PluginError,
    ResourceError,
    RoostError,
    SpeechError,
    UsageError,
    VoiceError,
)
from roost.hooks import Deny, Leftover, Meta, Report, SwitchCause, hookimpl
from roost.speech import EngineSpec, SpeechEngine, Transcript, Utterance

if TYPE_CHECKING:
    from lightbulb import Context as CommandContext

    from roost.i18n import Texts
    from roost.schema import guild_setting
    from roost.store import PluginStore

    __version__: str

__all__ = [
    "AudioFrame",
    "BusyError",
    "CallStatus",
    "ClosedError",
    "CommandContext",
    "ConfigError",
    "Deny",
    "EngineSpec",
    "FrameSink",
    "Hooks",
    "JoinRequest",
    "Leftover",
    "Meta",
    "NotHeard",
    "Plugin",
    "PluginContext",
    "PluginError",
    "PluginStore",
    "Report",
    "ResourceError",
    "RoostError",
    "SessionStats",
    "SpeechEngine",
    "SpeechError",
    "SwitchCause",
    "Texts",
    "Transcript",
    "Unheard",
    "Unshown",
    "UsageError",
    "Utterance",
    "VoiceDriver",
    "VoiceError",
    "VoiceSession",
    "__version__",
    "guild_setting",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    """What needs a large library is imported when it is asked for: the speech worker has no use for it."""
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("roost")
    if name == "CommandContext":
        from lightbulb import Context

        return Context
    if name == "Texts":
        from roost.i18n import Texts

        return Texts
    if name == "PluginStore":
        from roost.store import PluginStore

        return PluginStore
    if name == "guild_setting":
        from roost.schema import guild_setting

        return guild_setting
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
