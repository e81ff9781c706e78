"""Data goes from one version to the next once, saved before, and stays as it was when that fails."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from roost.errors import PluginError, ResourceError
from roost.store import PluginStore, Store, open_store

pytestmark = pytest.mark.unit


async def fill(store: Store) -> None:
    mine = store.of_plugin("notes")
    await mine.collection("notes").put("a", "first", guild_id=1, user_id=2)
    await mine.collection("notes").put("b", "second", guild_id=1)
    await mine.settings.set(1, "colour", "red")
    await store.set_setting("other", 1, "colour", "green")


async def state(store: Store) -> object:
    mine = store.of_plugin("notes")
    documents = [(each.key, each.value, each.guild_id, each.user_id) for each in await mine.collection("notes").query()]
    return documents, await mine.settings.entries(), await store.get_setting("other", 1, "colour")


BEFORE = ([("a", "first", 1, 2), ("b", "second", 1, None)], {(1, "colour"): "red"}, "green")


async def to_two(store: PluginStore, old: int, new: int) -> None:
    assert (old, new) == (1, 2)
    notes = store.collection("notes")
    for each in await notes.query():
        await notes.put(each.key, {"text": each.value}, guild_id=each.guild_id, user_id=each.user_id)
    await notes.delete("b")
    await store.settings.set(1, "color", await store.settings.get(1, "colour"))
    await store.settings.delete(1, "colour")


async def test_it_runs_once_with_a_backup_first(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        await fill(store)
        backup = await store.migrate("notes", 2, to_two)
        assert backup is not None
        after = ([("a", {"text": "first"}, 1, 2)], {(1, "color"): "red"}, "green")
        assert await state(store) == after
    async with open_store(tmp_path, url) as store:
        assert await store.migrate("notes", 2, to_two) is None
        assert await state(store) == after
        await store.of_plugin("notes").collection("notes").put("c", "later")
        await store.restore(backup)
        assert await state(store) == BEFORE
        assert await store.migrate("notes", 2, to_two) is not None
        assert await state(store) == after
    files = list(tmp_path.glob("notes-v1-*.backup.sqlite3"))
    assert len(files) == (2 if url is None else 0)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


async def test_when_it_fails_the_data_is_as_it_was(tmp_path: Path, url: str | None) -> None:
    async def breaks(store: PluginStore, old: int, new: int) -> None:
        await to_two(store, old, new)
        raise KeyError("oops")

    async with open_store(tmp_path, url) as store:
        await fill(store)
        with pytest.raises(PluginError, match=r"migrate_data from version 1 to 2 failed: 'oops'; the data is as it"):
            await store.migrate("notes", 2, breaks)
        assert await state(store) == BEFORE
        assert await store.migrate("notes", 2, to_two) is not None, "the next try starts from where it was"


async def test_cancelled_or_out_of_time_it_changes_nothing(tmp_path: Path, url: str | None) -> None:
    async def hangs(store: PluginStore, old: int, new: int) -> None:
        await to_two(store, old, new)
        await asyncio.Event().wait()

    async with open_store(tmp_path, url) as store:
        await fill(store)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await store.migrate("notes", 2, hangs)
        assert await state(store) == BEFORE


KILLED = """
import asyncio, sys
from pathlib import Path
from roost.store import open_store

async def hangs(store, old, new):
    notes = store.collection("notes")
    await notes.clear()
    await notes.put("half", "way")
    print("in the middle", flush=True)
    await asyncio.Event().wait()

async def main():
    async with open_store(Path(sys.argv[1]), sys.argv[2] or None) as store:
        await store.migrate("notes", 2, hangs)

asyncio.run(main())
"""


async def test_killed_in_the_middle_it_starts_again_from_the_old_data(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        await fill(store)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), url or ""], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "in the middle\n"
        finally:
            os.kill(child.pid, signal.SIGKILL)
    async with open_store(tmp_path, url) as store:
        assert await state(store) == BEFORE
        assert await store.migrate("notes", 2, to_two) is not None


async def test_new_data_needs_no_migration_and_older_code_is_refused(tmp_path: Path, url: str | None) -> None:
    async def never(store: PluginStore, old: int, new: int) -> None:
        raise AssertionError

    async with open_store(tmp_path, url) as store:
        assert await store.migrate("notes", 1, never) is None
        assert await store.migrate("notes", 3, never) is None, "there was nothing to migrate"
        await fill(store)
        assert await store.migrate("notes", 3, never) is None
        with pytest.raises(PluginError, match="its data is of version 3 and this code knows version 1"):
            await store.migrate("notes", 1, never)
        with pytest.raises(PluginError, match="it has no hook migrate_data"):
            await store.migrate("notes", 4, None)
        assert await state(store) == BEFORE


async def test_of_two_processes_one_migrates(tmp_path: Path, url: str | None) -> None:
    calls = 0

    async def slow(store: PluginStore, old: int, new: int) -> None:
        nonlocal calls
        calls += 1
        await to_two(store, old, new)
        await asyncio.sleep(0.05)

    async with open_store(tmp_path, url) as first, open_store(tmp_path, url) as second:
        await fill(first)
        await asyncio.gather(first.migrate("notes", 2, slow), second.migrate("notes", 2, slow))
        assert calls == 1


async def test_the_store_of_a_migration_ends_with_it(tmp_path: Path, url: str | None) -> None:
    kept: list[PluginStore] = []

    async def keeps(store: PluginStore, old: int, new: int) -> None:
        kept.append(store)

    async with open_store(tmp_path, url) as store:
        await fill(store)
        await store.migrate("notes", 2, keeps)
        with pytest.raises(ResourceError, match="ended with it"):
            await kept[0].collection("notes").get("a")


async def test_without_room_for_the_backup_nothing_is_migrated(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await fill(store)
        database = store._database
        database.backup_dir = tmp_path / "nowhere"
        with pytest.raises(ResourceError, match="no backup can be made"):
            await store.migrate("notes", 2, to_two)
        assert await state(store) == BEFORE
