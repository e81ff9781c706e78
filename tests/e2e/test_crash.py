"""Act 3 of the demo, under both of the semantics that Discord may have for an old session's voice state."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from roost.demo.bot_process import run_bot, wait_gone
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("ghosts", ["honoured", "ignored"])
async def test_a_killed_bot_finds_and_ends_its_ghost(ghosts: str, tmp_path: Path) -> None:
    async with spawn(["--ghosts", ghosts]) as sim, ControlClient(sim.card["control_url"]) as discord:
        guild = sim.card["guilds"][0]
        ada = int(guild["members"][1]["id"])
        channel = int(guild["voice_channels"][0]["id"])
        text = int(guild["text_channels"][0]["id"])
        bot_id = sim.card["bots"][0]["user_id"]
        settings = {
            "discord.rest_url": sim.card["rest_url"],
            "voice.ca_file": sim.card["ca_file"],
            "voice.allowed_hosts": "localhost,127.0.0.1",
            "log.format": "json",
        }
        arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        arguments += ["--data-dir", str(tmp_path / "data")]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
        environ["ROOST_TOKEN"] = sim.card["bots"][0]["token"]

        async def bot_channels() -> list[str]:
            states = (await discord.state())["voice_states"]
            return [each["channel_id"] for each in states if each["user_id"] == bot_id]

        await discord.voice(member_id=ada, channel_id=channel)
        async with run_bot(arguments, environ) as bot:
            await bot.ready()
            joined = await discord.slash(member_id=ada, channel_id=text, command="/voice join")
            assert "Joined" in joined["replies"][-1]["content"]
            await discord.slash(member_id=ada, channel_id=text, command="/transcribe start", wait_s=10)
            workers = bot.descendants()
            assert workers
            bot.kill()
            gone_s = await wait_gone([bot.pid, *workers], 5.0)
            assert gone_s is not None
            assert gone_s < 2.0
        assert await bot_channels() == [str(channel)], "no ghost was left"

        async with run_bot(arguments, environ) as bot:
            event = await bot.wait_for(lambda each: each.get("event") == "ghost_reaped", 15, "the ghost reaped")
            assert event["since_ready_s"] <= 10
            async with asyncio.timeout(2):
                while await bot_channels():
                    await asyncio.sleep(0.02)
            await bot.ready()
            joined = await discord.slash(member_id=ada, channel_id=text, command="/voice join")
            assert "Joined" in joined["replies"][-1]["content"]
            bot.terminate()
            assert await bot.wait(10) == 0
        state = await discord.state()
        assert await bot_channels() == []
        assert state["sessions"]["live"] == 0
        assert state["max_sessions_per_guild"] == 1
        journals = [path for path in (tmp_path / "data" / "instances").iterdir() if path.suffix == ".json"]
        assert [path for path in journals if json.loads(path.read_text()).get("sessions")] == []
