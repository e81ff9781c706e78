"""Every error Roost raises.

::

    RoostError
    |- UsageError          the caller's mistake
    |  |- ClosedError      the object was closed (or its plugin unloaded) before the call
    |  `- BusyError        the object is already doing something that excludes the call
    |- ConfigError         a setting is wrong; names the key and what to do
    |- PluginError         a plugin could not be loaded, opened or unloaded
    `- ResourceError       the outside world refused; `.retryable`, `.retry_after_s`
       |- HeldError        another process of the bot uses the data
       |- StoreError       the database
       |- VoiceError       Discord voice
       `- SpeechError      the speech engine

The message of every error is one line that a person can act on. Transcript text, tokens and keys never appear in one.
"""

from __future__ import annotations

import enum


class RoostError(Exception):
    """The root: catching it catches everything Roost raises on purpose."""


class UsageError(RoostError):
    """The caller broke a rule of the API."""


class ClosedError(UsageError):
    """The object is closed; no later call can succeed."""


class BusyError(UsageError):
    """The object is occupied; the message says with what."""


class ConfigError(RoostError):
    """A setting is missing or wrong.

    Args:
        message: One line that says what to do.
        key: The dotted setting, such as ``discord.rest_url``, or None when no single key is to blame.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.more: tuple[ConfigError, ...] = ()
        """What else was found wrong at the same time."""


class PluginError(RoostError):
    """A plugin failed at something the host asked of it.

    Args:
        message: One line, with file and line number where they are known.
        plugin: The plugin's name.
    """

    def __init__(self, message: str, *, plugin: str) -> None:
        super().__init__(f"plugin {plugin}: {message}")
        self.plugin = plugin


class ResourceError(RoostError):
    """Something outside the process refused.

    Args:
        message: One line that says what was refused and what to do.
        retryable: Whether the same call may succeed later.
        retry_after_s: Seconds to wait before that, when known.
    """

    def __init__(self, message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class HeldError(ResourceError):
    """Another process of the bot uses the data folder or the database."""


class StoreCause(enum.Enum):
    """Why the database failed."""

    BUSY = "busy"
    """It is in use, overloaded or away: the same call may succeed in a moment."""
    UNUSABLE = "unusable"
    """Its disk is full or failing, or it is damaged or closed to the bot: the operator has to act."""
    GONE = "gone"
    """The server has no such database any more: the operator has to act."""


class StoreError(ResourceError):
    """The database itself failed, and not what was asked of it.

    Args:
        message: One line that says what failed and what to do.
        cause: Why.
        retryable: Whether the same call may succeed later.

    Attributes:
        perhaps_done: Whether the database may have what was written: it failed while it committed.
    """

    def __init__(self, message: str, *, cause: StoreCause = StoreCause.BUSY, retryable: bool = False) -> None:
        super().__init__(message, retryable=retryable)
        self.cause = cause
        self.perhaps_done = False


class VoiceError(ResourceError):
    """Discord voice could not be reached, entered or kept."""


class SpeechError(ResourceError):
    """The speech engine could not be started or did not answer."""
