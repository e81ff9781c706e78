"""Order, loss and duplicates of one stream."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost_voice.protocol.jitter import MAX_HELD, SequenceTracker

pytestmark = pytest.mark.unit


class Stream:
    """Feeds a tracker as the receiver does."""

    def __init__(self) -> None:
        self.tracker = SequenceTracker(0.06)
        self.out: list[tuple[int, int]] = []
        self.refused: list[str] = []

    def feed(self, *sequences: int, now: float = 0.0, garbled: bool = False) -> Stream:
        for sequence in sequences:
            reason = self.tracker.refusal(sequence)
            if reason is not None:
                self.refused.append(reason)
                continue
            if garbled:
                self._release(self.tracker.accept(sequence, None, now))
                continue
            lost = self.tracker.in_order(sequence)
            if lost >= 0:
                self.out.append((sequence, lost))
            else:
                self._release(self.tracker.accept(sequence, (sequence, b"x"), now))
        return self

    def tick(self, now: float) -> Stream:
        self._release(self.tracker.expire(now))
        return self

    def _release(self, released: list[tuple[int, bytes, int]]) -> None:
        self.out += [(rtp_timestamp, lost) for rtp_timestamp, _, lost in released]


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
        stream.tick(at * 0.02).feed(sequence, now=at * 0.02)
        assert stream.tracker.held <= MAX_HELD
    stream.tick(1000.0).tick(2000.0)
    for extra in range(20):
        stream.tick(3000.0 + extra)
    position = [sent.index(sequence) for sequence, _ in stream.out]
    assert position == sorted(set(position))
    assert len(stream.out) + len(stream.refused) == len(arriving)
    assert sum(lost for _, lost in stream.out) == stream.tracker.lost
    assert position[-1] - position[0] + 1 == len(position) + sum(lost for _, lost in stream.out)
