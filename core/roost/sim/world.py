"""The simulated Discord's guilds, channels, members and voice states. Pure: no I/O; payloads are JSON-ready dicts."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import itertools
from typing import Any

import hikari

EVERYONE = int(
    hikari.Permissions.VIEW_CHANNEL
    | hikari.Permissions.SEND_MESSAGES
    | hikari.Permissions.CREATE_PUBLIC_THREADS
    | hikari.Permissions.SEND_MESSAGES_IN_THREADS
    | hikari.Permissions.EMBED_LINKS
    | hikari.Permissions.ATTACH_FILES
    | hikari.Permissions.READ_MESSAGE_HISTORY
    | hikari.Permissions.ADD_REACTIONS
    | hikari.Permissions.CONNECT
    | hikari.Permissions.SPEAK
    | hikari.Permissions.USE_VOICE_ACTIVITY
    | hikari.Permissions.USE_APPLICATION_COMMANDS
)
ADMINISTRATOR = int(hikari.Permissions.ADMINISTRATOR)
TIMED_OUT = int(hikari.Permissions.VIEW_CHANNEL | hikari.Permissions.READ_MESSAGE_HISTORY)
"""What a member keeps during a timeout."""
TEXT, VOICE, THREAD, PRIVATE_THREAD, STAGE = 0, 2, 11, 12, 13
THREADS = frozenset({THREAD, PRIVATE_THREAD})
SPOKEN = frozenset({VOICE, STAGE})
"""Kinds of channels that one can speak in."""

Payload = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class SimSettings:
    """How the simulated Discord behaves.

    Attributes:
        ghost_null: Whether op 4 (null) of a new gateway session ends a voice state of an old one.
        ghost_timeout_s: How long a voice state outlives a gateway connection that was lost without a close frame.
        guilds: How many guilds there are.
        shards: What ``/gateway/bot`` recommends.
        max_concurrency: Of ``session_start_limit``, and then held to: an IDENTIFY too many in `identify_window_s` is
            answered with op 9. None: any number at once.
        identify_window_s: Discord's has five seconds.
        heartbeat_ms: Of the gateway.
        intents_allowed: Privileged intents that may be asked for (a bit field).
        identifies_per_day: Of ``session_start_limit``.
        voice_channels: Per guild.
        stages: Stage channels per guild.
        members: Further members of every guild, beside the four with names.
        move_server_s: After a moderator's move, how long until the new VOICE_SERVER_UPDATE.
        interaction_limit_s: After which an interaction nobody answered is unknown (10062).
    """

    ghost_null: str = "honoured"
    ghost_timeout_s: float = 120.0
    guilds: int = 2
    shards: int = 1
    max_concurrency: int | None = None
    identify_window_s: float = 5.0
    heartbeat_ms: int = 41_250
    intents_allowed: int = 0
    identifies_per_day: int = 1000
    voice_channels: int = 4
    stages: int = 0
    members: int = 0
    interaction_limit_s: float = 3.0
    move_server_s: float = 0.05

    def __post_init__(self) -> None:
        if self.ghost_null not in ("honoured", "ignored"):
            raise ValueError(f"ghost_null is honoured or ignored, not {self.ghost_null!r}")
        for name, least in (("guilds", 1), ("members", 0), ("shards", 1)):
            if not least <= getattr(self, name) <= 10_000:
                raise ValueError(f"{name} is from {least} to 10000, not {getattr(self, name)}")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ValueError(f"max_concurrency is 1 or more, not {self.max_concurrency}")


class Snowflakes:
    """Ids that only grow."""

    def __init__(self) -> None:
        self._next = itertools.count(1_400_000_000_000_000_000)

    def __call__(self) -> int:
        return next(self._next)


@dataclasses.dataclass
class User:
    id: int
    name: str
    bot: bool = False

    def payload(self) -> Payload:
        return {
            "id": str(self.id),
            "username": self.name.lower().replace(" ", "_"),
            "discriminator": "0",
            "global_name": self.name,
            "avatar": None,
            "bot": self.bot,
            "public_flags": 0,
            "flags": 0,
        }


@dataclasses.dataclass
class Bot:
    """An application and its bot user."""

    user: User
    token: str
    application_id: int
    identifies_left: int
    identified_at: dict[int, float] = dataclasses.field(default_factory=dict)
    """By rate limit key (a shard's remainder by the concurrency), on the monotonic clock."""

    def may_identify(self, shard: int, settings: SimSettings, now: float) -> bool:
        """Whether a shard keeps to the concurrency; notes that it identifies."""
        if settings.max_concurrency is None:
            return True
        key = shard % settings.max_concurrency
        if now - self.identified_at.get(key, float("-inf")) < settings.identify_window_s:
            return False
        self.identified_at[key] = now
        return True

    def application(self, owner: User) -> Payload:
        return {
            "id": str(self.application_id),
            "name": self.user.name,
            "description": "",
            "bot_public": True,
            "bot_require_code_grant": False,
            "owner": owner.payload(),
            "verify_key": "00" * 32,
            "flags": 0,
            "approximate_guild_count": 1,
            "approximate_user_install_count": 0,
            "integration_types_config": {"0": {}},
            "icon": None,
            "team": None,
            "bot": self.user.payload(),
        }


@dataclasses.dataclass
class Channel:
    id: int
    guild_id: int
    name: str
    type: int
    user_limit: int = 0
    parent_id: int | None = None
    owner_id: int | None = None
    """Both of a thread."""
    overwrites: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """User id -> (allowed, denied) bits. A thread shares those of its channel."""
    role_overwrites: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """The same by role; @everyone's under the guild's id."""

    def payload(self) -> Payload:
        if self.type in THREADS:
            return self._thread()
        base: Payload = {
            "id": str(self.id),
            "guild_id": str(self.guild_id),
            "type": self.type,
            "name": self.name,
            "position": 0,
            "permission_overwrites": [
                {"id": str(of), "type": kind, "allow": str(allow), "deny": str(deny)}
                for kind, named in enumerate((self.role_overwrites, self.overwrites))
                for of, (allow, deny) in named.items()
            ],
            "nsfw": False,
            "parent_id": None,
            "flags": 0,
        }
        if self.type == TEXT:
            return base | {"topic": None, "rate_limit_per_user": 0, "last_message_id": None}
        return base | {"bitrate": 64000, "user_limit": self.user_limit, "rtc_region": None, "rate_limit_per_user": 0}

    def _thread(self) -> Payload:
        return {
            "id": str(self.id),
            "guild_id": str(self.guild_id),
            "parent_id": str(self.parent_id),
            "owner_id": str(self.owner_id),
            "type": self.type,
            "name": self.name,
            "last_message_id": None,
            "message_count": 0,
            "total_message_sent": 0,
            "member_count": 1,
            "rate_limit_per_user": 0,
            "flags": 0,
            "thread_metadata": {
                "archived": False,
                "auto_archive_duration": 1440,
                "archive_timestamp": "2026-01-01T00:00:00+00:00",
                "create_timestamp": "2026-01-01T00:00:00+00:00",
                "locked": False,
            },
        }


@dataclasses.dataclass
class Role:
    """A role that members wear, beside the one of each member whose permissions differ."""

    id: int
    name: str
    permissions: int = 0
    booster: bool = False
    """Discord gives it to those who boost the server."""

    def payload(self, position: int = 2) -> Payload:
        made: Payload = {
            "id": str(self.id),
            "name": self.name,
            "color": 0,
            "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
            "hoist": False,
            "icon": None,
            "unicode_emoji": None,
            "position": position,
            "permissions": str(self.permissions),
            "managed": self.booster,
            "mentionable": False,
            "flags": 0,
        }
        return made | {"tags": {"premium_subscriber": None}} if self.booster else made


@dataclasses.dataclass
class Member:
    user: User
    permissions: int = EVERYONE
    """Guild-wide, beside those of `roles`."""
    roles: list[int] = dataclasses.field(default_factory=list)
    timed_out_until: str | None = None
    """ISO 8601."""
    joined_at: str = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat())

    def payload(self) -> Payload:
        return {
            "user": self.user.payload(),
            "roles": [],
            "joined_at": self.joined_at,
            "deaf": False,
            "mute": False,
            "nick": None,
            "avatar": None,
            "banner": None,
            "communication_disabled_until": self.timed_out_until,
            "premium_since": None,
            "flags": 0,
            "pending": False,
        }


@dataclasses.dataclass
class VoiceState:
    guild_id: int
    channel_id: int
    user_id: int
    session_id: str = dataclasses.field(repr=False)
    owner: str = dataclasses.field(default="", repr=False)
    """The gateway session that made it; empty for members."""
    self_mute: bool = False
    self_deaf: bool = False

    def payload(self, member: Member | None, channel_id: int | None = None, *, left: bool = False) -> Payload:
        """A VOICE_STATE_UPDATE; inside GUILD_CREATE the guild and member are left out."""
        base: Payload = {
            "channel_id": None if left else str(channel_id or self.channel_id),
            "user_id": str(self.user_id),
            "session_id": self.session_id,
            "deaf": False,
            "mute": False,
            "self_deaf": self.self_deaf,
            "self_mute": self.self_mute,
            "self_video": False,
            "suppress": False,
            "request_to_speak_timestamp": None,
        }
        if member is not None:
            base |= {"guild_id": str(self.guild_id), "member": member.payload()}
        return base


@dataclasses.dataclass
class Guild:
    id: int
    name: str
    owner_id: int
    channels: dict[int, Channel]
    members: dict[int, Member]
    threads: dict[int, Channel] = dataclasses.field(default_factory=dict)
    """A public one is made under a message and has its id."""
    roles: dict[int, Role] = dataclasses.field(default_factory=dict)
    voice_states: dict[int, VoiceState] = dataclasses.field(default_factory=dict)

    def permissions(self, user_id: int, channel: Channel | None = None) -> int:
        """What a member may do, in a channel if one is given; 0 for strangers."""
        member = self.members.get(user_id)
        if member is None:
            return 0
        allowed = member.permissions
        for role_id in member.roles:
            allowed |= self.roles[role_id].permissions
        if user_id == self.owner_id or allowed & ADMINISTRATOR:
            return int(hikari.Permissions.all_permissions())
        if channel is not None:
            for overwrites in (
                [channel.role_overwrites.get(self.id, (0, 0))],
                [channel.role_overwrites.get(role_id, (0, 0)) for role_id in member.roles],
                [channel.overwrites.get(user_id, (0, 0))],
            ):
                for _, deny in overwrites:
                    allowed &= ~deny
                for allow, _ in overwrites:
                    allowed |= allow
        until = member.timed_out_until
        silenced = until is not None and datetime.datetime.fromisoformat(until) > datetime.datetime.now(datetime.UTC)
        return allowed & TIMED_OUT if silenced else allowed

    def of_type(self, kind: int) -> list[Channel]:
        return [channel for channel in self.channels.values() if channel.type == kind]

    def occupants(self, channel_id: int) -> list[int]:
        return [state.user_id for state in self.voice_states.values() if state.channel_id == channel_id]

    def rest_payload(self) -> Payload:
        everyone = Role(self.id, "@everyone", EVERYONE).payload(0)
        # Member-wide permissions beyond @everyone's are shown as one role each, so that clients compute the same.
        return {
            "id": str(self.id),
            "name": self.name,
            "icon": None,
            "splash": None,
            "discovery_splash": None,
            "owner_id": str(self.owner_id),
            "afk_channel_id": None,
            "afk_timeout": 300,
            "verification_level": 0,
            "default_message_notifications": 0,
            "explicit_content_filter": 0,
            "mfa_level": 0,
            "application_id": None,
            "system_channel_id": None,
            "system_channel_flags": 0,
            "rules_channel_id": None,
            "vanity_url_code": None,
            "description": None,
            "banner": None,
            "premium_tier": 0,
            "premium_subscription_count": 0,
            "preferred_locale": "en-US",
            "public_updates_channel_id": None,
            "safety_alerts_channel_id": None,
            "nsfw_level": 0,
            "features": [],
            "emojis": [],
            "stickers": [],
            "max_members": 1000,
            "max_presences": None,
            "max_video_channel_users": 25,
            "widget_enabled": False,
            "incidents_data": None,
            "roles": [everyone, *self._member_roles(), *(role.payload() for role in self.roles.values())],
        }

    def role_of(self, user_id: int) -> int | None:
        """The id of a member's own role, when their permissions differ from everybody's."""
        return None if self.members[user_id].permissions == EVERYONE else user_id + 7

    def _member_roles(self) -> list[Payload]:
        return [
            Role(user_id + 7, f"of {member.user.name}", member.permissions).payload(1)
            for user_id, member in self.members.items()
            if member.permissions != EVERYONE
        ]

    def member_payload(self, user_id: int) -> Payload:
        member, role = self.members[user_id], self.role_of(user_id)
        return member.payload() | {"roles": [*([str(role)] if role else []), *map(str, member.roles)]}

    def gateway_payload(self, bot_id: int, *, all_members: bool, voice: bool) -> Payload:
        """GUILD_CREATE.

        Args:
            bot_id: Who gets it.
            all_members: It has the GUILD_PRESENCES intent; without, it sees itself and whoever is in voice.
            voice: It has the GUILD_VOICE_STATES intent.
        """
        seen = [user for user in self.members if all_members or user == bot_id or user in self.voice_states]
        states = self.voice_states.values() if voice else ()
        return self.rest_payload() | {
            "joined_at": self.members[bot_id].joined_at,
            "large": False,
            "unavailable": False,
            "member_count": len(self.members),
            "members": [self.member_payload(user_id) for user_id in seen],
            "channels": [channel.payload() for channel in self.channels.values()],
            "threads": [thread.payload() for thread in self.threads.values()],
            "presences": [],
            "stage_instances": [],
            "guild_scheduled_events": [],
            "soundboard_sounds": [],
            "voice_states": [state.payload(None) for state in states],
        }

    def spoil(self, shown: Payload, stranger: int) -> None:
        """Add to a GUILD_CREATE what a client may trip over.

        Args:
            shown: From `gateway_payload`.
            stranger: Somebody who is in voice and not among the members.
        """
        for name in ("channels", "roles", "emojis", "stickers", "members", "presences", "threads"):
            shown[name] = [*shown.get(name, ()), {"id": "not a number", "user": {}, "type": 0}, None]
        channel = next(each.id for each in self.channels.values() if each.type == 2)
        state = VoiceState(self.id, channel, stranger, "a stranger's session")
        shown["voice_states"] = [{"user_id": "5"}, *shown["voice_states"], state.payload(None)]


STRANGER = 810_000_000_000_000_001
"""A user who is nowhere else."""


class World:
    """Everything there is, made from the settings; ids are the same in every run."""

    MEMBERS = ("Mod", "Ada", "Ben", "Cleo")
    VOICE_CHANNELS = ("perch", "loft", "barn", "attic")
    TEXT_CHANNELS = ("general", "captions")

    def __init__(self, settings: SimSettings) -> None:
        self.snowflake = Snowflakes()
        self.bots = [
            _bot(900_000_000_000_000_001, "Roost", settings.identifies_per_day),
            _bot(900_000_000_000_000_002, "Other", settings.identifies_per_day),
        ]
        names = [*self.MEMBERS, *(f"Member {n + 1}" for n in range(settings.members))]
        self.humans = [User(800_000_000_000_000_001 + n, name) for n, name in enumerate(names)]
        self.guilds: dict[int, Guild] = {}
        for number in range(settings.guilds):
            guild = self._guild(number, settings)
            self.guilds[guild.id] = guild

    def _guild(self, number: int, settings: SimSettings) -> Guild:
        guild_id = 700_000_000_000_000_000 + number * 1_000_000
        channels = [Channel(guild_id + 1 + n, guild_id, name, TEXT) for n, name in enumerate(self.TEXT_CHANNELS)]
        for n in range(settings.voice_channels):
            known = self.VOICE_CHANNELS
            name = known[n] if n < len(known) else f"voice-{n + 1}"
            channels.append(Channel(guild_id + 101 + n, guild_id, name, VOICE))
        channels += [Channel(guild_id + 501 + n, guild_id, f"stage-{n + 1}", STAGE) for n in range(settings.stages)]
        people = [*self.humans, *(bot.user for bot in self.bots)]
        name = "Roost Nest" if number == 0 else f"Nest {number + 1}"
        return Guild(
            guild_id,
            name,
            self.humans[0].id,
            {channel.id: channel for channel in channels},
            {user.id: Member(user) for user in people},
        )

    def bot_by_token(self, token: str) -> Bot | None:
        return next((bot for bot in self.bots if bot.token == token), None)

    def bot_by_authorization(self, header: str | None) -> Bot | None:
        """By the Authorization header of a REST request."""
        scheme, _, token = (header or "").partition(" ")
        return self.bot_by_token(token) if scheme == "Bot" else None

    def is_bot(self, user_id: int) -> bool:
        return any(bot.user.id == user_id for bot in self.bots)

    def channel(self, channel_id: int) -> tuple[Guild, Channel] | None:
        for guild in self.guilds.values():
            found = guild.channels.get(channel_id) or guild.threads.get(channel_id)
            if found is not None:
                return guild, found
        return None


def _bot(user_id: int, name: str, identifies: int) -> Bot:
    head = base64.urlsafe_b64encode(str(user_id).encode()).decode().rstrip("=")
    return Bot(User(user_id, name, bot=True), f"{head}.SimSim.simulated-{name.lower()}-token-0000", user_id, identifies)
