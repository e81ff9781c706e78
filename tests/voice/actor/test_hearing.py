"""What ``/voice test`` keeps while it listens."""

from __future__ import annotations

from collections import Counter

import pytest

from roost.audio import SILENCE_FRAME, AudioFrame
from roost_voice.hearing import MAX_BYTES_EACH, MAX_FRAMES_EACH, Ear

pytestmark = pytest.mark.unit

SHORT = b"\xe0" + bytes(20)
"""A packet of 2.5 ms."""


def test_nobody_crowds_out_the_others() -> None:
    ear = Ear()
    for number in range(3 * MAX_FRAMES_EACH):
        ear.write(AudioFrame(1, 5, 50, 120 * number, SHORT))
    for number in range(1000):
        ear.write(AudioFrame(1, 6, 60, 960 * number, b"\x78" + bytes(1200)))
        ear.write(AudioFrame(1, 7, 70, 960 * number, b"\x78" + bytes(80)))
        ear.write(AudioFrame(1, 7, 70, 960 * number, SILENCE_FRAME))
    kept = Counter(frame.user_id for frame in ear.frames)
    assert kept == {5: MAX_FRAMES_EACH, 6: MAX_BYTES_EACH // 1201, 7: 1000}


def test_a_test_begins_with_nothing() -> None:
    ear = Ear()
    for number in range(2 * MAX_FRAMES_EACH):
        ear.write(AudioFrame(1, 5, 50, 120 * number, SHORT))
    ear.begin()
    ear.write(AudioFrame(1, 5, 50, 0, SHORT))
    assert len(ear.frames) == 1
    ear.listening = False
    ear.write(AudioFrame(1, 5, 50, 0, SHORT))
    assert len(ear.frames) == 1
