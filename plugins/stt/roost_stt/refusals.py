"""Why Discord did not take a caption, and what that means for it."""

from __future__ import annotations

import enum

from roost.errors import ResourceError


class Refusal(enum.Enum):
    """What became of a request."""

    LATER = "later"
    """A rate limit: the same may work in a while."""
    UNKNOWN = "unknown"
    """A server error, the network or no answer: it may have been carried out, or may work in a while."""
    FORBIDDEN = "forbidden"
    """The bot may not write there: somebody has to give it the permission, or choose another channel."""
    GONE = "gone"
    """The channel is not there any more: somebody has to choose another one."""
    REJECTED = "rejected"
    """This very message is refused and always will be."""
    UNSENT = "unsent"
    """It was not sent: when its turn came, it was not wanted any more."""
    UNREADABLE = "unreadable"
    """The answer makes no sense. The request was probably carried out, so it is not made again."""


WAITS = frozenset({Refusal.LATER, Refusal.UNKNOWN, Refusal.FORBIDDEN, Refusal.GONE})
"""After these a caption is kept."""
CUT_OFF = frozenset({Refusal.FORBIDDEN, Refusal.GONE})
"""These last until somebody does something."""


class RefusedError(ResourceError):
    """Discord did not carry a request out."""

    def __init__(self, message: str, refusal: Refusal) -> None:
        super().__init__(message)
        self.refusal = refusal
