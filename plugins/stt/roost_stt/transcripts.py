"""Transcripts that are kept: one record for each transcription, and every final line, on disk before it is posted."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from roost.errors import RoostError
from roost.errortext import is_error
from roost.speech import Transcript
from roost.store import Document, Erased, PluginStore
from roost_stt.exports import Head, StoredLine

_log = logging.getLogger("roost.stt.transcripts")

ID_CHARS = "abcdefghjkmnpqrstuvwxyz23456789"
ID_LENGTH = 6
DAY_S = 86_400.0
SWEEP_S = 3600.0
LIST_LIMIT = 10
PAGE_LINES = 500
"""Read at once of a transcript that is exported or shown."""
AGAIN_S = (0.5, 2.0, 10.0, 60.0)
"""Pauses between the tries to store what the store did not take at once, the last one for ever."""
_HEAD_FIELDS = frozenset(field.name for field in dataclasses.fields(Head))
_LINE_FIELDS = frozenset(field.name for field in dataclasses.fields(StoredLine))


class Keeper:
    """Keeps the lines of one transcription. The record is made with the first line.

    Args:
        book: Where it keeps them.
        head: Of the record.
        made: The record exists: the transcription goes on after a reload.
    """

    def __init__(self, book: TranscriptBook, head: Head, *, made: bool = False) -> None:
        self._book = book
        self.head = head
        self.key = f"{round(head.started_at * 1000):014d}-{head.id}"
        self._made = made
        self._keeping = False
        """Whether a line is being stored."""

    async def keep(self, line: Transcript, name: str, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Store a line; it is on disk when this returns. One caller at a time.

        Nothing is stored where the server keeps no transcripts, or the speakers were told so.

        Args:
            line: What was said.
            name: Of the speaker.
            is_wanted: Asked once the store has answered, or failed: if not, the line is deleted again.

        Raises:
            RoostError: The store failed.
        """
        if not self._book.days_for(self.head):
            return
        self._keeping = True
        try:
            if not self._made:
                await self._book.make(self)
                self._made = True
            await self._book.add(self.key, line, name, is_wanted)
        finally:
            self._keeping = False
            # It may have ended meanwhile. Its end is noted after its last line, or it would pass for an empty one.
            await self._note_end()

    def forget(self, user_id: int) -> None:
        """Leave out that a user began the transcription, from a record that is made later too."""
        if self.head.started_by == user_id:
            self.head = dataclasses.replace(self.head, started_by=0)

    async def close(self) -> None:
        """The transcription has ended; noted later, where the store cannot now."""
        self.head = dataclasses.replace(self.head, ended_at=time.time())
        await self._note_end()

    async def _note_end(self) -> None:
        if self.head.ended_at is not None and self._made and not self._keeping:
            await self._book.end(self.key, self.head.ended_at)


class TranscriptBook:
    """All transcripts of a bot: two collections, ``records`` and ``lines``. A line's key begins with its record's.

    Args:
        store: The plugin's.
        days_of: How long a server keeps transcripts; 0: not at all.
    """

    def __init__(self, store: PluginStore, days_of: Callable[[int], int]) -> None:
        self._store = store
        self._records = store.collection("records")
        self._lines = store.collection("lines")
        self._days_of = days_of
        self._keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
        self._changing = asyncio.Lock()
        """Held from reading a record until it is written anew, and while one is made or deleted."""
        self._withdrawn: dict[str, None] = {}
        """Keys of lines that are to be deleted; each is the last one stored of a record that is open in the store."""
        self._adding: set[tuple[int, asyncio.Event]] = set()
        """Lines on their way into the store: speaker, and an event for the end of it."""
        self._unended: dict[str, float] = {}
        """Records of transcriptions that have ended, and when; the store does not know it yet."""
        self._owes = asyncio.Event()

    def days_for(self, head: Head) -> int:
        """How long a transcript is kept after its end: by the server's setting, but no longer than was told."""
        days = self._days_of(head.guild_id)
        return days if head.kept_days is None else min(days, head.kept_days)

    # Writing ----------------------------------------------------------------------------------------------------

    def begin(self, guild_id: int, voice_channel_id: int, text_channel_id: int, started_by: int) -> Keeper:
        """For a transcription that begins now."""
        name = "".join(secrets.choice(ID_CHARS) for _ in range(ID_LENGTH))
        days = self._days_of(guild_id)
        head = Head(name, guild_id, voice_channel_id, text_channel_id, time.time(), None, started_by, days)
        return self._keeper(head, made=False)

    async def resume(self, key: str) -> Keeper | None:
        """For a transcription that goes on; None when its record is gone, or promises another time of keeping."""
        async with self._changing:
            found = await self._records.document(key)
            known = head_of(found) if found is not None else None
            if known is None or known.kept_days != self._days_of(known.guild_id):
                return None
            keeper = self._keeper(dataclasses.replace(known, ended_at=None), made=True)
            await self._put(key, keeper.head)
        return keeper

    def _keeper(self, head: Head, *, made: bool) -> Keeper:
        keeper = Keeper(self, head, made=made)
        self._keepers.add(keeper)
        return keeper

    async def make(self, keeper: Keeper) -> None:
        """Store a transcription's record."""
        async with self._changing:
            await self._put(keeper.key, keeper.head)

    async def _put(self, record: str, head: Head) -> None:
        await self._records.put(record, dataclasses.asdict(head), guild_id=head.guild_id)

    async def _change(self, record: str, **fields: Any) -> None:
        """Change fields of a record, if there is one."""
        async with self._changing:
            found = await self._records.document(record)
            head = head_of(found) if found is not None else None
            if head is not None:
                await self._put(record, dataclasses.replace(head, **fields))

    async def add(self, record: str, line: Transcript, name: str, is_wanted: Callable[[], bool]) -> None:
        """Store a line; see `Keeper.keep`."""
        stored = StoredLine(
            line.user_id,
            name,
            line.text,
            line.started_at,
            line.ended_at,
            line.language,
            line.confidence,
            [(word.start_s, word.end_s, word.text) for word in line.words],
        )
        key = f"{record}/{round(line.started_at * 1000):014d}-{secrets.token_hex(3)}"
        # Whatever ends the process: what it still has to delete is the last line, which `end_interrupted` asks about.
        await self._erase_withdrawn(record)
        adding = line.user_id, asyncio.Event()
        self._adding.add(adding)
        try:
            await self._lines.put(key, dataclasses.asdict(stored), guild_id=line.guild_id, user_id=line.user_id)
        finally:
            # A store that failed may have it all the same.
            try:
                if not is_wanted():
                    await self._drop(key)
            finally:
                self._adding.remove(adding)
                adding[1].set()

    async def _drop(self, line: str) -> None:
        """Delete a line whose speaker withdrew it; where the store fails, `catch_up_forever` goes on trying."""
        # First of all: this may be cancelled.
        self._withdrawn[line] = None
        self._owes.set()
        try:
            await self._erase(line)
            self._withdrawn.pop(line, None)
        except RoostError as error:
            _log.warning("a withdrawn line is still stored: %s", error)

    async def _erase(self, line: str) -> None:
        async with self._store.erasure.soon():
            await self._lines.delete(line)
        await self._drop_empty(_record_of(line))

    async def _erase_withdrawn(self, record: str) -> None:
        """Delete the withdrawn lines of a record that the store did not let go of at once.

        Raises:
            RoostError: It still does not.
        """
        for line in [each for each in self._withdrawn if _record_of(each) == record]:
            await self._erase(line)
            self._withdrawn.pop(line, None)

    async def _drop_empty(self, record: str) -> None:
        """Delete a transcript that has ended if nobody's words are left in it."""
        async with self._changing:
            found = await self._records.document(record)
            head = head_of(found) if found is not None else None
            if head is not None and head.ended_at is not None and not await self._lines.count(prefix=f"{record}/"):
                await self._records.delete(record)

    async def catch_up_forever(self) -> None:
        """Delete the withdrawn lines, and note the ends, that the store did not take at once, for ever.

        It goes on with what is left if it is cancelled and called again.
        """
        while True:
            while not (self._withdrawn or self._unended):
                self._owes.clear()
                await self._owes.wait()
            for pause_s in itertools.chain(AGAIN_S, itertools.repeat(AGAIN_S[-1])):
                await asyncio.sleep(pause_s)
                try:
                    await self._catch_up()
                    break
                except Exception as error:  # noqa: BLE001  tried again: these words may not stay
                    known = is_error(error, RoostError)
                    lines, ends = len(self._withdrawn), len(self._unended)
                    _log.error(
                        "%d withdrawn lines are still stored, and %d ends are not: %s",
                        lines,
                        ends,
                        error if known else type(error).__name__,
                        exc_info=None if known else error,
                    )

    async def _catch_up(self) -> None:
        """Try each once.

        Raises:
            RoostError: The store failed.
            Exception: One of them failed for another reason; all others were tried.
        """
        failure: Exception | None = None
        for line in list(self._withdrawn):
            try:
                await self._erase_withdrawn(_record_of(line))
            except RoostError:
                raise
            except Exception as error:  # noqa: BLE001  raised below
                failure = error
        for record, at in list(self._unended.items()):
            try:
                await self._note_end(record, at)
                self._unended.pop(record, None)
            except RoostError:
                raise
            except Exception as error:  # noqa: BLE001  raised below
                failure = error
        if failure is not None:
            raise failure

    async def end(self, record: str, at: float) -> None:
        """Note when a transcription ended: until then nothing of it expires. Later, where the store cannot now.

        The record is deleted if nobody's words are left in it.
        """
        # First of all: this may be cancelled.
        self._unended[record] = at
        self._owes.set()
        try:
            await self._note_end(record, at)
            self._unended.pop(record, None)
        except RoostError as error:
            _log.warning("the end of a transcript is not stored yet: %s", error)

    async def _note_end(self, record: str, at: float) -> None:
        await self._erase_withdrawn(record)
        await self._change(record, ended_at=at)
        await self._drop_empty(record)

    async def end_interrupted(self, is_heard: Callable[[int, int], bool] = lambda _guild, _user: True) -> list[Head]:
        """End the records that a crash left open, at their last line; return those that have any.

        Args:
            is_heard: Whether a user in a guild is heard by what they decided. If not, the line of theirs that was
                stored last in a record is deleted: they may have withdrawn it, and the store refused to delete it.
        """
        ended = []
        async for each in self._records.scan():
            head = head_of(each)
            if head is not None and head.ended_at is None:
                await self._drop_last(each.key, head.guild_id, is_heard)
                last = await self._lines.query(prefix=f"{each.key}/", newest_first=True, limit=1)
                line = line_of(last[0]) if last else None
                at = line.ended_at if line is not None else head.started_at
                await self.end(each.key, at)
                if last:
                    ended.append(dataclasses.replace(head, ended_at=at))
        return ended

    async def _drop_last(self, record: str, guild_id: int, is_heard: Callable[[int, int], bool]) -> None:
        """Delete the line that was stored last if its speaker is not heard any more."""
        lines = await self._lines.query(prefix=f"{record}/", newest_first=True, limit=PAGE_LINES)
        last = max(lines, key=lambda each: each.changed_at, default=None)
        if last is not None and last.user_id is not None and not is_heard(guild_id, last.user_id):
            await self._drop(last.key)

    # Reading ----------------------------------------------------------------------------------------------------

    async def newest(
        self, guild_id: int, may_read: Callable[[Head], bool], limit: int = LIST_LIMIT
    ) -> list[tuple[Head, int]]:
        """A server's transcripts that have lines, the newest first, with the numbers of those."""
        found: list[tuple[Head, int]] = []
        after: str | None = None
        while len(found) < limit:
            page = await self._records.query(guild_id=guild_id, newest_first=True, after=after)
            for each in page:
                head = head_of(each)
                if head is None or not may_read(head) or len(found) >= limit:
                    continue
                if count := await self._lines.count(prefix=f"{each.key}/"):
                    found.append((head, count))
            if not page:
                break
            after = page[-1].key
        return found

    async def find(self, guild_id: int, name: str) -> tuple[str, Head] | None:
        """Key and head of a server's transcript, by the id that people see."""
        async for each in self._records.scan(guild_id=guild_id):
            head = head_of(each) if each.key.endswith(f"-{name}") else None
            if head is not None:
                return each.key, head
        return None

    async def pages(self, record: str) -> AsyncIterator[list[StoredLine]]:
        """All lines, by the time they began, some at a time. What is damaged is left out."""
        after: str | None = None
        while True:
            page = await self._lines.query(prefix=f"{record}/", after=after, limit=PAGE_LINES)
            yield await asyncio.to_thread(_lines_of, page)
            if len(page) < PAGE_LINES:
                return
            after = page[-1].key

    # Deleting ---------------------------------------------------------------------------------------------------

    async def erase(self, record: str) -> tuple[int, Erased]:
        """Delete a transcript from every file; gives how many lines it had, and what became of their traces."""
        async with self._store.erasure.everywhere() as erased:
            lines = await self._delete(record)
        return lines, erased

    async def _delete(self, record: str) -> int:
        lines = await self._lines.delete_where(prefix=f"{record}/")
        async with self._changing:
            await self._records.delete(record)
        return lines

    async def sweep(self, now: float) -> int:
        """Delete what servers keep no longer; gives how many transcripts that were."""
        old = [each.key async for each in self._records.scan() if self._is_old(each, now)]
        if old:
            async with self._store.erasure.soon():
                for record in old:
                    await self._delete(record)
        return len(old)

    def _is_old(self, record: Document, now: float) -> bool:
        head = head_of(record)
        # One that nobody can read is kept for as long as if it had ended when it was written.
        ended_at = head.ended_at if head is not None else record.changed_at
        days = self.days_for(head) if head is not None else self._days_of(record.guild_id or 0)
        return ended_at is not None and ended_at < now - days * DAY_S

    async def sweep_forever(self, sweep_more: Callable[[], Awaitable[None]]) -> None:
        """`sweep` once an hour, whatever happens: what people said must not stay for longer.

        Args:
            sweep_more: Called after it, whether or not it worked.
        """
        while True:
            for what, sweep in (("transcripts", self._sweep_now), ("places of captions", sweep_more)):
                try:
                    await sweep()
                except Exception as error:  # noqa: BLE001  tried again in an hour
                    _log.error("%s could not be swept: %s", what, type(error).__name__, exc_info=error)
            await asyncio.sleep(SWEEP_S)

    async def _sweep_now(self) -> None:
        gone = await self.sweep(time.time())
        if gone:
            _log.info("%d transcripts were older than their servers keep them, and are deleted", gone)

    async def about(self, user_id: int) -> dict[str, Any]:
        """Everything stored about a person; under ``begun`` the heads of the transcripts that they began."""
        found = await self._store.about_user(user_id)
        begun = {each.key: each.value async for each in self._records.scan() if _is_begun_by(each, user_id)}
        return found | ({"begun": begun} if begun else {})

    async def forget(self, user_id: int) -> None:
        """Delete a person's lines, transcripts in which nobody else said anything, and that they began others."""
        # First of all: what is written from now on is without them.
        for keeper in list(self._keepers):
            keeper.forget(user_id)
        # A line on its way would come after the deletion.
        for speaker, added in list(self._adding):
            if speaker == user_id:
                await added.wait()
        spoken_in = {_record_of(each.key) async for each in self._lines.scan(user_id=user_id)}
        await self._store.forget_user(user_id)
        for record in spoken_in:
            await self._drop_empty(record)
        async with self._changing:
            begun = [each.key async for each in self._records.scan() if _is_begun_by(each, user_id)]
        for record in begun:
            await self._change(record, started_by=0)


def _record_of(line: str) -> str:
    """The key of the record that a line with this key belongs to."""
    return line.rpartition("/")[0]


def _is_begun_by(record: Document, user_id: int) -> bool:
    head = head_of(record)
    return head is not None and head.started_by == user_id


def head_of(document: Document) -> Head | None:
    """A stored record; None for one that is damaged. Fields of a later version are left out."""
    fields = _fields_of(document, _HEAD_FIELDS)
    try:
        head = Head(**fields)
        ended_at = None if head.ended_at is None else float(head.ended_at)
        kept_days = None if head.kept_days is None else int(head.kept_days)
        return dataclasses.replace(
            head,
            id=str(head.id),
            started_at=float(head.started_at),
            ended_at=ended_at,
            kept_days=kept_days,
        )
    except (TypeError, ValueError) as error:
        _log.error("the record of transcript %s is damaged: %s", document.key, type(error).__name__)
        return None


def line_of(document: Document) -> StoredLine | None:
    """A stored line; None for one that is damaged."""
    fields = _fields_of(document, _LINE_FIELDS)
    try:
        fields["started_at"], fields["ended_at"] = float(fields["started_at"]), float(fields["ended_at"])
        fields["name"], fields["text"] = str(fields["name"]), str(fields["text"])
        return StoredLine(**fields)
    except (KeyError, TypeError, ValueError) as error:
        _log.error("a line of a transcript is damaged: %s: %s", document.key, type(error).__name__)
        return None


def _fields_of(document: Document, known: frozenset[str]) -> dict[str, Any]:
    value = document.value if isinstance(document.value, dict) else {}
    return {key: field for key, field in value.items() if key in known}


def _lines_of(page: Sequence[Document]) -> list[StoredLine]:
    return [line for line in map(line_of, page) if line is not None]
