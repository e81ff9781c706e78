"""Telling Discord the commands of guilds: one that is limited holds up no other."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest

from roost.commands import registry
from roost.commands.registry import CommandRegistry

pytestmark = pytest.mark.unit

SLOW, OTHER = 1, 2


class Discord:
    """Stands in for hikari's bot and its REST client; one guild's answers wait for an event."""

    def __init__(self) -> None:
        self.rest = self.cache = self
        self.entity_factory = None
        self.put: list[int] = []
        self.answers = asyncio.Event()

    def get_guild(self, _guild_id: int) -> None:
        return None

    async def fetch_application(self) -> Any:
        return types.SimpleNamespace(id=99)

    async def fetch_application_commands(self, _application: Any, _guild: int) -> list[Any]:
        return []

    async def set_application_commands(self, _application: Any, _commands: Any, *, guild: int) -> list[Any]:
        if guild == SLOW:
            await self.answers.wait()
        self.put.append(guild)
        return []


class Client:
    """Stands in for lightbulb's client, which has no commands here."""

    def __init__(self) -> None:
        self.fails = False

    async def sync_application_commands(self) -> None:
        if self.fails:
            raise RuntimeError("not now")


class Harness:
    def __init__(self) -> None:
        self.discord = Discord()
        self.client = Client()
        bot: Any = self.discord
        client: Any = self.client
        self.registry = CommandRegistry(bot, client, lambda _owner, _guild: True)


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(registry, "LIMITED_S", 0.05)
    made = Harness()
    yield made
    await made.registry.aclose()


async def test_guild_that_is_limited_does_not_hold_up_one_that_comes_later(harness: Harness) -> None:
    harness.registry.sync_soon([SLOW])
    assert not await harness.registry.settled(0.3)
    harness.registry.sync_soon([OTHER])
    async with asyncio.timeout(2):
        while not harness.registry.knows(OTHER):
            await asyncio.sleep(0.01)
    assert harness.discord.put == [OTHER]
    harness.discord.answers.set()
    assert await harness.registry.settled(2)
    assert harness.discord.put == [OTHER, SLOW]


async def test_change_in_a_limited_guild_is_told_when_its_limit_ends(harness: Harness) -> None:
    harness.registry.sync_soon([SLOW])
    assert not await harness.registry.settled(0.3)
    for _ in range(5):
        harness.registry.sync_soon([SLOW], always=True)
    assert not await harness.registry.settled(0.3)
    harness.discord.answers.set()
    assert await harness.registry.settled(2)
    assert harness.discord.put == [SLOW, SLOW]


async def test_guilds_wait_for_the_next_change_where_the_commands_cannot_be_built(harness: Harness) -> None:
    harness.client.fails = True
    harness.registry.sync_soon([OTHER])
    await harness.registry.settled(2)
    assert harness.discord.put == []
    harness.client.fails = False
    harness.registry.sync_soon([])
    assert await harness.registry.settled(2)
    assert harness.discord.put == [OTHER]


@pytest.mark.parametrize("limited_s", [0.05, 5.0])
async def test_guild_is_told_though_a_plugin_cancels_every_task(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, limited_s: float
) -> None:
    """While it is waited for, and after it was left to itself."""
    monkeypatch.setattr(registry, "LIMITED_S", limited_s)
    harness.registry.sync_soon([SLOW])
    await harness.registry.settled(0.2)
    for task in harness.registry._scope.tasks:
        task.cancel()
    await asyncio.sleep(0)
    harness.discord.answers.set()
    assert await harness.registry.settled(2)
    async with asyncio.timeout(2):
        while harness.discord.put != [SLOW]:
            await asyncio.sleep(0.01)
