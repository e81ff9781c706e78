"""Joining, moving and leaving at a simulated Discord, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from context import Recorder, Rig, eventually, running

from roost.sim.server import SimulatedDiscord
from roost_voice.moves import State, Told

pytestmark = pytest.mark.sim


def sockets() -> int:
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


async def test_join_to_live_and_leave(rig: Rig) -> None:
    result = await rig.join(0)
    assert result.told is Told.JOINED
    assert result.session is not None
    assert rig.place == rig.channels[0]
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert rig.sim.part is not None
    assert len(rig.sim.part.state()["voice_sessions"]) == 1
    left = await rig.leave()
    assert left.told is Told.LEFT
    assert left.channel_id == rig.channels[0]
    assert rig.place is None
    await rig.at_rest()
    assert rig.recorder.names == ["join_check", "opening", "opened", "closing", "closed"]
    assert rig.most == 1
    assert not list((rig.ctx.data_dir / "instances").glob("*.json"))


async def test_the_journal_stands_while_in_voice(rig: Rig) -> None:
    await rig.join(0)
    (path,) = (rig.ctx.data_dir / "instances").glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    session_id = rig.guild.voice_states[rig.bot_id].session_id
    assert session_id not in path.read_text()


async def test_the_same_channel_again(rig: Rig) -> None:
    await rig.join(0)
    again = await rig.join(0, member=1)
    assert again.told is Told.ALREADY
    assert rig.op4() == [str(rig.channels[0])]


async def test_move(rig: Rig) -> None:
    first = await rig.join(0)
    second = await rig.join(1)
    assert second.told is Told.MOVED
    assert second.session is first.session
    assert second.session is not None
    assert second.session.generation == 2
    assert await rig.recorder.until("moved") == (rig.channels[0], rig.channels[1], True)
    assert rig.place == rig.channels[1]
    assert rig.op4() == [str(rig.channels[0]), str(rig.channels[1])]
    assert rig.most == 1


async def test_busy_where_other_people_are(rig: Rig) -> None:
    await rig.sim.voice.member(rig.guild, rig.members[2], rig.guild.channels[rig.channels[0]])
    await rig.join(0, member=0)
    refused = await rig.join(1, member=1)
    assert (refused.told, refused.channel_id) == (Told.BUSY, rig.channels[0])
    assert (await rig.join(1, member=1, force=True)).told is Told.MOVED


async def test_twenty_rounds_leave_the_baseline(rig: Rig) -> None:
    await rig.join(0)
    await rig.leave()
    await rig.at_rest()
    await eventually(lambda: not rig.sim.state()["voice_sessions"])
    await asyncio.sleep(0.1)
    tasks, descriptors = len(asyncio.all_tasks()), sockets()
    for _ in range(20):
        assert (await rig.join(0)).told is Told.JOINED
        assert (await rig.leave()).told is Told.LEFT
    await rig.at_rest()
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await eventually(lambda: sockets() <= descriptors)
    assert rig.recorder.names.count("opened") == rig.recorder.names.count("closed") == 21
    assert rig.most == 1


async def test_a_plugin_may_veto(rig: Rig) -> None:
    rig.recorder.deny = "no room in my heart"
    result = await rig.join(0)
    assert (result.told, result.reason) == (Told.REFUSED, "no room in my heart")
    await rig.at_rest()
    assert rig.place is None
    assert "opened" not in rig.recorder.names


async def test_stop_in_order(sim: SimulatedDiscord, tmp_path: Path) -> None:
    recorder = Recorder()
    async with running(sim, tmp_path, recorder=recorder) as rig:
        await rig.join(0)
    assert rig.ctx.steps == ["closing", "drained", "disconnected", "closed"]
    assert rig.place is None
    assert recorder.names[-2:] == ["closing", "closed"]


async def test_stopping_refuses_joins(rig: Rig) -> None:
    await rig.plugin.on_stopping(rig.ctx.bot, asyncio.get_running_loop().time() + 1)
    assert (await rig.join(0)).told is Told.FAILED


def last_words(rig: Rig) -> list[str]:
    messages = [each.body["content"] for each in rig.sim.book.in_channel(rig.text)]
    return [each for each in messages if each.startswith("I am no longer in")]


async def test_an_end_that_nobody_asked_for_is_told_in_the_channel(rig: Rig) -> None:
    await rig.join(0)
    rig.sim.voice.remove(rig.guild, rig.bot_id)
    await eventually(lambda: last_words(rig) != [])
    assert last_words(rig) == [f"I am no longer in <#{rig.channels[0]}>: I was disconnected from the channel."]


async def test_an_end_that_was_asked_for_is_told_by_the_reply_alone(rig: Rig) -> None:
    await rig.join(0)
    await rig.leave()
    await rig.at_rest()
    await rig.join(0)
    rig.sim.voice.remove(rig.guild, rig.bot_id)
    await eventually(lambda: last_words(rig) != [])
    assert len(last_words(rig)) == 1
