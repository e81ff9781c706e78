"""What the plugin does all the same while the store takes nothing."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from roost.errors import StoreError
from roost.scopes import Scope
from roost_stt import plugin as plugin_module
from roost_stt.plugin import SttPlugin

pytestmark = pytest.mark.unit


class Keeper:
    """Of one transcript."""

    def __init__(self, kept_days: int) -> None:
        self.head = types.SimpleNamespace(kept_days=kept_days, started_by=0)
        self.key = "key"
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True


class Running:
    """A transcription."""

    def __init__(self, guild_id: int) -> None:
        self.guild_id = guild_id
        self.session = types.SimpleNamespace(id="s", guild_id=guild_id, channel_id=20)
        self.keeper = Keeper(7)
        self.changing = asyncio.Lock()
        self.channel_id = self.room_id = 20
        self.audience = types.SimpleNamespace(accepted=False)
        self.language = self.thread_id = None
        self.paused = self.is_ending = self.is_closed = False

    def end_intake(self) -> None:
        self.is_ending = True

    def tell(self, what: str, text: str) -> None:
        """Nobody reads it."""

    def go_on(self) -> None:
        """Nothing is heard here."""

    async def settle_all(self, deadline: float) -> bool:
        return True

    async def drain(self, deadline: float) -> bool:
        return True

    async def close(self) -> None:
        self.is_closed = True


class Owner:
    """Of the worker."""

    card = worker = None
    rests = released = False

    async def cut_short(self) -> None:
        """Nothing starts here."""

    async def release(self) -> None:
        self.released = True

    def arm_idle(self) -> None:
        """There is no worker."""


@pytest.fixture
async def plugin() -> AsyncIterator[SttPlugin]:
    async def fails(*_args: Any) -> None:
        raise StoreError("busy", retryable=True)

    made = SttPlugin()
    scope = Scope("test")
    made._ctx = cast(
        "Any", types.SimpleNamespace(settings=types.SimpleNamespace(set=fails), scope=scope, keep=scope.keep)
    )
    yield made
    await scope.aclose()


async def test_a_transcript_ends_where_the_next_cannot_be_noted(
    plugin: SttPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One without an end would never expire."""
    running: Any = Running(1)
    before, plugin._running = running.keeper, {1: running}
    plugin._book = cast("Any", types.SimpleNamespace(begin=lambda *_args: Keeper(1)))
    monkeypatch.setattr(plugin, "days_of", lambda _guild_id: 1)
    await plugin._tell_anew(running)
    assert before.is_closed


async def test_a_release_ends_all_and_lets_go_of_the_card(plugin: SttPlugin) -> None:
    running: Any = {1: Running(1), 2: Running(2)}
    owner: Any = Owner()
    plugin._running, plugin._owner = dict(running), owner
    await plugin.release_gpu(force=True)
    assert owner.released
    assert all(each.is_closed for each in running.values())


async def test_one_task_notes_what_is_transcribed_whoever_cancels_it(
    plugin: SttPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note that is lost has a reload go on with what has ended."""
    monkeypatch.setattr(plugin_module, "AGAIN_S", (0.05,))
    running: Any = Running(1)
    ctx: Any = plugin._ctx
    async with asyncio.timeout(2):
        for _ in range(3):
            await plugin._note(running.session)
        assert ctx.scope.task_names == ["test/remember:1"]
        for task in ctx.scope.tasks:
            task.cancel()
        noted = asyncio.Event()
        kept: list[Any] = []

        async def takes(guild_id: int, _key: str, value: Any) -> None:
            kept.append((guild_id, value))
            noted.set()

        ctx.settings.set = takes
        await noted.wait()
        await plugin._note(running.session)
    assert kept[-1] == (1, None)
    await asyncio.sleep(0)
    assert ctx.scope.task_names == []
