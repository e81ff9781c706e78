"""The store: settings, enablement and consent in one SQLite file, or wherever an SQLAlchemy URL points.

Every write is committed, and on disk, before the call returns.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from roost.errors import ConfigError

_metadata = sa.MetaData()

settings_table = sa.Table(
    "roost_settings",
    _metadata,
    sa.Column("plugin", sa.String(64), primary_key=True),
    sa.Column("guild_id", sa.BigInteger, primary_key=True, comment="0 for the whole bot"),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

enablement_table = sa.Table(
    "roost_enablement",
    _metadata,
    sa.Column("plugin", sa.String(64), primary_key=True),
    sa.Column("guild_id", sa.BigInteger, primary_key=True),
    sa.Column("enabled", sa.Boolean, nullable=False),
)

consent_table = sa.Table(
    "roost_consent",
    _metadata,
    sa.Column("guild_id", sa.BigInteger, primary_key=True),
    sa.Column("user_id", sa.BigInteger, primary_key=True),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("decided_at", sa.Float, nullable=False),
)


class Store:
    """Owns the database engine. Made by `open_store`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def _upsert(self, table: sa.Table, keys: dict[str, Any], values: dict[str, Any]) -> None:
        match = sa.and_(*(table.c[name] == value for name, value in keys.items()))
        async with self._engine.begin() as connection:
            changed = await connection.execute(sa.update(table).where(match).values(**values))
            if changed.rowcount == 0:
                await connection.execute(sa.insert(table).values(**keys, **values))

    async def get_setting(self, plugin: str, guild_id: int | None, key: str, default: Any = None) -> Any:
        table = settings_table
        query = sa.select(table.c.value).where(
            table.c.plugin == plugin, table.c.guild_id == (guild_id or 0), table.c.key == key
        )
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).first()
        return default if row is None else json.loads(row[0])

    async def set_setting(self, plugin: str, guild_id: int | None, key: str, value: Any) -> None:
        keys = {"plugin": plugin, "guild_id": guild_id or 0, "key": key}
        await self._upsert(settings_table, keys, {"value": json.dumps(value)})

    async def enablement(self) -> dict[tuple[str, int], bool]:
        """Every (plugin, guild) that was switched by an admin."""
        table = enablement_table
        async with self._engine.connect() as connection:
            rows = await connection.execute(sa.select(table.c.plugin, table.c.guild_id, table.c.enabled))
            return {(row.plugin, row.guild_id): row.enabled for row in rows}

    async def set_enabled(self, plugin: str, guild_id: int, enabled: bool) -> None:
        await self._upsert(enablement_table, {"plugin": plugin, "guild_id": guild_id}, {"enabled": enabled})

    async def consents(self) -> dict[tuple[int, int], bool]:
        """Every decision, keyed (guild_id, user_id)."""
        table = consent_table
        async with self._engine.connect() as connection:
            rows = await connection.execute(sa.select(table.c.guild_id, table.c.user_id, table.c.allowed))
            return {(row.guild_id, row.user_id): row.allowed for row in rows}

    async def set_consent(self, guild_id: int, user_id: int, allowed: bool) -> None:
        keys = {"guild_id": guild_id, "user_id": user_id}
        await self._upsert(consent_table, keys, {"allowed": allowed, "decided_at": time.time()})

    async def forget_consent(self, user_id: int, *, keep: Collection[int] = ()) -> None:
        """Delete a user's decisions, those in the guilds `keep` excepted."""
        table = consent_table
        query = sa.delete(table).where(table.c.user_id == user_id, table.c.guild_id.not_in(tuple(keep)))
        async with self._engine.begin() as connection:
            await connection.execute(query)


@asynccontextmanager
async def open_store(data_dir: Path, url: str | None = None) -> AsyncIterator[Store]:
    """Open the store and create what is missing.

    Raises:
        ConfigError: The database cannot be opened.
    """
    engine = create_async_engine(url or f"sqlite+aiosqlite:///{data_dir / 'roost.sqlite3'}")
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine.sync_engine, "connect", _tune_sqlite)
    try:
        try:
            async with engine.begin() as connection:
                await _create(connection)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            raise ConfigError(f"cannot open the database: {cause}", key="store.url") from None
        yield Store(engine)
    finally:
        await engine.dispose()


async def _create(connection: AsyncConnection) -> None:
    await connection.run_sync(_metadata.create_all)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """WAL survives SIGKILL; synchronous=FULL makes a commit survive the machine too."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
