"""The seam between speech engines and everything that wants text. Nothing here imports a model library."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

ENGINE_SAMPLE_RATE_HZ = 16_000


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of one person's speech.

    Attributes:
        id: Unique within the worker's life; drafts of an utterance have the id of the utterance.
        guild_id: Where it was said.
        user_id: Who said it.
        pcm: 16 kHz mono signed 16-bit little-endian samples.
        started_at: Wall clock, seconds since 1970.
        ended_at: Wall clock of the last speech sample.
        language: ISO 639-1 code, or None for the engine's own guess.
    """

    id: int
    guild_id: int
    user_id: int
    pcm: bytes = dataclasses.field(repr=False)
    started_at: float
    ended_at: float
    language: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a batch is to be decoded.

    Attributes:
        word_timestamps: Each word's time is wanted.
        hints: Words likely to occur.
        draft: The utterances are not over, others may be waiting: rather no text than a slow one.
    """

    word_timestamps: bool = False
    hints: tuple[str, ...] = ()
    draft: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    start_s: float
    end_s: float
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Transcript:
    """What was understood of one utterance; text may be empty (nothing was said)."""

    utterance_id: int
    guild_id: int
    user_id: int
    text: str = dataclasses.field(repr=False)
    started_at: float
    ended_at: float
    language: str | None = None
    confidence: float = 0.0
    """Mean token probability, 0 to 1."""
    words: tuple[Word, ...] = dataclasses.field(default=(), repr=False)
    final: bool = True


class SpeechEngine(Protocol):
    """Text from speech. Lives in the worker process, used from one thread."""

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        """One transcript per utterance, in order. Blocks."""
        ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSpec:
    """Where a worker finds its engine.

    Attributes:
        factory: ``module:callable``; called in the worker with `config`, returns a `SpeechEngine`.
        config: JSON-serialisable.
        needs_gpu: Whether the worker must hold the GPU lease first.
        smaller: What to run instead, in turn, each in a fresh process, when memory runs out; their own are not looked
            at.
    """

    factory: str
    config: Mapping[str, object] = dataclasses.field(default_factory=dict)
    needs_gpu: bool = False
    smaller: tuple[EngineSpec, ...] = ()
