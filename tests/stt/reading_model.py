"""Who can read what, from nothing but what a server has set: Discord's documented algorithm, with no code of Roost.

Of Discord's page "Permissions": base permissions, overwrites of @everyone, of roles and of the member, the implicit
rules for View Channel and Connect, and timeouts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

VIEW, CONNECT, HISTORY = 1 << 10, 1 << 20, 1 << 16
ADMIN, MANAGE_GUILD, MANAGE_THREADS = 1 << 3, 1 << 5, 1 << 34
EVERYTHING = (1 << 53) - 1
TEXT, VOICE, PUBLIC_THREAD, PRIVATE_THREAD = 0, 2, 11, 12
Pairs = Mapping[int, tuple[int, int]]
"""Allowed and denied, by role or by member."""


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """A member as the server has them.

    Attributes:
        place: The voice room that they are in, or 0.
    """

    roles: frozenset[int]
    is_bot: bool
    timed_out: bool
    place: int


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A channel, or a thread of one."""

    kind: int
    parent: int
    roles: Pairs
    members: Pairs


@dataclasses.dataclass(frozen=True)
class Picture:
    """A server at one moment.

    Attributes:
        guild: Its id, which is also that of @everyone.
        base: Permissions by role.
        botlike: Roles that belong to a bot, which nobody else can wear.
    """

    guild: int
    owner: int
    base: Mapping[int, int]
    botlike: frozenset[int]
    people: Mapping[int, Person]
    places: Mapping[int, Place]

    def of_place(self, place_id: int) -> Place | None:
        """The channel whose permissions count for a channel or a thread."""
        place = self.places.get(place_id)
        return self.places.get(place.parent) if place is not None and place.parent else place

    def permissions(self, user: int, roles: Iterable[int], place: Place, *, timed_out: bool = False) -> int:
        """What somebody with these roles may do in a place."""
        roles = list(roles)
        granted = self.base[self.guild]
        for role in roles:
            granted |= self.base.get(role, 0)
        if user == self.owner or granted & ADMIN:
            return EVERYTHING
        allow, deny = place.roles.get(self.guild, (0, 0))
        granted = granted & ~deny | allow
        allow = deny = 0
        for role in roles:
            more = place.roles.get(role, (0, 0)) if role in self.base else (0, 0)
            allow, deny = allow | more[0], deny | more[1]
        granted = granted & ~deny | allow
        allow, deny = place.members.get(user, (0, 0))
        granted = granted & ~deny | allow
        if timed_out:
            granted &= VIEW | HISTORY
        if not granted & VIEW or (place.kind == VOICE and not granted & CONNECT):
            return 0
        return granted

    def of_member(self, user: int, place: Place, *, knows_timeouts: bool = True) -> int:
        """The same for a member."""
        person = self.people[user]
        return self.permissions(user, person.roles, place, timed_out=person.timed_out and knows_timeouts)

    # Captions -------------------------------------------------------------------------------------------------------

    def is_wide(self, room_id: int, text_id: int, known: Iterable[int]) -> bool:
        """Whether a human member can read a place and cannot be in a voice room.

        Args:
            room_id: The voice room.
            text_id: Where it can be read.
            known: Members whose timeouts a bot can know.
        """
        room, text = self.of_place(room_id), self.of_place(text_id)
        if room_id == text_id:
            return False
        if room is None or text is None:
            return True
        known = set(known)
        return any(
            bool(self.of_member(user, text, knows_timeouts=user in known) & VIEW)
            and not self.of_member(user, room, knows_timeouts=user in known) & CONNECT
            for user, person in self.people.items()
            if not person.is_bot
        )

    def may_be_wide(self, room_id: int, text_id: int) -> bool:
        """Whether anybody could be such a reader, with any roles that people can wear: every set of them is tried."""
        room, text = self.of_place(room_id), self.of_place(text_id)
        if room_id == text_id:
            return False
        if room is None or text is None or self.places[text_id].kind == PRIVATE_THREAD:
            return True
        worn = [role for role in self.base if role != self.guild and role not in self.botlike]
        bots = {user for user, person in self.people.items() if person.is_bot}
        named = {0, *room.members, *text.members, self.owner} - bots
        return any(
            bool(self.permissions(user, roles, text) & VIEW) and not self.permissions(user, roles, room) & CONNECT
            for user in named
            for size in range(len(worn) + 1)
            for roles in itertools.combinations(worn, size)
        )

    # Transcripts ----------------------------------------------------------------------------------------------------

    def can_be_in(self, user: int, room_id: int) -> bool:
        """Whether a member can be in a voice room, or is."""
        room, person = self.places.get(room_id), self.people.get(user)
        if room is None or person is None:
            return False
        return person.place == room_id or bool(self.of_member(user, room) & CONNECT)

    def can_read(self, user: int, text_id: int, within: int) -> bool:
        """Whether a member can read a place with its history, asked from another one."""
        text = self.of_place(text_id)
        if text is None or user not in self.people:
            return False
        theirs = self.of_member(user, text)
        if self.places[text_id].kind == PRIVATE_THREAD and within != text_id and not theirs & MANAGE_THREADS:
            return False
        return theirs & (VIEW | HISTORY) == VIEW | HISTORY

    def manages(self, user: int, within: int) -> bool:
        """Whether a member manages the server, as Discord says with a command."""
        asked_in = self.of_place(within)
        if asked_in is None or user not in self.people:
            return False
        return bool(self.of_member(user, asked_in) & (MANAGE_GUILD | ADMIN))

    def may_read(self, user: int, within: int, room_id: int, text_id: int) -> bool:
        """Whether a member may read a transcript of a room whose captions were shown in a place."""
        manages = self.manages(user, within)
        if room_id not in self.places:
            return manages
        return self.can_be_in(user, room_id) and (manages or self.can_read(user, text_id, within))
