from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from roost.backstop import Backstop

pytestmark = pytest.mark.unit

NO_THREAD = """
import threading, time
def refuse(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
from roost.backstop import Backstop
stop = Backstop(0.3, lambda: None)
stop.start()
{more}
time.sleep(30)
"""


def test_it_calls_its_function_and_not_once_it_is_cancelled() -> None:
    called = threading.Event()
    Backstop(0.01, called.set).start()
    assert called.wait(5.0)
    cancelled = threading.Event()
    stop = Backstop(0.05, cancelled.set)
    stop.start()
    stop.cancel()
    time.sleep(0.1)
    assert not cancelled.is_set()


def test_without_a_thread_the_kernel_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", NO_THREAD.format(more="")], timeout=20, check=False)
    assert done.returncode == -signal.SIGALRM


def test_without_a_thread_it_can_be_cancelled_too() -> None:
    more = "stop.cancel(); stop.cancel(); time.sleep(0.6); raise SystemExit(7)"
    done = subprocess.run([sys.executable, "-c", NO_THREAD.format(more=more)], timeout=20, check=False)
    assert done.returncode == 7
