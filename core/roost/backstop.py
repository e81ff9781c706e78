"""The end of the process in any case: what happens when a stop, or the interpreter's end, takes too long."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable

_log = logging.getLogger("roost.app")


class Backstop:
    """Runs a function after some seconds, unless it is cancelled; starting it never raises.

    A machine that allows no further thread (a container's limit of processes, say) must not keep a stop from being
    made: the kernel's alarm, which needs no thread, then ends the process instead of the function.

    Args:
        after_s: Seconds from `start`.
        end: Ends the process; called in a thread of its own.
    """

    def __init__(self, after_s: float, end: Callable[[], None]) -> None:
        self._after_s = after_s
        self._timer = threading.Timer(after_s, end)
        self._timer.daemon = True
        self._alarmed = False

    def start(self) -> None:
        try:
            self._timer.start()
        except RuntimeError as error:
            _log.warning("%s: SIGALRM ends this process in %.0f s if it has not ended by then", error, self._after_s)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, self._after_s)
                self._alarmed = True

    def cancel(self) -> None:
        """Idempotent."""
        self._timer.cancel()
        if self._alarmed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._alarmed = False
