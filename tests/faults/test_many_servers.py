"""A bot in many servers whose members it may know: row 340."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import hikari
import pytest
from fault_report import Fault

from roost.gateway import OTHERS_PER_WINDOW, Bot
from roost.sim.gateway import PRIVILEGED
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings

pytestmark = pytest.mark.sim
VOICE_PER_MINUTE = 100


@contextlib.asynccontextmanager
async def turn(_shard: int) -> AsyncIterator[Callable[[], None]]:
    yield lambda: None


@pytest.mark.fault(340)
async def test_requests_for_the_members_of_many_servers_leave_room_for_voice(fault: Fault) -> None:
    async with SimulatedDiscord(SimSettings(guilds=130, intents_allowed=PRIVILEGED)) as sim:
        bot = Bot(
            sim.world.bots[0].token,
            turn=turn,
            rest_url=sim.rest_url,
            intents=hikari.Intents.GUILDS | hikari.Intents.GUILD_MEMBERS,
            banner=None,
            logs=None,
            suppress_optimization_warning=True,
        )
        await bot.start(check_for_updates=False)
        try:
            async with asyncio.timeout(10):
                while len(bot.cache.get_available_guilds_view()) < len(sim.world.guilds):
                    await asyncio.sleep(0.02)
            (connection,) = [each.connection for each in sim.gateway.sessions.values() if each.connection]
            with fault.clock():
                async with asyncio.timeout(10):
                    for guild_id in list(sim.world.guilds)[:VOICE_PER_MINUTE]:
                        await bot.update_voice_state(guild_id, None)
                    while len(connection.commands) < VOICE_PER_MINUTE + OTHERS_PER_WINDOW:
                        await asyncio.sleep(0.02)
            assert len(connection.commands) <= VOICE_PER_MINUTE + OTHERS_PER_WINDOW + 3
        finally:
            await bot.close()
