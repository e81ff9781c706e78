"""Transcripts as members meet them: a real bot, killed in the middle, and what is left of what was said."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
import srt
from speech_scene import Scene

from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e


async def test_a_killed_bot_tells_and_the_transcript_so_far_is_there(tmp_path: Path) -> None:
    async with spawn() as sim, ControlClient(sim.card["control_url"]) as discord:
        scene = Scene(sim, discord, tmp_path)
        for member in (scene.ada, scene.ben):
            await discord.voice(member_id=member, channel_id=scene.voice)
        async with run_bot(scene.arguments, scene.environ) as bot:
            await bot.ready()
            await scene.ask("/voice join", scene.ben)
            await scene.ask("/transcribe start", scene.ben)
            notice = next(each for each in await discord.messages(channel_id=scene.text) if each["components"])
            await discord.press(member_id=scene.ben, message_id=int(notice["id"]), label="Agree")
            await scene.speak()
            listed = await scene.said("/transcript list", scene.ben)
            assert "1 line, still going on" in listed
            name = listed.split("`")[1]
            assert "still going on" in await scene.said("/transcript delete", scene.ben, transcript=name)
            bot.kill()
            await bot.wait(5)
        async with run_bot(scene.arguments, scene.environ) as bot:
            await bot.ready()
            for _ in range(100):
                if any(
                    f"/transcript show {name}" in text and f"for <@{scene.ben}>" in text
                    for text in await scene.posted()
                ):
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("nobody was told of the interruption")
            assert "words that stay" in await scene.said("/transcript show", scene.ben, transcript=name)
            reply = await scene.ask("/transcript export", scene.ben, transcript=name, format="srt")
            (file,) = reply["files"]
            assert file["name"] == f"transcript-{name}.srt"
            (cue,) = srt.parse(base64.b64decode(file["data"]).decode(), ignore_errors=False)
            assert cue.content.endswith(": words that stay")
            choices = await discord.autocomplete(
                member_id=scene.ben,
                channel_id=scene.text,
                command="/transcript show",
                options={"transcript": name[:2]},
                focused="transcript",
            )
            assert [each["value"] for each in choices] == [name]

            # Who may not read the channel of the captions may not read the transcript.
            carl = int(sim.card["guilds"][0]["members"][2]["id"])
            await discord.permissions(member_id=carl, channel_id=scene.text, deny=["READ_MESSAGE_HISTORY"])
            assert "There is no transcript" in await scene.said("/transcript list", carl)
            assert "that you may read" in await scene.said("/transcript show", carl, transcript=name)
            dan = int(sim.card["guilds"][0]["members"][3]["id"])
            assert "Only whoever began it" in await scene.said("/transcript delete", dan, transcript=name)

            asked = await scene.ask("/transcript delete", scene.ben, transcript=name)
            answer = await discord.press(member_id=scene.ben, message_id=int(asked["id"]), label="Delete")
            assert "its 1 line is deleted" in answer["replies"][-1]["content"]
            assert "There is no transcript" in await scene.said("/transcript list", scene.ada)
            bot.terminate()
            assert await bot.wait(10) == 0
