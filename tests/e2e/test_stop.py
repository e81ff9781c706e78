"""Ways to stop a bot that is in voice while somebody speaks; each ends with voice left, by op 4."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from roost.demo.bot_process import run_bot
from roost.demo.ledger import STOP_ORDER
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM,) * 3],
    ids=["term", "hangup", "int-twice", "term-thrice"],
)
async def test_voice_is_left_however_often_and_by_what_it_is_told(
    signals: tuple[signal.Signals, ...], tmp_path: Path
) -> None:
    async with spawn(["--ghosts", "ignored"]) as sim, ControlClient(sim.card["control_url"]) as discord:
        guild = sim.card["guilds"][0]
        ada = int(guild["members"][1]["id"])
        text = int(guild["text_channels"][0]["id"])
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
        await discord.voice(member_id=ada, channel_id=int(guild["voice_channels"][0]["id"]))
        async with run_bot(arguments, environ) as bot:
            await bot.ready()
            await discord.slash(member_id=ada, channel_id=text, command="/voice join")
            await discord.slash(member_id=ada, channel_id=text, command="/transcribe start", wait_s=10)
            notice = next(each for each in await discord.messages(channel_id=text) if each["components"])
            await discord.press(member_id=ada, message_id=int(notice["id"]), label="Agree")
            speech = asyncio.ensure_future(discord.speak(member_id=ada, recording="lv_0880"))
            await asyncio.sleep(1.5)
            loop = asyncio.get_running_loop()
            told = loop.time()
            for number in signals:
                os.kill(bot.pid, number)
                await asyncio.sleep(0.03)
            assert await bot.wait(10) == 0
            took_s = loop.time() - told
            steps = [each["step"] for each in bot.events if each.get("logger") == "roost.stop"]
            await speech
        log = await discord.log()
        bot_id = sim.card["bots"][0]["user_id"]
        leaves = [each["t"] for each in log if each["kind"] == "op4" and each["channel_id"] is None]
        closes = [each["t"] for each in log if each["kind"] == "gateway_close" and each["bot_id"] == bot_id]
        assert tuple(steps) == STOP_ORDER
        assert leaves, "voice was not left"
        assert leaves[-1] < closes[-1], "the gateway went before voice was left"
        assert took_s <= (2.0 if len(signals) > 1 else 3.0)
        assert not [path for path in (tmp_path / "data" / "instances").iterdir()]
