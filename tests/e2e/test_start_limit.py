"""Row 75 with a real process: a start too many waits, says so, and can be stopped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from bot_scene import QUIET
from fault_report import Fault

from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e


@pytest.mark.fault(75)
async def test_a_start_too_many_waits_until_it_is_stopped(tmp_path: Path, fault: Fault) -> None:
    async with spawn() as sim, ControlClient(sim.card["control_url"]) as discord:
        settings = {
            "discord.rest_url": sim.card["rest_url"],
            "voice.ca_file": sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "log.format": "json",
            "start.max_identify_per_hour": "1",
            **QUIET,
        }
        arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        arguments += ["--data-dir", str(tmp_path / "data")]
        environ = {"ROOST_TOKEN": sim.card["bots"][0]["token"]}

        async with run_bot(arguments, environ) as bot:
            await bot.ready()
            bot.terminate()
            assert await bot.wait(10) == 0
        async with run_bot(arguments, environ) as bot:
            said = await bot.wait_for(lambda each: each.get("event") == "start_waits", 15, "the wait")
            assert 3500 < said["seconds"] <= 3600
            assert "start.max_identify_per_hour is 1" in said["message"]
            began = time.monotonic()
            bot.terminate()
            assert await bot.wait(10) == 0
            fault.note(time.monotonic() - began, 3.0, scaled=False)
        kinds = [each["kind"] for each in await discord.log()]
        assert kinds.count("gateway_identify") == 1
