"""An engine that hears nothing and answers as told: for tests and for authors of plugins that use transcripts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence

from roost.errors import SpeechError
from roost.speech import EngineOptions, Transcript, Utterance, Word


class ScriptedEngine:
    """Answers each utterance with the next text of its list, over and over.

    Args:
        texts: What to answer. ``{user}``, ``{seconds}``, ``{count}``, ``{language}`` and ``{hints}`` are filled in. The
            texts ``!crash`` and ``!hang`` do that instead, which is how supervision is tested.
        delay_s: How long each utterance takes.
    """

    def __init__(self, texts: Sequence[str], delay_s: float = 0.0) -> None:
        self._texts = list(texts) or ["{seconds} s of speech"]
        self._delay_s = delay_s
        self._count = 0
        self._closed = False

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        if self._closed:
            raise SpeechError("the engine is closed")
        return [self._one(utterance, options) for utterance in batch]

    def _one(self, utterance: Utterance, options: EngineOptions) -> Transcript:
        text = self._texts[self._count % len(self._texts)]
        self._count += 1
        if self._delay_s:
            time.sleep(self._delay_s)
        if text == "!crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == "!hang":
            time.sleep(3600)
        seconds = round(len(utterance.pcm) / 32_000, 1)
        filled = (
            text.replace("{user}", str(utterance.user_id))
            .replace("{seconds}", str(seconds))
            .replace("{count}", str(self._count))
            .replace("{language}", utterance.language or "auto")
            .replace("{hints}", " ".join(options.hints) or "none")
        )
        return Transcript(
            utterance.id,
            utterance.guild_id,
            utterance.user_id,
            filled,
            utterance.started_at,
            utterance.ended_at,
            utterance.language or None,
            confidence=1.0,
            words=_spread(filled, len(utterance.pcm) / 32_000) if options.word_timestamps else (),
        )

    def close(self) -> None:
        """Answer no more."""
        self._closed = True


def _spread(text: str, seconds: float) -> tuple[Word, ...]:
    """Every word gets the same time."""
    words = text.split()
    each_s = seconds / max(1, len(words))
    return tuple(Word(round(n * each_s, 3), round((n + 1) * each_s, 3), word) for n, word in enumerate(words))


def create(config: Mapping[str, object]) -> ScriptedEngine:
    texts = config.get("texts", [])
    delay_s = config.get("delay_s", 0.0)
    if not isinstance(texts, list) or not isinstance(delay_s, int | float):
        raise SpeechError("the scripted engine takes texts (a list) and delay_s (a number)")
    return ScriptedEngine([str(text) for text in texts], float(delay_s))
