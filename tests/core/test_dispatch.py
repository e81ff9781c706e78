from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import inspect
import logging
import types
from typing import Any

import pytest

from roost import blocking, hooks
from roost.dispatch import Asked, Dispatcher, log_failure
from roost.errors import ResourceError
from roost.hooks import INFO, Deny, RoostSpec, hookimpl
from roost.plugins.records import failure_of
from roost.speech import EngineSpec
from roost.strays import StrayError

pytestmark = pytest.mark.unit


def dispatcher(*plugins: tuple[str, object], disabled: set[tuple[str, int]] | None = None) -> Dispatcher:
    made = Dispatcher(
        lambda: [name for name, _ in plugins], lambda name, guild: (name, guild) not in (disabled or set())
    )
    for name, plugin in plugins:
        made.manager.register(plugin, name)
    return made


class Raises:
    @hookimpl
    async def voice_session_opened(self, session: Any) -> None:
        raise RuntimeError("broken")

    @hookimpl
    async def voice_driver(self, name: str) -> Any:
        raise RuntimeError("broken")

    @hookimpl
    async def voice_session_opening(self, session: Any) -> Deny | None:
        raise RuntimeError("broken")

    @hookimpl
    def voice_consent(self, session: Any, user_id: int) -> Deny | None:
        raise RuntimeError("broken")


class Good:
    def __init__(self, answer: Any = None) -> None:
        self.called: list[str] = []
        self.answer = answer

    @hookimpl
    async def voice_session_opened(self, session: Any) -> None:
        self.called.append("opened")

    @hookimpl
    async def voice_driver(self) -> Any:
        self.called.append("driver")
        return self.answer

    @hookimpl
    def voice_session_opening(self) -> Any:
        self.called.append("opening")

    @hookimpl
    def voice_consent(self, user_id: int) -> Any:
        return self.answer


async def test_one_failing_plugin_does_not_keep_the_hook_from_the_next() -> None:
    good = Good()
    calls = dispatcher(("good", good), ("bad", Raises()))
    await calls.call("voice_session_opened", session=None)
    assert good.called == ["opened"]
    assert calls.failures == {("bad", "voice_session_opened"): 1}


class RaisesOpaque:
    @hookimpl
    async def voice_session_opened(self, session: Any) -> None:
        def refuse(_self: object, name: str) -> Any:
            raise RuntimeError(name)

        raise type("OpaqueError", (Exception,), {"__getattribute__": refuse})


async def test_error_that_answers_no_question_does_not_keep_the_hook_from_the_next() -> None:
    good = Good()
    calls = dispatcher(("good", good), ("bad", RaisesOpaque()))
    await calls.call("voice_session_opened", session=None)
    assert good.called == ["opened"]
    assert calls.failures == {("bad", "voice_session_opened"): 1}


class EndlessConfig(dict[str, object]):
    def keys(self) -> Any:
        while True:
            yield "more"

    __iter__ = keys


class AnswersEndlessly:
    @hookimpl
    async def stt_engine(self) -> Any:
        return EngineSpec("module:engine", types.MappingProxyType(EndlessConfig()))


@pytest.mark.timeout(30)
async def test_answer_that_is_endless_to_look_at_is_a_failure() -> None:
    calls = dispatcher(("bad", AnswersEndlessly()))
    with calls.guard.watching():
        assert await calls.call("stt_engine", name="x") is None
    assert calls.failures == {("bad", "stt_engine"): 1}


@pytest.mark.parametrize(
    "smaller", [iter(()), EngineSpec("module:smaller"), "smaller"], ids=["iterator", "one", "text"]
)
async def test_engine_whose_smaller_ones_are_no_tuple_is_refused(smaller: Any) -> None:
    class Answers:
        @hookimpl
        async def stt_engine(self) -> Any:
            return EngineSpec("module:engine", smaller=smaller)

    calls = dispatcher(("bad", Answers()))
    assert await calls.call("stt_engine", name="x") is None
    assert calls.failures == {("bad", "stt_engine"): 1}


class Opens:
    def open(self, cred: object, events: object) -> None: ...


async def test_first_means_the_first_awaited_answer_and_skips_failures() -> None:
    driver = Opens()
    yes, none, wrong = Good(driver), Good(None), Good("no driver")
    calls = dispatcher(("yes", yes), ("none", none), ("bad", Raises()), ("wrong", wrong))
    assert await calls.call("voice_driver", name="x", settings=None) is driver
    assert await calls.call_named("voice_driver", name="x", settings=None) == ("yes", driver)
    assert none.called == yes.called == wrong.called == ["driver", "driver"]
    assert calls.failures["wrong", "voice_driver"] == 2


class FailsFor:
    """Fails for user 2, while its call for user 1 goes on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    @hookimpl
    async def user_data_delete(self, user_id: int) -> None:
        if user_id == 2:
            raise RuntimeError("no")
        await self.go_on.wait()


async def test_call_that_works_is_not_taken_for_one_that_fails_meanwhile() -> None:
    plugin = FailsFor()
    calls = dispatcher(("keeper", plugin))
    first = asyncio.create_task(calls.ask_plugin("keeper", "user_data_delete", user_id=1, reason="r"))
    await asyncio.sleep(0)
    assert not (await calls.ask_plugin("keeper", "user_data_delete", user_id=2, reason="r")).worked
    plugin.go_on.set()
    assert await first == Asked(True, True)
    assert await calls.ask_plugin("another", "user_data_delete", user_id=1, reason="r") == Asked(False, False)


async def test_where_failure_means_refusal_it_is_a_deny_and_stops_the_others() -> None:
    good = Good()
    calls = dispatcher(("good", good), ("bad", Raises()))
    answers = await calls.call_strict("voice_session_opening", session=None)
    assert [type(answer) for answer in answers] == [Deny]
    assert good.called == []


def test_a_raising_consent_hook_denies() -> None:
    calls = dispatcher(("good", Good(None)), ("bad", Raises()))
    assert [type(answer) for answer in calls.call_sync("voice_consent", session=None, user_id=1)] == [Deny]


async def test_a_plugin_disabled_in_the_guild_is_not_called() -> None:
    here, there = Good(), Good()
    calls = dispatcher(("here", here), ("there", there), disabled={("there", 7)})
    await calls.call("voice_session_opened", guild_id=7, session=None)
    assert (here.called, there.called) == (["opened"], [])


async def test_a_hanging_implementation_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs:
        @hookimpl
        async def voice_session_opened(self, session: Any) -> None:
            await asyncio.Event().wait()

    monkeypatch.setitem(
        INFO, "voice_session_opened", dataclasses.replace(INFO["voice_session_opened"], deadline_s=0.01)
    )
    good = Good()
    calls = dispatcher(("good", good), ("hangs", Hangs()))
    async with asyncio.timeout(1):
        await calls.call("voice_session_opened", session=None)
    assert good.called == ["opened"]
    assert calls.failures == {("hangs", "voice_session_opened"): 1}


async def test_a_deadline_argument_bounds_the_call() -> None:
    class Slow:
        @hookimpl
        async def voice_session_closing(self, session: Any, reason: str, deadline: float) -> None:
            await asyncio.Event().wait()

    calls = dispatcher(("slow", Slow()))
    loop = asyncio.get_running_loop()
    started = loop.time()
    await calls.call("voice_session_closing", session=None, reason="", deadline=started + 0.05)
    assert loop.time() - started < 0.5


async def test_closing_goes_by_the_dependency_graph_whatever_tryfirst_says() -> None:
    order: list[str] = []

    def plugin(name: str, **options: bool) -> object:
        class Closing:
            @hookimpl(**options)
            def voice_session_closing(self) -> None:
                order.append(name)

        return Closing()

    calls = dispatcher(("base", plugin("base", tryfirst=True)), ("dependent", plugin("dependent", trylast=True)))
    await calls.call("voice_session_closing", session=None, reason="", deadline=asyncio.get_running_loop().time() + 1)
    assert order == ["dependent", "base"]


async def test_cancelling_the_caller_passes_through() -> None:
    entered = asyncio.Event()

    class Waits:
        @hookimpl
        async def voice_session_opened(self, session: Any) -> None:
            entered.set()
            await asyncio.Event().wait()

    calls = dispatcher(("waits", Waits()))
    task = asyncio.ensure_future(calls.call("voice_session_opened", session=None))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not calls.failures


@pytest.mark.parametrize("hook", [name for name, info in INFO.items() if info.private or name == "handle_error"])
@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_the_text_of_an_error_about_members_words_is_told_to_nobody(
    caplog: pytest.LogCaptureFixture, hook: str, level: int
) -> None:
    caplog.set_level(level, "roost")
    for error in (KeyError("card number"), StrayError(SystemExit("card number")), ResourceError("card number")):
        log_failure("guest", hook, error)
        assert "card number" not in failure_of(hook, error).detail
    assert "guest failed in" in caplog.text
    assert "KeyError" in caplog.text
    assert "card number" not in caplog.text


def test_every_hook_is_documented_typed_and_has_calling_rules() -> None:
    specs = {name for name in vars(RoostSpec) if not name.startswith("_")}
    assert specs == set(INFO)
    for name in specs:
        spec = getattr(RoostSpec, name)
        assert inspect.getdoc(spec), f"{name} has no documentation"
        parameters = list(inspect.signature(spec).parameters.values())[1:]
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters), name
        assert inspect.iscoroutinefunction(spec) != INFO[name].sync, name
    assert hooks.hookimpl is hookimpl


async def test_a_plugin_that_is_not_open_yet_is_called_by_its_own_hooks_alone() -> None:
    class Waits:
        def __init__(self) -> None:
            self.called: list[str] = []

        @hookimpl
        async def on_stopping(self) -> None:
            self.called.append("stopping")

        @hookimpl
        async def handover(self) -> None:
            self.called.append("handover")

    waits = Waits()
    made = dispatcher(("waits", waits))
    made.hide("waits", True)
    await made.call("on_stopping", bot=None, deadline=asyncio.get_running_loop().time() + 1)
    await made.call_own("waits", "handover")
    assert waits.called == ["handover"]
    made.hide("waits", False)
    await made.call("on_stopping", bot=None, deadline=asyncio.get_running_loop().time() + 1)
    assert waits.called == ["handover", "stopping"]


async def _stubborn() -> None:
    for _ in range(3):
        with contextlib.suppress(asyncio.CancelledError):  # the very mistake
            await asyncio.sleep(2.0)


async def test_a_coroutine_that_outlives_its_cancellation_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "GRACE_S", 0.01)
    monkeypatch.setitem(
        INFO, "voice_session_opened", dataclasses.replace(INFO["voice_session_opened"], deadline_s=0.01)
    )

    class Stubborn:
        @hookimpl
        async def voice_session_opened(self, session: Any) -> None:
            await _stubborn()

    class Waitable:
        def __await__(self) -> Any:
            return _stubborn().__await__()

    class Future:
        @hookimpl
        def voice_session_opened(self, session: Any) -> Any:
            return Waitable()

    good = Good()
    calls = dispatcher(("good", good), ("stubborn", Stubborn()), ("future", Future()))
    async with asyncio.timeout(1):
        await calls.call("voice_session_opened", session=None)
    assert good.called == ["opened"]
    assert set(calls.failures) == {("stubborn", "voice_session_opened"), ("future", "voice_session_opened")}


@pytest.mark.parametrize("ending", ["answers", "raises", "goes on"])
async def test_a_hook_cannot_undo_the_cancellation_of_its_caller(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(blocking, "GRACE_S", 0.01)
    entered = asyncio.Event()

    class Catches:
        @hookimpl
        async def voice_session_opened(self, session: Any) -> None:
            try:
                entered.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # the very mistake
                if ending == "raises":
                    raise RuntimeError("another") from None
                if ending == "goes on":
                    await _stubborn()

    calls = dispatcher(("catches", Catches()))
    task = asyncio.ensure_future(calls.call("voice_session_opened", session=None))
    await entered.wait()
    task.cancel()
    async with asyncio.timeout(1):
        await asyncio.wait({task})
    assert task.cancelled()
    assert task.cancelling() == 1
    assert not calls.failures


async def test_time_outs_of_a_hook_s_own_are_no_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "GRACE_S", 0.01)

    class Patient:
        @hookimpl
        async def voice_session_opening(self, session: Any) -> Deny | None:
            for _ in range(3):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await asyncio.Event().wait()
                await asyncio.sleep(0.02)
            return Deny("after all")

    assert await dispatcher(("patient", Patient())).call_strict("voice_session_opening", session=None) == [
        Deny("after all")
    ]


async def test_a_hook_that_cleans_up_after_its_cancellation_has_the_time_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        INFO, "voice_session_opened", dataclasses.replace(INFO["voice_session_opened"], deadline_s=0.01)
    )
    cleaned: list[str] = []

    class Cleans:
        @hookimpl
        async def voice_session_opened(self, session: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                cleaned.append("up")

    calls = dispatcher(("cleans", Cleans()))
    await calls.call("voice_session_opened", session=None)
    assert cleaned == ["up"]
    assert calls.failures == {("cleans", "voice_session_opened"): 1}


async def test_a_coroutine_that_cannot_be_closed_is_never_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeing it would run it once more, at the end of the process without an event loop that makes it wait."""
    monkeypatch.setattr(blocking, "GRACE_S", 0.01)
    monkeypatch.setitem(
        INFO, "voice_session_opened", dataclasses.replace(INFO["voice_session_opened"], deadline_s=0.01)
    )
    closed: list[str] = []

    class Unending:
        @hookimpl
        async def voice_session_opened(self, session: Any) -> None:
            while True:
                try:
                    await asyncio.sleep(0.5)
                except GeneratorExit:
                    closed.append("once")
                except asyncio.CancelledError:
                    closed.append("cancelled")

    calls = dispatcher(("unending", Unending()))
    await calls.call("voice_session_opened", session=None)
    gc.collect()
    assert closed == ["cancelled", "once"]
    assert calls.failures == {("unending", "voice_session_opened"): 1}


async def test_a_hook_does_not_answer_for_a_stubborn_one_that_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of the inner one goes through both."""
    monkeypatch.setattr(blocking, "GRACE_S", 0.01)
    guard = blocking.Guard()

    async def outer() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await guard.stepped(_stubborn())
        await asyncio.sleep(0.03)
        return "over"

    assert await guard.stepped(outer()) == "over"


async def test_nested_hooks_leave_no_cancellation_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "GRACE_S", 0.01)
    guard = blocking.Guard()

    async def outer() -> None:
        await guard.stepped(_stubborn())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await guard.stepped(outer())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
