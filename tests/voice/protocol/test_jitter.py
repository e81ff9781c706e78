"""Order, loss and duplicates of one stream."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost_voice.protocol.jitter import LATE, MAX_HELD, RESTART_AFTER, RESYNC_GAP, SequenceTracker

pytestmark = pytest.mark.unit


class Stream:
    """Feeds a tracker as the receiver does."""

    def __init__(self) -> None:
        self.tracker = SequenceTracker(0.06)
        self.out: list[tuple[int, int]] = []
        self.refused: list[str] = []
        self.clock = 0
        """By how much the media clock differs from what the numbers say, in packets."""
        self._last = 0

    def feed(self, *sequences: int, now: float = 0.0, garbled: bool = False, in_network: bool = False) -> Stream:
        """Packets of 20 ms, as the server sends them; `in_network`: it had sent them before others."""
        for sequence in sequences:
            reason = self.tracker.refusal(sequence)
            if reason is not None:
                if reason != LATE or in_network or not self.tracker.restarts(sequence):
                    self.refused.append(reason)
                    continue
                self._release(self.tracker.restart(sequence))
            if garbled:
                self._release(self.tracker.accept(sequence, None, now))
                continue
            timestamp = 960 * (self._counted(sequence) + self.clock) & 0xFFFFFFFF
            lost = self.tracker.in_order(sequence, timestamp, 960)
            if lost >= 0:
                self.out.append((sequence, lost))
            else:
                self._release(self.tracker.accept(sequence, (timestamp, 960, sequence.to_bytes(2, "big")), now))
        return self

    def _counted(self, sequence: int) -> int:
        """The number without its wraps."""
        self._last += ((sequence - self._last + 0x8000) & 0xFFFF) - 0x8000
        return self._last

    def tick(self, now: float) -> Stream:
        self._release(self.tracker.expire(now))
        return self

    def _release(self, released: list[tuple[int, bytes, int]]) -> None:
        self.out += [(int.from_bytes(opus, "big"), lost) for _, opus, lost in released]


def test_in_order_passes_at_once() -> None:
    stream = Stream().feed(65_534, 65_535, 0, 1)
    assert stream.out == [(65_534, 0), (65_535, 0), (0, 0), (1, 0)]
    assert stream.tracker.held == 0
    assert stream.tracker.due is None


def test_short_reordering_is_repaired() -> None:
    assert Stream().feed(1, 3, 2, 4).out == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_a_gap_is_counted_when_its_time_is_up() -> None:
    stream = Stream().feed(1, 4, 5, now=1.0)
    assert stream.out == [(1, 0)]
    assert stream.tracker.due == pytest.approx(1.06)
    stream.tick(1.05)
    assert stream.tracker.held == 2
    stream.tick(1.06)
    assert stream.out == [(1, 0), (4, 2), (5, 0)]
    assert stream.tracker.lost == 2
    assert stream.tracker.due is None
    assert stream.feed(6).out[-1] == (6, 0)


def test_a_gap_is_given_up_when_ten_wait() -> None:
    stream = Stream().feed(1, *range(3, 3 + MAX_HELD))
    assert len(stream.out) == 1
    stream.feed(3 + MAX_HELD)
    assert stream.out[1] == (3, 1)
    assert len(stream.out) == 2 + MAX_HELD


def test_duplicates_and_late_packets_are_refused() -> None:
    stream = Stream().feed(1, 2, 2, 4, 4)
    assert stream.refused == ["late", "duplicate"]
    stream.tick(1.0).feed(3)
    assert stream.refused[-1] == "late"


def test_what_does_not_decrypt_is_lost_but_leaves_no_gap() -> None:
    stream = Stream().feed(1).feed(2, 3, garbled=True).feed(4)
    assert stream.out == [(1, 0), (4, 2)]
    assert stream.tracker.due is None


def test_a_far_jump_is_another_stream() -> None:
    stream = Stream().feed(10, 11, 30_000, 30_001)
    assert stream.out == [(10, 0), (11, 0), (30_000, 0), (30_001, 0)]
    assert stream.tracker.lost == 0


@pytest.mark.parametrize("back", [RESTART_AFTER, 12, 100, 1400, RESYNC_GAP])
def test_a_stream_that_begins_anew_at_a_lower_number_is_heard_after_a_few_packets(back: int) -> None:
    stream = Stream().feed(*range(5000, 5020))
    stream.clock = back
    stream.feed(*range(5020 - back, 5120 - back))
    dropped = RESTART_AFTER - 1
    assert stream.refused == [LATE] * dropped
    assert stream.out[20:] == [(5020 - back + dropped, dropped)] + [
        (sequence, 0) for sequence in range(5021 - back + dropped, 5120 - back)
    ]
    assert stream.tracker.lost == dropped


def test_what_waits_when_a_stream_begins_anew_is_heard_first() -> None:
    stream = Stream().feed(5000, 5002)
    stream.clock = 1400
    stream.feed(3603, 3604, 3605, 3606)
    assert [sequence for sequence, _ in stream.out] == [5000, 5002, 3605, 3606]
    assert stream.tracker.due is None


def test_late_packets_that_the_network_delayed_never_restart_a_stream() -> None:
    stream = Stream().feed(1, *range(20, 40)).tick(1.0)
    stream.feed(*range(2, 20), in_network=True).feed(40)
    assert stream.out[-1] == (40, 0)
    assert stream.refused == [LATE] * 18


def test_late_packets_between_newer_ones_never_restart_a_stream() -> None:
    stream = Stream().feed(*range(100, 120))
    for number in range(10):
        stream.feed(120 + number, 50 + number)
    assert stream.refused == [LATE] * 10
    assert stream.tracker.lost == 0


@pytest.mark.parametrize("by", [11, 50, 1400, RESYNC_GAP])
def test_a_jump_forward_that_took_no_time_is_no_loss(by: int) -> None:
    stream = Stream().feed(*range(100, 110))
    stream.clock = -by
    stream.feed(*range(110 + by, 113 + by), now=5.0).tick(5.06)
    assert stream.out[-3:] == [(110 + by, 0), (111 + by, 0), (112 + by, 0)]
    assert stream.tracker.lost == 0


def test_a_jump_forward_counts_what_there_was_time_for() -> None:
    stream = Stream().feed(*range(100, 110))
    stream.clock = -1397
    stream.feed(1510, now=5.0).tick(5.06)
    assert stream.out[-1] == (1510, 3)
    assert stream.tracker.lost == 3


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 65_535), st.integers(0, 2**32), st.floats(0, 0.4), st.integers(1, 6))
def test_whatever_the_network_does_order_holds_and_all_is_counted(
    first: int, seed: int, loss: float, spread: int
) -> None:
    dice = random.Random(seed)
    sent = [(first + n) & 0xFFFF for n in range(80)]
    arriving = sorted(
        ((n + dice.random() * spread, s) for n, s in enumerate(sent) if n == 0 or dice.random() >= loss),
    )
    arriving += [entry for entry in arriving if dice.random() < 0.1]
    arriving.sort()
    stream = Stream()
    for at, sequence in arriving:
        stream.tick(at * 0.02).feed(sequence, now=at * 0.02, in_network=True)
        assert stream.tracker.held <= MAX_HELD
    stream.tick(1000.0).tick(2000.0)
    for extra in range(20):
        stream.tick(3000.0 + extra)
    position = [sent.index(sequence) for sequence, _ in stream.out]
    assert position == sorted(set(position))
    assert len(stream.out) + len(stream.refused) == len(arriving)
    assert sum(lost for _, lost in stream.out) == stream.tracker.lost
    assert position[-1] - position[0] + 1 == len(position) + sum(lost for _, lost in stream.out)
