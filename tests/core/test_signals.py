"""The stop signals of a bot whose start is refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roost import app
from roost.app import App
from roost.config import load
from roost.errors import HeldError
from roost.holder import Holder, hold_folder
from roost.signals import KeptSignals

pytestmark = pytest.mark.unit

BOT_ID = 1234567890123456789
TOKEN = f"{base64.b64encode(str(BOT_ID).encode()).decode().rstrip('=')}.aaaaaa.{'b' * 30}"


async def test_start_that_is_refused_gives_the_stop_signals_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = load(environ={}, data_dir=tmp_path)
    with hold_folder(tmp_path, Holder.of_this_process(BOT_ID)), pytest.raises(HeldError):
        await App(config, TOKEN).run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_start_that_is_cancelled_as_it_is_to_stop_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = App(load(environ={}, data_dir=tmp_path), TOKEN)

    @contextlib.asynccontextmanager
    async def open_nothing(*_given: object) -> AsyncIterator[None]:
        made.request_stop("a test")
        raise asyncio.CancelledError
        yield

    monkeypatch.setattr(app, "open_held_store", open_nothing)
    await made.run()
    assert made.stop_reason == "a test"


async def test_signals_that_are_ignored_are_given_back_unless_a_plugin_handles_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handles(*_given: object) -> None:
        raise AssertionError

    with KeptSignals(lambda _number: None, lambda _module: None).held():
        os.kill(os.getpid(), signal.SIGUSR1)
        async with asyncio.timeout(5):
            while "received SIGUSR1: ignored" not in caplog.text:
                await asyncio.sleep(0)
        signal.signal(signal.SIGUSR2, handles)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR2) is handles
    assert signal.getsignal(signal.SIGPROF) == signal.SIG_DFL
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


async def test_a_timer_that_a_plugin_left_running_does_not_end_the_process() -> None:
    with KeptSignals(lambda _number: None, lambda _module: None).held():
        signal.setitimer(signal.ITIMER_PROF, 60)
    try:
        assert signal.getsignal(signal.SIGPROF) == signal.SIG_IGN
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
