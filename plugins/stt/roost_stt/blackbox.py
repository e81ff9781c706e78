"""What a worker's audio thread is at, in a page of memory that outlives the process: the bot reads it after a death."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

SIZE = mmap.PAGESIZE
_ENTRY = struct.Struct("<BQQQ")

Key = tuple[int, int]
"""(guild id, user id)."""


class BlackBox:
    """One entry: a speaker and the index of the audio that is being worked on.

    Args:
        fd: Of a file of `SIZE` bytes, which this object closes; None for a page that nobody else sees.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = fd
        self._page = mmap.mmap(-1 if fd is None else fd, SIZE)

    @classmethod
    def create(cls) -> BlackBox:
        """A new one, on a file without a name: in memory where the system has such files, as Linux does.

        On a full disk the write of the page itself would end a worker, and no captions would come any more.

        Raises:
            OSError: There is no room for it.
        """
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("roost-blackbox")
            os.ftruncate(fd, SIZE)
            return cls(fd)
        with tempfile.TemporaryFile(prefix="roost-") as file:
            file.truncate(SIZE)
            return cls(os.dup(file.fileno()))

    def begin(self, key: Key, index: int) -> None:
        """Say what is worked on from now on."""
        _ENTRY.pack_into(self._page, 0, 1, key[0], key[1], index)

    def end(self) -> None:
        """Nothing is worked on."""
        self._page[0] = 0

    def read(self) -> tuple[Key, int] | None:
        """What was worked on last, unless that has ended."""
        at_work, guild_id, user_id, index = _ENTRY.unpack_from(self._page, 0)
        return ((guild_id, user_id), index) if at_work else None

    def close(self) -> None:
        """Release the page and the file. Idempotent."""
        self._page.close()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
