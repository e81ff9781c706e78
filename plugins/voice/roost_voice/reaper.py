"""Which voice states of ours are ghosts: left by a process that crashed, owned by nobody alive.

The deciding is here and pure; the getting rid of is the guild's actor (state ORPHAN).
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable
from pathlib import Path

from roost_voice.journal import Claim, Others, read_others, remove_lock_of, session_hash

_log = logging.getLogger("roost.voice.reaper")


class Verdict(enum.Enum):
    """Whose a voice state of our user is."""

    GHOST = "ghost"
    SOMEBODYS = "somebodys"
    """Another living process of this bot answers for it."""
    UNKNOWN = "unknown"
    """No journal knows it, and this deployment shares its token: left alone."""


def judge(
    session_id: str, living: Iterable[Claim], *, in_dead_journal: bool, exclusive: bool, asked: bool = False
) -> Verdict:
    """Decide about a voice state that this process does not own.

    Args:
        session_id: Of the voice state.
        living: Claims of other living processes on the guild. One whose session is not yet known counts.
        in_dead_journal: A dead process's journal names the guild.
        exclusive: This is the only deployment of the token, so that whatever nobody here owns is nobody's.
        asked: This process asked to be let in there, and Discord has not answered until now.
    """
    digest = session_hash(session_id)
    if any(claim.session_sha256 in (None, digest) for claim in living):
        return Verdict.SOMEBODYS
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
        self._dead: dict[Path, set[int]] = {}
        self._asked: dict[int, tuple[int, float]] = {}

    def start(self) -> None:
        """Read what the dead left behind."""
        self._dead = read_others(self._data_dir, self._instance_id).dead

    def asked(self, guild_id: int, channel_id: int, now: float) -> None:
        """This process asks Discord to be let into a channel."""
        self._asked[guild_id] = (channel_id, now + self._late_answer_s)

    def answered(self, guild_id: int) -> None:
        """Discord has let us in: from now on a voice state that nobody owns is no answer to us."""
        self._asked.pop(guild_id, None)

    def judge(self, guild_id: int, channel_id: int, session_id: str, now: float) -> Verdict:
        """Read the journals anew, since other processes live on, and decide."""
        asked_for, until = self._asked.pop(guild_id, (0, 0.0))
        others: Others = read_others(self._data_dir, self._instance_id)
        named = any(guild_id in guilds for guilds in (*self._dead.values(), *others.dead.values()))
        for path, guilds in others.dead.items():
            self._dead.setdefault(path, guilds)
        return judge(
            session_id,
            others.living.get(guild_id, ()),
            in_dead_journal=named,
            exclusive=self._exclusive,
            asked=asked_for == channel_id and now < until,
        )

    def settled(self, guild_id: int) -> None:
        """Nothing of a dead process stands in this guild any more: forget it."""
        for path, guilds in list(self._dead.items()):
            guilds.discard(guild_id)
            if not guilds:
                del self._dead[path]
                remove_lock_of(path)
