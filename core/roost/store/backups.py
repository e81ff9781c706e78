"""Backups that migrations make: they hold what was stored then, so they expire, and a deletion deletes them.

SQLite: files ``NAME-vN-TIME.backup.sqlite3`` beside the database, each a copy of all of it. PostgreSQL: pairs of
tables without a primary key, dated by a comment.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import re
import time
from pathlib import Path

import sqlalchemy as sa

from roost.errors import RoostError
from roost.file_errors import explain
from roost.store import tables
from roost.store.database import Database, exclusive

_log = logging.getLogger("roost.store")

DAY_S = 86_400.0
AGAIN_S = 600.0
"""Before another attempt to delete old backups after one that failed."""
MAKING = "roost backups"
"""For `roost.store.database.exclusive`, while a backup of PostgreSQL is made."""
STAMP = "%Y%m%dT%H%M%S"
SUFFIX = ".backup.sqlite3"
_FILE = re.compile(rf".+-v\d+-(\d{{8}}T\d{{6}})(?:-\d+)?{re.escape(SUFFIX)}")
_BESIDE = ("", "-journal", "-wal", "-shm")
"""A file of SQLite, and what may stand beside it."""
_TABLE = re.compile(rf"({tables.PREFIX}.+_v\d+_\d{{8}}_[0-9a-f]{{6}})_[ds]")


@dataclasses.dataclass(frozen=True, slots=True)
class KeptBackup:
    """One backup that is there.

    Attributes:
        name: For people.
        made_at: Seconds since 1970; None where that was not noted.
        file: Of SQLite.
        tables: Of PostgreSQL.
    """

    name: str
    made_at: float | None
    file: Path | None = None
    tables: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class DeletedBackups:
    """What a deletion of backups came to.

    Attributes:
        deleted: Names of those that are gone.
        left: Names of those that could not be deleted.
    """

    deleted: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Backups:
    """The backups of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def kept(self) -> list[KeptBackup]:
        """All there are, by name."""
        if self._database.is_sqlite:
            return await asyncio.to_thread(_files, self._database.backup_dir)
        async with self._database.read() as connection:
            return await connection.run_sync(_tables)

    async def delete(self, *, made_before: float = float("inf")) -> DeletedBackups:
        """Delete backups; one whose age is not known counts as made now.

        Args:
            made_before: Only those made before; seconds since 1970.

        Raises:
            ResourceError: The database failed.
        """
        deleted: list[str] = []
        left: list[str] = []
        now = time.time()
        await self._made()
        for backup in await self.kept():
            if backup.made_at is None and backup.tables:
                await self._date(backup, now)
            if made_before <= (backup.made_at if backup.made_at is not None else now):
                continue
            try:
                await self._delete(backup)
                deleted.append(backup.name)
            except (OSError, RoostError) as error:
                why = explain(error, backup.file) if isinstance(error, OSError) and backup.file else str(error)
                _log.error("the backup %s cannot be deleted: %s", backup.name, why)
                left.append(backup.name)
        if deleted:
            _log.info("deleted %d backups of migrations: %s", len(deleted), ", ".join(deleted))
        return DeletedBackups(tuple(deleted), tuple(left))

    async def sweep_daily(self, days: int) -> None:
        """Delete backups older than that, now and once a day."""
        while True:
            pause_s = DAY_S
            try:
                await self.delete(made_before=time.time() - days * DAY_S)
            except RoostError as error:
                _log.warning("old backups could not be looked for: %s", error)
                pause_s = AGAIN_S
            await asyncio.sleep(pause_s)

    async def _made(self) -> None:
        """Wait for a backup of PostgreSQL that is being made: it may hold what was deleted meanwhile.

        SQLite's file is there from the beginning.
        """
        if not self._database.is_sqlite:
            async with self._database.write() as connection:
                await exclusive(connection, MAKING)

    async def _date(self, backup: KeptBackup, now: float) -> None:
        async with self._database.write() as connection:
            quote = connection.dialect.identifier_preparer.quote
            for name in backup.tables:
                await connection.exec_driver_sql(f"COMMENT ON TABLE {quote(name)} IS '{now:.3f}'")

    async def _delete(self, backup: KeptBackup) -> None:
        if backup.file is not None:
            await asyncio.to_thread(_unlink, backup.file)
            return
        async with self._database.write() as connection:
            quote = connection.dialect.identifier_preparer.quote
            for name in backup.tables:
                await connection.exec_driver_sql(f"DROP TABLE IF EXISTS {quote(name)}")


def _files(folder: Path) -> list[KeptBackup]:
    found = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        named = _FILE.fullmatch(file.name)
        if named is None or file.is_symlink() or not file.is_file():
            continue
        try:
            made_at = datetime.datetime.strptime(named[1], STAMP).replace(tzinfo=datetime.UTC).timestamp()
        except ValueError:
            made_at = file.stat().st_mtime
        found.append(KeptBackup(file.name, made_at, file))
    return found


def _unlink(file: Path) -> None:
    for suffix in reversed(_BESIDE):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _tables(connection: sa.Connection) -> list[KeptBackup]:
    """Pairs of tables; what has a primary key is a plugin's own table, whatever it is called."""
    inspector = sa.inspect(connection)
    pairs: dict[str, list[str]] = {}
    for name in inspector.get_table_names():
        named = _TABLE.fullmatch(name)
        if named is not None and not _has_primary_key(inspector, name):
            pairs.setdefault(named[1], []).append(name)
    found = []
    for stem, names in sorted(pairs.items()):
        with contextlib.suppress(sa.exc.NoSuchTableError):  # it is being deleted
            found.append(KeptBackup(stem, _age(inspector, names), None, tuple(sorted(names))))
    return found


def _has_primary_key(inspector: sa.Inspector, name: str) -> bool:
    """Whether a table has one; also of one that was deleted meanwhile."""
    try:
        return bool(inspector.get_pk_constraint(name)["constrained_columns"])
    except sa.exc.NoSuchTableError:
        return True


def _age(inspector: sa.Inspector, names: list[str]) -> float | None:
    text = inspector.get_table_comment(names[0])["text"]
    try:
        return float(text or "")
    except ValueError:
        return None
