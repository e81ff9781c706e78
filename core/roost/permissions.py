"""What a member may do in a channel, worked out from the cache at the moment of the action."""

from __future__ import annotations

import hikari

_ALL = hikari.Permissions.all_permissions()


def permissions_in(
    member: hikari.Member, guild: hikari.GatewayGuild, channel: hikari.PermissibleGuildChannel
) -> hikari.Permissions:
    """A member's permissions in a channel: base from the roles, then the channel's overwrites.

    The order is Discord's: @everyone, then all roles together, then the member; administrators may do everything.
    """
    if member.id == guild.owner_id:
        return _ALL
    roles = guild.get_roles()
    role_ids = {guild.id, *member.role_ids}
    allowed = hikari.Permissions.NONE
    for role_id in role_ids:
        if role_id in roles:
            allowed |= roles[role_id].permissions
    if allowed & hikari.Permissions.ADMINISTRATOR:
        return _ALL
    overwrites = channel.permission_overwrites
    if (everyone := overwrites.get(guild.id)) is not None:
        allowed = (allowed & ~everyone.deny) | everyone.allow
    deny = allow = hikari.Permissions.NONE
    for role_id in role_ids - {guild.id}:
        if (overwrite := overwrites.get(role_id)) is not None:
            deny |= overwrite.deny
            allow |= overwrite.allow
    allowed = (allowed & ~deny) | allow
    if (own := overwrites.get(member.id)) is not None:
        allowed = (allowed & ~own.deny) | own.allow
    return allowed
