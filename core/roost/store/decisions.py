"""The order of members' decisions about consent, and what of them the disk has. Pure: no I/O, no clock.

A decision is a word about one member in one server: agreed, refused, or withdrawn (back to undecided). Two places keep
words: the store, which may be slow, locked, full or away, and a small local file, which takes refusals and withdrawals
alone (see `roost.store.withdrawals`). The rules:

1. The last decision of a member counts. An earlier one that is still under way never overwrites it.
2. A refusal or a withdrawal holds in memory at once, before anything is written. It survives the process as soon as the
   file or the store has it, and is written to the store again and again until that has it.
3. An agreement holds once the store has it and no record of an earlier refusal is left in the file, not before.
4. An agreement that failed but that the store may have after all is overwritten there with what counts. A record in the
   file says so before the member is told; a start that finds it takes the member for undecided.

The owner takes batches for the file and the store, one of each at a time, and reports what became of them.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Key = tuple[int, int]
"""Guild and user."""
Word = str | bool | None
"""An agreement, which is the name of what it covers; False for refused, None for undecided."""

NO_GUILD = 0
"""In the key of a user who is forgotten everywhere: another database may have agreements that this one does not."""

RACE_MS = 15 * 60_000
"""How much earlier than a member's last press another one may still arrive: Discord's interactions live as long."""


class Outcome(enum.Enum):
    """What became of a decision."""

    KEPT = "kept"
    """It holds, and the next start finds it."""
    SUPERSEDED = "superseded"
    """A later decision of the member counts instead."""
    FAILED = "failed"
    """It could not be stored: an agreement does not hold; a withdrawal holds and is tried again."""


class Record(NamedTuple):
    """A refusal (False) or withdrawal (None) in the local file; of two about one member the higher number counts."""

    number: int
    key: Key
    word: bool | None


class Stamp(NamedTuple):
    """How far a database has got with the decisions that were made with one data folder.

    Every transaction with a refusal or a withdrawal writes it into the database. The folder remembers the last one
    before the decisions may leave the local file, so a database with a lower number, or none, lacks some of them: it
    was restored from a backup, or another one was in use meanwhile.

    Attributes:
        folder: The random name of the folder, 32 hexadecimal digits.
        number: Grows with each such transaction; 0 before the first.
    """

    folder: str
    number: int


class Seen(NamedTuple):
    """What a database has of one data folder.

    Attributes:
        number: Of the last stamp; 0 for none.
        complete: It never lacked a refusal that was made with the folder.
    """

    number: int
    complete: bool


class Write(NamedTuple):
    """One row of a transaction; None deletes it."""

    number: int
    key: Key
    word: Word


@dataclasses.dataclass(frozen=True, slots=True)
class FileBatch:
    """What the file is to do, in this order.

    Attributes:
        keep: Records to write. They are on disk before anything is cleared.
        clear: Members, and the highest number of their records to clear.
        unmark: Remove the mark that says that there are refusals without a record.
    """

    keep: tuple[Record, ...]
    clear: Mapping[Key, int]
    unmark: bool


@dataclasses.dataclass(frozen=True, slots=True)
class FileResult:
    """What became of a batch.

    Attributes:
        kept: Whether the records are on disk.
        cleared: Whether what was to be cleared is.
        without_slot: Members whose record found no free slot; the mark says so on disk.
    """

    kept: bool = True
    cleared: bool = True
    without_slot: frozenset[Key] = frozenset()


class _Kind(enum.Enum):
    """What a waiting decision waits for."""

    AGREEMENT = enum.auto()
    """The store."""
    REFUSAL = enum.auto()
    """The file or the store."""
    WITHDRAWAL = enum.auto()
    """The store."""
    VOID = enum.auto()
    """The file, to say that the store failed."""


@dataclasses.dataclass(slots=True)
class _Kept:
    """The record of a member that the file has, or may have.

    Attributes:
        number: The highest that it may have.
        words: What it may say.
        sure: It is there.
    """

    number: int
    words: frozenset[bool | None]
    sure: bool


class Decisions:
    """All decisions of all members.

    Args:
        stored: What the store has.
        kept: What the file has: it is later than what the store has.
    """

    def __init__(self, stored: Mapping[Key, str | bool], kept: Iterable[Record] = ()) -> None:
        self.held: dict[Key, str | bool] = dict(stored)
        """What counts now."""
        self._asked: dict[Key, Write] = {}
        """Agreements that wait for the store."""
        self._unstored: dict[Key, int] = {}
        """Members of whom the store does not have what counts, or perhaps not."""
        self._kept: dict[Key, _Kept] = {}
        self._to_keep: set[Key] = set()
        self._to_clear: dict[Key, int] = {}
        self._clearing: dict[Key, int] = {}
        """Agreements that the store has and that wait until an earlier refusal is cleared."""
        self._without_slot: set[Key] = set()
        self._marked = False
        self._may_unmark = False
        """Since the last attempt something was written, so the next one may succeed."""
        self._file_batch: FileBatch | None = None
        self._being_kept: dict[Key, bool | None] = {}
        self._store_batch: dict[Key, Write] = {}
        self._waiting: dict[Key, dict[int, _Kind]] = {}
        self._waiting_key: dict[int, Key] = {}
        self._outcomes: list[tuple[int, Outcome]] = []
        self._changed: list[Key] = []
        self._presses: OrderedDict[Key, int] = OrderedDict()
        first = 0
        for number, key, word in kept:
            first = max(first, number)
            self._kept[key] = _Kept(number, frozenset({word}), sure=True)
            self._unstored[key] = number
            self._hold(key, word)
        self._numbers = itertools.count(first + 1)
        self._changed.clear()

    @property
    def has_agreements(self) -> bool:
        """Whether an agreement waits for its transaction."""
        return any(key not in self._clearing for key in self._asked)

    @property
    def unstored(self) -> int:
        """Number of members whose decision the store does not have yet."""
        return len(self._unstored)

    @property
    def is_at_rest(self) -> bool:
        """Whether the store has all that counts, and the file nothing."""
        return not (self._unstored or self._kept or self._being_kept)

    @property
    def is_safe(self) -> bool:
        """Whether the next start finds all that counts."""
        return all(self._is_kept(key) for key in self._unstored)

    def wanted(self, key: Key) -> Word:
        """What counts once everything that is under way has succeeded."""
        return self._asked[key].word if key in self._asked else self.held.get(key)

    def agree(self, key: Key, word: str = "", pressed_ms: int | None = None) -> int | None:
        """Ask for an agreement; return its number, None when a later press of the member has already arrived.

        Args:
            key: Guild and member.
            word: What the agreement covers.
            pressed_ms: When Discord took the press, by Discord's clock; without it it is the latest.
        """
        if not self._is_latest(key, pressed_ms):
            return None
        asked = self._asked.get(key)
        if asked is not None and asked.word == word:
            return asked.number
        doubtful = self._is_doubtful(key)
        if self._supersede(key) and asked is not None and doubtful:
            self._doubt(key, asked.word)
        number = self._wait(key, _Kind.AGREEMENT)
        self._asked[key] = Write(number, key, word)
        return number

    def refuse(self, key: Key, pressed_ms: int | None = None) -> int | None:
        """Refuse, at once; otherwise as `agree`."""
        if not self._is_latest(key, pressed_ms):
            return None
        self._supersede(key)
        return self._withdraw(key, False, _Kind.REFUSAL)

    def forget(self, user_id: int, *, keep_refusals: bool) -> tuple[dict[Key, int], tuple[int, ...]]:
        """Withdraw every decision of a user, at once.

        Args:
            user_id: Whose.
            keep_refusals: Refusals stay.

        Returns:
            The number of each withdrawal, and the guilds in which a refusal stays.
        """
        keys = {key for key in (*self.held, *self._asked, *self._unstored, *self._kept) if key[0] != NO_GUILD}
        numbers: dict[Key, int] = {}
        kept: list[int] = []
        for key in sorted(key for key in keys if key[1] == user_id):
            superseded = self._supersede(key)
            if keep_refusals and self.held.get(key) is False:
                kept.append(key[0])
                if superseded:  # the store may have the agreement by now
                    numbers[key] = self._withdraw(key, False, _Kind.REFUSAL)
                continue
            numbers[key] = self._withdraw(key, None, _Kind.WITHDRAWAL)
        nowhere = (NO_GUILD, user_id)
        numbers[nowhere] = self._withdraw(nowhere, None, _Kind.WITHDRAWAL)
        return numbers, tuple(kept)

    def give_up(self, number: int) -> None:
        """Nobody waits any longer for a decision. An agreement fails; anything else goes on being written."""
        key = self._waiting_key.get(number)
        if key is None:
            return
        if self._waiting[key][number] is _Kind.AGREEMENT:
            self._fail(key, doubtful=self._is_doubtful(key))
        else:
            self._end(key, number)

    def take_outcomes(self) -> list[tuple[int, Outcome]]:
        """The decisions that came to their end, by number."""
        taken, self._outcomes = self._outcomes, []
        return taken

    def take_changed(self) -> list[Key]:
        """The members for whom something else counts now."""
        taken, self._changed = self._changed, []
        return taken

    # The file -----------------------------------------------------------------------------------------------------

    def take_file_batch(self) -> FileBatch | None:
        """What the file is to do next; None for nothing. Only when the last batch is over."""
        assert self._file_batch is None
        keep = tuple(
            Record(self._unstored[key], key, self._record_word(key))
            for key in sorted(self._to_keep)
            if key not in self._clearing
        )
        unmark = self._marked and self._may_unmark and not self._without_slot
        self._may_unmark = False
        batch = FileBatch(keep, dict(self._to_clear), unmark)
        self._to_keep.clear()
        self._to_clear.clear()
        if not (keep or batch.clear or unmark):
            return None
        for key, number in batch.clear.items():
            if key in self._kept and self._kept[key].number <= number:
                self._kept[key].sure = False
        self._file_batch = batch
        self._being_kept = {record.key: record.word for record in keep}
        return batch

    def file_done(self, result: FileResult) -> None:
        """The file's batch is over."""
        assert self._file_batch is not None
        batch, self._file_batch = self._file_batch, None
        self._being_kept = {}
        self._marked = (self._marked and not (batch.unmark and result.cleared)) or bool(result.without_slot)
        for key, number in batch.clear.items():
            kept = self._kept.get(key)
            if result.cleared and kept is not None and kept.number <= number:
                del self._kept[key]
            self._rest(key)
        for record in batch.keep:
            if record.key in result.without_slot:
                self._without_slot.add(record.key)
            else:
                words = frozenset({record.word})
                if not result.kept and record.key in self._kept:
                    words |= self._kept[record.key].words
                self._kept[record.key] = _Kept(record.number, words, result.kept)
                if result.kept:
                    self._has_slot(record.key)
            if result.kept:
                self._settle(record.key, record.number, _Kind.REFUSAL, Outcome.KEPT)
            self._settle(record.key, record.number, _Kind.VOID, Outcome.FAILED)
            if record.key not in self._unstored:  # the store was faster
                self._clear(record.key, record.number)
                self._has_slot(record.key)
        for key, number in batch.clear.items():
            if key in self._clearing and self._clearing[key] <= number:
                if result.cleared:
                    self._apply(key)
                else:
                    self._fail(key, doubtful=True)

    def try_file_again(self) -> None:
        """Have the next batch do all that earlier ones failed to do."""
        self._to_keep.update(key for key in self._unstored if not self._is_kept(key))
        self._may_unmark = True
        for key, kept in self._kept.items():
            if not kept.sure and key not in self._unstored and key not in self._asked:
                self._clear(key, kept.number)

    # The store ----------------------------------------------------------------------------------------------------

    def take_store_batch(self, limit: int) -> tuple[Write, ...]:
        """The rows of the next transaction, the agreements first. Only when the last one is over."""
        assert not self._store_batch
        asked = [write for key, write in self._asked.items() if key not in self._clearing]
        rest = [
            Write(number, key, self.held.get(key)) for key, number in self._unstored.items() if key not in self._asked
        ]
        batch = sorted([*asked, *rest][:limit], key=lambda write: write.key)
        self._store_batch = {write.key: write for write in batch}
        return tuple(batch)

    def store_done(self) -> None:
        """The transaction is committed."""
        batch, self._store_batch = self._store_batch, {}
        for number, key, _ in batch.values():
            if key in self._asked and self._asked[key].number == number:
                self._to_keep.discard(key)
                if self._may_have_record(key):
                    self._clearing[key] = number
                    self._clear(key, number)
                else:
                    self._apply(key)
            elif self._unstored.get(key) == number:
                self._is_stored(key, number)
                self._rest(key)

    def store_failed(self, *, perhaps_done: bool) -> None:
        """The transaction failed.

        Args:
            perhaps_done: It may have been committed nevertheless.
        """
        batch, self._store_batch = self._store_batch, {}
        for number, key, _ in batch.values():
            if key in self._asked and self._asked[key].number == number:
                self._fail(key, doubtful=perhaps_done)
            if self._waiting.get(key, {}).get(number) is _Kind.WITHDRAWAL:
                self._fail_when_kept(key, number)

    # ---------------------------------------------------------------------------------------------------------------

    def _is_latest(self, key: Key, pressed_ms: int | None) -> bool:
        """Whether no later press of the member has arrived; remembers this one."""
        last = self._presses.get(key)
        if pressed_ms is None:
            return True
        if last is not None and pressed_ms < last:
            return False
        self._presses[key] = pressed_ms
        self._presses.move_to_end(key)
        while next(iter(self._presses.values())) < pressed_ms - RACE_MS:
            self._presses.popitem(last=False)
        return True

    def _wait(self, key: Key, kind: _Kind) -> int:
        number = next(self._numbers)
        self._waiting.setdefault(key, {})[number] = kind
        self._waiting_key[number] = key
        return number

    def _settle(self, key: Key, number: int, kind: _Kind, outcome: Outcome) -> None:
        """End the wait for a member's decisions of one kind, up to a number."""
        waiting = self._waiting.get(key, {})
        for each in [each for each, its_kind in waiting.items() if each <= number and its_kind is kind]:
            self._end(key, each)
            self._outcomes.append((each, outcome))

    def _end(self, key: Key, number: int) -> None:
        del self._waiting_key[number]
        del self._waiting[key][number]
        if not self._waiting[key]:
            del self._waiting[key]

    def _hold(self, key: Key, word: Word) -> None:
        if self.held.get(key) == word:
            return
        if word is None:
            del self.held[key]
        else:
            self.held[key] = word
        self._changed.append(key)

    def _withdraw(self, key: Key, word: Word, kind: _Kind) -> int:
        """Have a refusal or a withdrawal count from now on."""
        self._hold(key, word)
        number = self._unstored[key] = self._wait(key, kind)
        if not self._is_kept(key):
            self._to_keep.add(key)
        elif kind is _Kind.REFUSAL:
            self._settle(key, number, kind, Outcome.KEPT)
        return number

    def _supersede(self, key: Key) -> bool:
        """End an agreement that is under way; the caller writes a later decision. False where there is none."""
        asked = self._asked.pop(key, None)
        if asked is None:
            return False
        self._clearing.pop(key, None)
        self._settle(key, asked.number, _Kind.AGREEMENT, Outcome.SUPERSEDED)
        return True

    def _fail(self, key: Key, *, doubtful: bool) -> None:
        """End an agreement that is under way, as it failed.

        Args:
            key: Whose.
            doubtful: The store may have it nevertheless.
        """
        number, _, word = self._asked.pop(key)
        self._clearing.pop(key, None)
        if doubtful and self._doubt(key, word):
            self._fail_when_kept(key, number)
        else:
            self._settle(key, number, _Kind.AGREEMENT, Outcome.FAILED)

    def _fail_when_kept(self, key: Key, number: int) -> None:
        """Say that a decision failed as soon as the file has what counts instead."""
        self._waiting[key][number] = _Kind.VOID
        if self._is_kept(key):
            self._settle(key, number, _Kind.VOID, Outcome.FAILED)

    def _is_doubtful(self, key: Key) -> bool:
        """Whether the store may have an agreement that is under way."""
        return key in self._store_batch or key in self._clearing

    def _doubt(self, key: Key, word: Word) -> bool:
        """The store may have an agreement that does not hold: have it overwritten. False where it holds anyway."""
        if self.held.get(key) == word:
            return False
        self._unstored[key] = next(self._numbers)
        if not self._is_kept(key):
            self._to_keep.add(key)
        return True

    def _apply(self, key: Key) -> None:
        """Have an agreement count that the store has."""
        number, _, word = self._asked.pop(key)
        self._clearing.pop(key, None)
        self._is_stored(key, number)
        self._hold(key, word)
        self._settle(key, number, _Kind.AGREEMENT, Outcome.KEPT)
        for kind in (_Kind.REFUSAL, _Kind.WITHDRAWAL):
            self._settle(key, number, kind, Outcome.SUPERSEDED)
        self._settle(key, number, _Kind.VOID, Outcome.FAILED)

    def _rest(self, key: Key) -> None:
        """End all waits once the store has what counts and the file has no record that says something else."""
        if key in self._unstored or self._is_contradicted(key):
            return
        for number, kind in list(self._waiting.get(key, {}).items()):
            if kind is not _Kind.AGREEMENT:
                self._settle(key, number, kind, Outcome.FAILED if kind is _Kind.VOID else Outcome.KEPT)

    def _is_stored(self, key: Key, number: int) -> None:
        self._unstored.pop(key, None)
        self._to_keep.discard(key)
        self._has_slot(key)
        if self._may_have_record(key):
            self._clear(key, number)

    def _has_slot(self, key: Key) -> None:
        """A member has a slot, or needs none."""
        self._without_slot.discard(key)
        self._may_unmark = True

    def _record_word(self, key: Key) -> bool | None:
        """What the file says of a member: that they refuse, else that no agreement in the store counts."""
        return None if self.held.get(key) is not False else False

    def _is_kept(self, key: Key) -> bool:
        """Whether the file has what counts."""
        kept = self._kept.get(key)
        word = self._record_word(key)
        if kept is None or not kept.sure or kept.words != {word} or self._being_kept.get(key, word) is not word:
            return False
        return key not in self._to_clear or self._to_clear[key] < kept.number

    def _may_have_record(self, key: Key) -> bool:
        return key in self._kept or key in self._being_kept

    def _is_contradicted(self, key: Key) -> bool:
        """Whether the file may have a record that says something else than what counts."""
        word = self.held.get(key)
        kept = self._kept.get(key)
        return (kept is not None and kept.words != {word}) or self._being_kept.get(key, word) is not word

    def _clear(self, key: Key, number: int) -> None:
        self._to_clear[key] = max(number, self._to_clear.get(key, 0))
