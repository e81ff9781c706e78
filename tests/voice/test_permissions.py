"""`roost_voice.permissions`: who may bring the bot, or act on people in a room that they cannot see."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any

import hikari
import pytest

from roost_voice.commands import may_move_members
from roost_voice.permissions import why_not_for

pytestmark = pytest.mark.unit

GUILD, ROOM, CARL = 1, 20, 9
P = hikari.Permissions
BOTH = P.VIEW_CHANNEL | P.CONNECT


def carl(*, timed_out: bool = False) -> Any:
    until = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC) if timed_out else None
    return SimpleNamespace(id=CARL, guild_id=GUILD, role_ids=(), communication_disabled_until=lambda: until)


def bot(allowed: hikari.Permissions) -> Any:
    room = object.__new__(hikari.GuildVoiceChannel)
    room.id, room.type, room.permission_overwrites = hikari.Snowflake(ROOM), hikari.ChannelType.GUILD_VOICE, {}
    roles = {GUILD: SimpleNamespace(permissions=allowed)}
    return SimpleNamespace(
        cache=SimpleNamespace(
            get_guild=lambda number: SimpleNamespace(id=GUILD, owner_id=0, get_roles=lambda: roles),
            get_guild_channel=lambda number: room,
            get_voice_state=lambda guild, user: None,
        )
    )


@pytest.mark.parametrize(
    ("allowed", "timed_out", "may"),
    [
        (BOTH | P.MOVE_MEMBERS, False, True),
        (P.CONNECT | P.MOVE_MEMBERS, False, False),
        (P.VIEW_CHANNEL | P.MOVE_MEMBERS, False, False),
        (BOTH | P.MOVE_MEMBERS, True, False),
        (BOTH, False, False),
        (P.ADMINISTRATOR, True, True),
    ],
)
def test_a_room_is_for_those_who_can_be_in_it(allowed: hikari.Permissions, timed_out: bool, may: bool) -> None:
    member = carl(timed_out=timed_out)
    assert (why_not_for(bot(allowed), member, ROOM) is None) is may
    assert may_move_members(bot(allowed), member, ROOM) is may
