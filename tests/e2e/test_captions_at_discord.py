"""Captions as a server sets them up with `/config`, at a simulated Discord."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from speech_scene import Scene

from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, spawn

pytestmark = pytest.mark.e2e

WORDS = "words that stay"


async def until(check: Callable[[], Awaitable[Any]], what: str) -> Any:
    for _ in range(200):
        if found := await check():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(what)


async def test_one_growing_message_in_a_thread_and_back_in_the_channel(tmp_path: Path) -> None:
    async with spawn() as sim, ControlClient(sim.card["control_url"]) as discord:
        scene = Scene(sim, discord, tmp_path)
        for member in (scene.ada, scene.ben):
            await discord.voice(member_id=member, channel_id=scene.voice)

        async def set_to(key: str, value: str) -> None:
            answer = await scene.said("/config set", scene.ada, plugin="stt", key=key, value=value)
            assert value in answer, answer

        async def speak() -> None:
            await discord.speak(member_id=scene.ben, recording="lv_0880")

        async with run_bot(scene.arguments, scene.environ) as bot:
            await bot.ready()
            await set_to("captions.mode", "edited")
            await set_to("captions.where", "thread")
            await scene.ask("/voice join", scene.ben)
            await scene.ask("/transcribe start", scene.ben)
            notice = next(each for each in await discord.messages(channel_id=scene.text) if each["components"])
            await discord.press(member_id=scene.ben, message_id=int(notice["id"]), label="Agree")
            await speak()
            (thread,) = await until(lambda: discord.threads(channel_id=scene.text), "no thread was made")
            assert thread["name"] == "Captions of perch"

            async def grown() -> Any:
                rows = await discord.messages(channel_id=int(thread["id"]))
                return rows if rows and rows[0]["content"].count(WORDS) == 2 else None

            await speak()
            (row,) = await until(grown, "the message did not grow")
            assert row["edits"] == 1
            assert not any(WORDS in text for text in await scene.posted())

            async def told_anew() -> bool:
                return "becomes captions in a thread" not in (await notices())[-1] and len(await notices()) == 2

            async def notices() -> list[str]:
                found = await discord.messages(channel_id=scene.voice)
                return [str(each["content"]) for each in found if each["components"]]

            await set_to("captions.where", "channel")
            await until(told_anew, "no new notice came")
            await set_to("captions.mode", "messages")
            await scene.speak()
            assert len(await discord.messages(channel_id=int(thread["id"]))) == 1
            bot.terminate()
            assert await bot.wait(10) == 0


async def test_what_is_being_said_stands_there_before_it_is_finished(tmp_path: Path) -> None:
    async with spawn() as sim, ControlClient(sim.card["control_url"]) as discord:
        scene = Scene(sim, discord, tmp_path)
        for member in (scene.ada, scene.ben):
            await discord.voice(member_id=member, channel_id=scene.voice)
        async with run_bot(scene.arguments, scene.environ) as bot:
            await bot.ready()
            for key, value in (("captions.mode", "edited"), ("captions.partials", "true")):
                await scene.said("/config set", scene.ada, plugin="stt", key=key, value=value)
            await scene.ask("/voice join", scene.ben)
            await scene.ask("/transcribe start", scene.ben)
            notice = next(each for each in await discord.messages(channel_id=scene.text) if each["components"])
            await discord.press(member_id=scene.ben, message_id=int(notice["id"]), label="Agree")

            async def standing() -> Any:
                return [text for text in await scene.posted() if WORDS in text]

            async def half() -> Any:
                texts = await standing()
                return texts if texts and texts[0].endswith(f"{WORDS} …") else None

            async def whole() -> Any:
                texts = await standing()
                return texts if texts and texts[0].endswith(WORDS) else None

            speaking = asyncio.create_task(discord.speak(member_id=scene.ben, recording="lv_0920"))
            assert len(await until(half, "nothing was shown before the end")) == 1
            assert len(await until(whole, "the transcript did not take its place")) == 1
            await speaking
            bot.terminate()
            assert await bot.wait(10) == 0
            assert not any("…" in text for text in await standing())
