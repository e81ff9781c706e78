"""Plugin code that cancels the task in which it is called ends its own call, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from roost.dispatch import Dispatcher, where
from roost.frames import SAMPLED
from roost.hooks import Deny, hookimpl
from roost.plugins.records import describe
from roost.strays import CancelledItselfError, StrayError, host_task, taming

pytestmark = pytest.mark.unit


def cancel_caller() -> None:
    task = asyncio.current_task()
    assert task is not None
    assert task.cancel()


async def returns() -> None:
    pass


async def fails() -> None:
    raise KeyError


async def awaits() -> None:
    await asyncio.sleep(30)


async def goes_on() -> None:
    for _ in range(2):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            continue


async def times_out() -> None:
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(30)
    except TimeoutError:
        cancel_caller()  # in the very step in which the time-out takes its own request back


async def awaits_a_task() -> None:
    await asyncio.create_task(asyncio.sleep(30))


THEN: dict[str, Callable[[], Awaitable[None]]] = {
    each.__name__: each for each in (returns, fails, awaits, goes_on, times_out, awaits_a_task)
}


@pytest.fixture(autouse=True)
async def host_tasks() -> None:
    asyncio.get_running_loop().set_task_factory(host_task)


async def in_a_task(work: Callable[[], Awaitable[Any]]) -> Any:
    """What comes of work in a task that goes on, and awaits, afterwards."""

    async def whole() -> Any:
        result = await work()
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return result

    async with asyncio.timeout(2):
        return await asyncio.create_task(whole())


def dispatcher(plugin: object) -> Dispatcher:
    made = Dispatcher(lambda: ["wild"], lambda _name, _guild: True)
    made.manager.register(plugin, "wild")
    return made


@pytest.mark.parametrize("then", THEN)
async def test_a_hook_that_cancels_its_caller_has_failed_and_the_caller_goes_on(then: str) -> None:
    class Wild:
        @hookimpl
        async def voice_join_check(self, request: Any) -> None:
            if then != "times_out":
                cancel_caller()
            await THEN[then]()

        @hookimpl
        async def call_status(self) -> None:
            await self.voice_join_check(None)

    calls = dispatcher(Wild())
    # A guard is asked in its caller's task, a plain hook in one of its own.
    refused = await in_a_task(lambda: calls.call_strict("voice_join_check", request=None))
    assert [type(each) for each in refused] == [Deny]
    assert await in_a_task(lambda: calls.call("call_status", guild_id=1, user_id=1)) == []
    assert calls.failures == {("wild", "voice_join_check"): 1, ("wild", "call_status"): 1}


async def test_a_sync_hook_that_cancels_its_caller_has_failed_and_the_caller_goes_on() -> None:
    class Wild:
        @hookimpl
        def voice_consent(self, session: Any, user_id: int) -> None:
            cancel_caller()

        @hookimpl
        def stt_engine(self, name: str) -> None:
            cancel_caller()

        @hookimpl
        def voice_audio_frame(self, frame: Any) -> None:
            cancel_caller()

    calls = dispatcher(Wild())

    async def work() -> Any:
        assert await calls.call("stt_engine", name="any") is None
        sink = calls.frame_sink(1, None)
        for _ in range(SAMPLED):
            sink.write(Any)  # type: ignore[arg-type]
        return calls.call_sync("voice_consent", session=None, user_id=1)

    assert [type(each) for each in await in_a_task(work)] == [Deny]
    assert calls.failures == {
        ("wild", "voice_consent"): 1,
        ("wild", "stt_engine"): 1,
        ("wild", "voice_audio_frame"): SAMPLED,
    }


async def test_a_hook_that_cancels_all_tasks_does_not_cancel_its_caller() -> None:
    class Wild:
        @hookimpl
        async def voice_join_check(self, request: Any) -> None:
            for task in asyncio.all_tasks():
                task.cancel()

    calls = dispatcher(Wild())
    other = asyncio.create_task(asyncio.sleep(30))
    work = asyncio.create_task(calls.call_strict("voice_join_check", request=None))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    own = asyncio.current_task()
    assert own is not None
    own.uncancel()
    await asyncio.wait({work, other})
    assert other.cancelled()
    assert isinstance(work.result()[0], Deny)


@pytest.mark.parametrize("then", ["returns", "fails", "awaits", "goes_on", "awaits_a_task"])
async def test_a_cancellation_from_outside_goes_through_whatever_the_hook_does(then: str) -> None:
    entered = asyncio.Event()

    class Wild:
        @hookimpl
        async def voice_join_check(self, request: Any) -> None:
            entered.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancel_caller()
                await THEN[then]()

    calls = dispatcher(Wild())
    work = asyncio.create_task(calls.call_strict("voice_join_check", request=None))
    await entered.wait()
    work.cancel()
    await asyncio.wait({work}, timeout=2)
    assert work.cancelled()
    assert work.cancelling() == 1
    assert not calls.failures


async def test_only_the_plugin_that_cancels_has_failed() -> None:
    """One that calls another, in the same task."""

    class Outer:
        @hookimpl
        async def voice_join_check(self, request: Any) -> str:
            assert await calls.call("voice_driver", name="any", settings=None) is None
            await asyncio.sleep(0)
            return "fine"

    class Inner:
        @hookimpl
        async def voice_driver(self, name: str) -> None:
            cancel_caller()
            await asyncio.sleep(30)

    calls = dispatcher(Outer())
    calls.manager.register(Inner(), "inner")
    await in_a_task(lambda: calls.call("voice_join_check", request=None))
    assert calls.failures[("inner", "voice_driver")] == 1
    assert ("wild", "voice_driver") not in calls.failures


async def test_a_call_with_a_deadline_that_cancels_its_caller_is_told_from_a_late_one() -> None:
    async def work() -> CancelledItselfError:
        with pytest.raises(CancelledItselfError) as raised:
            async with asyncio.timeout(1):
                with taming():
                    cancel_caller()
                    await asyncio.sleep(30)
        return raised.value

    error = await in_a_task(work)
    assert where(error) == error.place
    assert error.place.startswith(f"{__file__}:")
    assert describe(error) == f"it cancelled the task that called it ({error.place})"


async def test_a_made_up_cancellation_is_an_error_where_the_caller_was_cancelled_before() -> None:
    """As while a task that was cancelled cleans up."""

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            with pytest.raises(StrayError), taming():
                raise asyncio.CancelledError

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_task_group_that_asks_its_parent_anew_takes_part_in_a_cancellation_from_outside() -> None:
    """As it does at its end since Python 3.13."""
    entered = asyncio.Event()

    class Wild:
        @hookimpl
        async def voice_join_check(self, request: Any) -> None:
            entered.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                eval("task.cancel()", vars(asyncio.taskgroups), {"task": task})
                raise

    calls = dispatcher(Wild())
    work = asyncio.create_task(calls.call_strict("voice_join_check", request=None))
    await entered.wait()
    work.cancel()
    await asyncio.wait({work}, timeout=2)
    assert work.cancelled()
    assert not calls.failures
