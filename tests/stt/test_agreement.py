"""Which words of an unfinished utterance are certain."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_stt.protocol.agreement import Agreement, words_of

pytestmark = pytest.mark.unit

texts = st.lists(st.sampled_from(["And", "and", "so,", "my", "fellow", "—", "5", "您", "好。", "สวัสดี"]), max_size=8)
drafts = st.lists(st.one_of(texts.map(" ".join), st.text(max_size=30)), max_size=8)


def plain(text: str) -> list[str]:
    return [word for word, _ in words_of(text)]


def common(one: list[str], other: list[str]) -> list[str]:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return one[:count]


def grown(*said: str) -> list[str]:
    agreement = Agreement()
    return [agreement.text for text in said if agreement.draft(text)]


def test_what_two_drafts_agree_on() -> None:
    assert grown("And so my", "And so, my fell", "And so my fellow American") == ["And so, my"]
    assert grown("And so", "and so my", "And so my fellow") == ["and so", "and so my"]


def test_one_draft_says_nothing() -> None:
    assert grown("words that nobody has confirmed") == []
    assert grown("one thing", "", "one thing") == []


def test_words_shown_are_never_taken_back() -> None:
    agreement = Agreement()
    for text in ("the cat sat", "the cat sat on", "a cat sat on it", "a cat sat on it there"):
        agreement.draft(text)
    assert agreement.text == "the cat sat"
    # Once the engine is back at what is shown, it goes on.
    for text in ("the cat sat on it", "the cat sat on it there"):
        agreement.draft(text)
    assert agreement.text == "the cat sat on it"


def test_a_full_stop_where_the_audio_stops_is_left_out() -> None:
    assert grown("And so my...", "and so my.", "and so my fellow", "and so my fellow, who") == [
        "and so my",
        "and so my fellow,",
    ]


def test_where_no_blanks_part_the_words() -> None:
    assert grown("你好，世", "你好，世界。今") == ["你好，世"]
    assert grown("สวัส", "สวัสดี") == ["สวัส"]


def test_punctuation_alone_is_no_word() -> None:
    assert plain("- Well — it's 5 o'clock … ") == ["well", "its", "5", "oclock"]
    assert grown("… well —", "… well — yes") == ["… well"]


@given(drafts)
def test_it_grows_and_never_says_more_than_both(said: list[str]) -> None:
    agreement = Agreement()
    before, shown = "", ""
    for text in said:
        had = agreement.draft(text)
        assert had == (agreement.text != shown)
        assert agreement.text.startswith(shown)
        if had:
            words = plain(agreement.text)
            both = common(plain(before), plain(text))
            assert words == both[: len(words)]
            assert len(words) == len(both)
        before, shown = text, agreement.text


@given(texts.map(" ".join))
def test_the_same_draft_twice_is_all_of_it(text: str) -> None:
    agreement = Agreement()
    agreement.draft(text)
    agreement.draft(text)
    assert plain(agreement.text) == plain(text)
    assert text.startswith(agreement.text)


@given(st.text(max_size=60))
def test_words_end_where_they_should(text: str) -> None:
    ends = [end for _, end in words_of(text)]
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(text) and not text[end - 1].isspace() for end in ends)
    assert "".join(plain(text)) == "".join(plain(re.sub(r"[.,!?]", "", text)))
