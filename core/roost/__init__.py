"""Roost: a plugin-based Discord bot framework with voice that never leaks.

Plugin developers need this module alone: hooks, the context a plugin is given, and the types that hooks carry.
"""

from __future__ import annotations

import importlib.metadata

from roost.audio import AudioFrame, FrameSink, JoinRequest, SessionStats, VoiceDriver, VoiceSession
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
from roost.hooks import Deny, Meta, Report, hookimpl
from roost.speech import EngineSpec, SpeechEngine, Transcript, Utterance

__version__ = importlib.metadata.version("roost")

__all__ = [
    "AudioFrame",
    "BusyError",
    "ClosedError",
    "ConfigError",
    "Deny",
    "EngineSpec",
    "FrameSink",
    "JoinRequest",
    "Meta",
    "PluginContext",
    "PluginError",
    "Report",
    "ResourceError",
    "RoostError",
    "SessionStats",
    "SpeechEngine",
    "SpeechError",
    "Transcript",
    "UsageError",
    "Utterance",
    "VoiceDriver",
    "VoiceError",
    "VoiceSession",
    "__version__",
    "hookimpl",
]
