"""What ends or troubles a transcription that nobody looks at: too long a silence, too long a session. Pure."""

from __future__ import annotations

import dataclasses
import enum

LOOK_S = 60.0
"""The longest wait between two looks."""
MIN_LOOK_S = 0.02


class Finding(enum.Enum):
    """What there is to do."""

    NOTHING = "nothing"
    SILENT = "silent"
    TOO_LONG = "too long"


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """One look at a transcription. Times in seconds on one clock.

    Attributes:
        now: The time.
        began_s: When it began.
        heard_s: When somebody was heard last, or when hearing began.
        silence_s: After how much silence to warn; 0: never.
        cap_s: How long it may last.
        listening: It is not paused, and nobody was warned since somebody was heard.
    """

    now: float
    began_s: float
    heard_s: float
    silence_s: float
    cap_s: float
    listening: bool

    def finding(self) -> Finding:
        if self.now - self.began_s >= self.cap_s:
            return Finding.TOO_LONG
        if self.listening and 0 < self.silence_s <= self.now - self.heard_s:
            return Finding.SILENT
        return Finding.NOTHING

    def wait_s(self) -> float:
        """Until the next look is due."""
        waits = [LOOK_S, self.began_s + self.cap_s - self.now]
        if self.listening and self.silence_s > 0:
            waits.append(self.heard_s + self.silence_s - self.now)
        return max(MIN_LOOK_S, min(waits))


def duration(seconds: float) -> str:
    """In words: ``5 minutes``, ``1 hour``, ``1.5 hours``."""
    value, unit = (seconds / 3600, "hour") if seconds >= 3600 else (seconds / 60, "minute")
    return f"{value:.3g} {unit}" + ("" if value == 1 else "s")
