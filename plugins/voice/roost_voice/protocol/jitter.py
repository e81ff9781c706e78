"""The order of one speaker's packets: duplicates and late ones refused, short reordering repaired, losses counted.

A packet that comes in order passes at once. One that comes early waits until the gap in front of it fills, until
`MAX_HELD` packets wait, or until its time is up; then the gap counts as lost.
"""

from __future__ import annotations

MAX_HELD = 10
RESYNC_GAP = 1500
"""A jump of 30 s or more is another stream, not loss."""

Packet = tuple[int, bytes]
"""(rtp_timestamp, Opus packet)."""
Released = tuple[int, bytes, int]
"""(rtp_timestamp, Opus packet, frames lost since the one before)."""


class SequenceTracker:
    """Orders the packets of one ssrc.

    Args:
        hold_s: How long an early packet may wait for the ones before it.
    """

    __slots__ = ("_due", "_expected", "_held", "_hold_s", "_missing", "held", "lost")

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._expected = -1
        # None marks a packet that came but could not be decrypted: it closes its gap, and counts as lost.
        self._held: dict[int, Packet | None] = {}
        self._due: float | None = None
        self._missing = 0
        self.held = 0
        """Packets that wait for the ones before them."""
        self.lost = 0
        """Frames that never came, came too late or could not be decrypted."""

    @property
    def due(self) -> float | None:
        """When `expire` should be called, or None while nothing waits."""
        return self._due

    def refusal(self, sequence: int) -> str | None:
        """Why a packet must be dropped before it is decrypted, or None."""
        if sequence == self._expected or self._expected < 0:
            return None
        if sequence in self._held:
            return "duplicate"
        if (self._expected - sequence) & 0xFFFF <= RESYNC_GAP:
            return "late"
        return None

    def in_order(self, sequence: int) -> int:
        """Let a packet pass at once if it is the next one.

        Returns:
            Frames lost before it, or -1 when `accept` has to take it.
        """
        if sequence != self._expected or self._held:
            return -1
        self._expected = (sequence + 1) & 0xFFFF
        lost = self._missing
        self._missing = 0
        return lost

    def accept(self, sequence: int, packet: Packet | None, now: float) -> list[Released]:
        """Take any packet that was not refused, and give what may pass now, in order.

        Args:
            sequence: Its RTP sequence number.
            packet: Its content, or None when it could not be decrypted.
            now: The clock, in seconds.
        """
        released: list[Released] = []
        if self._expected < 0:
            self._expected = sequence
        elif (sequence - self._expected) & 0xFFFF > RESYNC_GAP:
            released = self.flush()
            self._missing = 0
            self._expected = sequence
        self._held[sequence] = packet
        if packet is not None:
            self.held += 1
        before = self._expected
        self._drain(released)
        if self._expected == before and len(self._held) > MAX_HELD:
            self._skip(released)
        if not self._held:
            self._due = None
        elif self._due is None or self._expected != before:
            self._due = now + self._hold_s
        return released

    def expire(self, now: float) -> list[Released]:
        """Give up waiting for the oldest gap if its time is over."""
        released: list[Released] = []
        if self._due is not None and now >= self._due:
            self._skip(released)
            self._due = now + self._hold_s if self._held else None
        return released

    def flush(self) -> list[Released]:
        """Everything that waits, in order."""
        released: list[Released] = []
        while self._held:
            self._skip(released)
        self._due = None
        return released

    def _skip(self, released: list[Released]) -> None:
        """Count the first gap as lost and release up to the next one."""
        gap = min((sequence - self._expected) & 0xFFFF for sequence in self._held)
        self.lost += gap
        self._missing += gap
        self._expected = (self._expected + gap) & 0xFFFF
        self._drain(released)

    def _drain(self, released: list[Released]) -> None:
        while self._expected in self._held:
            packet = self._held.pop(self._expected)
            self._expected = (self._expected + 1) & 0xFFFF
            if packet is None:
                self.lost += 1
                self._missing += 1
            else:
                self.held -= 1
                released.append((*packet, self._missing))
                self._missing = 0
