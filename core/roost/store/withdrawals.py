"""The local file of refusals and withdrawals that the store does not have yet.

It is made once, with all its room, and never grows, so that a full disk does not stop a refusal. It holds slots of 64
bytes: a record with a checksum, or zeros. The first slot is the mark: anything but zeros in it says that there were
more refusals than slots, or that a part of the file was lost. A record is never written over another one that counts;
it takes a free slot, and of two records about one member the higher number counts. A slot of which only the beginning
or only the end is there was being written or cleared when the machine stopped, and nobody was told that it is kept;
anything else without a right checksum is damage, which may have been a refusal, and counts as the mark.

The second and third slot hold the folder's stamp (`roost.store.decisions.Stamp`). They are written in turns, and the
higher number counts, so that one of them is always whole. A file in which neither is, such as one full of zeros, is
damaged.

All methods block; one thread at a time.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import os
import secrets
import stat
import struct
from pathlib import Path
from typing import Protocol

from roost.file_errors import explain
from roost.holder import cannot_use
from roost.store.decisions import FileBatch, FileResult, Key, Record, Stamp

_log = logging.getLogger("roost.consent")

NAME = "withdrawals.bin"
SLOT_BYTES = 64
SLOTS = 4095
"""As many members may refuse while the store is away."""
STAMPS = (1, 2)
"""The slots of the stamp."""
FIRST = 3
"""The first slot of a record."""
FORMER_BYTES = 4096 * SLOT_BYTES
"""Size of the file of earlier versions, which had no stamp."""
LARGEST_BYTES = 16 << 20
"""Of a file that is read: a later version may have made it larger."""
MARK = b"more refusals than slots".ljust(SLOT_BYTES, b".")
FREE = bytes(SLOT_BYTES)
ABSENT = bytes(8)
"""What is left of the room of a slot, at one of its ends, where the machine stopped while it was written or cleared."""
_FIELDS = struct.Struct(">8sQQQB")
_MAGIC = b"roostwd1"
_WORDS: dict[int, bool | None] = {1: False, 2: None}
_CODES = {word: code for code, word in _WORDS.items()}
_STAMP = struct.Struct(">8s16sQ")
_STAMP_MAGIC = b"roostfol"


def encode(record: Record) -> bytes:
    """The slot of a record."""
    guild_id, user_id = record.key
    return _sealed(_FIELDS.pack(_MAGIC, record.number, guild_id, user_id, _CODES[record.word]))


def decode(slot: bytes) -> Record | None:
    """The record in a slot; None where there is none, or only a part of one."""
    if not _is_whole(slot):
        return None
    magic, number, guild_id, user_id, code = _FIELDS.unpack_from(slot)
    if magic != _MAGIC or code not in _WORDS:
        return None
    return Record(number, (guild_id, user_id), _WORDS[code])


def encode_stamp(stamp: Stamp) -> bytes:
    """The slot of a stamp."""
    return _sealed(_STAMP.pack(_STAMP_MAGIC, bytes.fromhex(stamp.folder), stamp.number))


def decode_stamp(slot: bytes) -> Stamp | None:
    """The stamp in a slot; None where there is none, or only a part of one."""
    if not _is_whole(slot):
        return None
    magic, folder, number = _STAMP.unpack_from(slot)
    return Stamp(folder.hex(), number) if magic == _STAMP_MAGIC else None


def new_content(slots: int, stamp: Stamp) -> bytes:
    """A file without records, with room for so many."""
    return FREE + encode_stamp(stamp) * len(STAMPS) + FREE * slots


def _sealed(fields: bytes) -> bytes:
    body = fields.ljust(SLOT_BYTES - 16, b"\0")
    return body + hashlib.blake2b(body, digest_size=16).digest()


def _is_whole(slot: bytes) -> bool:
    return len(slot) == SLOT_BYTES and hashlib.blake2b(slot[:-16], digest_size=16).digest() == slot[-16:]


def _new_stamp() -> Stamp:
    return Stamp(secrets.token_hex(16), 0)


class Disk(Protocol):
    """What the file is written to."""

    def write(self, offset: int, content: bytes) -> None:
        """Raises OSError when not all of it was written."""

    def sync(self) -> None:
        """Return when everything that was written survives the machine; raises OSError."""

    def trouble(self) -> str:
        """How the file was lost, as a sentence; empty while it is the file that was opened."""
        ...

    def close(self) -> None: ...


class OpenFile:
    """A `Disk`: the open file.

    Args:
        path: Of the file.
        descriptor: Open for reading and writing; closed by `close`.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def write(self, offset: int, content: bytes) -> None:
        written = os.pwrite(self._descriptor, content, offset)
        if written != len(content):
            raise OSError(f"only {written} of {len(content)} bytes were written")

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def trouble(self) -> str:
        try:
            if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                return ""
        except FileNotFoundError:
            pass
        except OSError:
            return ""  # the next write fails with the reason
        return f"{self._path} was removed or replaced while the bot ran; leave the data folder alone"

    def close(self) -> None:
        os.close(self._descriptor)


class WithdrawalFile:
    """The file of this process. Made by `open_withdrawals`.

    Attributes:
        path: Where it is.
        marked: Whether the mark was found: an earlier process had more refusals than slots, or a part of the file was
            missing or damaged, so that some of them may be lost. The mark then stays until `mend`.
        stamp: The last one that the file has; a new one where it has none.
    """

    def __init__(self, path: Path, disk: Disk, content: bytes) -> None:
        self.path = path
        self._disk = disk
        slots = [content[start : start + SLOT_BYTES] for start in range(0, len(content), SLOT_BYTES)]
        self.marked = slots[0] != FREE
        stamps = {slot: stamp for slot in STAMPS if (stamp := decode_stamp(slots[slot])) is not None}
        self._stamp_slot = max(stamps, key=lambda slot: stamps[slot].number, default=STAMPS[0])
        self.stamp = stamps.get(self._stamp_slot) or _new_stamp()
        self._damaged: list[int] = []
        self._slots: dict[Key, dict[int, int]] = {}
        """Slot and number of every record of a member."""
        self._doubtful: set[int] = set()
        """Slots whose last write failed."""
        self._free: list[int] = []
        self._found: dict[Key, Record] = {}
        if not stamps:
            _log.warning("%s: its beginning is damaged", self.path)
            self.marked = True
        for slot in range(FIRST, len(slots)):
            self._read(slot, slots[slot])

    def _read(self, slot: int, content: bytes) -> None:
        record = decode(content)
        if record is None:
            if not content.startswith(ABSENT) and not content.endswith(ABSENT):
                _log.warning("%s: slot %d is damaged", self.path, slot)
                self._damaged.append(slot)
                self.marked = True
                return
            if content != FREE:
                _log.warning("%s: slot %d holds a part of a record, which is ignored", self.path, slot)
            heapq.heappush(self._free, slot)
            return
        self._slots.setdefault(record.key, {})[slot] = record.number
        if record.key not in self._found or self._found[record.key].number < record.number:
            self._found[record.key] = record

    def records(self) -> list[Record]:
        """What counted when the file was opened."""
        return list(self._found.values())

    def trouble(self) -> str:
        """How the file was lost, as a sentence; empty while it is the file that was opened."""
        return self._disk.trouble()

    def close(self) -> None:
        self._disk.close()

    def remember(self, stamp: Stamp) -> None:
        """Keep a later stamp of this folder in the place of the last one.

        Raises:
            OSError: It could not be written.
        """
        if trouble := self.trouble():
            raise OSError(trouble)
        slot = next(each for each in STAMPS if each != self._stamp_slot)
        self._write(slot, encode_stamp(stamp))
        self._disk.sync()
        self._stamp_slot, self.stamp = slot, stamp

    def mend(self, stamp: Stamp) -> None:
        """Remove the mark and what is damaged, once the store knows that refusals were lost.

        Args:
            stamp: The one that the store has.

        Raises:
            OSError: It could not be written; the mark stays.
        """
        for slot in STAMPS:
            self._write(slot, encode_stamp(stamp))
        self._disk.sync()  # first: without the mark the stamp alone tells an older database
        for slot in (0, *self._damaged):
            self._write(slot, FREE)
        self._disk.sync()
        self.stamp, self.marked = stamp, False
        for slot in self._damaged:
            heapq.heappush(self._free, slot)
        self._damaged.clear()

    def apply(self, batch: FileBatch) -> FileResult:
        """Carry out a batch; what fails is logged and said in the result."""
        without_slot: set[Key] = set()
        try:
            if trouble := self.trouble():
                raise OSError(trouble)
            self._keep(batch, without_slot)
        except OSError as error:
            _log.error("a refusal cannot be kept in %s: %s", self.path, explain(error, self.path))
            return FileResult(kept=not batch.keep, cleared=False, without_slot=frozenset(without_slot))
        try:
            self._clear(batch, without_slot)
        except OSError as error:
            _log.error("a record cannot be cleared in %s: %s", self.path, explain(error, self.path))
            return FileResult(cleared=False, without_slot=frozenset(without_slot))
        return FileResult(without_slot=frozenset(without_slot))

    def _keep(self, batch: FileBatch, without_slot: set[Key]) -> None:
        written: set[int] = set()
        for record in batch.keep:
            slot = next((each for each in self._slots.get(record.key, ()) if each in self._doubtful), None)
            if slot is None:
                if not self._free:
                    without_slot.add(record.key)
                    continue
                slot = heapq.heappop(self._free)
            self._slots.setdefault(record.key, {})[slot] = record.number
            self._doubtful.add(slot)
            written.add(slot)
            self._write(slot, encode(record))
        if without_slot:
            self._write(0, MARK)
        if written or without_slot:
            self._disk.sync()
        self._doubtful -= written

    def _clear(self, batch: FileBatch, without_slot: set[Key]) -> None:
        """Only after the new records are on disk."""
        bounds = dict(batch.clear)
        for record in (each for each in batch.keep if each.key not in without_slot):
            bounds[record.key] = max(bounds.get(record.key, 0), record.number - 1)
        older: list[tuple[Key, int]] = []
        newest: list[tuple[Key, int]] = []
        for key, bound in bounds.items():
            slots = self._slots.get(key, {})
            for slot in [each for each, number in slots.items() if number <= bound]:
                (newest if slots[slot] == max(slots.values()) else older).append((key, slot))
        self._free_slots(older)  # first, or an older record could count again
        if batch.unmark and not self.marked:
            self._write(0, FREE)
            self._disk.sync()
        self._free_slots(newest)

    def _free_slots(self, slots: list[tuple[Key, int]]) -> None:
        if not slots:
            return
        for _, slot in slots:
            self._write(slot, FREE)
        self._disk.sync()
        for key, slot in slots:
            del self._slots[key][slot]
            self._doubtful.discard(slot)
            heapq.heappush(self._free, slot)
            if not self._slots[key]:
                del self._slots[key]

    def _write(self, slot: int, content: bytes) -> None:
        self._disk.write(slot * SLOT_BYTES, content)


def open_withdrawals(folder: Path) -> WithdrawalFile:
    """Open the file in a data folder, which the caller closes; make it where it is missing.

    Raises:
        ConfigError: It cannot be made, read or written.
    """
    path = folder / NAME
    try:
        descriptor, content = _open(path)
        return WithdrawalFile(path, OpenFile(path, descriptor), content)
    except OSError as error:
        raise cannot_use(path, error, f"the data folder {folder}") from None


def _open(path: Path) -> tuple[int, bytes]:
    """The descriptor and the content of the file, which has all its room."""
    new = new_content(SLOTS, _new_stamp())
    try:
        content = _content(path)
    except FileNotFoundError:
        _make(path, new)
    else:
        if len(content) == FORMER_BYTES != len(new):
            _make(path, content[:SLOT_BYTES] + new[SLOT_BYTES : FIRST * SLOT_BYTES] + content[SLOT_BYTES:])
        elif len(content) < len(new):
            _make(path, _rest_of(content, new))
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
            os.fchmod(descriptor, 0o600)
        return descriptor, _content(path)
    except BaseException:
        os.close(descriptor)
        raise


def _rest_of(content: bytes, new: bytes) -> bytes:
    """A marked file with what is left in a part of one, of any version: what is missing may have held refusals.

    Args:
        content: The part.
        new: A new file.
    """
    slots = [content[start : start + SLOT_BYTES] for start in range(0, len(content), SLOT_BYTES)]
    stamps = [slot for slot in slots if decode_stamp(slot) is not None] or [new[SLOT_BYTES : 2 * SLOT_BYTES]]
    records = [slot for slot in slots if decode(slot) is not None]
    return (MARK + b"".join([stamps[0], stamps[-1], *records])).ljust(len(new), b"\0")


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(LARGEST_BYTES)


def _make(path: Path, content: bytes) -> None:
    """Put a whole file in place, so that no stop of the machine leaves a part of one."""
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
