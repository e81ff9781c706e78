"""The place of an event, and of what it starts."""

from __future__ import annotations

import types
from typing import Any

import hikari
import pytest

from roost.places import guild_in, place_of, place_of_event

pytestmark = pytest.mark.unit

GUILD, PERSON = 5, 77


def raw(**payload: Any) -> hikari.ShardPayloadEvent:
    return named("X", payload)


def named(name: str, payload: Any) -> hikari.ShardPayloadEvent:
    nothing: Any = None
    return hikari.ShardPayloadEvent(app=nothing, shard=nothing, name=name, payload=payload)


def message() -> hikari.DMMessageCreateEvent:
    said: Any = types.SimpleNamespace(author=types.SimpleNamespace(id=hikari.Snowflake(PERSON)), guild_id=None)
    shard: Any = None
    return hikari.DMMessageCreateEvent(message=said, shard=shard)


def pressed(guild_id: int | None) -> hikari.InteractionCreateEvent:
    interaction: Any = types.SimpleNamespace(guild_id=guild_id, user=types.SimpleNamespace(id=hikari.Snowflake(PERSON)))
    shard: Any = None
    return hikari.InteractionCreateEvent(shard=shard, interaction=interaction)


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (raw(guild_id=str(GUILD), author={"id": str(PERSON)}), GUILD),
        (raw(author={"id": str(PERSON)}), -PERSON),
        (raw(user_id=str(PERSON)), -PERSON),
        (raw(), None),
        (named("GUILD_UPDATE", {"id": str(GUILD), "name": "new"}), GUILD),
        (named("GUILD_CREATE", {"id": str(GUILD)}), GUILD),
        (named("GUILD_DELETE", {"id": GUILD, "unavailable": True}), GUILD),
        (named("GUILD_ROLE_UPDATE", {"guild_id": str(GUILD)}), GUILD),
        (named("USER_UPDATE", {"id": str(PERSON)}), None),
        (raw(guild_id="nonsense"), None),
        (raw(author={"id": "nonsense"}), None),
        (named("PRESENCES_REPLACE", []), None),
        (message(), -PERSON),
        (pressed(GUILD), GUILD),
        (pressed(None), -PERSON),
    ],
    ids=[
        "raw in a guild",
        "raw message",
        "raw typing",
        "raw",
        "raw update of a guild",
        "raw guild",
        "raw end of a guild",
        "raw role",
        "raw user",
        "raw nonsense",
        "raw nonsense of a person",
        "raw list",
        "direct message",
        "button",
        "button in messages",
    ],
)
def test_an_event_belongs_to_its_guild_or_to_the_person_it_is_from(event: hikari.Event, place: int | None) -> None:
    assert place_of_event(event) == place


def test_direct_messages_are_no_guild() -> None:
    assert guild_in(place_of(None, PERSON)) is None
    assert guild_in(place_of(GUILD, PERSON)) == GUILD
    assert place_of(None, None) is None
