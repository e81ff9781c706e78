"""Servers, channels and moderators: rows 38 to 50."""

from __future__ import annotations

import pytest
from context import Rig
from fault_report import Fault

pytestmark = pytest.mark.sim


@pytest.mark.fault(42)
async def test_a_moderator_disconnects_the_bot(rig: Rig, fault: Fault) -> None:
    await rig.join(0)
    with fault.clock():
        rig.sim.voice.remove(rig.guild, rig.bot_id)
        reason, stats = await rig.recorder.until("closed")
    assert "disconnected" in reason
    assert stats.generation == 1
    await rig.at_rest()
    assert rig.op4() == [str(rig.channels[0])]
