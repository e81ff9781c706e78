"""Whisper with real recordings: pieces so short or odd that the first answer cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stt_rig import manifest, samples_of

from roost.errors import SpeechError
from roost.speech import EngineOptions, Utterance
from roost.text import wer
from roost_stt.models import locate
from roost_stt.worker.engines.whisper import WhisperEngine, create, missing_library
from roost_stt.worker.results import without_loops

pytestmark = pytest.mark.e2e

PLAIN = EngineOptions()
LOAD_REMEDY = "is not on this machine and cannot be downloaded; check the network, or name another in stt.model"
PIECES = [
    ("lv_0870", 0.0, 0.8),
    ("lv_0870", 1.0, 1.6),
    ("lv_0890", 1.0, 0.8),
    ("lv_0890", 3.0, 0.8),
    ("lv_0890", 3.0, 1.6),
    ("lv_0930", 2.0, 1.2),
    ("jfk", 2.0, 2.5),
    ("jfk", 4.0, 1.2),
]
"""Recording, start and length in seconds: scraps of sentences, in a short window mostly looped or cut off."""


@pytest.fixture(scope="module")
def loaded() -> Iterator[WhisperEngine]:
    engine = create({"model": str(locate("tiny.en")), "device": "cpu"})
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded: WhisperEngine) -> WhisperEngine:
    loaded.second_looks = loaded.fallbacks = 0
    return loaded


def utterance(number: int, name: str, start_s: float = 0.0, length_s: float = 30.0) -> Utterance:
    samples = samples_of(name)[::3][int(start_s * 16_000) : int((start_s + length_s) * 16_000)]
    return Utterance(number, 1, number, samples.tobytes(), 0.0, length_s, "en")


def test_doubtful_answers_are_looked_at_again_and_spoil_no_other(engine: WhisperEngine) -> None:
    texts = manifest()
    pieces = [utterance(number, *piece) for number, piece in enumerate(PIECES)]
    whole = [utterance(100 + number, name) for number, name in enumerate(texts)]
    answers = engine.transcribe([*pieces, *whole], PLAIN)
    assert [each.utterance_id for each in answers] == [each.id for each in (*pieces, *whole)]
    assert all(each.text for each in answers)
    assert wer(list(texts.values()), [each.text for each in answers[len(pieces) :]]) <= 0.12
    assert engine.second_looks > engine.fallbacks, "what the whole window settles is not decoded a third time"
    assert engine.second_looks >= len(pieces) // 2
    assert engine.stats() == {
        "decoded": engine.decoded,
        "second_looks": engine.second_looks,
        "fallbacks": engine.fallbacks,
    }


def test_a_draft_is_looked_at_once(engine: WhisperEngine) -> None:
    engine.transcribe([utterance(1, *piece) for piece in PIECES], EngineOptions(draft=True))
    assert engine.second_looks == engine.fallbacks == 0


def test_a_loop_is_not_told(engine: WhisperEngine) -> None:
    """The same word for ten seconds: no answer may go on and on."""
    word = utterance(1, "jfk", 4.0, 0.8).pcm
    (answer,) = engine.transcribe([Utterance(1, 1, 1, word * 12, 0.0, 9.6, "en")], PLAIN)
    assert len(answer.text.split()) <= 40


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no no no", "no no no"),
        ("No, no, no, no, no.", "No, no, no,"),
        ("well " + "I think so, " * 9 + "I do", "well I think so, I think so, I think so, I do"),
        ("a b a b a b a b c c c c d", "a b a b a b c c c d"),
        ("", ""),
    ],
)
def test_without_loops(said: str, told: str) -> None:
    words = said.split()
    assert " ".join(words[place] for place in without_loops(words)) == told


def test_missing_cublas_is_named_with_its_package() -> None:
    """The text is CTranslate2's own, on a machine with a card and without the library."""
    found = missing_library(RuntimeError("Library libcublas.so.12 is not found or cannot be loaded"))
    assert found is not None
    assert "pip install nvidia-cublas-cu12, or set stt.device = cpu" in str(found)
    assert missing_library(RuntimeError("CUDA failed with error out of memory")) is None


def test_a_model_that_cannot_be_downloaded_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SpeechError, match=f"^the model nobody/nothing {LOAD_REMEDY}"):
        create({"model": "nobody/nothing", "device": "cpu"})
