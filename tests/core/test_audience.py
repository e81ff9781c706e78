"""`roost.audience` against Discord's documented algorithm, written once more here, for every set of roles."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import types
from collections.abc import Iterable, Mapping
from typing import Any

import hikari
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roost.audience import Onlookers, Place, can_be_in, can_read, count_members, is_wider, knows_everybody
from roost.permissions import effective_in

pytestmark = pytest.mark.unit

P = hikari.Permissions
VIEW, CONNECT, ADMIN = int(P.VIEW_CHANNEL), int(P.CONNECT), int(P.ADMINISTRATOR)
HISTORY, SEND = int(P.READ_MESSAGE_HISTORY), int(P.SEND_MESSAGES)
GUILD, OWNER, ROOM, TEXT, THREAD, ME = 1, 2, 20, 30, 40, 99
NOBODY, CARL, DAN = 900, 901, 902
ROLES = (11, 12, 13, 14)


# Discord's algorithm: its page "Permissions", with implicit permissions and timeouts ----------------------------------


@dataclasses.dataclass(frozen=True)
class Channel:
    voice: bool
    roles: Mapping[int, tuple[int, int]]
    """Overwrites: allow and deny, by role; of @everyone under the guild's id."""
    members: Mapping[int, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Server:
    base: Mapping[int, int]
    """Permissions by role, @everyone's under the guild's id."""
    bots: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Bot users by the role that is theirs."""


def documented(server: Server, channel: Channel, user: int, roles: Iterable[int], *, timed_out: bool = False) -> int:
    everything = int(P.all_permissions())
    if user == OWNER:
        return everything
    permissions = server.base[GUILD]
    for role in roles:
        permissions |= server.base[role]
    if permissions & ADMIN == ADMIN:
        return everything
    allow, deny = channel.roles.get(GUILD, (0, 0))
    permissions &= ~deny
    permissions |= allow
    allow = deny = 0
    for role in roles:
        more = channel.roles.get(role)
        if more is not None:
            allow |= more[0]
            deny |= more[1]
    permissions &= ~deny
    permissions |= allow
    own = channel.members.get(user)
    if own is not None:
        permissions &= ~own[1]
        permissions |= own[0]
    if timed_out:
        permissions &= VIEW | HISTORY
    if not permissions & VIEW or (channel.voice and not permissions & CONNECT):
        return 0
    return permissions


def onlooks(
    server: Server, room: Channel, text: Channel, user: int, roles: Iterable[int], *, timed_out: bool = False
) -> bool:
    roles = tuple(roles)
    reads = documented(server, text, user, roles, timed_out=timed_out) & VIEW
    enters = documented(server, room, user, roles, timed_out=timed_out) & CONNECT
    return bool(reads and not enters)


# The same things as hikari has them -----------------------------------------------------------------------------------


def channel_of(number: int, channel: Channel) -> Any:
    kinds = hikari.PermissionOverwriteType
    overwrites = [
        hikari.PermissionOverwrite(id=hikari.Snowflake(of), type=kind, allow=P(allow), deny=P(deny))
        for kind, named in ((kinds.ROLE, channel.roles), (kinds.MEMBER, channel.members))
        for of, (allow, deny) in named.items()
    ]
    kind = hikari.ChannelType.GUILD_VOICE if channel.voice else hikari.ChannelType.GUILD_TEXT
    return types.SimpleNamespace(id=number, type=kind, permission_overwrites={each.id: each for each in overwrites})


def guild_of(server: Server, count: int | None = None) -> Any:
    roles = {
        hikari.Snowflake(number): types.SimpleNamespace(
            permissions=P(base), bot_id=server.bots.get(number), is_managed=number in server.bots
        )
        for number, base in server.base.items()
    }
    return types.SimpleNamespace(id=GUILD, owner_id=OWNER, member_count=count, get_roles=lambda: roles)


def member_of(user: int, roles: Iterable[int] = (), *, timed_out: bool = False, bot: bool = False) -> Any:
    until = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC) if timed_out else None
    return types.SimpleNamespace(
        id=user,
        guild_id=GUILD,
        role_ids=list(roles),
        is_bot=bot,
        raw_communication_disabled_until=until,
        communication_disabled_until=lambda: until,
    )


def bot_of(
    server: Server,
    room: Channel,
    text: Channel,
    members: Iterable[Any] = (),
    *,
    count: int | None = None,
    intent: bool = True,
    thread: hikari.ChannelType | None = None,
    states: Mapping[int, int] | None = None,
) -> Any:
    guild = guild_of(server, count)
    channels = {ROOM: channel_of(ROOM, room), TEXT: channel_of(TEXT, text)}
    known = {each.id: each for each in members}
    threads = {THREAD: types.SimpleNamespace(id=THREAD, parent_id=TEXT, type=thread)} if thread is not None else {}
    shown = {user: types.SimpleNamespace(channel_id=channel) for user, channel in (states or {}).items()}
    return types.SimpleNamespace(
        shards={},
        intents=hikari.Intents.GUILD_MEMBERS if intent else hikari.Intents.GUILDS,
        get_me=lambda: types.SimpleNamespace(id=ME),
        cache=types.SimpleNamespace(
            get_guild=lambda number: guild if number == GUILD else None,
            get_guild_channel=channels.get,
            get_thread=threads.get,
            get_members_view_for_guild=lambda number: known,
            get_voice_state=lambda number, user: shown.get(user),
        ),
    )


# Every combination ----------------------------------------------------------------------------------------------------

BITS = st.sampled_from([0, VIEW, CONNECT, VIEW | CONNECT])
PAIRS = st.tuples(BITS, BITS)
BASES = st.sampled_from([0, 0, VIEW, CONNECT, VIEW | CONNECT, ADMIN])


def channels(voice: st.SearchStrategy[bool]) -> st.SearchStrategy[Channel]:
    return st.builds(
        Channel,
        voice,
        st.dictionaries(st.sampled_from((GUILD, *ROLES)), PAIRS, max_size=5),
        st.dictionaries(st.sampled_from((CARL, DAN, OWNER)), PAIRS, max_size=2),
    )


SERVERS = st.builds(
    Server,
    st.fixed_dictionaries({GUILD: BASES, **dict.fromkeys(ROLES, BASES)}),
    st.sampled_from([{}, {}, {ROLES[0]: DAN}]),
)
ROOMS, TEXTS = channels(st.just(True)), channels(st.booleans())


def sets_of(roles: Iterable[int]) -> list[tuple[int, ...]]:
    roles = tuple(roles)
    return [each for size in range(len(roles) + 1) for each in itertools.combinations(roles, size)]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(SERVERS, ROOMS, TEXTS)
def test_the_bound_is_what_trying_every_set_of_roles_finds(server: Server, room: Channel, text: Channel) -> None:
    worn = [role for role in ROLES if role not in server.bots]
    people = [user for user in (NOBODY, CARL, DAN, OWNER) if user not in server.bots.values()]
    found = any(onlooks(server, room, text, user, roles) for user in people for roles in sets_of(worn))
    onlookers = Onlookers(guild_of(server), channel_of(ROOM, room), Place(channel_of(TEXT, text)))
    assert onlookers.may_exist() is found


@given(SERVERS, ROOMS, TEXTS, st.sampled_from((NOBODY, CARL, OWNER)), st.booleans())
def test_a_member_is_an_onlooker_as_discord_computes_it(
    server: Server, room: Channel, text: Channel, user: int, timed_out: bool
) -> None:
    onlookers = Onlookers(guild_of(server), channel_of(ROOM, room), Place(channel_of(TEXT, text)))
    for roles in sets_of(ROLES):
        almighty = user == OWNER or any(server.base[role] & ADMIN for role in (GUILD, *roles))
        silenced = timed_out and not almighty
        member = member_of(user, roles, timed_out=timed_out)
        assert onlookers.includes(member) is onlooks(server, room, text, user, roles, timed_out=silenced)
        assert not onlookers.includes(member_of(user, roles, timed_out=timed_out, bot=True))


@given(SERVERS, TEXTS, st.sampled_from((NOBODY, CARL, OWNER)), st.sampled_from(sets_of(ROLES)), st.booleans())
def test_permissions_are_as_documented(
    server: Server, channel: Channel, user: int, roles: tuple[int, ...], timed_out: bool
) -> None:
    silenced = timed_out and user != OWNER and not any(server.base[role] & ADMIN for role in (GUILD, *roles))
    found = effective_in(member_of(user, roles, timed_out=timed_out), guild_of(server), channel_of(TEXT, channel))
    assert int(found) == documented(server, channel, user, roles, timed_out=silenced)


# Cases with names -----------------------------------------------------------------------------------------------------

OPEN = Channel(False, {}, {})
OPEN_ROOM = Channel(True, {}, {})
EVERYBODY = VIEW | CONNECT | HISTORY | SEND
SERVER = Server({GUILD: EVERYBODY, **dict.fromkeys(ROLES, 0)})
FIRST, SECOND = ROLES[:2]


def room_with(*, roles: Mapping[int, tuple[int, int]] | None = None, **members: tuple[int, int]) -> Channel:
    return Channel(True, roles or {}, {int(user[1:]): pair for user, pair in members.items()})


@pytest.mark.parametrize(
    ("room", "text", "wider"),
    [
        pytest.param(OPEN_ROOM, OPEN, False, id="both for everybody"),
        pytest.param(room_with(roles={GUILD: (0, CONNECT)}), OPEN, True, id="seen, but nobody may connect"),
        pytest.param(
            room_with(roles={SECOND: (0, VIEW)}),
            Channel(False, {GUILD: (0, VIEW), FIRST: (VIEW, 0)}, {}),
            True,
            id="one role opens the text and another one closes the room",
        ),
        pytest.param(
            room_with(roles={FIRST: (0, VIEW)}),
            Channel(False, {FIRST: (0, VIEW)}, {}),
            False,
            id="the role that closes the room closes the text too",
        ),
        pytest.param(
            room_with(roles={FIRST: (0, VIEW), SECOND: (VIEW, 0)}),
            Channel(False, {GUILD: (0, VIEW), SECOND: (VIEW, 0)}, {}),
            False,
            id="what opens the text opens the room whatever else one wears",
        ),
        pytest.param(
            room_with(roles={GUILD: (0, CONNECT), FIRST: (CONNECT, 0)}),
            Channel(True, {GUILD: (0, CONNECT), FIRST: (CONNECT, 0)}, {}),
            False,
            id="another room's chat, for those who may connect to both",
        ),
        pytest.param(
            room_with(roles={GUILD: (0, CONNECT), FIRST: (CONNECT, 0)}),
            Channel(True, {}, {}),
            True,
            id="another room's chat, for everybody",
        ),
        pytest.param(room_with(_901=(0, CONNECT)), OPEN, True, id="a member is shut out"),
        pytest.param(
            room_with(_901=(0, CONNECT)), Channel(False, {}, {CARL: (0, VIEW)}), False, id="of both, so it matters not"
        ),
    ],
)
async def test_what_may_be_where_members_are_unknown(room: Channel, text: Channel, wider: bool) -> None:
    bot = bot_of(SERVER, room, text, [member_of(NOBODY)], count=1, intent=False)
    assert await is_wider(bot, GUILD, ROOM, TEXT) is wider
    # The list is there, and somebody is missing in it.
    assert await is_wider(bot_of(SERVER, room, text, count=1), GUILD, ROOM, TEXT) is wider


async def test_with_the_whole_list_it_counts_who_is_there() -> None:
    room = room_with(roles={FIRST: (0, CONNECT)})
    everybody = [member_of(NOBODY), member_of(OWNER, [FIRST]), member_of(ME, [FIRST], bot=True)]
    assert not await is_wider(bot_of(SERVER, room, OPEN, everybody, count=3), GUILD, ROOM, TEXT)
    assert await is_wider(bot_of(SERVER, room, OPEN, everybody, count=4), GUILD, ROOM, TEXT)
    assert await is_wider(bot_of(SERVER, room, OPEN, [*everybody, member_of(DAN, [FIRST])], count=4), GUILD, ROOM, TEXT)


async def test_the_roles_of_boosters_and_subscribers_are_worn_by_people() -> None:
    room = room_with(roles={FIRST: (0, CONNECT)})
    assert await is_wider(bot_of(SERVER, room, OPEN, intent=False), GUILD, ROOM, TEXT)
    of_a_bot = dataclasses.replace(SERVER, bots={FIRST: DAN})
    assert not await is_wider(bot_of(of_a_bot, room, OPEN, intent=False), GUILD, ROOM, TEXT)


async def test_a_member_in_a_timeout_reads_and_cannot_connect() -> None:
    members = [member_of(NOBODY), member_of(CARL, timed_out=True)]
    assert await is_wider(bot_of(SERVER, OPEN_ROOM, OPEN, members, count=2), GUILD, ROOM, TEXT)
    assert await is_wider(bot_of(SERVER, OPEN_ROOM, OPEN, members, count=9, intent=False), GUILD, ROOM, TEXT)


async def test_a_private_thread_takes_the_whole_list_and_a_public_one_is_its_channel() -> None:
    private, public = hikari.ChannelType.GUILD_PRIVATE_THREAD, hikari.ChannelType.GUILD_PUBLIC_THREAD
    members = [member_of(NOBODY)]

    async def wider(room: Channel, **how: Any) -> bool:
        return await is_wider(bot_of(SERVER, room, OPEN, members, count=1, **how), GUILD, ROOM, THREAD)

    assert await wider(OPEN_ROOM, thread=private, intent=False)
    assert not await wider(OPEN_ROOM, thread=private)
    assert not await wider(OPEN_ROOM, thread=public, intent=False)
    assert await wider(room_with(roles={GUILD: (0, CONNECT)}), thread=private)
    assert await wider(room_with(roles={GUILD: (0, CONNECT)}), thread=public)


async def test_its_own_chat_is_never_wider_and_what_is_unknown_is() -> None:
    bot = bot_of(SERVER, room_with(roles={GUILD: (0, VIEW)}), OPEN)
    assert not await is_wider(bot, GUILD, ROOM, ROOM)
    for guild_id, room_id, text_id in ((5, ROOM, TEXT), (GUILD, 5, TEXT), (GUILD, ROOM, 5)):
        assert await is_wider(bot, guild_id, room_id, text_id)


def test_a_role_that_was_deleted_counts_no_more() -> None:
    room = channel_of(ROOM, room_with(roles={77: (0, CONNECT)}))
    assert effective_in(member_of(NOBODY, [77]), guild_of(SERVER), room) & CONNECT


def test_who_can_be_in_a_room() -> None:
    closed = room_with(roles={GUILD: (0, CONNECT)})
    bot = bot_of(SERVER, closed, OPEN, states={DAN: ROOM})
    assert not can_be_in(bot.cache, member_of(NOBODY), ROOM)
    assert can_be_in(bot.cache, member_of(DAN), ROOM), "a moderator moved them in"
    assert can_be_in(bot.cache, member_of(OWNER), ROOM)
    assert not can_be_in(bot.cache, member_of(OWNER), TEXT)
    assert not can_be_in(bot.cache, member_of(OWNER), 5)


def test_who_can_read_a_private_thread() -> None:
    private = hikari.ChannelType.GUILD_PRIVATE_THREAD
    bot = bot_of(SERVER, OPEN_ROOM, OPEN, thread=private)
    assert can_read(bot.cache, member_of(NOBODY), TEXT)
    assert not can_read(bot.cache, member_of(NOBODY), THREAD)
    assert can_read(bot.cache, member_of(NOBODY), THREAD, within=THREAD)
    assert can_read(bot.cache, member_of(OWNER), THREAD)
    assert not can_read(bot.cache, member_of(OWNER), 5)
    no_history = bot_of(SERVER, OPEN_ROOM, Channel(False, {GUILD: (0, HISTORY)}, {}))
    assert not can_read(no_history.cache, member_of(NOBODY), TEXT)


def test_the_list_is_whole_with_the_intent_and_every_member() -> None:
    members = [member_of(NOBODY), member_of(CARL)]
    assert knows_everybody(bot_of(SERVER, OPEN_ROOM, OPEN, members, count=2), GUILD)
    assert not knows_everybody(bot_of(SERVER, OPEN_ROOM, OPEN, members, count=3), GUILD)
    assert not knows_everybody(bot_of(SERVER, OPEN_ROOM, OPEN, members, count=None), GUILD)
    assert not knows_everybody(bot_of(SERVER, OPEN_ROOM, OPEN, members, count=2, intent=False), GUILD)


async def test_the_number_of_members_is_kept_up_to_date() -> None:
    guild = types.SimpleNamespace(id=GUILD, member_count=5)
    callbacks: dict[Any, Any] = {}
    bot: Any = types.SimpleNamespace(
        shards={},
        intents=hikari.Intents.GUILD_MEMBERS,
        subscribe=callbacks.__setitem__,
        cache=types.SimpleNamespace(
            get_guild=lambda number: types.SimpleNamespace(**vars(guild)),
            set_guild=lambda changed: vars(guild).update(vars(changed)),
        ),
    )
    count_members(bot)
    event: Any = types.SimpleNamespace(guild_id=GUILD, old_member=None)
    await callbacks[hikari.MemberCreateEvent](event)
    assert guild.member_count == 6
    for _ in range(2):
        await callbacks[hikari.MemberDeleteEvent](event)
    assert guild.member_count == 4
    # While the bot was away, others came.
    event.guild = types.SimpleNamespace(member_count=9)
    await callbacks[hikari.GuildAvailableEvent](event)
    assert guild.member_count == 9
