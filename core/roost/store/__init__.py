"""The store: settings, enablement, consent, configuration per guild, access rules and what plugins keep.

One SQLite file in the data folder, or wherever ``store.url`` points. Every write is committed, and on disk, before the
call returns.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from roost.access import Rule
from roost.errors import StoreError
from roost.holder import Holder
from roost.store import migrations, tables, traces
from roost.store.backups import Backups, DeletedBackups
from roost.store.database import (
    Address,
    Connection,
    Database,
    Operations,
    Turns,
    check_url,
    damaged,
    exclusive,
    open_database,
    sqlite_file,
    upsert,
    upsert_all,
)
from roost.store.decisions import Key, Seen, Stamp, Word
from roost.store.deletions import Deletions
from roost.store.documents import Collection as DocumentCollection
from roost.store.documents import Document, PluginStore, PluginTable, StoredSettings
from roost.store.erasure import Erased, Erasure
from roost.store.holding import StoreHold, hold_store
from roost.store.migrations import Backup
from roost.store.renaming import rename_indexes, rename_table
from roost.store.traces import Traces, removing

__all__ = [
    "Backup",
    "DeletedBackups",
    "Document",
    "DocumentCollection",
    "Erased",
    "Erasure",
    "PluginStore",
    "Store",
    "StoreHold",
    "StoredSettings",
    "check_url",
    "look_at_store",
    "open_held_store",
    "open_store",
]


COMMAND_RECORDS = "core.commands"
"""Owner of the settings in which the core keeps Discord's copy of the commands; no plugin's name has a dot."""
LARGEST_CHECKED = 64 << 20
"""Bytes of the largest SQLite file that is looked through for damage at each start; that takes a tenth of a second."""

MOST_FOLDERS = 1000
"""Data folders that one database remembers: a container may start with a new one each time."""


class Store:
    """Made by `open_held_store` and `open_store`. Every method raises `ResourceError` when the database fails.

    Attributes:
        operations: Reads and writes of plugins that are under way; closed by the owner of the store.
        deletions: What people asked to be deleted of plugins that could not be asked.
        traces: What deleted rows leave behind.
        backups: Those that migrations made.
        erasure: Deletions that leave nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.operations = Operations()
        self.deletions = Deletions(database)
        self.traces = Traces(database, self.operations)
        self.backups = Backups(database)
        self.erasure = Erasure(self.traces, self.backups, self.operations)
        self._plugin_tables: dict[str, PluginTable] = {}
        self._turns: dict[str, Turns] = {}

    @property
    def address(self) -> Address:
        return self._database.address

    @property
    def place(self) -> str:
        """For people: see `Database.place`."""
        return self._database.place

    def of_plugin(self, plugin: str) -> PluginStore:
        """What one plugin keeps."""
        table = self._plugin_tables.get(plugin)
        if table is None:
            table = self._plugin_tables[plugin] = PluginTable(self._database, plugin)
        turns = self._turns.setdefault(plugin, Turns(self._database, self.operations))
        return PluginStore(turns, table, plugin, self.erasure)

    async def migrate(self, plugin: str, new: int, call: migrations.Migrate | None, **options: Any) -> Backup | None:
        """See `roost.store.migrations.migrate`."""
        await rename_table(self._database, plugin)
        return await migrations.migrate(self._database, plugin, new, call, **options)

    async def restore(self, backup: Backup) -> None:
        """See `roost.store.migrations.restore`."""
        await migrations.restore(self._database, backup)

    async def get_setting(self, plugin: str, guild_id: int | None, key: str, default: Any = None) -> Any:
        return await StoredSettings(self._database, plugin).get(guild_id, key, default)

    async def set_setting(self, plugin: str, guild_id: int | None, key: str, value: Any) -> None:
        await StoredSettings(self._database, plugin).set(guild_id, key, value)

    async def command_records(self, application_id: int) -> dict[int, dict[str, Any]]:
        """What Discord has of the commands of each guild."""
        entries = await StoredSettings(self._database, COMMAND_RECORDS).entries()
        key = str(application_id)
        return {guild: value for (guild, of), value in entries.items() if guild is not None and of == key}

    async def set_command_record(self, application_id: int, guild_id: int, record: Mapping[str, Any] | None) -> None:
        """Keep that for one guild; None: no more."""
        settings = StoredSettings(self._database, COMMAND_RECORDS)
        if record is None:
            await settings.delete(guild_id, str(application_id))
        else:
            await settings.set(guild_id, str(application_id), record)

    async def enablement(self) -> dict[tuple[str, int], bool]:
        """Every (plugin, guild) that was switched by an admin."""
        table = tables.enablement
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(table.c.plugin, table.c.guild_id, table.c.enabled))
            return {(row.plugin, row.guild_id): row.enabled for row in rows}

    async def set_enabled(self, plugin: str, guild_id: int, enabled: bool) -> None:
        keys = {"plugin": plugin, "guild_id": guild_id}
        async with self._database.write() as connection:
            await upsert(connection, tables.enablement, keys, {"enabled": enabled})

    async def consents(self) -> dict[Key, str | bool]:
        """Every decision, by guild and user: see `roost.store.decisions.Word`; empty text for the usual terms."""
        table, terms = tables.consent, tables.consent_terms
        same = sa.and_(table.c.guild_id == terms.c.guild_id, table.c.user_id == terms.c.user_id)
        query = sa.select(table.c.guild_id, table.c.user_id, table.c.allowed, terms.c.terms)
        async with self._database.read() as connection:
            rows = await connection.execute(query.select_from(table.outerjoin(terms, same)))
            return {(row.guild_id, row.user_id): (row.terms or "") if row.allowed else False for row in rows}

    async def set_consents(self, decisions: Mapping[Key, Word], stamp: Stamp | None = None) -> None:
        """Write decisions, all or none; None deletes one.

        Args:
            decisions: What counts of each member.
            stamp: Written with them.

        Raises:
            ResourceError: The database failed; `StoreError.perhaps_done` says whether it may have them nevertheless.
        """
        now = time.time()
        made: list[dict[str, Any]] = []
        terms: list[dict[str, Any]] = []
        for (guild_id, user_id), word in decisions.items():
            keys = {"guild_id": guild_id, "user_id": user_id}
            if word is not None:
                made.append({**keys, "allowed": word is not False, "decided_at": now})
            if word:
                terms.append({**keys, "terms": word})
        undecided = [key for key, word in decisions.items() if word is None]
        usual = [key for key, word in decisions.items() if not word]
        ended = False
        try:
            async with self._database.write() as connection:
                for table, rows, gone in ((tables.consent, made, undecided), (tables.consent_terms, terms, usual)):
                    if rows:
                        await upsert_all(connection, table, ("guild_id", "user_id"), rows)
                    if gone:
                        columns = table.c.guild_id == sa.bindparam("guild"), table.c.user_id == sa.bindparam("user")
                        keys_gone = [{"guild": guild_id, "user": user_id} for guild_id, user_id in gone]
                        await connection.execute(sa.delete(table).where(*columns), keys_gone)
                if stamp is not None:
                    await _note_stamp(connection, stamp)
                ended = True
        except StoreError as error:
            error.perhaps_done = ended
            raise

    async def seen(self, folder: str) -> Seen:
        """What the database has of a data folder."""
        table = tables.folders
        query = sa.select(table.c.number, table.c.complete).where(table.c.folder == folder)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return Seen(0, complete=True) if row is None else Seen(row.number, row.complete)

    async def note_folder(self, stamp: Stamp) -> None:
        """Remember a data folder that is new to the database; the oldest beyond `MOST_FOLDERS` are forgotten."""
        table = tables.folders
        newest = sa.select(table.c.folder).order_by(table.c.noted_at.desc()).limit(MOST_FOLDERS)
        async with self._database.write() as connection:
            await _note_stamp(connection, stamp)
            await connection.execute(sa.delete(table).where(table.c.folder.not_in(newest)))

    async def drop_agreements(self, stamp: Stamp) -> int:
        """Delete all agreements, for refusals that were made with a data folder are missing here; how many.

        Args:
            stamp: The database counts as one that has got so far, and as incomplete for its folder.
        """
        consent = tables.consent
        async with self._database.write() as connection:
            dropped = int((await connection.execute(sa.delete(consent).where(consent.c.allowed))).rowcount)
            await connection.execute(sa.delete(tables.consent_terms))
            await _note_stamp(connection, stamp)
            of_folder = tables.folders.c.folder == stamp.folder
            await connection.execute(sa.update(tables.folders).where(of_folder).values(complete=False))
        return dropped

    async def guild_config(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What guilds have of their own: (plugin, guild) to dotted key to value."""
        table = tables.guild_config
        found: dict[tuple[str, int], dict[str, Any]] = {}
        async with self._database.read() as connection:
            for row in await connection.execute(sa.select(table)):
                found.setdefault((row.plugin, row.guild_id), {})[row.key] = json.loads(row.value)
        return found

    async def set_guild_config(
        self, plugin: str, guild_id: int, values: Mapping[str, Any], gone: Collection[str]
    ) -> None:
        """Set some keys and remove others, all or none."""
        table = tables.guild_config
        async with self._database.write() as connection:
            if gone:
                await connection.execute(
                    sa.delete(table).where(
                        table.c.plugin == plugin, table.c.guild_id == guild_id, table.c.key.in_(tuple(gone))
                    )
                )
            for key, value in values.items():
                keys = {"plugin": plugin, "guild_id": guild_id, "key": key}
                await upsert(connection, table, keys, {"value": json.dumps(value)})

    async def access_rules(self) -> dict[int, list[Rule]]:
        """Every guild's rules about who may use which command."""
        table = tables.access
        found: dict[int, list[Rule]] = {}
        async with self._database.read() as connection:
            for row in await connection.execute(sa.select(table)):
                rule = Rule(row.path, row.kind, row.subject_id, row.allowed)
                found.setdefault(row.guild_id, []).append(rule)
        return found

    async def set_access_rule(self, guild_id: int, rule: Rule) -> None:
        keys = {"guild_id": guild_id, "path": rule.path, "kind": rule.kind, "subject_id": rule.subject_id}
        async with self._database.write() as connection:
            await upsert(connection, tables.access, keys, {"allowed": rule.allowed})

    async def remove_access_rule(self, guild_id: int, rule: Rule) -> None:
        columns = tables.access.c
        query = sa.delete(tables.access).where(
            columns.guild_id == guild_id,
            columns.path == rule.path,
            columns.kind == rule.kind,
            columns.subject_id == rule.subject_id,
        )
        async with self._database.write() as connection:
            await connection.execute(query)


@asynccontextmanager
async def open_store(data_dir: Path, url: str | None = None) -> AsyncIterator[Store]:
    """Open the store, which nobody else may use meanwhile, and create what is missing.

    Args:
        data_dir: Where SQLite's file is, and backups.
        url: Of the database; None is SQLite. ``postgresql://`` and ``sqlite://`` will do for the full names.

    Raises:
        ConfigError: The URL is wrong, or the database refuses us.
        ResourceError: The database cannot be reached.
    """
    async with open_database(data_dir, url) as database:
        await _prepare(database)
        store = Store(database)
        async with removing(store.traces), aclosing(store.operations):
            yield store


@asynccontextmanager
async def open_held_store(
    data_dir: Path, holder: Holder, url: str | None = None
) -> AsyncIterator[tuple[Store, StoreHold]]:
    """`open_store` for a process that holds the database until the block ends.

    Nothing in the database is changed before it is held: its tables may be in use by a bot of another version.

    Raises:
        ConfigError: As `open_store`, or the database is another bot's.
        HeldError: Another process holds it.
        ResourceError: The database cannot be reached.
    """
    async with open_database(data_dir, url) as database, hold_store(database, holder) as hold:
        await _prepare(database)
        store = Store(database)
        async with removing(store.traces), aclosing(store.operations):
            yield store, hold


async def look_at_store(data_dir: Path, url: str | None = None) -> str:
    """Open the database as it is, see whether it is whole, and say where it is. Nothing is created or changed.

    Raises:
        ConfigError: The URL is wrong, the database refuses us, or it is damaged.
        ResourceError: The database cannot be reached.
    """
    if (file := sqlite_file(data_dir, url)) is not None and not file.exists():
        return f"{file}, which the first start makes"
    async with open_database(data_dir, url) as database:
        if database.is_sqlite:
            await _check(database)
        else:
            async with database.read(opening=True) as connection:
                await connection.exec_driver_sql("SELECT 1")
        return database.place


async def _prepare(database: Database) -> None:
    if database.is_sqlite:
        await _check(database)
    async with database.write(opening=True) as connection:
        await exclusive(connection, "roost schema")
        filled = database.is_sqlite and await connection.run_sync(_is_filled)
        await connection.run_sync(tables.metadata.create_all)
        await connection.run_sync(rename_indexes)
        await traces.prepare(connection, filled=filled)


async def _note_stamp(connection: Connection, stamp: Stamp) -> None:
    table = tables.folders
    noted = {"number": stamp.number, "noted_at": time.time()}
    changed = await connection.execute(sa.update(table).where(table.c.folder == stamp.folder).values(**noted))
    if not changed.rowcount:
        await connection.execute(sa.insert(table).values(folder=stamp.folder, complete=True, **noted))


def _is_filled(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(tables.settings.name)


async def _check(database: Database) -> None:
    """Look for damage in SQLite's file, if that is quickly done."""
    if database.file is None or database.file.stat().st_size > LARGEST_CHECKED:
        return
    async with database.write(opening=True) as connection:
        found = str((await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar())
    if found != "ok":
        raise damaged(f"the database {database.file}", found.splitlines()[0])
