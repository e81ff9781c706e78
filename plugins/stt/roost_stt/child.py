"""The worker as an operating system process: how it is spawned, how its log reaches ours, how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Collection, Mapping

from roost import processes

_log = logging.getLogger("roost.stt")
_worker_log = logging.getLogger("roost.stt.worker")

MAX_LINE = 2000


async def spawn(
    threads: int, kept: Collection[str] = (), more: Mapping[str, str] | None = None, box: int | None = None
) -> asyncio.subprocess.Process:
    """Start the interpreter with the worker in it; `kept` names variables of ours that it gets, `more` are others.

    `box` is the file of a `roost_stt.blackbox.BlackBox` that the worker writes.

    Call it on the event loop's own thread: the kernel kills the child when the thread that spawned it ends
    (PR_SET_PDEATHSIG).

    Raises:
        OSError: The machine refuses what the process needs; none is left.
    """
    return await processes.spawn(
        sys.executable,
        "-P",
        "-m",
        "roost_stt.worker",
        str(os.getpid()),
        *([str(box)] if box is not None else []),
        pass_fds=(box,) if box is not None else (),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A group of its own, so that what an engine starts can be ended with it: that may have the card, too.
        process_group=0,
        env=_environment(threads, kept) | dict(more or {}),
    )


def kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL to the worker and what it has started: there is nothing in a worker to save.

    Call it no later than soon after the worker's end: the group's id is kept by the system only for who is left of it.
    """
    # A group of which nobody is left is told in one way by Linux and in another by macOS.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # Not `process.kill`, which looks whether it has ended and so takes its status from the loop's own waiter.
        os.killpg(process.pid, signal.SIGKILL)


async def end(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    """Kill and reap."""
    kill(process)
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError:
        _log.error("the speech worker %d cannot be killed", process.pid)
    finally:
        if process.stdin is not None:
            process.stdin.close()


async def forward_log(process: asyncio.subprocess.Process) -> None:
    """The worker's log lines, into ours, until it ends; over-long ones are cut."""
    assert process.stderr is not None
    rest = b""
    while data := await process.stderr.read(1 << 14):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            _forward(line)
    if rest:
        _forward(rest)


def _forward(data: bytes) -> None:
    line = data[:MAX_LINE].decode(errors="replace")
    level, _, text = line.partition(" ")
    known = logging.getLevelNamesMapping().get(level)
    _worker_log.log(known if known is not None else logging.INFO, "%s", text if known is not None else line)


def _environment(threads: int, also: Collection[str]) -> dict[str, str]:
    """The worker's environment: no setting of the bot, above all not its token."""
    wanted = {"ROOST_LEASE_DIR", *also}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROOST_") or name in wanted}
    kept["OMP_NUM_THREADS"] = str(threads)
    kept["PYTHONUNBUFFERED"] = "1"
    return kept
