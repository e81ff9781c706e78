"""Whether the UDP path still carries what others say.

A NAT that forgot us, or a server that lost our address, shows as silence: nothing fails, nothing arrives. Two signs are
used. Where the server echoes our keepalives, three missing echoes. Where it never does, somebody who starts to speak
while no packet of anyone comes. Either way discovery is asked first; only if that stays unanswered, or the sign returns
without a packet in between, is the path taken for dead.
"""

from __future__ import annotations

import enum
import struct

from roost.audio import Timing

KEEPALIVE_BYTES = 8
MISSED_ECHOES = 3
HASTE = 5
"""Once an echo is missing the next keepalives follow so many times faster, to know sooner."""
_COUNTER = struct.Struct("<Q")


class PathAction(enum.Enum):
    """What the owner should do now."""

    SEND_KEEPALIVE = "send_keepalive"
    SEND_DISCOVERY = "send_discovery"
    DEAD = "dead"


class PathWatch:
    """Keepalives and the signs of deafness of one UDP path.

    Args:
        timing: Uses `keepalive_s`, `deaf_after_s`, `discovery_s` and `discovery_resend_s`.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._keepalive_at: float | None = None
        self._counter = 0
        self._unanswered = 0
        self._echoed = False
        self._speech_since: float | None = None
        self._probe_until: float | None = None
        self._probe_at = 0.0
        self._suspected = False

    def start(self, now: float) -> None:
        """The path is open: keepalives start at once."""
        self._keepalive_at = now

    @property
    def due(self) -> float | None:
        """When `handle_timer` should be called."""
        if self._keepalive_at is None:
            return None
        due = self._keepalive_at
        if self._speech_since is not None:
            due = min(due, self._speech_since + self._timing.deaf_after_s)
        if self._probe_until is not None:
            due = min(due, self._probe_at, self._probe_until)
        return due

    def keepalive(self) -> bytes:
        """The next keepalive: a counter of 8 bytes."""
        return _COUNTER.pack(self._counter)

    def echo(self, data: bytes) -> bool:
        """Take a datagram of 8 bytes; True if it is one of our keepalives come back."""
        if len(data) != KEEPALIVE_BYTES or not 0 < _COUNTER.unpack(data)[0] <= self._counter:
            return False
        self._echoed = True
        self._unanswered = 0
        return True

    def speech(self, now: float) -> None:
        """Somebody started to speak (op 5)."""
        if self._speech_since is None:
            self._speech_since = now

    def heard(self) -> None:
        """A media packet came: the path carries."""
        self._speech_since = None
        self._suspected = False
        self._probe_until = None

    def discovered(self) -> None:
        """Discovery was answered with the address we know."""
        self._probe_until = None
        self._unanswered = 0

    @property
    def probing(self) -> bool:
        """Whether an answer to discovery is awaited."""
        return self._probe_until is not None

    def handle_timer(self, now: float) -> list[PathAction]:
        """Act on what is due."""
        actions: list[PathAction] = []
        if self._keepalive_at is None:
            return actions
        if now >= self._keepalive_at:
            missing = self._echoed and self._unanswered
            self._keepalive_at = now + self._timing.keepalive_s / (HASTE if missing else 1)
            if self._echoed and self._unanswered >= MISSED_ECHOES:
                self._unanswered = 0
                actions += self._suspect(now)
            self._counter += 1
            self._unanswered += 1
            actions.append(PathAction.SEND_KEEPALIVE)
        if self._speech_since is not None and now >= self._speech_since + self._timing.deaf_after_s:
            self._speech_since = None
            actions += self._suspect(now)
        if self._probe_until is not None:
            if now >= self._probe_until:
                self._keepalive_at = self._probe_until = None
                return [PathAction.DEAD]
            if now >= self._probe_at:
                self._probe_at = now + self._timing.discovery_resend_s
                actions.append(PathAction.SEND_DISCOVERY)
        return actions

    def _suspect(self, now: float) -> list[PathAction]:
        if self._suspected:
            self._keepalive_at = self._probe_until = None
            return [PathAction.DEAD]
        self._suspected = True
        self._probe_until = now + self._timing.discovery_s
        self._probe_at = now
        return []
