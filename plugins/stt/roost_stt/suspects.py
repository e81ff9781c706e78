"""What workers died of: who is suspected, what is not sent again, and whose audio is not taken any more. Pure.

Theory of operation. At a death there are suspects: the utterances in the engine, and the audio that the audio thread
was at. Each is tried once more; the next process takes one utterance at a time, and first the suspected audio alone, so
that a second death tells the suspects apart. What is suspected a second time of the same kind of death is not sent
again. A death counts against a speaker when they were the only suspect or are suspected again; at `DEATHS_OF_SPEAKER`
nothing of theirs is taken until the session ends. `DEATHS_OF_GUILD` bounds what the members of one server can do
together.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

from roost_stt.kept import Key
from roost_stt.supervision import Cause

DEATHS_OF_SPEAKER = 3
"""So many deaths of one speaker's audio mute them."""
DEATHS_OF_GUILD = 12
"""So many deaths of all its speakers' audio mute a server."""
EVERYBODY = 0
"""In place of a user id: all speakers of a server."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a death.

    Attributes:
        utterances: Speakers, with the last index of an utterance that is not to be sent again.
        audio: A speaker and the index of a frame that is not to be sent again.
        muted: Speakers whose audio is dropped from now on; user `EVERYBODY` is a whole server.
        guilds: Servers whose speech may have caused the death.
        isolate: Index of the frame that the next process is to try alone; 0 for none.
    """

    utterances: Mapping[Key, int]
    audio: tuple[Key, int] | None
    muted: tuple[Key, ...]
    guilds: frozenset[int]
    isolate: int = 0


class Suspects:
    """Remembers, through the lives of the processes, what they may have died of."""

    def __init__(self) -> None:
        self._utterances: dict[Key, Counter[Cause]] = {}
        self._audio: dict[Key, tuple[int, Counter[Cause]]] = {}
        self._deaths: Counter[Key] = Counter()
        self._muted: set[Key] = set()

    @property
    def deaths(self) -> dict[Key, int]:
        """The number of deaths counted against each speaker."""
        return {key: count for key, count in self._deaths.items() if key[1] != EVERYBODY}

    def is_muted(self, guild_id: int, user_id: int) -> bool:
        """Whether a speaker's audio is dropped."""
        return bool(self._muted) and ((guild_id, user_id) in self._muted or (guild_id, EVERYBODY) in self._muted)

    def cleared(self, key: Key) -> None:
        """An utterance of a speaker has left the engine."""
        self._utterances.pop(key, None)

    def session_over(self, guild_id: int) -> None:
        """A server's session is over: its speakers begin anew."""
        for book in (self._utterances, self._audio, self._deaths):
            for key in [key for key in book if key[0] == guild_id]:
                del book[key]
        self._muted = {key for key in self._muted if key[0] != guild_id}

    def died(self, cause: Cause, in_engine: Mapping[Key, int], audio: tuple[Key, int] | None) -> Verdict:
        """Take note of a death.

        Args:
            cause: See `Cause`.
            in_engine: Speakers whose utterances the engine was at, with the last index of each.
            audio: Speaker and index of what the audio thread was at.
        """
        suspected, heard = self._suspected(cause, in_engine, audio)
        again: set[Key] = set()
        utterances: dict[Key, int] = {}
        for key, last in suspected.items():
            tries = self._utterances.setdefault(key, Counter())
            tries[cause] += 1
            if tries.total() > 1:
                again.add(key)
            if tries[cause] > 1:
                utterances[key] = last
                del self._utterances[key]
        dropped = None
        if heard is not None:
            key, index = heard
            before = self._audio.get(key)
            tries = before[1] if before is not None and before[0] == index else Counter()
            tries[cause] += 1
            self._audio[key] = index, tries
            if tries.total() > 1:
                again.add(key)
            if tries[cause] > 1:
                dropped = heard
                del self._audio[key]
        who = {*suspected, *({heard[0]} if heard else ())}
        again |= {key for key in who if self._deaths[key]}
        guilty = who if len(who) == 1 else again
        muted = self._count(guilty)
        isolate = heard[1] if heard is not None and dropped is None and heard[0] not in muted else 0
        return Verdict(utterances, dropped, muted, frozenset(key[0] for key in who), isolate)

    @staticmethod
    def _suspected(
        cause: Cause, in_engine: Mapping[Key, int], audio: tuple[Key, int] | None
    ) -> tuple[Mapping[Key, int], tuple[Key, int] | None]:
        """Utterances and audio that can have been the cause."""
        if cause is Cause.NOBODY:
            return {}, None
        if cause is Cause.CRASHED:
            return in_engine, audio
        if cause is Cause.SILENT and audio is not None:
            return {}, audio
        return in_engine, None

    def _count(self, guilty: Iterable[Key]) -> tuple[Key, ...]:
        """Count a death against each of these speakers; return those who are muted by it."""
        muted: list[Key] = []
        for key in guilty:
            everybody = key[0], EVERYBODY
            self._deaths[key] += 1
            self._deaths[everybody] += 1
            if self._deaths[key] >= DEATHS_OF_SPEAKER and key not in self._muted:
                muted.append(key)
            if self._deaths[everybody] >= DEATHS_OF_GUILD and everybody not in self._muted:
                muted.append(everybody)
        self._muted.update(muted)
        return tuple(muted)
