"""The lease on a GPU: a lock on a slot file, held by the worker process itself, so it ends exactly when that does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from roost.errors import SpeechError


class CardTakenError(SpeechError):
    """The card cannot be had: all its slots are taken, or the lease folder cannot be used."""


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
        folder: Shared by all bots of the machine; created 0700 when absent. Slot files in it can be locked by whoever
            may enter it and written by nobody else, so bots of several users can share one.
        gpu: The GPU's UUID, or its index.
        slots: How many holders the GPU can have at once.
        timeout_s: How long to wait for a free slot.

    Raises:
        CardTakenError: All slots stayed taken, which may be tried again, or the folder cannot be used, which says why.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from None
    name = re.sub(r"[^A-Za-z0-9-]", "_", gpu) or "gpu"
    deadline = clock() + timeout_s
    while True:
        for slot in range(slots):
            path = folder / f"{name}.{slot}.lock"
            try:
                fd = _locked(path)
            except OSError as error:
                raise _unusable(folder, error) from None
            if fd is not None:
                return GpuLease(path, fd)
        if clock() >= deadline:
            raise CardTakenError(
                f"all {slots} slots of GPU {gpu} in {folder} are taken; raise stt.lease.slots or set stt.device = cpu",
                retryable=True,
                retry_after_s=5.0,
            )
        pause(0.05)


def _locked(path: Path) -> int | None:
    """A descriptor with the lock on the file; None when somebody else has the lock."""
    while True:
        fd = _open(path)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a plain file", str(path))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever tidies up may have removed it meanwhile: the next one would lock another file of this name.
            if _is(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _open(path: Path) -> int:
    """Open for reading, which is enough to lock, so that a file of another user will do; make it when absent.

    Both at once (O_CREAT) would be refused by Linux for files of others in folders such as /tmp (protected_regular).
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.fchmod(fd, 0o644)  # whatever the umask
            return fd


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _unusable(folder: Path, error: OSError) -> CardTakenError:
    return CardTakenError(
        f"the lease folder {folder} of the GPUs cannot be used: {error.strerror}; "
        "have ROOST_LEASE_DIR name a folder that this user can write"
    )
