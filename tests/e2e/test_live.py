"""A smoke test against the real Discord, when there is a bot to do it with: set ROOST_TOKEN."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roost.demo.bot_process import run_bot

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("ROOST_TOKEN" not in os.environ, reason="ROOST_TOKEN is not set: nothing was tried at Discord"),
]


async def test_the_bot_connects_and_stops(tmp_path: Path) -> None:
    arguments = ["--data-dir", str(tmp_path), "--set", "log.format=json"]
    async with run_bot(arguments, os.environ) as bot:
        await bot.ready(60)
        bot.terminate()
        assert await bot.wait(15) == 0
