"""Who could read along: whether a text channel has readers who cannot see the voice channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import hikari

from roost.permissions import permissions_in

VIEW = hikari.Permissions.VIEW_CHANNEL
_NOBODY = -1
"""No user's id."""


class _StandIn:
    """Somebody who may exist, as far as the permissions tell."""

    is_bot = False

    def __init__(self, user_id: int, role_ids: Iterable[int]) -> None:
        self.id = user_id
        self.role_ids = list(role_ids)


def is_wider(
    guild: hikari.GatewayGuild,
    members: Iterable[hikari.Member],
    voice: hikari.PermissibleGuildChannel,
    text: hikari.PermissibleGuildChannel,
) -> bool:
    """Whether anybody who sees the text channel does not see the voice channel. Pure.

    Args:
        guild: Its roles and its number of members count.
        members: Those who are known. If some are not, somebody with no role, with each single role, and with each
            overwrite of a member stands in for them: rather too strict than too lax.
        voice: What is heard.
        text: Where it can be read.
    """
    if voice.id == text.id:
        return False
    known = [member for member in members if not member.is_bot]
    people: list[Any] = list(known)
    count = guild.member_count
    if count is None or len(list(members)) < count:
        people += _stand_ins(guild, {int(member.id) for member in known}, voice, text)
    return any(
        VIEW & permissions_in(cast(hikari.Member, each), guild, text)
        and not VIEW & permissions_in(cast(hikari.Member, each), guild, voice)
        for each in people
    )


def _stand_ins(
    guild: hikari.GatewayGuild, known: set[int], *channels: hikari.PermissibleGuildChannel
) -> Iterator[_StandIn]:
    yield _StandIn(_NOBODY, ())
    for role_id, role in guild.get_roles().items():
        # The roles of bots and of integrations are worn by them alone.
        if role_id != guild.id and role.bot_id is None and not role.is_managed:
            yield _StandIn(_NOBODY, (role_id,))
    for channel in channels:
        for overwrite in channel.permission_overwrites.values():
            if overwrite.type == hikari.PermissionOverwriteType.MEMBER and int(overwrite.id) not in known:
                yield _StandIn(int(overwrite.id), ())


def wider_by_cache(bot: hikari.GatewayBot, guild_id: int, voice_id: int, text_id: int) -> bool:
    """`is_wider`, of what the bot knows. A thread has the readers of its channel; what is unknown counts as wider."""
    cache = bot.cache
    if voice_id == text_id:
        return False
    thread = cache.get_thread(text_id)
    guild = cache.get_guild(guild_id)
    voice = cache.get_guild_channel(voice_id)
    text = cache.get_guild_channel(text_id if thread is None else thread.parent_id)
    if guild is None or voice is None or text is None:
        return True
    members = list(cache.get_members_view_for_guild(guild_id).values())
    return is_wider(guild, [each for each in members if each.id != _own_id(bot)], voice, text)


def _own_id(bot: hikari.GatewayBot) -> int:
    me = bot.get_me()
    return int(me.id) if me is not None else 0
