"""Plugins that keep the database busy hold up neither the core nor each other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest
import sqlalchemy as sa
from pg_server import Server
from sqlalchemy.ext.asyncio import create_async_engine

from roost.errors import StoreError
from roost.store import Store, database, open_store
from roost.store.database import TURNS, open_database

pytestmark = pytest.mark.unit

MANY = 4
"""Plugins whose requests together would take every connection."""


async def write_without_end(store: Store, plugin: str, number: int, done: list[str]) -> None:
    things = store.of_plugin(plugin).collection("things")
    for each in itertools.count():
        await things.put_many([(f"{number}/{key}", each, None, None) for key in range(300)])
        done.append(plugin)


async def test_writes_to_sqlite_wait_for_one_of_a_plugin_at_most(tmp_path: Path) -> None:
    done: list[str] = []
    async with open_store(tmp_path) as store:
        quiet = store.of_plugin("quiet").collection("things")
        await quiet.put("first", 1)
        floods = [
            asyncio.ensure_future(write_without_end(store, f"p{plugin}", number, done))
            for plugin in range(MANY)
            for number in range(2 * TURNS)
        ]
        try:
            async with asyncio.timeout(30):
                while len(set(done)) < MANY:
                    await asyncio.sleep(0.01)
            for guild in range(3):
                before = len(done)
                await store.set_enabled("voice", guild, enabled=True)
                assert len(done) - before <= 2
            before = len(done)
            await quiet.put("second", 2)
            # One of each plugin is before it, and one may be under way.
            assert len(done) - before <= MANY + 2
        finally:
            for each in floods:
                each.cancel()
            await asyncio.gather(*floods, return_exceptions=True)


async def test_plugins_that_wait_for_postgresql_leave_connections_to_the_core(tmp_path: Path, postgres: Server) -> None:
    url = postgres.url(postgres.new_database())
    plugins = [f"p{number}" for number in range(MANY)]
    async with open_store(tmp_path, url) as store, contextlib.AsyncExitStack() as stack:
        for plugin in plugins:
            await store.of_plugin(plugin).collection("things").put("first", 1)
        other = create_async_engine(url)
        stack.push_async_callback(other.dispose)
        waiting: list[asyncio.Future[None]] = []
        async with other.begin() as connection:
            await connection.execute(sa.text("LOCK TABLE " + ", ".join(f"plugin_{each}" for each in plugins)))
            for plugin, key in itertools.product(plugins, range(TURNS)):
                put = store.of_plugin(plugin).collection("things").put(str(key), 1)
                waiting.append(asyncio.ensure_future(put))
            await asyncio.sleep(0.5)
            async with asyncio.timeout(5):
                await store.set_enabled("voice", 1, enabled=True)
            assert not any(each.done() for each in waiting)
        await asyncio.gather(*waiting)


async def test_request_of_a_plugin_waits_for_those_of_others_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(tmp_path, None) as opened, contextlib.aclosing(database.Operations()) as operations:
        await opened.plugin_writes.acquire()
        monkeypatch.setattr(database, "TURN_S", 0.05)
        turns = database.Turns(opened, operations)
        for _ in range(2 * TURNS):
            with pytest.raises(StoreError, match="busy with requests of plugins"):
                async with asyncio.timeout(5), turns.write():
                    raise AssertionError("it is nobody's turn")
        opened.plugin_writes.release()
        async with asyncio.timeout(5), turns.write():
            pass
