"""What needs no socket: rate limits, faults, permissions, the checks of commands and messages."""

from __future__ import annotations

from typing import Any

import hikari
import pytest

from roost.sim.damage import without
from roost.sim.faults import CORE_FAULTS, FaultTable, UnknownFault
from roost.sim.ratelimit import Bucket, RateLimiter, bucket_of
from roost.sim.validate import command_fault, command_list_fault, message_fault
from roost.sim.world import VOICE, SimSettings, World

pytestmark = pytest.mark.unit


def named(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": "d", "type": 3} | fields


def button(custom_id: str | None, **fields: Any) -> dict[str, Any]:
    return {"type": 2, "style": 1, "label": "x", "custom_id": custom_id} | fields


class TestRateLimiter:
    def test_a_window_opens_again(self) -> None:
        limits = RateLimiter()
        assert [limits.take("b", 2, 5.0, now).allowed for now in (0.0, 1.0, 2.0, 4.9)] == [True, True, False, False]
        assert limits.take("b", 2, 5.0, 4.0).reset_after_s == pytest.approx(1.0)
        assert limits.take("b", 2, 5.0, 5.0).allowed

    def test_buckets_are_apart_and_bounded(self) -> None:
        limits = RateLimiter()
        assert all(limits.take(f"b{n}", 1, 5.0, 0.0).allowed for n in range(10_500))
        assert not limits.take("b10499", 1, 5.0, 1.0).allowed
        assert len(limits._windows) <= 10_000

    def test_messages_share_the_bucket_of_their_channel(self) -> None:
        assert bucket_of("POST", "/channels/1/messages") == Bucket("POST:messages", "1", 5, 5.0)
        assert bucket_of("POST", "/channels/2/messages").major == "2"
        assert bucket_of("PATCH", "/channels/1/messages/5") == bucket_of("PATCH", "/channels/1/messages/6")
        assert bucket_of("GET", "/guilds/1/members/5") == bucket_of("GET", "/guilds/1/members/6")

    def test_the_header_names_the_route_and_the_count_is_of_its_major_parameter(self) -> None:
        one, two = (bucket_of("PATCH", f"/webhooks/9/{token}/messages/@original") for token in ("a", "b"))
        assert one.name == two.name
        assert (one.major, two.major) == ("9:a", "9:b")
        guild, other = (bucket_of("GET", f"/guilds/{guild}/voice-states/@me") for guild in (1, 2))
        assert guild.name == other.name
        assert guild.major != other.major


class TestFaultTable:
    def table(self) -> FaultTable:
        return FaultTable(CORE_FAULTS, {"mute_hello": "says nothing"})

    def test_guild_and_times(self) -> None:
        table = self.table()
        table.arm("drop_op4", 7, {"a": 1}, 2)
        assert table.take("drop_op4", 8) is None
        assert table.take("drop_op4") is None
        assert table.take("drop_op4", 7) == {"a": 1}
        assert table.take("drop_op4", 7) == {"a": 1}
        assert table.take("drop_op4", 7) is None

    def test_without_a_guild_it_concerns_all(self) -> None:
        table = self.table()
        table.arm("mute_hello", None, {}, 1)
        assert table.take("mute_hello", 8) == {}

    def test_the_unknown_are_refused_with_the_known(self) -> None:
        with pytest.raises(UnknownFault, match=r"'x'; there is: .*drop_op4.*mute_hello"):
            self.table().arm("x", None, {}, 1)

    def test_rest_errors_match_method_and_path(self) -> None:
        table = self.table()
        table.arm("rest_error", None, {"method": "POST", "path_prefix": "/channels", "status": 502}, 1)
        assert table.take_rest("GET", "/channels/1") is None
        assert table.take_rest("POST", "/guilds/1") is None
        fault = table.take_rest("POST", "/channels/1")
        assert fault is not None
        assert fault["status"] == 502
        assert table.take_rest("POST", "/channels/1") is None


class TestWorld:
    def test_ids_are_the_same_in_every_run(self) -> None:
        one, two = World(SimSettings()), World(SimSettings())
        assert list(one.guilds) == list(two.guilds)
        assert [bot.token for bot in one.bots] == [bot.token for bot in two.bots]

    def test_it_can_be_large(self) -> None:
        world = World(SimSettings(guilds=50, members=30, voice_channels=8))
        assert len(world.guilds) == 50
        guild = list(world.guilds.values())[-1]
        assert len(guild.members) == 36
        assert len(guild.of_type(VOICE)) == 8
        assert len({channel for each in world.guilds.values() for channel in each.channels}) == 50 * 10

    def test_permissions(self) -> None:
        world = World(SimSettings())
        guild = next(iter(world.guilds.values()))
        channel = guild.of_type(VOICE)[0]
        connect, administrator = int(hikari.Permissions.CONNECT), int(hikari.Permissions.ADMINISTRATOR)
        mod, ada = (user.id for user in world.humans[:2])
        channel.overwrites[ada] = (0, connect)
        assert not guild.permissions(ada, channel) & connect
        assert guild.permissions(ada) & connect
        assert guild.permissions(5) == 0
        assert guild.permissions(mod) & administrator
        guild.members[ada].permissions |= administrator
        assert guild.permissions(ada, channel) & connect

    def test_ghosts_are_honoured_or_ignored(self) -> None:
        with pytest.raises(ValueError, match="ghost_null"):
            SimSettings(ghost_null="perhaps")


class TestCommands:
    @pytest.mark.parametrize(
        ("command", "why"),
        [
            ({"name": "Ping", "description": "d"}, "'Ping'"),
            ({"name": "two words", "description": "d"}, "'two words'"),
            ({"name": "x" * 33, "description": "d"}, "does not match"),
            ({"description": "d"}, "None"),
            ({"name": "ping", "description": ""}, "between 1 and 100"),
            ({"name": "ping", "description": "d" * 101}, "between 1 and 100"),
            ({"name": "ping", "description": "d", "options": [named("Opt")]}, "'Opt'"),
            ({"name": "ping", "description": "d", "options": [named(f"o{n}") for n in range(26)]}, "25 options"),
            ({"name": "ping", "description": "d", "options": [named("a"), named("b", required=True)]}, "before"),
            ({"name": "ping", "description": "d", "options": [named("a"), named("a")]}, "twice"),
            ({"name": "ping", "description": "d", "options": [named("a", choices=[{}] * 26)]}, "25 choices"),
            ({"name": "ping", "description": "d", "options": [named("s", type=1, options=[named("X")])]}, "'X'"),
        ],
    )
    def test_what_is_refused(self, command: dict[str, Any], why: str) -> None:
        fault = command_fault(command)
        assert fault is not None
        assert why in fault

    def test_what_is_fine(self) -> None:
        options = [named("a", required=True), named("b")]
        assert command_fault({"name": "ping", "description": "d", "options": options}) is None
        assert command_fault({"name": "Say again", "type": 3}) is None

    def test_lists(self) -> None:
        ping = {"name": "ping", "description": "d"}
        assert command_list_fault([ping, ping | {"name": "pong"}]) is None
        assert "unique" in str(command_list_fault([ping, ping]))
        assert "100 commands" in str(command_list_fault([ping] * 101))


class TestMessages:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, 50006),
            ({"content": ""}, 50006),
            ({"content": "x" * 2001}, 50035),
            ({"embeds": [{}] * 11}, 50035),
            ({"components": [{"type": 1, "components": [button("a"), button("a")]}]}, 50035),
            ({"components": [{"type": 1, "components": [button("a" * 101)]}]}, 50035),
            ({"components": [{"type": 1, "components": [button(None)]}]}, 50035),
            ({"components": [{"type": 1, "components": [button("a", label="l" * 81)]}]}, 50035),
            ({"components": [{"type": 1, "components": []}] * 6}, 50035),
        ],
    )
    def test_what_is_refused(self, body: dict[str, Any], code: int) -> None:
        fault = message_fault(body)
        assert fault is not None
        assert fault[0] == code

    def test_what_is_fine(self) -> None:
        assert message_fault({"content": "x" * 2000}) is None
        assert message_fault({}, files=1) is None
        assert message_fault({}, empty_allowed=True) is None
        link = {"type": 2, "style": 5, "label": "x", "url": "http://localhost"}
        assert message_fault({"components": [{"type": 1, "components": [button("a"), button("b"), link]}]}) is None


def test_fields_that_a_payload_lacks_cannot_be_taken_from_it() -> None:
    payload = {"user": {"id": "1"}, "guilds": [{"id": "2"}]}
    absent = ["nothing", "user.name", "user.id.more", "guilds.1.id", "guilds.x", "guilds.0.name"]
    assert without(payload, absent, {}) == payload
    assert without(payload, ["guilds.0.id", "user.id"], {"v": 10}) == {"user": {}, "guilds": [{}], "v": 10}
