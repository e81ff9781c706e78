"""The messages between the bot and its speech worker: length-prefixed, little-endian, the same framing both ways.

A message is ``u32 body length, u8 kind, body``. Audio, the only frequent kind, has a fixed binary head; everything
else is a small JSON object. Nothing here raises on what the other side wrote: a message that breaks the rules becomes a
`Violation`, which its reader drops and counts. The messages after it are read as ever.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Mapping
from typing import Any

MAX_BODY_BYTES = 1 << 20
MAX_OPUS_BYTES = 1 << 14
"""More than any packet has; longer ones are refused before they are sent."""
_HEAD = struct.Struct("<IB")
_AUDIO = struct.Struct("<QQQIdH")


class Kind(enum.IntEnum):
    """What a message is. Below 64: bot to worker; from 64 on: worker to bot."""

    HELLO = 1
    """JSON: engine, endpointing and limits; always the first."""
    AUDIO = 2
    PURGE = 3
    """JSON ``{token, guild, user}``: forget everything of this speaker; answered by `PURGED`."""
    DRAIN = 4
    """JSON ``{token, guild}``: end the open utterances of a guild, transcribe them; answered by `DRAINED`."""
    PING = 5
    """JSON ``{token}``; answered by `PONG`."""
    WISH = 6
    """JSON of a `roost_stt.protocol.wishes.Wish`: how a server or a person is to be understood from now on."""

    READY = 64
    """JSON: pid and how long the start took."""
    TRANSCRIPT = 65
    STARTED = 66
    """JSON ``{speakers: [[guild, user, last audio index]...], draft}``: this is in the engine now, and suspected when
    the process dies."""
    PURGED = 67
    DRAINED = 68
    PONG = 69
    """JSON: counters, ages in seconds, and per speaker the first audio index still needed."""
    LOST = 70
    """JSON ``{guild, user, reason, seconds}``: speech that will not become text."""
    FAILED = 71
    """JSON ``{message}``: the worker cannot work and exits."""
    PARTIAL = 72
    """JSON ``{guild, user, mark, text}``: the certain beginning of the utterance that began at audio index `mark`, or,
    with an empty text, that nothing comes of it; its transcript says so by itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One whole message."""

    kind: Kind
    body: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    """A message that breaks the rules. It is dropped; the next one begins where its length says."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Audio:
    """One Opus frame on its way to the worker.

    Attributes:
        index: Counts all frames sent by this bot process; never repeats, survives a restart of the worker.
        arrival_s: When the bot got it, on the machine's monotonic clock.
        lost_before: Frames of this stream known to be missing just before it.
    """

    index: int
    guild_id: int
    user_id: int
    rtp_timestamp: int
    arrival_s: float
    lost_before: int
    opus: bytes = dataclasses.field(repr=False)


def encode(kind: Kind, body: bytes = b"") -> bytes:
    """One message as bytes.

    Raises:
        ValueError: The body is over `MAX_BODY_BYTES`.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"a message body has at most {MAX_BODY_BYTES} bytes")
    return _HEAD.pack(len(body), kind) + body


def encode_json(kind: Kind, fields: Mapping[str, Any]) -> bytes:
    return encode(kind, json.dumps(fields, separators=(",", ":")).encode())


def encode_audio(audio: Audio) -> bytes:
    head = _AUDIO.pack(
        audio.index,
        audio.guild_id,
        audio.user_id,
        audio.rtp_timestamp & 0xFFFFFFFF,
        audio.arrival_s,
        min(max(audio.lost_before, 0), 0xFFFF),
    )
    return _HEAD.pack(len(head) + len(audio.opus), Kind.AUDIO) + head + audio.opus


def decode_audio(body: bytes) -> Audio | Violation:
    if len(body) <= _AUDIO.size:
        return Violation("audio message too short")
    index, guild_id, user_id, rtp_timestamp, arrival_s, lost_before = _AUDIO.unpack_from(body)
    if not -1e18 < arrival_s < 1e18:  # also refuses NaN
        return Violation("audio message with a nonsensical time")
    return Audio(index, guild_id, user_id, rtp_timestamp, arrival_s, lost_before, body[_AUDIO.size :])


def decode_json(body: bytes) -> dict[str, Any] | Violation:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return Violation("message body is not JSON")
    if not isinstance(fields, dict):
        return Violation("message body is not a JSON object")
    return fields


class FrameParser:
    """Cuts a byte stream into messages, however it arrives."""

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max = max_body_bytes
        self._buffer = bytearray()
        self._skipped = 0
        """Bytes still to come of a message that is too long to be kept."""

    def feed(self, data: bytes) -> list[Message | Violation]:
        """Take bytes, return the messages they complete, with a `Violation` in place of each that breaks the rules."""
        skipped = min(self._skipped, len(data))
        self._skipped -= skipped
        self._buffer += data[skipped:]
        out: list[Message | Violation] = []
        start = 0
        while len(self._buffer) - start >= _HEAD.size:
            length, number = _HEAD.unpack_from(self._buffer, start)
            end = start + _HEAD.size + length
            if length > self._max:
                out.append(Violation(f"message of {length} bytes"))
                self._skipped = max(0, end - len(self._buffer))
                start = min(end, len(self._buffer))
                continue
            if len(self._buffer) < end:
                break
            kind = _KINDS.get(number)
            if kind is None:
                out.append(Violation(f"unknown message kind {number}"))
            else:
                out.append(Message(kind, bytes(self._buffer[start + _HEAD.size : end])))
            start = end
        del self._buffer[:start]
        return out


_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}
