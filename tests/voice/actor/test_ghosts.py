"""Ghosts of a killed process, under both readings of what op 4 (null) does to them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from context import eventually, leave_ghost, running

from roost.instances import instances_dir
from roost.sim.server import SimulatedDiscord
from roost_voice.journal import Journal
from roost_voice.moves import Told

pytestmark = [pytest.mark.sim, pytest.mark.parametrize("ghost_null", ["honoured", "ignored"], indirect=True)]


def ghost_channel(sim: SimulatedDiscord) -> int:
    return next(iter(sim.world.guilds.values())).of_type(2)[1].id


async def test_a_ghost_is_reaped(sim: SimulatedDiscord, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await leave_ghost(sim, ghost_channel(sim))
    caplog.set_level(logging.INFO, "roost.voice")
    async with running(sim, tmp_path) as rig:
        await eventually(lambda: rig.place is None)
        await rig.at_rest()
        (record,) = [record for record in caplog.records if getattr(record, "event", "") == "ghost_reaped"]
        assert record.guild_id == rig.guild_id  # type: ignore[attr-defined]
        assert 0 <= record.since_ready_s < 10  # type: ignore[attr-defined]
        assert rig.most == 1


async def test_the_dead_ones_journal_goes_with_the_ghost(sim: SimulatedDiscord, tmp_path: Path) -> None:
    channel = ghost_channel(sim)
    guild = next(iter(sim.world.guilds))
    dead = Journal(tmp_path, "dead")
    dead.write(guild, channel, None)
    await leave_ghost(sim, channel)
    async with running(sim, tmp_path, exclusive=False) as rig:
        await eventually(lambda: rig.place is None)
        await eventually(lambda: not (instances_dir(tmp_path) / "dead.json").exists())


async def test_a_join_takes_the_ghosts_place(sim: SimulatedDiscord, tmp_path: Path) -> None:
    await leave_ghost(sim, ghost_channel(sim))
    async with running(sim, tmp_path) as rig:
        result = await rig.join(0)
        assert result.told is Told.JOINED
        assert rig.place == rig.channels[0]
        assert rig.most == 1
        await rig.leave()
        assert rig.place is None


async def test_a_join_into_the_ghosts_channel(sim: SimulatedDiscord, tmp_path: Path) -> None:
    await leave_ghost(sim, ghost_channel(sim))
    async with running(sim, tmp_path) as rig:
        assert (await rig.join(1)).told is Told.JOINED
        assert rig.most == 1


async def test_a_shared_token_leaves_strangers_alone(sim: SimulatedDiscord, tmp_path: Path) -> None:
    await leave_ghost(sim, ghost_channel(sim))
    async with running(sim, tmp_path, exclusive=False) as rig:
        await eventually(lambda: rig.ctx.bot.shards[0].is_connected)
        await asyncio.sleep(0.5)
        assert rig.place == rig.channels[1]


@pytest.mark.parametrize(("exclusive", "told"), [(False, Told.FAILED), (True, Told.JOINED)])
async def test_a_join_that_cannot_be_noted(
    sim: SimulatedDiscord, tmp_path: Path, caplog: pytest.LogCaptureFixture, exclusive: bool, told: Told
) -> None:
    """Only with a shared token the next process would need the note to know the ghost."""
    async with running(sim, tmp_path, exclusive=exclusive) as rig:
        instances_dir(tmp_path).mkdir(exist_ok=True)
        (instances_dir(tmp_path) / f"{rig.ctx.instance_id}.json.new").symlink_to("/dev/full")
        assert (await rig.join(0)).told is told
        assert "No space left" in caplog.text
        assert rig.place == (rig.channels[0] if exclusive else None)
        await rig.leave()
        assert rig.place is None
