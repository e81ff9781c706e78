"""Sessions and rooms of the simulated voice servers. Pure: frames go out through `Pipe`."""

from __future__ import annotations

import collections
import dataclasses
import json
import struct
from typing import Any, Protocol

from roost_voice.sim import rtp
from roost_voice.sim.delivery import DeliveryService

UNNUMBERED = frozenset({2, 6, 8, 9})
"""Ops without a sequence number. Not documented; observed in clients' sources."""

SEQ_MODULUS = 1 << 16

NUMBERED_SINCE = 8
"""From this gateway version on messages have numbers, heartbeats are objects and resumes make up for what was missed.

Source: Discord's documentation, and for binary messages serenity-voice-model 0.3.0, which Songbird uses: it asks for 4,
and can read neither a number before a binary op nor anything after the ``d`` of JSON.
"""


class Pipe(Protocol):
    """A client's websocket. Calls never block; what cannot be sent any more is dropped."""

    id: int
    virtual: bool
    version: int
    """Of the gateway, as the client asked for it (``?v=``)."""
    session: Session | None
    last_heartbeat: float

    def send(self, frame: str | bytes) -> None: ...

    def close(self, code: int) -> None:
        """Send what is queued, then a close frame."""

    def reset(self) -> None:
        """End TCP at once, with RST."""

    def garble(self) -> None:
        """Send a text frame that is no UTF-8."""

    def blackhole(self) -> None:
        """Neither read nor write any more, but stay connected."""


def json_frame(op: int, payload: Any, seq: int | None = None) -> str:
    message: dict[str, Any] = {"op": op, "d": payload}
    if seq is not None:
        message["seq"] = seq
    return json.dumps(message)


@dataclasses.dataclass(slots=True)
class Grant:
    """A ticket that was handed out; void once another was, or once the voice state ended."""

    token: str = dataclasses.field(repr=False)
    guild_id: int
    channel_id: int
    user_id: int
    session_id: str = dataclasses.field(repr=False)
    virtual: bool = False
    void: bool = False


class Session:
    """One identified user in one channel; outlives its websocket while it can be resumed."""

    def __init__(
        self, grant: Grant, pipe: Pipe, ssrc: int, max_dave: int, *, replay_messages: int, first_seq: int
    ) -> None:
        self.grant = grant
        self.pipe: Pipe | None = pipe
        self.ssrc = ssrc
        self.max_dave = max_dave
        self.lost_at: float | None = None
        """When the websocket went away without a proper end."""
        self.mode = ""
        self.opener: rtp.Cipher | None = None
        self.sealer: rtp.Cipher | None = None
        self.address: tuple[str, int] | None = None
        self.speaking: int | None = None
        """Bits of the last op 5; None before the first, which Discord wants to see before any audio."""
        self.seq_ack = -1
        self.heartbeats = 0
        self.unanswered_discoveries = 0
        self.packets_in = 0
        self.packets_out = 0
        self.relayed = 0
        self.bad: collections.Counter[str] = collections.Counter()
        self._first_seq = self._next_seq = first_seq % SEQ_MODULUS
        self._sent = 0
        self._buffer: collections.deque[tuple[int, str | bytes]] = collections.deque(maxlen=replay_messages)

    @property
    def user_id(self) -> int:
        return self.grant.user_id

    @property
    def last_seq(self) -> int:
        """The sequence number given last."""
        return (self._next_seq - 1) % SEQ_MODULUS

    @property
    def described(self) -> bool:
        return self.sealer is not None

    def send(self, op: int, payload: Any) -> None:
        """Number the message where its op has a number, keep it for a resume, and send it."""
        frame: str | bytes
        unnumbered = op in UNNUMBERED or (self.pipe is not None and self.pipe.version < NUMBERED_SINCE)
        if unnumbered:
            frame = bytes((op,)) + payload if isinstance(payload, bytes) else json_frame(op, payload)
        else:
            seq = self._next_seq
            self._next_seq = (seq + 1) % SEQ_MODULUS
            self._sent += 1
            if isinstance(payload, bytes):
                frame = struct.pack(">HB", seq, op) + payload
            else:
                frame = json_frame(op, payload, seq)
            self._buffer.append((seq, frame))
        if self.pipe is not None:
            self.pipe.send(frame)

    def repeat(self, count: int) -> None:
        """Send the last messages once more, newest first."""
        if self.pipe is not None:
            for _, frame in list(self._buffer)[: -count - 1 : -1]:
                self.pipe.send(frame)

    def missed(self, seq_ack: int) -> list[str | bytes] | None:
        """The frames after `seq_ack` (-1: after nothing), or None when one of them is gone."""
        wanted = self._first_seq if seq_ack == -1 else (seq_ack + 1) % SEQ_MODULUS
        if wanted == self._next_seq and (seq_ack != -1 or not self._sent):
            return []
        for index, (seq, _) in enumerate(self._buffer):
            if seq == wanted:
                if seq_ack == -1 and self._sent != len(self._buffer):
                    return None
                return [frame for _, frame in list(self._buffer)[index:]]
        return None

    def state(self) -> dict[str, Any]:
        """For the control API; ids are strings, as everywhere in Discord's JSON."""
        return {
            "guild_id": str(self.grant.guild_id),
            "channel_id": str(self.grant.channel_id),
            "user_id": str(self.user_id),
            "connection_id": self.pipe.id if self.pipe is not None else None,
            "virtual": self.grant.virtual,
            "ssrc": self.ssrc,
            "mode": self.mode,
            "udp": self.address is not None,
            "speaking": self.speaking or 0,
            "last_seq": self.last_seq,
            "seq_ack": self.seq_ack,
            "heartbeats": self.heartbeats,
            "packets_in": self.packets_in,
            "packets_out": self.packets_out,
            "relayed": self.relayed,
            "bad": dict(self.bad),
        }


class Room:
    """One voice channel with somebody in it."""

    def __init__(self, guild_id: int, channel_id: int, delivery: DeliveryService, *, stage: bool) -> None:
        self.guild_id = guild_id
        self.channel_id = channel_id
        self.delivery = delivery
        self.stage = stage
        self.sessions: dict[int, Session] = {}

    def others(self, session: Session) -> list[Session]:
        return [other for other in self.sessions.values() if other is not session]

    def dave_state(self, user_id: int) -> dict[str, Any]:
        return {
            "version": self.delivery.version,
            "epoch": self.delivery.epoch,
            "epochs": self.delivery.epochs,
            "in_group": self.delivery.in_group(user_id),
            "members": [str(user) for user in self.delivery.group],
            "rejected": dict(self.delivery.rejected),
        }
