"""A plugin's own storage: collections of JSON documents, found by key, guild and user."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa

from roost.errors import UsageError
from roost.store import tables
from roost.store.database import Connection, Database, Door, exclusive, upsert
from roost.store.erasure import Erasure

P = ParamSpec("P")
T = TypeVar("T")

KEY_CHARS = 255
QUERY_LIMIT = 1000
"""The most documents one query gives."""

DECODED_AT_ONCE = 50
"""More documents than these are decoded in a thread: the event loop has others to serve."""

_COLLECTION = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One document of a collection.

    Attributes:
        key: Unique in its collection.
        value: What was put, after a round through JSON.
        guild_id: The guild it belongs to, if to one.
        user_id: The user it is about, if about one.
        changed_at: When it was put last; seconds since 1970.
    """

    key: str
    value: Any = dataclasses.field(repr=False)
    guild_id: int | None
    user_id: int | None
    changed_at: float


class _Through(Protocol):
    """What reads and writes through a door."""

    _door: Door


_Self = TypeVar("_Self", bound=_Through)


def _operation(
    method: Callable[Concatenate[_Self, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Self, P], Coroutine[Any, Any, T]]:
    """A method whose caller may be left behind: see `Operations`."""

    @functools.wraps(method)
    async def run(self: _Self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._door.run(method(self, *args, **kwargs))

    return run


class PluginTable:
    """The table of one plugin, made when it is first needed."""

    def __init__(self, database: Database, plugin: str) -> None:
        self.table = tables.documents_table(plugin)
        self._database = database
        self._made = False
        self._making = asyncio.Lock()

    async def make(self) -> None:
        async with self._making:
            if self._made:
                return
            async with self._database.write() as connection:
                await exclusive(connection, "roost schema")
                await connection.run_sync(self.table.metadata.create_all)
            self._made = True


class Collection:
    """Documents of one kind. Every write is on disk when it returns."""

    def __init__(self, door: Door, table: PluginTable, name: str) -> None:
        self.name = name
        self._door = door
        self._owner = table
        self._table = table.table

    async def put(self, key: str, value: Any, *, guild_id: int | None = None, user_id: int | None = None) -> None:
        """Store a document, in place of the one that has the key.

        Args:
            key: 1 to 255 characters; documents are sorted by it.
            value: Anything JSON can hold.
            guild_id: Makes it findable by guild.
            user_id: Makes it findable by user.

        Raises:
            UsageError: The key or the value cannot be stored.
        """
        await self.put_many([(key, value, guild_id, user_id)])

    async def put_many(self, documents: Iterable[tuple[str, Any, int | None, int | None]]) -> None:
        """Store several at once, all or none: (key, value, guild id, user id).

        Raises:
            UsageError: See `put`.
        """
        await self._put([(_key(key), _json(value), guild, user) for key, value, guild, user in documents])

    @_operation
    async def _put(self, rows: Sequence[tuple[str, str, int | None, int | None]]) -> None:
        now = time.time()
        await self._owner.make()
        async with self._door.write() as connection:
            for key, value, guild_id, user_id in rows:
                fields = {"guild_id": guild_id, "user_id": user_id, "value": value, "changed_at": now}
                await upsert(connection, self._table, {"collection": self.name, "key": key}, fields)

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of a document, or the default."""
        found = await self.document(key)
        return default if found is None else found.value

    async def document(self, key: str) -> Document | None:
        """A document with all that is known of it."""
        found = await self._select(self._mine().where(self._table.c.key == _key(key)))
        return found[0] if found else None

    async def delete(self, key: str) -> bool:
        """Delete a document; whether there was one."""
        return await self._delete(self._table.c.key == _key(key)) == 1

    async def query(
        self,
        *,
        guild_id: int | None = None,
        user_id: int | None = None,
        prefix: str = "",
        after: str | None = None,
        newest_first: bool = False,
        limit: int = 100,
    ) -> list[Document]:
        """Documents that fit everything given, sorted by key.

        Args:
            guild_id: Of this guild.
            user_id: About this user.
            prefix: The key begins so.
            after: Only those after this key, in the order asked for: the last key of the page before.
            newest_first: From the last key to the first; put the time in front of the keys and that is what it says.
            limit: 1 to 1000.

        Raises:
            UsageError: The limit is none of these.
        """
        if not 1 <= limit <= QUERY_LIMIT:
            raise UsageError(f"a query gives 1 to {QUERY_LIMIT} documents, not {limit}; page with after=")
        key = self._table.c.key
        query = self._mine().where(*self._fits(guild_id, user_id, prefix))
        if after is not None:
            query = query.where(key < after if newest_first else key > after)
        return await self._select(query.order_by(key.desc() if newest_first else key).limit(limit))

    async def scan(
        self, *, guild_id: int | None = None, user_id: int | None = None, prefix: str = ""
    ) -> AsyncIterator[Document]:
        """Every document that fits, sorted by key, however many there are. They may be changed on the way."""
        after = None
        while True:
            page = await self.query(guild_id=guild_id, user_id=user_id, prefix=prefix, after=after, limit=QUERY_LIMIT)
            for document in page:
                yield document
            if len(page) < QUERY_LIMIT:
                return
            after = page[-1].key

    @_operation
    async def count(self, *, guild_id: int | None = None, user_id: int | None = None, prefix: str = "") -> int:
        """How many documents fit everything given."""
        await self._owner.make()
        query = sa.select(sa.func.count()).where(self._here(), *self._fits(guild_id, user_id, prefix))
        async with self._door.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def delete_where(
        self,
        *,
        guild_id: int | None = None,
        user_id: int | None = None,
        prefix: str = "",
        changed_before: float | None = None,
    ) -> int:
        """Delete the documents that fit everything given; how many those were.

        Args:
            guild_id: See `query`.
            user_id: See `query`.
            prefix: See `query`.
            changed_before: Seconds since 1970.

        Raises:
            UsageError: Nothing is given; `clear` deletes all.
        """
        if guild_id is None and user_id is None and not prefix and changed_before is None:
            raise UsageError("delete_where needs something to go by; clear() deletes all")
        conditions = self._fits(guild_id, user_id, prefix)
        if changed_before is not None:
            conditions.append(self._table.c.changed_at < changed_before)
        return await self._delete(*conditions)

    async def clear(self) -> int:
        """Delete every document; how many those were."""
        return await self._delete()

    def _here(self) -> sa.ColumnElement[bool]:
        return self._table.c.collection == self.name

    def _mine(self) -> sa.Select[Any]:
        return sa.select(self._table).where(self._here())

    def _fits(self, guild_id: int | None, user_id: int | None, prefix: str) -> list[sa.ColumnElement[bool]]:
        columns = self._table.c
        conditions: list[sa.ColumnElement[bool]] = []
        if guild_id is not None:
            conditions.append(columns.guild_id == guild_id)
        if user_id is not None:
            conditions.append(columns.user_id == user_id)
        if prefix:
            # LIKE would not mind upper and lower case in SQLite; the first condition lets the index be used.
            conditions.append(columns.key >= prefix)
            conditions.append(sa.func.substr(columns.key, 1, len(prefix)) == prefix)
        return conditions

    async def _select(self, query: sa.Select[Any]) -> list[Document]:
        rows = await self._rows(query)
        if len(rows) > DECODED_AT_ONCE:
            return await asyncio.to_thread(_decoded, rows)
        return _decoded(rows)

    @_operation
    async def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        await self._owner.make()
        async with self._door.read() as connection:
            rows: Sequence[Any] = (await connection.execute(query)).all()
        return rows

    @_operation
    async def _delete(self, *conditions: sa.ColumnElement[bool]) -> int:
        await self._owner.make()
        async with self._door.write() as connection:
            return int((await connection.execute(sa.delete(self._table).where(self._here(), *conditions))).rowcount)


class StoredSettings:
    """The settings of one plugin: see `roost.context.Settings`."""

    def __init__(self, door: Door, plugin: str) -> None:
        self._door = door
        self._plugin = plugin

    @_operation
    async def get(self, guild_id: int | None, key: str, default: Any = None) -> Any:
        table = tables.settings
        query = sa.select(table.c.value).where(
            table.c.plugin == self._plugin, table.c.guild_id == (guild_id or 0), table.c.key == key
        )
        async with self._door.read() as connection:
            row = (await connection.execute(query)).first()
        return default if row is None else json.loads(row[0])

    @_operation
    async def set(self, guild_id: int | None, key: str, value: Any) -> None:
        keys = {"plugin": self._plugin, "guild_id": guild_id or 0, "key": key}
        async with self._door.write() as connection:
            await upsert(connection, tables.settings, keys, {"value": _json(value)})

    @_operation
    async def delete(self, guild_id: int | None, key: str) -> None:
        table = tables.settings
        query = sa.delete(table).where(
            table.c.plugin == self._plugin, table.c.guild_id == (guild_id or 0), table.c.key == key
        )
        async with self._door.write() as connection:
            await connection.execute(query)

    @_operation
    async def entries(self) -> dict[tuple[int | None, str], Any]:
        """All of them, by guild (None: the whole bot) and key; for migrations."""
        table = tables.settings
        query = sa.select(table.c.guild_id, table.c.key, table.c.value).where(table.c.plugin == self._plugin)
        async with self._door.read() as connection:
            rows = (await connection.execute(query)).all()
        return {(row.guild_id or None, row.key): json.loads(row.value) for row in rows}


class PluginStore:
    """Everything a plugin keeps: ``ctx.store``. In the hook ``migrate_data`` all of it is one transaction."""

    def __init__(self, door: Door, table: PluginTable, plugin: str, erasure: Erasure | None = None) -> None:
        self._door = door
        self._table = table
        self._erasure = erasure
        self.plugin = plugin
        self.settings = StoredSettings(door, plugin)

    def collection(self, name: str) -> Collection:
        """A collection; one that nothing was put into is empty.

        Raises:
            UsageError: The name is not lower-case letters, digits, ``-`` and ``_``, at most 64.
        """
        if not _COLLECTION.fullmatch(name):
            raise UsageError(f"a collection's name is 1 to 64 lower-case letters, digits, - and _, not {name!r}")
        return Collection(self._door, self._table, name)

    @property
    def erasure(self) -> Erasure:
        """For deletions that must leave nothing in any file.

        Raises:
            UsageError: In ``migrate_data``, which is one transaction with a backup of its own.
        """
        if self._erasure is None:
            raise UsageError("erasure is not to be had in migrate_data")
        return self._erasure

    @_operation
    async def collections(self) -> list[str]:
        """Names of the collections that hold something."""
        await self._table.make()
        column = self._table.table.c.collection
        async with self._door.read() as connection:
            rows = await connection.execute(sa.select(column).distinct().order_by(column))
            return [str(row[0]) for row in rows]

    async def about_user(self, user_id: int) -> dict[str, dict[str, Any]]:
        """All documents about a user, by collection and key: what ``user_data_export`` may answer."""
        return await asyncio.to_thread(tables.by_collection, await self._about(user_id))

    @_operation
    async def _about(self, user_id: int) -> Sequence[Any]:
        await self._table.make()
        table = self._table.table
        query = sa.select(table.c.collection, table.c.key, table.c.value).where(table.c.user_id == user_id)
        async with self._door.read() as connection:
            rows: Sequence[Any] = (await connection.execute(query.order_by(table.c.collection, table.c.key))).all()
        return rows

    @_operation
    async def forget_user(self, user_id: int) -> int:
        """Delete all documents about a user, in every collection; how many those were."""
        await self._table.make()
        table = self._table.table
        async with self._door.write() as connection:
            return int((await connection.execute(sa.delete(table).where(table.c.user_id == user_id))).rowcount)


async def holds_anything(connection: Connection, table: sa.Table, plugin: str) -> bool:
    """Whether a plugin has stored something: documents or settings. Its table exists."""
    settings = tables.settings
    queries: Mapping[str, sa.Select[Any]] = {
        "documents": sa.select(table.c.key).limit(1),
        "settings": sa.select(settings.c.key).where(settings.c.plugin == plugin).limit(1),
    }
    for query in queries.values():
        if (await connection.execute(query)).first() is not None:
            return True
    return False


def _decoded(rows: Sequence[Any]) -> list[Document]:
    return [Document(row.key, json.loads(row.value), row.guild_id, row.user_id, float(row.changed_at)) for row in rows]


def _key(key: str) -> str:
    if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARS or "\0" in key:
        raise UsageError(f"a key is 1 to {KEY_CHARS} characters of text without NUL")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise UsageError("a key is text that UTF-8 can hold") from None
    return key


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"this cannot be stored as JSON: {error}") from None
