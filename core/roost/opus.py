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

from roost.audio import FRAME_MS, SAMPLE_RATE_HZ
from roost.errors import ResourceError
from roost.opus_packet import packet_samples

Samples = npt.NDArray[np.int16]
PACKET_MS = (2.5, 5, 10, 20, 40, 60, 80, 100, 120)
"""Lengths of packets that can be encoded; Discord's own clients send 20 to 120 ms."""


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
            OpusError: The packet is not valid. The next valid one is decoded as if this one had never come.
        """
        # An empty packet would end the stream for good: to FFmpeg it says that nothing more follows.
        if not packet_samples(packet):
            raise OpusError("not a valid Opus packet")
        try:
            frames = self._context.decode(av.Packet(packet))
        except av.error.FFmpegError as error:
            self._context.flush_buffers()
            raise OpusError("damaged Opus packet") from error
        parts = [frame.to_ndarray().reshape(-1) for frame in frames]
        if not parts:
            return np.zeros(0, np.int16)
        return np.concatenate(parts).astype(np.int16, copy=False)


class OpusEncoder:
    """Encodes 48 kHz mono into packets of one length.

    Args:
        bitrate: Bits per second.
        packet_ms: Length of a packet: one of `PACKET_MS`.
    """

    def __init__(self, bitrate: int = 64_000, packet_ms: float = FRAME_MS) -> None:
        if packet_ms not in PACKET_MS:
            raise ValueError(f"an Opus packet lasts one of {PACKET_MS} ms, not {packet_ms}")
        self._samples = round(packet_ms * SAMPLE_RATE_HZ / 1000)
        context = av.CodecContext.create("libopus", "w")
        assert isinstance(context, AudioCodecContext)
        context.sample_rate = SAMPLE_RATE_HZ
        context.layout = "mono"
        context.format = "s16"
        context.bit_rate = bitrate
        context.time_base = Fraction(1, SAMPLE_RATE_HZ)
        context.options = {"application": "voip", "frame_duration": f"{packet_ms:g}"}
        context.open()
        self._context = context
        self._pts = 0

    def encode(self, samples: Samples) -> list[bytes]:
        """The samples of one packet in, zero or more packets out (the encoder looks ahead by a few milliseconds)."""
        if samples.shape != (self._samples,):
            raise ValueError(f"a packet has {self._samples} samples, not {samples.shape}")
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None, :], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts = self._pts
        self._pts += self._samples
        return [bytes(packet) for packet in self._context.encode(frame)]

    def flush(self) -> list[bytes]:
        """The packets still inside; the encoder is finished afterwards."""
        return [bytes(packet) for packet in self._context.encode(None)]


def encode_all(samples: Samples, bitrate: int = 64_000, packet_ms: float = FRAME_MS) -> list[bytes]:
    """Encode a whole recording (48 kHz mono int16), zero-padded to whole packets."""
    step = round(packet_ms * SAMPLE_RATE_HZ / 1000)
    padded = np.pad(samples, (0, -len(samples) % step))
    encoder = OpusEncoder(bitrate, packet_ms)
    packets: list[bytes] = []
    for start in range(0, len(padded), step):
        packets += encoder.encode(padded[start : start + step])
    return packets + encoder.flush()
