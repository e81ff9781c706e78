"""RTP packets (RFC 3550) as Discord's rtpsize encryption modes carry them.

In clear and authenticated: the 12-byte header, the contributing sources, and the 4-byte preamble of a header extension
(RFC 8285). Encrypted: the extension's body, the payload, the padding.
"""

from __future__ import annotations

import struct

PAYLOAD_TYPE_OPUS = 0x78
MAX_DATAGRAM_BYTES = 2048
"""Larger datagrams are not voice: packets of every length are made to fit into one Ethernet frame."""

HEADER = struct.Struct(">BBHII")
HEADER_BYTES = HEADER.size
TAG_BYTES = 16
NONCE_BYTES = 4
_EXTENSION_WORDS = struct.Struct(">H")
_OVERHEAD_BYTES = TAG_BYTES + NONCE_BYTES

Header = tuple[int, int, int, int, int, int]
"""(first byte, sequence, rtp_timestamp, ssrc, bytes in clear, bytes of the encrypted extension body)."""


def parse(data: bytes) -> Header | str:
    """Read the clear part of a voice packet.

    Args:
        data: One datagram.

    Returns:
        The header, or the reason why this datagram is no Opus packet of ours.
    """
    size = len(data)
    if size < HEADER_BYTES + _OVERHEAD_BYTES or size > MAX_DATAGRAM_BYTES:
        return "size"
    first, second, sequence, rtp_timestamp, ssrc = HEADER.unpack_from(data)
    if first >> 6 != 2:
        return "not_rtp"
    if 200 <= second <= 204:
        return "rtcp"
    if second & 0x7F != PAYLOAD_TYPE_OPUS:
        return "payload_type"
    clear = HEADER_BYTES + 4 * (first & 0x0F)
    extension = 0
    if first & 0x10:
        clear += 4
        if clear + _OVERHEAD_BYTES > size:
            return "header"
        extension = 4 * _EXTENSION_WORDS.unpack_from(data, clear - 2)[0]
    if clear + extension + _OVERHEAD_BYTES > size:
        return "header"
    return first, sequence, rtp_timestamp, ssrc, clear, extension


def strip(first: int, extension: int, body: bytes) -> bytes | str:
    """Cut the extension and the padding off a decrypted body.

    Without the second step 3 to 15 % of Discord's packets carry trailing bytes into the end-to-end decryption, which
    then refuses them.

    Args:
        first: The packet's first byte, whose bit 0x20 announces padding.
        extension: Bytes of the extension body in front of the payload.
        body: What the transport encryption covered.

    Returns:
        The payload, or the reason why there is none.
    """
    end = len(body)
    if first & 0x20:
        if not end:
            return "padding"
        count = body[-1]
        if not 0 < count <= end - extension:
            return "padding"
        end -= count
    if end <= extension:
        return "empty"
    return body[extension:end]


def build_header(sequence: int, rtp_timestamp: int, ssrc: int) -> bytes:
    """The clear header of an outgoing Opus packet: no sources, no extension, no padding."""
    return HEADER.pack(0x80, PAYLOAD_TYPE_OPUS, sequence, rtp_timestamp, ssrc)
