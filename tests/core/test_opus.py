"""Opus packets: what they say of themselves, and the decoder that outlives bad ones."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.audio import SILENCE_FRAME, AudioFrame
from roost.opus import PACKET_MS, OpusDecoder, OpusEncoder, OpusError, Samples, encode_all
from roost.opus_packet import MAX_FRAME_BYTES, MAX_SAMPLES, packet_samples

pytestmark = pytest.mark.unit


def tone(seconds: float) -> Samples:
    at = np.arange(int(seconds * 48_000))
    return (8000 * np.sin(at * 0.05)).astype(np.int16)


@pytest.mark.parametrize("packet_ms", PACKET_MS)
def test_a_packet_is_as_long_as_it_says(packet_ms: float) -> None:
    decoder = OpusDecoder()
    for packet in encode_all(tone(0.5), packet_ms=packet_ms):
        assert packet_samples(packet) == packet_ms * 48
        assert decoder.decode(packet).shape == (packet_ms * 48,)
        assert AudioFrame(1, 2, 3, 0, packet).samples == packet_ms * 48


def test_lengths_that_no_packet_has_are_refused() -> None:
    with pytest.raises(ValueError, match="30"):
        OpusEncoder(packet_ms=30)


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        (b"", 0),
        (b"\x78", 960),
        (SILENCE_FRAME, 960),
        (b"\x78" + bytes(MAX_FRAME_BYTES), 960),
        (b"\x78" + bytes(MAX_FRAME_BYTES + 1), 0),
        (b"\x79" + bytes(20), 1920),
        (b"\x79" + bytes(21), 0),
        (b"\x7a\x05" + bytes(9), 1920),
        (b"\x7a\x0a" + bytes(9), 0),
        (b"\x7a\xfc", 0),
        (b"\x7a", 0),
        (b"\x7b", 0),
        (b"\x7b\x00", 0),
        (b"\x7b\x03" + bytes(30), 2880),
        (b"\x7b\x03" + bytes(31), 0),
        (b"\x7b\x06", 5760),
        (b"\x7b\x07", 0),
        (b"\x1b\x02" + bytes(20), 5760),
        (b"\x1b\x03" + bytes(21), 0),
        (b"\x7b\x82\x04" + bytes(9), 1920),
        (b"\x7b\x82\x0a" + bytes(9), 0),
        (b"\x7b\x41\x05" + bytes(9), 960),
        (b"\x7b\x41\x0a" + bytes(9), 0),
        (b"\x7b\x41\xff\x00" + bytes(260), 960),
        (b"\x7b\x41\xff\x00" + bytes(200), 0),
        (b"\x7b\x41\xff\xff", 0),
    ],
)
def test_only_valid_packets_have_a_length(packet: bytes, samples: int) -> None:
    assert packet_samples(packet) == samples


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_the_decoder_is_of_the_same_mind(seed: int) -> None:
    dice = random.Random(seed)
    packet = bytearray(dice.randbytes(dice.choice([1, 2, 3, 8, 40, 1276, 1277, 1400])))
    packet[0] |= dice.choice([0, 0, 3])
    if len(packet) > 1:
        packet[1] &= dice.choice([0xFF, 0xC7])
    samples = packet_samples(bytes(packet))
    assert 0 <= samples <= MAX_SAMPLES
    if samples:
        assert OpusDecoder().decode(bytes(packet)).shape == (samples,)


@pytest.mark.parametrize("bad", [b"", b"\x7b\x00", b"\x7b\x07" + bytes(70), b"\x79\x00", b"\x78" + bytes(1400)])
def test_the_decoder_goes_on_after_a_bad_packet(bad: bytes) -> None:
    packets = encode_all(tone(0.4))
    through, clean = OpusDecoder(), OpusDecoder()
    for packet in packets:
        with pytest.raises(OpusError):
            through.decode(bad)
        assert np.array_equal(through.decode(packet), clean.decode(packet))
