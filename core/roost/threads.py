"""Ending a thread that runs foreign code for too long."""

from __future__ import annotations

import ctypes
import threading


def end_thread(thread: threading.Thread) -> None:
    """Raise ``SystemExit`` in a thread; does not wait.

    An endless loop would go on and cost the bot half its speed. This ends every loop of Python code that does not catch
    everything; a call into native code ends first.
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
