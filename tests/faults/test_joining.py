"""Joining and leaving: rows 1 to 14, but for row 8."""

from __future__ import annotations

import asyncio
from typing import Any

import hikari
import pytest
from context import Rig, eventually
from fault_report import SCALE, Fault

from roost_voice.commands import join_words
from roost_voice.moves import State, Told
from roost_voice.sessions import JoinResult

pytestmark = pytest.mark.sim

NO_ANSWER = "Discord did not answer in time"


def arm(rig: Rig, name: str, times: int = 1, **params: Any) -> None:
    rig.sim.faults.arm(name, rig.guild_id, params, times)


def words(rig: Rig, result: JoinResult, asked: int = 0) -> str:
    """The reply to ``/voice join``."""
    return join_words(result, rig.channels[asked])


def seen(rig: Rig, kind: str) -> list[str | None]:
    """What Discord did with the bot's voice, as channels: `op4` or `vsu`."""
    own = [each for each in rig.sim.entries if each["kind"] == kind and each["user_id"] == str(rig.bot_id)]
    return [each["channel_id"] for each in own]


def asked_rest(rig: Rig) -> int:
    """How often Discord was asked whether the bot is in voice."""
    return sum(
        each["kind"] == "rest" and each["method"] == "GET" and each["path"].endswith("/voice-states/@me")
        for each in rig.sim.entries
    )


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    ("cause", "told"),
    [("full", "is full"), ("no right", "I may not connect"), ("no word", NO_ANSWER)],
)
async def test_discord_does_not_let_the_bot_in(rig: Rig, fault: Fault, cause: str, told: str) -> None:
    channel = rig.guild.channels[rig.channels[0]]
    if cause == "full":
        channel.user_limit = 1
        await rig.sim.voice.member(rig.guild, rig.members[1], channel)
    elif cause == "no right":
        channel.overwrites[rig.bot_id] = (0, int(hikari.Permissions.CONNECT))
    else:
        arm(rig, "drop_op4")
    rig.sim.gateway.dispatch("CHANNEL_UPDATE", channel.payload(), guild_id=rig.guild_id)
    with fault.clock():
        result = await rig.join(0)
        await rig.at_rest()
    assert result.told is Told.FAILED
    assert words(rig, result).startswith(f"I could not join <#{rig.channels[0]}>: ")
    assert told in words(rig, result)
    assert rig.op4() == [str(rig.channels[0]), None]
    await rig.sim.voice.member(rig.guild, rig.members[1], None)
    assert asked_rest(rig) == 1, "an op 4 that changes nothing brings no answer: REST has to confirm"


@pytest.mark.fault(2)
@pytest.mark.parametrize("withheld", ["withhold_vsu", "withhold_vsrvu"])
async def test_half_of_the_events(rig: Rig, fault: Fault, withheld: str) -> None:
    arm(rig, withheld)
    with fault.clock():
        result = await rig.join(0)
        await rig.at_rest()
    assert result.told is Told.FAILED
    assert NO_ANSWER in words(rig, result)
    assert rig.place is None
    assert rig.op4() == [str(rig.channels[0]), None]
    assert (await rig.join(0)).told is Told.JOINED


@pytest.mark.fault(4)
@pytest.mark.parametrize("late", ["delay_op4_events", "delay_op4"])
async def test_the_events_of_a_join_come_after_it_was_given_up(rig: Rig, fault: Fault, late: str) -> None:
    """The events alone are late; or Discord lets the bot in when it has already asked to leave."""
    arm(rig, late, delay_s=10 * SCALE)
    assert NO_ANSWER in words(rig, await rig.join(0))
    await rig.at_rest()
    assert seen(rig, "vsu").count(str(rig.channels[0])) == 0
    await eventually(lambda: str(rig.channels[0]) in seen(rig, "vsu"))
    with fault.clock():
        await eventually(lambda: rig.op4()[2:] == [None])
        await eventually(lambda: rig.place is None and not rig.manager.states())


@pytest.mark.fault(5)
@pytest.mark.parametrize("order", ["state first", "server first"])
async def test_the_events_come_before_the_request_returns(
    rig: Rig, fault: Fault, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    shard = type(rig.ctx.bot.shards[0])
    send, returns = shard.update_voice_state, asyncio.Event()

    async def slow(self: Any, *args: Any, **options: Any) -> None:
        await send(self, *args, **options)
        await returns.wait()

    monkeypatch.setattr(shard, "update_voice_state", slow)
    if order == "server first":
        arm(rig, "swap_order")
    with fault.clock():
        assert (await rig.join(0)).told is Told.JOINED
    assert not returns.is_set()
    returns.set()
    assert rig.op4() == [str(rig.channels[0])]


@pytest.mark.fault(6)
async def test_the_first_server_has_no_address(rig: Rig, fault: Fault) -> None:
    arm(rig, "endpoint_null_first", delay_s=4 * SCALE)
    with fault.clock():
        assert (await rig.join(0)).told is Told.JOINED
    assert rig.op4() == [str(rig.channels[0])]
    assert rig.manager.state(rig.guild_id) is State.LIVE


@pytest.mark.fault(6)
async def test_no_server_ever_has_an_address(rig: Rig, fault: Fault) -> None:
    arm(rig, "endpoint_null_first", delay_s=None)
    with fault.clock():
        result = await rig.join(0)
    assert "Discord offered no voice server" in words(rig, result)
    await rig.at_rest()
    assert rig.op4() == [str(rig.channels[0]), None]
