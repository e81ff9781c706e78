"""The simulated gateway, seen by a client that does only what a test tells it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import hikari
import pytest

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("compress", [False, True])
async def test_identify_brings_ready_and_guilds(bench: Any, compress: bool) -> None:
    gateway = await (await bench.gateway().connect(compress=compress)).identify()
    ready = await gateway.event("READY")
    assert ready["user"]["id"] == str(bench.bot_id)
    assert ready["resume_gateway_url"] == bench.sim.gateway_url
    guilds = [await gateway.event("GUILD_CREATE") for _ in ready["guilds"]]
    assert [guild["name"] for guild in guilds] == ["Roost Nest", "Nest 2"]
    assert not any(guild["unavailable"] for guild in guilds)
    kinds = [channel["type"] for channel in guilds[0]["channels"]]
    assert kinds.count(2) >= 3
    assert kinds.count(0) >= 2


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"op": 2, "d": {"token": "wrong", "intents": 1}}, 4004),
        ({"op": 2, "d": {"token": None, "intents": 1}}, 4004),
        ({"op": 2, "d": {"token": "BOT", "intents": 1 << 1}}, 4014),
        ({"op": 2, "d": {"token": "BOT", "intents": 1, "shard": [2, 2]}}, 4010),
        ({"op": 2, "d": {"token": "BOT", "intents": "many"}}, 4002),
        ({"op": 2, "d": None}, 4002),
        ({"op": 4, "d": {"guild_id": "1"}}, 4003),
        ({"op": "x"}, 4002),
        (["op"], 4002),
        ({"op": 1, "d": "x" * 5000}, 4002),
    ],
)
async def test_what_is_refused(bench: Any, sent: Any, code: int) -> None:
    gateway = await bench.gateway().connect()
    await gateway.socket.send_str(json.dumps(sent).replace("BOT", bench.bot.token))
    assert await gateway.close_code() == code


@pytest.mark.parametrize(("op", "data", "code"), [(2, "again", 4005), (99, None, 4001), (4, {"guild_id": "x"}, 4002)])
async def test_what_is_refused_after_identify(bench: Any, op: int, data: Any, code: int) -> None:
    gateway = await bench.ready()
    await gateway.send(op, {"token": bench.bot.token, "intents": 1} if data == "again" else data)
    assert await gateway.close_code() == code


async def test_nonsense_is_no_json(bench: Any) -> None:
    gateway = await bench.gateway().connect()
    await gateway.socket.send_str("{nonsense")
    assert await gateway.close_code() == 4002


async def test_120_commands_in_a_minute_are_enough(bench: Any) -> None:
    gateway = await bench.gateway().connect()
    for _ in range(120):
        await gateway.send(1, None)
    for _ in range(120):
        assert (await gateway.receive())["op"] == 11
    await gateway.send(1, None)
    assert await gateway.close_code() == 4008


async def test_identifies_are_counted(open_bench: Any) -> None:
    bench = await open_bench(identifies_per_day=1)
    limit = (await bench.rest("GET", "/gateway/bot"))[1]["session_start_limit"]
    assert (limit["total"], limit["remaining"]) == (1, 1)
    await bench.ready()
    limit = (await bench.rest("GET", "/gateway/bot"))[1]["session_start_limit"]
    assert (limit["total"], limit["remaining"]) == (1, 0)
    second = await (await bench.gateway().connect()).identify()
    assert await second.receive() == {"op": 9, "d": False}


async def test_the_other_bot_has_its_own_identity(bench: Any) -> None:
    gateway = await (await bench.gateway(1).connect()).identify()
    assert (await gateway.event("READY"))["user"]["id"] == str(bench.sim.world.bots[1].user.id)


async def test_intents_decide_what_is_sent(bench: Any) -> None:
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    without = await (await bench.gateway().connect()).identify(int(hikari.Intents.GUILDS))
    guild = await without.event("GUILD_CREATE")
    assert guild["voice_states"] == []
    with_voice = await (await bench.gateway().connect()).identify()
    guild = await with_voice.event("GUILD_CREATE")
    assert [state["user_id"] for state in guild["voice_states"]] == [str(bench.ada)]
    await without.settled()
    await with_voice.settled()
    await bench.control.voice(member_id=bench.ben, channel_id=bench.voice[0])
    assert await with_voice.names() == ["VOICE_STATE_UPDATE"]
    assert await without.names() == []


async def test_without_presences_a_guild_shows_itself_and_who_is_in_voice(bench: Any) -> None:
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    gateway = await (await bench.gateway().connect()).identify()
    guild = await gateway.event("GUILD_CREATE")
    assert {member["user"]["id"] for member in guild["members"]} == {str(bench.bot_id), str(bench.ada)}
    assert guild["member_count"] == len(bench.guild.members)


async def test_privileged_intents_that_are_allowed(open_bench: Any) -> None:
    privileged = int(hikari.Intents.GUILD_MEMBERS | hikari.Intents.MESSAGE_CONTENT | hikari.Intents.GUILD_MESSAGES)
    bench = await open_bench(intents_allowed=privileged)
    sees, blind = await bench.ready(intents=privileged), await bench.ready(bot=1)
    await bench.control.say("a secret", member_id=bench.ada, channel_id=bench.text)
    assert (await sees.event("MESSAGE_CREATE"))["content"] == "a secret"
    assert (await blind.event("MESSAGE_CREATE"))["content"] == ""
    await bench.control.add_member("Dora")
    assert (await sees.event("GUILD_MEMBER_ADD"))["user"]["global_name"] == "Dora"
    assert await blind.names() == []


async def test_members_are_sent_on_request(bench: Any) -> None:
    gateway = await bench.ready()
    await gateway.send(8, {"guild_id": str(bench.guild.id), "user_ids": [str(bench.ada), "5"], "nonce": "n"})
    chunk = await gateway.event("GUILD_MEMBERS_CHUNK")
    assert [member["user"]["global_name"] for member in chunk["members"]] == ["Ada"]
    assert (chunk["not_found"], chunk["nonce"]) == (["5"], "n")
    await gateway.send(8, {"guild_id": str(bench.guild.id), "query": "b", "limit": 10})
    assert [each["user"]["global_name"] for each in (await gateway.event("GUILD_MEMBERS_CHUNK"))["members"]] == ["Ben"]


async def test_shards_get_their_guilds(open_bench: Any) -> None:
    bench = await open_bench(guilds=20, shards=2)
    assert (await bench.rest("GET", "/gateway/bot"))[1]["shards"] == 2
    seen = []
    for shard in range(2):
        gateway = await (await bench.gateway().connect()).identify(shard=[shard, 2])
        seen.append({int(guild["id"]) for guild in (await gateway.event("READY"))["guilds"]})
        assert all((guild >> 22) % 2 == shard for guild in seen[-1])
    assert seen[0] | seen[1] == set(bench.sim.world.guilds)
    assert not seen[0] & seen[1]


async def test_resume_replays_what_was_missed(bench: Any) -> None:
    gateway = await bench.ready()
    gateway.kill()
    await bench.until(lambda: not bench.sim.gateway.connections)
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    await bench.control.voice(member_id=bench.ada, channel_id=None)
    again = await bench.gateway().connect(compress=True)
    await again.resume(gateway.session_id, gateway.sequence)
    events = []
    while (payload := await again.receive())["t"] != "RESUMED":
        events.append((payload["t"], payload["d"]["channel_id"]))
    assert events == [("VOICE_STATE_UPDATE", str(bench.voice[0])), ("VOICE_STATE_UPDATE", None)]
    assert len(bench.sim.gateway.sessions) == 1


async def test_resume_of_what_is_not_there(bench: Any) -> None:
    gateway = await bench.ready()
    thief = await bench.gateway(1).connect()
    await thief.resume(gateway.session_id, 0)
    assert await thief.receive() == {"op": 9, "d": False}
    lost = await bench.gateway().connect()
    await lost.resume("0" * 32, 0)
    assert await lost.receive() == {"op": 9, "d": False}
    future = await bench.gateway().connect()
    await future.resume(gateway.session_id, 10_000)
    assert await future.receive() == {"op": 9, "d": False}


async def test_a_second_connection_takes_the_session_over(bench: Any) -> None:
    first = await bench.ready()
    second = await bench.gateway().connect()
    await second.resume(first.session_id, first.sequence)
    await second.event("RESUMED")
    assert await first.close_code() == 1006
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    assert await second.names() == ["VOICE_STATE_UPDATE"]


@pytest.mark.parametrize(("code", "kept"), [(1000, False), (1001, False), (4000, True)])
async def test_how_a_client_closes_decides_on_its_session(bench: Any, code: int, kept: bool) -> None:
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, bench.voice[0])
    await gateway.event("VOICE_SERVER_UPDATE")
    await gateway.socket.close(code=code)
    await bench.until(lambda: not bench.sim.gateway.connections)
    assert bool(bench.sim.gateway.sessions) is kept
    assert (bench.channel_of_bot() is not None) is kept
    assert bench.logged("gateway_close")[-1]["code"] == code
    assert bench.logged("gateway_close")[-1]["by"] == "client"


async def test_who_sends_no_heartbeat_is_cut_off_and_can_resume(open_bench: Any) -> None:
    bench = await open_bench(heartbeat_ms=100)
    gateway = await bench.ready()
    assert await gateway.close_code() == 1006
    assert bench.logged("gateway_silent")
    again = await bench.gateway().connect()
    await again.resume(gateway.session_id, gateway.sequence)
    await again.event("RESUMED")


async def test_drop_and_abort_leave_it_resumable(bench: Any) -> None:
    gateway = await bench.ready()
    dropped = await asyncio.gather(bench.control.gateway("drop", code=4007), gateway.close_code())
    assert dropped == [{"closed": 1}, 4007]
    for action in ("drop", "abort"):
        again = await bench.gateway().connect()
        await again.resume(gateway.session_id, gateway.sequence)
        await again.event("RESUMED")
        dropped = await asyncio.gather(bench.control.gateway(action), again.close_code())
        assert dropped == [{"closed": 1}, 4000 if action == "drop" else 1006]
        gateway.sequence = again.sequence


async def test_after_op_9_it_can_identify_on_the_same_connection(bench: Any) -> None:
    gateway = await bench.ready()
    assert await bench.control.gateway("invalidate") == {"invalidated": 1}
    assert (await gateway.receive()) == {"op": 9, "d": False}
    await gateway.ready()
    assert len(bench.sim.gateway.sessions) == 1


async def test_leaving_and_entering_a_guild(bench: Any) -> None:
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, bench.voice[0])
    await gateway.event("VOICE_SERVER_UPDATE")
    await bench.control.gateway("guild_delete", guild_id=str(bench.guild.id))
    assert await gateway.settled() == [("GUILD_DELETE", {"id": str(bench.guild.id)})]
    assert (await bench.rest("GET", f"/guilds/{bench.guild.id}"))[0] == 404
    assert bench.channel_of_bot() is None
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    assert await gateway.names() == []
    await bench.control.gateway("guild_create", guild_id=str(bench.guild.id))
    assert (await gateway.event("GUILD_CREATE"))["id"] == str(bench.guild.id)


async def test_an_outage_keeps_the_voice_state(bench: Any) -> None:
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, bench.voice[0])
    await gateway.event("VOICE_SERVER_UPDATE")
    await bench.control.gateway("guild_delete", guild_id=str(bench.guild.id), unavailable=True)
    assert await gateway.settled() == [("GUILD_DELETE", {"id": str(bench.guild.id), "unavailable": True})]
    assert bench.channel_of_bot() == bench.voice[0]


class TestFaults:
    async def test_deny_identify(self, bench: Any) -> None:
        await bench.control.fault("deny_identify")
        gateway = await (await bench.gateway().connect()).identify()
        assert await gateway.receive() == {"op": 9, "d": False}
        await gateway.ready()

    async def test_swallow_resume(self, bench: Any) -> None:
        gateway = await bench.ready()
        gateway.kill()
        await bench.control.fault("swallow_resume")
        again = await bench.gateway().connect()
        await again.resume(gateway.session_id, gateway.sequence)
        assert await again.receive() == {"op": 9, "d": False}

    async def test_gateway_drop_strikes_at_once(self, bench: Any) -> None:
        gateway, other = await bench.ready(), await bench.ready(bot=1)
        await bench.control.fault("gateway_drop", code=4009)
        assert await gateway.close_code() == 4009
        assert await other.names() == []
        assert (await bench.control.faults())["armed"] == []

    async def test_gateway_drop_strikes_each_connection_that_comes(self, bench: Any) -> None:
        await bench.control.fault("gateway_drop", times=2)
        gateway = await (await bench.gateway().connect()).ready()
        assert await gateway.close_code() == 4000
        again = await bench.gateway().connect()
        await again.resume(gateway.session_id, gateway.sequence)
        assert await again.close_code() == 4000
        third = await bench.gateway().connect()
        await third.resume(gateway.session_id, gateway.sequence)
        await third.event("RESUMED")

    async def test_gateway_abort_and_invalid_session(self, bench: Any) -> None:
        gateway = await bench.ready()
        await bench.control.fault("invalid_session")
        assert await gateway.receive() == {"op": 9, "d": False}
        assert not bench.sim.gateway.sessions
        other = await bench.ready(bot=1)
        await bench.control.fault("gateway_abort", bot=1)
        assert await other.close_code() == 1006
        assert len(bench.sim.gateway.sessions) == 1

    async def test_mute_gateway(self, bench: Any) -> None:
        gateway = await bench.ready()
        await bench.control.fault("mute_gateway")
        await gateway.send(1, None)
        await gateway.send(1, None)
        assert (await gateway.receive())["op"] == 11
        await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
        assert (await gateway.receive())["t"] == "VOICE_STATE_UPDATE"
