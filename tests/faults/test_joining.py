"""Joins that Discord, the network or the set-up gets in the way of: rows 1 to 9, but for row 8."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hikari
import pytest
from context import Recorder, Rig, eventually, leave_ghost, running
from fault_report import HANDSHAKES, SCALE, Fault
from voice_log import arm, asked_rest, say_out, seen, words

from roost.audio import Credentials, LinkEvents, VoiceLink
from roost.demo.bot_process import run_bot
from roost.hooks import hookimpl
from roost.sim.server import SimulatedDiscord
from roost.testing.leftovers import leak_check
from roost_voice.moves import State, Told
from roost_voice.sim.drivers import Certificate

pytestmark = pytest.mark.sim

NO_ANSWER = "Discord did not answer in time"


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
@pytest.mark.parametrize("exclusive", [True, False], ids=["one deployment", "shared token"])
@pytest.mark.parametrize("late", ["delay_op4_events", "delay_op4"])
async def test_the_events_of_a_join_come_after_it_was_given_up(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, late: str, exclusive: bool
) -> None:
    """The events alone are late; or Discord lets the bot in when it has already asked to leave."""
    async with leak_check(), running(sim, tmp_path, exclusive=exclusive) as rig:
        arm(rig, late, delay_s=10 * SCALE)
        assert NO_ANSWER in words(rig, await rig.join(0))
        await rig.at_rest()
        assert seen(rig, "vsu").count(str(rig.channels[0])) == 0
        await eventually(lambda: str(rig.channels[0]) in seen(rig, "vsu"))
        with fault.clock():
            await eventually(lambda: rig.op4()[2:] == [None])
            await eventually(lambda: rig.place is None and not rig.manager.states())
        assert not list((tmp_path / "instances").glob("*.json"))


@pytest.mark.fault(4)
@pytest.mark.parametrize("answered", [True, False])
async def test_another_deployment_of_the_token_is_left_alone(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, answered: bool
) -> None:
    """It enters a channel right after this one has joined and left there, or asked in vain for another."""
    async with running(sim, tmp_path, exclusive=False) as rig:
        if not answered:
            arm(rig, "drop_op4")
        await rig.join(0 if answered else 1)
        await rig.leave()
        await rig.at_rest()
        asked = rig.op4()
        await leave_ghost(sim, rig.channels[0])
        with fault.clock():
            await rig.sim.voice.member(rig.guild, rig.members[0], rig.guild.channels[rig.channels[0]])
            await eventually(lambda: rig.ctx.bot.cache.get_voice_state(rig.guild_id, rig.members[0]) is not None)
            await rig.at_rest()
        assert rig.place == rig.channels[0]
        assert rig.op4()[len(asked) :] == [str(rig.channels[0])], "only the other's own request is to be seen"


@pytest.mark.fault(250)
@pytest.mark.parametrize("place", [0, 1], ids=["same channel", "other channel"])
async def test_foreign_software_takes_the_place_and_keeps_it(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, place: int
) -> None:
    async with running(sim, tmp_path, exclusive=False) as rig:
        await rig.join(0)
        asked = len(rig.op4())
        with fault.clock():
            await leave_ghost(sim, rig.channels[place])
            reason, _stats = await rig.recorder.until("closed")
            await rig.at_rest()
        assert "took my place" in reason
        refused = await rig.join(0)
        assert refused.told is Told.REFUSED
        assert "other software" in words(rig, refused)
        assert (await rig.leave()).told is Told.NOT_IN_VOICE
        assert rig.op4()[asked:] == [str(rig.channels[place])], "only the other's own request is to be seen"
        assert rig.place == rig.channels[place]
        rig.sim.voice.remove(rig.guild, rig.bot_id)
        await eventually(lambda: rig.ctx.bot.cache.get_voice_state(rig.guild_id, rig.bot_id) is None)
        assert (await rig.join(0)).told is Told.JOINED


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


@pytest.mark.fault(7)
@pytest.mark.parametrize("moment", ["before the state", "before the server", "while connecting", "in voice"])
async def test_an_old_voice_state_says_that_the_bot_is_out(rig: Rig, fault: Fault, moment: str) -> None:
    if moment == "before the state":
        arm(rig, "stale_vsu_null_first")
    elif moment == "before the server":
        arm(rig, "withhold_vsrvu")
    elif moment == "while connecting":
        arm(rig, "drop_discovery", n=2)
    with fault.clock():
        joining = asyncio.ensure_future(rig.join(0))
        if moment == "before the server":
            await eventually(lambda: rig.place is not None)
            say_out(rig, "a session of yesterday")
            rig.sim.voice.new_server(rig.guild, rig.bot_id)
        elif moment == "while connecting":
            await eventually(lambda: bool(rig.sim.state()["voice_sessions"]))
            assert rig.manager.state(rig.guild_id) is State.CONNECTING
            say_out(rig, "a session of yesterday")
        assert (await joining).told is Told.JOINED
    if moment == "in voice":
        say_out(rig, "a session of yesterday")
        await rig.sim.voice.member(rig.guild, rig.members[0], rig.guild.channels[rig.channels[0]])
        await rig.recorder.until("member_joined")
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert "interrupted" not in rig.recorder.names
    assert rig.op4() == [str(rig.channels[0])]


@pytest.mark.fault(7)
async def test_the_answer_to_an_earlier_leave_comes_during_the_next_join(rig: Rig, fault: Fault) -> None:
    """It carries the very session id of the join that is under way."""
    await rig.join(0)
    session_id = rig.guild.voice_states[rig.bot_id].session_id
    arm(rig, "withhold_leave_vsu")
    assert (await rig.leave()).told is Told.LEFT
    arm(rig, "delay_op4", delay_s=2 * SCALE)
    with fault.clock(2):
        joining = asyncio.ensure_future(rig.join(0))
        await eventually(lambda: len(rig.op4()) == 3)
        say_out(rig, session_id)
        assert (await joining).told is Told.JOINED
    assert rig.guild.voice_states[rig.bot_id].session_id == session_id
    assert rig.op4() == [str(rig.channels[0]), None, str(rig.channels[0])]


class BrokenDriver(Recorder):
    """Provides a voice driver that raises what no driver may."""

    name = "broken"

    @hookimpl
    async def voice_driver(self, name: str) -> BrokenDriver:
        return self

    @contextlib.asynccontextmanager
    async def open(self, cred: Credentials, events: LinkEvents) -> AsyncIterator[VoiceLink]:
        raise RuntimeError("out of order")
        yield


@contextlib.asynccontextmanager
async def server_of_another_authority() -> AsyncIterator[str]:
    certificate = Certificate()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.server)
    async with server:
        yield f"localhost:{server.sockets[0].getsockname()[1]}"
    certificate.remove()


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("certificate", "certificate could not be verified"),
        ("nobody listens", "could not be reached"),
        ("no such host", "could not be reached"),
        ("foreign host", "not among the allowed hosts"),
        ("no address", "address cannot be read"),
        ("no mode", "no encryption mode that we know"),
        ("driver raises", "the voice driver failed (RuntimeError)"),
    ],
)
async def test_the_voice_server_cannot_be_used(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, cause: str, told: str
) -> None:
    endpoints = {
        "nobody listens": "localhost:1",
        "no such host": "nowhere.invalid:443",
        "foreign host": "voice.example.org:443",
        "no address": "wss://localhost/",
    }
    settings: dict[str, Any] = {"allowed_hosts": ("localhost", "*.invalid")}
    async with leak_check(), contextlib.AsyncExitStack() as stack:
        if cause == "driver raises":
            settings |= {"driver": "broken", "recorder": BrokenDriver()}
        rig = await stack.enter_async_context(running(sim, tmp_path, **settings))
        if cause == "certificate":
            endpoints[cause] = await stack.enter_async_context(server_of_another_authority())
        if cause in endpoints:
            arm(rig, "other_endpoint", endpoint=endpoints[cause])
        elif cause == "no mode":
            arm(rig, "no_common_mode", times=HANDSHAKES)
        with fault.clock():
            result = await rig.join(0)
            await rig.at_rest()
        assert result.told is Told.FAILED
        assert told in words(rig, result)
        assert rig.place is None
        assert rig.op4() == [str(rig.channels[0]), None]
        assert not list((tmp_path / "instances").glob("*.json"))


@pytest.mark.fault(3)
@pytest.mark.parametrize("required", [True, False])
async def test_without_the_intent_voice_is_not_loaded(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, required: bool
) -> None:
    """The whole bot, as the operator starts it; it runs without voice only where voice is not required."""
    settings = {
        "discord.rest_url": sim.rest_url,
        "discord.intents": '["GUILDS"]',
        "log.format": "json",
        "plugins.deny": "stt",
        "plugins.required": "" if not required else "voice",
    }
    arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
    environ["ROOST_TOKEN"] = sim.world.bots[0].token
    async with run_bot([*arguments, "--data-dir", str(tmp_path / "data")], environ) as bot:
        failed = await bot.wait_for(lambda event: event.get("state") == "failed", 10, "the plugin's failure")
        loading = await bot.wait_for(lambda event: event.get("state") == "loading", 0.1, "the plugin's load")
        if required:
            assert await bot.wait(10) != 0
        else:
            await bot.ready(10)
            bot.terminate()
            assert await bot.wait(10) == 0
    assert failed["plugin"] == "voice"
    assert "the intent GUILD_VOICE_STATES is missing; add it to discord.intents" in failed["message"]
    assert ("the intent GUILD_VOICE_STATES is missing" in bot.tail[-1]) is required
    commands = [name for each in sim.entries if each["kind"] == "commands" for name in each["names"]]
    assert "voice" not in commands
    assert bool(commands) is not required
    fault.note(failed["t"] - loading["t"], scaled=False)
