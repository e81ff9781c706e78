"""Which processes live: lock files, and what is left of those that were killed."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from roost.instances import OLD_S, hold_instance, instances_dir, is_alive

pytestmark = pytest.mark.unit


def names(data_dir: Path) -> set[str]:
    return {path.name for path in instances_dir(data_dir).iterdir()}


def test_a_process_lives_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    with hold_instance(tmp_path) as first:
        assert is_alive(tmp_path, first)
        assert not is_alive(tmp_path, "nobody")
    assert not is_alive(tmp_path, first)
    assert names(tmp_path) == set()


def test_whoever_asks_at_the_same_time_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    instances_dir(tmp_path).mkdir()
    (instances_dir(tmp_path) / "dead.lock").touch()
    with (instances_dir(tmp_path) / "dead.lock").open("rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_alive(tmp_path, "dead")


def test_locks_of_killed_processes_go_with_the_next_start(tmp_path: Path) -> None:
    folder = instances_dir(tmp_path)
    long_ago = time.time() - OLD_S - 5
    with hold_instance(tmp_path) as living:
        for name in ("dead.lock", "owes.lock", "owes.json", "newborn.lock"):
            (folder / name).touch()
        for name in ("dead.lock", "owes.lock", "owes.json", f"{living}.lock"):
            os.utime(folder / name, (long_ago, long_ago))
        with hold_instance(tmp_path) as starting:
            # Whoever lives stays, however old; so does what a journal goes with, and what may not be locked yet.
            assert names(tmp_path) == {f"{living}.lock", f"{starting}.lock", "owes.lock", "owes.json", "newborn.lock"}
            assert is_alive(tmp_path, living)
