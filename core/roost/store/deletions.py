"""What people asked to be deleted: at once where the store knows what is about them, else remembered for the plugin.

A plugin that is not loaded cannot be asked. What it put into its collections with a user's id is found without it; what
else it holds it alone knows, so the request is kept until it was carried out.

Plugins are told apart by the name of their table: of one that is not installed any more nothing else is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from roost.store import tables
from roost.store.database import Database, upsert

_BACKUP = re.compile(r"_v\d+_\d{8}_[0-9a-f]{6}_[ds]")
"""The end of the name of a backup's table; see `roost.store.migrations`."""


class Deletions:
    """The requests that wait. Every write is on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def holders(self) -> set[str]:
        """Tables of all plugins that ever kept something, of those that are not installed any more too."""
        async with self._database.read() as connection:
            return await connection.run_sync(plugin_tables)

    async def ask(self, user_id: int, holders: Iterable[str]) -> None:
        """Note a request to each of these, all or none; one that waits already goes on waiting."""
        async with self._database.write() as connection:
            for holder in sorted(holders):
                keys = {"holder": holder, "user_id": user_id}
                await upsert(connection, tables.deletions, keys, {"asked_at": time.time()})

    async def done(self, user_id: int, holder: str) -> None:
        """A request was carried out."""
        table = tables.deletions
        async with self._database.write() as connection:
            await connection.execute(sa.delete(table).where(table.c.holder == holder, table.c.user_id == user_id))

    async def waiting(self, holder: str) -> list[int]:
        """Users whose request to this one waits, the oldest first."""
        table = tables.deletions
        query = sa.select(table.c.user_id).where(table.c.holder == holder).order_by(table.c.asked_at)
        async with self._database.read() as connection:
            return [int(row.user_id) for row in await connection.execute(query)]

    async def waiting_of(self, user_id: int) -> list[str]:
        """Whom a user's request waits for."""
        table = tables.deletions
        query = sa.select(table.c.holder).where(table.c.user_id == user_id).order_by(table.c.holder)
        async with self._database.read() as connection:
            return [str(row.holder) for row in await connection.execute(query)]

    async def documents_of(self, user_id: int, holders: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """All documents about a user in these tables, as far as they are there: by table, collection and key."""
        there = await self.holders()
        found: dict[str, dict[str, dict[str, Any]]] = {}
        async with self._database.read() as connection:
            for holder in sorted(there.intersection(holders)):
                table = tables.table_called(holder)
                query = sa.select(table.c.collection, table.c.key, table.c.value).where(table.c.user_id == user_id)
                rows = (await connection.execute(query.order_by(table.c.collection, table.c.key))).all()
                if rows:
                    found[holder] = await asyncio.to_thread(tables.by_collection, rows)
        return found

    async def documents(self, user_id: int, holders: Iterable[str]) -> int:
        """Delete all documents about a user from these tables, as far as they are there; how many those were."""
        there = await self.holders()
        deleted = 0
        async with self._database.write() as connection:
            for holder in sorted(there.intersection(holders)):
                table = sa.table(holder, sa.column("user_id"))
                deleted += int((await connection.execute(sa.delete(table).where(table.c.user_id == user_id))).rowcount)
        return deleted


def plugin_tables(connection: sa.Connection) -> set[str]:
    """What is called like a plugin's table and has its columns; others may keep theirs in the same database."""
    inspector, columns = sa.inspect(connection), set(tables.documents_table("").columns.keys())
    found = set()
    for name in inspector.get_table_names():
        if name.startswith(tables.PREFIX) and _BACKUP.search(name) is None:
            with contextlib.suppress(sa.exc.NoSuchTableError):  # it was deleted meanwhile
                if {str(each["name"]) for each in inspector.get_columns(name)} == columns:
                    found.add(name)
    return found
