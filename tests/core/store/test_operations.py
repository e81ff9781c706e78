"""Reads and writes of plugins whose caller is cancelled or left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pg_server import Server
from table_locks import locked

from roost.blocking import GRACE_S, Guard
from roost.errors import StoreError
from roost.store import database, open_store

pytestmark = pytest.mark.unit


async def stubborn(work: Callable[[], Awaitable[Any]], catches: type[BaseException]) -> None:
    """A hook of a plugin that catches its cancellation, and tries again."""
    while True:
        try:
            await work()
            await asyncio.sleep(60)
        except catches:
            pass


@pytest.mark.parametrize("catches", [asyncio.CancelledError, BaseException])
async def test_operations_of_hooks_that_are_left_behind_end_by_themselves(
    tmp_path: Path,
    url: str | None,
    catches: type[BaseException],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 1000)
    async with open_store(tmp_path, url) as store:
        mine = store.of_plugin("foo")
        notes = mine.collection("notes")
        await notes.put("kept", 1, user_id=5)
        works: list[Callable[[], Awaitable[Any]]] = [
            lambda: notes.put_many([("left", 1, None, 5), ("behind", 1, None, 5)]),
            lambda: notes.delete("kept"),
            lambda: mine.settings.set(None, "left", 1),
            lambda: mine.forget_user(5),
        ]
        assert len(works) == database.TURNS
        async with locked(tmp_path, url, "plugin_foo, roost_settings"):
            hooks = [asyncio.ensure_future(Guard().stepped(stubborn(work, catches))) for work in works]
            await asyncio.sleep(0.1)
            for hook in hooks:
                hook.cancel()
            _, pending = await asyncio.wait(hooks, timeout=2 * GRACE_S)
            assert not pending, "they wait for the database"
        async with asyncio.timeout(5):
            await mine.collection("others").put("next", 2)
            await mine.settings.set(None, "next", 2)
        if catches is asyncio.CancelledError:
            # One that catches all goes on once more, and what it asked for last is done as a whole.
            assert [each.key async for each in notes.scan()] == ["kept"]
            assert await mine.settings.get(None, "left") is None
        assert await notes.get("left") == await notes.get("behind")
    gc.collect()
    assert [each.getMessage() for each in caplog.records if each.name == "asyncio"] == []


async def test_operation_of_a_caller_that_is_cancelled_is_over_when_the_caller_goes_on(
    tmp_path: Path, url: str | None
) -> None:
    async with open_store(tmp_path, url) as store:
        notes = store.of_plugin("foo").collection("notes")
        await notes.put("first", 1)
        for wait_s in (0.0, 0.001, 0.005, 0.01):
            put = asyncio.ensure_future(notes.put("late", 1))
            await asyncio.sleep(wait_s)
            put.cancel()
            await asyncio.wait({put})
            await notes.delete("late")
            await asyncio.sleep(0.02)
            assert await notes.get("late") is None, "written after its caller had gone on"


async def test_operation_that_something_else_cancels_fails_alone(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        notes = store.of_plugin("foo").collection("notes")
        await notes.put("first", 1)
        async with locked(tmp_path, None, "plugin_foo, roost_settings"):
            put = asyncio.ensure_future(notes.put("late", 1))
            await asyncio.sleep(0.05)
            for task in asyncio.all_tasks() - {put, asyncio.current_task()}:
                if task.get_name().startswith("store/operation"):
                    task.cancel()
        with pytest.raises(StoreError, match="something else cancelled"):
            await put


async def test_store_that_closes_undoes_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 300)
    async with open_store(tmp_path) as store:
        notes = store.of_plugin("foo").collection("notes")
        await notes.put("first", 1)
        async with locked(tmp_path, None, "plugin_foo, roost_settings"):
            put = asyncio.ensure_future(notes.put("late", 1))
            await asyncio.sleep(0.05)
            await store.operations.aclose()
        with pytest.raises(StoreError):
            await put
        with pytest.raises(StoreError, match="closed"):
            await notes.put("later", 1)
    async with open_store(tmp_path) as store:
        assert [each.key async for each in store.of_plugin("foo").collection("notes").scan()] == ["first"]


@pytest.mark.parametrize("at", ["begin", "statement"])
async def test_operation_on_a_server_that_stands_still_ends_once_nobody_waits_for_it(
    tmp_path: Path, postgres: Server, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "UNDO_S", 0.3)
    monkeypatch.setattr(database, "START_S", 0.3)
    name = postgres.new_database()
    async with open_store(tmp_path, postgres.url(name)) as store:
        notes = store.of_plugin("foo").collection("notes")
        await notes.put("first", 1)
        servers: list[int] = []

        def stand_still(which: str) -> None:
            found = postgres.sql(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND {which}", name)
            for server in map(int, found.split()):
                os.kill(server, signal.SIGSTOP)
                servers.append(server)

        try:
            if at == "begin":
                stand_still("state = 'idle'")
                put = asyncio.ensure_future(notes.put("late", 1))
                await asyncio.sleep(0.1)
            else:
                async with locked(tmp_path, postgres.url(name), "plugin_foo, roost_settings"):
                    put = asyncio.ensure_future(notes.put("late", 1))
                    await asyncio.sleep(0.2)
                    stand_still("wait_event_type = 'Lock'")
            assert servers
            put.cancel()
            await asyncio.wait({put}, timeout=4)
            assert put.cancelled()
            if at == "statement":
                # Its lock is the server's own; what does not need it goes on.
                await asyncio.gather(*(store.of_plugin("foo").settings.get(None, "key") for _ in range(database.TURNS)))
        finally:
            for server in servers:
                os.kill(server, signal.SIGCONT)
        assert [each.key async for each in notes.scan()] == ["first"]
