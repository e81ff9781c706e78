"""Keeping the handlers of the stop signals: a plugin that takes one over by mistake must not keep the bot in voice.

While a `KeptSignals` is held, ``signal.signal`` and ``signal.pthread_sigmask`` leave its signals as they are and name
whoever wanted them; libraries that install handlers, and asyncio's ``add_signal_handler``, go through these. What got
past them is put right within `LOOK_S`. Other signals that would end the process are ignored, unless a plugin handles
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from roost.errortext import repr_of

_log = logging.getLogger("roost.app")

LOOK_S = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU) + (
    (signal.SIGPWR,) if sys.platform == "linux" else ()
)
IGNORED_SIGNALS = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
)
"""They end a process that does not handle them, at once: a bot would stay in voice. Plugins may handle them."""
_TIMERS = {
    signal.SIGALRM: signal.ITIMER_REAL,
    signal.SIGVTALRM: signal.ITIMER_VIRTUAL,
    signal.SIGPROF: signal.ITIMER_PROF,
}
"""One that a plugin left running would end the process after the stop, before its own end."""
GUARD_SIGNAL = signal.SIGVTALRM
"""Interrupts plugin code that blocks; see `roost.blocking`, which alone handles it."""
_GUARDS = "roost.blocking"

_set_handler = signal.signal
_set_mask = signal.pthread_sigmask
_held: list[KeptSignals] = []
"""Those of all bots of this process."""
_before: dict[signal.Signals, Any] = {}

NameOf = Callable[[str], str | None]
"""The plugin that a module belongs to."""


class KeptSignals:
    """The stop signals of one bot.

    Args:
        received: Called on the event loop for each signal.
        name_of: Names the plugin that a module belongs to.
    """

    def __init__(self, received: Callable[[signal.Signals], None], name_of: NameOf) -> None:
        self._received = received
        self._ignored: set[signal.Signals] = set()
        self._name_of = name_of
        self._loop: asyncio.AbstractEventLoop | None = None
        self.process = os.getpid()
        self._told: set[tuple[str, int]] = set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Handle the signals until the end of the block. Main thread only."""
        self._loop = asyncio.get_running_loop()
        if not _held:
            _take()
        _held.append(self)
        try:
            yield
        finally:
            _held.remove(self)
            if not _held:
                _give_back()

    async def watch(self) -> None:
        """Put right, for ever, what was changed past the guarded functions."""
        while True:
            await asyncio.sleep(LOOK_S)
            for number in STOP_SIGNALS:
                found = signal.getsignal(number)
                if found is not _on_signal:
                    _set_handler(number, _on_signal)
                    module = str(getattr(found, "__module__", ""))
                    self.refused(f"handle {number.name}", self._name_of(module), repr_of(found), number)
            blocked = set(_set_mask(signal.SIG_BLOCK, ())).intersection(STOP_SIGNALS)
            if blocked:
                _set_mask(signal.SIG_UNBLOCK, blocked)
                self.refused("block stop signals", None, "unknown place", 0)

    def deliver(self, number: signal.Signals) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._received, number)

    def deliver_ignored(self, number: signal.Signals) -> None:
        assert self._loop is not None
        if number not in self._ignored:
            self._ignored.add(number)
            with contextlib.suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(
                    _log.warning, "received %s: ignored; SIGTERM stops the bot", number.name
                )

    def wanted(self, what: str, frame: types.FrameType, number: int) -> None:
        """Name the plugin nearest to a call."""
        plugin, place = plugin_at(frame, self._name_of)
        self.refused(what, plugin, place, number)

    def refused(self, what: str, plugin: str | None, place: str, number: int) -> None:
        if (place, number) in self._told:
            return
        self._told.add((place, number))
        _log.error(
            "%s wanted to %s (%s): that is the bot's own, and stays so; use the hook on_stopping",
            f"plugin {plugin}" if plugin else "somebody",
            what,
            place,
            extra={"plugin": plugin},
        )


def plugin_at(frame: types.FrameType, name_of: NameOf) -> tuple[str | None, str]:
    """The plugin nearest to a call, and the place in its code; without one, the place of the call."""
    each: types.FrameType | None = frame
    while each is not None:
        plugin = name_of(str(each.f_globals.get("__name__", "")))
        if plugin is not None:
            return plugin, f"{each.f_code.co_filename}:{each.f_lineno}"
        each = each.f_back
    return None, f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _on_signal(number: int, _frame: types.FrameType | None) -> None:
    for each in tuple(_held):
        each.deliver(signal.Signals(number))


def _on_ignored(number: int, _frame: types.FrameType | None) -> None:
    mine = [each for each in _held if each.process == os.getpid()]
    if not mine:  # a fork, which inherits the handler
        _set_handler(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    for each in mine:
        each.deliver_ignored(signal.Signals(number))


def _in_charge() -> bool:
    """Whether the caller is the main thread of the bot; forks and threads go their own ways."""
    mine = any(each.process == os.getpid() for each in _held)
    return mine and threading.current_thread() is threading.main_thread()


def _take() -> None:
    for number in STOP_SIGNALS:
        _before[number] = _set_handler(number, _on_signal)
    for number in IGNORED_SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            _set_handler(number, _on_ignored)
    signal.signal = _guarded_signal  # type: ignore[assignment]
    signal.pthread_sigmask = _guarded_mask


def _give_back() -> None:
    signal.signal = _set_handler
    signal.pthread_sigmask = _set_mask
    for number, handler in _before.items():
        _set_handler(number, handler if handler is not None else signal.SIG_DFL)
    _before.clear()
    for number in IGNORED_SIGNALS:
        if signal.getsignal(number) is _on_ignored:
            timer = _TIMERS.get(number)
            goes_on = timer is not None and signal.getitimer(timer) != (0.0, 0.0)
            _set_handler(number, signal.SIG_IGN if goes_on else signal.SIG_DFL)


def _guarded_signal(number: int, handler: Any) -> Any:
    """``signal.signal`` but for the bot's own signals; answers as if it had done it."""
    frame = sys._getframe(1)
    own = number in STOP_SIGNALS or (number == GUARD_SIGNAL and frame.f_globals.get("__name__") != _GUARDS)
    if not own or not _in_charge():
        return _set_handler(number, handler)
    for each in tuple(_held):
        each.wanted(f"handle {signal.Signals(number).name}", frame, number)
    return signal.getsignal(number)


def _guarded_mask(how: int, mask: Iterable[int]) -> set[int | signal.Signals]:
    """``signal.pthread_sigmask`` that blocks none of the bot's own signals in the main thread."""
    mask = set(mask)
    own = mask.intersection((*STOP_SIGNALS, GUARD_SIGNAL))
    if how != signal.SIG_UNBLOCK and own and _in_charge():
        mask -= own
        for each in tuple(_held):
            each.wanted("block stop signals", sys._getframe(1), 0)
    return _set_mask(how, mask)
