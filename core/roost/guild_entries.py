"""Guilds read entry by entry: an entry that cannot be read is left out, and the rest of the guild is kept.

hikari reads a GUILD_CREATE as a whole. One channel of a new shape, or the voice state of a user who is not among the
members sent along, makes it drop the event: the guild then has no commands and no voice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import hikari
from hikari.api.entity_factory import GatewayGuildDefinition
from hikari.impl.entity_factory import EntityFactoryImpl

_log = logging.getLogger("roost.gateway")

T = TypeVar("T")
Entries = Mapping[hikari.Snowflake, T]


def read_entries_one_by_one(bot: hikari.GatewayBot) -> None:
    """Make a bot read guilds entry by entry.

    hikari takes no factory of its user's, so its own is replaced; where its insides have changed, everything stays as
    it is.
    """
    if not isinstance(getattr(bot, "_entity_factory", None), EntityFactoryImpl):
        _log.warning("this version of hikari reads guilds as a whole: one bad entry costs a guild its commands")
        return
    bot._entity_factory = EntryFactory(bot)


class EntryFactory(EntityFactoryImpl):
    """hikari's entity factory, for which a bad entry costs that entry alone."""

    def deserialize_gateway_guild(
        self, payload: Mapping[str, Any], *, user_id: hikari.Snowflake
    ) -> GatewayGuildDefinition:
        whole = super().deserialize_gateway_guild(payload, user_id=user_id)
        return _Guild(whole, self, payload, user_id)

    def deserialize_voice_state(self, payload: Mapping[str, Any], **known: Any) -> hikari.VoiceState:
        """Read a voice state; leave out its member where that cannot be read."""
        try:
            return super().deserialize_voice_state(payload, **known)
        except (LookupError, TypeError, ValueError, AttributeError):
            if "member" not in payload or known.get("member"):
                raise
            without = {name: value for name, value in payload.items() if name != "member"}
            return super().deserialize_voice_state(without, **known)


class _All(dict[hikari.Snowflake, T]):
    """All entries of a list, true also where there are none.

    hikari takes a mapping that is false for one that says nothing, and keeps what it knew: threads that were deleted
    and members who left voice while the connection was broken.
    """

    def __bool__(self) -> bool:
        return True


class _Guild(GatewayGuildDefinition):
    """A guild as hikari reads it, whose lists are read one entry at a time where they cannot be read whole."""

    __slots__ = ("_factory", "_payload", "_read", "_user_id", "_whole")

    def __init__(
        self,
        whole: GatewayGuildDefinition,
        factory: EntryFactory,
        payload: Mapping[str, Any],
        user_id: hikari.Snowflake,
    ) -> None:
        self._whole = whole
        self._factory = factory
        self._payload = payload
        self._user_id = user_id
        self._read: dict[str, Any] = {}

    @property
    def id(self) -> hikari.Snowflake:
        return self._whole.id

    def guild(self) -> hikari.GatewayGuild:
        return self._whole.guild()

    def channels(self) -> Entries[hikari.PermissibleGuildChannel]:
        def read(entry: Any) -> hikari.PermissibleGuildChannel:
            channel = self._factory.deserialize_channel(entry, guild_id=self.id)
            if not isinstance(channel, hikari.PermissibleGuildChannel):
                raise TypeError("a channel of no guild")
            return channel

        return self._all("channels", self._list("channels", self._whole.channels, read, lambda channel: channel.id))

    def emojis(self) -> Entries[hikari.KnownCustomEmoji]:
        def read(entry: Any) -> hikari.KnownCustomEmoji:
            return self._factory.deserialize_known_custom_emoji(entry, guild_id=self.id)

        return self._list("emojis", self._whole.emojis, read, lambda emoji: emoji.id)

    def stickers(self) -> Entries[hikari.GuildSticker]:
        return self._list(
            "stickers", self._whole.stickers, self._factory.deserialize_guild_sticker, lambda sticker: sticker.id
        )

    def members(self) -> Entries[hikari.Member]:
        def read(entry: Any) -> hikari.Member:
            return self._factory.deserialize_member(entry, guild_id=self.id)

        return self._list("members", self._whole.members, read, lambda member: member.id)

    def presences(self) -> Entries[hikari.MemberPresence]:
        def read(entry: Any) -> hikari.MemberPresence:
            return self._factory.deserialize_member_presence(entry, guild_id=self.id)

        return self._list("presences", self._whole.presences, read, lambda presence: presence.user_id)

    def roles(self) -> Entries[hikari.Role]:
        def read(entry: Any) -> hikari.Role:
            return self._factory.deserialize_role(entry, guild_id=self.id)

        return self._list("roles", self._whole.roles, read, lambda role: role.id)

    def threads(self) -> Entries[hikari.GuildThreadChannel]:
        def read(entry: Any) -> hikari.GuildThreadChannel:
            return self._factory.deserialize_guild_thread(entry, guild_id=self.id, user_id=self._user_id)

        return self._all("threads", self._list("threads", self._whole.threads, read, lambda thread: thread.id))

    def voice_states(self) -> Entries[hikari.VoiceState]:
        members = self.members()

        def read(entry: Any) -> hikari.VoiceState:
            # Discord sends voice states of users who are not among the members, and without a member of their own.
            member = members.get(hikari.Snowflake(entry["user_id"]), hikari.UNDEFINED)
            return self._factory.deserialize_voice_state(entry, guild_id=self.id, member=member)

        return self._all("voice_states", self._list("voice_states", None, read, lambda state: state.user_id))

    def _all(self, name: str, entries: Entries[T]) -> Entries[T]:
        """One of the guild's lists, so that what it does not have is forgotten; not one that could not be read."""
        return _All(entries) if isinstance(self._payload.get(name), list) else entries

    def _list(
        self,
        name: str,
        whole: Callable[[], Entries[T]] | None,
        read: Callable[[Any], T],
        id_of: Callable[[T], hikari.Snowflake],
    ) -> Entries[T]:
        """One of the guild's lists, read once.

        Args:
            name: Its key in the payload.
            whole: hikari's way to read it, which is tried first; None where that is known to be too strict.
            read: Reads one entry.
            id_of: The id of what was read.
        """
        if name not in self._read:
            self._read[name] = self._read_list(name, whole, read, id_of)
        entries: Entries[T] = self._read[name]
        return entries

    def _read_list(
        self,
        name: str,
        whole: Callable[[], Entries[T]] | None,
        read: Callable[[Any], T],
        id_of: Callable[[T], hikari.Snowflake],
    ) -> Entries[T]:
        if whole is not None:
            try:
                return whole()
            except Exception:  # noqa: BLE001 - read entry by entry below
                _log.debug("guild %d: its %s cannot be read as a whole", self.id, name)
        raw = self._payload.get(name)
        found: dict[hikari.Snowflake, T] = {}
        bad = 0
        for entry in raw if isinstance(raw, list) else ():
            try:
                made = read(entry)
                found[id_of(made)] = made
            except Exception as error:  # noqa: BLE001 - foreign data; counted and logged below
                _log.debug("guild %d: bad entry in its %s: %s", self.id, name, type(error).__name__)
                bad += 1
        if bad or not isinstance(raw, list):
            what = f"{bad} of its {len(raw)} {name}" if isinstance(raw, list) else f"the list of its {name}"
            _log.warning("guild %d: left out what cannot be read: %s", self.id, what)
        return found
