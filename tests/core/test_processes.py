from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from typing import Any

import psutil
import pytest

from roost import processes

pytestmark = pytest.mark.unit

SLEEPS = ("-c", "import time; time.sleep(20)")


@pytest.fixture
def unwatchable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that allows a process, and then nothing of what asyncio watches it with."""
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if "waitpid" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    def no_descriptor(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monkeypatch.setattr(os, "pidfd_open", no_descriptor, raising=False)


@pytest.mark.usefixtures("unwatchable")
async def test_a_process_that_cannot_be_watched_is_killed_and_reaped() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(OSError, match=r"cannot be watched|Too many open files"):
        await processes.spawn(sys.executable, *SLEEPS, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert set(psutil.Process().children()) == before


async def test_a_program_that_is_not_there_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        await processes.spawn("/nowhere/program")


async def test_a_process_is_asyncios_own() -> None:
    process = await processes.spawn(sys.executable, "-c", "print(input())", stdin=-1, stdout=-1)
    out, _ = await process.communicate(b"words\n")
    assert (out, process.returncode) == (b"words\n", 0)
