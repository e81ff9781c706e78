"""The vocabulary of the per-guild voice actor: its states, what it is told and what it decides.

Pure data. `roost_voice.actor` holds the decisions, `roost_voice.guild` carries them out.
"""

from __future__ import annotations

import dataclasses
import enum

from roost.audio import LinkEnd


class State(enum.Enum):
    """Where a guild's voice stands. IDLE and LIVE are at rest; every other state has a deadline."""

    IDLE = "idle"
    SIGNALLING = "signalling"
    """Op 4 is asked for or sent; waiting for our voice state and the voice server."""
    CONNECTING = "connecting"
    """A link is being opened, or an old one closed to make room for it."""
    LIVE = "live"
    AWAIT_SERVER = "await_server"
    """Discord took the voice server away, or moved us, and owes us a new one."""
    LEAVING = "leaving"
    """Drain, close the link, send op 4 null, wait for its acknowledgement."""
    ORPHAN = "orphan"
    """Discord holds a voice state that nobody wants; retried until it is gone."""
    SUSPENDED = "suspended"
    """The main gateway lost its session or is down; waiting for it with the wish kept."""
    FAILED = "failed"
    """Cooling down after failures."""


class Stage(enum.Enum):
    """How far the logical session has come."""

    NONE = "none"
    OPENING = "opening"
    OPEN = "open"


class Phase(enum.Enum):
    """The steps of LEAVING, in order."""

    DRAIN = "drain"
    CLOSE = "close"
    NULL = "null"
    ACK = "ack"
    ASK = "ask"


class Rung(enum.Enum):
    """The steps of ORPHAN: ask nicely, claim and drop, kick ourselves, wait."""

    NULL = "null"
    ACK = "ack"
    CLAIM = "claim"
    CLAIMED = "claimed"
    ASK = "ask"
    WAIT = "wait"


class Priority(enum.IntEnum):
    """Order of op 4 within a shard; the smallest goes first."""

    LEAVE = 0
    MOVE = 1
    JOIN = 2
    REAP = 3


class Told(enum.Enum):
    """What became of a request."""

    JOINED = "joined"
    ALREADY = "already"
    MOVED = "moved"
    SUPERSEDED = "superseded"
    """A later request, or a moderator, took the session elsewhere and it is live there; the channel is that one."""
    BUSY = "busy"
    REFUSED = "refused"
    FAILED = "failed"
    LEFT = "left"
    UNCONFIRMED = "unconfirmed"
    """Left as far as we can tell; Discord has not confirmed it yet and the actor keeps trying."""
    NOT_IN_VOICE = "not_in_voice"


class Presence(enum.Enum):
    """Discord's answer to "am I in voice here?"."""

    IN = "in"
    OUT = "out"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """Where somebody wants the bot to be."""

    channel_id: int
    user_id: int
    text_channel_id: int = 0


# What the actor is told ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Want:
    """Be in a channel. `may_move`: the requester may take the bot away from where it is."""

    ticket: int
    wish: Wish
    may_move: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Unwant:
    """Be nowhere. Ticket 0 waits for no answer; user 0 is nobody."""

    ticket: int
    reason: str
    user_id: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Abandon:
    """The waiter of a ticket went away."""

    ticket: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """Be nowhere, for good, without retries."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class OwnState:
    """VOICE_STATE_UPDATE of the bot with a channel."""

    channel_id: int
    session_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class OwnNull:
    """VOICE_STATE_UPDATE of the bot without a channel."""

    session_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """VOICE_SERVER_UPDATE with an endpoint."""

    token: str = dataclasses.field(repr=False)
    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class ServerNull:
    """VOICE_SERVER_UPDATE without an endpoint: the server is gone, another will follow."""


@dataclasses.dataclass(frozen=True, slots=True)
class GuildHere:
    """GUILD_CREATE, with the bot's voice state in it if there is one."""

    channel_id: int | None
    session_id: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class GuildGone:
    """The bot is no longer in the guild."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelGone:
    """A channel was deleted."""

    channel_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayDown:
    """The shard lost its connection."""


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayReady:
    """The shard has a new session: Discord forgot our voice states."""


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayResumed:
    """The shard has its old session back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Op4Sent:
    """An op 4 went out."""

    ticket: int
    channel_id: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class LinkLive:
    gen: int


@dataclasses.dataclass(frozen=True, slots=True)
class LinkGone:
    """A link and all it held are gone. `end` is None when it failed without a close code or we closed it."""

    gen: int
    end: LinkEnd | None
    detail: str = ""
    barred: str = ""
    """What would keep us out of its channel now, in words for members; empty when nothing is known."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpeningDone:
    """The opening hooks have answered; `denied` is the reason of a refusal."""

    serial: int
    denied: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Drained:
    serial: int


@dataclasses.dataclass(frozen=True, slots=True)
class RestAnswer:
    ask: int
    presence: Presence
    channel_id: int | None = None
    session_id: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """Foreign software of the same token has taken our place; the core makes it out of what Discord shows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reap:
    """A ghost of ours stands in a channel and nobody alive owns it."""

    channel_id: int
    session_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """The deadline may have passed."""


Input = (
    Want
    | Unwant
    | Abandon
    | Stop
    | OwnState
    | OwnNull
    | Server
    | ServerNull
    | GuildHere
    | GuildGone
    | ChannelGone
    | GatewayDown
    | GatewayReady
    | GatewayResumed
    | Op4Sent
    | LinkLive
    | LinkGone
    | OpeningDone
    | Drained
    | RestAnswer
    | Taken
    | Reap
    | Tick
)


# What the actor decides ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class SendOp4:
    """Queue an op 4; replaces whatever this guild still has queued."""

    ticket: int
    channel_id: int | None
    priority: Priority
    hidden: bool = False
    """Muted and deafened, for claiming a ghost."""
    requester: int = 0
    """The user who asked for it; 0 when nobody did."""


@dataclasses.dataclass(frozen=True, slots=True)
class DropOp4:
    """Take this guild's op 4 out of the queue."""


@dataclasses.dataclass(frozen=True, slots=True)
class JournalWrite:
    """Note, durably and before the next op 4, that this process answers for the guild."""

    channel_id: int
    session_id: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class JournalRemove:
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class OpenLink:
    gen: int
    channel_id: int
    session_id: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)
    address: str
    wish: Wish


@dataclasses.dataclass(frozen=True, slots=True)
class CloseLink:
    """End a link; answered by `LinkGone`."""

    gen: int


@dataclasses.dataclass(frozen=True, slots=True)
class AskRest:
    """Ask REST for our voice state; with `kick`, first disconnect ourselves through REST."""

    ask: int
    kick: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Tell:
    ticket: int
    told: Told
    channel_id: int
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class StartOpening:
    """Run the opening hooks; answered by `OpeningDone`."""

    serial: int


@dataclasses.dataclass(frozen=True, slots=True)
class CancelOpening:
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    old: int
    new: int
    by_request: bool = True
    """False when somebody moved us at Discord."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interrupted:
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Drain:
    """Run the closing hooks while still connected; answered by `Drained`."""

    serial: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Disconnected:
    """Voice is left, or given up on; the closing of a session follows."""

    confirmed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Closed:
    """The logical session has ended."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stray:
    """Discord shows us in a channel that this actor does not want: find out whose it is."""

    channel_id: int
    session_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Reaped:
    """A ghost is gone (or, unconfirmed, given up on)."""

    channel_id: int
    seconds: float
    confirmed: bool


Action = (
    SendOp4
    | DropOp4
    | JournalWrite
    | JournalRemove
    | OpenLink
    | CloseLink
    | AskRest
    | Tell
    | StartOpening
    | CancelOpening
    | Opened
    | Moved
    | Interrupted
    | Restored
    | Drain
    | Disconnected
    | Closed
    | Stray
    | Reaped
)
