"""What a process holds, measured: tasks, threads, child processes, file descriptors, listeners, modules.

Take `measure` before and after, and `grown` says what came and stayed. Nothing here knows plugins: the plugin host uses
it around a load and an unload, tests around whatever they run. On systems without ``/proc`` child processes and
descriptors are not measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import hikari

_PROC = Path("/proc")
_POOLED = ("asyncio_", "ThreadPoolExecutor-", "Dummy-", "roost import ", "loop guard")
"""Names of threads that belong to a pool which outlives its users."""
_POOLED_MODULES = ("aiosqlite", "concurrent.futures", "_pytest", "pytest_timeout")

DISCORD_PORT = 443


@dataclasses.dataclass(frozen=True)
class Holdings:
    """What a process held at one moment.

    Attributes:
        listeners: hikari listeners, by identity.
        tasks: asyncio tasks that are not done.
        threads: Live threads, those of pools aside.
        children: Process id to command line.
        descriptors: (number, target) of open descriptors, such as ``(7, "socket:[123]")``.
        modules: Names of imported modules.
    """

    listeners: dict[int, str] = dataclasses.field(default_factory=dict)
    tasks: dict[asyncio.Task[Any], str] = dataclasses.field(default_factory=dict)
    threads: dict[threading.Thread, str] = dataclasses.field(default_factory=dict)
    children: dict[int, str] = dataclasses.field(default_factory=dict)
    descriptors: frozenset[tuple[int, str]] = frozenset()
    modules: frozenset[str] = frozenset()

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {field.name: len(getattr(self, field.name)) for field in dataclasses.fields(self)}


def measure(bot: hikari.GatewayBot | None = None, *, modules: Collection[str] | None = None) -> Holdings:
    """Take stock of this process.

    Args:
        bot: Whose listeners count.
        modules: Count only modules in these packages; None is all.
    """
    return Holdings(
        listeners=_listeners(bot) if bot is not None else {},
        tasks=_tasks(),
        threads={
            thread: f"thread {thread.name}"
            for thread in threading.enumerate()
            if thread.is_alive() and not _pooled(thread)
        },
        children=children(),
        descriptors=frozenset(descriptors()),
        modules=frozenset(name for name in sys.modules if modules is None or within(name, modules)),
    )


def within(name: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of some packages or inside one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def grown(before: Holdings, after: Holdings) -> list[str]:
    """What `after` has that `before` had not, one line each."""
    found = [f"listener {name}" for key, name in after.listeners.items() if key not in before.listeners]
    found += [f"task {name}" for task, name in after.tasks.items() if task not in before.tasks]
    found += [name for thread, name in after.threads.items() if thread not in before.threads]
    found += [f"child process {pid}: {line}" for pid, line in after.children.items() if pid not in before.children]
    found += [f"descriptor {number}: {target}" for number, target in sorted(after.descriptors - before.descriptors)]
    found += [f"module {name}" for name in sorted(after.modules - before.modules)]
    return found


def _tasks() -> dict[asyncio.Task[Any], str]:
    try:
        current = asyncio.current_task()
        everything = asyncio.all_tasks()
    except RuntimeError:
        return {}
    return {task: f"{task.get_name()} ({coroutine_of(task)})" for task in everything if task is not current}


def coroutine_of(task: asyncio.Task[Any]) -> str:
    """Name, file and line of the coroutine a task runs."""
    coro = task.get_coro()
    code = getattr(coro, "cr_code", None) or getattr(coro, "gi_code", None)
    name = getattr(coro, "__qualname__", type(coro).__name__)
    return f"{name} at {code.co_filename}:{code.co_firstlineno}" if code is not None else str(name)


def task_modules(task: asyncio.Task[Any]) -> set[str]:
    """Names of the modules whose code a task is in."""
    return {str(frame.f_globals.get("__name__", "")) for frame in task.get_stack()}


def thread_modules(thread: threading.Thread) -> set[str]:
    """Names of the modules whose code a thread runs, its target's included."""
    names = {str(getattr(getattr(thread, "_target", None), "__module__", "") or ""), type(thread).__module__}
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        names.add(str(frame.f_globals.get("__name__", "")))
        frame = frame.f_back
    return names


def _pooled(thread: threading.Thread) -> bool:
    if thread is threading.main_thread() or thread.name.startswith(_POOLED):
        return True
    target = str(getattr(getattr(thread, "_target", None), "__module__", "") or "")
    return within(target, _POOLED_MODULES) or within(type(thread).__module__, _POOLED_MODULES)


def event_types() -> Iterator[type[hikari.Event]]:
    """Every event class there is."""
    queue: list[type[hikari.Event]] = [hikari.Event]  # type: ignore[type-abstract]
    seen: set[type[hikari.Event]] = set()
    while queue:
        event = queue.pop()
        if event not in seen:
            seen.add(event)
            queue += event.__subclasses__()
            yield event


def _listeners(bot: hikari.GatewayBot) -> dict[int, str]:
    return {
        id(listener): f"{getattr(listener, '__module__', '?')}.{getattr(listener, '__qualname__', listener)} "
        f"for {event.__name__}"
        for event in event_types()
        for listener in bot.get_listeners(event, polymorphic=False)
    }


def children() -> dict[int, str]:
    """Direct children of this process that have not ended, with their command lines."""
    found: dict[int, str] = {}
    for listing in _PROC.glob("self/task/*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, listing.read_text().split()):
                with contextlib.suppress(OSError):
                    state = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
                    line = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[pid] = line.strip() or f"(state {state})"
    return found


def descriptors() -> Iterator[tuple[int, str]]:
    """Open descriptors with what they are open on."""
    with contextlib.suppress(OSError):
        for name in os.listdir(_PROC / "self" / "fd"):  # noqa: PTH208 - the number is what counts
            with contextlib.suppress(OSError):
                yield int(name), os.readlink(_PROC / "self" / "fd" / name)  # noqa: PTH115 - no file


def is_remote(number: int, ports: Collection[int], folders: Collection[str] = ()) -> bool:
    """Whether a descriptor is a connection to one of some TCP ports, or to a socket in one of some folders."""
    try:
        with socket.socket(fileno=os.dup(number)) as copy:
            peer = copy.getpeername()
    except OSError:
        return False
    if isinstance(peer, str):
        return any(peer.startswith(folder + "/") for folder in folders)
    return isinstance(peer, tuple) and len(peer) > 1 and peer[1] in ports


async def settle(look: Callable[[], list[str]], within_s: float = 0.5) -> list[str]:
    """Ask `look` until it finds nothing: what has been closed may need a moment to be gone."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while True:
        found = look()
        if not found or loop.time() >= end:
            return found
        await asyncio.sleep(0.02)
