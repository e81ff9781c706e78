"""Whisper through CTranslate2 (faster-whisper), with an encoder window as long as the speech instead of 30 s.

The encoder's cost is proportional to its window, and most utterances are short; but Whisper was trained on 30 s, so a
short window can make it loop or stop early. Each answer is therefore checked; suspicious ones are decoded again in the
whole window, together, and what is suspicious even then alone and the stock way, which takes longest.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ctranslate2
import numpy as np
import numpy.typing as npt
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer

from roost.errors import SpeechError
from roost.speech import EngineOptions, Transcript, Utterance, Word
from roost_stt.worker.results import HIGHEST_COMPRESSION, compression_ratio, without_loops

_log = logging.getLogger("roost.stt.whisper")

SAMPLE_RATE_HZ = 16_000
MAX_WINDOW_S = 30.0
MIN_WINDOW_S = 10.0
MULTILINGUAL_MIN_WINDOW_S = 15.0
"""The multilingual models lose more words to a short window than the English ones."""
WINDOW_MARGIN_S = 2.0
MAX_TOKENS = 448

LOWEST_LOGPROB = -1.0
NO_SPEECH = 0.6
FEWEST_SAMPLES = 400
"""25 ms, one analysis window of Whisper; in less there is nothing to hear."""
UNCOVERED_S = 2.0
"""Speech left untranscribed after the last timestamp that makes an answer suspicious."""
_MISSING = re.compile(r"(?P<file>lib(?P<library>cublas|cudnn)[\w.]*) is not found")
_FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4)

Audio = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    confidence: float
    language: str


class WhisperEngine:
    """One loaded model.

    Args:
        model: Folder of a CTranslate2 Whisper model, or a name that faster-whisper can download.
        device: ``auto``, ``cpu`` or ``cuda``; of several cards the first that the process sees.
        compute_type: Of CTranslate2, such as ``int8``; ``default`` keeps the model's own.
        threads: For one inference.
        beam: Beam size; 1 is greedy.
        short_window: False decodes everything the stock way.
    """

    def __init__(
        self, model: str, device: str, compute_type: str, threads: int, beam: int, *, short_window: bool = True
    ) -> None:
        self._loaded: WhisperModel | None = WhisperModel(
            model, device=device, compute_type=compute_type, cpu_threads=threads
        )
        self._beam = beam
        self._short = short_window
        self._multilingual = bool(self._whisper.model.is_multilingual)
        self._languages = frozenset(self._whisper.supported_languages)
        self._least_s = MULTILINGUAL_MIN_WINDOW_S if self._multilingual else MIN_WINDOW_S
        self.second_looks = 0
        self.fallbacks = 0
        self.decoded = 0

    @property
    def multilingual(self) -> bool:
        """Whether the model understands more than English."""
        return self._multilingual

    @property
    def _whisper(self) -> WhisperModel:
        if self._loaded is None:
            raise SpeechError("the engine is closed")
        return self._loaded

    @property
    def runs_on(self) -> str:
        """Device and compute type, as CTranslate2 has chosen them."""
        return f"{self._whisper.model.device} {self._whisper.model.compute_type}"

    def warm_up(self) -> None:
        """Run once on silence: the first inference allocates, and asks for the card's libraries.

        Raises:
            SpeechError: One of them is not installed.
        """
        try:
            self._generate([np.zeros(SAMPLE_RATE_HZ, np.float32)], [None], self._least_s)
        except RuntimeError as error:
            missing = missing_library(error)
            if missing is None:
                raise
            raise missing from error

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        """One transcript each; utterances are decoded together when their windows are alike."""
        if self._loaded is None:
            raise SpeechError("the engine is closed")
        for utterance in batch:
            if len(utterance.pcm) % 2:
                raise SpeechError(f"{len(utterance.pcm)} bytes are no 16-bit samples")
        audio = [np.frombuffer(u.pcm, "<i2").astype(np.float32) / 32768.0 for u in batch]
        results = [
            None if len(samples) >= FEWEST_SAMPLES else _transcript(utterance, "", 0.0, None)
            for utterance, samples in zip(batch, audio, strict=True)
        ]
        longest = (MAX_WINDOW_S - 0.5) * SAMPLE_RATE_HZ
        short = [i for i, known in enumerate(results) if self._short and known is None and len(audio[i]) <= longest]
        if (options.word_timestamps or options.hints) and not options.draft:
            short = []
        for least_s in (self._least_s, MAX_WINDOW_S)[: 1 if options.draft else None]:
            doubtful = [i for i in short if results[i] is None]
            if not doubtful:
                break
            self.second_looks += len(doubtful) if least_s == MAX_WINDOW_S else 0
            languages = [self._language(batch[i]) for i in doubtful]
            for i, answer in zip(
                doubtful, self._generate([audio[i] for i in doubtful], languages, least_s), strict=True
            ):
                if answer is not None:
                    results[i] = _transcript(batch[i], answer.text, answer.confidence, answer.language)
        for i, utterance in enumerate(batch):
            if results[i] is None:
                if i in short and options.draft:
                    results[i] = _transcript(utterance, "", 0.0, None)
                    continue
                if i in short:
                    self.fallbacks += 1
                results[i] = self._stock(utterance, audio[i], options)
        self.decoded += len(batch)
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Forget the model. That frees a GPU only in part: the process must exit."""
        self._loaded = None

    def stats(self) -> dict[str, int]:
        return {"decoded": self.decoded, "second_looks": self.second_looks, "fallbacks": self.fallbacks}

    def _language(self, utterance: Utterance) -> str | None:
        if not self._multilingual:
            return "en"
        # A language the model does not know is guessed rather than refused: the words matter more.
        return utterance.language if utterance.language in self._languages else None

    def _generate(
        self, audio: Sequence[Audio], languages: Sequence[str | None], least_s: float
    ) -> list[_Answer | None]:
        """Decode in one window for all, guessing languages not given; None for each answer that fails a check."""
        longest_s = max(len(samples) for samples in audio) / SAMPLE_RATE_HZ
        window_s = min(MAX_WINDOW_S, max(least_s, longest_s + WINDOW_MARGIN_S))
        frames = min(3000, math.ceil(window_s * 50) * 2)
        extractor = self._whisper.feature_extractor
        mels = np.stack([_fit(extractor(samples)[:, :-1], frames) for samples in audio])
        features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mels, np.float32))
        known = list(languages)
        if self._multilingual and None in known:
            features = self._whisper.model.encode(features)
            guesses = self._whisper.model.detect_language(features)
            known = [
                language or str(guess[0][0]).strip("<|>") for language, guess in zip(languages, guesses, strict=True)
            ]
        chosen = [self._tokenizer(language or "en") for language in known]
        caps = [_token_cap(len(samples) / SAMPLE_RATE_HZ) for samples in audio]
        results = self._whisper.model.generate(
            features,
            [list(tokenizer.sot_sequence) for tokenizer in chosen],
            beam_size=self._beam,
            max_length=max(caps),
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=[-1],
            max_initial_timestamp_index=50,
        )
        return [
            self._check(result, tokenizer, len(samples) / SAMPLE_RATE_HZ, cap)
            for result, tokenizer, samples, cap in zip(results, chosen, audio, caps, strict=True)
        ]

    def _tokenizer(self, language: str) -> Tokenizer:
        return Tokenizer(
            self._whisper.hf_tokenizer,
            self._multilingual,
            task="transcribe" if self._multilingual else None,
            language=language if self._multilingual else None,
        )

    @staticmethod
    def _check(result: Any, tokenizer: Tokenizer, seconds: float, cap: int) -> _Answer | None:
        tokens: list[int] = list(result.sequences_ids[0])
        if len(tokens) >= cap - 4:
            return None  # ran into the cap: a loop
        logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        words = [token for token in tokens if token < tokenizer.eot]
        text = str(tokenizer.decode(words)).strip()
        if result.no_speech_prob > NO_SPEECH and logprob < LOWEST_LOGPROB:
            return _Answer("", 0.0, tokenizer.language_code)
        if logprob < LOWEST_LOGPROB or compression_ratio(text) > HIGHEST_COMPRESSION:
            return None
        stamps = [token - tokenizer.timestamp_begin for token in tokens if token >= tokenizer.timestamp_begin]
        last_s = stamps[-1] * 0.02 if stamps else 0.0
        if seconds - last_s > UNCOVERED_S or not text:
            return None
        return _Answer(text, math.exp(min(0.0, logprob)), tokenizer.language_code)

    def _stock(self, utterance: Utterance, audio: Audio, options: EngineOptions) -> Transcript:
        segments, info = self._whisper.transcribe(
            audio,
            language=self._language(utterance),
            beam_size=self._beam if options.draft else max(self._beam, 5),
            temperature=list(_FALLBACK_TEMPERATURES[: 1 if options.draft else None]),
            condition_on_previous_text=False,
            compression_ratio_threshold=HIGHEST_COMPRESSION,
            log_prob_threshold=LOWEST_LOGPROB,
            no_speech_threshold=NO_SPEECH,
            hotwords=" ".join(options.hints) or None,
            word_timestamps=options.word_timestamps,
        )
        texts: list[str] = []
        weights: list[tuple[float, float]] = []
        words: list[Word] = []
        for segment in segments:
            # Still repetitive after every temperature: better nothing than a loop.
            if segment.compression_ratio > HIGHEST_COMPRESSION and segment.avg_logprob < LOWEST_LOGPROB:
                continue
            said = [Word(round(float(w.start), 3), round(float(w.end), 3), w.word.strip()) for w in segment.words or ()]
            text = segment.text.strip()
            if segment.compression_ratio > HIGHEST_COMPRESSION:
                split = text.split()
                text = " ".join(split[i] for i in without_loops(split))
                said = [said[i] for i in without_loops([word.text for word in said])]
            texts.append(text)
            words += said
            weights.append((segment.end - segment.start, segment.avg_logprob))
        total_s = sum(weight for weight, _ in weights) or 1.0
        mean = sum(weight * logprob for weight, logprob in weights) / total_s
        confidence = math.exp(min(0.0, mean)) if weights else 0.0
        transcript = _transcript(utterance, " ".join(texts).strip(), confidence, info.language)
        return dataclasses.replace(transcript, words=tuple(words))


def missing_library(error: RuntimeError) -> SpeechError | None:
    """What to do about a library of CUDA that CTranslate2 did not find; None for any other error."""
    found = _MISSING.search(str(error))
    if found is None:
        return None
    return SpeechError(
        f"the graphics card cannot be used without {found['file']} (part of NVIDIA's {found['library']}): "
        f"run pip install nvidia-{found['library']}-cu12, or set stt.device = cpu"
    )


def _fit(mel: Audio, frames: int) -> Audio:
    """Filled up with zeros as faster-whisper does: with silence instead, more words come out wrong."""
    mel = mel[:, :frames]
    return np.pad(mel, ((0, 0), (0, frames - mel.shape[1])))


def _token_cap(seconds: float) -> int:
    """More tokens than anybody can speak in that time."""
    return min(MAX_TOKENS, 24 + math.ceil(seconds * 14))


def _transcript(utterance: Utterance, text: str, confidence: float, language: str | None) -> Transcript:
    return Transcript(
        utterance.id,
        utterance.guild_id,
        utterance.user_id,
        text,
        utterance.started_at,
        utterance.ended_at,
        language,
        confidence,
    )


def create(config: Mapping[str, object]) -> WhisperEngine:
    """Load a model; see `WhisperEngine` for the keys of `config`.

    Raises:
        SpeechError: It cannot be loaded.
    """
    try:
        return WhisperEngine(
            str(config["model"]),
            str(config.get("device", "auto")),
            str(config.get("compute_type", "int8")),
            int(str(config.get("threads", 2))),
            int(str(config.get("beam", 1))),
            short_window=bool(config.get("short_window", True)),
        )
    except FileNotFoundError as error:
        # No copy of that name is here and none can be fetched; a folder was checked before.
        raise SpeechError(
            f"the model {config.get('model')} is not on this machine and cannot be downloaded; check the network, or "
            "name another in stt.model (tiny.en is installed) or a folder in stt.model_path"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise SpeechError(f"the model {config.get('model')} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
