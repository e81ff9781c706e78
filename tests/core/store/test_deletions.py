"""Requests to delete a person's data, kept for plugins that cannot be asked now."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from roost.store import open_store
from roost.store.tables import table_name

pytestmark = pytest.mark.unit


async def test_requests_wait_until_they_are_carried_out(tmp_path: Path, url: str | None) -> None:
    async with open_store(tmp_path, url) as store:
        await store.deletions.ask(1, ["plugin_b", "plugin_a"])
        await store.deletions.ask(2, ["plugin_a"])
        await store.deletions.ask(2, ["plugin_a"])
    async with open_store(tmp_path, url) as store:
        assert await store.deletions.waiting("plugin_a") == [1, 2]
        assert await store.deletions.waiting_of(1) == ["plugin_a", "plugin_b"]
        await store.deletions.done(1, "plugin_a")
        assert await store.deletions.waiting("plugin_a") == [2]
        assert await store.deletions.waiting("plugin_b") == [1]


async def test_documents_about_a_person_go_and_nothing_else_does(tmp_path: Path, url: str | None) -> None:
    long = "a-plugin-with-a-name-that-is-longer-than-a-table-may-be-called"
    async with open_store(tmp_path, url) as store:
        for plugin in ("one", long, "kept"):
            notes = store.of_plugin(plugin).collection("notes")
            await notes.put("a", "about 1", user_id=1)
            await notes.put("b", "about 2", user_id=2)
            await notes.put("c", "about nobody")
        async with store._database.write() as connection:
            # Somebody else's table in the same database, by a like name.
            await connection.execute(sa.text("CREATE TABLE plugin_users (user_id BIGINT)"))
            await connection.execute(sa.text("INSERT INTO plugin_users VALUES (1)"))
        assert await store.deletions.holders() == {table_name(name) for name in ("one", long, "kept")}
        holders = [table_name("one"), table_name(long), table_name("never-there"), "plugin_users"]
        assert await store.deletions.documents(1, holders) == 2
        for plugin, left in (("one", ["b", "c"]), (long, ["b", "c"]), ("kept", ["a", "b", "c"])):
            assert [each.key for each in await store.of_plugin(plugin).collection("notes").query()] == left
        async with store._database.read() as connection:
            assert (await connection.execute(sa.text("SELECT count(*) FROM plugin_users"))).scalar() == 1
