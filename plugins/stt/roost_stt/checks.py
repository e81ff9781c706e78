"""What is refused before anything is tried. Each raises `ResourceError` with words for the member who asked."""

from __future__ import annotations

import hikari

from roost.audience import is_wider, place_of
from roost.errors import ResourceError
from roost.permissions import effective_in, permissions_in
from roost_stt.config import SttConfig

NEEDED = hikari.Permissions.VIEW_CHANNEL | hikari.Permissions.SEND_MESSAGES
_NAMES = (
    (hikari.Permissions.VIEW_CHANNEL, "View Channel"),
    (hikari.Permissions.SEND_MESSAGES, "Send Messages"),
)


def is_there(bot: hikari.GatewayBot, channel_id: int) -> bool:
    """Whether the cache knows a channel or a thread."""
    return bot.cache.get_guild_channel(channel_id) is not None or bot.cache.get_thread(channel_id) is not None


def writable(bot: hikari.GatewayBot, guild_id: int, channel_id: int) -> bool:
    """`can_write` as a question."""
    try:
        can_write(bot, guild_id, channel_id)
    except ResourceError:
        return False
    return True


def can_write(bot: hikari.GatewayBot, guild_id: int, channel_id: int) -> None:
    """The bot may write there; what the cache does not know is left to Discord."""
    me = bot.get_me()
    guild = bot.cache.get_guild(guild_id)
    member = bot.cache.get_member(guild_id, me.id) if me is not None else None
    channel = bot.cache.get_guild_channel(channel_id)
    if guild is None or member is None or channel is None:
        return
    missing = NEEDED & ~permissions_in(member, guild, channel)
    names = [name for flag, name in _NAMES if missing & flag]
    if names:
        raise ResourceError(f"I cannot write in <#{channel_id}>. Give me {' and '.join(names)} there.")


def asker_can_write(
    bot: hikari.GatewayBot,
    member: hikari.InteractionMember | None,
    channel_id: int,
    permissions: hikari.Permissions,
    *,
    within: int,
) -> None:
    """The bot writes nowhere for members who could not write there themselves.

    Args:
        bot: Whose cache is asked.
        member: Who asks.
        channel_id: A channel or thread.
        permissions: Theirs there, as Discord told them with the command.
        within: Where they are now. Members who are in a private thread are known by their being there.
    """
    guild = bot.cache.get_guild(member.guild_id) if member is not None else None
    place, thread = place_of(bot.cache, channel_id), bot.cache.get_thread(channel_id)
    if member is not None and guild is not None and place is not None:
        # What Discord leaves out of it: timeouts, and voice channels that they may not connect to.
        permissions &= effective_in(member, guild, place.channel)
    manages = hikari.Permissions.MANAGE_THREADS
    if not permissions & hikari.Permissions.VIEW_CHANNEL or (
        place is not None and place.private and within != channel_id and not permissions & manages
    ):
        raise ResourceError(f"You cannot see <#{channel_id}>, so I post no captions there for you.")
    writes = hikari.Permissions.SEND_MESSAGES if thread is None else hikari.Permissions.SEND_MESSAGES_IN_THREADS
    if not permissions & writes:
        raise ResourceError(
            f"You cannot write in <#{channel_id}>, so I post no captions there for you. "
            "Choose a channel where you can write."
        )


def serves(config: SttConfig) -> bool:
    """Whether what is said would be shown or stored."""
    return config.captions.where != "none" or bool(config.retention_days)


def is_of_use(config: SttConfig) -> None:
    """What is said would be shown or stored."""
    if not serves(config):
        raise ResourceError(
            "Captions are switched off here and transcripts are not kept, so there would be nothing to read. "
            "See `/config set stt captions.where` and `retention_days`."
        )


async def audience(bot: hikari.GatewayBot, guild_id: int, voice_id: int, text_id: int, *, manages: bool) -> str:
    """Nobody reads what they could not hear, unless somebody who manages the server wants it so: then what to say."""
    if not await is_wider(bot, guild_id, voice_id, text_id):
        return ""
    if not manages:
        raise ResourceError(
            f"There may be people who can read <#{text_id}> and cannot be in <#{voice_id}>, so only those who manage "
            "the server can have it transcribed there. Choose another channel, such as the voice channel's own chat."
        )
    return (
        f" Mind that <#{text_id}> can be read by people who cannot be in <#{voice_id}>: "
        "members are heard only after they press **Agree** under the notice."
    )
