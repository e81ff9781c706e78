"""What a member may do in a channel, worked out from the cache at the moment of the action."""

from __future__ import annotations

import hikari

VIEW = hikari.Permissions.VIEW_CHANNEL
CONNECT = hikari.Permissions.CONNECT
VOICE_CHANNELS = frozenset({hikari.ChannelType.GUILD_VOICE, hikari.ChannelType.GUILD_STAGE})
"""Kinds of channels that people connect to. Their own chat is for those who may connect."""

_ALL = hikari.Permissions.all_permissions()
_TIMED_OUT = VIEW | hikari.Permissions.READ_MESSAGE_HISTORY
"""What a member keeps during a timeout (Discord: "Permissions For Timed Out Members")."""


def entering(channel: hikari.PermissibleGuildChannel) -> hikari.Permissions:
    """What a member needs to have anything at all in a channel, and to read there."""
    return VIEW | CONNECT if channel.type in VOICE_CHANNELS else VIEW


def is_almighty(member: hikari.Member, guild: hikari.GatewayGuild) -> bool:
    """Whether a member may do everything everywhere: the owner and administrators."""
    return member.id == guild.owner_id or bool(_base(member, guild) & hikari.Permissions.ADMINISTRATOR)


def permissions_in(
    member: hikari.Member, guild: hikari.GatewayGuild, channel: hikari.PermissibleGuildChannel
) -> hikari.Permissions:
    """A member's permissions in a channel as they are set: base from the roles, then the channel's overwrites.

    The order is Discord's: @everyone, then all roles together, then the member; administrators may do everything.
    """
    if is_almighty(member, guild):
        return _ALL
    allowed = _base(member, guild)
    overwrites = channel.permission_overwrites
    if (everyone := overwrites.get(guild.id)) is not None:
        allowed = (allowed & ~everyone.deny) | everyone.allow
    roles = guild.get_roles()
    deny = allow = hikari.Permissions.NONE
    for role_id in member.role_ids:
        # The cache may keep what a deleted role had: with the member, and with the channel.
        if role_id != guild.id and role_id in roles and (overwrite := overwrites.get(role_id)) is not None:
            deny |= overwrite.deny
            allow |= overwrite.allow
    allowed = (allowed & ~deny) | allow
    if (own := overwrites.get(member.id)) is not None:
        allowed = (allowed & ~own.deny) | own.allow
    return allowed


def effective_in(
    member: hikari.Member, guild: hikari.GatewayGuild, channel: hikari.PermissibleGuildChannel
) -> hikari.Permissions:
    """What is left of `permissions_in` by Discord's implicit rules.

    A member in a timeout can only read. Whoever cannot see a channel, or connect to a voice channel, can do nothing
    there.
    """
    allowed = permissions_in(member, guild, channel)
    if member.communication_disabled_until() is not None and not is_almighty(member, guild):
        allowed &= _TIMED_OUT
    return hikari.Permissions.NONE if entering(channel) & ~allowed else allowed


def _base(member: hikari.Member, guild: hikari.GatewayGuild) -> hikari.Permissions:
    roles = guild.get_roles()
    allowed = hikari.Permissions.NONE
    for role_id in (guild.id, *member.role_ids):
        if role_id in roles:
            allowed |= roles[role_id].permissions
    return allowed
