"""``python -m roost_stt.worker``: the speech worker process.

Reads frames and orders from stdin, writes transcripts to stdout, logs to stderr. It lives exactly as long as the bot
wants it to: it ends when stdin ends, in the middle of an inference too, and the kernel ends it when the bot's main
thread does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

_STARTED_S = time.perf_counter()


def tie_to_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that spawned it ends (Linux; elsewhere EOF must do)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above


def main() -> None:
    """Set the process up and never return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the bot decides
    tie_to_parent(int(sys.argv[1]))
    replies = os.dup(1)
    os.dup2(2, 1)  # a stray print must not land among the messages
    from roost.processes import leave_no_core
    from roost_stt.worker.service import serve

    leave_no_core()
    serve(0, replies, _STARTED_S, int(sys.argv[2]) if len(sys.argv) > 2 else None)


if __name__ == "__main__":
    main()
