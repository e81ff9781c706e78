"""A bot that was killed in many servers at once: rows 73 and 135."""

from __future__ import annotations

from pathlib import Path

import pytest
from context import Rig, eventually, leave_ghost, running
from fault_report import FULL, Fault

from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings

pytestmark = pytest.mark.sim


def ghosts(rig: Rig) -> int:
    """Servers in which Discord shows the bot."""
    return sum(rig.bot_id in guild.voice_states for guild in rig.sim.world.guilds.values())


async def reaped(number: int, nulls: str, fault: Fault, folder: Path) -> None:
    """Measure from the start of the next process until no ghost is left."""
    async with SimulatedDiscord(SimSettings(guilds=number, ghost_null=nulls, voice_channels=1)) as sim:
        await leave_ghost(sim, *(guild.of_type(2)[0].id for guild in sim.world.guilds.values()))
        async with running(sim, folder) as rig:
            assert ghosts(rig)
            with fault.clock():
                await eventually(lambda: not ghosts(rig), 120.0 if FULL else 12.0)
            await rig.at_rest()
            assert rig.most == 1
            limited = [each for each in sim.entries if each["kind"] == "rest" and each["status"] == 429]
            assert not limited


@pytest.mark.fault(73)
@pytest.mark.parametrize(("number", "nulls"), [(25, "ignored"), (50, "honoured")])
async def test_as_many_ghosts_as_the_row_promises_are_ended_in_its_bound(
    number: int, nulls: str, fault: Fault, tmp_path: Path
) -> None:
    await reaped(number, nulls, fault, tmp_path)


@pytest.mark.fault(135)
async def test_more_ghosts_that_a_plain_leave_does_not_end(fault: Fault, tmp_path: Path) -> None:
    """In scaled time fewer than the row's 50: hikari itself sends 117 commands in a real minute at most."""
    await reaped(50 if FULL else 35, "ignored", fault, tmp_path)
