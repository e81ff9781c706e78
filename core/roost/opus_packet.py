"""Opus packets, read without decoding them (RFC 6716, section 3): whether they are valid, and how long they last.

Only the table of contents and the lengths of the frames are read, so a packet costs a fraction of a microsecond.
"""

from __future__ import annotations

MAX_SAMPLES = 5760
"""The longest packet, 120 ms at 48 kHz."""
MAX_FRAME_BYTES = 1275
_CODE_MANY = 3
_TWO_BYTE_LENGTH = 252
"""A frame length from here on takes a second byte, which counts four times."""


def packet_samples(packet: bytes) -> int:
    """Length of an Opus packet in samples at 48 kHz, or 0 when it is not a valid packet.

    Discord's clients send packets of 20 to 120 ms; the format allows 2.5 ms and more.

    Args:
        packet: Any bytes.

    Returns:
        From 120 (2.5 ms) to `MAX_SAMPLES` (120 ms); 0 for an empty packet, a frame above `MAX_FRAME_BYTES`, a frame
        count of zero, more than 120 ms, and lengths that do not add up.
    """
    size = len(packet)
    if not size:
        return 0
    toc = packet[0]
    frame_samples = _FRAME_SAMPLES[toc >> 3]
    code = toc & 3
    if not code:
        return frame_samples if size <= 1 + MAX_FRAME_BYTES else 0
    if code == _CODE_MANY:
        return _samples_of_many(packet, frame_samples)
    if code == 1:
        both = size - 1
        return 0 if both & 1 or both > 2 * MAX_FRAME_BYTES else 2 * frame_samples
    first, start = _frame_length(packet, 1)
    return 2 * frame_samples if start and 0 <= size - start - first <= MAX_FRAME_BYTES else 0


def _samples_of_many(packet: bytes, frame_samples: int) -> int:
    """Length of a packet of code 3, which says how many frames it holds."""
    size = len(packet)
    if size < 2:
        return 0
    count = packet[1] & 0x3F
    samples = count * frame_samples
    if not 0 < samples <= MAX_SAMPLES:
        return 0
    at = 2
    end = size
    if packet[1] & 0x40:
        while True:
            if at >= size:
                return 0
            byte = packet[at]
            at += 1
            if byte < 255:
                end -= byte
                break
            end -= 254
    if packet[1] & 0x80:
        taken = 0
        for _ in range(count - 1):
            length, at = _frame_length(packet, at)
            if not at:
                return 0
            taken += length
        return samples if 0 <= end - at - taken <= MAX_FRAME_BYTES else 0
    room = end - at
    return samples if room >= 0 and room % count == 0 and room // count <= MAX_FRAME_BYTES else 0


def _frame_length(packet: bytes, at: int) -> tuple[int, int]:
    """The frame length at `at` and where it ends, or (0, 0) when the packet ends before."""
    if at >= len(packet):
        return 0, 0
    first = packet[at]
    if first < _TWO_BYTE_LENGTH:
        return first, at + 1
    if at + 1 >= len(packet):
        return 0, 0
    return first + 4 * packet[at + 1], at + 2


def _samples_of_config(config: int) -> int:
    """Samples of one frame, by the upper five bits of the first byte (RFC 6716, table 2)."""
    if config < 12:
        return (480, 960, 1920, 2880)[config & 3]
    if config < 16:
        return (480, 960)[config & 1]
    return (120, 240, 480, 960)[config & 3]


_FRAME_SAMPLES = tuple(_samples_of_config(config) for config in range(32))
