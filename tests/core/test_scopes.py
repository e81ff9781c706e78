from __future__ import annotations

import asyncio

import pytest

from roost.scopes import Scope

pytestmark = pytest.mark.unit


async def test_closing_ends_every_task() -> None:
    scope = Scope("test")
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    for name in ("a", "b"):
        scope.spawn(wait(name), name)
    await asyncio.sleep(0)
    assert scope.task_names == ["test/a", "test/b"]
    assert await scope.aclose() == []
    assert sorted(ended) == ["a", "b"]
    assert scope.task_names == []


async def test_a_task_that_ignores_its_cancellation_is_named() -> None:
    scope = Scope("test")
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = scope.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    assert await scope.aclose(0.01) == ["test/stubborn"]
    release.set()
    await task


async def test_a_failure_is_reported_once() -> None:
    failures: list[tuple[str, str]] = []
    scope = Scope("test", lambda name, error: failures.append((name, str(error))))

    async def fail() -> None:
        raise ValueError("no")

    reported = scope.spawn(fail(), "reported")
    mine = scope.spawn(fail(), "mine", awaited=True)
    with pytest.raises(ValueError, match="no"):
        await mine
    await asyncio.wait({reported})
    await asyncio.sleep(0)
    assert failures == [("test/reported", "no")]


async def test_nothing_starts_in_a_closed_scope() -> None:
    scope = Scope("test")
    await scope.aclose()

    async def never() -> None:
        raise AssertionError

    with pytest.raises(RuntimeError, match="closed"):
        scope.spawn(never(), "never")
