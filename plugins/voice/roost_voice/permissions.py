"""Who may bring the bot into a voice channel, by the cache at the moment of the action."""

from __future__ import annotations

import hikari

from roost.permissions import effective_in


def what_keeps_me_out(bot: hikari.GatewayBot, guild_id: int, channel_id: int) -> str | None:
    """Why the bot cannot enter a voice channel now, in words for members; None when nothing is known against it."""
    channel = bot.cache.get_guild_channel(channel_id)
    guild = bot.cache.get_guild(guild_id)
    me = bot.get_me()
    if channel is None or guild is None or me is None:
        return f"I cannot see <#{channel_id}>. Give me the permission View Channel there."
    if not isinstance(channel, hikari.GuildVoiceChannel | hikari.GuildStageChannel):
        return f"<#{channel_id}> is no voice channel. Name a voice channel."
    mine = bot.cache.get_member(guild.id, me.id)
    if mine is None:
        return None
    own = effective_in(mine, guild, channel)
    needed = hikari.Permissions.VIEW_CHANNEL | hikari.Permissions.CONNECT
    if own & needed != needed:
        return f"I may not connect to <#{channel_id}>. Give me the permissions View Channel and Connect there."
    states = bot.cache.get_voice_states_view_for_channel(guild.id, channel.id)
    full = channel.user_limit and len(states) >= channel.user_limit and me.id not in states
    if full and not own & hikari.Permissions.MOVE_MEMBERS:
        return f"<#{channel_id}> is full. Free a place, raise its limit, or give me the permission Move Members."
    return None


def why_not_for(bot: hikari.GatewayBot, member: hikari.Member, channel_id: int) -> str | None:
    """Why a member may not have the bot in a voice channel; None when they may.

    They must be allowed to connect to it, and be in it or be trusted with other people's places: Move Members or
    Manage Server.
    """
    channel = bot.cache.get_guild_channel(channel_id)
    guild = bot.cache.get_guild(member.guild_id)
    if channel is None or guild is None:
        return f"I cannot see <#{channel_id}>. Give me the permission View Channel there."
    theirs = effective_in(member, guild, channel)
    if not theirs & hikari.Permissions.CONNECT:
        return f"You may not connect to <#{channel_id}>, so I will not go there for you."
    state = bot.cache.get_voice_state(guild.id, member.id)
    trusted = theirs & (hikari.Permissions.MOVE_MEMBERS | hikari.Permissions.MANAGE_GUILD)
    if not trusted and (state is None or state.channel_id != channel.id):
        return (
            f"You are not in <#{channel_id}>. Enter it first; only members with Move Members or Manage Server may send "
            "me into a channel they are not in."
        )
    return None
