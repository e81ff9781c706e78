from __future__ import annotations

import asyncio
from functools import partial

import pytest

from roost.scopes import Scope
from roost.strays import host_task

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


async def test_a_kept_task_that_fails_is_logged_and_starts_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("roost.scopes.FIRST_RESTART_S", 0.01)
    scope = Scope("test")
    runs: list[int] = []
    works = asyncio.Event()

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise TypeError("JSON of another shape")
        if len(runs) == 2:
            given_up = asyncio.get_running_loop().create_future()
            given_up.cancel()
            await given_up
        works.set()
        await asyncio.Event().wait()

    kept = scope.keep(work, "loop")
    async with asyncio.timeout(5):
        await works.wait()
    assert runs == [0, 1, 2]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "task test/loop failed (TypeError) and starts again in 0.0 s",
        "task test/loop failed (CancelledError) and starts again in 0.0 s",
    ]
    assert await scope.aclose() == []
    assert kept.task.cancelled()
    assert kept.done()


async def test_a_kept_task_that_returns_is_over() -> None:
    scope = Scope("test")
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)

    kept = scope.keep(work, "once")
    await kept.task
    await asyncio.sleep(0)
    assert kept.done()
    assert runs == [1]
    await scope.aclose()


async def test_the_pauses_of_a_kept_task_grow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("roost.scopes.FIRST_RESTART_S", 0.01)
    scope = Scope("test")

    async def work() -> None:
        raise OSError

    scope.keep(work, "loop")
    async with asyncio.timeout(5):
        while len(caplog.records) < 5:
            await asyncio.sleep(0.01)
    await scope.aclose()
    pauses = [record.args[3] for record in caplog.records if isinstance(record.args, tuple)]
    assert pauses[:5] == [0.01, 0.02, 0.04, 0.08, 0.16]


async def test_a_task_that_somebody_elses_cancellation_ends_is_not_ended_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scope = Scope("test")

    async def work() -> None:
        given_up = asyncio.get_running_loop().create_future()
        given_up.cancel()
        await given_up

    await asyncio.wait({scope.spawn(work(), "work")})
    await asyncio.sleep(0)
    assert "task test/work ended: something it waited for was cancelled" in caplog.text
    await scope.aclose()


@pytest.mark.parametrize("tames", [False, True])
async def test_kept_work_outlasts_whoever_cancels_all_tasks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tames: bool
) -> None:
    monkeypatch.setattr("roost.scopes.FIRST_RESTART_S", 0.01)
    counted: list[str] = []
    scope = Scope("test", tames=tames, on_restart=counted.append)
    works = asyncio.Event()

    async def work() -> None:
        works.set()
        await asyncio.Event().wait()

    kept = scope.keep(work, "loop")
    async with asyncio.timeout(5):
        await works.wait()
        for _ in range(5):
            works.clear()
            for task in scope.tasks:
                task.cancel()
            await works.wait()
    pauses = [record.args[3] for record in caplog.records if isinstance(record.args, tuple)]
    assert pauses == [0.0, 0.01, 0.02, 0.04, 0.08]
    assert all("test/loop was cancelled by something else and starts again" in said for said in caplog.messages)
    assert counted == ["loop"] * 5
    # Cancelled during a pause, too.
    for task in scope.tasks:
        task.cancel()
    await asyncio.sleep(0)
    for task in scope.tasks:
        task.cancel()
    await asyncio.sleep(0)
    assert not kept.done()
    assert scope.task_names == ["test/loop"]
    assert await scope.aclose() == []
    assert kept.done()
    assert scope.task_names == []


@pytest.mark.parametrize("ending", ["raise SystemExit", "raise CancelledError", "cancel itself", "give up a future"])
async def test_kept_work_of_a_plugin_outlasts_anything_that_it_raises(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("roost.scopes.FIRST_RESTART_S", 0.01)
    asyncio.get_running_loop().set_task_factory(host_task)
    failures: list[BaseException] = []
    scope = Scope("test", lambda _name, error: failures.append(error), tames=True)
    again = asyncio.Event()

    async def work() -> None:
        if failures:
            again.set()
            await asyncio.Event().wait()
        match ending:
            case "raise SystemExit":
                raise SystemExit
            case "raise CancelledError":
                raise asyncio.CancelledError
            case "cancel itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(5)
            case _:
                given_up = asyncio.get_running_loop().create_future()
                given_up.cancel()
                await given_up

    scope.keep(work, "loop")
    async with asyncio.timeout(5):
        await again.wait()
    assert len(failures) == 1
    assert await scope.aclose() == []


@pytest.mark.parametrize("raises", [False, True], ids=["cancelled", "raises when it is cancelled"])
async def test_its_owner_ends_kept_work_for_good(raises: bool) -> None:
    failed: list[BaseException] = []
    scope = Scope("test", lambda _name, error: failed.append(error))
    runs: list[str] = []

    async def work(name: str) -> None:
        runs.append(name)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if raises:
                raise ConnectionError(name) from None
            raise

    first, second = scope.keep(partial(work, "first"), "first"), scope.keep(partial(work, "second"), "second")
    await asyncio.sleep(0)
    first.end()
    await scope.end({second.task})
    await asyncio.sleep(0)
    assert first.done()
    assert second.done()
    assert scope.task_names == []
    assert runs == ["first", "second"]
    assert [str(error) for error in failed] == (["first", "second"] if raises else [])
    await scope.aclose()
