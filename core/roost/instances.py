"""Which processes have journals in a data folder: each holds a lock file for as long as it lives.

The kernel frees a ``flock`` with the process, however it ends, so a lock that can be taken belongs to the dead.
Versions before `roost.holder` know each other by these files alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from roost.errors import ConfigError
from roost.file_errors import explain

OLD_S = 60.0
"""A lock file younger than this may be of a process that is about to lock it."""


def instances_dir(data_dir: Path) -> Path:
    return data_dir / "instances"


@contextlib.contextmanager
def hold_instance(data_dir: Path) -> Iterator[str]:
    """Hold ``<data_dir>/instances/<uuid>.lock``; yields the uuid. The file is removed at the end.

    Lock files of processes that were killed are removed at the start.

    Raises:
        ConfigError: The folder cannot be used.
    """
    folder = instances_dir(data_dir)
    instance_id = str(uuid.uuid4())
    path = folder / f"{instance_id}.lock"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _remove_dead_locks(data_dir)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the data folder {data_dir}: instances: {explain(error, path)}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield instance_id
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_alive(data_dir: Path, instance_id: str) -> bool:
    """Whether the process that holds this instance's lock still lives.

    Asks with a shared lock, so that two processes that ask at once do not take each other for the owner.
    """
    try:
        descriptor = os.open(instances_dir(data_dir) / f"{instance_id}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove_dead_locks(data_dir: Path) -> None:
    """Those with a journal stay with it: the voice plugin removes both once it has ended what the journal names."""
    for lock in instances_dir(data_dir).glob("*.lock"):
        with contextlib.suppress(OSError):
            old = time.time() - lock.stat().st_mtime > OLD_S
            if old and not lock.with_suffix(".json").exists() and not is_alive(data_dir, lock.stem):
                lock.unlink()
