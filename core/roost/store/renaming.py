"""Bringing the names of tables and indexes in an existing database to those of `roost.store.tables`.

Until now an index of the plugin ``foo`` was called like the table of a plugin ``foo_user``, which could then store
nothing; and names that differ in case alone, or only far behind, could mean one table.
"""

from __future__ import annotations

import functools
import logging
import re

import sqlalchemy as sa

from roost.store import tables
from roost.store.database import Connection, Database, exclusive
from roost.store.deletions import plugin_tables

_log = logging.getLogger("roost.store")
_CUT = re.compile(rf"{tables.PREFIX}.{{24}}_[0-9a-f]{{8}}")
"""What the tables of plugins with long names were called; a plugin may also have just such a name."""


def rename_indexes(connection: sa.Connection) -> None:
    """Give the indexes and keys of every plugin's table their names of now."""
    inspector = sa.inspect(connection)
    for name in sorted(plugin_tables(connection)):
        if _CUT.fullmatch(name):
            continue  # The names of its indexes show `rename_table` whose it is, and are in nobody's way.
        _indexes(connection, name, {str(each["name"]) for each in inspector.get_indexes(name)}, name)
        if connection.dialect.name == "postgresql":  # SQLite keeps no name that could be in the way
            _primary_key(connection, name, str(inspector.get_pk_constraint(name)["name"]))


def _indexes(connection: sa.Connection, table: str, present: set[str], former: str) -> None:
    quote = connection.dialect.identifier_preparer.quote
    for what, columns in tables.INDEXES.items():
        old, new = f"{former}_{what}", tables.index_name(table, what)
        if old in present:
            connection.exec_driver_sql(f"DROP INDEX {quote(old)}")
        if new not in present:
            listed = ", ".join(quote(column) for column in columns)
            connection.exec_driver_sql(f"CREATE INDEX {quote(new)} ON {quote(table)} ({listed})")


def _primary_key(connection: sa.Connection, table: str, present: str) -> None:
    quote, wanted = connection.dialect.identifier_preparer.quote, tables.primary_key_name(table)
    if present != wanted:
        connection.exec_driver_sql(f"ALTER TABLE {quote(table)} RENAME CONSTRAINT {quote(present)} TO {quote(wanted)}")


async def rename_table(database: Database, plugin: str) -> None:
    """Give a plugin's table its name of now, and the deletions that wait for it too.

    Raises:
        ResourceError: The database failed; nothing was changed.
    """
    former, name = tables.former_table_name(plugin), tables.table_name(plugin)
    if former == name:
        return
    async with database.write() as connection:
        await exclusive(connection, "roost schema")
        if await connection.run_sync(functools.partial(_is_former, former=former, name=name)):
            await connection.run_sync(functools.partial(_rename, former=former, name=name))
            _log.info("plugin %s: its table is called %s now", plugin, name, extra={"plugin": plugin})
        await _move_deletions(connection, former, name)


def _is_former(connection: sa.Connection, former: str, name: str) -> bool:
    """Whether a table has the name that a plugin's had, and is that plugin's."""
    there = plugin_tables(connection)
    if former not in there or name in there:
        return False
    indexes = {str(each["name"]) for each in sa.inspect(connection).get_indexes(former)}
    return _CUT.fullmatch(former) is None or f"{former}_guild" in indexes


def _rename(connection: sa.Connection, former: str, name: str) -> None:
    quote = connection.dialect.identifier_preparer.quote
    connection.exec_driver_sql(f"ALTER TABLE {quote(former)} RENAME TO {quote(name)}")
    for each in sa.inspect(connection).get_indexes(name):
        connection.exec_driver_sql(f"DROP INDEX {quote(str(each['name']))}")
    _indexes(connection, name, set(), name)
    if connection.dialect.name == "postgresql":
        _primary_key(connection, name, str(sa.inspect(connection).get_pk_constraint(name)["name"]))


async def _move_deletions(connection: Connection, former: str, name: str) -> None:
    table = tables.deletions
    here = sa.select(table.c.user_id).where(table.c.holder == name)
    await connection.execute(sa.delete(table).where(table.c.holder == former, table.c.user_id.in_(here)))
    await connection.execute(sa.update(table).where(table.c.holder == former).values(holder=name))
