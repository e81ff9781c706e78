"""RTP as the simulated voice server sends and receives it, and IP discovery. Pure; knows both rtpsize modes.

Sources: RFC 3550, RFC 8285, Discord's documentation of voice connections.
"""

from __future__ import annotations

import dataclasses
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl import bindings as sodium
from nacl.exceptions import CryptoError

AES256_GCM = "aead_aes256_gcm_rtpsize"
XCHACHA20 = "aead_xchacha20_poly1305_rtpsize"
MODES = (AES256_GCM, XCHACHA20)
"""In the order Discord lists them."""

KEY_BYTES = 32
OPUS_PAYLOAD_TYPE = 0x78
DISCOVERY_BYTES = 74
_FIXED = struct.Struct(">BBHII")
_DISCOVERY = struct.Struct(">HHI64sH")
_TAG_BYTES = 16
_COUNTER_BYTES = 4


class BadPacket(ValueError):
    """A datagram that is no valid media packet; the message is the reason for the counters."""


class Cipher:
    """One direction of one session's transport encryption."""

    def __init__(self, mode: str, key: bytes) -> None:
        if mode not in MODES or len(key) != KEY_BYTES:
            raise ValueError("unknown mode or wrong key length")
        self.mode = mode
        self._key = key
        self._gcm = AESGCM(key) if mode == AES256_GCM else None
        self._counter = 0

    def seal(self, header: bytes, plain: bytes) -> bytes:
        nonce = self._counter.to_bytes(_COUNTER_BYTES, "big")
        self._counter = (self._counter + 1) % 2**32
        if self._gcm is not None:
            sealed = self._gcm.encrypt(nonce + bytes(8), plain, header)
        else:
            sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, header, nonce + bytes(20), self._key)
        return header + sealed + nonce

    def open(self, packet: bytes, header_bytes: int) -> bytes:
        header, sealed = packet[:header_bytes], packet[header_bytes:-_COUNTER_BYTES]
        nonce = packet[-_COUNTER_BYTES:]
        try:
            if self._gcm is not None:
                return self._gcm.decrypt(nonce + bytes(8), sealed, header)
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, header, nonce + bytes(20), self._key)
        except (InvalidTag, CryptoError, ValueError) as error:
            raise BadPacket("undecryptable") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet in clear.

    `extension` is the body of a one-byte-header extension, in whole words; `padding` counts bytes.
    """

    ssrc: int
    sequence: int
    timestamp: int
    payload: bytes = dataclasses.field(repr=False)
    extension: bytes = b""
    padding: int = 0
    marker: bool = False
    payload_type: int = OPUS_PAYLOAD_TYPE


def ssrc_of(datagram: bytes) -> int:
    """Of an RTP packet that is long enough to be one; see `is_media`."""
    return int.from_bytes(datagram[8:12], "big")


def is_media(datagram: bytes) -> bool:
    """Whether the datagram is RTP by its first two bytes and long enough; RTCP (types 200 to 204) is not."""
    return (
        len(datagram) >= _FIXED.size + _TAG_BYTES + _COUNTER_BYTES
        and datagram[0] >> 6 == 2
        and not 200 <= datagram[1] <= 204
    )


def seal(packet: Packet, cipher: Cipher) -> bytes:
    first = 0x80 | (0x20 if packet.padding else 0) | (0x10 if packet.extension else 0)
    second = packet.payload_type | (0x80 if packet.marker else 0)
    header = _FIXED.pack(first, second, packet.sequence % 2**16, packet.timestamp % 2**32, packet.ssrc)
    if packet.extension:
        header += b"\xbe\xde" + (len(packet.extension) // 4).to_bytes(2, "big")
    tail = bytes(packet.padding - 1) + bytes([packet.padding]) if packet.padding else b""
    return cipher.seal(header, packet.extension + packet.payload + tail)


def open_packet(datagram: bytes, cipher: Cipher) -> Packet:
    """Decrypt and take apart; raises `BadPacket`."""
    if not is_media(datagram):
        raise BadPacket("not_media")
    first, second, sequence, timestamp, ssrc = _FIXED.unpack_from(datagram)
    header_bytes = _FIXED.size + 4 * (first & 0x0F)
    extension_bytes = 0
    if first & 0x10:
        if len(datagram) < header_bytes + 4:
            raise BadPacket("truncated")
        extension_bytes = 4 * int.from_bytes(datagram[header_bytes + 2 : header_bytes + 4], "big")
        header_bytes += 4
    if len(datagram) < header_bytes + _TAG_BYTES + _COUNTER_BYTES:
        raise BadPacket("truncated")
    plain = cipher.open(datagram, header_bytes)
    if extension_bytes > len(plain):
        raise BadPacket("bad_extension")
    extension, payload = plain[:extension_bytes], plain[extension_bytes:]
    padding = 0
    if first & 0x20:
        padding = payload[-1] if payload else 0
        if not 0 < padding <= len(payload):
            raise BadPacket("bad_padding")
        payload = payload[:-padding]
    return Packet(ssrc, sequence, timestamp, payload, extension, padding, bool(second & 0x80), second & 0x7F)


def receiver_report(ssrc: int, highest_sequence: int, cipher: Cipher) -> bytes:
    """RTCP type 201 with one block about `ssrc` (RFC 3550 section 6.4.2), the block encrypted, as Discord sends it."""
    header = struct.pack(">BBHI", 0x81, 201, 7, 1)
    return cipher.seal(header, struct.pack(">IIIIII", ssrc, 0, highest_sequence, 3, 0, 0))


def discovery_request(ssrc: int) -> bytes:
    return _DISCOVERY.pack(1, 70, ssrc, b"", 0)


def discovery_reply(ssrc: int, host: str, port: int) -> bytes:
    return _DISCOVERY.pack(2, 70, ssrc, host.encode("ascii"), port)


def read_discovery_request(datagram: bytes) -> int | None:
    """The ssrc that asks, or None when the datagram is no discovery request."""
    if len(datagram) != DISCOVERY_BYTES:
        return None
    kind, size, ssrc, _, _ = _DISCOVERY.unpack(datagram)
    return ssrc if (kind, size) == (1, 70) else None


def read_discovery_reply(datagram: bytes, ssrc: int) -> tuple[str, int] | None:
    """The (host, port) told to `ssrc`, or None when the datagram is no such reply."""
    if len(datagram) != DISCOVERY_BYTES:
        return None
    kind, size, about, host, port = _DISCOVERY.unpack(datagram)
    if (kind, size, about) != (2, 70, ssrc) or b"\0" not in host or not port:
        return None
    try:
        return host.split(b"\0", 1)[0].decode("ascii"), port
    except UnicodeDecodeError:
        return None
