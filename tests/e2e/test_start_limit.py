"""Rows 75, 143 and 144 with a real process: sessions too many wait, say so, and shards take turns."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from bot_scene import QUIET, scenes
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


@pytest.mark.fault(143)
async def test_sessions_that_discord_ends_at_once_are_few_and_logged(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as bot:
        await scene.discord.fault("invalid_session", times=1000)
        await asyncio.sleep(20.0)
        began = await scene.log("gateway_identify")
        logged = [each for each in bot.events if each.get("event") == "identify"]
        assert 2 <= len(began) <= 4
        assert len(logged) == len(began)
        assert any("before its next session" in each["message"] for each in bot.events)
        fault.note(0.0, virtual=True)
        bot.terminate()
        assert await bot.wait(10) == 0


@pytest.mark.fault(144)
@pytest.mark.parametrize("shards", [3, pytest.param(14, marks=pytest.mark.long)])
async def test_shards_take_turns_and_each_has_its_own_time(shards: int, tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path, "--shards", str(shards), "--max-concurrency", "1", "--guilds", str(shards)) as scene:
        began = time.monotonic()
        async with scene.bot(start__timeout_s="7", ready_s=100.0) as bot:
            fault.note(time.monotonic() - began, scaled=False)
            assert len(await scene.log("gateway_identify")) == shards
            assert await scene.log("identify_too_soon") == []
            bot.terminate()
            assert await bot.wait(10) == 0
