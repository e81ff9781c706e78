"""The main gateway, and REST beside it: rows 51 to 54 and 148."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from context import Rig, eventually, running
from fault_report import Fault
from voice_log import arm, asked_rest, identified, seen
from voice_scene import company, connections, ends, hears, live_again, order

from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost.testing.leftovers import leak_check
from roost_voice.moves import State, Told

pytestmark = pytest.mark.sim

LOCAL_S = 2.0
"""From the loss of the gateway session until no voice connection is left."""


async def lose_connection(rig: Rig, how: str = "reset") -> None:
    """The gateway connection ends, and the bot knows; its session can be resumed."""
    bot = rig.sim.world.bots[0]
    if how == "reset":
        rig.sim.gateway.abort(bot)
    else:
        await rig.sim.gateway.drop(bot, 4000)
    await eventually(lambda: not rig.ctx.bot.shards[0].is_connected)


def lose_session(rig: Rig, *, state_stays: bool) -> None:
    """Op 9. The voice state usually goes with the session; if not, it is a ghost."""
    state = rig.guild.voice_states.get(rig.bot_id)
    if state is not None and state_stays:
        state.owner = "a session that is gone"
    rig.sim.gateway.invalidate(rig.sim.world.bots[0])


def when(rig: Rig, kind: str, number: int = -1) -> float:
    """When the simulator noted it."""
    return float([each["t"] for each in rig.sim.entries if each["kind"] == kind][number])


async def up_again(rig: Rig, kind: str) -> None:
    """Wait until the bot has its gateway again: `gateway_resume`, or `gateway_identify` once more."""
    expected = 1 if kind == "gateway_resume" else 2
    await eventually(lambda: sum(each["kind"] == kind for each in rig.sim.entries) == expected)


@pytest.mark.fault(51)
@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_voice_goes_on_without_the_gateway(rig: Rig, fault: Fault, how: str) -> None:
    sink = await company(rig, 0)
    result = await rig.join(0)
    await lose_connection(rig, how)
    with fault.clock():
        await hears(rig, sink)
    await up_again(rig, "gateway_resume")
    await hears(rig, sink)
    assert result.session is not None
    assert result.session.generation == 1
    assert order(rig) == ["identify"]
    assert rig.op4() == [str(rig.channels[0])]
    assert "interrupted" not in rig.recorder.names


@pytest.mark.fault(51)
async def test_a_request_waits_for_the_gateway(rig: Rig, fault: Fault) -> None:
    await rig.join(0)
    await lose_connection(rig)
    moving = asyncio.create_task(rig.join(1))
    await eventually(lambda: rig.manager.state(rig.guild_id) is State.SIGNALLING)
    await up_again(rig, "gateway_resume")
    result = await moving
    assert result.told is Told.MOVED
    assert rig.op4() == [str(rig.channels[0]), str(rig.channels[1])]
    fault.note(when(rig, "op4") - when(rig, "gateway_resume"))


@pytest.mark.fault(51)
@pytest.mark.parametrize("link", ["lives", "was closed"])
async def test_a_kick_while_the_gateway_is_away(rig: Rig, fault: Fault, link: str) -> None:
    """A resume brings what was missed."""
    await rig.join(0)
    await lose_connection(rig)
    if link == "was closed":
        rig.sim.voice.remove(rig.guild, rig.bot_id)
    else:
        state = rig.guild.voice_states.pop(rig.bot_id)
        event = state.payload(rig.guild.members[rig.bot_id], left=True)
        rig.sim.gateway.dispatch("VOICE_STATE_UPDATE", event, guild_id=rig.guild_id)
    await up_again(rig, "gateway_resume")
    with fault.clock():
        reason, stats = await rig.recorder.until("closed")
    assert "disconnected" in reason
    assert stats.generation == 1
    await rig.at_rest()
    assert rig.op4() == [str(rig.channels[0])]


@pytest.mark.fault(51)
@pytest.mark.parametrize("follow", [True, False], ids=["follows", "leaves"])
async def test_a_move_while_the_gateway_is_away(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, follow: bool
) -> None:
    async with leak_check(), running(sim, tmp_path, follow_moves=follow) as rig:
        await rig.join(0)
        await lose_connection(rig)
        sim.voice.move(rig.guild, rig.bot_id, rig.guild.channels[rig.channels[2]])
        await eventually(lambda: rig.manager.state(rig.guild_id) is State.SUSPENDED)
        await up_again(rig, "gateway_resume")
        with fault.clock(1):
            if follow:
                await live_again(rig, 2)
            else:
                await rig.at_rest()
        assert rig.place == (rig.channels[2] if follow else None)
        assert rig.op4() == [str(rig.channels[0])] + ([] if follow else [None])
        if follow:
            assert await rig.recorder.until("moved") == (rig.channels[0], rig.channels[2], False)
            await rig.leave()
        assert rig.most == 1


@pytest.mark.fault(52)
@pytest.mark.parametrize("state_stays", [False, True], ids=["the state goes", "the state stays"])
async def test_a_new_gateway_session(rig: Rig, fault: Fault, state_stays: bool) -> None:
    sink = await company(rig, 0)
    result = await rig.join(0)
    assert result.session is not None
    lose_session(rig, state_stays=state_stays)
    if not state_stays:
        with fault.clock(LOCAL_S):
            await rig.recorder.until("interrupted")
            assert rig.manager.state(rig.guild_id) is not State.LIVE
    await up_again(rig, "gateway_identify")
    with fault.clock():
        await rig.recorder.until("restored")
    assert order(rig) == ["identify", "close", "identify"], "the old connection ends first"
    if state_stays:
        fault.note(ends(rig)[0]["t"] - when(rig, "gateway_identify"), LOCAL_S)
    assert rig.manager.session(rig.guild_id) is result.session
    assert result.session.generation == 2
    assert rig.place == rig.channels[0]
    assert rig.op4() == [str(rig.channels[0])] * 2
    await hears(rig, sink)


@pytest.mark.fault(53)
@pytest.mark.parametrize("then", ["gateway_resume", "gateway_identify", "a ghost"])
async def test_a_leave_while_the_gateway_is_down(rig: Rig, fault: Fault, then: str) -> None:
    await rig.join(0)
    await lose_connection(rig)
    if then != "gateway_resume":
        lose_session(rig, state_stays=then == "a ghost")
    leaving = asyncio.create_task(rig.leave())
    with fault.clock(LOCAL_S):
        await eventually(lambda: connections(rig) == 0)
    await up_again(rig, "gateway_resume" if then == "gateway_resume" else "gateway_identify")
    with fault.clock():
        await rig.at_rest()
    assert rig.place is None
    assert (await leaving).told is Told.LEFT
    assert rig.op4()[1:] == ([] if then == "gateway_identify" else [None])
    assert not list((rig.ctx.data_dir / "instances").glob("*.json"))


@pytest.mark.fault(53)
async def test_the_gateway_stays_away_for_longer_than_a_leave_is_waited_for(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault
) -> None:
    """Whoever asked hears that it is not confirmed; the wish is kept."""
    async with leak_check(), running(sim, tmp_path, timing_scale=0.05) as rig:
        await rig.join(0)
        away = rig.sim.faults.arm("refuse_gateway", None, {}, times=100)
        await lose_connection(rig)
        assert (await rig.leave()).told is Told.UNCONFIRMED
        assert rig.place == rig.channels[0]
        assert rig.manager.state(rig.guild_id) is State.ORPHAN
        rig.sim.faults.disarm(away.id)
        await up_again(rig, "gateway_resume")
        with fault.clock():
            await rig.at_rest()
        assert rig.place is None
        assert rig.most == 1
        assert not list((tmp_path / "instances").glob("*.json"))


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    "settings",
    [SimSettings(guilds=1, ghost_null=null) for null in ("honoured", "ignored")],
    ids=["honoured", "ignored"],
)
async def test_a_leave_is_lost_with_the_gateway_session(rig: Rig, settings: SimSettings, fault: Fault) -> None:
    await rig.join(0)
    arm(rig, "drop_op4")
    leaving = asyncio.create_task(rig.leave())
    await eventually(lambda: rig.op4() == [str(rig.channels[0]), None])
    assert rig.place == rig.channels[0]
    lose_session(rig, state_stays=True)
    await up_again(rig, "gateway_identify")
    with fault.clock():
        await rig.at_rest()
    assert (await leaving).told in (Told.LEFT, Told.UNCONFIRMED)
    assert rig.place is None
    assert len(identified(rig)) == 1


@pytest.mark.fault(54)
@pytest.mark.parametrize("lost", ["a join", "a move"])
@pytest.mark.parametrize("then", ["gateway_resume", "gateway_identify"])
async def test_a_join_is_lost_with_the_gateway(rig: Rig, fault: Fault, lost: str, then: str) -> None:
    to = 0
    if lost == "a move":
        await rig.join(0)
        to = 1
    arm(rig, "drop_op4")
    asked = len(rig.op4())
    joining = asyncio.create_task(rig.join(to))
    await eventually(lambda: len(rig.op4()) == asked + 1)
    if then == "gateway_identify":
        lose_session(rig, state_stays=False)
    else:
        await lose_connection(rig)
    await up_again(rig, then)
    with fault.clock():
        result = await joining
    assert result.told in (Told.JOINED, Told.MOVED)
    assert rig.place == rig.channels[to]
    assert rig.op4()[asked:] == [str(rig.channels[to])] * 2


@pytest.mark.fault(54)
@pytest.mark.parametrize("done", [True, False], ids=["the answer is lost", "the request is lost"])
async def test_a_leave_without_an_answer(rig: Rig, fault: Fault, done: bool) -> None:
    await rig.join(0)
    arm(rig, "withhold_leave_vsu" if done else "drop_op4")
    with fault.clock():
        result = await rig.leave()
        await rig.at_rest()
    assert result.told is (Told.LEFT if done else Told.UNCONFIRMED)
    assert asked_rest(rig) == 1
    assert rig.op4() == [str(rig.channels[0]), None] + ([] if done else [None])
    assert seen(rig, "vsu") == [str(rig.channels[0])] + ([] if done else [None])


@pytest.mark.fault(148)
@pytest.mark.parametrize("body", [[], {}, 7, "no", {"channel_id": []}], ids=repr)
async def test_rest_answers_of_another_shape(
    rig: Rig, fault: Fault, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The question where the bot is stays open; it is asked again until the leave is confirmed."""
    await rig.join(0)
    arm(rig, "withhold_leave_vsu")
    rig.sim.faults.arm("rest_error", None, {"status": 200, "body": body, "path_prefix": "/guilds"}, 1)
    with fault.clock():
        assert (await rig.leave()).told in (Told.LEFT, Told.UNCONFIRMED)
        await rig.at_rest()
    assert rig.place is None
    assert not [record for record in caplog.records if record.exc_info], "no task failed of it"
    assert (await rig.join(0)).told is Told.JOINED
    await rig.leave()
