"""Which processes of this bot are alive: each holds a lock file for as long as it lives.

The kernel frees a ``flock`` with the process, however it ends, so a lock that can be taken belongs to the dead.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def instances_dir(data_dir: Path) -> Path:
    return data_dir / "instances"


@contextmanager
def hold_instance(data_dir: Path) -> Iterator[str]:
    """Hold ``<data_dir>/instances/<uuid>.lock``; yields the uuid. The file is removed at the end."""
    folder = instances_dir(data_dir)
    folder.mkdir(mode=0o700, exist_ok=True)
    instance_id = str(uuid.uuid4())
    path = folder / f"{instance_id}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield instance_id
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_alive(data_dir: Path, instance_id: str) -> bool:
    """Whether the process that holds this instance's lock still lives."""
    try:
        descriptor = os.open(instances_dir(data_dir) / f"{instance_id}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
