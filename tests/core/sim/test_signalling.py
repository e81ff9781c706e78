"""Voice states: who is where, who is told, ghosts, and the count of sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from roost.sim.world import Role

pytestmark = pytest.mark.sim

BOTH = ["VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE"]


async def joined(bench: Any, channel: int = 0, **kwargs: Any) -> Any:
    gateway = await bench.ready(**kwargs)
    await gateway.op4(bench.guild.id, bench.voice[channel])
    assert await gateway.names() == BOTH
    return gateway


async def test_join_move_leave(bench: Any) -> None:
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, bench.voice[0])
    (first, state), (second, server) = await gateway.settled()
    assert [first, second] == BOTH
    assert (state["channel_id"], state["user_id"]) == (str(bench.voice[0]), str(bench.bot_id))
    assert state["member"]["user"]["id"] == str(bench.bot_id)
    assert (server["guild_id"], server["endpoint"]) == (str(bench.guild.id), "localhost:4443")
    assert bench.part.tickets == [(bench.guild.id, bench.voice[0], bench.bot_id, state["session_id"])]
    await gateway.op4(bench.guild.id, bench.voice[1])
    (_, moved), (_, moved_server) = await gateway.settled()
    assert (moved["channel_id"], moved["session_id"]) == (str(bench.voice[1]), state["session_id"])
    assert moved_server["token"] != server["token"]
    assert bench.part.ended == [(bench.guild.id, bench.bot_id, 4014)]
    await gateway.op4(bench.guild.id, None)
    assert [(name, data["channel_id"]) for name, data in await gateway.settled()] == [("VOICE_STATE_UPDATE", None)]
    assert bench.part.ended == [(bench.guild.id, bench.bot_id, 4014)] * 2


async def test_a_voice_state_shows_the_roles_of_its_member(bench: Any) -> None:
    bench.guild.roles[5] = Role(5, "worn", 0)
    bench.guild.members[bench.bot_id].roles.append(5)
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, bench.voice[0])
    assert (await gateway.settled())[0][1]["member"]["roles"] == ["5"]


async def test_everybody_with_the_intent_learns_of_it(bench: Any) -> None:
    other = await bench.ready(bot=1)
    await joined(bench)
    assert await other.names() == ["VOICE_STATE_UPDATE"]


async def test_what_changes_nothing_says_nothing(bench: Any) -> None:
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, None)
    assert await gateway.names() == []
    await gateway.op4(bench.guild.id, bench.voice[0])
    await gateway.settled()
    await gateway.op4(bench.guild.id, bench.voice[0])
    assert await gateway.names() == []
    await gateway.op4(bench.guild.id, bench.voice[0], mute=True)
    assert [(name, data["self_mute"]) for name, data in await gateway.settled()] == [("VOICE_STATE_UPDATE", True)]
    assert len(bench.part.tickets) == 1


async def test_no_permission_no_room_no_channel_no_events(bench: Any) -> None:
    gateway = await bench.ready()
    await bench.control.permissions(member_id=bench.bot_id, channel_id=bench.voice[0], deny=["CONNECT"])
    await bench.control.channel(channel_id=str(bench.voice[1]), user_limit=1)
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[1])
    await gateway.settled()
    for channel in (bench.voice[0], bench.voice[1], bench.text, 5):
        await gateway.op4(bench.guild.id, channel)
    assert await gateway.names() == []
    assert bench.channel_of_bot() is None
    await bench.control.permissions(member_id=bench.bot_id, channel_id=bench.voice[1], allow=["MOVE_MEMBERS"])
    await gateway.settled()
    await gateway.op4(bench.guild.id, bench.voice[1])
    assert await gateway.names() == BOTH


async def test_kick_and_move_by_a_moderator(bench: Any) -> None:
    gateway = await joined(bench)
    await bench.control.move(member_id=bench.bot_id, channel_id=bench.voice[2])
    assert (await gateway.event("VOICE_STATE_UPDATE"))["channel_id"] == str(bench.voice[2])
    await gateway.event("VOICE_SERVER_UPDATE")
    assert [ticket[1] for ticket in bench.part.tickets] == [bench.voice[0], bench.voice[2]]
    await bench.control.kick(member_id=bench.bot_id)
    assert [(name, data["channel_id"]) for name, data in await gateway.settled()] == [("VOICE_STATE_UPDATE", None)]
    assert bench.part.ended == [(bench.guild.id, bench.bot_id, 4014)] * 2


async def test_a_kick_right_after_a_move_brings_no_server(open_bench: Any) -> None:
    bench = await open_bench(move_server_s=0.02)
    gateway = await joined(bench)
    await bench.control.move(member_id=bench.bot_id, channel_id=bench.voice[2])
    await bench.control.kick(member_id=bench.bot_id)
    await asyncio.sleep(0.1)
    assert await gateway.names() == ["VOICE_STATE_UPDATE", "VOICE_STATE_UPDATE"]
    assert len(bench.part.tickets) == 1


async def test_of_two_moves_in_a_row_only_the_last_brings_a_server(open_bench: Any) -> None:
    """An earlier ticket would be void before it could be used."""
    bench = await open_bench(move_server_s=0.02)
    gateway = await joined(bench)
    for channel in (bench.voice[1], bench.voice[2]):
        await bench.control.move(member_id=bench.bot_id, channel_id=channel)
    await asyncio.sleep(0.1)
    assert await gateway.names() == ["VOICE_STATE_UPDATE", *BOTH]
    assert [ticket[1] for ticket in bench.part.tickets] == [bench.voice[0], bench.voice[2]]


async def test_another_server_and_none(bench: Any) -> None:
    gateway = await joined(bench)
    await bench.control.server()
    assert (await gateway.event("VOICE_SERVER_UPDATE"))["endpoint"]
    await bench.control.server(null=True)
    assert (await gateway.event("VOICE_SERVER_UPDATE"))["endpoint"] is None
    assert len(bench.part.tickets) == 2


async def test_a_deleted_channel_ends_voice(bench: Any) -> None:
    gateway = await joined(bench)
    await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    await gateway.settled()
    await bench.control.channel(channel_id=str(bench.voice[0]), delete=True)
    assert await gateway.names() == ["VOICE_STATE_UPDATE", "VOICE_STATE_UPDATE", "CHANNEL_DELETE"]
    assert not bench.guild.voice_states
    assert bench.part.members[-1] == (bench.ada, None)


async def test_members_come_move_and_go(bench: Any) -> None:
    gateway = await bench.ready()
    for channel in (bench.voice[0], bench.voice[0], bench.voice[1], None, None):
        await bench.control.voice(member_id=bench.ada, channel_id=channel)
    told = [data["channel_id"] for _, data in await gateway.settled()]
    assert told == [str(bench.voice[0]), str(bench.voice[1]), None]
    assert bench.part.members == [
        (bench.ada, bench.voice[0]),
        (bench.ada, None),
        (bench.ada, bench.voice[1]),
        (bench.ada, None),
    ]


class TestGhosts:
    async def ghost(self, bench: Any, channel: int = 0) -> None:
        """A bot that was killed in voice."""
        gateway = await joined(bench, channel)
        connection = bench.part.connect(bench.guild.id, bench.bot_id)
        gateway.kill()
        bench.part.disconnect(connection)
        await bench.until(lambda: not bench.sim.gateway.connections)
        assert bench.channel_of_bot() == bench.voice[channel]

    async def test_a_new_session_sees_it(self, bench: Any) -> None:
        await self.ghost(bench)
        gateway = await (await bench.gateway().connect()).identify()
        states = (await gateway.event("GUILD_CREATE"))["voice_states"]
        assert [(state["user_id"], state["channel_id"]) for state in states] == [
            (str(bench.bot_id), str(bench.voice[0]))
        ]

    async def test_null_is_honoured(self, open_bench: Any) -> None:
        bench = await open_bench(ghost_null="honoured")
        await self.ghost(bench)
        gateway = await bench.ready()
        await gateway.op4(bench.guild.id, None)
        assert await gateway.names() == ["VOICE_STATE_UPDATE"]
        assert bench.channel_of_bot() is None

    async def test_null_is_ignored_until_it_is_claimed(self, open_bench: Any) -> None:
        bench = await open_bench(ghost_null="ignored")
        await self.ghost(bench)
        gateway = await bench.ready()
        await gateway.op4(bench.guild.id, None)
        assert await gateway.names() == []
        assert bench.channel_of_bot() == bench.voice[0]
        await gateway.op4(bench.guild.id, bench.voice[0], mute=True)
        assert await gateway.names() == BOTH
        await gateway.op4(bench.guild.id, None)
        assert await gateway.names() == ["VOICE_STATE_UPDATE"]
        assert bench.channel_of_bot() is None

    async def test_null_is_ignored_but_rest_is_not(self, open_bench: Any) -> None:
        bench = await open_bench(ghost_null="ignored")
        await self.ghost(bench)
        await bench.control.permissions(member_id=bench.bot_id, allow=["MOVE_MEMBERS"])
        path = f"/guilds/{bench.guild.id}/members/{bench.bot_id}"
        assert (await bench.rest("PATCH", path, {"channel_id": None}))[0] == 200
        assert bench.channel_of_bot() is None

    async def test_it_ends_with_its_timeout(self, open_bench: Any) -> None:
        bench = await open_bench(ghost_null="ignored", ghost_timeout_s=0.2)
        await self.ghost(bench)
        watcher = await bench.ready(bot=1)
        assert (await watcher.event("VOICE_STATE_UPDATE"))["channel_id"] is None
        assert not [each for each in bench.sim.gateway.sessions.values() if each.bot is bench.bot]

    async def test_a_claim_outlives_the_old_session(self, open_bench: Any) -> None:
        bench = await open_bench(ghost_timeout_s=0.2)
        await self.ghost(bench)
        await joined(bench, 1)
        await bench.until(lambda: len(bench.sim.gateway.sessions) == 1)
        assert bench.logged("gateway_expired")
        assert bench.channel_of_bot() == bench.voice[1]

    async def test_resumed_in_time_it_lives_on(self, open_bench: Any) -> None:
        bench = await open_bench(ghost_timeout_s=0.2)
        gateway = await joined(bench)
        gateway.kill()
        again = await bench.gateway().connect()
        await again.resume(gateway.session_id, gateway.sequence)
        await again.event("RESUMED")
        await asyncio.sleep(0.3)
        assert bench.channel_of_bot() == bench.voice[0]

    async def test_a_second_loss_starts_the_time_again(self, open_bench: Any) -> None:
        bench = await open_bench(ghost_timeout_s=0.4)
        gateway = await joined(bench)
        gateway.kill()
        await bench.until(lambda: not bench.sim.gateway.connections)
        await asyncio.sleep(0.25)
        again = await bench.gateway().connect()
        await again.resume(gateway.session_id, gateway.sequence)
        await again.event("RESUMED")
        again.kill()
        await bench.until(lambda: not bench.sim.gateway.connections)
        await asyncio.sleep(0.25)
        assert bench.channel_of_bot() == bench.voice[0]
        await bench.until_in(None)

    async def test_the_other_session_cannot_end_it_when_ignored(self, open_bench: Any) -> None:
        """Two processes with one token: an op 4 (null) of one is not for the other's call."""
        bench = await open_bench(ghost_null="ignored")
        first, second = await joined(bench), await bench.ready()
        await second.op4(bench.guild.id, None)
        assert await second.names() == []
        await first.op4(bench.guild.id, None)
        assert await first.names() == ["VOICE_STATE_UPDATE"]


class TestCount:
    def tally(self, bench: Any) -> tuple[int, int, int, int]:
        rows = [row for row in bench.sim.state()["sessions"]["per_guild"] if row["user_id"] == str(bench.bot_id)]
        assert len(rows) == 1
        return rows[0]["live"], rows[0]["opened"], rows[0]["closed"], rows[0]["max"]

    async def test_a_state_and_its_connection_are_one_session(self, bench: Any) -> None:
        gateway = await joined(bench)
        assert self.tally(bench) == (1, 1, 0, 1)
        connection = bench.part.connect(bench.guild.id, bench.bot_id)
        assert self.tally(bench) == (1, 1, 0, 1)
        await gateway.op4(bench.guild.id, None)
        await gateway.settled()
        assert self.tally(bench) == (1, 1, 0, 1)
        bench.part.disconnect(connection, 4014)
        assert self.tally(bench) == (0, 1, 1, 1)

    async def test_two_connections_are_two_however_short(self, bench: Any) -> None:
        await joined(bench)
        first = bench.part.connect(bench.guild.id, bench.bot_id)
        second = bench.part.connect(bench.guild.id, bench.bot_id)
        bench.part.disconnect(first)
        assert self.tally(bench) == (1, 2, 1, 2)
        bench.part.disconnect(second)
        assert self.tally(bench) == (1, 2, 1, 2)
        assert (await bench.control.state())["max_sessions_per_guild"] == 2

    async def test_a_ghost_is_one(self, bench: Any) -> None:
        await TestGhosts().ghost(bench)
        assert self.tally(bench) == (1, 1, 0, 1)
        gateway = await bench.ready()
        await gateway.op4(bench.guild.id, None)
        await gateway.settled()
        assert self.tally(bench) == (0, 1, 1, 1)

    async def test_members_and_other_bots_do_not_count(self, bench: Any) -> None:
        await joined(bench)
        await joined(bench, bot=1)
        await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
        state = await bench.control.state()
        assert (state["sessions"]["live"], state["max_sessions_per_guild"]) == (2, 1)
        assert {row["user_id"] for row in state["sessions"]["per_guild"]} == {
            str(bot.user.id) for bot in bench.sim.world.bots
        }


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "events"),
        [
            ("drop_op4", []),
            ("withhold_vsu", ["VOICE_SERVER_UPDATE"]),
            ("withhold_vsrvu", ["VOICE_STATE_UPDATE"]),
            ("swap_order", ["VOICE_SERVER_UPDATE", "VOICE_STATE_UPDATE"]),
            ("stale_vsu_null_first", ["VOICE_STATE_UPDATE", *BOTH]),
        ],
    )
    async def test_of_a_join(self, bench: Any, fault: str, events: list[str]) -> None:
        gateway = await bench.ready()
        await bench.control.fault(fault, guild_id=bench.guild.id)
        await gateway.op4(bench.guild.id, bench.voice[0])
        assert await gateway.names() == events
        assert (bench.channel_of_bot() is None) is (fault == "drop_op4")
        await gateway.op4(bench.guild.id, bench.voice[1])
        assert await gateway.names() == BOTH

    async def test_they_concern_their_guild(self, bench: Any) -> None:
        gateway = await bench.ready()
        other = next(guild for guild in bench.sim.world.guilds if guild != bench.guild.id)
        await bench.control.fault("drop_op4", guild_id=other)
        await gateway.op4(bench.guild.id, bench.voice[0])
        assert await gateway.names() == BOTH

    async def test_a_stale_null_is_of_another_session(self, bench: Any) -> None:
        gateway = await bench.ready()
        await bench.control.fault("stale_vsu_null_first")
        await gateway.op4(bench.guild.id, bench.voice[0])
        stale, true = await gateway.event("VOICE_STATE_UPDATE"), await gateway.event("VOICE_STATE_UPDATE")
        assert (stale["channel_id"], true["channel_id"]) == (None, str(bench.voice[0]))
        assert stale["session_id"] != true["session_id"]

    async def test_no_endpoint_at_first(self, bench: Any) -> None:
        gateway = await bench.ready()
        await bench.control.fault("endpoint_null_first", delay_s=0.05)
        await gateway.op4(bench.guild.id, bench.voice[0])
        endpoints = [(await gateway.event("VOICE_SERVER_UPDATE"))["endpoint"] for _ in range(2)]
        assert endpoints == [None, "localhost:4443"]

    async def test_late_events(self, bench: Any) -> None:
        gateway = await bench.ready()
        await bench.control.fault("delay_op4_events", delay_s=0.2)
        await gateway.op4(bench.guild.id, bench.voice[0])
        assert await gateway.names() == []
        assert bench.channel_of_bot() == bench.voice[0]
        await gateway.event("VOICE_STATE_UPDATE")
        await gateway.event("VOICE_SERVER_UPDATE")

    async def test_an_unacknowledged_leave(self, bench: Any) -> None:
        gateway = await joined(bench)
        await bench.control.fault("withhold_leave_vsu")
        await gateway.op4(bench.guild.id, None)
        assert await gateway.names() == []
        assert (await bench.rest("GET", f"/guilds/{bench.guild.id}/voice-states/@me"))[1]["code"] == 10065
