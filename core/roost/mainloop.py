"""The event loop of the bot's process. It runs until the bot has ended, whatever a plugin calls on it or raises in it.

``asyncio.run`` would end at ``loop.stop()``, and at a SystemExit or KeyboardInterrupt of any callback or task: with a
traceback, and before the bot has left voice.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from roost.signals import NameOf, plugin_at
from roost.threads import Pools

T = TypeVar("T")
_log = logging.getLogger("roost.app")


def run_whole(work: Coroutine[Any, Any, T], name_of: NameOf) -> T:
    """``asyncio.run`` for work that only ends by itself.

    Args:
        name_of: Names the plugin that a module belongs to.

    Raises:
        BaseException: What the work raises, and a KeyboardInterrupt that is no plugin's.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        stops = _Stops(loop, name_of)
        pools = Pools(loop, name_of)
        main = loop.create_task(work)
        try:
            while True:
                try:
                    return loop.run_until_complete(main)
                except (SystemExit, KeyboardInterrupt) as error:
                    plugin, place = _origin(error, name_of)
                    if main.done() or (isinstance(error, KeyboardInterrupt) and plugin is None):
                        raise
                    _tell(plugin, f"end the process ({type(error).__name__} at {place})")
                except RuntimeError:
                    if main.done() or stops.last is None:
                        raise
                    plugin, place = stops.last
                    _tell(plugin, f"stop the event loop ({place})")
        finally:
            pools.close()
            stops.close()


class _Stops:
    """Notes who calls ``loop.stop()``.

    Attributes:
        last: The plugin, if one is known, and the place in its code.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name_of: NameOf) -> None:
        self.last: tuple[str | None, str] | None = None
        self._loop = loop
        self._name_of = name_of
        self._stop = loop.stop
        loop.stop = self._note  # type: ignore[method-assign]

    def _note(self) -> None:
        self.last = plugin_at(sys._getframe(1), self._name_of)
        self._stop()

    def close(self) -> None:
        del self._loop.stop


def _origin(error: BaseException, name_of: NameOf) -> tuple[str | None, str]:
    """The plugin whose code an error came through last, and the place."""
    found: str | None = None
    place = "an unknown place"
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        plugin = name_of(str(frame.f_globals.get("__name__", "")))
        if plugin is not None or found is None:
            found, place = plugin, f"{frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found, place


def _tell(plugin: str | None, what: str) -> None:
    _log.error(
        "%s wanted to %s: the bot goes on; /bot shutdown or SIGTERM stops it",
        f"plugin {plugin}" if plugin else "something",
        what,
        extra={"plugin": plugin, "event": "end_refused"},
    )
