"""The stop signals of a bot whose start is refused."""

from __future__ import annotations

import asyncio
import base64
import signal
from pathlib import Path

import pytest

from roost.app import App
from roost.config import load
from roost.errors import HeldError
from roost.holder import Holder, hold_folder

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
