"""The lease on a GPU: a lock on a slot file, held by the worker process itself, so it ends exactly when that does."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from roost.errors import SpeechError


class CardTakenError(SpeechError):
    """All slots of the card are taken."""


class GpuLease:
    """A held slot. The descriptor is close-on-exec and never duplicated; closing it, or dying, gives the slot back."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    def release(self) -> None:
        """Give the slot back; idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def acquire(
    folder: Path,
    gpu: str,
    slots: int,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> GpuLease:
    """Take one of the `slots` of a GPU; blocks up to `timeout_s`.

    Args:
        folder: Shared by all bots of the machine; created 0700 when absent.
        gpu: The GPU's UUID, or its index.
        slots: How many holders the GPU can have at once.
        timeout_s: How long to wait for a free slot.

    Raises:
        CardTakenError: All slots stayed taken.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9-]", "_", gpu) or "gpu"
    deadline = clock() + timeout_s
    while True:
        for slot in range(slots):
            path = folder / f"{name}.{slot}.lock"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                continue
            return GpuLease(path, fd)
        if clock() >= deadline:
            raise CardTakenError(
                f"all {slots} slots of GPU {gpu} in {folder} are taken; raise stt.lease.slots or set stt.device = cpu",
                retryable=True,
                retry_after_s=5.0,
            )
        pause(0.05)
