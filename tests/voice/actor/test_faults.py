"""What Discord, moderators and the network do to a session."""

from __future__ import annotations

import asyncio

import pytest
from context import Rig, SinkRecorder, eventually

from roost_voice.moves import State, Told

pytestmark = pytest.mark.sim


def arm(rig: Rig, name: str, times: int = 1, **params: object) -> None:
    rig.sim.faults.arm(name, rig.guild_id, params, times)


async def test_a_move_that_is_ignored_stays_where_it_is(rig: Rig) -> None:
    await rig.join(0)
    arm(rig, "drop_op4")
    result = await rig.join(1)
    assert result.told is Told.FAILED
    assert rig.place == rig.channels[0]
    assert rig.manager.state(rig.guild_id) is State.LIVE


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
    (notice,) = rig.sim.book.in_channel(rig.channels[0])
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
