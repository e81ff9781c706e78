"""Owner and holder of the database: the bot that the data belongs to, and the process that uses it now.

SQLite: a lock file beside the database, which names the holder, and a lock of the database's file itself, which other
names of the file (hard links) lead to, too. PostgreSQL: an advisory lock, keyed by the bot, of a session of its own for
as long as the process lives. The server frees it with the connection, which keep-alives end when the machine is gone.
A pooler that shares one session among several clients must not stand in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from roost.errors import ConfigError, HeldError, ResourceError, StoreCause, StoreError
from roost.holder import Holder, LockFile, Owner, cannot_use, hold_file, in_use, refuse_another
from roost.store import tables
from roost.store.database import KEY, Connection, Database, exclusive, translated, upsert

_log = logging.getLogger("roost.store")

ANOTHER_DATABASE = f"name another database in {KEY}, or another folder with --data-dir"
ANSWER_S = 10.0
"""How long the server may take to answer on the session that holds the lock."""
ONE = {"one": 1}


class StoreHold:
    """The database of this process. Made by `hold_store`."""

    def __init__(self, database: Database, holder: Holder) -> None:
        self._database = database
        self._holder = holder
        self._lock_file: LockFile | None = None
        self._session: AsyncConnection | None = None
        self._silent = False
        """Whether the server did not answer on the session that holds the lock."""
        self._told = False

    @property
    def _what(self) -> str:
        return f"the database {self._database.place}"

    async def trouble(self) -> str:
        """How the database was lost, as a sentence; empty while this process holds it.

        A lock that went with its connection is taken anew. While the server cannot be reached nothing is lost yet.
        """
        if self._database.is_sqlite:
            if self._lock_file is not None and self._lock_file.is_lost():
                return f"the lock file of {self._what} was removed or replaced while the bot ran; leave it alone"
            return self._database.trouble()
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._session is None or not await self._answers():
                    await self._take(opening=False)
                    _log.info("%s is held again", self._what)
                else:
                    await self._check_same()
            self._told = self._silent = False
        except (HeldError, ConfigError) as error:
            return str(error)
        except StoreError as error:
            if error.cause is StoreCause.GONE:
                return f"{self._what} vanished while the bot ran; put it back, or start with an empty one"
            self._doubt(error)
        except TimeoutError as error:
            self._silent = True
            self._doubt(error)
        except ResourceError as error:
            self._doubt(error)
        return ""

    def _doubt(self, error: Exception) -> None:
        if not self._told:
            _log.warning(
                "%s does not say whether this process still holds it: %s", self._what, error or "no answer in time"
            )
        self._told = True

    async def claim(self, owner: Owner) -> None:
        """Record the owner of the database.

        Raises:
            ConfigError: It is another bot's.
            ResourceError: The database failed.
        """
        values = dataclasses.asdict(owner)
        async with self._database.write() as connection:
            await exclusive(connection, "roost owner")
            found = await _owner(connection)
            refuse_another(found, self._holder.bot_id, self._what, ANOTHER_DATABASE, key=KEY)
            if found != owner:
                await upsert(connection, tables.owner, ONE, values)
        if found is None:
            _log.info("%s belongs to the application %d from now on", self._what, owner.application_id)

    async def open(self, stack: AsyncExitStack) -> None:
        """Take hold until the stack unwinds; raises what `hold_store` raises."""
        if self._database.is_sqlite:
            if (file := self._database.file) is not None:
                file = file.resolve()  # two links to one file lead to one lock
                lock = file.with_name(f"{file.name}.lock")
                held = hold_file(lock, self._holder, self._what, ANOTHER_DATABASE)
                self._lock_file = stack.enter_context(held)
                self._hold_itself(file)
            await self._check_owner(opening=True)
            return
        stack.push_async_callback(self._drop)
        await self._take(opening=True)

    def _hold_itself(self, file: Path) -> None:
        try:
            is_held = self._database.hold()
        except OSError as error:
            raise cannot_use(file, error, self._what) from None
        if not is_held:
            raise in_use(f"{self._what}, by another name of its file,", None, self._holder.bot_id, ANOTHER_DATABASE)

    async def _check_owner(self, *, opening: bool) -> None:
        async with self._database.read(opening=opening) as connection:
            found = await _owner(connection) if await _has(connection, tables.owner) else None
        refuse_another(found, self._holder.bot_id, self._what, ANOTHER_DATABASE, key=KEY)

    async def _take(self, *, opening: bool) -> None:
        """Take the advisory lock on a new session; only then is anything written.

        Args:
            opening: The store is being opened: refusals are the configuration's fault.

        Raises:
            ConfigError: The database is another bot's.
            HeldError: Another process holds it.
            ResourceError: The database failed.
        """
        await self._drop()
        number = int.from_bytes(
            hashlib.sha256(f"roost holder {self._holder.bot_id}".encode()).digest()[:8], "big", signed=True
        )
        with translated(opening=self._database.engine.url if opening else None):
            session = self._session = await self._database.session()
            taken = (await session.execute(sa.select(sa.func.pg_try_advisory_lock(number)))).scalar()
        if self._silent:
            # The server answers on new connections, as another one does that has taken its place.
            self._silent = False
            self._database.break_connections()
        if not taken:
            await self._drop()
            row = None
            async with self._database.read(opening=opening) as connection:
                if await _has(connection, tables.holder):
                    row = (await connection.execute(sa.select(tables.holder))).mappings().first()
            found = Holder(row["pid"], row["host"], row["since_s"], row["bot_id"]) if row is not None else None
            if not opening and found == self._holder:
                raise StoreError("the server has not ended an earlier session of this process yet", retryable=True)
            raise in_use(self._what, found, self._holder.bot_id, ANOTHER_DATABASE)
        if opening:
            await self._database.settle(opening=True)
        await self._check_owner(opening=opening)
        if not opening:
            await self._check_same()
        async with self._database.write(opening=opening) as connection:
            await exclusive(connection, "roost schema")
            await connection.run_sync(functools.partial(tables.metadata.create_all, tables=[tables.holder]))
            await upsert(connection, tables.holder, ONE, dataclasses.asdict(self._holder))

    async def _check_same(self) -> None:
        """The database still has what this process wrote into it when it took hold.

        Raises:
            ConfigError: It was emptied or replaced, or another process held it meanwhile.
            ResourceError: It failed.
        """
        async with self._database.read() as connection:
            row = None
            if await _has(connection, tables.holder):
                row = (await connection.execute(sa.select(tables.holder))).mappings().first()
        mine = dataclasses.asdict(self._holder) | ONE
        # A bot that begins on a new database at the same time may have written its own row; the owner decides then.
        if row is None or (row["bot_id"] == self._holder.bot_id and dict(row) != mine):
            raise ConfigError(
                f"{self._what} was emptied or replaced while the bot ran; stop the bot first, then replace it"
            )

    async def _answers(self) -> bool:
        """Whether the session that holds the lock is alive."""
        assert self._session is not None
        try:
            with translated():
                await self._session.execute(sa.text("SELECT 1"))
        except ResourceError:
            return False
        return True

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(ResourceError), translated():
                await session.invalidate()
                await session.close()


@asynccontextmanager
async def hold_store(database: Database, holder: Holder) -> AsyncIterator[StoreHold]:
    """Hold a database until the block ends.

    Raises:
        ConfigError: It is another bot's.
        HeldError: Another process holds it.
        ResourceError: It cannot be reached.
    """
    hold = StoreHold(database, holder)
    async with AsyncExitStack() as stack:
        await hold.open(stack)
        yield hold


async def _has(connection: Connection, table: sa.Table) -> bool:
    """Whether a database, which may be new or of an older version, has a table."""
    return await connection.run_sync(lambda synced: sa.inspect(synced).has_table(table.name))


async def _owner(connection: Connection) -> Owner | None:
    row = (await connection.execute(sa.select(tables.owner))).mappings().first()
    return Owner(row["bot_id"], row["application_id"], row["name"]) if row is not None else None
