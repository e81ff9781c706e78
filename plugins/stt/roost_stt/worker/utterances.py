"""Utterances as the worker's threads hand them on."""

from __future__ import annotations

import dataclasses

from roost.speech import Withdrawal
from roost_stt.protocol.segmenter import Segment

Key = tuple[int, int]
"""(guild id, user id)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance of one speaker, finished or offered as a draft."""

    guild_id: int
    user_id: int
    segment: Segment
    withdrawal: Withdrawal = dataclasses.field(default_factory=Withdrawal, repr=False, compare=False)

    def is_of(self, key: Key) -> bool:
        """Whether it is of a speaker, or of a guild where the key's user is 0."""
        return self.guild_id == key[0] and key[1] in (0, self.user_id)
