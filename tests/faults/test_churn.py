"""Row 117: members who come and go without end, and what is kept of them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from context import Rig, eventually
from fault_report import TELLS, Fault
from voice_scene import company, encrypted, epochs, hears

from roost_voice.moves import State
from roost_voice.protocol import dave

pytestmark = pytest.mark.fault(117)

KEPT_BYTES = 1024
"""Of each member who has gone, over many: davey alone would keep 4.5 KiB for as long as the call lasts."""


@pytest.mark.e2e
async def test_hardly_anything_is_kept_of_members_who_have_gone() -> None:
    script = Path(__file__).with_name("churn.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), "300", "64", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(out)
    assert found["failed"] is None
    assert found["bytes_each"] < KEPT_BYTES


@pytest.mark.sim
@pytest.mark.skipif(not TELLS, reason="the group is inside the driver")
async def test_the_group_is_entered_anew_and_everybody_is_heard(
    rig: Rig, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dave, "RENEW_AFTER", 6)
    monkeypatch.setattr(dave, "RENEW_SPREAD", 1)
    sink = await company(rig, 0)
    joined = await rig.join(0)
    session = joined.session
    assert session is not None
    await eventually(lambda: session.capture_state == "on" and encrypted(rig, session))
    ben = rig.members[1]
    for _ in range(5):
        for channel in (rig.guild.channels[rig.channels[0]], None):
            before = epochs(rig, session)
            await rig.sim.voice.member(rig.guild, ben, channel)
            await eventually(lambda before=before: epochs(rig, session) > before and encrypted(rig, session))  # type: ignore[misc]
    invalid = [each for each in rig.sim.entries if each.get("event") == "dave_invalid"]
    assert {each["user_id"] for each in invalid} == {str(rig.bot_id)}
    with fault.clock(scaled=False):
        await hears(rig, sink)
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert session.generation == 1
    assert rig.most == 1
