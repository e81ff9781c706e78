"""Processes that are killed, stopped for a while or started twice: rows 74, 76 and 77."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import hikari
import pytest
from bot_scene import Scene, scenes
from context import eventually, leave_ghost, running
from fault_report import FULL, Fault

from roost.instances import instances_dir
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost_voice.journal import Journal, parse, read_dead

WRITER = """
import itertools, sys
from pathlib import Path
from roost_voice.journal import Journal
journal = Journal(Path(sys.argv[1]), "victim")
print("writing", flush=True)
for number in itertools.count(1):
    for guild in range(1, 40):
        journal.write(guild, number, f"session {number}")
    for guild in range(2, 40):
        journal.remove(guild)
"""


@pytest.mark.sim
@pytest.mark.fault(74)
@pytest.mark.parametrize("kill", range(12))
async def test_killed_while_it_writes_the_journal_is_whole(kill: int, fault: Fault, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 20)
    await asyncio.sleep(random.Random(kill).uniform(0.0, 0.1))
    process.kill()
    await process.wait()
    with fault.clock():
        found = parse((instances_dir(tmp_path) / "victim.json").read_bytes())
        assert found
        assert set(found) <= set(range(1, 40))
        dead = read_dead(tmp_path, "me")
    assert found in dead.values()


@pytest.mark.sim
@pytest.mark.fault(74)
@pytest.mark.parametrize("ghosts", ["honoured", "ignored"])
async def test_a_torn_journal_is_ignored_and_the_ghost_ended(ghosts: str, fault: Fault, tmp_path: Path) -> None:
    async with SimulatedDiscord(SimSettings(guilds=1, ghost_null=ghosts)) as sim:
        guild = next(iter(sim.world.guilds.values()))
        channel = guild.of_type(2)[1].id
        Journal(tmp_path, "dead").write(guild.id, channel, "a session")
        file = instances_dir(tmp_path) / "dead.json"
        whole = file.read_bytes()
        assert all(parse(whole[:length]) is None for length in range(len(whole)))
        file.write_bytes(whole[: len(whole) // 2])
        await leave_ghost(sim, channel)
        async with running(sim, tmp_path) as rig:
            with fault.clock():
                await eventually(lambda: rig.place is None)
            assert rig.most == 1


@pytest.mark.e2e
@pytest.mark.fault(76)
async def test_foreign_software_with_the_token_and_roost_leave_each_other_alone(fault: Fault, tmp_path: Path) -> None:
    """The setting for that is ``voice.exclusive = false``; a second Roost is refused (row 150)."""
    async with scenes(tmp_path) as scene:
        elsewhere = scene.sim.card["guilds"][1]
        there = int(elsewhere["voice_channels"][0]["id"])
        async with foreign_bot(scene, int(elsewhere["id"]), there):
            before = await scene.log("op4", "voice_state")
            async with scene.bot(voice__exclusive="false") as bot:
                assert "Joined" in await scene.join()
                await asyncio.sleep(2.5)  # the reaper's first step would have been done by now
                with fault.clock():
                    log = await scene.log("op4", "voice_state")
                    assert [each for each in log if each["guild_id"] == elsewhere["id"]] == before
                bot.terminate()
                assert await bot.wait(10) == 0
            states = (await scene.discord.state())["voice_states"]
            own = [each["channel_id"] for each in states if str(each["user_id"]) == scene.bot_id]
            assert own == [str(there)]


@pytest.mark.e2e
@pytest.mark.fault(171)
async def test_foreign_software_keeps_the_place_of_a_killed_bot(fault: Fault, tmp_path: Path) -> None:
    """It joined where the killed bot was, in the same channel; the dead journal names the session before."""
    async with scenes(tmp_path) as scene:
        async with scene.bot(voice__exclusive="false") as bot:
            assert "Joined" in await scene.join()
            bot.kill()
            await bot.wait(10)
        assert await scene.place() == scene.voice[0]
        async with foreign_bot(scene, scene.guild_id, scene.voice[0]):
            async with asyncio.timeout(10):
                while len(await scene.log("op4")) < 2:
                    await asyncio.sleep(0.02)
            before = await scene.log("op4", "voice_state")
            async with scene.bot(voice__exclusive="false") as bot:
                await asyncio.sleep(2.5)  # the reaper's first step would have been done by now
                with fault.clock():
                    assert await scene.log("op4", "voice_state") == before
                bot.terminate()
                assert await bot.wait(10) == 0
            assert await scene.place() == scene.voice[0]


@pytest.mark.e2e
@pytest.mark.fault(170)
async def test_a_ghost_ends_where_voice_is_switched_off(fault: Fault, tmp_path: Path) -> None:
    """A kill right after ``/plugins disable voice`` was stored, and before the bot had left."""
    async with scenes(tmp_path) as scene:
        async with scene.bot() as bot:
            assert "Joined" in await scene.join()
            bot.kill()
            await bot.wait(10)
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "roost.sqlite3")) as connection:
            connection.execute("INSERT INTO roost_enablement VALUES ('voice', ?, 0)", (scene.guild_id,))
            connection.commit()
        assert await scene.place() == scene.voice[0]
        async with scene.bot() as bot:
            with fault.clock():
                await scene.gone()
            bot.terminate()
            assert await bot.wait(10) == 0


@contextlib.asynccontextmanager
async def foreign_bot(scene: Scene, guild_id: int, channel_id: int) -> AsyncIterator[None]:
    """Software that is not Roost, with the same token, and in voice."""
    card = scene.sim.card
    bot = hikari.GatewayBot(
        card["bots"][0]["token"],
        rest_url=card["rest_url"],
        banner=None,
        logs=None,
        suppress_optimization_warning=True,
    )
    await bot.start(check_for_updates=False)
    try:
        await bot.shards[0].update_voice_state(guild_id, channel_id)
        async with asyncio.timeout(10):
            while await scene.place() != channel_id:
                await asyncio.sleep(0.02)
        yield
    finally:
        await bot.close()


@pytest.mark.e2e
@pytest.mark.fault(77)
async def test_a_process_that_was_stopped_for_a_while_is_there_once(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        os.kill(bot.pid, signal.SIGSTOP)
        await asyncio.sleep(60 if FULL else 6)
        os.kill(bot.pid, signal.SIGCONT)
        woke = time.monotonic()
        async with asyncio.timeout(15):
            while True:
                answer = await scene.discord.slash(
                    member_id=scene.ada, channel_id=scene.text, command="/voice status", wait_s=2.0
                )
                said = answer["replies"][-1]["content"] if answer["replies"] else ""
                live = (await scene.discord.state())["sessions"]["live"]
                if (": live" in said and live == 1) or (said.startswith("I am in no voice channel.") and live == 0):
                    break
                await asyncio.sleep(0.1)
        fault.note(time.monotonic() - woke, scaled=False)
        assert (await scene.discord.state())["max_sessions_per_guild"] == 1
        bot.terminate()
        assert await bot.wait(10) == 0
        assert await scene.place() is None
