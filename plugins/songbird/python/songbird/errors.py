"""What can go wrong.

SongbirdError
+-- ConnectError (= CouldNotConnectToRTPError)   Discord, or the way to it, refused
+-- EndpointError (also a ValueError)            not the address of a voice server
+-- NotConnectedError                            the driver was left
+-- TrackError                                   the track is over, or its sound cannot be played
+-- SourceError                                  the origin of a sound cannot be read
|   +-- CouldNotOpenFileError
|   +-- YtdlError
|   +-- FfmpegError
+-- ConsumedSourceError                          a source was played before
+-- UseAsyncConstructorError                     `Driver()` instead of `await Driver.create()`
+-- QueueError
"""

from __future__ import annotations

import re

CLOSE_CODES: dict[int, str] = {
    4001: "an unknown opcode was sent",
    4002: "an invalid payload was sent",
    4003: "something was sent before identifying",
    4004: "the token is wrong",
    4005: "identified twice",
    4006: "the session is no longer valid",
    4009: "the session timed out",
    4011: "the voice server was not found",
    4012: "the protocol is unknown",
    4014: "disconnected: kicked, moved, or the channel is gone",
    4015: "the voice server crashed",
    4016: "the encryption mode is unknown",
    4017: "end-to-end encryption is required",
    4020: "a malformed request was sent",
    4021: "disconnected because of a rate limit",
    4022: "the call ended",
}
"""Discord's close codes of the voice gateway, each with a sentence for people."""

_FAILED = "failed to connect to Discord RTP server: "
"""How Songbird begins each of its sentences."""
_CLOSE_FRAME = re.compile(r'code: (?:Library\()?(\d+)\)?, reason: [^"]*"((?:[^"\\]|\\.)*)"')


_MESSAGE = re.compile(r'(?:message|error): "((?:[^"\\]|\\.)*)"')


class SongbirdError(Exception):
    """Anything this module raises on its own account."""


class ConnectError(SongbirdError):
    """A connection could not be made.

    Attributes:
        kind: ``ws_closed``, ``untrusted`` (the certificate), ``io`` (the way to the voice server), ``udp`` (the
            socket for sound), ``timed_out``, ``protocol_violation``, ``attempt_discarded``, ``internal`` or ``closed``
            (left meanwhile).
        code: Discord's close code, or None when no close frame was seen.
        reason: A sentence for people.
    """

    def __init__(self, kind: str, code: int | None, reason: str) -> None:
        super().__init__(reason if code is None else f"{code}: {reason}")
        self.kind = kind
        self.code = code
        self.reason = reason


CouldNotConnectToRTPError = ConnectError


class EndpointError(SongbirdError, ValueError):
    """The address is not ``host`` or ``host:port``."""


class NotConnectedError(SongbirdError):
    """The driver was left, or never used."""


class TrackError(SongbirdError):
    """The track is over, or its sound cannot be read or decoded."""


class SourceError(SongbirdError):
    """The origin of a sound cannot be read."""


class CouldNotOpenFileError(SourceError):
    """The file cannot be opened."""


class YtdlError(SourceError):
    """yt-dlp is missing or failed."""


class FfmpegError(SourceError):
    """Songbird no longer uses FFmpeg."""


class ConsumedSourceError(SongbirdError):
    """A source can be played once."""


class UseAsyncConstructorError(SongbirdError):
    """A driver is made by ``await Driver.create()``."""


class QueueError(SongbirdError):
    """The queue cannot do that now."""


def connect_error(kind: str, code: int | None, text: str) -> ConnectError:
    """The exception for what Songbird says of a failed connection."""
    said = _CLOSE_FRAME.search(text)
    if kind == "ws_closed" and said:
        code, words = int(said[1]), said[2]
        known = CLOSE_CODES.get(code, "")
        return ConnectError(kind, code, f"{known} ({words})" if known and words else known or words or "closed")
    if code is not None:
        return ConnectError(kind, code, CLOSE_CODES.get(code, "closed"))
    if "InvalidCertificate" in text or "UnknownIssuer" in text:
        return ConnectError(
            "untrusted",
            None,
            "the voice server's certificate is signed by nobody this machine trusts; "
            "name a certificate authority of your own with songbird.trust(ca_file) or SSL_CERT_FILE",
        )
    if kind == "ws_closed":
        return ConnectError("io", None, f"the voice server could not be reached: {_cause(text)}")
    text = text.removeprefix(_FAILED).rstrip(".")
    if kind == "io" and "(os error" in text:
        return ConnectError("udp", None, f"the socket for sound failed: {text}")
    return ConnectError(kind, None, text)


def _cause(text: str) -> str:
    """The sentence inside of what Rust prints of a nested error."""
    said = _MESSAGE.search(text)
    return said[1] if said else text.removeprefix(_FAILED).rstrip(".")
