"""Removing what deleted rows leave behind: in SQLite's file and write-ahead log, as dead rows in PostgreSQL.

SQLite overwrites deleted rows (``secure_delete``), but copies of them stay in two places: in the write-ahead log, and
in the unused part of pages whose rows moved to another page. So after a deletion the file is rebuilt (``VACUUM``) and
the log is emptied. That goes on in the background until it has worked, and after the next start if the bot ends first.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import sqlalchemy as sa

from roost.errors import ResourceError, RoostError
from roost.scopes import Scope
from roost.store import tables
from roost.store.database import BUSY_MS, Connection, Database, Operations, translated, upsert
from roost.store.deletions import plugin_tables

_log = logging.getLogger("roost.store")

ONE = {"one": 1}
READERS_MS = 200
"""How long one attempt to empty the log waits for readers; writers wait meanwhile."""
AGAIN_S = (*(0.25,) * 20, 1.0, 5.0, 30.0)
"""Pauses before another attempt, the last one for ever: often while somebody waits for the answer."""
SHARE = 20
"""After a rebuild the next one waits so many times as long as it took, so that a large file stays usable."""
ROOM = 2
"""Free space that a rebuild needs, in sizes of the file: for a temporary copy, and for the log."""
QUICK_S = 0.25
"""A rebuild that takes less is never waited for."""
SERVER_S = 600.0
"""The longest ``VACUUM`` of PostgreSQL."""


class Traces:
    """What is left of deleted rows in one database.

    Its owner runs `run` as a task. The wish to remove traces is stored before the first row is deleted, so that it
    survives the process.
    """

    def __init__(self, database: Database, operations: Operations) -> None:
        self._database = database
        self._operations = operations
        self._under_way = 0
        """Deletions that have begun, or are about to, and not ended."""
        self._asked = 0
        """Deletions that have ended."""
        self._rebuilt = 0
        """Of these, those whose rows are not in the file any more."""
        self._gone = 0
        """Of these, those that are in no file."""
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._interrupt: Callable[[], Awaitable[None]] | None = None
        """Interrupts the rebuild that is under way."""
        self._closing = False
        self._rebuild_at = float("-inf")
        """When the next rebuild may begin; event loop time."""

    @asynccontextmanager
    async def deleting(self) -> AsyncIterator[None]:
        """Delete in this block what must leave no trace. What it leaves behind is removed soon after.

        Raises:
            ResourceError: The database failed; the block did not begin.
        """
        began = False
        # Counted before the wish is stored, so that `_note_gone` does not take back a wish that was just stored.
        self._under_way += 1
        try:
            await self._operations.run(self._want())
            began = True
            yield
        finally:
            self._under_way -= 1
            if began:
                self._asked += 1
                self._wake.set()

    async def _want(self) -> None:
        async with self._database.write() as connection:
            await upsert(connection, tables.traces, ONE, {"wanted": True})

    async def gone(self, within_s: float) -> bool:
        """Wait until nothing is left of all that was deleted; False when that takes longer and goes on."""
        asked = self._asked
        try:
            async with asyncio.timeout(within_s):
                while self._gone < asked:
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Remove traces whenever something was deleted, also what an earlier run left. Ends with `close`."""
        async with self._database.read() as connection:
            left = (await connection.execute(sa.select(tables.traces.c.wanted))).scalar()
        if left:
            self._asked += 1
            self._wake.set()
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            await self._remove()

    async def close(self) -> None:
        """End `run`; a rebuild under way is interrupted and repeated after the next start. Idempotent."""
        self._closing = True
        if self._interrupt is not None:
            await self._interrupt()

    async def _remove(self) -> None:
        """Try until it works."""
        failures = 0
        while self._is_wanted():
            asked = self._asked
            try:
                if await self._remove_now(asked):
                    await self._note_gone(asked)
                    continue
                why = "something else reads the database"
            except RoostError as error:
                why = str(error)
            if not self._is_wanted():
                return
            if failures == len(AGAIN_S) - 1:
                _log.warning("traces of deleted data are not removed yet: %s", why)
            await asyncio.sleep(AGAIN_S[min(failures, len(AGAIN_S) - 1)])
            failures += 1

    def _is_wanted(self) -> bool:
        return self._gone < self._asked and not self._closing

    async def _remove_now(self, asked: int) -> bool:
        if not self._database.is_sqlite:
            await self._vacuum()
            return True
        if self._rebuilt < asked:
            await self._rebuild()
        return await self._empty_log()

    async def _note_gone(self, asked: int) -> None:
        async with self._database.write() as connection:
            await upsert(connection, tables.traces, ONE, {"wanted": False})
            # Whatever was deleted since, or is being deleted, keeps the wish. Only now nobody else can store one.
            if self._asked != asked or self._under_way:
                await upsert(connection, tables.traces, ONE, {"wanted": True})
        self._gone = asked
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _rebuild(self) -> None:
        """Write SQLite's file anew from the rows that are there."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._rebuild_at - loop.time()))
        await asyncio.to_thread(self._check_room)
        asked, began_s = self._asked, loop.time()
        async with self._database.alone() as connection:
            self._interrupt = await connection.interrupter()
            try:
                await connection.exec_driver_sql("VACUUM")
            finally:
                self._interrupt = None
        took_s = loop.time() - began_s
        if took_s > QUICK_S:
            self._rebuild_at = loop.time() + SHARE * took_s
            _log.info("the database was rebuilt without what was deleted, in %.1f s", took_s)
        self._rebuilt = asked

    def _check_room(self) -> None:
        """Raise ResourceError when a rebuild would fill the disk, so that nothing else could be stored either."""
        file = self._database.file
        if file is None:
            return
        needed = ROOM * file.stat().st_size
        if shutil.disk_usage(file.parent).free < needed:
            raise ResourceError(f"rebuilding the database needs {-(-needed >> 20)} MiB of free space on its disk")

    async def _empty_log(self) -> bool:
        """Move SQLite's write-ahead log into the file and cut it to nothing; False while something reads it."""
        async with self._database.bare() as connection:
            await connection.exec_driver_sql(f"PRAGMA busy_timeout={READERS_MS}")
            try:
                row = (await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).one()
            finally:
                await connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_MS}")
        return not row[0]

    async def _vacuum(self) -> None:
        """Have PostgreSQL free the space of deleted rows."""
        async with self._database.read() as connection:
            named = {*await connection.run_sync(plugin_tables), *tables.metadata.tables}
            quote = connection.dialect.identifier_preparer.quote
        with translated():
            session = await self._database.session(command_s=SERVER_S)
            try:
                await session.execute(sa.text(f"VACUUM {', '.join(sorted(map(quote, named)))}"))
            finally:
                await session.close()


async def prepare(connection: Connection, *, filled: bool) -> None:
    """Note what is wanted in a database where nothing is noted yet: one that an older version filled holds traces."""
    if (await connection.execute(sa.select(tables.traces.c.wanted))).first() is None:
        await upsert(connection, tables.traces, ONE, {"wanted": filled})


@asynccontextmanager
async def removing(traces: Traces) -> AsyncIterator[None]:
    """Run `Traces.run` during the block."""
    scope = Scope("store")
    scope.keep(traces.run, "traces")
    try:
        yield
    finally:
        await traces.close()
        await scope.aclose()
