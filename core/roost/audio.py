"""The seam between Discord voice and everything that listens or speaks.

A voice driver turns Discord's credentials into a link that carries Opus frames; the voice plugin turns links into
sessions, one per guild; consumers attach a `FrameSink` to a session. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from roost.opus_packet import packet_samples

SAMPLE_RATE_HZ = 48_000
FRAME_MS = 20
FRAME_SAMPLES = 960
"""Samples per channel in one 20 ms frame at 48 kHz: what bots send, and the usual step of the RTP timestamp."""

SILENCE_FRAME = b"\xf8\xff\xfe"
"""The Opus frame Discord clients send when they fall silent; never end-to-end encrypted."""


@dataclasses.dataclass(frozen=True, slots=True)
class AudioFrame:
    """One decrypted Opus packet of one speaker, from 2.5 to 120 ms long.

    Drivers deliver valid packets only: an empty or malformed one is dropped and counted before any sink sees it.

    Attributes:
        guild_id: The guild whose session received it.
        user_id: The speaker.
        ssrc: The RTP stream it came on.
        rtp_timestamp: 48 kHz media clock of its first sample, modulo 2**32.
        opus: The Opus packet.
        lost_before: Packets known to be missing between the previous one of this stream and this one.
    """

    guild_id: int
    user_id: int
    ssrc: int
    rtp_timestamp: int
    opus: bytes
    lost_before: int = 0

    @property
    def samples(self) -> int:
        """How long it lasts, in samples at 48 kHz, as the packet itself says."""
        return packet_samples(self.opus)


class FrameSink(Protocol):
    """A consumer of frames. Both methods are called on the event loop and may neither block nor raise."""

    def write(self, frame: AudioFrame) -> None:
        """Take one frame of a speaker who agreed to be heard."""

    def purge(self, user_id: int) -> None:
        """Forget everything still queued of this speaker: they withdrew their consent or left."""


class Use(enum.Enum):
    """What a consumer makes of the sound."""

    TEXT = "text"
    """Text, which is shown or stored."""
    LEVELS = "levels"
    """How loud each speaker is, for ``/voice test``."""
    PLUGIN = "plugin"
    """What only the plugin knows."""


@dataclasses.dataclass(frozen=True, slots=True)
class NoticeFacts:
    """What a consumer does with what it hears, as far as the notice tells it to the members.

    Attributes:
        use: What the sound becomes; of a plugin that does not come with the bot, always `Use.PLUGIN`.
        plugin: Name of the plugin, for `Use.PLUGIN`; the session puts that of the one whose sink it is in its place.
        channel_id: Channel of the text. Its readers can read, and export, what is stored. 0: there is none.
        shown: The text is posted in that channel.
        in_thread: It is posted in a thread of that channel.
        onlookers: Members who cannot be in the voice channel may be able to read it there.
        kept_days: Days for which text is stored after the end of the session; 0: not at all.
        sends_to: Host of the service that the sound is sent to; empty: it stays on the bot's machine.
        text_plugins: Names of the plugins that receive the text.
    """

    use: Use = Use.PLUGIN
    plugin: str = ""
    channel_id: int = 0
    shown: bool = False
    in_thread: bool = False
    onlookers: bool = False
    kept_days: int = 0
    sends_to: str = ""
    text_plugins: tuple[str, ...] = ()


UNSAID = NoticeFacts()
"""Of a consumer that says nothing of itself."""


class Unheard(enum.Enum):
    """Why a member of a voice channel is not heard there."""

    REFUSED = "refused"
    UNDECIDED = "undecided"
    """They have not agreed, where members are heard only if they do."""
    FORBIDDEN = "forbidden"
    """By a plugin, which was asked."""
    GUARD_FAILS = "guard-fails"
    """A plugin that decides about it does not work, so nobody can say that it allows it."""
    GUARD_LOADS = "guard-loads"
    """A plugin that decides about it is being loaded, and works in a moment."""
    IDLE = "idle"
    """Nobody listens."""
    NOTICE_COMING = "notice-coming"
    """The notice is being posted."""
    NOTICE_FAILS = "notice-fails"
    """Discord does not accept the notice; it is tried again."""
    ASKED_MORE = "asked-more"
    """The notice asks for more than they agreed to."""
    UNSEEN = "unseen"
    """They cannot see where the notice stands or where the text goes, and have not agreed to that."""
    ONLOOKERS = "onlookers"
    """Members who cannot be in the voice channel can read along, and they have not agreed to that."""
    UNTOLD = "untold"
    """No notice was posted since they came; one is on its way."""
    FORGOTTEN = "forgotten"
    """They asked to be forgotten during this call, and have not agreed since."""
    DEAF = "deaf"
    """A moderator has deafened the bot."""


@dataclasses.dataclass(frozen=True, slots=True)
class NotHeard:
    """Why a member is not heard, with what a plugin said.

    Attributes:
        why: The reason.
        plugin: The plugin that refuses, or that is refused in the place of; empty for other reasons.
        reason: What the plugin said, for the member alone; empty where it was not asked.
    """

    why: Unheard
    plugin: str = ""
    reason: str = ""


class Unshown(enum.Enum):
    """Why the words of members who are heard are not shown, or there are none."""

    ONLOOKERS = "onlookers"
    """Somebody could read along who cannot be in the voice channel."""
    CUT_OFF = "cut-off"
    """The text channel takes no messages of the bot, or is gone."""
    MUTED = "muted"
    """What turns speech into text died of their sound, so it is not given any more of it for a while."""
    FAILED = "failed"
    """What turns speech into text does not work."""


@dataclasses.dataclass(frozen=True, slots=True)
class CallStatus:
    """What holds for one member in the call that they are in, as far as one plugin knows.

    Attributes:
        channel_id: The voice channel.
        unheard: Why they are not heard; None: nothing that the plugin knows of keeps them from being heard.
        unshown: Why their words are not shown; None: nothing that the plugin knows of keeps them back.
    """

    channel_id: int
    unheard: NotHeard | None = None
    unshown: Unshown | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """What Discord hands out for one voice connection.

    Attributes:
        guild_id: The guild (the voice gateway's ``server_id``).
        channel_id: The voice channel, which is also the MLS group id.
        user_id: The bot.
        session_id: Of the bot's voice state.
        token: Of VOICE_SERVER_UPDATE; changes on every move.
        server_address: ``host:port`` without a scheme (Discord calls it the endpoint).
        stage: The channel is a stage, the one kind whose calls need not be end-to-end encrypted.
    """

    guild_id: int
    channel_id: int
    user_id: int
    session_id: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)
    server_address: str
    stage: bool = False


class Retry(enum.Enum):
    """What the end of a link means for the actor that owned it."""

    RESUME_FAILED = "resume_failed"
    """The driver tried to resume and could not: signal again with the gateway."""
    REJOIN = "rejoin"
    """The session is dead but the wish stands: signal again, limited by the breaker."""
    AWAIT_SERVER = "await_server"
    """Kicked, moved or the channel died: wait briefly for a new server, else leave."""
    STOP = "stop"
    """Do not try again."""


@dataclasses.dataclass(frozen=True, slots=True)
class LinkEnd:
    """Why a link ended.

    Attributes:
        code: The voice gateway's close code, or None when no close frame was seen.
        reason: One sentence for people.
        retry: What to do next.
        cooldown_s: Seconds to wait before any new try.
    """

    code: int | None
    reason: str
    retry: Retry
    cooldown_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class LinkStats:
    """Counters of one link since it opened.

    Invariant: ``packets_in == frames_out + sum(dropped.values())``. A packet counts when its fate is known: one that
    still waits for the packet before it is in none of them.
    """

    packets_in: int = 0
    frames_out: int = 0
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lost: int = 0
    packets_sent: int = 0
    dave_version: int = 0
    """Of the end-to-end encryption; 0 without it, and where the driver does not tell (`tells_dave`)."""
    tells_dave: bool = True
    dave_epoch: int = 0
    dave_epochs: int = 0
    frames_decrypted: int = 0
    frames_passed_through: int = 0
    decrypt_failures: int = 0
    resumes: int = 0
    ping_ms: float | None = None
    mode: str = ""
    send_dropped: int = 0
    """Frames given to `VoiceLink.send_opus` that were not sent."""
    udp_errors: int = 0
    """Errors the operating system reported for the UDP socket, such as a refused port; none of them ends the link."""
    violations: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the voice gateway sent that made no sense, by kind; none of it ends the link."""


class LinkEvents(Protocol):
    """What a link tells its owner. Every method is synchronous, runs on the event loop and may not raise."""

    def wants(self, user_id: int) -> bool:
        """Whether the sound of a member may be decrypted; asked once for each packet, before anything is done with it.

        A driver that hands out what is decrypted already need not ask: `frame` is checked all the same.
        """
        ...

    def frame(self, frame: AudioFrame) -> None: ...

    def member_joined(self, user_id: int) -> None: ...

    def member_left(self, user_id: int) -> None: ...

    def speaking(self, user_id: int, on: bool) -> None: ...

    def dave(self, version: int, epoch: int, state: str) -> None:
        """The end-to-end encryption changed; state is ``none``, ``pending``, ``active`` or ``recovering``."""

    def state(self, name: str) -> None:
        """The driver entered a state of its handshake, such as ``hello`` or ``resuming``."""


class VoiceLink(Protocol):
    """A live voice connection. Owned by the ``async with`` of `VoiceDriver.open`, which also ends it."""

    def send_opus(self, opus: bytes) -> None:
        """Queue one 20 ms Opus frame; dropped and counted when the link is not live or its queue is full."""

    def set_speaking(self, on: bool) -> None:
        """Tell the others that frames follow, or that they ended."""

    async def update(self, cred: Credentials) -> bool:
        """Adopt new credentials in place; False when the owner must close this link and open another."""
        ...

    def stats(self) -> LinkStats: ...

    async def wait_closed(self) -> LinkEnd:
        """Wait, without limit, until the link has ended by itself; never returns while it can still resume."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class DriverSettings:
    """What the owner of the voice connections asks of every driver.

    Attributes:
        timing: Every delay.
        ca_file: A certificate authority to trust besides the system's (PEM).
        allowed_hosts: Patterns of the voice servers that may be called. Media goes to public addresses alone, and to
            those named here.
    """

    timing: Timing
    ca_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()


@runtime_checkable
class VoiceDriver(Protocol):
    """Opens voice links. One driver serves all sessions of a bot."""

    name: str

    def open(self, cred: Credentials, events: LinkEvents) -> AbstractAsyncContextManager[VoiceLink]:
        """Connect and yield a link that is live: session description received, UDP discovered.

        The handshake bounds each of its steps by `Timing`; leaving the context closes sockets and tasks within one
        second, also when cancelled.

        Raises:
            VoiceError: The handshake failed. ``__cause__`` may be a `LinkClosed` with the `LinkEnd`.
        """
        ...


class LinkClosed(Exception):
    """Carries the `LinkEnd` of a link that ended during its handshake."""

    def __init__(self, end: LinkEnd) -> None:
        super().__init__(end.reason)
        self.end = end


@dataclasses.dataclass(frozen=True, slots=True)
class SessionStats:
    """One session, over all its links."""

    opened_at: float
    duration_s: float
    generation: int
    frames_received: int
    frames_delivered: int
    frames_refused: int
    """Frames dropped because their speaker had not agreed."""
    refused_by_user: Mapping[int, int]
    """User 0: everybody who was not in the channel."""
    link: LinkStats


class VoiceSession(Protocol):
    """One logical stay in voice, from opening to closed: the same object over resume, region change and move.

    Owned by the voice plugin; consumers must drop it in ``voice_session_closed``.
    """

    id: str
    guild_id: int
    started_by: int
    """The member who asked for it, or 0."""
    text_channel_id: int
    """Where notices about this session are posted, or 0."""

    @property
    def channel_id(self) -> int: ...

    @property
    def generation(self) -> int: ...

    @property
    def state(self) -> str: ...

    @property
    def members(self) -> frozenset[int]:
        """Users in the channel now, the bot excluded."""
        ...

    @property
    def capture_state(self) -> str:
        """``off``, ``notice`` (being posted), ``on``, or ``failed`` (no notice could be posted, so no capture)."""
        ...

    def attach(self, sink: FrameSink, *, facts: NoticeFacts = UNSAID) -> Callable[[], None]:
        """Start delivering consented frames to `sink`; the result detaches it (idempotent).

        The first sink makes the session post its notice; no frame is delivered before the notice stands. A sink with
        facts that the standing notice does not tell needs a new notice first. The notice ends with the last sink.

        A sink belongs to the plugin that attaches it, and to the one whose code it is: they are named in the notice,
        and it is detached when one of them is unloaded, switched off in the guild, or stopped there.

        Args:
            facts: What the consumer does with the sound. Attach anew when they change. The notice stands in their
                channel too, and `text_channel_id` becomes that channel; 0 leaves it.

        Raises:
            ClosedError: The session is closed, or the plugin whose sink it is is off in the guild.
            UsageError: Whose sink it is cannot be found: attach it from the plugin's own code.
        """
        ...

    async def capturing(self) -> bool:
        """Wait until the notice stands (True) or could not be posted; a notice that failed is tried again."""
        ...

    def revoke(self, user_id: int) -> None:
        """Stop delivering this user's frames and have every sink purge them."""

    def send_opus(self, opus: bytes) -> None: ...

    def stats(self) -> SessionStats: ...


@dataclasses.dataclass(frozen=True, slots=True)
class JoinRequest:
    """A wish to enter a voice channel, as `voice_join_check` sees it."""

    guild_id: int
    channel_id: int
    user_id: int
    text_channel_id: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Every delay of voice, in seconds. Tests use `scaled`; results record the scale."""

    scale: float = 1.0
    signalling_s: float = 5.0
    connecting_s: float = 10.0
    await_server_s: float = 5.0
    await_server_null_s: float = 30.0
    await_first_server_s: float = 10.0
    late_answer_s: float = 60.0
    close_local_s: float = 1.0
    leave_ack_s: float = 2.0
    orphan_retry_s: tuple[float, ...] = (2.0, 5.0, 10.0)
    reap_null_s: float = 2.0
    reap_claim_s: float = 2.0
    reap_give_up_s: float = 300.0
    op4_guild_s: float = 1.0
    op4_window_s: float = 60.0
    op4_per_window: int = 100
    ws_open_s: float = 3.0
    hello_s: float = 2.0
    ready_s: float = 3.0
    discovery_s: float = 3.0
    discovery_resend_s: float = 0.25
    session_description_s: float = 2.0
    resume_s: float = 3.0
    heartbeat_min_s: float = 1.0
    heartbeat_max_s: float = 5.0
    heartbeat_missed: int = 2
    keepalive_s: float = 5.0
    deaf_after_s: float = 15.0
    reconnect_window_s: float = 60.0
    reconnect_limit: int = 5
    failed_cooldown_s: float = 60.0
    dave_old_key_s: float = 10.0
    dave_recover_window_s: float = 60.0
    dave_recover_s: float = 5.0
    ssrc_idle_s: float = 50.0
    reorder_s: float = 0.06
    early_packet_s: float = 0.5
    ws_tries: int = 3
    ws_retry_s: float = 0.2

    def scaled(self, factor: float, *, floor_s: float = 0.05) -> Timing:
        """The same table with every delay times `factor`, but not below `floor_s`; counts stay."""
        changed: dict[str, object] = {"scale": self.scale * factor}
        for spec in dataclasses.fields(self):
            if not spec.name.endswith("_s"):
                continue
            value = getattr(self, spec.name)
            if isinstance(value, tuple):
                changed[spec.name] = tuple(max(v * factor, floor_s) for v in value)
            else:
                changed[spec.name] = max(value * factor, min(value, floor_s))
        return dataclasses.replace(self, **changed)  # type: ignore[arg-type]
