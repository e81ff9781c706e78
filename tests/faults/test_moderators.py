"""Servers, channels and moderators: rows 38 to 50."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from context import Rig, eventually, running
from fault_report import SCALE, TELLS, Fault
from voice_log import arm, asked_rest, identified
from voice_scene import company, connections, encryption, ends, hears, live_again, order

from roost.sim import ControlClient
from roost.sim.server import SimulatedDiscord
from roost.testing.leftovers import leak_check
from roost_voice.moves import State, Told
from roost_voice.sim.part import SimulatedVoice

pytestmark = pytest.mark.sim

CLOSE_S = 1.0


@pytest.fixture
async def discord(rig: Rig) -> AsyncIterator[ControlClient]:
    """What moderators and Discord do, through the simulator's door."""
    async with ControlClient(rig.sim.control_url) as client:
        yield client


@pytest.mark.fault(38)
async def test_the_voice_server_is_withdrawn_and_replaced(rig: Rig, fault: Fault) -> None:
    await rig.join(0)
    with fault.clock(CLOSE_S):
        rig.sim.voice.new_server(rig.guild, rig.bot_id, null=True)
        await eventually(lambda: connections(rig) == 0)
    assert rig.place == rig.channels[0], "the voice state stands while a server is awaited"
    assert rig.manager.state(rig.guild_id) is State.AWAIT_SERVER
    await asyncio.sleep(20 * SCALE)
    rig.sim.voice.new_server(rig.guild, rig.bot_id)
    await rig.recorder.until("restored")
    assert len(identified(rig)) == 2
    assert rig.op4() == [str(rig.channels[0])]
    assert "closed" not in rig.recorder.names


@pytest.mark.fault(38)
async def test_the_voice_server_is_withdrawn_for_good(rig: Rig, fault: Fault) -> None:
    await rig.join(0)
    with fault.clock():
        rig.sim.voice.new_server(rig.guild, rig.bot_id, null=True)
        reason, _stats = await rig.recorder.until("closed")
        await rig.at_rest()
    assert reason == "Discord offered no voice server"
    assert rig.op4() == [str(rig.channels[0]), None]
    assert len(identified(rig)) == 1


@pytest.mark.fault(39)
@pytest.mark.parametrize("old", ["answers", "is silent"])
async def test_another_voice_server(rig: Rig, fault: Fault, old: str) -> None:
    sink = await company(rig, 0)
    result = await rig.join(0)
    assert isinstance(rig.sim.part, SimulatedVoice)
    host, _, port = rig.sim.part.endpoint.partition(":")
    assert host == "localhost"
    arm(rig, "other_endpoint", endpoint=f"127.0.0.1:{port}")
    if old == "is silent":
        arm(rig, "blackhole_ws")
        await eventually(lambda: not rig.sim.faults.take("blackhole_ws", rig.guild_id))
    began = time.monotonic()
    with fault.clock():
        rig.sim.voice.new_server(rig.guild, rig.bot_id)
        await rig.recorder.until("restored")
    assert order(rig) == ["identify", "close", "identify"], "the old connection ends first"
    (closed,) = ends(rig)
    fault.note(closed["t"] - began, CLOSE_S)
    assert result.session is not None
    assert rig.manager.session(rig.guild_id) is result.session
    assert result.session.generation == 2
    assert rig.op4() == [str(rig.channels[0])]
    await hears(rig, sink)


@pytest.mark.fault(40)
@pytest.mark.parametrize("alive", [True, False], ids=["before the end", "after the end"])
async def test_the_same_server_with_another_token(rig: Rig, fault: Fault, alive: bool) -> None:
    """Also when the old connection was already being resumed: the new token ends that."""
    sink = await company(rig, 0)
    result = await rig.join(0)
    if not alive:
        arm(rig, "mute_resume")
        arm(rig, "close", code=4015)
        await eventually(lambda: "close" in order(rig))
    with fault.clock():
        rig.sim.voice.new_server(rig.guild, rig.bot_id)
        await live_again(rig, 2)
    assert order(rig) == ["identify", "close", "identify"], "the old session is not used again"
    assert result.session is rig.manager.session(rig.guild_id)
    assert rig.op4() == [str(rig.channels[0])]
    await hears(rig, sink)


@pytest.mark.fault(41)
async def test_a_moderator_moves_the_bot(rig: Rig, fault: Fault) -> None:
    sink = await company(rig, 2, member=1)
    await company(rig, 0, member=0)
    result = await rig.join(0)
    assert result.session is not None
    await hears(rig, sink)
    with fault.clock():
        rig.sim.voice.move(rig.guild, rig.bot_id, rig.guild.channels[rig.channels[2]])
        await rig.recorder.until("restored")
    assert await rig.recorder.until("moved") == (rig.channels[0], rig.channels[2], False)
    assert result.session.channel_id == rig.place == rig.channels[2]
    assert result.session.members == {rig.members[1]}
    assert rig.op4() == [str(rig.channels[0])], "a move that somebody else made is not asked for again"
    await hears(rig, sink, 1)
    assert encryption(rig)["in_group"]
    if TELLS:
        assert result.session.stats().link.dave_version == 1


@pytest.mark.fault(41)
async def test_a_moderator_moves_the_bot_to_and_fro(rig: Rig, fault: Fault) -> None:
    result = await rig.join(0)
    with fault.clock():
        for channel in (1, 2, 0, 3):
            rig.sim.voice.move(rig.guild, rig.bot_id, rig.guild.channels[rig.channels[channel]])
            await asyncio.sleep(0.02)
        await eventually(lambda: rig.manager.state(rig.guild_id) is State.LIVE and connections(rig) == 1)
    (session,) = rig.sim.state()["voice_sessions"]
    assert session["channel_id"] == str(rig.channels[3]) == str(rig.place)
    assert result.session is not None
    assert result.session.channel_id == rig.channels[3]
    assert rig.op4() == [str(rig.channels[0])]


@pytest.mark.fault(41)
async def test_a_bot_that_does_not_follow_leaves(sim: SimulatedDiscord, tmp_path: Path, fault: Fault) -> None:
    async with leak_check(), running(sim, tmp_path, follow_moves=False) as rig:
        await rig.join(0)
        with fault.clock():
            rig.sim.voice.move(rig.guild, rig.bot_id, rig.guild.channels[rig.channels[2]])
            reason, _stats = await rig.recorder.until("closed")
            await rig.at_rest()
        assert reason == "I was moved to another channel"
        assert rig.op4() == [str(rig.channels[0]), None]
        assert rig.place is None
        assert rig.most == 1


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


@pytest.mark.fault(44)
@pytest.mark.parametrize("state", ["comes first", "comes later", "never comes"])
async def test_disconnected_with_the_code_of_an_ended_call(rig: Rig, fault: Fault, state: str) -> None:
    await rig.join(0)
    with fault.clock():
        if state == "comes later":
            assert rig.sim.part is not None
            rig.sim.part.end(rig.guild_id, rig.bot_id, 4022)
            await rig.recorder.until("interrupted")
        rig.sim.voice.remove(rig.guild, rig.bot_id, code=4022, quiet=state == "never comes")
        reason, stats = await rig.recorder.until("closed")
    assert "disconnected" in reason
    assert stats.generation == 1
    await rig.at_rest()
    assert len(identified(rig)) == 1
    (end,) = ends(rig)
    assert end["code"] == 4022


@pytest.mark.fault(45)
@pytest.mark.parametrize("state_first", [True, False], ids=["state first", "close first"])
async def test_the_state_of_a_kick_shows_the_old_channel(rig: Rig, fault: Fault, state_first: bool) -> None:
    await rig.join(0)
    old = rig.guild.voice_states[rig.bot_id]

    def say() -> None:
        payload = old.payload(rig.guild.members[rig.bot_id])
        rig.sim.gateway.dispatch("VOICE_STATE_UPDATE", payload, guild_id=rig.guild_id)

    with fault.clock():
        if state_first:
            say()
        rig.sim.voice.remove(rig.guild, rig.bot_id, quiet=True)
        if not state_first:
            await rig.recorder.until("interrupted")
            say()
        reason, _stats = await rig.recorder.until("closed")
        await rig.at_rest()
    assert "disconnected" in reason
    assert asked_rest(rig) == 1
    assert rig.op4() == [str(rig.channels[0])], "Discord says that there is nothing to leave"
    assert len(identified(rig)) == 1


@pytest.mark.fault(46)
@pytest.mark.parametrize("code", [4014, 4022])
@pytest.mark.parametrize("first", ["the state", "the channel", "the close"])
async def test_the_channel_is_deleted(rig: Rig, fault: Fault, first: str, code: int) -> None:
    """Discord says it in three ways, in any order."""
    await rig.join(0)
    channel = rig.guild.channels[rig.channels[0]]
    assert rig.sim.part is not None
    with fault.clock():
        if first == "the close":
            rig.sim.part.end(rig.guild_id, rig.bot_id, code)
            await rig.recorder.until("interrupted")
        elif first == "the channel":
            rig.sim.gateway.dispatch("CHANNEL_DELETE", channel.payload(), guild_id=rig.guild_id)
        else:
            rig.sim.voice.remove(rig.guild, rig.bot_id, code=code)
        await rig.sim.voice.drop_channel(rig.guild, channel)
        reason, _stats = await rig.recorder.until("closed")
    assert reason == "the channel was deleted"
    await rig.at_rest()
    assert len(identified(rig)) == 1
    assert rig.place is None
    assert set(rig.op4()[1:]) <= {None}


@pytest.mark.fault(47)
@pytest.mark.parametrize("where", ["channel", "server"])
async def test_the_right_to_connect_is_taken_away(rig: Rig, discord: ControlClient, fault: Fault, where: str) -> None:
    """The session goes on while its connection does; a fresh join would be ignored, so it is not tried."""
    result = await rig.join(0)
    channel_id = rig.channels[0] if where == "channel" else None
    await discord.permissions(member_id=rig.bot_id, deny=["CONNECT"], channel_id=channel_id, guild_id=rig.guild_id)
    assert rig.manager.session(rig.guild_id) is result.session
    assert rig.manager.state(rig.guild_id) is State.LIVE
    with fault.clock():
        arm(rig, "close", code=4006)
        reason, stats = await rig.recorder.until("closed")
        await rig.at_rest()
    assert "I may not connect" in reason
    assert stats.generation == 1
    assert rig.op4() == [str(rig.channels[0]), None], "an op 4 that Discord would ignore was sent"


@pytest.mark.fault(48)
@pytest.mark.parametrize("state", ["says so too", "says nothing"])
async def test_the_bot_is_removed_from_the_server(rig: Rig, discord: ControlClient, fault: Fault, state: str) -> None:
    await rig.join(0)
    with fault.clock():
        if state == "says so too":
            rig.sim.voice.remove(rig.guild, rig.bot_id)
        await discord.gateway("guild_delete", guild_id=str(rig.guild_id))
        await rig.recorder.until("closed")
        await rig.at_rest()
    assert rig.op4() == [str(rig.channels[0])], "nobody is there to tell"
    assert not list((rig.ctx.data_dir / "instances").glob("*.json")), "the journal still names it"
    await discord.gateway("guild_create", guild_id=str(rig.guild_id))
    await eventually(lambda: rig.ctx.bot.cache.get_guild(rig.guild_id) is not None)
    assert (await rig.join(1)).told is Told.JOINED


@pytest.mark.fault(49)
async def test_an_outage_of_the_server(rig: Rig, discord: ControlClient, fault: Fault) -> None:
    """Voice does not go through the main gateway: who speaks is heard all the while."""
    sink = await company(rig, 0)
    result = await rig.join(0)
    await discord.gateway("guild_delete", guild_id=str(rig.guild_id), unavailable=True)
    await eventually(lambda: rig.ctx.bot.cache.get_available_guild(rig.guild_id) is None)
    await hears(rig, sink)
    with fault.clock():
        arm(rig, "close", code=4015)
        await eventually(lambda: "resume" in order(rig))
        await hears(rig, sink)
    await discord.gateway("guild_create", guild_id=str(rig.guild_id))
    await eventually(lambda: rig.ctx.bot.cache.get_available_guild(rig.guild_id) is not None)
    await hears(rig, sink)
    assert result.session is rig.manager.session(rig.guild_id)
    assert result.session is not None
    assert result.session.generation == 1
    assert rig.op4() == [str(rig.channels[0])]
    assert "interrupted" not in rig.recorder.names


@pytest.mark.fault(49)
async def test_an_outage_that_cost_the_voice_state(rig: Rig, discord: ControlClient, fault: Fault) -> None:
    result = await rig.join(0)
    await discord.gateway("guild_delete", guild_id=str(rig.guild_id), unavailable=True)
    rig.guild.voice_states.pop(rig.bot_id)
    with fault.clock():
        await discord.gateway("guild_create", guild_id=str(rig.guild_id))
        await live_again(rig, 2)
    assert asked_rest(rig) == 1, "a list without us is not taken for a kick"
    assert result.session is rig.manager.session(rig.guild_id)
    assert rig.place == rig.channels[0]
    assert rig.op4() == [str(rig.channels[0])] * 2


FLAGS = {
    "self_mute": "is_self_muted",
    "self_deaf": "is_self_deafened",
    "mute": "is_guild_muted",
    "deaf": "is_guild_deafened",
    "suppress": "is_suppressed",
}


@pytest.mark.fault(50)
@pytest.mark.parametrize("change", FLAGS)
async def test_the_bot_is_muted_or_deafened(rig: Rig, fault: Fault, change: str) -> None:
    sink = await company(rig, 0)
    result = await rig.join(0)
    payload = rig.guild.voice_states[rig.bot_id].payload(rig.guild.members[rig.bot_id])

    def told() -> bool:
        state = rig.ctx.bot.cache.get_voice_state(rig.guild_id, rig.bot_id)
        return bool(getattr(state, FLAGS[change]))

    for on in (True, False):
        with fault.clock():
            rig.sim.gateway.dispatch("VOICE_STATE_UPDATE", payload | {change: on}, guild_id=rig.guild_id)
            await eventually(lambda on=on: told() is on)
            assert rig.manager.state(rig.guild_id) is State.LIVE
    await hears(rig, sink)
    assert result.session is not None
    assert result.session.generation == 1
    assert rig.op4() == [str(rig.channels[0])]
    assert not {"interrupted", "moved", "closed"} & set(rig.recorder.names)
