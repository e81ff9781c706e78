from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from pg_server import Server

from roost.access import Rule
from roost.errors import ResourceError, UsageError
from roost.store import open_store
from roost.store.database import open_database

pytestmark = pytest.mark.unit

WRITER = """
import asyncio, sys
from pathlib import Path
from roost.store import open_store
from roost.store.database import open_database

async def main():
    async with open_store(Path(sys.argv[1]), sys.argv[2] or None) as store:
        collection = store.of_plugin("some").collection("things")
        for number in range(1000):
            await store.set_setting("some", 1, f"k{number}", number)
            await collection.put(f"k{number:04}", {"number": number}, guild_id=1)
            print(number, flush=True)

asyncio.run(main())
"""


async def test_settings_enablement_and_consent_survive_reopening(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        await store.set_setting("stt", 1, "language", {"code": "de"})
        await store.set_setting("stt", None, "language", "en")
        await store.set_setting("stt", 1, "language", {"code": "fr"})
        await store.set_enabled("stt", 1, False)
        await store.set_consents({(1, 2): False, (3, 2): False})
        await store.set_consents({(1, 2): "30..", (4, 4): None})
        await store.set_guild_config("stt", 1, {"a": 1, "b.c": [2]}, ())
        await store.set_guild_config("stt", 1, {"b.c": None}, ("a",))
        await store.set_access_rule(1, Rule("voice", "role", 5, False))
        await store.set_access_rule(1, Rule("voice", "role", 5, True))
        await store.set_access_rule(1, Rule("voice", "user", 5, True))
        await store.remove_access_rule(1, Rule("voice", "user", 5, False))
    async with open_store(tmp_path, url) as store:
        assert await store.get_setting("stt", 1, "language") == {"code": "fr"}
        assert await store.get_setting("stt", None, "language") == "en"
        assert await store.get_setting("stt", 2, "language", "none") == "none"
        assert await store.enablement() == {("stt", 1): False}
        assert await store.consents() == {(1, 2): "30..", (3, 2): False}
        assert await store.guild_config() == {("stt", 1): {"b.c": None}}
        assert await store.access_rules() == {1: [Rule("voice", "role", 5, True)]}
        await store.set_consents({(1, 2): None})
        assert await store.consents() == {(3, 2): False}


async def test_snowflakes_as_large_as_they_get(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        await store.set_consents({(2**63 - 1, 2**63 - 2): ""})
        assert await store.consents() == {(2**63 - 1, 2**63 - 2): ""}


async def test_writes_at_the_same_time_all_arrive(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        collection = store.of_plugin("some").collection("things")
        await asyncio.gather(
            *(store.set_setting("some", 1, "same", number) for number in range(20)),
            *(collection.put(f"k{number}", number) for number in range(20)),
            *(collection.put("same", number) for number in range(20)),
        )
        assert await store.get_setting("some", 1, "same") in range(20)
        assert await collection.count() == 21


async def test_two_processes_may_open_a_new_database_at_once(tmp_path: Path, url: str | None) -> None:
    async def open_and_write(number: int) -> None:
        async with open_store(tmp_path, url) as store:
            await store.of_plugin("some").collection("things").put(f"k{number}", number)

    await asyncio.gather(*(open_and_write(number) for number in range(6)))
    async with open_store(tmp_path, url) as store:
        assert await store.of_plugin("some").collection("things").count() == 6


async def test_a_new_database_may_be_opened_many_times_at_once(tmp_path: Path) -> None:
    async def look(folder: Path) -> None:
        async with open_database(folder, None) as database, database.read() as connection:
            assert (await connection.execute(sa.text("PRAGMA journal_mode"))).scalar() == "wal"

    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        await asyncio.gather(*(look(folder) for _ in range(6)))


async def test_killed_in_the_middle_of_a_thousand_writes_it_loses_at_most_the_last(
    tmp_path: Path, url: str | None
) -> None:
    acknowledged = -1
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), url or ""], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        try:
            for line in writer.stdout:
                acknowledged = int(line)
                if acknowledged == 400:
                    os.kill(writer.pid, signal.SIGKILL)
        finally:
            writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert 400 <= acknowledged < 999, "it was killed in the middle"
    if url is None:
        with sqlite3.connect(tmp_path / "roost.sqlite3") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    async with open_store(tmp_path, url) as store:
        entries = await store.of_plugin("some").settings.entries()
        documents = await store.of_plugin("some").collection("things").query(limit=1000)
        for kept in ({int(key[1:]) for _, key in entries}, {int(each.key[1:]) for each in documents}):
            assert kept >= set(range(acknowledged + 1))
            assert len(kept) <= acknowledged + 2
        assert all(entries[1, f"k{number}"] == number for number in range(acknowledged + 1))
        await store.set_setting("some", 1, "after", 1)


async def test_the_file_is_private_and_has_a_write_ahead_log(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_store(tmp_path) as store:
            await store.set_setting("some", 1, "k", 1)
            files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert files["roost.sqlite3"] == 0o600
    assert files["roost.sqlite3-wal"] == 0o600
    with sqlite3.connect(tmp_path / "roost.sqlite3") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_a_file_that_was_open_to_others_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "roost.sqlite3").touch(mode=0o644)
    async with open_store(tmp_path):
        assert stat.S_IMODE((tmp_path / "roost.sqlite3").stat().st_mode) == 0o600


async def test_collections_keep_documents_by_key_guild_and_user(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        lines = store.of_plugin("stt").collection("lines")
        await lines.put("b", {"text": "zwei\0 ✓"}, guild_id=1, user_id=7)
        await lines.put("a", ["one", None, 1.5], guild_id=1, user_id=8)
        await lines.put("C", "three", guild_id=2, user_id=7)
        await lines.put("b2", "four", guild_id=1)
        await store.of_plugin("stt").collection("other").put("a", 1, user_id=7)
        await store.of_plugin("other").collection("lines").put("a", 2, user_id=7)
    async with open_store(tmp_path, url) as store:
        mine = store.of_plugin("stt")
        lines = mine.collection("lines")
        assert await lines.get("b") == {"text": "zwei\0 ✓"}
        assert await lines.get("nothing", "default") == "default"
        found = await lines.document("a")
        assert found is not None
        assert (found.value, found.guild_id, found.user_id) == (["one", None, 1.5], 1, 8)
        assert [each.key for each in await lines.query()] == ["C", "a", "b", "b2"]
        assert [each.key for each in await lines.query(newest_first=True, limit=2)] == ["b2", "b"]
        assert [each.key for each in await lines.query(newest_first=True, after="b")] == ["a", "C"]
        assert [each.key for each in await lines.query(after="a", limit=1)] == ["b"]
        assert [each.key for each in await lines.query(guild_id=1)] == ["a", "b", "b2"]
        assert [each.key for each in await lines.query(user_id=7)] == ["C", "b"]
        assert [each.key for each in await lines.query(guild_id=1, user_id=7)] == ["b"]
        assert [each.key for each in await lines.query(prefix="b")] == ["b", "b2"]
        assert [each.key for each in await lines.query(prefix="c")] == []
        assert [each.key for each in await lines.query(prefix="_")] == []
        assert await lines.count(guild_id=1) == 3
        assert await mine.collections() == ["lines", "other"]
        assert set(await mine.about_user(7)) == {"lines", "other"}
        assert (await mine.about_user(7))["lines"]["C"] == "three"
        await lines.put("b", "changed")
        assert await lines.query(guild_id=1, prefix="b") == [await lines.document("b2")], "a put replaces all of it"
        assert await lines.delete("b")
        assert not await lines.delete("b")
        assert await mine.forget_user(7) == 2
        assert await store.of_plugin("other").collection("lines").get("a") == 2
        assert await lines.delete_where(guild_id=1, changed_before=0.0) == 0
        assert await lines.delete_where(guild_id=1) == 2
        assert await lines.count() == 0
        await lines.put_many((f"{n:03}", n, 1, None) for n in range(5))
        assert await lines.clear() == 5
        await lines.put_many((f"{n:04}", n, n % 2, None) for n in range(2500))
        seen = []
        async for each in lines.scan(guild_id=1):
            seen.append(each.value)
            if each.value % 500 == 1:
                await lines.put(each.key, "changed", guild_id=1)
        assert seen == list(range(1, 2500, 2))


async def test_what_cannot_be_stored_is_refused_and_nothing_of_it_stored(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        lines = store.of_plugin("stt").collection("lines")
        for key in ("", "x" * 256, "nul\0", "\ud800"):
            with pytest.raises(UsageError, match="a key is"):
                await lines.put(key, 1)
        for value in (object(), float("nan"), {1, 2}):
            with pytest.raises(UsageError, match="cannot be stored as JSON"):
                await lines.put_many([("good", 1, None, None), ("bad", value, None, None)])
        assert await lines.count() == 0
        with pytest.raises(UsageError, match="collection's name"):
            store.of_plugin("stt").collection("No")
        with pytest.raises(UsageError, match="1 to 1000"):
            await lines.query(limit=0)
        with pytest.raises(UsageError, match="clear"):
            await lines.delete_where()


async def test_plugins_with_like_names_have_tables_of_their_own(tmp_path: Path, url: str | None) -> None:
    names = ["a-b", "a_b", "x" * 64, "x" * 63 + "y", "select"]
    async with open_store(tmp_path, url) as store:
        for name in names:
            await store.of_plugin(name).collection("c").put("k", name)
        for name in names:
            assert await store.of_plugin(name).collection("c").get("k") == name


async def test_a_lost_connection_is_an_error_that_says_so_and_the_next_call_works(
    tmp_path: Path, postgres: Server
) -> None:
    name = postgres.new_database()
    async with open_store(tmp_path, postgres.url(name)) as store:
        await store.set_setting("some", 1, "k", 1)
        postgres.run(
            "psql", "-h", str(postgres.folder), "-U", "roost", "postgres", "-c",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )  # fmt: skip
        assert await store.get_setting("some", 1, "k") == 1
        postgres.run("dropdb", "-h", str(postgres.folder), "-U", "roost", "--force", name)
        with pytest.raises(ResourceError, match="the database failed") as caught:
            await store.set_setting("some", 1, "k", "a secret text")
        assert "a secret text" not in str(caught.value)
        assert caught.value.retryable


async def test_readers_and_writers_that_are_cancelled_leave_nothing_open(tmp_path: Path) -> None:
    """An interrupted statement would keep its file open until the garbage collector comes by."""
    async with open_store(tmp_path) as store:
        collection = store.of_plugin("birds").collection("eggs")
        for number in range(20):
            await collection.put(str(number), number)

        async def works(number: int) -> None:
            async for each in collection.scan():
                await collection.put(each.key, number)

        gc.collect()
        gc.disable()
        try:
            before = len(list(Path("/proc/self/fd").iterdir()))
            for number in range(60):
                task = asyncio.ensure_future(works(number))
                for _ in range(number):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert len(list(Path("/proc/self/fd").iterdir())) <= before
        finally:
            gc.enable()
        assert await collection.count() == 20


async def test_a_plugin_that_asks_too_much_at_once_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost.store.database.TURN_S", 0.05)
    async with open_store(tmp_path) as store:
        things = store.of_plugin("greedy").collection("things")
        await things.put("first", 1)
        answers = await asyncio.gather(*(things.put(str(number), 1) for number in range(500)), return_exceptions=True)
        refused = [each for each in answers if each is not None]
        assert refused
        # On a busy machine those whose turn among the plugin's own has come may wait too long for the next turn, too.
        too_many = "the database was busy with this plugin's other requests for 0 s; ask for fewer at once"
        said = {str(each) for each in refused}
        assert too_many in said
        assert said <= {too_many, "the database was busy with requests of plugins for 0 s; try again"}
        assert await things.count() == 1 + len(answers) - len(refused)
