"""One spelling for words that sound alike, and the word error rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.text import normalise, number_words, ordinal_words, wer

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("And, Mr. John Dashwood!", "and mister john dashwood"),
        ("ill-disposed", "ill disposed"),
        ("It's 5 o'clock", "its five oclock"),
        ("10 of clubs", "ten of clubs"),
        ("the 21st and the 40th", "the twenty first and the fortieth"),
        ("$1,250.50", "one thousand two hundred fifty point five zero dollars"),
        ("45% & more", "forty five percent and more"),
        ("9" * 5000, " ".join(["nine"] * 5000)),
        ("Café", "cafe"),
        ("", ""),
        ("...", ""),
    ],
)
def test_spellings(text: str, plain: str) -> None:
    assert normalise(text) == plain


def test_numbers() -> None:
    assert number_words(0) == "zero"
    assert number_words(1_000_017) == "one million seventeen"
    assert number_words(10**13).startswith("one zero")
    assert [ordinal_words(n) for n in (1, 2, 3, 5, 8, 9, 12, 20, 100)] == (
        ["first", "second", "third", "fifth", "eighth", "ninth", "twelfth", "twentieth", "one hundredth"]
    )


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_word_error_rate() -> None:
    assert wer("Mr. Ten, yes", "mister 10 yes") == 0.0
    assert wer("a b c d", "a x c") == 0.5
    assert wer(["a b", "c d"], ["a b", "c"]) == 0.25
    assert wer("", "") == 0.0
    assert wer("", "word") == 1.0
    with pytest.raises(ValueError, match="zip"):
        wer(["a"], [])
