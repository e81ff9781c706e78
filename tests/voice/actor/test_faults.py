"""What Discord, moderators and the network do to a session."""

from __future__ import annotations

import asyncio

import pytest
from context import Rig, SinkRecorder, eventually

from roost_voice.moves import State, Told

pytestmark = pytest.mark.sim


def arm(rig: Rig, name: str, times: int = 1, **params: object) -> None:
    rig.sim.faults.arm(name, rig.guild_id, params, times)


async def test_kicked_ends_without_a_rejoin(rig: Rig) -> None:
    await rig.join(0)
    rig.sim.voice.remove(rig.guild, rig.bot_id)
    reason, stats = await rig.recorder.until("closed")
    assert "disconnected" in reason
    assert stats.generation == 1
    await rig.at_rest()
    assert rig.place is None
    assert rig.op4() == [str(rig.channels[0])]


async def test_moved_by_a_moderator_follows(rig: Rig) -> None:
    result = await rig.join(0)
    rig.sim.voice.move(rig.guild, rig.bot_id, rig.guild.channels[rig.channels[2]])
    assert await rig.recorder.until("moved") == (rig.channels[0], rig.channels[2], False)
    await rig.recorder.until("restored")
    assert result.session is not None
    assert result.session.channel_id == rig.channels[2]
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert rig.most == 1


async def test_region_change_replaces_the_link(rig: Rig) -> None:
    result = await rig.join(0)
    rig.sim.voice.new_server(rig.guild, rig.bot_id)
    await rig.recorder.until("restored")
    assert result.session is not None
    assert result.session.generation == 2
    assert rig.op4() == [str(rig.channels[0])]
    assert rig.most == 1


async def test_a_lost_server_comes_back(rig: Rig) -> None:
    await rig.join(0)
    rig.sim.voice.new_server(rig.guild, rig.bot_id, null=True)
    await rig.recorder.until("interrupted")
    await eventually(lambda: rig.manager.state(rig.guild_id) is State.AWAIT_SERVER)
    rig.sim.voice.new_server(rig.guild, rig.bot_id)
    await rig.recorder.until("restored")
    assert rig.manager.state(rig.guild_id) is State.LIVE


async def test_a_move_that_is_ignored_stays_where_it_is(rig: Rig) -> None:
    await rig.join(0)
    arm(rig, "drop_op4")
    result = await rig.join(1)
    assert result.told is Told.FAILED
    assert rig.place == rig.channels[0]
    assert rig.manager.state(rig.guild_id) is State.LIVE


async def test_leave_while_the_gateway_is_down(rig: Rig) -> None:
    await rig.join(0)
    await rig.sim.gateway.drop(rig.sim.world.bots[0], 4000)
    leaving = asyncio.create_task(rig.leave())
    await eventually(lambda: rig.place is None)
    await leaving
    await rig.at_rest()
    await eventually(lambda: not list((rig.ctx.data_dir / "instances").glob("*.json")))


async def test_voice_survives_a_gateway_resume(rig: Rig) -> None:
    await rig.join(0)
    await rig.sim.gateway.drop(rig.sim.world.bots[0], 4000)
    await eventually(lambda: rig.ctx.bot.shards[0].is_connected)
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert "interrupted" not in rig.recorder.names


async def test_a_new_gateway_session_rejoins(rig: Rig) -> None:
    result = await rig.join(0)
    rig.sim.gateway.invalidate(rig.sim.world.bots[0])
    await rig.sim.gateway.drop(rig.sim.world.bots[0], 4009)
    await rig.recorder.until("restored")
    assert result.session is not None
    assert rig.manager.session(rig.guild_id) is result.session
    assert rig.place == rig.channels[0]
    assert rig.most == 1


async def test_removed_from_the_guild_ends_without_op4(rig: Rig) -> None:
    await rig.join(0)
    rig.sim.voice.remove(rig.guild, rig.bot_id)
    rig.sim.gateway.dispatch(
        "GUILD_DELETE", {"id": str(rig.guild_id)}, guild_id=rig.guild_id, bot=rig.sim.world.bots[0]
    )
    await rig.recorder.until("closed")
    await rig.at_rest()
    assert rig.op4() == [str(rig.channels[0])]


async def test_members_come_and_go(rig: Rig) -> None:
    channel = rig.guild.channels[rig.channels[0]]
    await rig.sim.voice.member(rig.guild, rig.members[0], channel)
    result = await rig.join(0)
    assert result.session is not None
    assert result.session.members == {rig.members[0]}
    await rig.sim.voice.member(rig.guild, rig.members[1], channel)
    assert await rig.recorder.until("member_joined") == rig.members[1]
    await rig.sim.voice.member(rig.guild, rig.members[0], None)
    assert await rig.recorder.until("member_left") == rig.members[0]
    assert result.session.members == {rig.members[1]}


async def test_only_who_agreed_is_heard(rig: Rig) -> None:
    sink = rig.recorder.sink = SinkRecorder()
    channel = rig.guild.channels[rig.channels[0]]
    agrees, refuses = rig.members[0], rig.members[1]
    for member in (agrees, refuses):
        await rig.sim.voice.member(rig.guild, member, channel)
    await rig.ctx.consent.agree(rig.guild_id, agrees)
    result = await rig.join(0)
    session = result.session
    assert session is not None
    await eventually(lambda: session.capture_state == "on")
    (notice,) = rig.sim.book.in_channel(rig.text)
    assert "Agree" in notice.body["content"]
    assert rig.sim.part is not None
    name = rig.sim.part.recordings()[0]["name"]
    speaking = [
        asyncio.create_task(rig.sim.part.speak(rig.guild_id, member, wav=None, recording=name, params={}))
        for member in (agrees, refuses)
    ]
    await sink.until(20)
    assert {frame.user_id for frame in sink.frames} == {agrees}
    stats = session.stats()
    assert stats.refused_by_user[refuses] > 0
    assert agrees not in stats.refused_by_user
    await rig.ctx.consent.opt_out(rig.guild_id, agrees)
    assert sink.purged == [agrees]
    heard = len(sink.frames)
    await eventually(lambda: session.stats().refused_by_user.get(agrees, 0) > 5)
    assert len(sink.frames) == heard
    for task in speaking:
        task.cancel()
    await asyncio.gather(*speaking, return_exceptions=True)


async def test_without_a_notice_nobody_is_heard(rig: Rig) -> None:
    rig.sim.faults.arm("rest_error", None, {"method": "POST", "path_prefix": "/channels", "status": 403}, 5)
    sink = rig.recorder.sink = SinkRecorder()
    await rig.sim.voice.member(rig.guild, rig.members[0], rig.guild.channels[rig.channels[0]])
    await rig.ctx.consent.agree(rig.guild_id, rig.members[0])
    result = await rig.join(0)
    session = result.session
    assert session is not None
    await eventually(lambda: session.capture_state == "failed")
    assert rig.sim.part is not None
    name = rig.sim.part.recordings()[0]["name"]
    speaking = asyncio.create_task(
        rig.sim.part.speak(rig.guild_id, rig.members[0], wav=None, recording=name, params={})
    )
    await eventually(lambda: session.stats().frames_refused > 5)
    assert not sink.frames
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
