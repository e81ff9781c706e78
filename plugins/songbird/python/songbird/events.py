"""What can be listened to, and what listeners are given."""

from __future__ import annotations

import dataclasses
import enum
from typing import ClassVar

from songbird.errors import CLOSE_CODES


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happens. The class attributes are the events; timers are made by `periodic` and `delayed`.

    A listener that gives back `Event.Cancel` is not called again.
    """

    name: str
    delay_s: float = 0.0
    phase_s: float | None = None

    Cancel: ClassVar[Event]
    Play: ClassVar[Event]
    Pause: ClassVar[Event]
    End: ClassVar[Event]
    Loop: ClassVar[Event]
    Preparing: ClassVar[Event]
    Playable: ClassVar[Event]
    Error: ClassVar[Event]
    SpeakingStateUpdate: ClassVar[Event]
    ClientDisconnect: ClassVar[Event]
    DriverConnect: ClassVar[Event]
    DriverReconnect: ClassVar[Event]
    DriverDisconnect: ClassVar[Event]
    VoicePacket: ClassVar[Event]
    DriverPanic: ClassVar[Event]

    @staticmethod
    def periodic(duration: float, phase: float | None = None) -> Event:
        """Every `duration` seconds, the first time after `phase` seconds (or `duration`)."""
        return _timer("periodic", duration, phase)

    @staticmethod
    def delayed(duration: float) -> Event:
        """Once, after `duration` seconds."""
        return _timer("delayed", duration, None)

    @property
    def is_timer(self) -> bool:
        return self.name in ("periodic", "delayed")

    @property
    def is_of_tracks(self) -> bool:
        return self.name in TRACK_EVENTS


def _timer(name: str, duration: float, phase: float | None) -> Event:
    if not 0 < duration < 1e8 or not 0 <= (phase or 0.0) < 1e8:
        raise ValueError("the time of an event is in seconds, and more than 0")
    return Event(name, float(duration), phase)


TRACK_EVENTS = frozenset(("play", "pause", "end", "loop", "preparing", "playable", "error"))
"""Events that a listener gets as ``list[TrackState]``; the others are of the driver."""

Event.Cancel = Event("cancel")
Event.Play = Event("play")
Event.Pause = Event("pause")
Event.End = Event("end")
Event.Loop = Event("loop")
Event.Preparing = Event("preparing")
Event.Playable = Event("playable")
Event.Error = Event("error")
Event.SpeakingStateUpdate = Event("speaking")
Event.ClientDisconnect = Event("left")
Event.DriverConnect = Event("connected")
Event.DriverReconnect = Event("reconnected")
Event.DriverDisconnect = Event("disconnected")
Event.VoicePacket = Event("packets")
Event.DriverPanic = Event("panicked")


@dataclasses.dataclass(frozen=True, slots=True)
class Panic:
    """A task of Songbird has died of a fault in it, in this driver or in another one of the process: what stands may
    be deaf or mute for good. Leave, and connect again.
    """

    place: str


class SpeakingState(enum.IntFlag):
    """How somebody sends."""

    Microphone = 1
    Soundshare = 2
    Priority = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Speaking:
    """Somebody began to speak or changed how; the first one says whose the stream `ssrc` is."""

    user_id: int | None
    ssrc: int
    speaking: SpeakingState
    delay: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class ClientDisconnect:
    """Somebody left the channel."""

    user_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectData:
    """The driver is connected, or (`Event.DriverReconnect`) again."""

    channel_id: int
    guild_id: int
    session_id: str = dataclasses.field(repr=False)
    server: str
    ssrc: int


class DisconnectKind(enum.Enum):
    """When the connection was lost."""

    Connect = "connect"
    """It was never made."""
    Reconnect = "reconnect"
    """While it was made again."""
    Runtime = "runtime"
    """It stood."""


class DisconnectReason(enum.Enum):
    """Why."""

    AttemptDiscarded = "attempt_discarded"
    Internal = "internal"
    Io = "io"
    ProtocolViolation = "protocol_violation"
    TimedOut = "timed_out"
    Requested = "requested"
    WsClosed = "ws_closed"
    Unknown = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class DisconnectData:
    """The driver is no longer connected and will not connect by itself.

    Attributes:
        code: Discord's close code, where Songbird tells it.
    """

    kind: DisconnectKind
    reason: DisconnectReason
    code: int | None
    channel_id: int
    guild_id: int
    session_id: str = dataclasses.field(repr=False)

    @property
    def text(self) -> str:
        """A sentence for people."""
        if self.code is not None:
            return f"{self.code}: {CLOSE_CODES.get(self.code, 'closed')}"
        return self.reason.value.replace("_", " ")
