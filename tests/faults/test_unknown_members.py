"""Row 116: voice states without their member, and guilds with entries that cannot be read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bot_scene import scenes
from context import Rig, eventually, running
from fault_report import Fault
from voice_scene import company, encrypted, hears

from roost.sim.server import SimulatedDiscord

pytestmark = pytest.mark.fault(116)

ALONE_S = 0.5
"""How long the bot stays alone in a channel."""


@pytest.mark.e2e
async def test_a_bad_entry_costs_a_guild_neither_its_commands_nor_its_voice(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path) as scene:
        await scene.discord.fault("bad_entries", guild_id=scene.guild_id)
        async with scene.bot() as bot:
            with fault.clock(5.0, scaled=False):  # what a join may take
                assert "Joined" in await scene.join()
            commands = (await scene.discord.state())["commands"][str(scene.guild_id)]
            assert "voice" in commands
            assert await scene.place() == scene.voice[0]
            warnings = [each["message"] for each in bot.events if each.get("logger") == "roost.gateway"]
            assert any("left out what cannot be read: 2 of its" in each for each in warnings)
            assert not [each for each in bot.events if each.get("level") == "ERROR"]


@pytest.mark.sim
async def test_somebody_whose_voice_state_has_no_member_is_a_human(rig: Rig, fault: Fault) -> None:
    sim: SimulatedDiscord = rig.sim
    ada = rig.members[0]
    joined = await rig.join(0)
    session = joined.session
    assert session is not None
    sim.faults.arm("anonymous_voice_state", rig.guild_id, {}, 1)
    with fault.clock(0.5, scaled=False):
        sink = await company(rig, 0)
        await eventually(lambda: ada in session.humans)
    await eventually(lambda: session.capture_state == "on" and encrypted(rig, session))
    await hears(rig, sink)
    assert not sim.faults.armed()


@pytest.mark.sim
async def test_somebody_unknown_keeps_the_bot_in_the_channel(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault
) -> None:
    stranger = 810_000_000_000_000_001
    async with running(sim, tmp_path, alone_leave_s=ALONE_S) as rig:
        joined = await rig.join(0)
        session = joined.session
        assert session is not None
        with fault.clock(0.5, scaled=False):
            rig.manager.member(rig.guild_id, stranger, session.channel_id, None)
            assert session.humans == {stranger}
            assert session.heard == frozenset(), "nobody is heard who has not agreed"
        await asyncio.sleep(3 * ALONE_S)
        assert rig.place == session.channel_id
        assert not session.closed
        # Once they are gone, it is alone.
        rig.manager.member(rig.guild_id, stranger, None, None)
        await eventually(lambda: rig.place is None, 5 * ALONE_S)


@pytest.mark.sim
@pytest.mark.parametrize("session_id", [None, 5, ""])
async def test_own_voice_state_and_server_of_another_shape_are_left_out(
    session_id: object, rig: Rig, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    joined = await rig.join(0)
    session = joined.session
    assert session is not None
    state = {
        "guild_id": str(rig.guild_id),
        "channel_id": str(session.channel_id),
        "user_id": str(rig.bot_id),
        "session_id": session_id,
        **dict.fromkeys(("deaf", "mute", "self_deaf", "self_mute", "self_video", "suppress"), False),
        "request_to_speak_timestamp": None,
    }
    server = {"guild_id": str(rig.guild_id), "token": 5, "endpoint": 7}
    with fault.clock(0.5, scaled=False):
        rig.sim.gateway.dispatch("VOICE_STATE_UPDATE", state, guild_id=rig.guild_id)
        rig.sim.gateway.dispatch("VOICE_SERVER_UPDATE", server, guild_id=rig.guild_id)
        await eventually(lambda: caplog.text.count("left out") == 2)
    assert rig.manager.session(rig.guild_id) is session
    assert not session.closed
    assert "starts over" not in caplog.text
