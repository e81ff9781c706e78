"""Commits that PostgreSQL does not answer, because the connection breaks: nothing overtakes them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from pg_server import Server, cut_connections

from roost.errors import StoreError
from roost.holder import Holder
from roost.store import database, open_held_store

pytestmark = pytest.mark.unit

HOLDER = Holder(os.getpid(), "here", 1_700_000_000.0, 7)


async def committing(server: Server, name: str, *, over: bool = False) -> None:
    async with asyncio.timeout(10):
        while await asyncio.to_thread(server.commits, name) is over:
            await asyncio.sleep(0.01)


async def put_unanswered(folder: Path, server: Server, name: str, then_delete: bool) -> bool:
    """Put a document whose commit gets no answer, and delete it; whether it was there."""
    with cut_connections() as cut:
        async with open_held_store(folder, HOLDER, server.url(name)) as (store, _hold):
            notes = store.of_plugin("foo").collection("notes")
            await notes.put("first", 1)
            server.slow_commits("plugin_foo", 0.8, name)
            putting = asyncio.ensure_future(notes.put("late", 2))
            await committing(server, name)
            cut()
            with pytest.raises(StoreError):
                await putting
            return then_delete and await notes.delete("late")


async def test_row_whose_commit_was_not_answered_is_deleted(tmp_path: Path, postgres: Server) -> None:
    name = postgres.new_database()
    assert await put_unanswered(tmp_path, postgres, name, then_delete=True)
    assert postgres.sql("SELECT key FROM plugin_foo", name) == "first"


async def test_next_process_waits_for_commits_of_the_one_before(tmp_path: Path, postgres: Server) -> None:
    name = postgres.new_database()
    await put_unanswered(tmp_path, postgres, name, then_delete=False)
    assert postgres.commits(name)
    async with open_held_store(tmp_path, HOLDER, postgres.url(name)) as (store, _hold):
        assert await store.of_plugin("foo").collection("notes").get("late") == 2


async def test_commit_that_does_not_end_is_not_waited_for_long(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SETTLED_S", 0.1)
    name = postgres.new_database()
    with pytest.raises(StoreError, match="has not ended a transaction of this bot"):
        await put_unanswered(tmp_path, postgres, name, then_delete=True)
    await committing(postgres, name, over=True)
