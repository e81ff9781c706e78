"""An engine for the speech worker that hears one word in each half second, and writes down what it was asked."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roost.errors import SpeechError
from roost.speech import EngineOptions, EngineSpec, SpeechEngine, Transcript, Utterance
from roost_stt.models import locate


class DraftEngine:
    """Writes a line for each batch to ``calls``. With `crash` or `fail` it does that with each draft."""

    def __init__(self, folder: Path, delay_s: float, draft: str) -> None:
        self._calls = folder / "calls"
        self._delay_s = delay_s
        self._draft = draft

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        texts = [words(len(each.pcm) / 32_000) for each in batch]
        call = {
            "draft": options.draft,
            "users": [each.user_id for each in batch],
            "ids": [each.id for each in batch],
            "texts": texts,
        }
        with self._calls.open("a") as file:
            file.write(json.dumps(call) + "\n")
        time.sleep(self._delay_s)
        if options.draft and self._draft == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if options.draft and self._draft == "fail":
            raise SpeechError("no drafts today")
        return [
            Transcript(each.id, each.guild_id, each.user_id, text, each.started_at, each.ended_at)
            for each, text in zip(batch, texts, strict=True)
        ]

    def close(self) -> None:
        """Nothing to release."""


class Recorded:
    """Whisper, whose answers are written down."""

    def __init__(self, engine: SpeechEngine, folder: Path) -> None:
        self._engine = engine
        self._calls = folder / "calls"

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        answers = self._engine.transcribe(batch, options)
        call = {
            "draft": options.draft,
            "users": [each.user_id for each in batch],
            "ids": [each.id for each in batch],
            "texts": [each.text for each in answers],
        }
        with self._calls.open("a") as file:
            file.write(json.dumps(call) + "\n")
        return answers

    def close(self) -> None:
        self._engine.close()


def words(seconds: float) -> str:
    return " ".join(f"w{number}" for number in range(int(seconds * 2)))


def calls(folder: Path) -> list[dict[str, Any]]:
    """What it was asked so far."""
    file = folder / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def create(config: Mapping[str, object]) -> DraftEngine:
    return DraftEngine(Path(str(config["folder"])), float(str(config["delay_s"])), str(config["draft"]))


def create_recorded(config: Mapping[str, object]) -> Recorded:
    from roost_stt.worker.engines import whisper

    return Recorded(whisper.create(config), Path(str(config["folder"])))


def spec(folder: Path, *, delay_s: float = 0.0, draft: str = "") -> EngineSpec:
    return EngineSpec("draft_engine:create", {"folder": str(folder), "delay_s": delay_s, "draft": draft})


def recorded(folder: Path) -> EngineSpec:
    config = {"model": locate("tiny.en"), "device": "cpu", "folder": str(folder)}
    return EngineSpec("draft_engine:create_recorded", config)
