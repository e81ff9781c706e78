"""Stock faster-whisper as an engine of the worker: what Roost is measured against, with the same ears in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from faster_whisper import WhisperModel

from roost.speech import EngineOptions, Transcript, Utterance


class StockEngine:
    """One `WhisperModel.transcribe` for each utterance, all its options as faster-whisper sets them but the beam."""

    def __init__(self, model: str, threads: int, beam: int) -> None:
        self._model = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=threads)
        self._beam = beam

    def text(self, samples: np.ndarray, language: str | None) -> str:
        audio = samples.astype(np.float32) / 32768.0
        segments, _ = self._model.transcribe(audio, language=language, beam_size=self._beam)
        return " ".join(segment.text.strip() for segment in segments)

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        return [
            Transcript(
                each.id,
                each.guild_id,
                each.user_id,
                self.text(np.frombuffer(each.pcm, "<i2"), each.language or "en"),
                each.started_at,
                each.ended_at,
            )
            for each in batch
        ]

    def close(self) -> None:
        """Nothing."""


def create(config: Mapping[str, object]) -> StockEngine:
    engine = StockEngine(str(config["model"]), int(str(config.get("threads", 2))), int(str(config.get("beam", 1))))
    engine.text(np.zeros(16_000, np.int16), "en")
    return engine
