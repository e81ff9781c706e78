"""What ``/voice test`` keeps while it listens."""

from __future__ import annotations

from collections import Counter

import pytest

from roost.audio import SILENCE_FRAME, AudioFrame, LinkStats, NotHeard, Unheard
from roost_voice.hearing import MAX_BYTES_EACH, MAX_FRAMES_EACH, MEANWHILE, NEXT, WHY, Ear, Hearing

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


def test_what_a_plugin_says_of_a_member_is_read_by_them_alone() -> None:
    why = NotHeard(Unheard.FORBIDDEN, "gate", "Ben is asleep.")
    found = Hearing(5.0, 2, LinkStats(), {}, {11: why, 12: None}, capturing=True)
    assert "- <@11>: not heard, because the plugin `gate` does not allow it: Ben is asleep." in found.words(11)
    assert found.words(11).endswith(NEXT)
    assert "asleep" not in found.words(12)
    assert f"- <@12>: not heard, because {MEANWHILE}" in found.words(12)
    assert NEXT not in found.words(12)


@pytest.mark.parametrize("why", Unheard)
def test_every_reason_not_to_be_heard_has_words(why: Unheard) -> None:
    found = Hearing(5.0, 2, LinkStats(), {}, {11: NotHeard(why, "gate")}, capturing=True)
    assert WHY[why].format(plugin="the plugin `gate`") in found.words(0)
