"""From Opus frames to sealed RTP packets, one every 20 ms."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from roost.audio import FRAME_MS, FRAME_SAMPLES, SILENCE_FRAME

from . import rtp
from .aead import Sealer
from .dave import DaveGroup

MAX_QUEUED = 50
"""One second of audio; what comes on top is dropped and counted."""
SILENCE_FRAMES = 5
"""Sent when we stop, so that the listeners' decoders fade out in place of guessing on."""
_FRAME_S = FRAME_MS / 1000
_CATCH_UP_S = 0.1


class Sender:
    """The sending half of one link's media.

    Args:
        dave: The link's group.
        announce: Tells the voice gateway whether we speak (op 5).
        emit: Takes every datagram.
        sequence: First RTP sequence number, random.
        rtp_timestamp: First RTP timestamp, random.
    """

    def __init__(
        self,
        dave: DaveGroup,
        announce: Callable[[bool], None],
        emit: Callable[[bytes], None],
        *,
        sequence: int,
        rtp_timestamp: int,
    ) -> None:
        self._dave = dave
        self._announce = announce
        self._emit = emit
        self._sequence = sequence & 0xFFFF
        self._rtp_timestamp = rtp_timestamp & 0xFFFFFFFF
        self._queue: deque[bytes | None] = deque()
        self._next_at = float("-inf")
        self._sealer: Sealer | None = None
        self._ssrc = 0
        self.speaking = False
        self.packets_sent = 0
        self.dropped = 0

    @property
    def due(self) -> float | None:
        """When `handle_timer` should be called."""
        return self._next_at if self._queue else None

    def set_key(self, ssrc: int, sealer: Sealer) -> None:
        """Use the stream and key of a new session description."""
        self._ssrc = ssrc
        self._sealer = sealer

    def send_opus(self, opus: bytes, now: float) -> None:
        """Send one 20 ms frame now, or when the one before it is 20 ms old."""
        if self._sealer is None or not 0 < len(opus) <= rtp.MAX_DATAGRAM_BYTES // 2 or len(self._queue) >= MAX_QUEUED:
            self.dropped += 1
            return
        self._queue.append(opus)
        self.handle_timer(now)

    def set_speaking(self, on: bool, now: float) -> None:
        """Announce speech at once, or its end after what is queued and a little silence."""
        if on:
            self._say_speaking()
        elif self.speaking:
            self._queue.extend([*[SILENCE_FRAME] * SILENCE_FRAMES, None])
            self.handle_timer(now)

    def handle_timer(self, now: float) -> None:
        """Send what is due."""
        if now - self._next_at > _CATCH_UP_S:
            if self.packets_sent and self._next_at > float("-inf"):
                # The media clock runs on while we are silent.
                self._rtp_timestamp += int((now - self._next_at) / _FRAME_S) * FRAME_SAMPLES
            self._next_at = now
        if self._queue and not self.speaking and self._next_at <= now:
            # The announcement goes through two websockets, the frame straight: give it a head start.
            self._say_speaking()
            self._next_at = now + _FRAME_S
        while self._queue and self._next_at <= now:
            frame = self._queue.popleft()
            if frame is None:
                if not self._queue:
                    self.speaking = False
                    self._announce(False)
                continue
            self._send(frame)
            self._next_at += _FRAME_S

    def _say_speaking(self) -> None:
        if not self.speaking:
            self.speaking = True
            self._announce(True)

    def _send(self, frame: bytes) -> None:
        timestamp = self._rtp_timestamp & 0xFFFFFFFF
        self._rtp_timestamp = timestamp + FRAME_SAMPLES
        payload = self._dave.encrypt(frame)
        sealer = self._sealer
        if payload is None or sealer is None:
            self.dropped += 1
            return
        packet = sealer.seal(rtp.build_header(self._sequence, timestamp, self._ssrc), payload)
        if packet is None:
            self.dropped += 1
            return
        self._sequence = (self._sequence + 1) & 0xFFFF
        self.packets_sent += 1
        self._emit(packet)
