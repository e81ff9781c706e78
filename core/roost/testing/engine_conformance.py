"""What every speech engine must do, as checks that run against one.

An engine's tests make a `Bench` (how to build it, a recording and its text) and run every function of `CHECKS` on it::

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_conformance(check, bench):
        check(bench)

A check raises `AssertionError` when the engine breaks the contract of `roost.speech`.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from roost.errors import SpeechError
from roost.speech import ENGINE_SAMPLE_RATE_HZ, EngineOptions, SpeechEngine, Transcript, Utterance

BYTES_PER_S = 2 * ENGINE_SAMPLE_RATE_HZ
PLAIN = EngineOptions()
_WORD = re.compile(r"[a-z']+")


@dataclasses.dataclass
class Bench:
    """An engine under test, and what to feed it.

    Attributes:
        build: Makes an engine, as the factory of its `EngineSpec` does.
        speech: A recording of clear speech, at most 15 s of 16 kHz mono s16.
        words: Words of it that the engine must find, lower case; empty for an engine that does not listen.
        broken: Makes an engine out of settings that cannot work; building or first use must raise `SpeechError`.
        largest_batch: How many utterances it is given at once at most.
    """

    build: Callable[[], SpeechEngine]
    speech: bytes
    words: frozenset[str] = frozenset()
    broken: Callable[[], SpeechEngine] | None = None
    largest_batch: int = 5
    _engine: SpeechEngine | None = None

    @property
    def engine(self) -> SpeechEngine:
        """One engine for all checks that do not close it."""
        if self._engine is None:
            self._engine = self.build()
        return self._engine

    def close(self) -> None:
        """Close that one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _utterance(number: int, pcm: bytes, language: str | None = "en") -> Utterance:
    began = 1_700_000_000.0 + number
    seconds = len(pcm) / BYTES_PER_S
    return Utterance(1000 + number, 10 + number % 2, 100 + number, pcm, began, began + seconds, language)


def _noise(seconds: float, loudest: int, seed: int = 1) -> bytes:
    chance = random.Random(seed)  # noqa: S311  the same noise in every run
    count = int(seconds * ENGINE_SAMPLE_RATE_HZ)
    return b"".join(chance.randint(-loudest, loudest).to_bytes(2, "little", signed=True) for _ in range(count))


def _answers(bench: Bench, batch: Sequence[Utterance], options: EngineOptions = PLAIN) -> list[Transcript]:
    """Transcribe, and check what holds of every answer."""
    answers = bench.engine.transcribe(batch, options)
    assert isinstance(answers, list), f"a list is wanted, not {type(answers).__name__}"
    assert len(answers) == len(batch), f"{len(batch)} utterances, {len(answers)} transcripts"
    for utterance, answer in zip(batch, answers, strict=True):
        for field in ("guild_id", "user_id", "started_at", "ended_at"):
            given, got = getattr(utterance, field), getattr(answer, field)
            assert got == given, f"{field} of utterance {utterance.id} became {got}, was {given}"
        assert answer.utterance_id == utterance.id, f"{answer.utterance_id} in place of {utterance.id}"
        assert answer.final, "an engine gives finals"
        assert isinstance(answer.text, str)
        assert answer.text == answer.text.strip(), "white space around the text"
        assert "\n" not in answer.text, "more than one line"
        assert 0.0 <= answer.confidence <= 1.0, f"a confidence of {answer.confidence}"
        assert answer.language is None or answer.language, "an empty language is None"
        _check_words(answer, utterance)
    return answers


def _check_words(answer: Transcript, utterance: Utterance) -> None:
    last_s = 0.0
    for word in answer.words:
        assert last_s <= word.start_s + 0.05, "words overlap or are out of order"
        assert word.start_s <= word.end_s, "a word that ends before it begins"
        last_s = word.end_s
    spoken_s = len(utterance.pcm) / BYTES_PER_S
    assert last_s <= spoken_s + 1.0, f"a word ends at {last_s} s of {spoken_s} s"


def _heard(bench: Bench, answer: Transcript) -> None:
    missing = bench.words - set(_WORD.findall(answer.text.lower()))
    assert not missing, f"not heard: {', '.join(sorted(missing))}"


def gives_one_transcript_each_in_order(bench: Bench) -> None:
    """Batches of every size; the answers stand where the utterances stood."""
    for size in range(1, bench.largest_batch + 1):
        batch = [_utterance(number, bench.speech) for number in reversed(range(size))]
        for answer in _answers(bench, batch):
            _heard(bench, answer)


def answers_an_empty_batch(bench: Bench) -> None:
    """Nothing asked, nothing answered."""
    assert _answers(bench, []) == []


def bears_empty_and_tiny_audio(bench: Bench) -> None:
    """No sample, one sample, 1 ms, 50 ms: alone and beside real speech."""
    for length in (0, 2, 32, 1600):
        _answers(bench, [_utterance(1, bytes(length))])
    batch = [_utterance(1, b""), _utterance(2, bench.speech), _utterance(3, bytes(2))]
    nothing, speech, _ = _answers(bench, batch)
    _heard(bench, speech)
    assert not bench.words or not nothing.text, "text from no audio at all"


def bears_long_audio(bench: Bench) -> None:
    """Longer than the 30 s of Whisper's window; the end is heard too."""
    pause = bytes(BYTES_PER_S)
    pcm = bench.speech
    while len(pcm) < 33 * BYTES_PER_S:
        pcm += pause + bench.speech
    answer = _answers(bench, [_utterance(1, pcm)])[0]
    _heard(bench, answer)
    if bench.words:
        alone = _answers(bench, [_utterance(2, bench.speech)])[0]
        assert len(answer.text) > 1.5 * len(alone.text), "only the beginning became text"


def bears_noise_and_silence(bench: Bench) -> None:
    """What slips through the voice detection: any answer is right that ends and is no loop."""
    for pcm in (bytes(3 * BYTES_PER_S), _noise(3, 300), _noise(2, 32_767), b"\xff\x7f" * 16_000, b"\x00\x80" * 16_000):
        text = _answers(bench, [_utterance(1, pcm)])[0].text
        assert len(text) < 500, f"{len(text)} characters from {len(pcm) / BYTES_PER_S:.0f} s of noise"


def hears_speech_beside_other_things(bench: Bench) -> None:
    """A batch of unlike members gives each what it gets alone."""
    batch = [
        _utterance(1, _noise(1, 200)),
        _utterance(2, bench.speech),
        _utterance(3, bytes(12 * BYTES_PER_S)),
        _utterance(4, bench.speech),
    ]
    answers = _answers(bench, batch)
    _heard(bench, answers[1])
    _heard(bench, answers[3])


def bears_any_language(bench: Bench) -> None:
    """Guessed, unknown, nonsense: an answer or a `SpeechError`, and the next utterance is heard."""
    for language in (None, "xx", "EN", "not a language", ""):
        try:
            _answers(bench, [_utterance(1, bench.speech, language)])
        except SpeechError as error:
            _check_error(error)
    _heard(bench, _answers(bench, [_utterance(2, bench.speech)])[0])


def bears_hints_and_word_times(bench: Bench) -> None:
    """Options that an engine may ignore but not die of."""
    for options in (
        EngineOptions(word_timestamps=True),
        EngineOptions(draft=True),
        EngineOptions(hints=("Roost", "", "naïve", "<|endoftext|>")),
        EngineOptions(word_timestamps=True, hints=tuple(f"word{number}" for number in range(300))),
    ):
        _answers(bench, [_utterance(1, bench.speech)], options)


def refuses_half_a_sample(bench: Bench) -> None:
    """Bytes that are no samples: a `SpeechError` or an answer without them, and no harm."""
    try:
        _answers(bench, [_utterance(1, bench.speech[: BYTES_PER_S // 2] + b"\x01")])
    except SpeechError as error:
        _check_error(error)
    _heard(bench, _answers(bench, [_utterance(2, bench.speech)])[0])


def changes_nothing_it_was_given(bench: Bench) -> None:
    """The same batch twice gives as many answers twice; a tuple does as well as a list."""
    batch = (_utterance(1, bench.speech), _utterance(2, bench.speech))
    for _ in range(2):
        for answer in _answers(bench, batch):
            _heard(bench, answer)


def gives_figures_that_can_be_sent(bench: Bench) -> None:
    """``stats()``, where there is one, is JSON."""
    stats: Callable[[], Any] | None = getattr(bench.engine, "stats", None)
    if stats is not None:
        assert isinstance(json.loads(json.dumps(stats())), dict)


def closes_twice_and_then_refuses(bench: Bench) -> None:
    """`close` is idempotent; afterwards there is a `SpeechError` instead of text."""
    engine = bench.build()
    engine.transcribe([_utterance(1, bench.speech)], PLAIN)
    engine.close()
    engine.close()
    try:
        engine.transcribe([_utterance(2, bench.speech)], PLAIN)
    except SpeechError as error:
        _check_error(error)
    else:
        raise AssertionError("it answers after close")
    bench.build().close()


def says_in_one_line_what_is_wrong(bench: Bench) -> None:
    """Settings that cannot work are a `SpeechError`, not some library's exception."""
    if bench.broken is None:
        return
    try:
        bench.broken().transcribe([_utterance(1, bench.speech)], PLAIN)
    except SpeechError as error:
        _check_error(error)
    else:
        raise AssertionError("broken settings work")


def _check_error(error: SpeechError) -> None:
    text = str(error)
    assert text.strip(), "an error without words"
    assert "\n" not in text, "an error of several lines"


CHECKS: tuple[Callable[[Bench], None], ...] = (
    gives_one_transcript_each_in_order,
    answers_an_empty_batch,
    bears_empty_and_tiny_audio,
    bears_long_audio,
    bears_noise_and_silence,
    hears_speech_beside_other_things,
    bears_any_language,
    bears_hints_and_word_times,
    refuses_half_a_sample,
    changes_nothing_it_was_given,
    gives_figures_that_can_be_sent,
    closes_twice_and_then_refuses,
    says_in_one_line_what_is_wrong,
)


def check_name(check: Callable[[Bench], None]) -> str:
    return check.__name__
