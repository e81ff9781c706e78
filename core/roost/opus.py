"""Opus, through the libopus that PyAV ships: the one binding of the project.

Used by the speech worker, by the simulated Discord's members and by plugins that send audio; the bot process itself
never decodes.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext

from roost.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ
from roost.errors import ResourceError

Samples = npt.NDArray[np.int16]


class OpusError(ResourceError):
    """The packet is not valid Opus. The codec stays usable."""


class OpusDecoder:
    """Decodes one speaker's packets to 48 kHz mono."""

    def __init__(self) -> None:
        context = av.CodecContext.create("libopus", "r")
        assert isinstance(context, AudioCodecContext)
        context.sample_rate = SAMPLE_RATE_HZ
        context.layout = "mono"
        context.open()
        self._context = context

    def decode(self, packet: bytes) -> Samples:
        """One packet to int16 samples, shape (n,), n <= 5760 (120 ms).

        Raises:
            OpusError: The packet is damaged.
        """
        try:
            frames = self._context.decode(av.Packet(packet))
        except av.error.FFmpegError as error:
            raise OpusError("damaged Opus packet") from error
        parts = [frame.to_ndarray().reshape(-1) for frame in frames]
        if not parts:
            return np.zeros(0, np.int16)
        return np.concatenate(parts).astype(np.int16, copy=False)


class OpusEncoder:
    """Encodes 48 kHz mono into 20 ms packets.

    Args:
        bitrate: Bits per second.
    """

    def __init__(self, bitrate: int = 64_000) -> None:
        context = av.CodecContext.create("libopus", "w")
        assert isinstance(context, AudioCodecContext)
        context.sample_rate = SAMPLE_RATE_HZ
        context.layout = "mono"
        context.format = "s16"
        context.bit_rate = bitrate
        context.time_base = Fraction(1, SAMPLE_RATE_HZ)
        context.options = {"application": "voip", "frame_duration": "20"}
        context.open()
        self._context = context
        self._pts = 0

    def encode(self, samples: Samples) -> list[bytes]:
        """Exactly 960 samples in, zero or more packets out (the encoder looks ahead by a few milliseconds)."""
        if samples.shape != (FRAME_SAMPLES,):
            raise ValueError(f"a frame has {FRAME_SAMPLES} samples, not {samples.shape}")
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None, :], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts = self._pts
        self._pts += FRAME_SAMPLES
        return [bytes(packet) for packet in self._context.encode(frame)]

    def flush(self) -> list[bytes]:
        """The packets still inside; the encoder is finished afterwards."""
        return [bytes(packet) for packet in self._context.encode(None)]


def encode_all(samples: Samples, bitrate: int = 64_000) -> list[bytes]:
    """Encode a whole recording (48 kHz mono int16), zero-padded to whole frames."""
    padded = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
    encoder = OpusEncoder(bitrate)
    packets: list[bytes] = []
    for start in range(0, len(padded), FRAME_SAMPLES):
        packets += encoder.encode(padded[start : start + FRAME_SAMPLES])
    return packets + encoder.flush()
