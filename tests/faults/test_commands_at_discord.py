"""Discord's copy of the commands, in many servers and beside those of others: rows 145 to 147, 174 and 178."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import aiohttp
import pytest
from bot_scene import Scene, scenes
from fault_report import Fault

pytestmark = pytest.mark.e2e

FEW = 40
MANY = 600


async def requests(scene: Scene, *methods: str, refused: bool = False) -> int:
    """REST requests about commands so far: those that were carried out, or those that were limited (429)."""
    return sum(
        each["method"] in methods and each["path"].endswith("/commands") and (each["status"] == 429) is refused
        for each in await scene.log("rest")
    )


async def register(scene: Scene, name: str, guild_id: int | None) -> None:
    """Another program registers a command of the same application."""
    bot = scene.sim.card["bots"][0]
    scope = f"guilds/{guild_id}/" if guild_id is not None else ""
    url = f"{scene.sim.card['rest_url']}/applications/{bot['application_id']}/{scope}commands"
    headers = {"Authorization": f"Bot {bot['token']}"}
    command = {"name": name, "description": "Somebody's", "type": 1}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(url, json=command) as answer:
        assert answer.status == 201


async def names(scene: Scene, guild_id: int | None) -> set[str]:
    commands = (await scene.discord.state())["commands"]
    return set(commands.get("global" if guild_id is None else str(guild_id), []))


@pytest.mark.fault(145)
async def test_a_limited_guild_holds_up_neither_ready_nor_the_others(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path, "--guilds", str(FEW)) as scene:
        application = scene.sim.card["bots"][0]["application_id"]
        first = scene.sim.card["guilds"][0]["id"]
        await scene.discord.fault(
            "rest_limited", path_prefix=f"/applications/{application}/guilds/{first}/commands", seconds=45
        )
        began = time.monotonic()
        async with scene.bot(told=False) as bot:
            with fault.clock(scaled=False):
                async with asyncio.timeout(20):
                    while len((await scene.discord.state())["commands"]) < FEW - 1:
                        await asyncio.sleep(0.1)
            assert await names(scene, int(first)) == set()
            assert time.monotonic() - began < 30
            assert not any("could not be set" in each["message"] for each in bot.events), (
                "it waits, and is not given up"
            )
            assert any(each.get("event") == "ready" for each in bot.events)
            bot.terminate()
            assert await bot.wait(10) == 0


@pytest.mark.fault(178)
async def test_commands_that_discord_had_no_answer_for_are_sent_again(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path) as scene:
        application = scene.sim.card["bots"][0]["application_id"]
        path = f"/applications/{application}/guilds/{scene.guild_id}/commands"
        await scene.discord.fault("rest_error", path_prefix=path, status=200, body=None)
        with fault.clock(scaled=False):
            async with scene.bot() as bot:
                assert await names(scene, scene.guild_id) == set()
                async with asyncio.timeout(20):
                    while "voice" not in await names(scene, scene.guild_id):
                        await asyncio.sleep(0.1)
                # A refusal is none: what Discord said once it will say again.
                told = sum("could not be set" in each["message"] for each in bot.events)
        assert told == 1


@pytest.mark.fault(146)
@pytest.mark.parametrize("guilds", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
async def test_a_second_start_tells_discord_nothing(guilds: int, tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path, "--guilds", str(guilds)) as scene:
        async with scene.bot(ready_s=120.0) as bot:
            first = await requests(scene, "GET", "PUT")
            print([(each["t"], each["message"]) for each in bot.events if each.get("event") in ("ready", "commands")])
            print(first, "carried out", await requests(scene, "GET", "PUT", refused=True), "limited")
            assert await requests(scene, "PUT") == guilds
            bot.terminate()
            assert await bot.wait(10) == 0
        async with scene.bot() as bot:
            told = [each for each in bot.events if each.get("event") == "commands"]
            ready = next(each["t"] for each in bot.events if each.get("event") == "ready")
            print([each["message"] for each in told], first, await requests(scene, "GET", "PUT"))
            assert await requests(scene, "PUT") == guilds
            assert await requests(scene, "GET", "PUT") <= first + 1, "one question, about global commands"
            fault.note(max(told[0]["t"] - ready, 0.0), scaled=False)
            assert "Joined" in await scene.join(), "what Discord has of the first start works"
            bot.terminate()
            assert await bot.wait(10) == 0


@pytest.mark.fault(147)
@pytest.mark.parametrize("remove", ["false", "true"])
async def test_commands_of_others_stay_unless_they_are_to_go(remove: str, tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path) as scene:
        await register(scene, "theirs", None)
        await register(scene, "theirs-here", scene.guild_id)
        began = time.monotonic()
        async with scene.bot(commands__remove_foreign=remove) as bot:
            fault.note(time.monotonic() - began, scaled=False)
            here = await names(scene, scene.guild_id)
            assert {"voice", "privacy"} <= here
            assert ("theirs-here" in here) == (remove == "false")
            assert (await names(scene, None) == {"theirs"}) == (remove == "false")
            said = [each for each in bot.events if each.get("event") == "foreign_commands"]
            assert sorted(name for each in said for name in each["names"]) == (
                ["theirs", "theirs-here"] if remove == "false" else []
            )
        # Its own that it no longer has go, beside those of others too.
        async with scene.bot(commands__remove_foreign=remove, plugins__deny="stt,voice", plugins__required=""):
            here = await names(scene, scene.guild_id)
            assert "voice" not in here
            assert ("theirs-here" in here) == (remove == "false")


@pytest.mark.fault(174)
async def test_commands_of_a_killed_bot_are_its_own_at_the_next_start(tmp_path: Path, fault: Fault) -> None:
    """It is killed when Discord has carried out the request, and before it could note the answer."""
    async with scenes(tmp_path) as scene:
        application = scene.sim.card["bots"][0]["application_id"]
        path = f"/applications/{application}/guilds/{scene.guild_id}/commands"
        await scene.discord.fault("rest_delay", method="PUT", path_prefix=path, delay_s=2)
        async with scene.bot(told=False) as bot:
            async with asyncio.timeout(10):
                while not any(each["path"] == path for each in await scene.log("rest")):
                    await asyncio.sleep(0.01)
            with contextlib.closing(sqlite3.connect(tmp_path / "data" / "roost.sqlite3")) as connection:
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")  # the bot's next write waits
                async with asyncio.timeout(10):
                    while "voice" not in await names(scene, scene.guild_id):
                        await asyncio.sleep(0.01)
                bot.kill()
                await bot.wait(10)
        began = time.monotonic()
        async with scene.bot(plugins__deny="stt,voice", plugins__required="") as bot:
            fault.note(time.monotonic() - began, scaled=False)
            assert not [each for each in bot.events if each.get("event") == "foreign_commands"]
            here = await names(scene, scene.guild_id)
            assert "privacy" in here
            assert "voice" not in here
            bot.terminate()
            assert await bot.wait(10) == 0
