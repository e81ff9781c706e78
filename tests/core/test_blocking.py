"""Whose code holds the event loop, and telling a plugin that is slow from a process that stood still."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from roost import blocking
from roost.blocking import STALL_S, BlockedError, Guard, Holding, holding, working

pytestmark = pytest.mark.sim


def test_time_that_other_plugin_code_blocked_is_not_the_waiting_ones() -> None:
    guard = Guard()
    with guard.watching():
        waits_since = guard.moment()
        before = guard.enter(STALL_S + 0.5)
        try:
            with pytest.raises(BlockedError):
                while True:
                    time.sleep(0.01)
        finally:
            guard.leave(before)
        assert guard.stood_still(waits_since)


def test_waiting_is_no_standing_still() -> None:
    guard = Guard()
    assert not guard.stood_still(guard.moment())
    with guard.watching():
        since = guard.moment()
        time.sleep(STALL_S + 0.5)
        assert not guard.stood_still(since)
    assert not guard.stood_still(since)


def function_of(module: str, code: str) -> Callable[..., Any]:
    """The function ``f`` of a module that is imported nowhere."""
    names: dict[str, Any] = {"__name__": module, "time": time, "sys": sys}
    exec(code, names)
    function: Callable[..., Any] = names["f"]
    return function


def plugin_of(module: str) -> str | None:
    return module if module.startswith("plug") else None


@pytest.mark.parametrize(
    ("modules", "started_for", "plugin", "caller"),
    [
        (["plug"], None, "plug", None),
        (["plug", "urllib3"], None, "plug", None),
        (["hikari.impl", "plug", "json"], None, "plug", None),
        (["plug", "roost.dispatch", "plug_other"], None, "plug_other", None),
        (["plug", "hikari.impl.rest", "aiohttp"], None, None, "plug"),
        (["plug", "logging"], None, None, "plug"),
        (["plug", "asyncio.locks"], None, None, "plug"),
        (["roost.store"], "plug", None, None),
        (["asyncio.streams", "ssl"], "plug", None, None),
        (["urllib3"], "plug", "plug", None),
        (["urllib3"], None, None, None),
    ],
)
def test_innermost_code_that_is_somebodys_holds_the_loop(
    modules: list[str], started_for: str | None, plugin: str | None, caller: str | None
) -> None:
    calls = [function_of(module, "def f(i): return i[0](i[1:]) if i else sys._getframe()") for module in modules]
    found: list[Holding] = []

    def look() -> None:
        working.set(started_for)
        found.append(holding(calls[0](calls[1:]), plugin_of))

    step(look)
    assert found[0].plugin == plugin
    if plugin is None:
        frame = found[0].frame
        assert (frame and frame.f_globals["__name__"]) == caller


@pytest.mark.parametrize("started_for", [None, "plug_bundled"])
def test_a_plugin_that_comes_with_the_bot_is_left_alone_in_a_step(started_for: str | None) -> None:
    found: list[Holding] = []

    def is_own(module: str) -> bool:
        return blocking.is_core(module) or module == "plug_bundled"

    def look(modules: list[str]) -> None:
        working.set(started_for)
        calls = [function_of(module, "def f(i): return i[0](i[1:]) if i else sys._getframe()") for module in modules]
        found.append(holding(calls[0](calls[1:]), plugin_of, is_own))

    step(lambda: look(["plug_bundled"]))
    step(lambda: look(["plug_bundled", "plug"]))
    step(lambda: look(["plug", "plug_bundled"]))
    assert [each.plugin for each in found] == [None, "plug", None]
    assert found[2].frame is not None, "the plugin is interrupted once the call has returned"


def step(work: Callable[[], None]) -> list[BaseException]:
    """Run something as a step of an event loop that a guard watches; return what it raised."""
    raised: list[BaseException] = []
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _loop, context: raised.append(context["exception"]))
        guard = Guard()
        guard.name_of = plugin_of
        with guard.watching(loop):
            loop.call_soon(work)
            runner.run(asyncio.sleep(0))
    return raised


BUSY = """
def f(seconds, at_work):
    at_work.append(1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    at_work.append(-1)
"""
CATCHES = """
def f():
    for _ in range(2):
        try:
            for _ in range(4):
                try:
                    time.sleep(30)
                except BaseException:
                    pass
                finally:
                    time.sleep(0)
        except:
            continue
"""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "LIMIT_S", 0.5)


@pytest.mark.usefixtures("hasty")
def test_code_of_the_bot_is_never_interrupted() -> None:
    busy = function_of("roost.store", BUSY)
    assert step(lambda: busy(1.0, [])) == []


@pytest.mark.usefixtures("hasty")
def test_plugin_that_calls_the_bot_is_interrupted_in_its_own_code() -> None:
    at_work: list[int] = []
    busy = function_of("roost.store", BUSY)
    endless = function_of("plug", "def f(call, *arguments):\n while True: call(*arguments)")
    (error,) = step(lambda: endless(busy, 0.02, at_work))
    assert isinstance(error, BlockedError)
    assert error.at == "<string>:2"
    assert len(at_work) > 2
    assert sum(at_work) == 0
    assert sys.gettrace() is None


@pytest.mark.usefixtures("hasty")
def test_plugin_that_catches_every_interruption_is_ended() -> None:
    (error,) = step(function_of("plug", CATCHES))
    assert isinstance(error, BlockedError)


@pytest.mark.usefixtures("hasty")
def test_step_that_waited_for_a_processor_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_waited_s", time.monotonic)
    busy = function_of("plug", BUSY)
    assert step(lambda: busy(1.2, [])) == []
