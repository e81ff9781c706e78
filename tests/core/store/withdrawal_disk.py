"""A disk for the file of withdrawals that loses what was not synced, at any byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from roost.store.decisions import Stamp
from roost.store.withdrawals import WithdrawalFile, new_content


class DiskFullError(OSError):
    """Made to happen by a test."""


def stopping_after(operations: int) -> Callable[[str], None]:
    """For `LossyDisk.before`: every operation after so many fails."""
    left = iter(range(operations))

    def stops(_operation: str) -> None:
        if next(left, None) is None:
            raise DiskFullError

    return stops


class LossyDisk:
    """`roost.store.withdrawals.Disk` in memory."""

    def __init__(self, slots: int, content: bytes = b"") -> None:
        self.durable = bytearray(content or new_content(slots, Stamp("5a" * 16, 0)))
        self.pending: list[tuple[int, bytes]] = []
        self.before: Callable[[str], None] = lambda operation: None
        """Called before each write and sync; may raise."""

    def write(self, offset: int, content: bytes) -> None:
        self.before("write")
        self.pending.append((offset, content))

    def sync(self) -> None:
        self.before("sync")
        for offset, content in self.pending:
            self.durable[offset : offset + len(content)] = content
        self.pending.clear()

    def trouble(self) -> str:
        return ""

    def close(self) -> None: ...

    def after_power_loss(self, arrived: Callable[[int], int]) -> bytes:
        """What is on the disk then.

        Args:
            arrived: How many bytes of each write that was not synced have arrived, by its number.
        """
        image = bytearray(self.durable)
        for number, (offset, content) in enumerate(self.pending):
            part = content[: arrived(number)]
            image[offset : offset + len(part)] = part
        return bytes(image)

    def opened(self) -> WithdrawalFile:
        return WithdrawalFile(Path("withdrawals.bin"), self, bytes(self.durable))
