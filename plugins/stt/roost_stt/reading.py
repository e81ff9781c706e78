"""Limits on reading transcripts, and the files and pages that are made of them.

A transcript can have tens of thousands of lines. They are read page by page and rendered in a thread into a temporary
file, so they are never all in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from typing import IO

from roost.errors import ResourceError
from roost_stt.captions import Line, Message, pack, text_of, units_of
from roost_stt.exports import FORMATS, Head, StoredLine

AT_ONCE = 2
"""In the whole bot; of these, one in each server."""
WAITING = 32
"""In the whole bot."""
WAITING_OF_GUILD = 10
TURN_S = 300.0
"""The longest wait for a turn: Discord takes answers to a command for 15 minutes, and reading takes some of them."""
MAX_PARTS = 10
_COPIED_BYTES = 1 << 18
BUSY = "Many members are reading transcripts just now. Try again in a minute."
WITHDRAWN = (
    "Somebody whose words are in this transcript has withdrawn them meanwhile, so I send nothing. "
    "Use the command again."
)
DELETED = "This transcript has been deleted meanwhile, so I send nothing."
ONE_AT_A_TIME = "I am still at your last request for a transcript. Wait until it is answered."


class AbandonedError(ResourceError):
    """What was being read holds words that have been withdrawn, or is deleted."""


class Reading:
    """One request for a transcript, from its beginning until all of the answer is at Discord.

    Args:
        guild_id: Where.
        going: Keys of the transcripts that are being deleted.
    """

    def __init__(self, guild_id: int, going: Set[str] = frozenset()) -> None:
        self.guild_id = guild_id
        self._going = going
        self._key = ""
        self._is_deleted = False
        self._shown: set[int] = set()
        self._withdrawn: set[int] = set()
        self._upload: asyncio.Timeout | None = None

    def reads(self, key: str) -> None:
        """Note which transcript it is, by its key.

        Raises:
            AbandonedError: It is being deleted.
        """
        self._key = key
        if key in self._going:
            self.delete(key)
        self.check()

    def delete(self, key: str) -> None:
        """A transcript is being deleted; if it is this one, abandon the answer."""
        if key == self._key:
            self._is_deleted = True
            self._end_upload()

    def shows(self, user_id: int) -> None:
        """Note that a member is named in the answer."""
        self._shown.add(user_id)

    def lines(self, lines: Sequence[StoredLine]) -> list[StoredLine]:
        """Those of lines just read that may be in the answer."""
        left = [line for line in lines if line.user_id not in self._withdrawn]
        self._shown.update(line.user_id for line in left)
        return left

    def withdraw(self, user_id: int) -> None:
        """Leave out a member's lines; where some are in the answer already, abandon it."""
        self._withdrawn.add(user_id)
        if self.is_abandoned:
            self._end_upload()

    def _end_upload(self) -> None:
        # A timeout that has expired may not be moved again.
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.reschedule(asyncio.get_running_loop().time())

    @property
    def why(self) -> str:
        """Why it is abandoned, for the member who asked."""
        return DELETED if self._is_deleted else WITHDRAWN

    def check(self) -> None:
        """Raises AbandonedError."""
        if self.is_abandoned:
            raise AbandonedError(self.why)

    @contextlib.asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """Around a request with the answer, or a part of it; ended when the answer is abandoned.

        Raises:
            AbandonedError: It is. Discord may have the request all the same.
        """
        self.check()
        try:
            async with asyncio.timeout(None) as self._upload:
                yield
        except TimeoutError:
            self.check()
            raise
        finally:
            self._upload = None
        self.check()

    @property
    def is_abandoned(self) -> bool:
        """The answer holds words that have been withdrawn, or the transcript is deleted."""
        return self._is_deleted or not self._shown.isdisjoint(self._withdrawn)


class ReadingRoom:
    """Lets a few read at a time: one request of a member, one of a server, `AT_ONCE` of the bot."""

    def __init__(self) -> None:
        self._members: set[int] = set()
        self._of_guild: Counter[int] = Counter()
        self._guilds: dict[int, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._readings: set[Reading] = set()
        self._going: set[str] = set()
        """Keys of the transcripts that are being deleted."""

    @contextlib.asynccontextmanager
    async def turn(self, guild_id: int, user_id: int) -> AsyncIterator[Reading]:
        """Wait for the member's turn, and hold it until the block ends.

        Raises:
            ResourceError: The member has a request already, too many wait, or the turn did not come in `TURN_S`.
        """
        if user_id in self._members:
            raise ResourceError(ONE_AT_A_TIME)
        if len(self._members) >= WAITING or self._of_guild[guild_id] >= WAITING_OF_GUILD:
            raise ResourceError(BUSY)
        self._members.add(user_id)
        self._of_guild[guild_id] += 1
        lock = self._guilds.setdefault(guild_id, asyncio.Lock())
        reading = Reading(guild_id, self._going)
        self._readings.add(reading)
        try:
            async with contextlib.AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(TURN_S):
                        await held.enter_async_context(lock)
                        await held.enter_async_context(self._slots)
                except TimeoutError:
                    raise ResourceError(BUSY) from None
                yield reading
        finally:
            self._readings.discard(reading)
            self._members.discard(user_id)
            self._of_guild[guild_id] -= 1
            if not self._of_guild[guild_id]:
                del self._of_guild[guild_id], self._guilds[guild_id]

    @contextlib.contextmanager
    def deleting(self, key: str) -> Iterator[None]:
        """Delete a transcript in this block: no answer under way, or begun meanwhile, may hold it."""
        self._going.add(key)
        for reading in self._readings:
            reading.delete(key)
        try:
            yield
        finally:
            self._going.discard(key)

    def withdraw(self, user_id: int, guild_id: int | None = None) -> None:
        """A member has withdrawn their words, in one server or in all: no answer under way may hold them."""
        for reading in self._readings:
            if guild_id in (None, reading.guild_id):
                reading.withdraw(user_id)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One file as it is sent."""

    name: str
    start: int
    length: int


class ExportFile:
    """An export on its way: lines in, files out that are small enough. Every method blocks; one thread at a time.

    Args:
        head: Of the transcript.
        kind: A key of `roost_stt.exports.FORMATS`.

    Raises:
        OSError: From every method: the disk is full.
    """

    def __init__(self, head: Head, kind: str) -> None:
        self.name = f"transcript-{head.id}.{kind}"
        self.lines = 0
        self._writer = FORMATS[kind](head)
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="roost-")  # noqa: SIM115  `close` closes it
        self._file.write(self._writer.begin().encode())

    def add(self, lines: Sequence[StoredLine]) -> None:
        """Some lines more, in their order."""
        self._file.write("".join([self._writer.line(line) for line in lines]).encode())
        self.lines += len(lines)

    def finish(self, limit_bytes: int) -> list[Part]:
        """No more lines come; returns the files: as it is if it is small enough, else compressed, else that in parts.

        Raises:
            ResourceError: It is too large even so.
        """
        self._file.write(self._writer.end().encode())
        size = self._file.tell()
        if size <= limit_bytes:
            return [Part(self.name, 0, size)]
        self._compress()
        size = self._file.tell()
        if size <= limit_bytes:
            return [Part(f"{self.name}.zip", 0, size)]
        count = -(-size // limit_bytes)
        if count > MAX_PARTS:
            raise ResourceError(f"This transcript is too large for files here: {size >> 20} MiB, compressed.")
        starts = range(0, size, limit_bytes)
        return [
            Part(f"{self.name}.zip.{number:03}", start, min(limit_bytes, size - start))
            for number, start in enumerate(starts, 1)
        ]

    def read(self, part: Part) -> bytes:
        """The bytes of one file."""
        self._file.seek(part.start)
        return self._file.read(part.length)

    def close(self) -> None:
        """Forget everything. Idempotent."""
        self._file.close()

    def _compress(self) -> None:
        packed: IO[bytes] = tempfile.TemporaryFile(prefix="roost-")  # noqa: SIM115  it takes the other's place
        try:
            self._file.seek(0)
            with (
                zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
                archive.open(self.name, "w", force_zip64=True) as entry,
            ):
                shutil.copyfileobj(self._file, entry, _COPIED_BYTES)
            packed.seek(0, 2)
        except BaseException:
            packed.close()
            raise
        self._file.close()
        self._file = packed


class Pager:
    """Lines in, one page of them out.

    Args:
        wanted: Which; 0 or one that there is not: the last.
        limit: Of a page, in UTF-16 units.
    """

    def __init__(self, wanted: int, limit: int) -> None:
        self._wanted = wanted
        self._limit = limit
        self._page: Message = []
        self._units = 0
        self._found = ""
        self._last = ""
        self.count = 0
        """Of the pages that are full."""

    def add(self, lines: Sequence[StoredLine]) -> None:
        """Some lines more, in their order; blocks."""
        for line in lines:
            for message in pack([Line(line.name, line.text, line.user_id)], self._limit):
                for piece in message:
                    units = units_of(piece[1])
                    if self._page and self._units + 1 + units > self._limit:
                        self._close()
                    self._units += units + bool(self._page)
                    self._page.append(piece)

    def finish(self) -> tuple[str, int]:
        """The page and its number; an empty text when there are no lines."""
        if self._page:
            self._close()
        return (self._found, self._wanted) if self._found else (self._last, self.count)

    def _close(self) -> None:
        self.count += 1
        self._last = text_of(self._page)
        if self.count == self._wanted:
            self._found = self._last
        self._page, self._units = [], 0
