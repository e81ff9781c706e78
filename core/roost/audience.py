"""Who can read what is said: text channels and threads against voice rooms, exactly as Discord computes it.

A text channel is *wider* than a voice room if a human member can read it and cannot be in the room, which takes View
Channel and Connect. Where every member is known, every member is asked (`Onlookers.includes`). Where some are not,
`Onlookers.may_exist` says whether anybody could have a set of roles, or an overwrite of their own, that makes them an
onlooker. It decides this for all sets of roles at once: each permission is a choice of *clauses* ("one of these roles
and none of those"), and a combination of clauses has a set of roles that fits unless one of its groups is wholly
barred. Timeouts are known only of members who are.

Whatever is unknown counts as wider.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import hikari

from roost.gateway import Shard
from roost.permissions import CONNECT, VIEW, VOICE_CHANNELS, effective_in, entering

if TYPE_CHECKING:
    from hikari.api.cache import Cache, MutableCache

READS = VIEW | hikari.Permissions.READ_MESSAGE_HISTORY
AT_ONCE = 1000
"""Members asked before others have their turn in the event loop: a few milliseconds' worth."""
_NOBODY = frozenset[int]()


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where text can be read.

    Attributes:
        channel: The channel whose permissions count; of a thread, the one that it is in.
        private: It is a private thread. Its readers are some of the channel's, and any of them can be added.
    """

    channel: hikari.PermissibleGuildChannel
    private: bool = False


def place_of(cache: Cache, channel_id: int) -> Place | None:
    """A text channel, voice channel or thread of the cache; None where it is unknown."""
    thread = cache.get_thread(channel_id)
    channel = cache.get_guild_channel(channel_id if thread is None else thread.parent_id)
    if channel is None:
        return None
    return Place(channel, thread is not None and thread.type == hikari.ChannelType.GUILD_PRIVATE_THREAD)


# One member ----------------------------------------------------------------------------------------------------------


def as_known_now(bot: hikari.GatewayBot, member: hikari.Member) -> hikari.Member:
    """A member with the roles that they have now, if Discord tells the bot of changes: a command can take minutes."""
    if not bot.intents & hikari.Intents.GUILD_MEMBERS:
        return member
    return bot.cache.get_member(member.guild_id, member.id) or member


def can_be_in(cache: Cache, member: hikari.Member, voice_id: int) -> bool:
    """Whether a member can be in a voice room, or is there now; False where the room is unknown."""
    guild, room = cache.get_guild(member.guild_id), cache.get_guild_channel(voice_id)
    if guild is None or room is None or room.type not in VOICE_CHANNELS:
        return False
    state = cache.get_voice_state(guild.id, member.id)
    if state is not None and state.channel_id == room.id:
        # A moderator may have moved them in.
        return True
    return bool(effective_in(member, guild, room))


def can_read(cache: Cache, member: hikari.Member, text_id: int, *, within: int = 0) -> bool:
    """Whether a member can read a channel or thread with its history; False where it is unknown.

    Args:
        cache: The bot's.
        member: Who wants to read.
        text_id: The channel or thread.
        within: Where the member is now. The readers of a private thread are those who are in it, which is seen by
            their being there, and those who manage threads.
    """
    guild, place = cache.get_guild(member.guild_id), place_of(cache, text_id)
    if guild is None or place is None:
        return False
    theirs = effective_in(member, guild, place.channel)
    if place.private and within != text_id and not theirs & hikari.Permissions.MANAGE_THREADS:
        return False
    return theirs & READS == READS


def can_see(cache: Cache, guild_id: int, channel_id: int, user_id: int) -> bool:
    """Whether a member can read what is posted in a channel or a public thread; False where it is unknown.

    Of a member who is not in the cache no role is known. They count as seeing a channel that is open to everybody and
    closed to nobody.
    """
    guild, place = cache.get_guild(guild_id), place_of(cache, channel_id)
    if guild is None or place is None or place.private:
        return False
    member = cache.get_member(guild_id, user_id)
    if member is not None:
        return bool(effective_in(member, guild, place.channel))
    needed, everyone = entering(place.channel), guild.get_roles().get(guild.id)
    denied = any(each.deny & needed for each in place.channel.permission_overwrites.values())
    return not denied and everyone is not None and not needed & ~everyone.permissions


# All members ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Clause:
    """A condition on a set of roles: at least one of each group in `some`, and none of `barred`."""

    some: tuple[frozenset[int], ...] = ()
    barred: frozenset[int] = _NOBODY


class Onlookers:
    """Human members who can read a place and cannot be in a voice room.

    Args:
        guild: Its roles count, and its owner.
        room: The voice room.
        place: Where it can be read.
    """

    def __init__(self, guild: hikari.GatewayGuild, room: hikari.PermissibleGuildChannel, place: Place) -> None:
        self._guild = guild
        self._room = room
        self._place = place
        self._text = place.channel
        self._roles = guild.get_roles()
        self._by_roles: dict[tuple[int, ...], bool] = {}
        """What was found for members with these roles and nothing of their own."""
        everyone = self._roles.get(guild.id)
        self._everyone = everyone.permissions if everyone is not None else hikari.Permissions.NONE
        # A bot's role is worn by that bot alone. Those of subscribers, boosters and linked accounts are worn by people.
        # With an administrator's, one is no onlooker.
        self._worn = frozenset(
            int(role_id)
            for role_id, role in self._roles.items()
            if role_id != guild.id and role.bot_id is None and not role.permissions & hikari.Permissions.ADMINISTRATOR
        )

    def includes(self, member: hikari.Member) -> bool:
        """Whether a member is one."""
        if member.is_bot:
            return False
        own = member.id in self._text.permission_overwrites or member.id in self._room.permission_overwrites
        if own or member.id == self._guild.owner_id or member.raw_communication_disabled_until is not None:
            return self._ask(member)
        roles = tuple(map(int, member.role_ids))
        known = self._by_roles.get(roles)
        if known is None:
            known = self._by_roles[roles] = self._ask(member)
        return known

    def _ask(self, member: hikari.Member) -> bool:
        if not effective_in(member, self._guild, self._text) & VIEW:
            return False
        return not effective_in(member, self._guild, self._room)

    def may_exist(self, bots: Iterable[int] = ()) -> bool:
        """Whether anybody could be one, with any set of roles that people wear.

        Args:
            bots: Users whose overwrites do not count, beside the bots that the roles tell of.
        """
        if self._everyone & hikari.Permissions.ADMINISTRATOR:
            return False
        if self._exist({}, {}):
            return True
        theirs = {user_id for channel in (self._text, self._room) for user_id in _members_of(channel)}
        theirs -= {int(self._guild.owner_id), *bots}
        theirs -= {int(role.bot_id) for role in self._roles.values() if role.bot_id is not None}
        return any(self._exist(_own(self._text, user_id), _own(self._room, user_id)) for user_id in theirs)

    def _exist(self, in_text: Mapping[str, int], in_room: Mapping[str, int]) -> bool:
        """Whether somebody with these overwrites of their own could be one."""
        reading = [self._granted(self._text, bit, in_text) for bit in _bits(entering(self._text))]
        return any(
            self._fits(clauses)
            for bit in (VIEW, CONNECT)
            for clauses in itertools.product(*reading, self._refused(self._room, bit, in_room))
        )

    def _fits(self, clauses: Sequence[_Clause]) -> bool:
        """Whether there is a set of roles for which all of them hold: one of each group that is not barred."""
        barred = _NOBODY.union(*(clause.barred for clause in clauses))
        return all(group - barred for clause in clauses for group in clause.some)

    def _granted(
        self, channel: hikari.PermissibleGuildChannel, bit: hikari.Permissions, own: Mapping[str, int]
    ) -> list[_Clause]:
        """The ways to have a permission in a channel."""
        if own.get("allow", 0) & bit:
            return [_Clause()]
        if own.get("deny", 0) & bit:
            return []
        allowing, denying = self._overwriting(channel, bit)
        ways = [_Clause((allowing,))]
        default = self._default(channel, bit)
        if default:
            ways.append(_Clause(barred=denying))
        elif default is None:
            ways.append(_Clause((self._granting(bit),), denying))
        return ways

    def _refused(
        self, channel: hikari.PermissibleGuildChannel, bit: hikari.Permissions, own: Mapping[str, int]
    ) -> list[_Clause]:
        """The ways to lack a permission in a channel."""
        if own.get("allow", 0) & bit:
            return []
        if own.get("deny", 0) & bit:
            return [_Clause()]
        allowing, denying = self._overwriting(channel, bit)
        ways = [_Clause((denying,), allowing)]
        default = self._default(channel, bit)
        if default is None:
            ways.append(_Clause(barred=allowing | self._granting(bit)))
        elif not default:
            ways.append(_Clause(barred=allowing))
        return ways

    def _default(self, channel: hikari.PermissibleGuildChannel, bit: hikari.Permissions) -> bool | None:
        """What a member without an overwrite has; None: what their roles grant in the server."""
        overwrite = channel.permission_overwrites.get(self._guild.id)
        if overwrite is not None and overwrite.allow & bit:
            return True
        if overwrite is not None and overwrite.deny & bit:
            return False
        return True if self._everyone & bit else None

    def _granting(self, bit: hikari.Permissions) -> frozenset[int]:
        return frozenset(role_id for role_id in self._worn if self._roles[hikari.Snowflake(role_id)].permissions & bit)

    def _overwriting(
        self, channel: hikari.PermissibleGuildChannel, bit: hikari.Permissions
    ) -> tuple[frozenset[int], frozenset[int]]:
        """The roles that allow and that deny a permission in a channel; one that does both allows it."""
        found = {int(each.id): each for each in channel.permission_overwrites.values() if int(each.id) in self._worn}
        allowing = frozenset(role_id for role_id, each in found.items() if each.allow & bit)
        denying = frozenset(role_id for role_id, each in found.items() if each.deny & bit)
        return allowing, denying


def _bits(permissions: hikari.Permissions) -> list[hikari.Permissions]:
    return [bit for bit in (VIEW, CONNECT) if permissions & bit]


def _members_of(channel: hikari.PermissibleGuildChannel) -> list[int]:
    return [
        int(each.id)
        for each in channel.permission_overwrites.values()
        if each.type == hikari.PermissionOverwriteType.MEMBER
    ]


def _own(channel: hikari.PermissibleGuildChannel, user_id: int) -> dict[str, int]:
    overwrite = channel.permission_overwrites.get(hikari.Snowflake(user_id))
    return {} if overwrite is None else {"allow": int(overwrite.allow), "deny": int(overwrite.deny)}


# By the cache --------------------------------------------------------------------------------------------------------


def onlookers_of(bot: hikari.GatewayBot, guild_id: int, voice_id: int, text_id: int) -> Onlookers | None:
    """The onlookers of a room at a place, as the cache has them now; None where one of them is unknown."""
    cache = bot.cache
    guild, room, place = cache.get_guild(guild_id), cache.get_guild_channel(voice_id), place_of(cache, text_id)
    if guild is None or room is None or place is None:
        return None
    return Onlookers(guild, room, place)


async def is_wider(bot: hikari.GatewayBot, guild_id: int, voice_id: int, text_id: int) -> bool:
    """Whether somebody may be able to read a channel or thread who cannot be in a voice room.

    A voice channel's own chat is never wider. A private thread is, where not all members are known.
    """
    if voice_id == text_id:
        return False
    onlookers = onlookers_of(bot, guild_id, voice_id, text_id)
    place = place_of(bot.cache, text_id)
    if onlookers is None or place is None:
        return True
    if not knows_everybody(bot, guild_id) and (place.private or onlookers.may_exist([_own_id(bot)])):
        _hurry_members(bot, guild_id)
        return True
    for number, member in enumerate(bot.cache.get_members_view_for_guild(guild_id).values(), 1):
        if onlookers.includes(member):
            return True
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    return False


def knows_everybody(bot: hikari.GatewayBot, guild_id: int) -> bool:
    """Whether the cache has every member of a guild, with the roles that they have now."""
    guild = bot.cache.get_guild(guild_id)
    if guild is None or guild.member_count is None or not bot.intents & hikari.Intents.GUILD_MEMBERS:
        return False
    shard = _shard_of(bot, guild_id)
    if shard is not None and shard.is_listing(guild_id):
        return False  # Discord's count may be too low.
    return len(bot.cache.get_members_view_for_guild(guild_id)) >= guild.member_count


def _hurry_members(bot: hikari.GatewayBot, guild_id: int) -> None:
    """Have the members of a guild sent before those of others."""
    if (shard := _shard_of(bot, guild_id)) is not None:
        shard.hurry_members(guild_id)


def _shard_of(bot: hikari.GatewayBot, guild_id: int) -> Shard | None:
    """The shard of a guild; None before it was connected, and where hikari's own class is used."""
    shard = bot.shards.get(hikari.snowflakes.calculate_shard_id(bot.shard_count, guild_id)) if bot.shards else None
    return shard if isinstance(shard, Shard) else None


def count_members(bot: hikari.GatewayBot) -> None:
    """Keep the number of members that the cache has for each guild up to date; hikari leaves it as it was at first."""
    if not bot.intents & hikari.Intents.GUILD_MEMBERS:
        return

    async def shown(event: hikari.GuildAvailableEvent) -> None:
        _set_count(bot, event.guild_id, event.guild.member_count)

    async def joined(event: hikari.MemberCreateEvent) -> None:
        _set_count(bot, event.guild_id, _count(bot, event.guild_id, 1))

    async def left(event: hikari.MemberDeleteEvent) -> None:
        shard = _shard_of(bot, event.guild_id)
        if event.old_member is None and shard is not None and not shard.is_listing(event.guild_id):
            return  # Of a whole list nobody else can leave: Discord has said so twice.
        _set_count(bot, event.guild_id, _count(bot, event.guild_id, -1))

    bot.subscribe(hikari.GuildAvailableEvent, shown)
    bot.subscribe(hikari.MemberCreateEvent, joined)
    bot.subscribe(hikari.MemberDeleteEvent, left)


def _count(bot: hikari.GatewayBot, guild_id: hikari.Snowflake, change: int) -> int | None:
    guild = bot.cache.get_guild(guild_id)
    return None if guild is None or guild.member_count is None else guild.member_count + change


def _set_count(bot: hikari.GatewayBot, guild_id: hikari.Snowflake, count: int | None) -> None:
    guild = bot.cache.get_guild(guild_id)
    if guild is not None:
        guild.member_count = count
        cast("MutableCache", bot.cache).set_guild(guild)


def _own_id(bot: hikari.GatewayBot) -> int:
    me = bot.get_me()
    return int(me.id) if me is not None else 0
