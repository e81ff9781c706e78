"""The local file of refusals: at every point at which the machine may stop, and on a disk that is full."""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from withdrawal_disk import DiskFullError, LossyDisk, stopping_after

from roost.errors import ConfigError
from roost.store.decisions import FileBatch, FileResult, Key, Record, Stamp, Word
from roost.store.withdrawals import FIRST, FORMER_BYTES, MARK, NAME, SLOT_BYTES, SLOTS, decode, encode, open_withdrawals

pytestmark = pytest.mark.unit

ADA, BEN, CLEO = (1, 10), (1, 11), (2, 10)
LARGEST = (2**64 - 1, 2**64 - 1)
SCRIPT = [
    FileBatch((Record(1, ADA, False), Record(2, BEN, False)), {}, unmark=False),
    FileBatch((Record(3, ADA, None),), {BEN: 2}, unmark=False),
    FileBatch((Record(4, CLEO, False), Record(5, BEN, False)), {ADA: 3}, unmark=False),
    FileBatch((), {CLEO: 4, BEN: 5}, unmark=False),
]
"""Refusals and withdrawals of three members, in a file of four slots."""


def records(disk: LossyDisk) -> dict[Key, Word]:
    return {record.key: record.word for record in disk.opened().records()}


def after(steps: int) -> dict[Key, Word]:
    """What the file must have after so many batches."""
    disk = LossyDisk(4)
    file = disk.opened()
    for batch in SCRIPT[:steps]:
        assert file.apply(batch) == FileResult()
    return records(disk)


def stops() -> Iterator[tuple[int, int]]:
    """Every batch, and every operation on the disk at which the machine may stop in it."""
    for step in range(len(SCRIPT)):
        operations: list[str] = []
        disk = LossyDisk(4)
        file = disk.opened()
        for batch in SCRIPT[:step]:
            file.apply(batch)
        disk.before = operations.append
        file.apply(SCRIPT[step])
        yield from ((step, number) for number in range(len(operations)))


@pytest.mark.parametrize(("step", "operation"), list(stops()))
def test_machine_that_stops_at_any_byte_loses_nothing_that_was_kept(step: int, operation: int) -> None:
    before, wanted = after(step), after(step + 1)
    for arrived in range(SLOT_BYTES + 1):
        for last_only in (False, True):
            disk = LossyDisk(4)
            file = disk.opened()
            for batch in SCRIPT[:step]:
                file.apply(batch)
            left = iter(range(operation))

            def stop(_operation: str, left: Iterator[int] = left) -> None:
                if next(left, None) is None:
                    raise DiskFullError

            disk.before = stop
            file.apply(SCRIPT[step])
            last = len(disk.pending) - 1
            image = disk.after_power_loss(
                lambda number, last=last, arrived=arrived, only=last_only: (
                    arrived if number == last else 0 if only else SLOT_BYTES
                )
            )
            found = records(LossyDisk(4, image))
            for key in {*before, *wanted, *found}:
                # Of each member either what was kept before or what was being kept.
                assert found.get(key, "none") in (before.get(key, "none"), wanted.get(key, "none")), key


def test_record_is_read_as_it_was_written_and_no_part_of_it_is() -> None:
    for record in (Record(1, ADA, False), Record(2**40, LARGEST, None)):
        slot = encode(record)
        assert len(slot) == SLOT_BYTES
        assert decode(slot) == record
        for byte in range(SLOT_BYTES):
            assert decode(slot[:byte].ljust(SLOT_BYTES, b"\0")) is None
            assert decode(slot[:byte] + bytes([slot[byte] ^ 1]) + slot[byte + 1 :]) is None


def test_file_is_closed_to_others_and_never_grows(tmp_path: Path) -> None:
    path = tmp_path / NAME
    for _ in range(2):
        file = open_withdrawals(tmp_path)
        assert path.stat().st_size == (SLOTS + FIRST) * SLOT_BYTES
        assert path.stat().st_blocks * 512 >= path.stat().st_size, "its room is its own, on a disk that fills up too"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.apply(FileBatch(tuple(Record(n + 1, (n, 1), False) for n in range(SLOTS)), {}, unmark=False))
        assert path.stat().st_size == (SLOTS + FIRST) * SLOT_BYTES
        file.close()
        path.chmod(0o644)
    assert len(open_withdrawals(tmp_path).records()) == SLOTS


def test_more_refusals_than_slots_leave_a_mark_until_it_is_mended(tmp_path: Path) -> None:
    file = open_withdrawals(tmp_path)
    many = tuple(Record(n + 1, (n, 1), False) for n in range(SLOTS + 1))
    assert file.apply(FileBatch(many, {}, unmark=False)).without_slot == {(SLOTS, 1)}
    file.close()
    file = open_withdrawals(tmp_path)
    assert file.marked
    cleared = FileBatch((), {record.key: record.number for record in many}, unmark=True)
    assert file.apply(cleared) == FileResult()
    file.close()
    file = open_withdrawals(tmp_path)
    assert file.marked
    assert file.records() == []
    stamp = Stamp(file.stamp.folder, 8)
    file.mend(stamp)
    file.close()
    file = open_withdrawals(tmp_path)
    assert not file.marked
    assert file.stamp == stamp
    file.close()


@pytest.mark.parametrize("length", [0, 10, SLOT_BYTES * 3 + 5])
def test_part_of_a_file_keeps_its_records_and_is_marked(tmp_path: Path, length: int) -> None:
    content = (bytes(SLOT_BYTES) + encode(Record(7, ADA, False)) + encode(Record(8, BEN, None)) + b"x" * 64)[:length]
    (tmp_path / NAME).write_bytes(content)
    file = open_withdrawals(tmp_path)
    assert [record.key for record in file.records()] == ([ADA, BEN] if length > 100 else [])
    assert (tmp_path / NAME).stat().st_size == (SLOTS + FIRST) * SLOT_BYTES
    assert file.marked
    file.close()


@pytest.mark.parametrize(("byte", "marked"), [(0, True), (20, True), (None, False)])
def test_damaged_record_may_have_been_a_refusal(byte: int | None, marked: bool, tmp_path: Path) -> None:
    open_withdrawals(tmp_path).close()
    # One whose checksum ends with a zero is damaged, too.
    slot = bytearray(next(each for n in range(1, 9999) if (each := encode(Record(n, ADA, False)))[-1] == 0))
    if byte is None:
        slot[40:] = bytes(SLOT_BYTES - 40)  # the machine stopped while it was written
    else:
        slot[byte] ^= 0x55
    with (tmp_path / NAME).open("r+b") as stream:
        stream.seek(SLOT_BYTES * 5)
        stream.write(slot)
    for _ in range(2):
        file = open_withdrawals(tmp_path)
        assert file.records() == []
        assert file.marked is marked
        file.apply(FileBatch((Record(9, BEN, False),), {}, unmark=False))
        file.apply(FileBatch((), {BEN: 9}, unmark=True))
        file.close()
    file = open_withdrawals(tmp_path)
    file.mend(file.stamp)
    file.close()
    file = open_withdrawals(tmp_path)
    assert not file.marked
    file.close()


@pytest.mark.parametrize("mending", [False, True])
def test_stop_at_any_byte_leaves_a_stamp_or_the_mark(mending: bool) -> None:
    stamps = [Stamp("5a" * 16, number) for number in range(9)]
    for operation in range(6):
        for arrived in range(SLOT_BYTES + 1):
            disk = LossyDisk(4)
            file = disk.opened()
            for stamp in stamps[1:7]:
                file.remember(stamp)
            if mending:
                file.apply(FileBatch(tuple(Record(n, (n, 1), False) for n in range(5)), {}, unmark=False))
                file = disk.opened()
                assert file.marked
            disk.before = stopping_after(operation)
            with contextlib.suppress(DiskFullError):
                (file.mend if mending else file.remember)(stamps[7])
            found = disk.after_power_loss(lambda _number, arrived=arrived: arrived)
            opened = LossyDisk(4, found).opened()
            if not opened.marked:
                assert opened.stamp in (stamps[7:8] if mending else stamps[6:8])


def test_file_of_an_earlier_version_keeps_all_it_has(tmp_path: Path) -> None:
    records = encode(Record(7, ADA, False)) + encode(Record(8, BEN, None))
    for mark, marked in ((bytes(SLOT_BYTES), False), (MARK, True)):
        (tmp_path / NAME).write_bytes((mark + records).ljust(FORMER_BYTES, b"\0"))
        file = open_withdrawals(tmp_path)
        assert file.marked is marked
        assert [record.key for record in file.records()] == [ADA, BEN]
        assert file.stamp.number == 0
        again = open_withdrawals(tmp_path)
        assert again.stamp == file.stamp
        file.close()
        again.close()


def test_file_of_something_else_lets_nobody_be_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / NAME).write_bytes(b"no such thing " * 100)
    with caplog.at_level(logging.CRITICAL):
        file = open_withdrawals(tmp_path)
    assert file.marked
    assert file.records() == []
    file.close()


def test_file_that_cannot_be_made_is_a_wrong_configuration(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(ConfigError, match=f"{NAME}.*move the folder"):
        open_withdrawals(tmp_path)


def test_file_that_was_replaced_takes_nothing(tmp_path: Path) -> None:
    file = open_withdrawals(tmp_path)
    assert file.trouble() == ""
    (tmp_path / NAME).unlink()
    assert "was removed or replaced" in file.trouble()
    assert not file.apply(FileBatch((Record(1, ADA, False),), {}, unmark=False)).kept
    file.close()


@pytest.mark.parametrize("failing", ["write", "sync"])
def test_write_that_fails_is_said_and_the_next_takes_its_slot(failing: str) -> None:
    disk = LossyDisk(1)
    file = disk.opened()

    def fail(operation: str) -> None:
        if operation == failing:
            raise DiskFullError(28, "No space left on device")

    disk.before = fail
    batch = FileBatch((Record(1, ADA, False),), {}, unmark=False)
    assert not file.apply(batch).kept
    disk.before = lambda operation: None
    assert file.apply(FileBatch((Record(2, ADA, False),), {}, unmark=False)) == FileResult()
    assert records(disk) == {ADA: False}
    disk.before = fail
    assert not file.apply(FileBatch((), {ADA: 2}, unmark=False)).cleared
    disk.before = lambda operation: None
    assert file.apply(FileBatch((), {ADA: 2}, unmark=False)) == FileResult()
    assert records(disk) == {}
