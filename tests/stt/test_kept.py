"""What the bot keeps in case the worker dies."""

from __future__ import annotations

import pytest

from roost_stt.kept import KeptFrames
from roost_stt.protocol.ipc import Audio

pytestmark = pytest.mark.unit


def frame(index: int, user: int = 7) -> Audio:
    return Audio(index, 1, user, 0, 0.0, 0, b"x")


def indices(frames: list[Audio]) -> list[int]:
    return [audio.index for audio in frames]


def test_frames_come_back_in_order_of_arrival() -> None:
    kept = KeptFrames()
    for index in range(1, 7):
        kept.add(frame(index, user=index % 2))
    assert indices(kept.after(0)) == [1, 2, 3, 4, 5, 6]
    assert indices(kept.after(2)) == [3, 4, 5, 6]


def test_only_what_is_needed_is_kept() -> None:
    kept = KeptFrames()
    for index in range(1, 7):
        kept.add(frame(index, user=index % 2))
    kept.trim(4, {(1, 0): 2})
    assert indices(kept.after(0)) == [2, 4, 5, 6]  # 5 was sent after the worker had answered
    kept.heard((1, 0), 4)
    assert indices(kept.after(0)) == [5, 6]
    kept.forget((1, 0))
    assert kept.speakers == ((1, 1),)
    kept.trim(6, {})
    assert len(kept) == 0
    assert kept.speakers == ()


def test_the_oldest_gives_way() -> None:
    kept = KeptFrames(per_speaker=2)
    assert [kept.add(frame(index)) for index in (1, 2, 3)] == [None, None, frame(1)]
    assert indices(kept.after(0)) == [2, 3]


def test_all_together_are_bounded_too() -> None:
    kept = KeptFrames(in_all=4)
    for index in range(1, 11):
        assert (kept.add(frame(index, user=index % 3)) is None) == (index <= 4)
        assert len(kept) == min(index, 4) == len(kept.after(0))
    assert 10 in indices(kept.after(0))


def test_what_was_forgotten_is_not_held() -> None:
    kept = KeptFrames()
    first, second = frame(1), frame(2)
    kept.add(first)
    kept.forget((1, 7))
    assert not kept.holds(first)
    kept.add(second)
    assert kept.holds(second)
    assert not kept.holds(first)
    assert len(kept) == 1


def test_a_crowd_in_one_guild_takes_nothing_from_another() -> None:
    kept = KeptFrames(in_all=100)
    for number in range(5):
        kept.add(Audio(number, 2, 7, 0, 0.0, 0, b"quiet"))
    gone = [kept.add(Audio(number, 1, number % 40, 0, 0.0, 0, b"busy")) for number in range(5, 500)]
    assert {each.guild_id for each in gone if each is not None} == {1}
    assert len(kept) == 100
    assert [each.index for each in kept.after(-1) if each.guild_id == 2] == list(range(5))
