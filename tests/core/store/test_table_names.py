"""No plugin reaches another's data or breaks its tables by the choice of its name; databases of before go on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from roost.store import open_store
from roost.store.database import open_database
from roost.store.tables import former_table_name, metadata, table_name

pytestmark = pytest.mark.unit

LONG = "a-plugin-with-a-name-that-is-longer-than-a-table"
CUT = former_table_name(LONG).removeprefix("plugin_")
"""A name that a plugin may have, and that the table of `LONG` used to have."""
NAMES = (
    "foo_user", "foo", "foo_guild", "foo_user_user", "foo-user", "foo_pkey", "foo_pk", "ix_foo", "pk_foo", "ix", "pk",
    "stt", "stt_user", "select", "table", "order", "group", "user", "index", "null", "primary", "data", "settings",
    "Foo", "FOO", "foo.user", CUT, LONG, LONG + "s", "x" * 64, "x" * 63 + "y", "foo_v1_11271200_abcdef_d",
)  # fmt: skip


@pytest.mark.parametrize("names", [NAMES, tuple(reversed(NAMES))], ids=["in order", "reversed"])
async def test_plugins_of_any_names_keep_their_own(tmp_path: Path, url: str | None, names: tuple[str, ...]) -> None:
    for _ in range(2):  # the second time they are all there
        async with open_store(tmp_path, url) as store:
            for name in names:
                assert await store.migrate(name, 1, None) is None
                await store.of_plugin(name).collection("notes").put("key", name, guild_id=1, user_id=2)
            for name in names:
                kept = store.of_plugin(name)
                assert await kept.collection("notes").get("key") == name
                assert [each.value for each in await kept.collection("notes").query(user_id=2)] == [name]
    assert len({table_name(name).lower() for name in names}) == len(names)
    assert all(len(table_name(name)) <= 40 for name in names)


async def make_former(connection: sa.ext.asyncio.AsyncConnection, plugin: str) -> None:
    """A plugin's table with a document, as versions before this one made it."""
    name = former_table_name(plugin)
    quoted = connection.dialect.identifier_preparer.quote(name)
    table = sa.Table(
        name,
        sa.MetaData(),
        sa.Column("collection", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("guild_id", sa.BigInteger),
        sa.Column("user_id", sa.BigInteger),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.Index(f"{name}_guild", "collection", "guild_id", "key"),
        sa.Index(f"{name}_user", "user_id", "collection"),
    )
    await connection.run_sync(table.metadata.create_all)
    await connection.execute(sa.text(f"INSERT INTO {quoted} VALUES ('notes', 'key', 1, 2, '\"{plugin}\"', 0)"))
    await connection.execute(sa.text("INSERT INTO roost_deletions VALUES (:holder, 7, 1)"), {"holder": name})


async def test_databases_of_before_go_on(tmp_path: Path, url: str | None) -> None:
    before = ("foo", "stt", "Mixed", LONG)
    async with open_database(tmp_path, url) as database, database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for name in before:
            await make_former(connection, name)
    for _ in range(2):
        async with open_store(tmp_path, url) as store:
            for name in (*before, "foo_user", "stt_user", "mixed", "mixed_user", CUT):
                await store.migrate(name, 1, None)
                notes = store.of_plugin(name).collection("notes")
                if name in before:
                    assert await notes.get("key") == name
                    assert await store.deletions.waiting(table_name(name)) == [7]
                else:
                    assert await notes.get("key") in (None, f"new {name}")
                    await notes.put("key", f"new {name}", user_id=2)
            assert await store.deletions.holders() == {
                table_name(name) for name in (*before, "foo_user", "stt_user", "mixed", "mixed_user", CUT)
            }
    async with open_database(tmp_path, url) as database, database.engine.begin() as connection:
        for name in before:
            indexes = await connection.run_sync(lambda c, n=name: sa.inspect(c).get_indexes(table_name(n)))
            assert {each["name"] for each in indexes} == {f"ix_{table_name(name)}_{what}" for what in ("guild", "user")}


async def test_table_of_a_plugin_with_the_name_of_a_cut_one_is_not_taken(tmp_path: Path, url: str | None) -> None:
    assert CUT.endswith(hashlib.sha256(LONG.encode()).hexdigest()[:8])
    async with open_store(tmp_path, url) as store:
        await store.of_plugin(CUT).collection("notes").put("key", "mine")
        await store.migrate(LONG, 1, None)
        assert await store.of_plugin(LONG).collection("notes").get("key") is None
        assert await store.of_plugin(CUT).collection("notes").get("key") == "mine"
