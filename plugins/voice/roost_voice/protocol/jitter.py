"""The order of one speaker's packets: duplicates and late ones refused, short reordering repaired, losses counted.

A packet that comes in order passes at once. One that comes early waits until the gap in front of it fills, until
`MAX_HELD` packets wait, or until its time is up; then the gap counts as lost. Where the timestamps leave no time for
the missing packets, the sender has skipped numbers, and these do not count. A sender may also begin anew at a lower
number: `RESTART_AFTER` late packets in a row show that.
"""

from __future__ import annotations

MAX_HELD = 10
RESYNC_GAP = 1500
"""A jump over so many packets is another stream, not loss."""
RESTART_AFTER = 3
"""So many late packets in a row, numbered one after the other, are a stream that begins anew."""
LATE = "late"
_HALF = 0x80000000

Packet = tuple[int, int, bytes]
"""(rtp_timestamp, samples, Opus packet)."""
Released = tuple[int, bytes, int]
"""(rtp_timestamp, Opus packet, packets lost since the one before)."""


class SequenceTracker:
    """Orders the packets of one ssrc.

    Args:
        hold_s: How long an early packet may wait for the ones before it.
    """

    __slots__ = (
        "_due",
        "_end",
        "_expected",
        "_held",
        "_hold_s",
        "_late",
        "_late_next",
        "_missing",
        "_samples",
        "held",
        "lost",
    )

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._expected = -1
        # None marks a packet that came but could not be decrypted: it closes its gap, and counts as lost.
        self._held: dict[int, Packet | None] = {}
        self._due: float | None = None
        self._missing = 0
        # Where the last packet ended, by the sender's clock, and its length.
        self._end = 0
        self._samples = 0
        self._late = 0
        self._late_next = -1
        self.held = 0
        """Packets that wait for the ones before them."""
        self.lost = 0
        """Packets that never came, came too late, could not be decrypted or are not valid Opus."""

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
            return LATE
        return None

    def restarts(self, sequence: int) -> bool:
        """Note a late packet that the server has sent after all others.

        Returns:
            Whether the sender numbers its packets anew, so that `restart` should take this one.
        """
        self._late = self._late + 1 if sequence == self._late_next else 1
        self._late_next = (sequence + 1) & 0xFFFF
        return self._late >= RESTART_AFTER

    def restart(self, sequence: int) -> list[Released]:
        """Go on with this packet as the next one; give what still waits of the old numbers, in order.

        The late ones before it were dropped, so they are lost.
        """
        released = self.flush()
        dropped = self._late - 1
        self._late = 0
        self.lost += dropped
        self._missing += dropped
        self._expected = sequence
        return released

    def in_order(self, sequence: int, rtp_timestamp: int, samples: int) -> int:
        """Let a packet pass at once if it is the next one.

        Returns:
            Packets lost before it, or -1 when `accept` has to take it.
        """
        if sequence != self._expected or self._held:
            return -1
        self._expected = (sequence + 1) & 0xFFFF
        self._end = rtp_timestamp + samples
        self._samples = samples
        self._late = 0
        lost = self._missing
        self._missing = 0
        return lost

    def accept(self, sequence: int, packet: Packet | None, now: float) -> list[Released]:
        """Take any packet that was not refused, and give what may pass now, in order.

        Args:
            sequence: Its RTP sequence number.
            packet: Its content, or None when there is none to be had.
            now: The clock, in seconds.
        """
        released: list[Released] = []
        if self._expected < 0:
            self._expected = sequence
        elif (sequence - self._expected) & 0xFFFF > RESYNC_GAP:
            released = self.flush()
            self._missing = 0
            self._expected = sequence
        self._late = 0
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
        lost = self._room_for(gap, self._held[(self._expected + gap) & 0xFFFF])
        self.lost += lost
        self._missing += lost
        self._expected = (self._expected + gap) & 0xFFFF
        self._drain(released)

    def _room_for(self, gap: int, following: Packet | None) -> int:
        """How many of the packets missing by number there was time for before the following one."""
        if following is None or not self._samples:
            return gap
        elapsed = (following[0] - self._end) & 0xFFFFFFFF
        return min(gap, -(-elapsed // self._samples)) if elapsed < _HALF else 0

    def _drain(self, released: list[Released]) -> None:
        while self._expected in self._held:
            packet = self._held.pop(self._expected)
            self._expected = (self._expected + 1) & 0xFFFF
            if packet is None:
                self.lost += 1
                self._missing += 1
            else:
                rtp_timestamp, self._samples, opus = packet
                self._end = rtp_timestamp + self._samples
                self.held -= 1
                released.append((rtp_timestamp, opus, self._missing))
                self._missing = 0
