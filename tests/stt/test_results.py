"""What is done to every engine's answers: loops are cut, nonsense is refused."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import pytest
from stt_rig import Build, packets_of, scripted

from roost.speech import Transcript, Word
from roost_stt.worker.results import MAX_CHARS, checked

THANKS = "Thank you for watching!"


def answer(text: Any = "hello", **changes: Any) -> Transcript:
    return dataclasses.replace(Transcript(1, 1, 7, "", 100.0, 101.0, "en", 0.5), text=text, **changes)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("said", "most"),
    [
        (f"{THANKS} " * 200, 3 * len(THANKS) + 2),
        (f"Well, that was it. {THANKS} " * 200, 3 * 43),
        ("ご視聴ありがとうございました" * 200, 3 * 14),
        ("ha " * 500, 9),
        ("one two three four five six seven eight nine ten eleven twelve " * 60, 3 * 63),
    ],
)
def test_a_phrase_that_goes_on_and_on_is_cut(said: str, most: int) -> None:
    assert 0 < len(checked(answer(said), 10.0).text) <= most


@pytest.mark.unit
@pytest.mark.parametrize(
    "said",
    [
        "no no no no, not that one",
        "It costs 1000000 dollars, 5000000 at most.",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "私は学生です。",
        "",
    ],
)
def test_what_people_say_stays(said: str) -> None:
    assert checked(answer(said), 10.0).text == said


@pytest.mark.unit
def test_the_words_of_a_loop_go_with_it() -> None:
    words = tuple(Word(n * 0.1, n * 0.1 + 0.1, THANKS.split()[n % 4]) for n in range(400))
    got = checked(answer(f"{THANKS} " * 100, words=words), 40.0)
    assert [word.text for word in got.words] == THANKS.split() * 3


@pytest.mark.unit
def test_more_than_anybody_can_say_is_cut() -> None:
    said = " ".join(f"word{n * 7919 % 100_003}" for n in range(5000))
    assert len(checked(answer(said), 1.0).text) <= 240
    assert len(checked(answer(said), 1000.0).text) <= MAX_CHARS
    began_s = time.monotonic()
    checked(answer("ab" * 5_000_000), 30.0)
    assert time.monotonic() - began_s < 2.0


@pytest.mark.unit
@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        "text",
        answer(None),
        answer({"text": 1}),
        answer(started_at=math.nan),
        answer(words=(Word(math.nan, 1.0, "x"),)),
        answer(words=(Word(0.0, 1.0, 5),)),  # type: ignore[arg-type]
        answer(words=None),
    ],
)
def test_nonsense_is_refused(nonsense: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        checked(nonsense, 1.0)


@pytest.mark.unit
def test_what_no_message_can_hold_is_mended() -> None:
    got = checked(answer("a\ud800b", language=5, confidence=math.inf), 1.0)
    assert (got.text, got.language, got.confidence) == ("a?b", None, 0.0)


@pytest.mark.e2e
async def test_the_guards_hold_for_every_engine(rig: Build) -> None:
    made = await rig(scripted(f"{THANKS} " * 200))
    await made.say(packets_of("lv_0880")[:100])
    assert await made.drain()
    assert made.text() == " ".join([THANKS] * 3)
