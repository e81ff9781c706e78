"""What voice counts for Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest
from context import Rig, eventually, leave_ghost, running

from roost.sim.server import SimulatedDiscord
from roost_voice.actor.leaving import KICKED
from roost_voice.metrics import cause_of


def value(rig: Rig, name: str, **labels: str) -> float:
    return rig.ctx.metrics.get_sample_value(name, labels) or 0.0


@pytest.mark.sim
async def test_sessions_their_ends_and_resumes_are_counted(rig: Rig) -> None:
    await rig.join(0)
    assert value(rig, "roost_voice_sessions_opened_total") == 1
    assert value(rig, "roost_voice_sessions") == 1
    assert value(rig, "roost_voice_servers", state="live") == 1
    rig.sim.faults.arm("reset_tcp", rig.guild_id, {}, 1)
    session = rig.manager.session(rig.guild_id)
    assert session is not None
    await eventually(lambda: session.stats().link.resumes == 1)
    await rig.leave()
    await rig.at_rest()
    await rig.join(0)
    rig.sim.voice.remove(rig.guild, rig.bot_id)
    await rig.recorder.until("closed", 2)
    assert value(rig, "roost_voice_sessions_opened_total") == 2
    assert value(rig, "roost_voice_sessions_closed_total", cause="asked") == 1
    assert value(rig, "roost_voice_sessions_closed_total", cause="disconnected") == 1
    assert value(rig, "roost_voice_resumes_total") == 1
    await rig.at_rest()
    assert value(rig, "roost_voice_sessions") == 0


@pytest.mark.sim
async def test_ghosts_are_counted(sim: SimulatedDiscord, tmp_path: Path) -> None:
    await leave_ghost(sim, next(iter(sim.world.guilds.values())).of_type(2)[1].id)
    async with running(sim, tmp_path) as rig:
        await eventually(lambda: rig.place is None)
        await rig.at_rest()
        assert value(rig, "roost_voice_ghosts_total", outcome="gone") == 1
        assert value(rig, "roost_voice_orphans_total") == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("reason", "asked", "stopping", "cause"),
    [
        ("whatever", True, True, "stopped"),
        ("somebody sent me out with /voice leave", True, False, "asked"),
        (KICKED, False, False, "disconnected"),
        ("The voice session is no longer valid (4006).", False, False, "close_4006"),
        ("a reason of a plugin with <@123456789> in it", False, False, "failed"),
    ],
)
def test_causes_are_few(reason: str, asked: bool, stopping: bool, cause: str) -> None:
    assert cause_of(reason, asked=asked, stopping=stopping) == cause
