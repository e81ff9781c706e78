"""Checks the answers of every engine before they leave the worker, and cuts repeated phrases.

An engine may come from another plugin. It may answer with values that no message can hold, or with one phrase two
hundred times.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Sequence

from roost.speech import Transcript, Word

HIGHEST_COMPRESSION = 2.4
"""Whisper's own limit: a text that deflates further repeats itself."""
MOST_REPEATED, LONGEST_PHRASE = 3, 8
"""A phrase of at most so many words is kept this often in a row; further repetitions are a loop."""
FEWEST_CHARS, CHARS_PER_S = 200, 40.0
"""More than anybody can say in that time."""
MAX_CHARS = 4000
_LOOP = re.compile(r"(.{6,120}?)\1{3,}", re.DOTALL)
"""One phrase four times in a row or oftener, for scripts that put no blank between words and for long phrases."""
_LANGUAGE = re.compile(r"[a-z]{2,8}")


def checked(transcript: Transcript, seconds: float) -> Transcript:
    """An engine's answer without its loops, and with nothing in it that cannot be sent.

    Args:
        transcript: Of the engine.
        seconds: Of the utterance.

    Raises:
        TypeError: It is no transcript, or has no text.
        ValueError: It has figures that are none.
    """
    if not isinstance(transcript, Transcript) or not isinstance(transcript.text, str):
        raise TypeError("the engine's answer is no transcript")
    started_at, ended_at = float(transcript.started_at), float(transcript.ended_at)
    if not (math.isfinite(started_at) and math.isfinite(ended_at)):
        raise ValueError("the engine's answer has no time")
    confidence = float(transcript.confidence)
    language = transcript.language
    most = min(MAX_CHARS, FEWEST_CHARS + round(CHARS_PER_S * seconds))
    # What JSON cannot hold would be the end of the message, not of a word.
    text = transcript.text[: 10 * MAX_CHARS].encode(errors="replace").decode()
    words = [_word(word) for word in transcript.words[:MAX_CHARS]]
    if is_loop(text):
        text = _without_long_loops(" ".join(_kept(text.split())))
        words = [words[i] for i in without_loops([word.text for word in words])]
    return dataclasses.replace(
        transcript,
        text=text if len(text) <= most else text[:most].rsplit(" ", 1)[0],
        started_at=started_at,
        ended_at=ended_at,
        language=language if isinstance(language, str) and _LANGUAGE.fullmatch(language) else None,
        confidence=min(1.0, max(0.0, confidence)) if math.isfinite(confidence) else 0.0,
        words=tuple(words),
    )


def compression_ratio(text: str) -> float:
    """How repetitive a text is: its length over its deflated length."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def is_loop(text: str) -> bool:
    """Whether a text repeats itself more than speech does."""
    return compression_ratio(text) > HIGHEST_COMPRESSION


def without_loops(words: Sequence[str]) -> list[int]:
    """The places of the words that stay when a phrase said more often than `MOST_REPEATED` in a row stays so often."""
    plain = [word.strip(".,!?").lower() for word in words]
    kept: list[int] = []
    place = 0
    while place < len(plain):
        length, times = max(
            ((length, _times(plain, place, length)) for length in range(1, LONGEST_PHRASE + 1)),
            key=lambda found: (found[1] > MOST_REPEATED) * found[0] * found[1],
        )
        if times > MOST_REPEATED:
            kept += range(place, place + length * MOST_REPEATED)
            place += length * times
        else:
            kept.append(place)
            place += 1
    return kept


def _kept(words: Sequence[str]) -> list[str]:
    return [words[i] for i in without_loops(words)]


def _without_long_loops(text: str) -> str:
    """Phrases of many words, or of letters without blanks, as often as `MOST_REPEATED`."""
    # With a blank behind the last phrase it is like the others.
    return _LOOP.sub(lambda found: found[1] * MOST_REPEATED, f"{text[: 4 * MAX_CHARS]} ").strip()


def _times(words: Sequence[str], place: int, length: int) -> int:
    """How often in a row the phrase of this length is said from here on."""
    phrase, times = words[place : place + length], 1
    while words[place + times * length : place + (times + 1) * length] == phrase:
        times += 1
    return times


def _word(word: Word) -> Word:
    start_s, end_s = float(word.start_s), float(word.end_s)
    if not (math.isfinite(start_s) and math.isfinite(end_s) and isinstance(word.text, str)):
        raise ValueError("the engine's answer has a word without a time")
    return dataclasses.replace(word, text=word.text[:MAX_CHARS].encode(errors="replace").decode())
