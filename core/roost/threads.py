"""Threads: whose they are, and ending one that runs foreign code for too long.

``asyncio.to_thread`` and its like use one small pool of the event loop, and so do look-ups of names, which every join
and every new connection to Discord needs. One plugin that keeps it busy would hold up all servers, so each plugin has a
pool of its own, and so has the bot.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import socket
import sys
import threading
import types
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

THREADS = 8
"""Of each pool; they are started as they are needed."""
NAMES = "asyncio_"
"""What the names of asyncio's own begin with too."""

NameOf = Callable[[str], str | None]
"""The plugin that a module belongs to."""


def end_thread(thread: threading.Thread) -> None:
    """Raise ``SystemExit`` in a thread; does not wait.

    An endless loop would go on and cost the bot half its speed. This ends every loop of Python code that does not catch
    everything; a call into native code ends first.
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


class Pools:
    """Has an event loop use a pool of threads for each plugin and one for the bot, in the place of its default one.

    What belongs to nobody that is known uses the loop's default pool.

    Args:
        name_of: Names the plugin that a module belongs to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name_of: NameOf) -> None:
        self._loop = loop
        self._name_of = name_of
        self._pools: dict[str | None, ThreadPoolExecutor] = {}
        """By plugin; the bot's under None."""
        self._run = loop.run_in_executor
        self._set_default = loop.set_default_executor
        loop.run_in_executor = self._run_in  # type: ignore[method-assign, assignment]
        loop.set_default_executor = self._set  # type: ignore[method-assign, assignment]
        _pools_of[loop] = self

    def end(self, plugin: str) -> None:
        """End the threads of a plugin once they have done what they have begun; does not wait for that.

        Its next version has threads of its own.
        """
        pool = self._pools.pop(plugin, None)
        if pool is not None:
            _shut(pool)

    def close(self) -> None:
        """Take no more work, and drop what has not begun; does not wait for what has."""
        del _pools_of[self._loop]
        del self._loop.run_in_executor
        del self._loop.set_default_executor
        for pool in self._pools.values():
            _shut(pool)

    def _run_in(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        return self._run(executor or self._pool_for(sys._getframe(1), func), func, *args)

    def _set(self, executor: ThreadPoolExecutor) -> None:
        """``set_default_executor``: that of a plugin is its own default alone.

        Raises:
            TypeError: It is no pool of threads, which asyncio refuses too.
        """
        plugin, _bot = self._owner(sys._getframe(1))
        if plugin is None:
            self._set_default(executor)
        elif isinstance(executor, ThreadPoolExecutor):
            self._pools[plugin] = executor
        else:
            raise TypeError("executor must be ThreadPoolExecutor instance")

    def _pool_for(self, frame: types.FrameType, func: Callable[..., Any]) -> Executor | None:
        plugin, bot = self._owner(frame)
        if plugin is None and not bot:
            # In a task of its own, as with asyncio.gather: only the function says whose it is.
            module = _module_of(func)
            plugin, bot = self._name_of(module), _is_bots(module) or self._is_lookup(func)
        if plugin is None and not bot:
            return None
        pool = self._pools.get(plugin)
        if pool is None:
            pool = self._pools[plugin] = ThreadPoolExecutor(THREADS, f"{NAMES}{plugin or 'of the bot'}")
        return pool

    def _owner(self, frame: types.FrameType) -> tuple[str | None, bool]:
        """The plugin nearest to a call, and whether the bot's own code is in its way."""
        bot = False
        each: types.FrameType | None = frame
        while each is not None:
            module = str(each.f_globals.get("__name__", ""))
            plugin = self._name_of(module)
            if plugin is not None:
                return plugin, bot
            bot = bot or (_is_bots(module) and module not in _RUNNERS)
            each = each.f_back
        return None, bot

    def _is_lookup(self, func: Callable[..., Any]) -> bool:
        # With debugging on, asyncio looks names up by a method of the loop.
        return func in (socket.getaddrinfo, socket.getnameinfo) or getattr(func, "__self__", None) is self._loop


_pools_of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pools] = weakref.WeakKeyDictionary()


def end_threads(plugin: str) -> None:
    """`Pools.end` for the running event loop, if it has `Pools`."""
    pools = _pools_of.get(asyncio.get_running_loop())
    if pools is not None:
        pools.end(plugin)


def _shut(pool: ThreadPoolExecutor) -> None:
    """Shut a pool down, without the code of a class that a plugin made of it."""
    ThreadPoolExecutor.shutdown(pool, wait=False, cancel_futures=True)


_RUNNERS = frozenset({__name__, "roost.mainloop", "roost.cli", "roost.__main__"})
"""Below every call: they run the event loop."""


def _is_bots(module: str) -> bool:
    return module == "roost" or module.startswith("roost.")


def _module_of(func: Callable[..., Any]) -> str:
    """The module of what is called in the end: ``asyncio.to_thread`` wraps it in ``Context.run``."""
    while isinstance(func, functools.partial):
        named = getattr(func.func, "__name__", "") == "run" and func.args and callable(func.args[0])
        func = func.args[0] if named else func.func
    return str(getattr(func, "__module__", "") or "")
