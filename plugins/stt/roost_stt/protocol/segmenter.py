"""Cuts one speaker's audio into utterances, given a speech probability for each 32 ms of it.

Pure: the probabilities come from outside, time is counted in chunks. Audio is 16 kHz mono s16 as bytes, never touched
beyond being joined.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque

from roost_stt.protocol.endpointing import Endpointing

CHUNK_SAMPLES = 512
CHUNK_BYTES = CHUNK_SAMPLES * 2
CHUNK_MS = 32


class Cut(enum.Enum):
    """Why an utterance ended."""

    GAP = "gap"
    SILENCE = "silence"
    LENGTH = "length"
    ORDER = "order"
    """Someone asked: a drain."""
    NONE = "none"
    """It has not ended: the audio so far."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One utterance.

    Attributes:
        pcm: 16 kHz mono s16.
        first_mark: The mark given with its first chunk.
        last_mark: The mark given with its last chunk.
        speech_ms: How much of it was detected as speech.
    """

    pcm: bytes = dataclasses.field(repr=False)
    first_mark: int
    last_mark: int
    started_s: float
    ended_s: float
    speech_ms: int
    cut: Cut

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / 32_000


@dataclasses.dataclass(frozen=True, slots=True)
class _Chunk:
    pcm: bytes
    probability: float
    at_s: float
    mark: int


class Segmenter:
    """The state machine of one speaker: waiting (with pre-roll) or inside an utterance.

    Invariant: chunks in = chunks in segments + chunks dropped + chunks held.
    """

    def __init__(self, options: Endpointing | None = None) -> None:
        self._options = options or Endpointing()
        self._pre_roll: deque[_Chunk] = deque(maxlen=max(1, self._options.pre_roll_ms // CHUNK_MS))
        self._chunks: list[_Chunk] = []
        self._speaking = False
        self._last_speech = -1
        self._speech = 0
        self.dropped_chunks = 0
        self.noises = 0

    @property
    def speaking(self) -> bool:
        """Whether an utterance is open."""
        return self._speaking

    @property
    def held_chunks(self) -> int:
        return len(self._chunks) + len(self._pre_roll)

    @property
    def first_mark(self) -> int | None:
        """The mark of the oldest chunk still held, or None."""
        if self._chunks:
            return self._chunks[0].mark
        return self._pre_roll[0].mark if self._pre_roll else None

    @property
    def speech_ms(self) -> int:
        """How much of the open utterance was detected as speech."""
        return self._speech * CHUNK_MS

    def so_far(self) -> Segment | None:
        """The open utterance as it is now; it goes on."""
        if not self._speaking:
            return None
        chunks = self._chunks
        ended_s = chunks[self._last_speech].at_s + CHUNK_MS / 1000
        pcm = b"".join(chunk.pcm for chunk in chunks)
        return Segment(pcm, chunks[0].mark, chunks[-1].mark, chunks[0].at_s, ended_s, self.speech_ms, Cut.NONE)

    def push(self, pcm: bytes, probability: float, at_s: float, mark: int = 0) -> list[Segment]:
        """Take one chunk of `CHUNK_BYTES`.

        Args:
            pcm: The audio.
            probability: That it holds speech.
            at_s: When it began, on any clock.
            mark: Handed back in the segment.

        Returns:
            The utterances it ended: none or one.
        """
        chunk = _Chunk(pcm, probability, at_s, mark)
        if not self._speaking:
            if probability < self._options.start_probability:
                if len(self._pre_roll) == self._pre_roll.maxlen:
                    self.dropped_chunks += 1
                self._pre_roll.append(chunk)
                return []
            self._speaking = True
            self._chunks = list(self._pre_roll)
            self._pre_roll.clear()
        self._append(chunk)
        return self._cut_if_due()

    def end(self, cut: Cut) -> list[Segment]:
        """End the open utterance, if any, and forget the pre-roll."""
        self.dropped_chunks += len(self._pre_roll)
        self._pre_roll.clear()
        if not self._speaking:
            return []
        return self._close(len(self._chunks), cut)

    def clear(self) -> None:
        """Forget everything held."""
        self.dropped_chunks += self.held_chunks
        self._chunks = []
        self._pre_roll.clear()
        self._reset()

    def _append(self, chunk: _Chunk) -> None:
        self._chunks.append(chunk)
        self._speech += chunk.probability >= self._options.start_probability
        # Between the two thresholds speech goes on but does not begin.
        if chunk.probability >= self._options.stop_probability:
            self._last_speech = len(self._chunks) - 1

    def _cut_if_due(self) -> list[Segment]:
        options = self._options
        length_ms = len(self._chunks) * CHUNK_MS
        silence_ms = (len(self._chunks) - 1 - self._last_speech) * CHUNK_MS
        enough = options.soft_silence_ms if length_ms >= options.soft_limit_s * 1000 else options.silence_ms
        if silence_ms >= enough:
            return self._close(len(self._chunks), Cut.SILENCE)
        if length_ms >= options.max_s * 1000:
            return self._split()
        return []

    def _split(self) -> list[Segment]:
        """Cut at the least speech-like moment of the last third and go on with what follows it."""
        first = len(self._chunks) * 2 // 3
        middle = min(range(first, len(self._chunks) - 1), key=lambda i: (self._around(i), -i))
        rest = self._chunks[middle + 1 :]
        segments = self._close(middle + 1, Cut.LENGTH)
        self._speaking = True
        for chunk in rest:
            self._append(chunk)
        return segments

    def _around(self, index: int) -> float:
        """Probability around a chunk: one lucky dip inside a word is not a pause."""
        near = self._chunks[max(0, index - 1) : index + 2]
        return sum(chunk.probability for chunk in near)

    def _close(self, count: int, cut: Cut) -> list[Segment]:
        options = self._options
        chunks, self._chunks = self._chunks[:count], []
        last_speech = min(self._last_speech, count - 1)
        speech = sum(1 for chunk in chunks if chunk.probability >= options.start_probability)
        self._reset()
        if speech * CHUNK_MS < options.min_speech_ms:
            self.noises += 1
            self.dropped_chunks += len(chunks)
            return []
        ended_s = chunks[last_speech].at_s + CHUNK_MS / 1000
        if cut is Cut.SILENCE:
            # Half of the pause belongs to what follows: the detector notices a soft onset late.
            kept = count - (count - 1 - last_speech) // 2
            self._pre_roll.extend(chunks[kept:])
            self.dropped_chunks += len(chunks) - kept - len(self._pre_roll)
            chunks = chunks[:kept]
        pcm = b"".join(chunk.pcm for chunk in chunks)
        return [
            Segment(pcm, chunks[0].mark, chunks[-1].mark, chunks[0].at_s, ended_s, speech * CHUNK_MS, cut),
        ]

    def _reset(self) -> None:
        self._speaking = False
        self._last_speech = -1
        self._speech = 0
