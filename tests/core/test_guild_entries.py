"""One bad entry of a guild costs that entry alone."""

from __future__ import annotations

import asyncio
import copy
import logging
import types
from typing import Any, cast

import hikari
import pytest

from roost.guild_entries import read_entries_one_by_one
from roost.sim.world import STRANGER, Channel, Guild, SimSettings, VoiceState, World

pytestmark = pytest.mark.unit

TOKEN = World(SimSettings(guilds=1)).bots[0].token
LISTS = ("channels", "roles", "emojis", "stickers", "members", "presences", "threads", "voice_states")


@pytest.fixture
def bot() -> hikari.GatewayBot:
    made = hikari.GatewayBot(TOKEN, banner=None, logs=None, suppress_optimization_warning=True)
    read_entries_one_by_one(made)
    return made


@pytest.fixture
def guild() -> Guild:
    return next(iter(World(SimSettings(guilds=1)).guilds.values()))


def payload_of(guild: Guild) -> dict[str, Any]:
    bot_id = next(user_id for user_id, member in guild.members.items() if member.user.bot)
    return copy.deepcopy(guild.gateway_payload(bot_id, all_members=True, voice=True))


def read(bot: hikari.GatewayBot, payload: dict[str, Any]) -> dict[str, Any]:
    definition = bot.entity_factory.deserialize_gateway_guild(payload, user_id=hikari.Snowflake(1))
    return {name: getattr(definition, name)() for name in LISTS} | {"guild": definition.guild()}


def test_a_guild_without_bad_entries_is_read_as_hikari_reads_it(bot: hikari.GatewayBot, guild: Guild) -> None:
    plain = hikari.GatewayBot(TOKEN, banner=None, logs=None, suppress_optimization_warning=True)
    payload = payload_of(guild)
    mine, theirs = read(bot, payload), read(plain, payload)
    assert {name: set(mine[name]) for name in LISTS} == {name: set(theirs[name]) for name in LISTS}
    assert len(mine["channels"]) > 3
    assert mine["guild"].name == guild.name


def test_bad_entries_are_left_out_and_told_once(
    bot: hikari.GatewayBot, guild: Guild, caplog: pytest.LogCaptureFixture
) -> None:
    clean, payload = read(bot, payload_of(guild)), payload_of(guild)
    guild.spoil(payload, STRANGER)
    with caplog.at_level(logging.WARNING, "roost.gateway"):
        spoiled = read(bot, payload)
    for name in LISTS:
        known = set(spoiled[name]) - {STRANGER}
        assert known == set(clean[name]), name
    assert len(caplog.records) == len(LISTS)
    assert "left out what cannot be read: 2 of its" in caplog.text


def test_somebody_in_voice_who_is_no_member_is_in_voice(bot: hikari.GatewayBot, guild: Guild) -> None:
    payload = payload_of(guild)
    guild.spoil(payload, STRANGER)
    state = read(bot, payload)["voice_states"][STRANGER]
    assert state.member is None
    assert state.channel_id in guild.channels


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("value", ["absent", None, 5, {}])
def test_a_list_that_is_none_is_empty(bot: hikari.GatewayBot, guild: Guild, name: str, value: object) -> None:
    payload = payload_of(guild)
    if value == "absent":
        del payload[name]
    else:
        payload[name] = value
    assert dict(read(bot, payload)[name]) == {}


def test_a_voice_state_whose_member_is_bad_is_one_without(bot: hikari.GatewayBot, guild: Guild) -> None:
    payload = payload_of(guild)
    guild.spoil(payload, STRANGER)
    state = payload["voice_states"][-1] | {"guild_id": str(guild.id), "member": {"user": {"id": "x"}}}
    assert bot.entity_factory.deserialize_voice_state(state).member is None
    with pytest.raises(KeyError):
        bot.entity_factory.deserialize_voice_state({"guild_id": "1", "user_id": "2", "member": {}})


async def heard(_event: hikari.GuildAvailableEvent) -> None: ...


async def test_what_a_guild_has_no_more_is_forgotten(bot: hikari.GatewayBot, guild: Guild) -> None:
    """hikari keeps what it knew where the list of a guild that it gets anew is empty."""
    user = next(user_id for user_id, member in guild.members.items() if not member.user.bot)
    room = next(number for number, channel in guild.channels.items() if channel.type == hikari.ChannelType.GUILD_VOICE)
    guild.voice_states[user] = VoiceState(guild.id, room, user, "s")
    kind, above = int(hikari.ChannelType.GUILD_PRIVATE_THREAD), next(iter(guild.channels))
    thread = Channel(5, guild.id, "thread", kind, parent_id=above, owner_id=user)
    guild.threads[thread.id] = thread
    bot.subscribe(hikari.GuildAvailableEvent, heard)
    shard = cast("Any", types.SimpleNamespace(id=0, get_user_id=lambda: hikari.Snowflake(1)))
    for known in (True, False):
        bot.event_manager.consume_raw_event("GUILD_CREATE", shard, payload_of(guild))
        await asyncio.sleep(0)
        assert (bot.cache.get_thread(thread.id) is not None) is known
        assert (bot.cache.get_voice_state(guild.id, user) is not None) is known
        guild.voice_states.clear()
        guild.threads.clear()
