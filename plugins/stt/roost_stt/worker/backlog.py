"""Utterances waiting for the engine: bounded in seconds of audio, shared by two threads."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable

from roost_stt.worker.utterances import Key, Spoken

MAX_SECONDS = 120.0
MAX_DRAFTS = 16


@dataclasses.dataclass(slots=True)
class Batch:
    """What the engine works on now."""

    items: list[Spoken]
    is_draft: bool = False
    """Of an utterance that is not over."""


class Backlog:
    """Guilds in turn, each first in, first out; guilds that are being drained go first.

    When there is too much, the oldest utterance of the guild with the most audio gives way, so a guild where many
    speak takes nothing from the others.

    Drafts come last: one at a time, so that a finished utterance never waits for more than one, and only while none
    waits. Those that wait when there is real work are dropped.

    Args:
        lost: Called, without the lock held, with each utterance that had to give way.
        drained: Called with the token of each drain that is complete.
    """

    def __init__(
        self, lost: Callable[[Spoken], None], drained: Callable[[int], None], max_seconds: float = MAX_SECONDS
    ) -> None:
        self._lost = lost
        self._drained = drained
        self._max_seconds = max_seconds
        self._items: list[Spoken] = []
        self._drains: list[tuple[int, int]] = []
        self._running: Batch | None = None
        """Finished utterances, which are to become text."""
        self._running_draft: Batch | None = None
        self._turns: dict[int, int] = {}
        """By guild: the number of the batch that last had something of it."""
        self._turn = 0
        self._drafts: dict[Key, Spoken] = {}
        self._rested_s = 0.0
        self._drafts_taken = 0
        self._drafts_shed = 0
        self._condition = threading.Condition()

    def put(self, spoken: Spoken) -> None:
        """Add an utterance; when there is too much, the oldest of the guild with the most audio gives way."""
        overflow: list[Spoken] = []
        with self._condition:
            self._items.append(spoken)
            while len(self._items) > 1 and self._seconds() > self._max_seconds:
                overflow.append(self._items.pop(self._gives_way()))
            self._condition.notify()
        for item in overflow:
            self._lost(item)

    def draft(self, spoken: Spoken) -> None:
        """Offer an utterance that is not over, in place of what was offered of it before."""
        key = (spoken.guild_id, spoken.user_id)
        with self._condition:
            full = key not in self._drafts and len(self._drafts) >= MAX_DRAFTS
            if self._items or full:
                self._drafts_shed += 1
                return
            self._drafts_shed += key in self._drafts
            self._drafts[key] = spoken
            self._condition.notify()

    def drop_draft(self, key: Key) -> None:
        """The utterance is over, or its speaker is to be forgotten."""
        with self._condition:
            self._drafts.pop(key, None)

    def rest_drafts(self, seconds: float) -> None:
        """Give no draft out for so long from now, or longer if that was said before."""
        with self._condition:
            self._rested_s = max(self._rested_s, time.monotonic() + seconds)

    def drain(self, guild_id: int, token: int) -> None:
        """Report `token` once nothing of this guild waits or runs."""
        with self._condition:
            self._drains.append((guild_id, token))
        self._report()

    def purge(self, key: Key) -> int:
        """Forget a speaker's utterances, or a guild's with user 0; those that the engine has are withdrawn from it."""
        with self._condition:
            removed = [item for item in self._items if item.is_of(key)]
            self._items = [item for item in self._items if not item.is_of(key)]
            in_engine = [item for batch in (self._running, self._running_draft) if batch for item in batch.items]
            for draft in [each for each, item in self._drafts.items() if item.is_of(key)]:
                del self._drafts[draft]
        for item in in_engine:
            if item.is_of(key):
                item.withdrawal.withdraw()
        self._report()
        return len(removed)

    def take(self, most: int) -> Batch:
        """Wait for work; return utterances of like length, in each speaker's order, or a single draft."""
        with self._condition:
            while not self._items:
                rest_s = self._rested_s - time.monotonic() if self._drafts else None
                if rest_s is not None and rest_s <= 0:
                    self._drafts_taken += 1
                    self._running_draft = Batch([self._drafts.pop(next(iter(self._drafts)))], is_draft=True)
                    return self._running_draft
                self._condition.wait(rest_s)
            self._drafts_shed += len(self._drafts)
            self._drafts.clear()
            order = self._order()
            limit_s = max(8.0, order[0].segment.duration_s * 1.25)
            chosen: list[Spoken] = []
            skipped: set[Key] = set()
            for item in order:
                key = (item.guild_id, item.user_id)
                if len(chosen) >= most or key in skipped or item.segment.duration_s > limit_s:
                    skipped.add(key)
                else:
                    chosen.append(item)
            self._note_turns(chosen)
            taken = {id(item) for item in chosen}
            self._items = [item for item in self._items if id(item) not in taken]
            self._running = Batch(chosen)
            return self._running

    def done(self) -> None:
        """The batch taken last is finished and its results are written."""
        with self._condition:
            self._running = self._running_draft = None
        self._report()

    def needed(self) -> dict[Key, int]:
        """Per speaker, the first audio index of what waits or runs."""
        first: dict[Key, int] = {}
        with self._condition:
            running = self._running.items if self._running is not None else []
            for item in [*running, *self._items]:
                key = (item.guild_id, item.user_id)
                first[key] = min(first.get(key, item.segment.first_mark), item.segment.first_mark)
        return first

    def stats(self) -> dict[str, float]:
        with self._condition:
            return {
                "waiting": len(self._items),
                "waiting_s": round(self._seconds(), 2),
                "drafts": self._drafts_taken,
                "partials_shed": self._drafts_shed,
            }

    def _order(self) -> list[Spoken]:
        """What waits: urgent guilds first, then the first of each guild by turn, then the second of each."""
        urgent = {guild_id for guild_id, _ in self._drains}
        ahead: Counter[int] = Counter()
        ranked = []
        for item in self._items:
            turn = self._turns.get(item.guild_id, 0)
            ranked.append(((item.guild_id not in urgent, ahead[item.guild_id], turn), item))
            ahead[item.guild_id] += 1
        return [item for _rank, item in sorted(ranked, key=lambda each: each[0])]

    def _note_turns(self, chosen: list[Spoken]) -> None:
        self._turn += 1
        waiting = {item.guild_id for item in self._items}
        self._turns = {guild_id: turn for guild_id, turn in self._turns.items() if guild_id in waiting}
        self._turns |= dict.fromkeys((item.guild_id for item in chosen), self._turn)

    def _gives_way(self) -> int:
        """The place of the oldest utterance of the guild with the most audio."""
        seconds: dict[int, float] = {}
        for item in self._items:
            seconds[item.guild_id] = seconds.get(item.guild_id, 0.0) + item.segment.duration_s
        most = max(seconds, key=lambda guild_id: seconds[guild_id])
        return next(place for place, item in enumerate(self._items) if item.guild_id == most)

    def _seconds(self) -> float:
        return sum(item.segment.duration_s for item in self._items)

    def _report(self) -> None:
        with self._condition:
            running = self._running.items if self._running is not None else []
            busy = {item.guild_id for item in [*running, *self._items]}
            finished = [token for guild_id, token in self._drains if guild_id not in busy]
            self._drains = [drain for drain in self._drains if drain[0] in busy]
        for token in finished:
            self._drained(token)
