"""What is erased is in no file of the database, whatever reads it or kills the process; backups expire."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

import pytest
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import create_async_engine

from roost.errors import ResourceError, UsageError
from roost.store import PluginStore, Store, open_store, traces
from roost.store.backups import DAY_S
from roost.store.database import Connection, Database

pytestmark = pytest.mark.unit

WORDS = "a CANARY of words "
ADA, BEN = 1, 2


def files_with(folder: Path, words: str = "CANARY") -> list[str]:
    return sorted(each.name for each in folder.rglob("*") if each.is_file() and words.encode() in each.read_bytes())


async def fill(store: Store, seed: int = 3) -> None:
    """Lines of two people, long and short, many of them deleted on the way: pages split, and rows move."""
    lines = store.of_plugin("stt").collection("lines")
    dice = random.Random(seed)
    keys: list[str] = []
    for number in range(0, 1500, 50):
        batch = []
        for each in range(number, number + 50):
            key, user = f"{dice.randrange(10**9):014d}-{each}", dice.choice([ADA, BEN, BEN])
            words = (WORDS if user == ADA else "other words ") * dice.choice([1, 3, 10, 400])
            batch.append((key, words, 1, user))
            keys.append(key)
        await lines.put_many(batch)
        for _ in range(10):
            await lines.delete(keys.pop(dice.randrange(len(keys))))


async def cleaned(folder: Path) -> None:
    """Wait until nothing is left in the files and that is noted, so that no other start does it again."""
    reader = sqlite3.connect(folder / "roost.sqlite3", isolation_level=None)
    try:
        for _ in range(200):
            if reader.execute("SELECT wanted FROM roost_traces").fetchone() == (0,):
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("it is not noted")
    finally:
        reader.close()
    assert files_with(folder) == []


async def forget_ada(store: Store) -> bool:
    async with store.of_plugin("stt").erasure.everywhere() as erased:
        await store.of_plugin("stt").forget_user(ADA)
    return erased.traceless


async def test_nothing_is_left_in_any_file_of_sqlite(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await fill(store)
        kept = await store.of_plugin("stt").collection("lines").count(user_id=BEN)
        assert files_with(tmp_path)
        assert await forget_ada(store)
        assert files_with(tmp_path) == []
        assert await store.of_plugin("stt").collection("lines").count(user_id=BEN) == kept > 0
    assert files_with(tmp_path) == []


async def test_a_reader_delays_it_and_it_is_said_so(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.of_plugin("stt").collection("lines").put("a", WORDS, user_id=ADA)
        reader = sqlite3.connect(tmp_path / "roost.sqlite3", isolation_level=None)
        try:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM plugin_stt").fetchone() == (1,)
            async with store.of_plugin("stt").erasure.everywhere(0.5) as erased:
                await store.of_plugin("stt").forget_user(ADA)
            assert not erased.traceless
            assert files_with(tmp_path)
            await store.set_setting("other", 1, "key", "others can write meanwhile")
        finally:
            reader.close()
        assert await store.traces.gone(5.0)
        assert files_with(tmp_path) == []


async def test_a_rebuild_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(tmp_path) as store:
        await store.of_plugin("stt").collection("lines").put("a", WORDS * 1000, user_id=ADA)
        monkeypatch.setattr(traces, "AGAIN_S", (0.05,))
        monkeypatch.setattr(shutil, "disk_usage", lambda _folder: types.SimpleNamespace(free=1000))
        async with store.of_plugin("stt").erasure.everywhere(0.3) as erased:
            await store.of_plugin("stt").forget_user(ADA)
        assert not erased.traceless
        assert "rebuilding the database needs 1 MiB of free space on its disk" in caplog.text
        monkeypatch.undo()
        assert await store.traces.gone(5.0)
        assert files_with(tmp_path) == []


async def test_what_a_killed_process_left_is_removed_after_the_next_start(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await fill(store)
        async with store.traces.deleting():
            await store.of_plugin("stt").forget_user(ADA)
            for file in list(tmp_path.iterdir()):  # as a SIGKILL at this moment leaves them
                (tmp_path / "killed").mkdir(exist_ok=True)
                if file.is_file():
                    (tmp_path / "killed" / file.name).write_bytes(file.read_bytes())
    assert files_with(tmp_path / "killed")
    async with open_store(tmp_path / "killed"):
        await cleaned(tmp_path / "killed")


mine: ContextVar[bool] = ContextVar("mine", default=False)
"""Set in what the test does; the store's tasks that do it inherit it."""


async def test_the_wish_of_a_deletion_that_begins_outlives_the_end_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the block would leave traces that no later start knows of."""
    async with open_store(tmp_path) as store:
        await fill(store)
        async with store.traces.deleting():
            await store.of_plugin("stt").forget_user(ADA)
        write, waits = Database.write, iter([True])
        mine.set(True)

        @asynccontextmanager
        async def ends_late(self: Database) -> AsyncIterator[Connection]:
            async with write(self) as connection:
                yield connection
            if mine.get() and next(waits, False):
                assert await store.traces.gone(10.0)

        monkeypatch.setattr(Database, "write", ends_late)
        async with store.traces.deleting():
            reader = sqlite3.connect(tmp_path / "roost.sqlite3")
            assert reader.execute("SELECT wanted FROM roost_traces").fetchone() == (1,)
            reader.close()
        monkeypatch.undo()
        await cleaned(tmp_path)


async def test_a_deletion_whose_wish_is_not_stored_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path) as store:
        await fill(store)

        @asynccontextmanager
        async def fails(self: Database) -> AsyncIterator[Connection]:
            raise ResourceError("no")
            yield

        with monkeypatch.context() as broken:
            broken.setattr(Database, "write", fails)
            with pytest.raises(ResourceError):
                async with store.traces.deleting():
                    pytest.fail("it began")
        await forget_ada(store)
        await cleaned(tmp_path)


async def test_a_database_of_an_older_version_is_cleaned_once(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await fill(store)
    with sqlite3.connect(tmp_path / "roost.sqlite3") as old:
        old.execute("PRAGMA secure_delete=OFF")
        old.execute(f"DELETE FROM plugin_stt WHERE user_id={ADA}")
        old.commit()
        old.execute("DROP TABLE roost_traces")
    old.close()
    assert files_with(tmp_path)
    async with open_store(tmp_path):
        await cleaned(tmp_path)


async def migrated(store: Store) -> None:
    async def to_two(mine: PluginStore, old: int, new: int) -> None:
        with pytest.raises(UsageError, match="migrate_data"):
            _ = mine.erasure
        await mine.collection("lines").clear()

    await store.of_plugin("stt").collection("lines").put("a", WORDS, user_id=ADA)
    assert await store.migrate("stt", 2, to_two) is not None


async def test_erasing_reaches_the_backups_of_migrations(tmp_path: Path, url: str | None) -> None:
    mine = tmp_path / "mine.sqlite3"
    mine.write_bytes(WORDS.encode())
    async with open_store(tmp_path, url) as store:
        await store.of_plugin("other_v1_12345678_abcdef_d").collection("lines").put("a", 1)
        await migrated(store)
        (backup,) = await store.backups.kept()
        assert backup.made_at is not None
        assert abs(backup.made_at - time.time()) < 60
        async with store.of_plugin("stt").erasure.everywhere() as erased:
            pass
        assert erased.backups.deleted == (backup.name,)
        assert erased.backups.left == ()
        assert await store.backups.kept() == []
        assert files_with(tmp_path) == ["mine.sqlite3"], "files of other names stay"
        assert await store.of_plugin("other_v1_12345678_abcdef_d").collection("lines").count() == 1


async def test_backups_expire(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        await migrated(store)
        assert (await store.backups.delete(made_before=time.time() - DAY_S)).deleted == ()
        assert len(await store.backups.kept()) == 1, "it is not old yet"
        sweep = asyncio.create_task(store.backups.sweep_daily(0))
        for _ in range(200):
            if not await store.backups.kept():
                break
            await asyncio.sleep(0.02)
        sweep.cancel()
        assert await store.backups.kept() == []


async def test_a_table_without_a_date_expires_from_now_on(tmp_path: Path, url: str | None) -> None:
    if url is None:
        return  # The files of SQLite have it in their names.
    async with open_store(tmp_path, url) as store:
        await migrated(store)
        (backup,) = await store.backups.kept()
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            for name in backup.tables:
                await connection.execute(sql(f'COMMENT ON TABLE "{name}" IS NULL'))
        await engine.dispose()
        assert (await store.backups.kept())[0].made_at is None
        await store.backups.delete(made_before=time.time() - DAY_S)
        (dated,) = await store.backups.kept()
        assert dated.made_at is not None
        assert (await store.backups.delete(made_before=time.time() + 1)).deleted == (dated.name,)


async def test_a_deleted_backup_is_not_restored(tmp_path: Path) -> None:
    async def to_two(mine: PluginStore, old: int, new: int) -> None:
        pass

    async with open_store(tmp_path) as store:
        await store.of_plugin("stt").collection("lines").put("a", WORDS, user_id=ADA)
        backup = await store.migrate("stt", 2, to_two)
        assert backup is not None
        await forget_ada(store)
        with pytest.raises(ResourceError, match="asked for the deletion"):
            await store.restore(backup)
        assert files_with(tmp_path) == []


async def test_a_backup_that_is_being_made_is_deleted_too(tmp_path: Path, url: str | None) -> None:
    """Its snapshot may be older than the deletion."""
    async with open_store(tmp_path, url) as store:
        await store.of_plugin("stt").collection("lines").put("a", WORDS * 2000, user_id=ADA)

        async def to_two(mine: PluginStore, old: int, new: int) -> None:
            pass

        migration = asyncio.create_task(store.migrate("stt", 2, to_two))
        for _ in range(20):
            await asyncio.sleep(0)
        traceless = await forget_ada(store)
        await migration
        assert traceless or await store.traces.gone(10.0)
        assert files_with(tmp_path) == []
        if url is not None:
            engine = create_async_engine(url)
            async with engine.connect() as connection:
                for backup in await store.backups.kept():
                    documents = next(name for name in backup.tables if name.endswith("_d"))
                    found = await connection.execute(sql(f'SELECT count(*) FROM "{documents}"'))
                    assert found.scalar() == 0
            await engine.dispose()


async def test_a_backup_that_cannot_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "no")

    async with open_store(tmp_path) as store:
        await migrated(store)
        (backup,) = await store.backups.kept()
        monkeypatch.setattr(Path, "unlink", refuses)
        async with store.of_plugin("stt").erasure.everywhere() as erased:
            pass
        assert erased.backups.left == (backup.name,)


async def test_dead_rows_of_postgresql_are_vacuumed(tmp_path: Path, url: str | None) -> None:
    if url is None:
        return
    async with open_store(tmp_path, url) as store:
        await fill(store)
        assert await forget_ada(store)
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_user_tables WHERE relname = 'plugin_stt' AND vacuum_count > 0"
            for _ in range(100):
                if (await connection.execute(sql(query))).scalar():
                    break
                await connection.rollback()
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("it was never vacuumed")
        await engine.dispose()
