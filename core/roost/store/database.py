"""The connection to the database: which one, how it is opened, and its errors in our words.

SQLite: one file of mode 0600, write-ahead log, every commit on disk before it is answered. PostgreSQL: by URL, through
asyncpg. Nothing above this module knows which of the two it is, except where a backup is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import os
import socket
import sqlite3
import stat
import struct
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from roost.errors import ConfigError, ResourceError, RoostError, StoreCause, StoreError
from roost.file_errors import explain
from roost.scopes import Scope, finished

T = TypeVar("T")
_log = logging.getLogger("roost.store")

KEY = "store.url"
FILE_NAME = "roost.sqlite3"
BUSY_MS = 10_000
"""How long a write waits for another one in SQLite."""
HELD_BYTE = 1 << 62
"""What a process that holds SQLite's file locks in it; SQLite's own locks are far below."""
_FLOCK = struct.Struct("@hhqqi4x")
"""``struct flock``: type, whence, start, length, process."""
_REFUSED_S = 0.02
"""Between two attempts to switch a new database to its write-ahead log."""
POSTGRESQL_PORT = 5432
CONNECT_S = 10.0
COMMAND_S = 600.0
"""The longest statement; a migration may take that long."""
POOL_S = 15.0
WRITES = 0x526F6F73, 1
"""Advisory lock of PostgreSQL that every transaction that writes shares until it is over."""
SETTLED_S = 10.0
"""How long a statement waits for a transaction whose end is not known."""
_LOOK_S = 0.1
"""Between two looks at the transactions that are not over."""
START_S = POOL_S + CONNECT_S
"""The longest beginning: a free connection, and a new one if its server has forgotten it."""
UNDO_S = 10.0
"""How long a connection may take to undo its work."""
ENDED_S = 2.0
"""How long the store waits at its end for operations of plugins; a locked SQLite holds them up for longer."""
TURNS = 4
"""Reads and writes of one plugin at a time."""
PLUGIN_TURNS = 10
"""Reads and writes of all plugins at a time: the pool has connections for five more."""
TURN_S = 30.0
"""How long a plugin's request waits for its others, and then for those of other plugins."""
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OPTIONS = ("host", "port", "prepared_statement_cache_size", "ssl", "sslmode", "target_session_attrs")
"""Of the URL of PostgreSQL."""
KEEP_ALIVES = {"tcp_keepalives_idle": "20", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "4"}
"""The server ends a session, and what it locked, 40 s after the client's machine is gone."""

_DRIVERS = {
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}
BEGIN = "roost_begin"
"""Execution option of a SQLite connection: how its transactions begin; empty for none."""


_PASSING = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)
"""Errors of the database itself, and not of what was asked of it."""
_PASSING_STATES = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE that are so too: connection, serialization, resources, locks, operator and system."""
_UNUSABLE_STATES = ("25006", "28", "42501", "42P01", "53100", "58", "XX001", "XX002")
"""SQLSTATE: read-only, a refused user, a missing right, a missing table, a full disk, an I/O error, damage."""
_NO_DATABASE = "3D000"
_LOCKED = "55P03"


class Door(Protocol):
    """Where reads and writes go through."""

    def read(self) -> Any:
        """An async context manager that gives a connection."""

    def write(self) -> Any:
        """An async context manager that gives a connection in a transaction: committed at the end, or undone."""

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that reads and writes; see `Operations.run`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where connections of the store lead: to a TCP port, or to a file or a socket's folder."""

    port: int | None = None
    path: str | None = None


class Connection:
    """What readers and writers of the store are given.

    With SQLite no statement is interrupted: whoever is cancelled is so after it. An interrupted one would leave the
    file open until the garbage collector comes by. Coroutines of plugins, which may be left behind in the middle of a
    statement, use it in a task of the store alone: see `Operations`.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._whole = connection.dialect.name == "sqlite"

    @property
    def dialect(self) -> sa.Dialect:
        return self._connection.dialect

    async def execute(self, statement: sa.Executable, parameters: Any = None) -> sa.CursorResult[Any]:
        return await self._run(self._connection.execute(statement, parameters))

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> sa.CursorResult[Any]:
        return await self._run(self._connection.exec_driver_sql(statement, parameters))

    async def run_sync(self, function: Callable[..., T]) -> T:
        return await self._run(self._connection.run_sync(function))

    async def interrupter(self) -> Callable[[], Awaitable[None]]:
        """What ends the statement that is under way with an error. SQLite only."""
        driver: Any = (await self._connection.get_raw_connection()).driver_connection
        return cast("Callable[[], Awaitable[None]]", driver.interrupt)

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return await (finished(work) if self._whole else work)


class Database:
    """Owns the engine. Made by `open_database`."""

    def __init__(self, engine: AsyncEngine, data_dir: Path) -> None:
        self.engine = engine
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        self.file = Path(file) if file and file != ":memory:" else None
        """Of SQLite."""
        self.backup_dir = self.file.parent if self.file is not None else data_dir
        self._opened = self.file.stat() if self.file is not None else None
        self._has_pages = False
        """Whether SQLite's file was seen with content: a new one has none yet."""
        self._writable = asyncio.Event()
        """Cleared while `alone` keeps writes waiting."""
        self._writable.set()
        self._doubtful: set[int] = set()
        """Server processes of PostgreSQL that were told to commit and did not answer."""
        self._settling = asyncio.Lock()
        self.plugin_reads = asyncio.Semaphore(PLUGIN_TURNS)
        self.plugin_writes = asyncio.Semaphore(1) if self.is_sqlite else self.plugin_reads
        """In SQLite one write of all plugins is under way or waits, so that the core's are never far behind."""
        self._writes = asyncio.Lock()
        """Held by a write to SQLite, which takes nobody by turns."""
        self._pooled: weakref.WeakSet[Any] = weakref.WeakSet()
        """Connections of the driver that the pool has made. PostgreSQL only."""
        if not self.is_sqlite:
            sa.event.listen(engine.sync_engine, "connect", self._note_connection)
        self._held: int | None = None

    @property
    def address(self) -> Address:
        url = self.engine.url
        if self.is_sqlite:
            return Address(path=str(self.file) if self.file is not None else None)
        host = str(url.query.get("host", url.host or ""))
        return Address(path=host) if host.startswith("/") else Address(port=url.port or POSTGRESQL_PORT)

    @property
    def place(self) -> str:
        """For people: the file, or name and server."""
        if self.is_sqlite:
            return str(self.file or "in memory")
        return f"{self.engine.url.database} at {_place(self.engine.url)}"

    def trouble(self) -> str:
        """How SQLite's file was lost, as a sentence; empty while it is the file that was opened."""
        if self.file is None or self._opened is None:
            return ""
        try:
            now = self.file.stat()
            emptied = self._has_pages and not now.st_size
            self._has_pages = self._has_pages or now.st_size > 0
            if os.path.samestat(now, self._opened) and not emptied:
                return ""
        except FileNotFoundError:
            return f"the database {self.file} vanished while the bot ran; put it back, or start with an empty one"
        except OSError:
            return ""  # the next statement fails with the reason
        what = "emptied" if emptied and os.path.samestat(now, self._opened) else "replaced"
        return f"the database {self.file} was {what} while the bot ran; stop the bot first, then replace the file"

    def hold(self) -> bool:
        """Lock SQLite's file itself until `close`, whatever name leads to it; False when another process holds it.

        Raises:
            OSError: The file cannot be locked.
        """
        assert self.file is not None
        # Of the open file: unlike other locks it stays when SQLite closes a descriptor of its own.
        self._held = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self._held, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, HELD_BYTE, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True

    async def close(self) -> None:
        """Close all connections, then the file: closing that drops the locks of connections that are open."""
        await self.engine.dispose()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    async def session(self, *, command_s: float = CONNECT_S) -> AsyncConnection:
        """A connection outside the pool and outside any transaction, which the caller closes. PostgreSQL only.

        Args:
            command_s: The longest statement.
        """
        engine = create_async_engine(
            self.engine.url,
            hide_parameters=True,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": CONNECT_S, "command_timeout": command_s, "server_settings": KEEP_ALIVES},
        )
        return await engine.connect()

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @asynccontextmanager
    async def read(self, *, opening: bool = False) -> AsyncIterator[Connection]:
        """Raises ResourceError when the database fails.

        Args:
            opening: As for `write`.
        """
        await self._settle()
        async with self._connected(opening=opening) as connection:
            yield Connection(connection)

    @asynccontextmanager
    async def write(self, *, opening: bool = False) -> AsyncIterator[Connection]:
        """One transaction. Raises ResourceError when the database fails; then nothing of it was done.

        Args:
            opening: The store is being opened: refusals are the configuration's fault.
        """
        await self._writable.wait()
        await self._settle()
        async with self._in_turn(), self._connected("BEGIN IMMEDIATE", opening=opening) as connection:
            await finished(connection.begin().start())
            try:
                writer = None if self.is_sqlite else await _share_writes(connection)
                yield Connection(connection)
            except BaseException:
                await finished(self._undo(connection))
                raise
            try:
                await finished(connection.commit())
            except BaseException:
                if writer is not None:
                    self._doubtful.add(writer)
                raise

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Have writes of this process to SQLite take turns.

        SQLite tries again and again until it finds no other write under way; who writes without end would be found by
        everybody else.
        """
        if not self.is_sqlite:
            yield
            return
        try:
            async with asyncio.timeout(BUSY_MS / 1000):
                await self._writes.acquire()
        except TimeoutError:
            raise StoreError(f"the database was busy for {BUSY_MS // 1000} s; try again", retryable=True) from None
        try:
            yield
        finally:
            self._writes.release()

    def _note_connection(self, connection: Any, _record: Any) -> None:
        self._pooled.add(connection.driver_connection)

    def break_connections(self) -> None:
        """Break all connections of the pool; statements under way fail. PostgreSQL only."""
        for connection in tuple(self._pooled):
            connection.terminate()

    async def settle(self, *, opening: bool = False) -> None:
        """Wait until all transactions that write are over, those of earlier processes too. PostgreSQL only.

        A server goes on with a commit when its client is gone. Until then the rows are not there for others: they can
        neither be read nor deleted, and appear later.

        Args:
            opening: As for `write`.

        Raises:
            StoreError: They take too long.
        """
        try:
            async with asyncio.timeout(SETTLED_S):
                while True:
                    if not await self._writers(opening=opening):
                        return
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise _unsettled() from None

    async def _settle(self) -> None:
        """Wait until the transactions are over whose commit was not answered."""
        if not self._doubtful:
            return
        try:
            async with asyncio.timeout(SETTLED_S), self._settling:
                while self._doubtful:
                    doubtful = frozenset(self._doubtful)
                    self._doubtful -= doubtful - await self._writers()
                    if self._doubtful:
                        await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise _unsettled() from None

    async def _writers(self, *, opening: bool = False) -> set[int]:
        """Server processes of PostgreSQL with a transaction that writes."""
        async with self._connected(opening=opening) as connection:
            found = await connection.execute(_WRITERS, dict(zip(("one", "two"), WRITES, strict=True)))
            return {int(row.pid) for row in found}

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[Connection]:
        """A connection outside any transaction, for statements that allow none. SQLite only."""
        async with self._connected("") as connection:
            yield Connection(connection)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Connection]:
        """`bare`, while every other write waits: for a statement that takes longer than writes wait. SQLite only."""
        self._writable.clear()
        try:
            async with self.bare() as connection:
                yield connection
        finally:
            self._writable.set()

    @asynccontextmanager
    async def _connected(self, begin: str | None = None, *, opening: bool = False) -> AsyncIterator[AsyncConnection]:
        if trouble := self.trouble():
            raise StoreError(trouble, cause=StoreCause.UNUSABLE)
        with translated(opening=self.engine.url if opening else None):
            connection = self.engine.connect()
            try:
                await finished(self._start(connection))
                if begin is not None:
                    await connection.execution_options(**{BEGIN: begin})
                yield connection
            finally:
                if connection.sync_connection is not None:
                    await finished(self._close(connection))

    async def _start(self, connection: AsyncConnection) -> None:
        async with asyncio.timeout(None if self.is_sqlite else START_S):
            await connection.start()

    async def _undo(self, connection: AsyncConnection) -> None:
        """Undo what is not committed. A server that does not answer in time loses the connection, which undoes it, too.

        SQLite always answers: a statement waits for locks for a bounded time.
        """
        try:
            async with asyncio.timeout(None if self.is_sqlite else UNDO_S):
                await connection.rollback()
        except TimeoutError:
            await connection.invalidate()

    async def _close(self, connection: AsyncConnection) -> None:
        await self._undo(connection)
        await connection.close()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The core's own work needs no task: nobody leaves it behind."""
        return await work


class Operations:
    """Owner of the reads and writes of plugins, each of which is a task.

    The coroutine that asked for one may be left behind for good at any ``await``: a hook that catches its cancellation
    (see `roost.blocking.Guard.stepped`). The task then undoes its work and ends by itself, so that it gives back its
    connection, its locks and its turn.
    """

    def __init__(self) -> None:
        self._scope = Scope("store")

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await one operation. Whoever is cancelled goes on when it has ended, done or undone as a whole.

        Raises:
            StoreError: The store is closed, or something else cancelled the operation.
        """
        if self._scope.closed:
            work.close()
            raise StoreError("the store is closed")
        task = self._scope.spawn(work, "operation of a plugin", awaited=True)
        task.add_done_callback(_retrieve)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
            raise
        finally:
            task.cancel()  # the caller is left behind, or it is over
        if task.cancelled():
            raise StoreError("something else cancelled what was asked of the database", retryable=True)
        return task.result()

    async def aclose(self) -> None:
        """Undo the operations that are under way; idempotent. Those that take longer than `ENDED_S` are logged."""
        if left := await self._scope.aclose(ENDED_S):
            _log.warning("%d operations of plugins are still under way at the end", len(left))


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take the failure of an operation whose caller may have been left behind."""
    if not task.cancelled():
        task.exception()


class Turns:
    """A `Door` for one plugin: at most `TURNS` of its reads and writes are under way, the others wait for each other.

    Otherwise a plugin that asks for thousands of things at once takes every connection, and the decisions of members
    wait behind them. Plugins take turns: of each only one request waits for what all of them share.
    """

    def __init__(self, database: Database, operations: Operations) -> None:
        self._database = database
        self._operations = operations
        self._free = asyncio.Semaphore(TURNS)
        self._next_read = asyncio.Lock()
        self._next_write = asyncio.Lock()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._operations.run(work)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        async with self._turn(self._database.plugin_reads, self._next_read), self._database.read() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Connection]:
        async with self._turn(self._database.plugin_writes, self._next_write), self._database.write() as connection:
            yield connection

    @asynccontextmanager
    async def _turn(self, shared: asyncio.Semaphore, next_one: asyncio.Lock) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_S):
                await self._free.acquire()
        except TimeoutError:
            words = f"the database was busy with this plugin's other requests for {TURN_S:.0f} s; ask for fewer at once"
            raise StoreError(words, retryable=True) from None
        try:
            try:
                async with asyncio.timeout(TURN_S), next_one:
                    await shared.acquire()
            except TimeoutError:
                words = f"the database was busy with requests of plugins for {TURN_S:.0f} s; try again"
                raise StoreError(words, retryable=True) from None
            try:
                yield
            finally:
                shared.release()
        finally:
            self._free.release()


class OpenTransaction:
    """A `Door` into one transaction that somebody else ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._operations = Operations()

    async def aclose(self) -> None:
        """Nothing goes through any more, and what has begun is over."""
        await self._operations.aclose()
        self._connection = None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._connection is None:
            work.close()
            raise _ended_migration()
        return await self._operations.run(work)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        if self._connection is None:
            raise _ended_migration()
        with translated():
            yield self._connection

    write = read


_WRITERS = sa.text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = :one AND objid = :two AND objsubid = 2"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


async def _share_writes(connection: AsyncConnection) -> int:
    """Take part in `WRITES` until the end of the transaction; return the id of the server's process."""
    lock = sa.func.pg_advisory_xact_lock_shared(*WRITES)
    return int((await connection.execute(sa.select(sa.func.pg_backend_pid(), lock))).one()[0])


def _unsettled() -> StoreError:
    words = f"the database has not ended a transaction of this bot within {SETTLED_S:.0f} s; see its own log"
    return StoreError(words, retryable=True)


def _ended_migration() -> ResourceError:
    return ResourceError("the store that a migration was given ended with it")


async def exclusive(connection: Connection, what: str) -> None:
    """Until the end of the transaction nobody else, in any process, is past this point for `what`.

    SQLite needs nothing: a write is alone there.
    """
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


async def upsert(connection: Connection, table: sa.Table, keys: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row or change the one that is there."""
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(**keys, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=values))


async def upsert_all(
    connection: Connection, table: sa.Table, keys: Collection[str], rows: Sequence[dict[str, Any]]
) -> None:
    """Insert rows or change those that are there; all rows have the same columns.

    Args:
        keys: Names of the columns that tell rows apart.
    """
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    await connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=changed), rows)


@asynccontextmanager
async def open_database(data_dir: Path, url: str | None) -> AsyncIterator[Database]:
    """Open the database; nothing is created but SQLite's file.

    Raises:
        ConfigError: The URL is wrong, or the database refuses us.
        ResourceError: The database cannot be reached.
    """
    database = Database(_make_engine(data_dir, url), data_dir)
    try:
        yield database
    finally:
        await database.close()


def sqlite_file(data_dir: Path, url: str | None) -> Path | None:
    """SQLite's file; None for another database, or one in memory.

    Raises:
        ConfigError: The URL is wrong.
    """
    parsed = _parse(data_dir, url)
    named = parsed.database if parsed.drivername == "sqlite+aiosqlite" else None
    return Path(named) if named and named != ":memory:" else None


def check_url(data_dir: Path, url: str | None) -> None:
    """Look at a URL without a connection, and without making a file.

    Raises:
        ConfigError: It is wrong.
    """
    parsed = _parse(data_dir, url)
    if parsed.drivername != "sqlite+aiosqlite":
        try:
            _checked(parsed)
        except (sa.exc.ArgumentError, ValueError, TypeError):
            raise _no_url() from None


def _parse(data_dir: Path, url: str | None) -> sa.URL:
    try:
        parsed = make_url(url) if url else sa.URL.create("sqlite+aiosqlite", database=str(data_dir / FILE_NAME))
    except (sa.exc.ArgumentError, ValueError, TypeError):
        raise _no_url() from None
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    if parsed.drivername not in _DRIVERS.values():
        known = " or ".join(sorted(set(_DRIVERS.values())))
        raise ConfigError(f"the database must be {known}, not {parsed.drivername}", key=KEY)
    return parsed


def _no_url() -> ConfigError:
    # What the library says may quote the URL, password and all.
    return ConfigError(
        "this is no database URL; write postgresql+asyncpg://USER:PASSWORD@HOST/NAME, with %40 for an @ and %2F "
        "for a / in the password",
        key=KEY,
    )


def _make_engine(data_dir: Path, url: str | None) -> AsyncEngine:
    parsed = _parse(data_dir, url)
    try:
        return _sqlite(parsed) if parsed.drivername == "sqlite+aiosqlite" else _postgresql(parsed)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; run: pip install 'roost[postgres]'", key=KEY) from None
    except (sa.exc.ArgumentError, ValueError, TypeError):
        raise _no_url() from None


def _postgresql(url: sa.URL) -> AsyncEngine:
    engine = create_async_engine(
        _checked(url),
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=POOL_S,
        connect_args={"timeout": CONNECT_S, "command_timeout": COMMAND_S, "server_settings": KEEP_ALIVES},
    )
    sa.event.listen(engine.sync_engine, "connect", _tune_postgresql)
    return engine


def _checked(url: sa.URL) -> sa.URL:
    """The URL as asyncpg takes it, which has ``ssl`` where libpq has ``sslmode``.

    Raises:
        ConfigError: asyncpg would fail over it at the first connection.
    """
    query = dict(url.query)
    if unknown := sorted(set(query) - set(_OPTIONS)):
        raise ConfigError(
            f"the URL has the option {unknown[0]}, which is not known here; leave it out (there is: "
            f"{', '.join(_OPTIONS)})",
            key=KEY,
        )
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    if (mode := query.get("ssl", _SSL_MODES[0])) not in _SSL_MODES:
        raise ConfigError(f"the URL has the sslmode {mode}; write one of {', '.join(_SSL_MODES)}", key=KEY)
    if not 0 < int(str(query.get("port", url.port or POSTGRESQL_PORT))) < 1 << 16:
        raise ConfigError("the URL has a port that is not from 1 to 65535", key=KEY)
    if not url.database:
        raise ConfigError("the URL names no database; write postgresql+asyncpg://USER:PASSWORD@HOST/NAME", key=KEY)
    return url.set(query=query)


def _tune_postgresql(connection: Any, _record: Any) -> None:
    """A statement waits for a lock of another session as long as a write does in SQLite."""
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = {BUSY_MS}")
    cursor.close()
    connection.commit()


def _sqlite(url: sa.URL) -> AsyncEngine:
    if url.database and url.database != ":memory:":
        file = Path(url.database)
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
            if not file.is_file():  # a device, say, whose mode is nobody's to change
                raise ConfigError(f"cannot open the database {file}: it is not a file; check the path", key=KEY)
            _close_to_others(file)
        except OSError as error:
            raise ConfigError(f"cannot open the database {file}: {explain(error, file)}", key=KEY) from None
    engine = create_async_engine(url, hide_parameters=True)
    sa.event.listen(engine.sync_engine, "connect", _tune_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _close_to_others(file: Path) -> None:
    """Take the rights of others from the file; its group keeps them in a folder that the group may write to.

    The write-ahead log gets the mode of the file.
    """
    mode = stat.S_IMODE(file.stat().st_mode)
    shared = bool(file.parent.stat().st_mode & stat.S_IWGRP)
    excess = mode & (stat.S_IRWXO if shared else stat.S_IRWXO | stat.S_IRWXG)
    if excess:
        file.chmod(mode & ~excess)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """WAL survives SIGKILL; synchronous=FULL makes a commit survive the machine too; deleted rows are overwritten."""
    connection.isolation_level = None  # Python's own idea of when to begin would leave reads and DDL outside
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_MS}",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    connection.run_async(_keep_write_ahead_log)


async def _keep_write_ahead_log(connection: aiosqlite.Connection) -> None:
    """Several that open a new database ask for its log at once: SQLite refuses some of them without waiting."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            await (await connection.execute("PRAGMA journal_mode=WAL")).close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        await asyncio.sleep(_REFUSED_S)


def _begin_sqlite(connection: sa.Connection) -> None:
    """A write takes the lock at its start: one that turned from reading to writing could not wait for another."""
    statement = connection.get_execution_options().get(BEGIN, "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)


@contextmanager
def translated(*, opening: sa.URL | None = None) -> Iterator[None]:
    """Database errors in our words. Rows and passwords are in none of them.

    Args:
        opening: The URL, while the database is being opened: refusals are then the configuration's fault.
    """
    try:
        yield
    except RoostError:
        raise
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise _as_ours(error, opening) from error
    except Exception as error:
        if not type(error).__module__.startswith("asyncpg"):
            raise
        raise _as_ours(error, opening) from error


def _as_ours(error: Exception, opening: sa.URL | None) -> RoostError:
    cause: Any = getattr(error, "orig", None) or error
    state = str(getattr(cause, "sqlstate", None) or "")
    said = _line(cause)
    if isinstance(cause, sqlite3.Error) and (ours := _of_sqlite(cause, said, opening)) is not None:
        return ours
    if opening is None:
        words = f"the database failed: {said}; try again, and see its own log"
        if state == _NO_DATABASE:
            return StoreError(words, cause=StoreCause.GONE, retryable=True)
        if state.startswith(_UNUSABLE_STATES):
            return StoreError(words, cause=StoreCause.UNUSABLE, retryable=True)
        if (
            state.startswith(_PASSING_STATES)
            or isinstance(error, _PASSING)
            or not isinstance(error, sa.exc.SQLAlchemyError)
        ):
            return StoreError(words, retryable=True)
        return ResourceError(words, retryable=True)
    if opening.get_backend_name() == "sqlite":
        return ConfigError(f"cannot open the database: {said}", key=KEY)
    place = _place(opening)
    if state.startswith("28"):
        return ConfigError(
            f"the database at {place} refuses the user {opening.username or '(none given)'}: {said}; check the user "
            "and the password in the URL",
            key=KEY,
        )
    if state == _NO_DATABASE:
        return ConfigError(
            f"there is no database {opening.database} at {place}; make it: createdb {opening.database}", key=KEY
        )
    if state == "42501":
        return ConfigError(
            f"the user {opening.username} may not make tables in {opening.database}: {said}; "
            f"run: GRANT CREATE ON SCHEMA public TO {opening.username}",
            key=KEY,
        )
    if state == _LOCKED:
        return ResourceError(
            f"the database at {place} is busy: {said}; end the session that locks its tables", retryable=True
        )
    if state and not state.startswith(("08", "53", "57")):
        return ConfigError(f"the database at {place} cannot be used: {said}", key=KEY)
    return ResourceError(
        f"the database at {place} cannot be reached: {said}; start it, or correct {KEY}", retryable=True
    )


def _of_sqlite(cause: sqlite3.Error, said: str, opening: sa.URL | None) -> RoostError | None:
    """Error for those of SQLite's result codes that have a remedy of their own."""
    what = f"the database {opening.database}" if opening is not None else "the database"
    unusable = StoreCause.UNUSABLE
    match getattr(cause, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(what, said) if opening is not None else StoreError(_damage(what, said), cause=unusable)
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            words = f"{what} cannot be written: {said}; free some space on its disk"
            return StoreError(words, cause=unusable, retryable=True)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            words = f"{what} cannot be written: {said}; check the owner and mode of it and its folder"
            return StoreError(words, cause=unusable)
    return None


def damaged(what: str, said: str) -> ConfigError:
    """The error for a database that is damaged when it is opened."""
    return ConfigError(_damage(what, said), key=KEY)


def _damage(what: str, said: str) -> str:
    remedy = "stop the bot and restore a backup, or move the file away to begin with an empty one"
    return f"{what} is damaged ({said}); {remedy}"


def _place(url: sa.URL) -> str:
    """Host and port, or the folder of a socket."""
    host = url.query.get("host", url.host) or "localhost"
    return f"{host}:{url.port or POSTGRESQL_PORT}"


def _line(cause: BaseException) -> str:
    """The first line of what a library says, without its class."""
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, socket.gaierror):
        return "its name is not known"
    if isinstance(cause, OSError):
        return os.strerror(cause.errno) if cause.errno else (str(cause).splitlines() or ["connection lost"])[0]
    first = (str(cause).splitlines() or [type(cause).__name__])[0]
    return first.partition(">: ")[2] or first
