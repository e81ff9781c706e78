"""Messages of one session that a fault holds back for a while. Pure."""

from __future__ import annotations

import collections
from typing import Any

Message = tuple[int, dict[str, Any] | bytes]
"""(op, payload)."""


class LateMessages:
    """Holds back the next `n` messages of one op, or of all.

    Args:
        op: 0 for any; then nothing overtakes what is held.
        n: How many.
        delay_s: For how long.
    """

    def __init__(self, op: int, n: int, delay_s: float) -> None:
        self._op = op
        self._left = n
        self._delay_s = delay_s
        self._held: collections.deque[tuple[float, Message]] = collections.deque()

    def hold(self, message: Message, now: float) -> bool:
        """Keep a message; False when it is not concerned and goes out at once."""
        if self._left > 0 and self._op in (0, message[0]):
            self._left -= 1
        elif self._op or not self._held:
            return False
        self._held.append((now + self._delay_s, message))
        return True

    def due(self, now: float) -> list[Message]:
        """Take what has waited long enough."""
        found: list[Message] = []
        while self._held and self._held[0][0] <= now:
            found.append(self._held.popleft()[1])
        return found
