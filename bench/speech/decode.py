"""The engine alone: how long an utterance takes and how many words are wrong, beside stock faster-whisper."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from recordings import Clip, Samples, fetched, noisy, shipped, words_of
from stock_engine import StockEngine

from roost.speech import EngineOptions, Utterance
from roost.text import wer
from roost_stt.models import locate
from roost_stt.protocol.endpointing import Endpointing
from roost_stt.protocol.ipc import Audio
from roost_stt.worker.engines.whisper import WhisperEngine
from roost_stt.worker.speakers import Speakers
from roost_stt.worker.utterances import Spoken
from roost_stt.worker.vad import SileroModel

PLAIN = EngineOptions()
BATCH = 8


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cut(clips: Sequence[Clip]) -> list[list[Samples]]:
    """The utterances of each clip as the worker's own ears cut them, Opus and all."""
    heard: list[Spoken] = []
    model = SileroModel()
    found = []
    for each in clips:
        heard.clear()
        speakers = Speakers(model, Endpointing(), heard.append)
        for number, packet in enumerate(each.packets):
            speakers.frame(Audio(number, 1, 1, number * 960, number * 0.02, 0, packet), number * 0.02)
        speakers.drain(1)
        found.append([np.frombuffer(spoken.segment.pcm, np.int16) for spoken in heard])
    return found


def utterance(samples: Samples, language: str | None) -> Utterance:
    return Utterance(1, 1, 1, samples.tobytes(), 0.0, len(samples) / 16_000, language)


def compare(
    ours: WhisperEngine, stock: StockEngine, clips: Sequence[Clip], rounds: int, *, guess: bool = False
) -> dict[str, Any]:
    """Both on the same utterances in turn; the errors of both, and of stock on the uncut recordings."""
    utterances = cut(clips)
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    texts: dict[str, list[str]] = {"ours": [], "stock": [], "stock_uncut": []}
    by_length: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds):
        for each, pieces in zip(clips, utterances, strict=True):
            language = None if guess else each.language
            said: dict[str, list[str]] = {"ours": [], "stock": []}
            for piece in pieces:
                seconds = len(piece) / 16_000
                length = "to 3 s" if seconds <= 3 else "to 8 s" if seconds <= 8 else "longer"
                for who in ("ours", "stock") if turn % 2 else ("stock", "ours"):
                    began = time.perf_counter()
                    if who == "ours":
                        text = ours.transcribe([utterance(piece, language)], PLAIN)[0].text
                    else:
                        text = stock.text(piece, language)
                    took = time.perf_counter() - began
                    times[who].append(took)
                    by_length.setdefault(length, {"ours": [], "stock": []})[who].append(took)
                    said[who].append(text)
            if turn == 0:
                for who, parts in said.items():
                    texts[who].append(words_of(" ".join(parts)))
                texts["stock_uncut"].append(words_of(stock.text(each.samples, language)))
    wanted = [words_of(each.text) for each in clips]
    return {
        "clips": len(clips),
        "utterances": sum(map(len, utterances)),
        "seconds": round(sum(each.seconds for each in clips), 1),
        "words": sum(len(text.split()) for text in wanted),
        **{
            f"{who}_{name}_ms": round(quantile(times[who], share) * 1000, 1)
            for who in times
            for name, share in (("p50", 0.5), ("p95", 0.95))
        },
        "p50_ratio": round(quantile(times["ours"], 0.5) / quantile(times["stock"], 0.5), 3),
        "p95_ratio": round(quantile(times["ours"], 0.95) / quantile(times["stock"], 0.95), 3),
        "median_ms_by_length": {
            length: {who: round(statistics.median(found) * 1000, 1) for who, found in both.items()}
            for length, both in sorted(by_length.items())
        },
        **{f"{who}_wer_pct": round(wer(wanted, found) * 100, 2) for who, found in texts.items()},
        "worst": sorted(
            (
                {
                    "clip": each.name,
                    "ours_wer_pct": round(wer(want, mine) * 100, 1),
                    "stock_wer_pct": round(wer(want, theirs) * 100, 1),
                    "ours": mine,
                }
                for each, want, mine, theirs in zip(clips, wanted, texts["ours"], texts["stock"], strict=True)
                if wer(want, mine) > wer(want, theirs)
            ),
            key=lambda row: -float(str(row["ours_wer_pct"])),
        )[:5],
    }


def batched(ours: WhisperEngine, clips: Sequence[Clip]) -> dict[str, Any]:
    """What sharing one run of the encoder saves."""
    pieces = [piece for found in cut(clips) for piece in found if len(piece) <= 8 * 16_000]
    batch = [utterance(pieces[number % len(pieces)], "en") for number in range(BATCH)]
    ours.transcribe(batch, PLAIN)
    began = time.perf_counter()
    for each in batch:
        ours.transcribe([each], PLAIN)
    single = time.perf_counter() - began
    began = time.perf_counter()
    ours.transcribe(batch, PLAIN)
    together = time.perf_counter() - began
    return {
        "utterances": BATCH,
        "one_by_one_ms": round(single / BATCH * 1000, 1),
        "together_ms": round(together / BATCH * 1000, 1),
        "times_real_time": round(sum(len(each.pcm) for each in batch) / 32_000 / together, 1),
    }


def measure(options: dict[str, Any], *, rounds: int) -> dict[str, Any]:
    folder = locate(options["model"])
    began = time.perf_counter()
    ours = WhisperEngine(folder, options["device"], options["compute_type"], options["threads"], 1)
    ours.warm_up()
    loaded = time.perf_counter() - began
    stock = StockEngine(folder, options["threads"], 1)
    for each in shipped()[:2]:
        stock.text(each.samples, "en")
        ours.transcribe([utterance(each.samples, "en")], PLAIN)
    figures: dict[str, Any] = {"load_s": round(loaded, 3), "shipped": compare(ours, stock, shipped(), rounds)}
    if fetched():
        figures["fetched"] = compare(ours, stock, fetched(), rounds)
    figures["noisy"] = compare(ours, stock, noisy([*shipped(), *fetched()]), 1)
    if ours.multilingual and fetched(foreign=True):
        figures["foreign"] = compare(ours, stock, fetched(foreign=True), rounds)
        figures["guessed"] = compare(ours, stock, fetched(), 1, guess=True)
    figures["batch"] = batched(ours, shipped())
    figures["engine"] = ours.stats()
    return figures
