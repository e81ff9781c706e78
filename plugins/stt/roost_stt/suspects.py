"""What workers died of: who is suspected, what is not sent again, and whose audio is not taken any more. Pure.

Theory of operation. At a death there are suspects: the utterances in the engine, and the audio that the audio thread
was at. Each is tried once more; the next process takes one utterance at a time, and first the suspected audio alone, so
that a second death tells the suspects apart. What is suspected a second time of the same kind of death is not sent
again. A death counts against a speaker when they were the only suspect or are suspected again; at `DEATHS_OF_SPEAKER`
nothing of theirs is taken, in any server. `DEATHS_OF_GUILD` bounds what the members of one server can do together, and
`DEATHS_OF_OWNER`, which one server alone does not reach, those of all servers of one owner.

A death counts until the session in which it happened ends, and for `FORGIVEN_S` at least: a transcription that is
stopped and started again forgives nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from roost_stt.kept import Key
from roost_stt.supervision import Cause

DEATHS_OF_SPEAKER = 3
"""So many deaths of one speaker's audio mute them."""
DEATHS_OF_GUILD = 12
"""So many deaths of all its speakers' audio mute a server."""
DEATHS_OF_OWNER = 24
"""So many deaths of all their speakers' audio mute the servers of one owner."""
FORGIVEN_S = 3600.0
"""A death counts for so long, even if the session in which it happened ends earlier."""
EVERYBODY = 0
"""In place of a user id: all speakers of a server."""

Party = tuple[int, int]
"""(id of a server's owner, id of a speaker there)."""


@dataclasses.dataclass(slots=True)
class _Death:
    """A death that counts against a speaker until `ends_s`, which is infinite while its session lasts."""

    key: Key
    owner_id: int
    at_s: float
    ends_s: float = math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a death.

    Attributes:
        utterances: Speakers, with the last index of an utterance that is not to be sent again.
        audio: A speaker and the index of a frame that is not to be sent again.
        muted: Speakers whose audio is dropped from now on; user `EVERYBODY` is a whole server.
        parties: Whose speech may have caused the death.
        isolate: Index of the frame that the next process is to try alone; 0 for none.
    """

    utterances: Mapping[Key, int]
    audio: tuple[Key, int] | None
    muted: tuple[Key, ...]
    parties: frozenset[Party]
    isolate: int = 0


class Suspects:
    """Remembers, through the lives of the processes, what they may have died of.

    Args:
        owner_of: The owner of a server, or what stands for them where they are not known.
    """

    def __init__(self, owner_of: Callable[[int], int] = lambda guild_id: guild_id) -> None:
        self._owner_of = owner_of
        self._utterances: dict[Key, Counter[Cause]] = {}
        self._audio: dict[Key, tuple[int, Counter[Cause]]] = {}
        self._deaths: list[_Death] = []
        self._speakers_until: dict[int, float] = {}
        """By user: until when their audio is dropped."""
        self._guilds_until: dict[int, float] = {}
        """By server: until when all its audio is dropped."""
        self._owners_until: dict[int, float] = {}
        """By owner: until when all audio in their servers is dropped."""

    @property
    def deaths(self) -> dict[Key, int]:
        """The number of deaths that were counted against each speaker and are remembered."""
        return dict(Counter(death.key for death in self._deaths))

    def muted(self, guild_id: int, user_id: int, now: float) -> int | None:
        """The user whose audio is dropped, `EVERYBODY` where it is a whole server's, or None where none is."""
        if now < self._speakers_until.get(user_id, -math.inf):
            return user_id
        if now < self._guilds_until.get(guild_id, -math.inf):
            return EVERYBODY
        if self._owners_until and now < self._owners_until.get(self._owner_of(guild_id), -math.inf):
            return EVERYBODY
        return None

    def cleared(self, key: Key) -> None:
        """An utterance of a speaker has left the engine."""
        self._utterances.pop(key, None)

    def session_over(self, guild_id: int, now: float) -> None:
        """A server's session is over: its deaths are forgotten as soon as they are old enough."""
        for key in [key for key in self._utterances if key[0] == guild_id]:
            del self._utterances[key]
        for key in [key for key in self._audio if key[0] == guild_id]:
            del self._audio[key]
        for death in self._deaths:
            if death.key[0] == guild_id:
                death.ends_s = min(death.ends_s, death.at_s + FORGIVEN_S)
        self._reckon(now)

    def died(self, cause: Cause, in_engine: Mapping[Key, int], audio: tuple[Key, int] | None, now: float) -> Verdict:
        """Take note of a death.

        Args:
            now: Seconds of a clock that only goes forward.
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
        self._reckon(now)
        known = {death.key[1] for death in self._deaths}
        again |= {key for key in who if key[1] in known}
        guilty = who if len(who) == 1 else again
        muted = self._count(guilty, now)
        isolate = heard[1] if heard is not None and dropped is None and heard[0] not in muted else 0
        return Verdict(utterances, dropped, muted, self.parties(who), isolate)

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

    def parties(self, speakers: Iterable[Key]) -> frozenset[Party]:
        """Who answers for the speech of these speakers."""
        return frozenset((self._owner_of(guild_id), user_id) for guild_id, user_id in speakers)

    def _count(self, guilty: Iterable[Key], now: float) -> tuple[Key, ...]:
        """Count a death against each of these speakers; return those who are muted by it."""
        guilty = tuple(guilty)
        before = {key: self.muted(*key, now) for key in guilty}
        self._deaths += [_Death(key, self._owner_of(key[0]), now) for key in guilty]
        self._reckon(now)
        muted: list[Key] = []
        for key in guilty:
            whom = self.muted(*key, now)
            if whom is not None and whom != before[key]:
                muted.append((key[0], whom))
        return tuple(muted)

    def _reckon(self, now: float) -> None:
        """Drop deaths that count no more, and say anew who is muted until when."""
        self._deaths = [death for death in self._deaths if now < death.ends_s]
        users: dict[int, list[float]] = {}
        guilds: dict[int, list[float]] = {}
        owners: dict[int, list[float]] = {}
        for death in self._deaths:
            guilds.setdefault(death.key[0], []).append(death.ends_s)
            users.setdefault(death.key[1], []).append(death.ends_s)
            owners.setdefault(death.owner_id, []).append(death.ends_s)
        self._speakers_until = _until(users, DEATHS_OF_SPEAKER)
        self._guilds_until = _until(guilds, DEATHS_OF_GUILD)
        self._owners_until = _until(owners, DEATHS_OF_OWNER)


def _until(ends: Mapping[int, list[float]], most: int) -> dict[int, float]:
    """Until when each has `most` deaths that count; those who have fewer are left out."""
    return {whose: sorted(each, reverse=True)[most - 1] for whose, each in ends.items() if len(each) >= most}
