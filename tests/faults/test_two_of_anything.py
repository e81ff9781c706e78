"""Two bots of one user, two processes of one bot, and data that is taken away: rows 76, 150 to 153 and 172."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from bot_scene import QUIET, Scene, scenes
from fault_report import Fault
from pg_server import Server

from roost.demo.bot_process import run_bot
from roost.instances import hold_instance
from roost.store.database import FILE_NAME

pytestmark = pytest.mark.e2e

ENDS_S = 15.0
"""Until a process that is refused has ended, the start of its interpreter included."""


def words(scene: Scene, data: Path, **settings: str) -> list[str]:
    given = {"discord.rest_url": scene.sim.card["rest_url"], "log.format": "json", **QUIET}
    given |= {key.replace("__", "."): value for key, value in settings.items()}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")] + ["--data-dir", str(data)]


def environ(scene: Scene, bot: int = 0) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
    return {**plain, "ROOST_TOKEN": scene.sim.card["bots"][bot]["token"]}


async def refused(scene: Scene, data: Path, bot: int = 0, **settings: str) -> tuple[int, str]:
    """Start a process that is expected to end by itself: its status and the one line it says."""
    async with run_bot(words(scene, data, **settings), environ(scene, bot)) as process:
        status = await process.wait(ENDS_S)
    assert "Traceback" not in "\n".join(process.tail)
    (line,) = [line for line in process.tail if line.startswith("roost: ")]
    return status, line


@pytest.mark.fault(150)
async def test_a_second_process_on_the_folder_is_refused_and_the_first_keeps_its_call(
    fault: Fault, tmp_path: Path
) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as first:
        assert "Joined" in await scene.join()
        before = await scene.log("op4", "voice_state", "gateway_identify", "rest")
        with fault.clock(ENDS_S, scaled=False):
            status, line = await refused(scene, tmp_path / "data")
        assert status == 3
        assert f"process {first.pid} on {os.uname().nodename} since 20" in line
        assert str(tmp_path / "data") in line
        assert await scene.log("op4", "voice_state", "gateway_identify", "rest") == before
        assert await scene.place() == scene.voice[0]
        assert "Already" in await scene.join()
        first.terminate()
        assert await first.wait(10) == 0


@pytest.mark.fault(319)
async def test_a_second_process_on_another_name_of_the_database_is_refused(fault: Fault, tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    other.mkdir(0o700)
    async with scenes(tmp_path) as scene, scene.bot() as first:
        os.link(data / FILE_NAME, other / FILE_NAME)
        with fault.clock(ENDS_S, scaled=False):
            status, line = await refused(scene, other)
        assert status == 3
        assert f"the database {other / FILE_NAME}, by another name of its file, is in use by another process" in line
        first.terminate()
        assert await first.wait(10) == 0


@pytest.mark.fault(151)
@pytest.mark.parametrize("same", ["database", "folder"])
async def test_data_of_another_bot_is_refused(same: str, fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene:
        first = {"store__url": f"sqlite:///{tmp_path / 'shared.sqlite3'}"} if same == "database" else {}
        async with scene.bot(**first) as bot:
            bot.terminate()
            assert await bot.wait(10) == 0
        began = time.monotonic()
        status, line = await refused(scene, tmp_path / ("other" if same == "database" else "data"), 1, **first)
        fault.note(time.monotonic() - began, scaled=False)
        assert status == 2
        owner, stranger = scene.sim.card["bots"][:2]
        assert f"belongs to the bot Roost (application {owner['user_id']})" in line
        assert f"{stranger['user_id']}" in line
        assert "--data-dir" in line
        async with scene.bot(**first) as bot:
            bot.terminate()
            assert await bot.wait(10) == 0


@pytest.mark.fault(162)
@pytest.mark.parametrize("other", ["bot", "process"])
async def test_a_refused_start_leaves_the_tables_as_an_older_version_made_them(
    other: str, fault: Fault, tmp_path: Path
) -> None:
    file = tmp_path / "shared.sqlite3"
    shared = {"store__url": f"sqlite:///{file}"}
    async with scenes(tmp_path) as scene, scene.bot(**shared) as first:
        if other == "bot":
            first.terminate()
            assert await first.wait(10) == 0
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("DROP TABLE roost_guild_config")
            connection.commit()
            before = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
        with fault.clock(ENDS_S, scaled=False):
            status, _line = await refused(scene, tmp_path / "other", int(other == "bot"), **shared)
        assert status == (2 if other == "bot" else 3)
        with contextlib.closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT name, sql FROM sqlite_master").fetchall() == before


@pytest.mark.fault(152)
async def test_a_killed_holder_does_not_block_the_next_start(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene:
        async with scene.bot() as first:
            assert "Joined" in await scene.join()
            os.kill(first.pid, signal.SIGSTOP)
            status, line = await refused(scene, tmp_path / "data")
            assert (status, f"process {first.pid}" in line) == (3, True)
            first.kill()
            await first.wait(5)
        with fault.clock(scaled=False):
            async with scene.bot() as second:
                await scene.gone()
                second.terminate()
                assert await second.wait(10) == 0


@pytest.mark.fault(152)
async def test_a_folder_of_an_older_version_is_adopted(fault: Fault, tmp_path: Path) -> None:
    """Without a record of its owner, with a killed process's lock and journal, and with words in the database."""
    async with scenes(tmp_path) as scene:
        async with scene.bot() as bot:
            bot.terminate()
            assert await bot.wait(10) == 0
        data = tmp_path / "data"
        for name in ("bot.json", "holder.lock", "roost.sqlite3.lock"):
            (data / name).unlink()
        with contextlib.closing(sqlite3.connect(data / "roost.sqlite3")) as connection:
            connection.execute("DROP TABLE roost_owner")
            connection.execute("DROP TABLE roost_holder")
            connection.execute("INSERT INTO roost_settings VALUES ('some', 1, 'key', '\"kept\"')")
            connection.commit()
        (data / "instances" / "old.lock").touch()
        with fault.clock(scaled=False):
            async with scene.bot() as bot:
                bot.terminate()
                assert await bot.wait(10) == 0
        assert json.loads((data / "bot.json").read_text())["bot_id"] == int(scene.bot_id)
        with contextlib.closing(sqlite3.connect(data / "roost.sqlite3")) as connection:
            assert connection.execute("SELECT value FROM roost_settings WHERE plugin = 'some'").fetchall() == [
                ('"kept"',)
            ]
            (owner,) = connection.execute("SELECT bot_id FROM roost_owner").fetchall()
        assert owner == (int(scene.bot_id),)
        assert (await refused(scene, data, 1))[0] == 2


@pytest.mark.fault(152)
async def test_a_living_process_of_an_older_version_holds_its_folder(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene:
        (tmp_path / "data").mkdir(mode=0o700)
        with hold_instance(tmp_path / "data"), fault.clock(ENDS_S, scaled=False):
            status, line = await refused(scene, tmp_path / "data")
        assert status == 3
        assert "is in use by another process" in line


@pytest.mark.fault(153)
@pytest.mark.parametrize("how", ["vanishes", "is replaced", "the whole folder vanishes", "the lock is removed"])
async def test_data_that_is_taken_away_ends_the_bot_in_order(how: str, fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        data = tmp_path / "data"
        file = data / "roost.sqlite3"
        with fault.clock(scaled=False):
            match how:
                case "vanishes":
                    file.unlink()
                case "is replaced":
                    shutil.copy(file, tmp_path / "copy")
                    (tmp_path / "copy").replace(file)
                case "the whole folder vanishes":
                    shutil.rmtree(data)
                case _:
                    (data / "holder.lock").unlink()
            status = await bot.wait(15)
        assert status == 3
        assert await scene.place() is None
        assert await scene.leaves_before_the_gateway()
        (line,) = [line for line in bot.tail if line.startswith("roost: ")]
        assert str(data) in line
        assert "while the bot ran" in line
        assert "Traceback" not in "\n".join(bot.tail)


@pytest.mark.fault(172)
@pytest.mark.parametrize("how", ["vanishes", "is replaced"])
async def test_database_of_a_server_that_is_taken_away_ends_the_bot_in_order(
    how: str, fault: Fault, tmp_path: Path, postgres: Server
) -> None:
    name = postgres.new_database()
    async with scenes(tmp_path) as scene, scene.bot(store__url=postgres.url(name)) as bot:
        assert "Joined" in await scene.join()
        with fault.clock(scaled=False):
            postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")
            if how == "is replaced":
                postgres.sql(f"CREATE DATABASE {name}")
            status = await bot.wait(15)
        assert status == 3
        assert await scene.place() is None
        assert await scene.leaves_before_the_gateway()
        (line,) = [line for line in bot.tail if line.startswith("roost: ")]
        assert f"the database {name} at " in line
        assert "while the bot ran" in line


@pytest.mark.fault(77)
async def test_a_process_that_is_merely_stopped_still_holds_its_data(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        os.kill(bot.pid, signal.SIGSTOP)
        try:
            with fault.clock(scaled=False):
                status, line = await refused(scene, tmp_path / "data")
            assert (status, f"process {bot.pid}" in line) == (3, True)
            assert await scene.place() == scene.voice[0]
        finally:
            os.kill(bot.pid, signal.SIGCONT)
        assert await scene.place() == scene.voice[0]
