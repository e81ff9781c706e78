"""Cutting audio into utterances, given probabilities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_stt.protocol.endpointing import ArrivalClock, Endpointing
from roost_stt.protocol.segmenter import CHUNK_BYTES, CHUNK_MS, Cut, Segment, Segmenter

pytestmark = pytest.mark.unit

OPTIONS = Endpointing(pre_roll_ms=320, silence_ms=512, soft_limit_s=4.0, soft_silence_ms=128, max_s=6.0)


def chunk(number: int) -> bytes:
    return number.to_bytes(4, "little") * (CHUNK_BYTES // 4)


def run(segmenter: Segmenter, probabilities: list[float], first: int = 0) -> list[Segment]:
    out: list[Segment] = []
    for number, probability in enumerate(probabilities, first):
        out += segmenter.push(chunk(number), probability, number * 0.032, number)
    return out


def test_an_utterance_has_its_pre_roll_and_ends_by_silence() -> None:
    segments = run(Segmenter(OPTIONS), [0.0] * 30 + [0.9] * 20 + [0.0] * 30)
    (segment,) = segments
    assert segment.cut is Cut.SILENCE
    assert segment.first_mark == 20  # ten chunks, 320 ms, before the detected start
    assert segment.pcm.startswith(chunk(20))
    assert segment.last_mark == 57  # half of the 512 ms of silence
    assert segment.speech_ms == 20 * CHUNK_MS
    assert segment.started_s == pytest.approx(20 * 0.032)
    assert segment.ended_s == pytest.approx(50 * 0.032)


def test_a_short_pause_does_not_cut() -> None:
    assert run(Segmenter(OPTIONS), [0.9] * 10 + [0.1] * 14 + [0.9] * 10) == []


def test_a_pause_too_short_at_first_is_enough_later() -> None:
    segments = run(Segmenter(OPTIONS), [0.9] * 120 + [0.0] * 5)
    assert [segment.last_mark for segment in segments] == [122]


def test_between_the_thresholds_speech_goes_on_but_does_not_begin() -> None:
    segmenter = Segmenter(OPTIONS)
    assert run(segmenter, [0.4] * 50) == []
    assert not segmenter.speaking
    assert run(segmenter, [0.9] * 4 + [0.4] * 40) == []
    assert segmenter.speaking


def test_a_click_is_noise() -> None:
    segmenter = Segmenter(OPTIONS)
    assert run(segmenter, [0.0] * 5 + [0.9] * 2 + [0.0] * 20) == []
    assert segmenter.noises == 1


def test_too_long_is_cut_where_it_is_quietest_and_nothing_is_lost() -> None:
    segmenter = Segmenter(OPTIONS)
    probabilities = [0.9] * 150 + [0.45, 0.4, 0.45] + [0.9] * 100
    (first,) = run(segmenter, probabilities)
    assert first.cut is Cut.LENGTH
    assert first.last_mark == 151
    (second,) = segmenter.end(Cut.ORDER)
    assert second.first_mark == 152
    assert first.pcm + second.pcm == b"".join(chunk(number) for number in range(len(probabilities)))


def test_a_gap_keeps_everything_heard() -> None:
    segmenter = Segmenter(OPTIONS)
    run(segmenter, [0.9] * 10 + [0.0] * 3)
    (segment,) = segmenter.end(Cut.GAP)
    assert len(segment.pcm) == 13 * CHUNK_BYTES
    assert segmenter.end(Cut.GAP) == []


@given(st.lists(st.floats(0, 1), max_size=400), st.integers(0, 400))
def test_every_chunk_is_accounted_for(probabilities: list[float], drain_at: int) -> None:
    segmenter = Segmenter(OPTIONS)
    segments = run(segmenter, probabilities[:drain_at]) + segmenter.end(Cut.ORDER)
    segments += run(segmenter, probabilities[drain_at:], first=min(drain_at, len(probabilities)))
    given_out = sum(len(segment.pcm) // CHUNK_BYTES for segment in segments)
    assert given_out + segmenter.dropped_chunks + segmenter.held_chunks == len(probabilities)
    marks = [mark for segment in segments for mark in (segment.first_mark, segment.last_mark)]
    assert marks == sorted(marks)
    assert all(segment.duration_s <= OPTIONS.max_s + 0.033 for segment in segments)


def test_packets_that_cease() -> None:
    clock = ArrivalClock(Endpointing(gap_ms=400, quiet_gap_ms=200))
    assert not clock.ended_by(99.0)
    clock.frame(1.0, 50.0, is_silence=False)
    assert not clock.ended_by(1.39)
    assert clock.ended_by(1.41)
    assert not clock.ended_at(50.39)
    assert clock.ended_at(50.41)
    clock.reset()
    assert not clock.ended_at(99.0)


def test_silence_frames_make_it_quicker() -> None:
    clock = ArrivalClock(Endpointing(gap_ms=400, quiet_gap_ms=200))
    for number in range(5):
        clock.frame(1.0 + number * 0.02, 50.0 + number * 0.02, is_silence=True)
    assert not clock.ended_by(1.19)
    assert clock.ended_by(1.21)
    assert clock.ended_at(50.21)


def test_one_silence_frame_is_no_farewell() -> None:
    clock = ArrivalClock(Endpointing(gap_ms=400, quiet_gap_ms=200))
    clock.frame(1.0, 1.0, is_silence=True)
    assert not clock.ended_by(1.3)
    clock.frame(1.3, 1.3, is_silence=False)
    assert not clock.ended_by(1.55)
