"""Deleted is deleted: what members have deleted is in no file of a real bot, whatever becomes of the bot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from speech_scene import Scene

from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e

WORDS = b"words that stay"


def files_with(folder: Path, words: bytes) -> list[str]:
    """Names of the files that hold some words, read as bytes."""
    return sorted(each.name for each in folder.rglob("*") if each.is_file() and words in each.read_bytes())


async def sure(scene: Scene, command: str, member: int, **options: Any) -> dict[str, Any]:
    """Run a command that asks for a confirmation, and confirm it."""
    asked = await scene.ask(command, member, **options)
    assert "Are you sure?" in asked["content"], asked["content"]
    answer = await scene.discord.press(member_id=member, message_id=int(asked["id"]), label="Delete", wait_s=10.0)
    return dict(answer["replies"][-1])


async def test_what_is_deleted_is_in_no_file_of_the_bot(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with spawn() as sim, ControlClient(sim.card["control_url"]) as discord:
        scene = Scene(sim, discord, tmp_path)
        for member in (scene.ada, scene.ben):
            await discord.voice(member_id=member, channel_id=scene.voice)
        async with run_bot([*scene.arguments, "--set", "log.level=DEBUG"], scene.environ) as bot:
            await bot.ready()
            await scene.ask("/voice join", scene.ben)
            await scene.ask("/transcribe start", scene.ben)
            notice = next(each for each in await discord.messages(channel_id=scene.text) if each["components"])
            await discord.press(member_id=scene.ben, message_id=int(notice["id"]), label="Agree")
            await scene.speak()
            await scene.ask("/transcribe stop", scene.ben)
            name = (await scene.said("/transcript list", scene.ben)).split("`")[1]
            (data / "stt-v1-20260101T000000.backup.sqlite3").write_bytes(WORDS)
            assert files_with(data, WORDS), "the search finds what is there"
            await discord.say(f"{WORDS.decode()}, written", member_id=scene.ben, channel_id=scene.text)
            assert WORDS.decode() in await scene.said("/transcript show", scene.ben, transcript=name)
            await scene.ask("/transcript export", scene.ben, transcript=name)
            assert "that you may read" in await scene.said("/transcript show", scene.ben, transcript=WORDS.decode())
            reply = await sure(scene, "/transcript delete", scene.ben, transcript=name)
            assert "its 1 line is deleted" in reply["content"]
            assert files_with(data, WORDS) == [], "while the bot runs"

            await scene.ask("/transcribe start", scene.ben)
            await scene.speak()
            assert files_with(data, WORDS)
            reply = await sure(scene, "/privacy forget-me", scene.ben)
            assert files_with(data, WORDS) == []
            assert "your captions in 2 messages at Discord" in reply["content"]
            captions = [each for each in await scene.posted() if WORDS.decode() in each and "written" not in each]
            assert len(captions) == 2
            too = await discord.press(
                member_id=scene.ben, message_id=int(reply["id"]), label="Delete that too", wait_s=10.0
            )
            assert too["replies"][-1]["content"].startswith(("Being deleted", "Your captions are gone from 2 messages"))
            for _ in range(100):
                posted = [each for each in await scene.posted() if WORDS.decode() in each]
                if len(posted) == 1:
                    break
                await asyncio.sleep(0.05)
            assert posted == [f"{WORDS.decode()}, written"], "what members wrote is theirs"
            await scene.ask("/transcribe stop", scene.ben)
            bot.kill()
            await bot.wait(5)
            told = [each for each in bot.events if WORDS.decode() in json.dumps(each)]
            assert told == [], "no words in the log, even at DEBUG"
        assert files_with(data, WORDS) == [], "after SIGKILL"
        async with run_bot(scene.arguments, scene.environ) as bot:
            await bot.ready()
            bot.terminate()
            assert await bot.wait(10) == 0
        assert files_with(data, WORDS) == [], "after a clean stop"
