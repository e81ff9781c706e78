"""The seam between speech engines and everything that wants text. Nothing here imports a model library."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, final

ENGINE_SAMPLE_RATE_HZ = 16_000


@final
class Withdrawal:
    """Whether a speaker has withdrawn an utterance that is on its way to text.

    An engine that takes long, waits or asks a service looks at `withdrawn` before each step, and ends a step under way
    from a callback of `subscribe`. What it answers for a withdrawn utterance is thrown away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._withdrawn = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def withdrawn(self) -> bool:
        return self._withdrawn.is_set()

    def withdraw(self) -> None:
        """Withdraw the utterance, once and for all. Any thread may call this."""
        with self._lock:
            self._withdrawn.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the withdrawal, in place of a sleep; return whether it came."""
        return self._withdrawn.wait(timeout_s)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a withdrawal call back, from any thread; at once if there was one. Return the way to unsubscribe.

        Args:
            callback: May neither block nor raise.
        """
        with self._lock:
            if not self._withdrawn.is_set():
                self._callbacks.append(callback)
                return lambda: self._unsubscribe(callback)
        callback()
        return lambda: None

    def _unsubscribe(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


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
        withdrawal: Whether the speaker has withdrawn it.
    """

    id: int
    guild_id: int
    user_id: int
    pcm: bytes = dataclasses.field(repr=False)
    started_at: float
    ended_at: float
    language: str | None = None
    withdrawal: Withdrawal = dataclasses.field(default_factory=Withdrawal, repr=False, compare=False)


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
        sends_to: Host of the service that the engine sends the sound to, which the notice tells to the members; empty:
            the sound stays on this machine.
        smaller: What to run instead, in turn, each in a fresh process, when memory runs out; their own are not looked
            at.
    """

    factory: str
    config: Mapping[str, object] = dataclasses.field(default_factory=dict)
    needs_gpu: bool = False
    sends_to: str = ""
    smaller: tuple[EngineSpec, ...] = ()
