"""Which words of an utterance that is not over are certain: those on which two successive drafts of it agree.

A speech engine changes its mind about the last words while more of them come. LocalAgreement-2 (Macháček, Dabre and
Bojar, "Turning Whisper into Real-Time Transcription System", 2023) shows the longest common beginning of the last two
drafts, and never takes a word back.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # Chinese characters
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts without blanks between words: there, each character counts as one."""

_STOPS = ".,;:!?-\u2013\u2014\u2026\u3002\u3001\uff0c\uff01\uff1f"


class Agreement:
    """The committed beginning of one utterance. It only grows, and only by words that the engine has said twice."""

    def __init__(self) -> None:
        self._before: list[str] = []
        self._words: list[str] = []
        self.text = ""
        """Committed so far, as the engine wrote it."""

    def draft(self, text: str) -> bool:
        """Take the next draft of the utterance, which is longer now; gives whether `text` has grown."""
        tokens = list(words_of(text))
        words = [word for word, _ in tokens]
        agreed = _common(self._before, words)
        self._before = words
        known = len(self._words)
        # Both having changed their mind about what is shown already, they agree on something else.
        if agreed <= known or words[:known] != self._words:
            return False
        begin = tokens[known - 1][1] if known else 0
        more = text[begin : tokens[agreed - 1][1]]
        # A full stop where the audio stops says nothing.
        self.text = (self.text + (more.rstrip(_STOPS) if agreed == len(tokens) else more)).strip()
        self._words = words[:agreed]
        return True


def words_of(text: str) -> Iterator[tuple[str, int]]:
    """Each word without case and punctuation, and where it ends in the text with the punctuation after it."""
    word, end = "", 0
    for place, char in enumerate(text):
        mark = unicodedata.category(char).startswith("M")
        if word and (char.isspace() or (not mark and (_alone(char) or _alone(word[0])) and char.isalnum())):
            yield word, end
            word = ""
        if char.isalnum() or (mark and word):
            word += char.casefold()
        if not char.isspace():
            end = place + 1
    if word:
        yield word, end


def _common(one: list[str], other: list[str]) -> int:
    count = 0
    for mine, yours in zip(one, other, strict=False):
        if mine != yours:
            break
        count += 1
    return count


def _alone(char: str) -> bool:
    code = ord(char)
    return any(first <= code <= last for first, last in _UNSPACED)
