"""Who may have to do with a transcript: in the room, and where it was shown."""

from __future__ import annotations

import types
from typing import Any

import hikari
import pytest

from roost_stt.exports import Head
from roost_stt.transcript_commands import Asker, may_read

pytestmark = pytest.mark.unit

GUILD, ROOM, TEXT, THREAD, CARL, ADA = 1, 20, 30, 40, 9, 7
P = hikari.Permissions
NONE = P.NONE
READS = P.VIEW_CHANNEL | P.READ_MESSAGE_HISTORY
HEAD = Head("abc234", GUILD, ROOM, TEXT, 0.0, 1.0, ADA)


def carl(permissions: hikari.Permissions) -> Any:
    """Somebody, with the permissions that Discord sends with a command."""
    member = object.__new__(hikari.InteractionMember)
    for name, value in {
        "user": types.SimpleNamespace(id=CARL),
        "guild_id": GUILD,
        "role_ids": (),
        "raw_communication_disabled_until": None,
        "permissions": permissions,
    }.items():
        setattr(member, name, value)
    return member


def bot(
    room: hikari.Permissions | None, text: hikari.Permissions, *, private: bool = False, inside: bool = False
) -> Any:
    """A bot whose cache shows the room, unless it is gone, and the text channel; each with what Carl may do there."""

    def channel(number: int, kind: hikari.ChannelType, allow: hikari.Permissions) -> Any:
        own = hikari.PermissionOverwrite(
            id=hikari.Snowflake(CARL), type=hikari.PermissionOverwriteType.MEMBER, allow=allow, deny=P.all_permissions()
        )
        return types.SimpleNamespace(id=number, type=kind, permission_overwrites={own.id: own})

    channels = {TEXT: channel(TEXT, hikari.ChannelType.GUILD_TEXT, text)}
    if room is not None:
        channels[ROOM] = channel(ROOM, hikari.ChannelType.GUILD_VOICE, room)
    kind = hikari.ChannelType.GUILD_PRIVATE_THREAD if private else hikari.ChannelType.GUILD_PUBLIC_THREAD
    guild = types.SimpleNamespace(id=GUILD, owner_id=0, get_roles=dict)
    cache = types.SimpleNamespace(
        get_guild=lambda number: guild,
        get_guild_channel=channels.get,
        get_thread={THREAD: types.SimpleNamespace(id=THREAD, parent_id=TEXT, type=kind)}.get,
        get_voice_state=lambda number, user: types.SimpleNamespace(channel_id=ROOM) if inside else None,
    )
    return types.SimpleNamespace(cache=cache, intents=hikari.Intents.NONE)


CAN_BE_IN = P.VIEW_CHANNEL | P.CONNECT


@pytest.mark.parametrize(
    ("room", "text", "manages", "inside", "reads"),
    [
        (CAN_BE_IN, READS, False, False, True),
        (P.VIEW_CHANNEL, READS, False, False, False),
        (P.CONNECT, READS, False, False, False),
        (CAN_BE_IN, P.VIEW_CHANNEL, False, False, False),
        (CAN_BE_IN, P.READ_MESSAGE_HISTORY, False, False, False),
        (NONE, READS, False, True, True),
        (CAN_BE_IN, NONE, True, False, True),
        (P.VIEW_CHANNEL, READS, True, False, False),
        (None, READS, False, False, False),
        (None, NONE, True, False, True),
    ],
)
def test_who_may_read_a_transcript(
    room: hikari.Permissions | None, text: hikari.Permissions, manages: bool, inside: bool, reads: bool
) -> None:
    member = carl(P.MANAGE_GUILD if manages else NONE)
    assert may_read(bot(room, text, inside=inside), Asker(GUILD, TEXT, member), HEAD) is reads


@pytest.mark.parametrize(
    ("private", "asked_in", "extra", "reads"),
    [
        (False, TEXT, NONE, True),
        (True, TEXT, NONE, False),
        (True, THREAD, NONE, True),
        (True, TEXT, P.MANAGE_THREADS, True),
    ],
)
def test_a_transcript_of_a_private_thread_is_for_those_in_it(
    private: bool, asked_in: int, extra: hikari.Permissions, reads: bool
) -> None:
    head = Head("abc234", GUILD, ROOM, THREAD, 0.0, 1.0, ADA)
    asker = Asker(GUILD, asked_in, carl(NONE))
    assert may_read(bot(CAN_BE_IN, READS | extra, private=private), asker, head) is reads
