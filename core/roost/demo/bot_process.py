"""The bot of the demo: a process of its own, started exactly as ``roost run`` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from roost.errors import ResourceError
from roost.scopes import Scope

_PR_SET_PDEATHSIG = 1

Event = dict[str, Any]


class BotProcess:
    """A running bot and everything it said on standard error. Made by `run_bot`."""

    def __init__(self, process: asyncio.subprocess.Process, scope: Scope) -> None:
        self._process = process
        self.events: list[Event] = []
        self.tail: deque[str] = deque(maxlen=40)
        self._news = asyncio.Condition()
        self._reader = scope.spawn(self._read(), "bot log")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def descendants(self) -> list[int]:
        """Process ids below the bot, the speech worker among them."""
        return descendants_of(self.pid)

    def open_files(self) -> int:
        """How many file descriptors the bot holds now."""
        try:
            return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        except OSError:
            return 0

    async def wait_for(self, matches: Callable[[Event], bool], timeout_s: float, what: str) -> Event:
        """The first log event that matches, also one of the past.

        Raises:
            ResourceError: It did not come in time, or the bot ended first; carries the end of the bot's log.
        """
        seen = 0
        try:
            async with asyncio.timeout(timeout_s), self._news:
                while True:
                    for event in self.events[seen:]:
                        if matches(event):
                            return event
                    seen = len(self.events)
                    if self._reader.done():
                        break
                    await self._news.wait()
        except TimeoutError:
            pass
        raise ResourceError(f"the bot never came to: {what}; its log ends with:\n" + "\n".join(self.tail))

    async def ready(self, timeout_s: float = 20.0, *, told: bool = True) -> Event:
        """Wait until it is connected and, with `told`, Discord has its commands."""
        if told:
            await self.wait_for(lambda event: event.get("event") == "commands", timeout_s, "commands")
        return await self.wait_for(lambda event: event.get("event") == "ready", timeout_s, "ready")

    def kill(self) -> None:
        """SIGKILL, the crash of the bug report."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    async def wait(self, timeout_s: float) -> int:
        """Wait for the end of the process and of its log.

        Raises:
            TimeoutError: It still runs.
        """
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
            await asyncio.shield(self._reader)
        return code

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            self.tail.append(line)
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    async with self._news:
                        self.events.append(event)
                        self._news.notify_all()
        async with self._news:
            self._news.notify_all()


@asynccontextmanager
async def run_bot(arguments: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[BotProcess]:
    """Start a bot; at the end it is gone, whatever happened, and so is all it started."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "roost",
        "run",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environ),
        limit=1 << 20,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    scope = Scope("demo bot")
    bot = BotProcess(process, scope)
    try:
        yield bot
    finally:
        below = bot.descendants()
        bot.kill()
        await process.wait()
        await wait_gone(below, 2.0)
        await scope.aclose()


def _die_with_parent() -> None:
    """A demo that is killed outright takes its bot along (Linux only; elsewhere the clean-up above does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def descendants_of(pid: int) -> list[int]:
    """All live processes below `pid`, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has, once its last thread is gone too."""
    process = Path(f"/proc/{pid}")
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state == "X" or (state == "Z" and len(list((process / "task").iterdir())) <= 1)
    except (OSError, IndexError):
        return True


async def wait_gone(pids: Sequence[int], timeout_s: float) -> float | None:
    """Seconds until every process has ended, or None if one still lives after `timeout_s`."""
    started = time.monotonic()
    while not all(is_gone(pid) for pid in pids):
        if time.monotonic() - started > timeout_s:
            return None
        await asyncio.sleep(0.001)
    return time.monotonic() - started
