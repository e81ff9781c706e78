"""IP discovery: how a client behind NAT learns the address the voice server sees it at.

74 bytes, big-endian: u16 type (1 request, 2 reply), u16 length 70, u32 ssrc, 64-byte NUL-terminated address, u16 port.
"""

from __future__ import annotations

import ipaddress
import struct

REQUEST = 1
REPLY = 2
PACKET_BYTES = 74
_LENGTH = 70
_LAYOUT = struct.Struct(">HHI64sH")


def build_request(ssrc: int) -> bytes:
    """The packet that asks for our own address."""
    return _LAYOUT.pack(REQUEST, _LENGTH, ssrc, b"", 0)


def looks_like_discovery(data: bytes) -> bool:
    """Whether a datagram is a discovery packet rather than media (RTP starts with 0x80 or more)."""
    return len(data) >= 2 and data[0] == 0 and data[1] in (REQUEST, REPLY)


def parse_reply(data: bytes, ssrc: int) -> tuple[str, int] | str:
    """Our (address, port) as the server sees them, or the reason why this is no reply to our request."""
    if len(data) != PACKET_BYTES:
        return "discovery_size"
    kind, length, echoed, raw, port = _LAYOUT.unpack(data)
    if kind != REPLY:
        return "discovery_type"
    if length != _LENGTH:
        return "discovery_length"
    if echoed != ssrc:
        return "discovery_ssrc"
    text, nul, _ = raw.partition(b"\0")
    if not nul or not port:
        return "discovery_address"
    try:
        return str(ipaddress.ip_address(text.decode("ascii"))), port
    except ValueError:
        return "discovery_address"
