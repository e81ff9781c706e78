"""`/transcribe` as members meet it: language, pause, and who may have what transcribed where."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from speech_scene import Scene

from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e


async def said(scene: Scene, words: str) -> None:
    """Ben speaks until the text of it stands."""
    await scene.discord.speak(member_id=scene.ben, recording="lv_0880")
    for _ in range(100):
        if any(words in text for text in await scene.posted()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"nothing with {words}: {await scene.posted()}")


async def test_language_pause_and_audience(tmp_path: Path) -> None:
    async with spawn() as sim, ControlClient(sim.card["control_url"]) as discord:
        scene = Scene(sim, discord, tmp_path)
        scene.arguments += ["--set", "stt.script=heard as {language} with {hints}"]
        for member in (scene.ada, scene.ben):
            await discord.voice(member_id=member, channel_id=scene.voice)
        carl = int(sim.card["guilds"][0]["members"][2]["id"])
        async with run_bot(scene.arguments, scene.environ) as bot:
            await bot.ready()
            await scene.ask("/voice join", scene.ben)

            # Carl can read the text channel, and not see the voice channel: only Ada, who owns the server, may.
            await discord.permissions(member_id=carl, channel_id=scene.voice, deny=["VIEW_CHANNEL"])
            assert "only those who manage the server" in await scene.said("/transcribe start", scene.ben)
            await discord.permissions(member_id=carl, channel_id=scene.text, deny=["VIEW_CHANNEL"])
            assert "do not know that language" in await scene.said("/transcribe start", scene.ben, language="klingon")
            assert "Language: German." in await scene.said("/transcribe start", scene.ben, language="german")
            notice = next(each for each in await discord.messages(channel_id=scene.text) if each["components"])
            await discord.press(member_id=scene.ben, message_id=int(notice["id"]), label="Agree")
            await said(scene, "heard as de with none")

            answer = await scene.ask("/transcribe language", scene.ben, language="cy")
            assert "Welsh" in answer["content"]
            assert answer["ephemeral"]
            await scene.ask("/config set", scene.ada, plugin="stt", key="hints", value="Roost, perch")
            await said(scene, "heard as cy with Roost perch")
            choices = await discord.autocomplete(
                member_id=scene.ben,
                channel_id=scene.text,
                command="/transcribe language",
                options={"language": "span"},
                focused="language",
            )
            assert [each["value"] for each in choices] == ["es"]

            assert "is paused" in await scene.said("/transcribe pause", scene.ben)
            before = await scene.posted()
            await discord.speak(member_id=scene.ben, recording="lv_0880")
            assert "Paused" in await scene.said("/transcribe status", scene.ben)
            assert await scene.posted() == before
            assert "goes on" in await scene.said("/transcribe resume", scene.ben)
            await scene.ask("/config set", scene.ada, plugin="stt", key="hints", value="owl")
            await said(scene, "heard as cy with owl")
            # What was said during the pause never became text.
            assert sum("heard as cy with Roost perch" in text for text in await scene.posted()) == 1
            assert "stopped" in await scene.said("/transcribe stop", scene.ben)

            await discord.permissions(member_id=carl, channel_id=scene.text, allow=["VIEW_CHANNEL"])
            assert "can be read by people who cannot be in" in await scene.said("/transcribe start", scene.ada)
            bot.terminate()
            assert await bot.wait(10) == 0
