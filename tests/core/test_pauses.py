"""The orderly stop of a paused plugin, and what ends it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from roost.plugins import pauses
from roost.plugins.pauses import Pauses
from roost.plugins.quarantine import Breakers, Limits
from roost.plugins.records import failure_of

pytestmark = pytest.mark.unit

PLUGIN, GUILD = "voice", 5


class Harness:
    """Pauses of a host whose plugin stops when it is let."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.may_stop = asyncio.Event()
        self.dispatcher = types.SimpleNamespace(changed=lambda: None)
        host: Any = self
        self.pauses = Pauses(host, Breakers(Limits(1, 60.0, 60.0, 3), lambda _place: None))

    def requires(self, _plugin: str) -> tuple[str, ...]:
        return ()

    async def tell_stopped(self, _plugin: str, _error: Exception, _guild_id: int | None) -> None:
        self.calls.append("told")

    async def stop_in(self, _plugin: str, _place: int) -> None:
        await self.may_stop.wait()
        self.calls.append("stopped")

    async def resume_in(self, _plugin: str, place: int) -> None:
        self.calls.append("resumed" if place == GUILD else f"resumed in {place}")

    async def begin(self, place: int = GUILD) -> None:
        error = ValueError("no")
        self.pauses.begin(PLUGIN, place, failure_of("its task", error), error)
        await asyncio.sleep(0)


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    made = Harness()
    yield made
    await made.pauses.aclose()


async def test_pause_that_is_ended_while_the_plugin_stops_resumes_it_after_its_stop(harness: Harness) -> None:
    await harness.begin()
    end = asyncio.ensure_future(harness.pauses.end(PLUGIN, GUILD))
    await asyncio.sleep(0.05)
    assert harness.pauses.of(PLUGIN, GUILD) is not None
    harness.may_stop.set()
    await end
    assert harness.calls == ["stopped", "told", "resumed"]


async def test_plugin_that_is_loaded_anew_while_it_stops_is_not_stopped(harness: Harness) -> None:
    await harness.begin()
    harness.pauses.forget(PLUGIN)
    harness.may_stop.set()
    await asyncio.sleep(0.05)
    assert harness.calls == []
    assert harness.pauses.of(PLUGIN, GUILD) is None


async def test_pause_that_makes_room_for_another_is_ended(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "MOST_PLACES", 1)
    harness.may_stop.set()
    await harness.begin()
    await harness.begin(GUILD + 1)
    async with asyncio.timeout(2):
        while "resumed" not in harness.calls:
            await asyncio.sleep(0.01)
    assert harness.pauses.places_of(PLUGIN) == [GUILD + 1]


async def test_pause_ends_in_time_though_a_plugin_cancels_every_task(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.pauses._breakers, "retry_s", lambda _plugin, _place: 0.1)
    harness.may_stop.set()
    await harness.begin()
    for task in harness.pauses._scope.tasks:
        task.cancel()
    async with asyncio.timeout(2):
        while "resumed" not in harness.calls:
            await asyncio.sleep(0.01)
    assert harness.pauses.of(PLUGIN, GUILD) is None
