"""Which voice states of ours are ghosts: left by a process that crashed, owned by nobody alive.

The deciding is here and pure; the getting rid of is the guild's actor (state ORPHAN).
"""

from __future__ import annotations

import enum
import logging
from pathlib import Path

from roost_voice.journal import Claim, read_dead, remove_lock_of

_log = logging.getLogger("roost.voice.reaper")


class Verdict(enum.Enum):
    """Owner of a voice state of the bot's user that this process does not own."""

    GHOST = "ghost"
    UNKNOWN = "unknown"
    """No journal knows it, and foreign software shares the token: left alone."""


def judge(*, in_dead_journal: bool, exclusive: bool, asked: bool = False) -> Verdict:
    """Decide about a voice state that this process does not own.

    Args:
        in_dead_journal: A dead process's journal names the guild, and no other session than this.
        exclusive: No foreign software uses the token, so what this process does not own is nobody's.
        asked: This process asked to be let in there, and Discord has not answered until now.
    """
    if in_dead_journal or exclusive or asked:
        return Verdict.GHOST
    return Verdict.UNKNOWN


class Reaper:
    """Knows the journals of dead processes and removes them once their ghosts are gone.

    Args:
        exclusive: See `judge`.
        late_answer_s: How late Discord may let us in after we asked.
    """

    def __init__(self, data_dir: Path, instance_id: str, *, exclusive: bool, late_answer_s: float = 60.0) -> None:
        self._data_dir = data_dir
        self._instance_id = instance_id
        self._exclusive = exclusive
        self._late_answer_s = late_answer_s
        self._dead: dict[Path, dict[int, Claim]] = {}
        self._asked: dict[int, tuple[int, float]] = {}

    def start(self) -> None:
        """Read what the dead left behind."""
        self._dead = read_dead(self._data_dir, self._instance_id)

    def asked(self, guild_id: int, channel_id: int, now: float) -> None:
        """This process asks Discord to be let into a channel."""
        self._asked[guild_id] = (channel_id, now + self._late_answer_s)

    def answered(self, guild_id: int) -> None:
        """Discord has let us in: from now on a voice state that nobody owns is no answer to us."""
        self._asked.pop(guild_id, None)

    def judge(self, guild_id: int, channel_id: int, session_id: str, now: float) -> Verdict:
        """Decide about a voice state.

        Args:
            session_id: Of the state: foreign software may have taken the dead process's place in the guild.
        """
        asked_for, until = self._asked.pop(guild_id, (0, 0.0))
        return judge(
            in_dead_journal=any(
                guild_id in claims and claims[guild_id].covers(session_id) for claims in self._dead.values()
            ),
            exclusive=self._exclusive,
            asked=asked_for == channel_id and now < until,
        )

    def settled(self, guild_id: int) -> None:
        """Nothing of a dead process stands in this guild any more: forget it."""
        for path, claims in list(self._dead.items()):
            claims.pop(guild_id, None)
            if not claims:
                del self._dead[path]
                remove_lock_of(path)
