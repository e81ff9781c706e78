"""Another session of the database, which keeps the bot from writing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from roost.store.database import FILE_NAME


@asynccontextmanager
async def locked(folder: Path, url: str | None, tables: str) -> AsyncIterator[None]:
    """Nobody can write into these tables until the block ends; with SQLite (no `url`) into none."""
    if url is None:
        other = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()
        return
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.execute(sa.text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
            yield
    finally:
        await engine.dispose()
