"""Transcripts that are kept: one record for each transcription, and every final line, on disk before it is posted."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from roost.speech import Transcript
from roost.store import PluginStore
from roost_stt.exports import Head, StoredLine

_log = logging.getLogger("roost.stt.transcripts")

ID_CHARS = "abcdefghjkmnpqrstuvwxyz23456789"
ID_LENGTH = 6
DAY_S = 86_400.0
SWEEP_S = 3600.0
LIST_LIMIT = 10


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

    async def keep(self, line: Transcript, name: str) -> str | None:
        """Store a line; it is on disk when this returns. One caller at a time.

        Returns:
            For `drop`; None where the server keeps no transcripts.

        Raises:
            RoostError: The store refused it.
        """
        if not self._book.keeps(self.head.guild_id):
            return None
        if not self._made:
            await self._book.put(self.key, self.head)
            self._made = True
        return await self._book.add(self.key, line, name)

    async def drop(self, kept: str) -> None:
        """Take a line back."""
        await self._book.drop(kept)

    async def close(self) -> None:
        """The transcription has ended."""
        if self._made:
            await self._book.end(self.key, time.time())


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

    def keeps(self, guild_id: int) -> bool:
        return self._days_of(guild_id) > 0

    # Writing ----------------------------------------------------------------------------------------------------

    def begin(self, guild_id: int, voice_channel_id: int, text_channel_id: int, started_by: int) -> Keeper:
        """For a transcription that begins now."""
        name = "".join(secrets.choice(ID_CHARS) for _ in range(ID_LENGTH))
        return Keeper(self, Head(name, guild_id, voice_channel_id, text_channel_id, time.time(), None, started_by))

    async def resume(self, key: str) -> Keeper | None:
        """For a transcription that goes on; None when its record is gone."""
        found = await self._records.document(key)
        if found is None:
            return None
        head = dataclasses.replace(_head(found.value), ended_at=None)
        await self.put(key, head)
        return Keeper(self, head, made=True)

    async def put(self, record: str, head: Head) -> None:
        await self._records.put(record, dataclasses.asdict(head), guild_id=head.guild_id)

    async def add(self, record: str, line: Transcript, name: str) -> str:
        """Store a line; gives its key."""
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
        await self._lines.put(key, dataclasses.asdict(stored), guild_id=line.guild_id, user_id=line.user_id)
        return key

    async def drop(self, line: str) -> None:
        await self._lines.delete(line)

    async def end(self, record: str, at: float) -> None:
        found = await self._records.document(record)
        if found is not None:
            await self.put(record, dataclasses.replace(_head(found.value), ended_at=at))

    async def end_interrupted(self) -> list[Head]:
        """End the records that a crash left open, at their last line; gives them."""
        ended = []
        async for each in self._records.scan():
            head = _head(each.value)
            if head.ended_at is None:
                last = await self._lines.query(prefix=f"{each.key}/", newest_first=True, limit=1)
                at = float(last[0].value["ended_at"]) if last else head.started_at
                await self.end(each.key, at)
                ended.append(dataclasses.replace(head, ended_at=at))
        return ended

    # Reading ----------------------------------------------------------------------------------------------------

    async def newest(
        self, guild_id: int, may_read: Callable[[Head], bool], limit: int = LIST_LIMIT
    ) -> list[tuple[Head, int]]:
        """A server's transcripts, the newest first, with their numbers of lines."""
        found: list[tuple[Head, int]] = []
        after: str | None = None
        while len(found) < limit:
            page = await self._records.query(guild_id=guild_id, newest_first=True, after=after)
            for each in page:
                head = _head(each.value)
                if may_read(head) and len(found) < limit:
                    found.append((head, await self._lines.count(prefix=f"{each.key}/")))
            if not page:
                break
            after = page[-1].key
        return found

    async def find(self, guild_id: int, name: str) -> tuple[str, Head] | None:
        """Key and head of a server's transcript, by the id that people see."""
        async for each in self._records.scan(guild_id=guild_id):
            if each.key.endswith(f"-{name}"):
                return each.key, _head(each.value)
        return None

    async def lines(self, record: str) -> list[StoredLine]:
        """All lines, by the time they began."""
        return [StoredLine(**each.value) async for each in self._lines.scan(prefix=f"{record}/")]

    # Deleting ---------------------------------------------------------------------------------------------------

    async def delete(self, record: str) -> int:
        """Delete a transcript; gives how many lines it had."""
        lines = await self._lines.delete_where(prefix=f"{record}/")
        await self._records.delete(record)
        return lines

    async def sweep(self, now: float) -> int:
        """Delete what servers keep no longer; gives how many transcripts that were."""
        gone = 0
        async for each in self._records.scan():
            head = _head(each.value)
            if head.ended_at is not None and head.ended_at < now - self._days_of(head.guild_id) * DAY_S:
                await self.delete(each.key)
                gone += 1
        return gone

    async def sweep_forever(self) -> None:
        """`sweep` once an hour."""
        while True:
            gone = await self.sweep(time.time())
            if gone:
                _log.info("%d transcripts were older than their servers keep them, and are deleted", gone)
            await asyncio.sleep(SWEEP_S)

    async def about(self, user_id: int) -> dict[str, Any]:
        """Everything stored about a person."""
        return await self._store.about_user(user_id)

    async def forget(self, user_id: int) -> None:
        """Delete a person's lines, and that they began a transcript."""
        await self._store.forget_user(user_id)
        async for each in self._records.scan():
            head = _head(each.value)
            if head.started_by == user_id:
                await self.put(each.key, dataclasses.replace(head, started_by=0))


def _head(value: dict[str, Any]) -> Head:
    return Head(**value)
