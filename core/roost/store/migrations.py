"""Bringing a plugin's data from one version to the next: once, in one transaction, with a backup before.

A failed migration undoes itself: the transaction is rolled back. The backup is for what went through and turned out
wrong later, and for a reload whose new version migrated the data and then did not open.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from roost.errors import PluginError, ResourceError
from roost.file_errors import explain
from roost.store import tables
from roost.store.backups import MAKING, STAMP, SUFFIX
from roost.store.database import Connection, Database, OpenTransaction, exclusive, upsert
from roost.store.documents import PluginStore, PluginTable, holds_anything

_log = logging.getLogger("roost.store")

FIRST_VERSION = 1
"""Of data whose version nobody wrote down."""

Migrate = Callable[[PluginStore, int, int], Awaitable[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Backup:
    """A copy of what a plugin held.

    Attributes:
        plugin: Whose.
        version: Of the data in it.
        place: For people: a file, or tables.
        file: Of SQLite.
        documents: Name of the table with the documents.
        settings: Name of the table with the settings.
    """

    plugin: str
    version: int
    place: str
    file: Path | None
    documents: str
    settings: str


async def migrate(
    database: Database, plugin: str, new: int, call: Migrate | None, describe: Callable[[Exception], str] = str
) -> Backup | None:
    """Bring a plugin's data to version `new`.

    Args:
        database: Where it is.
        plugin: Its name.
        new: The version its code works with.
        call: Does the work; None if the plugin has no ``migrate_data``.
        describe: Puts what the plugin raised into one line.

    Returns:
        The backup made, or None if there was nothing to do.

    Raises:
        PluginError: The data is newer than the code, the plugin cannot migrate, or its migration failed; the data is
            as it was.
        ResourceError: The database failed; the data is as it was.
    """
    old = await _version(database, plugin)
    if old == new or (old is None and new == FIRST_VERSION):
        return None
    owner = PluginTable(database, plugin)
    await owner.make()
    if old is None:
        async with database.write() as connection:
            if not await holds_anything(connection, owner.table, plugin):
                await _note_version(connection, plugin, new)
                return None
        old = FIRST_VERSION
    if old > new:
        raise PluginError(
            f"its data is of version {old} and this code knows version {new}; install the newer plugin again",
            plugin=plugin,
        )
    if call is None:
        raise PluginError(
            f"its data is of version {old}, its code wants version {new}, and it has no hook migrate_data",
            plugin=plugin,
        )
    backup = await _back_up(database, owner.table, plugin, old)
    _log.info("plugin %s: data of version %d is saved in %s", plugin, old, backup.place, extra={"plugin": plugin})
    async with database.write() as connection:
        await exclusive(connection, f"migration of {plugin}")
        if await _version_in(connection, plugin) == new:
            return None  # another process was faster
        door = OpenTransaction(connection)
        try:
            await call(PluginStore(door, owner, plugin), old, new)
        except Exception as error:
            raise PluginError(
                f"migrate_data from version {old} to {new} failed: {describe(error)}; the data is as it was, and a "
                f"copy is in {backup.place}",
                plugin=plugin,
            ) from error
        finally:
            await door.aclose()
        await _note_version(connection, plugin, new)
    _log.info("plugin %s: data is of version %d now", plugin, new, extra={"plugin": plugin})
    return backup


async def restore(database: Database, backup: Backup) -> None:
    """Put back what a plugin held when a backup was made; everything it stored since is lost.

    Raises:
        ResourceError: The database failed; nothing was changed.
    """
    table = tables.documents_table(backup.plugin)
    if backup.file is not None and not await asyncio.to_thread(backup.file.exists):
        raise ResourceError(f"the backup {backup.place} is gone: a member asked for the deletion of what it held")
    if backup.file is None:
        async with database.write() as connection:
            await _put_back(connection, table, backup, "")
        return
    async with database.bare() as connection:
        await connection.exec_driver_sql("ATTACH DATABASE ? AS saved", (str(backup.file),))
        try:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                await _put_back(connection, table, backup, "saved.")
                await connection.exec_driver_sql("COMMIT")
            except BaseException:
                await connection.exec_driver_sql("ROLLBACK")
                raise
        finally:
            await connection.exec_driver_sql("DETACH DATABASE saved")


async def _put_back(connection: Connection, table: sa.Table, backup: Backup, schema: str) -> None:
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(quote(column.name) for column in table.columns)
    await connection.execute(sa.delete(table))
    await connection.execute(
        sa.text(f"INSERT INTO {quote(table.name)} ({columns}) SELECT {columns} FROM {schema}{quote(backup.documents)}")  # noqa: S608
    )
    settings = tables.settings
    columns = ", ".join(quote(column.name) for column in settings.columns)
    await connection.execute(sa.delete(settings).where(settings.c.plugin == backup.plugin))
    await connection.execute(
        sa.text(
            f"INSERT INTO {settings.name} ({columns}) SELECT {columns} FROM {schema}{quote(backup.settings)} "  # noqa: S608
            "WHERE plugin = :plugin"
        ),
        {"plugin": backup.plugin},
    )
    await _note_version(connection, backup.plugin, backup.version)


async def _back_up(database: Database, table: sa.Table, plugin: str, version: int) -> Backup:
    now = datetime.datetime.now(datetime.UTC)
    if database.is_sqlite:
        file = _new_file(database.backup_dir, f"{plugin}-v{version}-{now:{STAMP}}")
        async with database.bare() as connection:
            await connection.exec_driver_sql("VACUUM INTO ?", (str(file),))
        return Backup(plugin, version, str(file), file, table.name, tables.settings.name)
    stem = f"{table.name}_v{version}_{now:%m%d%H%M}_{secrets.token_hex(3)}"
    documents, settings = f"{stem}_d", f"{stem}_s"
    async with database.write() as connection:
        await exclusive(connection, MAKING)
        quote = connection.dialect.identifier_preparer.quote
        # Bind parameters are not allowed in CREATE TABLE AS; a plugin's name is letters, digits, - and _.
        literal = sa.literal(plugin).compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        await connection.exec_driver_sql(f"CREATE TABLE {quote(documents)} AS SELECT * FROM {quote(table.name)}")  # noqa: S608
        await connection.exec_driver_sql(
            f"CREATE TABLE {quote(settings)} AS SELECT * FROM {tables.settings.name} WHERE plugin = {literal}"  # noqa: S608
        )
        for name in (documents, settings):
            await connection.exec_driver_sql(f"COMMENT ON TABLE {quote(name)} IS '{now.timestamp():.3f}'")
    return Backup(plugin, version, f"the tables {documents} and {settings}", None, documents, settings)


def _new_file(folder: Path, stem: str) -> Path:
    """An empty file of mode 0600 with a name that nothing has."""
    for number in range(1, 1000):
        file = folder / f"{stem}{'' if number == 1 else f'-{number}'}{SUFFIX}"
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            continue
        except OSError as error:
            raise ResourceError(
                f"no backup can be made in {folder}: {explain(error, file)}; nothing was changed"
            ) from error
        return file
    raise ResourceError(f"there are too many backups called {stem} in {folder}; delete some")


async def _version(database: Database, plugin: str) -> int | None:
    async with database.read() as connection:
        return await _version_in(connection, plugin)


async def _version_in(connection: Connection, plugin: str) -> int | None:
    table = tables.versions
    found = (await connection.execute(sa.select(table.c.version).where(table.c.plugin == plugin))).scalar()
    return None if found is None else int(found)


async def _note_version(connection: Connection, plugin: str, version: int) -> None:
    await upsert(connection, tables.versions, {"plugin": plugin}, {"version": version})
