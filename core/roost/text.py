"""Comparing what was said with what was understood: one spelling for words that sound alike, and the word error rate.

Used by the demo and by tests of speech engines. Nothing here is applied to the transcripts that people see.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_TITLES = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miss",
    "dr": "doctor",
    "prof": "professor",
    "vs": "versus",
    "etc": "et cetera",
    "ok": "okay",
}
_ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_SCALES = ((1_000_000_000, "billion"), (1_000_000, "million"), (1_000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_NUMBER = re.compile(r"(?P<currency>[$£€])?(?P<whole>\d[\d,]*)(?P<decimals>\.\d+)?(?P<suffix>st|nd|rd|th|%)?")
_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}


def number_words(number: int) -> str:
    """A whole number from 0 to 999,999,999,999 in words, without "and"; larger ones digit by digit."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f" {_ONES[ones]}" if ones else "")
    if number >= 1_000_000_000_000:
        return " ".join(_ONES[int(digit)] for digit in str(number))
    for scale, name in _SCALES:
        if number >= scale:
            count, rest = divmod(number, scale)
            return f"{number_words(count)} {name}" + (f" {number_words(rest)}" if rest else "")
    raise AssertionError(number)


def ordinal_words(number: int) -> str:
    """``21`` gives ``twenty first``."""
    *head, last = number_words(number).split()
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last = f"{last}h" if last.endswith("t") else f"{last}th"
    return " ".join([*head, last])


def _spell(match: re.Match[str]) -> str:
    digits = match["whole"].replace(",", "")
    if len(digits) > 12:  # an identifier rather than a quantity
        return " " + " ".join(_ONES[int(digit)] for digit in digits) + " "
    whole = int(digits)
    suffix = match["suffix"]
    if suffix in ("st", "nd", "rd", "th"):
        return f" {ordinal_words(whole)} "
    words = number_words(whole)
    if match["decimals"]:
        words += " point " + " ".join(_ONES[int(digit)] for digit in match["decimals"][1:])
    if suffix == "%":
        words += " percent"
    if match["currency"]:
        words += f" {_CURRENCIES[match['currency']]}"
    return f" {words} "


def normalise(text: str) -> str:
    """The words of a text and nothing else.

    Case, punctuation, apostrophes, hyphens and accents go; numbers, ordinals, percentages and amounts become words;
    common abbreviations are written out (``Mr.`` and ``mister`` are the same word). Idempotent. Meant for English.
    """
    text = unicodedata.normalize("NFKD", text).lower()
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = text.replace("&", " and ")
    text = _NUMBER.sub(_spell, text)
    text = re.sub(r"['’ʼ`]", "", text)
    words = re.findall(r"[^\W_]+", text)
    return " ".join(_TITLES.get(word, word) for word in words)


def wer(reference: str | Sequence[str], hypothesis: str | Sequence[str]) -> float:
    """The word error rate after `normalise`: (substitutions + deletions + insertions) / words in the reference.

    Given two lists of equal length, the errors of all pairs over the words of all references. 0.0 is perfect; it may
    exceed 1.0. With no word in the reference it is 0.0 if the hypothesis has none either, else 1.0. Needs the ``demo``
    extra (jiwer).

    Raises:
        ValueError: The lists differ in length.
    """
    references = [reference] if isinstance(reference, str) else list(reference)
    hypotheses = [hypothesis] if isinstance(hypothesis, str) else list(hypothesis)
    words = errors = 0
    for wanted, heard in zip(map(normalise, references), map(normalise, hypotheses), strict=True):
        words += len(wanted.split())
        errors += _errors(wanted, heard)
    if not words:
        return 1.0 if errors else 0.0
    return errors / words


def _errors(wanted: str, heard: str) -> int:
    if not wanted:
        return len(heard.split())
    import jiwer

    counted = jiwer.process_words(wanted, heard)
    return int(counted.substitutions + counted.deletions + counted.insertions)
