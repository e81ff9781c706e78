"""Withdrawn words that are still at Discord, or in the store, when the bot ends: rows 305 and 306, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from bot_scene import Scene, scenes
from fault_report import Fault

from roost.demo.bot_process import BotProcess

pytestmark = pytest.mark.e2e

STT = {
    "plugins__deny": "",
    "plugins__required": "voice,stt",
    "stt__engine": "scripted",
    "stt__script": "words of {user} number {count}",
    "stt__captions__mode": "edited",
}


async def text_of(scene: Scene) -> str:
    return "\n".join(str(each["content"]) for each in await scene.discord.messages(channel_id=scene.text))


async def until(scene: Scene, check: Callable[[str], bool], within_s: float = 20.0) -> str:
    async with asyncio.timeout(within_s):
        while not check(text := await text_of(scene)):
            await asyncio.sleep(0.05)
    return text


async def both_say(scene: Scene) -> int:
    """Have Ada and Ben agree and say something; the id of Ben."""
    ben = next(int(each["id"]) for each in scene.sim.card["guilds"][0]["members"] if each["name"] == "Ben")
    await scene.discord.voice(member_id=ben, channel_id=scene.voice[0])
    for member in (scene.ada, ben):
        await scene.discord.slash(member_id=member, channel_id=scene.text, command="/privacy opt-in")
    assert "Joined" in await scene.join()
    await scene.discord.slash(member_id=scene.ada, channel_id=scene.text, command="/transcribe start", wait_s=15)
    for member, name in ((ben, "Ben"), (scene.ada, "Ada")):
        await scene.discord.speak(member_id=member, recording="lv_0880")
        await until(scene, lambda text, name=name: f"**{name}**: words" in text)
    return ben


def stored(folder: Path, user_id: int) -> int:
    """How many lines of a member the database has."""
    with contextlib.closing(sqlite3.connect(folder / "data" / "roost.sqlite3")) as database:
        query = "SELECT count(*) FROM plugin_stt WHERE collection = 'lines' AND user_id = ?"
        return int(database.execute(query, (user_id,)).fetchone()[0])


async def refused(bot: BotProcess) -> None:
    await bot.wait_for(lambda event: "a caption could not be written" in str(event), 15.0, "a refused change")


@pytest.mark.fault(305)
async def test_withdrawn_words_that_discord_keeps_go_after_a_later_start(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path) as scene:
        async with scene.bot(**STT) as bot:
            ben = await both_say(scene)
            path = f"/channels/{scene.text}/messages"
            armed = await scene.discord.fault("rest_error", method="PATCH", path_prefix=path, status=500, times=1000)
            await scene.discord.slash(member_id=ben, channel_id=scene.text, command="/privacy opt-out")
            await refused(bot)
            bot.kill()
            await bot.wait(10.0)
        async with scene.bot(**STT) as bot:
            await refused(bot)
            bot.terminate()
            await bot.wait(10.0)
            assert any("go from https://discord.com/channels/" in str(event) for event in bot.events)
        await scene.discord.disarm(armed)
        assert "**Ben**: words" in await text_of(scene)
        async with scene.bot(**STT):
            with fault.clock(scaled=False):
                text = await until(scene, lambda text: "**Ben**" not in text)
        assert "**Ada**: words" in text


@pytest.mark.fault(306)
async def test_withdrawn_line_that_the_store_keeps_goes_after_a_kill(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path) as scene:
        async with scene.bot(**STT) as bot:
            ben = await both_say(scene)
            before = stored(tmp_path, ben)
            with contextlib.closing(
                sqlite3.connect(tmp_path / "data" / "roost.sqlite3", isolation_level=None)
            ) as other:
                other.execute(
                    "CREATE TRIGGER kept BEFORE DELETE ON plugin_stt WHEN old.collection = 'lines' "
                    "BEGIN SELECT raise(ABORT, 'the disk is full'); END"
                )
                # The line waits for the store, and Ben withdraws it meanwhile.
                other.execute("BEGIN IMMEDIATE")
                await scene.discord.speak(member_id=ben, recording="lv_0880")
                await asyncio.sleep(2.0)
                withdrawn = asyncio.create_task(
                    scene.discord.slash(member_id=ben, channel_id=scene.text, command="/privacy opt-out")
                )
                await asyncio.sleep(1.0)
                other.execute("COMMIT")
                await withdrawn
                await bot.wait_for(lambda event: "a withdrawn line is still stored" in str(event), 15.0, "a refusal")
                bot.kill()
                await bot.wait(10.0)
                other.execute("DROP TRIGGER kept")
        assert stored(tmp_path, ben) == before + 1
        with fault.clock(scaled=False):
            async with scene.bot(**STT), asyncio.timeout(15):
                while stored(tmp_path, ben) > before:
                    await asyncio.sleep(0.05)
        assert stored(tmp_path, scene.ada)
