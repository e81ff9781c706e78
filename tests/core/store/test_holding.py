"""Whose the database is: another bot and another process are refused, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pg_server import HOLDS_LOCK, Server, cut_connections

from roost.errors import ConfigError, HeldError
from roost.holder import Holder, Owner
from roost.store import StoreHold, holding, open_held_store
from roost.store.database import Database, open_database
from roost.store.holding import hold_store

HOLDER = Holder(os.getpid(), "here", 1_700_000_000.0, 7)
OWNER = Owner(7, 70, "Seven")
STRANGER = dataclasses.replace(HOLDER, bot_id=8)
HOLDING = """
import asyncio, sys
from pathlib import Path
from roost.holder import Holder
from roost.store import open_held_store

async def hold():
    async with open_held_store(Path(sys.argv[1]), Holder.of_this_process(7), sys.argv[2] or None):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


@contextlib.asynccontextmanager
async def held(folder: Path, url: str | None, holder: Holder = HOLDER) -> AsyncIterator[StoreHold]:
    async with open_held_store(folder, holder, url) as (_store, hold):
        yield hold


@contextlib.asynccontextmanager
async def holding_process(folder: Path, url: str | None) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDING, str(folder), url or "", stdout=PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.unit
async def test_another_holder_is_refused_by_name_until_the_first_has_gone(tmp_path: Path, url: str | None) -> None:
    # Not "or name another database": two processes of one bot end each other's calls wherever their data is.
    words = rf"process {os.getpid()} on here since 2023-11-14 22:13:20 UTC; stop that process$"
    async with held(tmp_path, url):
        with pytest.raises(HeldError, match=words):
            async with held(tmp_path, url):
                raise AssertionError("held twice")
    async with held(tmp_path, url) as hold:
        assert await hold.trouble() == ""


@pytest.mark.e2e
async def test_a_killed_holder_is_gone_and_a_stopped_one_is_not(tmp_path: Path, url: str | None) -> None:
    async with holding_process(tmp_path, url) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(HeldError, match=f"process {process.pid} on "):
            async with held(tmp_path, url):
                raise AssertionError("held twice")
        process.kill()
        await process.wait()
        async with asyncio.timeout(2):
            while True:  # the server sees the end of a connection a moment after the process's
                with contextlib.suppress(HeldError):
                    async with held(tmp_path, url):
                        break
                await asyncio.sleep(0.02)


@pytest.mark.unit
async def test_another_bot_is_refused_by_name(tmp_path: Path, url: str | None) -> None:
    async with held(tmp_path, url) as hold:
        await hold.claim(OWNER)
        await hold.claim(dataclasses.replace(OWNER, name="Septimus"))
    with pytest.raises(ConfigError, match=r"the bot Septimus \(application 70\), .* the bot 8; name another database"):
        async with held(tmp_path, url, STRANGER):
            raise AssertionError("let in")


@pytest.mark.unit
@pytest.mark.parametrize("refused", ["a second process", "another bot"])
async def test_a_process_that_is_refused_changes_no_table(tmp_path: Path, url: str | None, refused: str) -> None:
    async with open_held_store(tmp_path, HOLDER, url) as (store, hold):
        await hold.claim(OWNER)
        await store.of_plugin("foo").collection("notes").put("key", 1)
    # As a process of an older version has it.
    former = [
        "DROP TABLE roost_deletions",
        "DROP INDEX ix_plugin_foo_user",
        "CREATE INDEX plugin_foo_user ON plugin_foo (user_id, collection)",
    ]
    async with open_database(tmp_path, url) as database, contextlib.AsyncExitStack() as stack:
        if refused == "a second process":
            await stack.enter_async_context(hold_store(database, HOLDER))
        async with database.write() as connection:
            for statement in former:
                await connection.exec_driver_sql(statement)
        before = await names(database)
        with pytest.raises(HeldError if refused == "a second process" else ConfigError):
            async with held(tmp_path, url, HOLDER if refused == "a second process" else STRANGER):
                raise AssertionError("let in")
        assert await names(database) == before
        assert "plugin_foo_user" in before
    async with held(tmp_path, url):
        pass
    async with open_database(tmp_path, url) as database:
        assert {"ix_plugin_foo_user", "roost_deletions"} <= await names(database)


async def names(database: Database) -> set[str]:
    """Of all tables and indexes."""
    query = "SELECT name FROM sqlite_master" if database.is_sqlite else "SELECT relname FROM pg_class"
    async with database.read() as connection:
        return {str(row[0]) for row in await connection.exec_driver_sql(query)}


@pytest.mark.unit
async def test_of_two_bots_on_a_new_database_the_second_is_refused(tmp_path: Path, postgres: Server) -> None:
    url = postgres.url(postgres.new_database())
    async with held(tmp_path, url) as first, held(tmp_path, url, STRANGER) as second:
        await first.claim(OWNER)
        with pytest.raises(ConfigError, match="belongs to the bot Seven"):
            await second.claim(Owner(8, 80, "Eight"))


@pytest.mark.unit
async def test_a_lock_that_went_with_its_connection_is_taken_again(tmp_path: Path, postgres: Server) -> None:
    name = postgres.new_database()
    async with held(tmp_path, postgres.url(name)) as hold:
        end_sessions(postgres, name)
        assert await hold.trouble() == ""
        with pytest.raises(HeldError):
            async with held(tmp_path, postgres.url(name)):
                raise AssertionError("held twice")


@pytest.mark.e2e
async def test_a_lock_that_another_process_took_meanwhile_is_lost(tmp_path: Path, postgres: Server) -> None:
    name = postgres.new_database()
    async with held(tmp_path, postgres.url(name)) as hold:
        end_sessions(postgres, name)
        async with holding_process(tmp_path, postgres.url(name)) as process:
            assert f"is in use by process {process.pid} on " in await hold.trouble()


@pytest.mark.unit
@pytest.mark.parametrize("how", ["vanishes", "is new", "is emptied", "is of a backup"])
async def test_a_database_that_is_taken_away_is_lost(how: str, tmp_path: Path, postgres: Server) -> None:
    name = postgres.new_database()
    async with held(tmp_path, postgres.url(name)) as hold:
        await hold.claim(OWNER)
        assert await hold.trouble() == ""
        match how:
            case "is emptied":
                postgres.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", name)
            case "is of a backup":
                postgres.sql("UPDATE roost_holder SET since_s = since_s - 86400", name)
            case _:
                postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")
                if how == "is new":
                    postgres.sql(f"CREATE DATABASE {name}")
        trouble = await hold.trouble()
        assert f"the database {name} at " in trouble
        assert "while the bot ran" in trouble
        if how == "is new":
            assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == "0"


@pytest.mark.unit
async def test_another_bot_may_use_another_database(tmp_path: Path) -> None:
    async with held(tmp_path, None):
        with pytest.raises(HeldError, match=r"stop that process, or name another database in store\.url"):
            async with held(tmp_path, None, STRANGER):
                raise AssertionError("let in")


@pytest.mark.unit
@pytest.mark.parametrize("hard", [False, True])
async def test_two_links_to_one_file_are_one_database(tmp_path: Path, hard: bool) -> None:
    file, link = tmp_path / "data.sqlite3", tmp_path / "link.sqlite3"
    words = "by another name of its file, is in use by another process" if hard else f"process {os.getpid()} on here"
    if not hard:
        link.symlink_to(file)
    async with held(tmp_path, f"sqlite:///{file}"):
        if hard:
            link.hardlink_to(file)
        with pytest.raises(HeldError, match=words):
            async with held(tmp_path, f"sqlite:///{link}"):
                raise AssertionError("held twice")
    async with held(tmp_path, f"sqlite:///{link}"):
        pass


@pytest.mark.unit
async def test_a_server_that_is_away_takes_nothing(
    tmp_path: Path, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    name = postgres.new_database()
    async with held(tmp_path, postgres.url(name)) as hold:
        postgres.run("psql", "-h", str(postgres.folder), "-U", "roost", "postgres", "-c",
                     f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")  # fmt: skip
        end_sessions(postgres, name)
        assert [await hold.trouble(), await hold.trouble()] == ["", ""]
        assert len([each for each in caplog.records if "does not say whether" in each.getMessage()]) == 1
        postgres.run("psql", "-h", str(postgres.folder), "-U", "roost", "postgres", "-c",
                     f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")  # fmt: skip
        assert await hold.trouble() == ""


def end_sessions(postgres: Server, name: str) -> None:
    postgres.run("psql", "-h", str(postgres.folder), "-U", "roost", "postgres", "-c",
                 f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # fmt: skip


@pytest.mark.unit
async def test_lock_that_the_server_still_gives_to_a_lost_session_is_taken_anew(
    tmp_path: Path, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    name = postgres.new_database()
    with cut_connections() as cut:
        async with held(tmp_path, postgres.url(name)) as hold:
            with postgres.silent(name, HOLDS_LOCK):
                cut()
                assert await hold.trouble() == ""
                assert "has not ended an earlier session of this process" in caplog.text
                with pytest.raises(HeldError):
                    async with held(tmp_path, postgres.url(name), dataclasses.replace(HOLDER, pid=1)):
                        raise AssertionError("held twice")
            caplog.set_level("INFO")
            async with asyncio.timeout(5):
                while "is held again" not in caplog.text:
                    assert await hold.trouble() == ""
                    await asyncio.sleep(0.02)


@pytest.mark.unit
async def test_connections_that_went_silent_are_broken_when_new_ones_work(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every statement on them would wait until its own time-out, ten minutes."""
    monkeypatch.setattr(holding, "ANSWER_S", 0.2)
    name = postgres.new_database()
    async with open_held_store(tmp_path, HOLDER, postgres.url(name)) as (store, hold):
        notes = store.of_plugin("foo").collection("notes")
        await notes.put("a", 1)
        with postgres.silent(name):
            putting = asyncio.ensure_future(notes.put("b", 2))
            async with asyncio.timeout(10):
                while not putting.done():
                    assert await hold.trouble() == ""
                    await asyncio.sleep(0.02)
            await putting
