"""Copies what passes through the pipes of a speech worker into files; Python imports this at its start.

Its folder is on the PYTHONPATH of a bot whose pipes a test wants to see.
``PIPE_TAP`` names the folder of the files.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def copy(source: int, target: int, name: str) -> None:
    """Pass on everything from one pipe into another, and keep it, until the first one ends."""
    with (Path(os.environ["PIPE_TAP"]) / f"{os.getpid()}-{name}").open("wb", buffering=0) as kept:
        while data := os.read(source, 1 << 16):
            kept.write(data)
            left = memoryview(data)
            while left:
                left = left[os.write(target, left) :]
    os.close(target)


def tap(fd: int, name: str, *, reads: bool) -> None:
    """Put a copying thread between a standard pipe and its other end."""
    theirs = os.dup(fd)
    reader, writer = os.pipe()
    os.dup2(reader if reads else writer, fd)
    os.close(reader if reads else writer)
    ends = (theirs, writer) if reads else (reader, theirs)
    threading.Thread(target=copy, args=(*ends, name), daemon=True).start()


if "PIPE_TAP" in os.environ and "roost_stt.worker" in sys.orig_argv:
    tap(0, "to-worker", reads=True)
    tap(1, "from-worker", reads=False)
