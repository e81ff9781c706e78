"""What the demo measured, and whether that keeps the promise."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from typing import Any

MAX_WER = 0.08
MAX_CAPTION_S = 1.5
MAX_REAP_S = 10.0
MAX_WORKER_GONE_S = 0.2
MAX_SHUTDOWN_S = 3.0

STOP_ORDER = (
    "stt.stopping",
    "voice.stopping",
    "closing",
    "drained",
    "disconnected",
    "closed",
    "stt.unload",
    "voice.unload",
    "gateway.closed",
)


@dataclasses.dataclass
class SpokenUtterance:
    """One recording that was played, and what came back as captions.

    Attributes:
        latency_s: Arrival of the first message that completes the text, minus the end of speech; None without a text.
    """

    speaker: str
    reference: str
    hypothesis: str
    latency_s: float | None


@dataclasses.dataclass
class Ledger:
    """Filled in by the acts; every act that was not played leaves its part empty, and `ok` false."""

    utterances: list[SpokenUtterance] = dataclasses.field(default_factory=list)
    last_words: SpokenUtterance | None = None
    """What was being said when the bot was told to stop; the reference is what had been said by then."""
    last_words_in_time: bool = False
    """They arrived after the bot was told to stop and before it left voice, and that before the gateway closed."""
    acts: list[str] = dataclasses.field(default_factory=list)
    refused_speaker: str = ""
    refused_frames_sent: int = 0
    refused_frames_decoded: int | None = None
    sessions_opened: int = 0
    sessions_closed: int = 0
    sessions_leaked: int | None = None
    max_sessions_per_guild: int = 0
    ghost_seen: bool = False
    ghost_reaped_in_s: float | None = None
    ghosts_reaped: int = 0
    rejoined: bool = False
    worker_gone_after_kill_s: float | None = None
    workers_alive_at_end: int | None = None
    shutdown_order: list[str] = dataclasses.field(default_factory=list)
    shutdown_s: float | None = None
    dave_version: int = 0
    dave_epochs: int = 0
    frames_decrypted: int = 0
    frames_dropped: int = 0
    in_encrypted_group: bool = False
    """By the simulated Discord's word: the bot's key was in the group while the others spoke."""
    unexpected: list[str] = dataclasses.field(default_factory=list)
    """What the bot said that it should not have, what it left unsaid, and the errors in its log; a line each."""
    open_files_at_rest: int = 0
    open_files_live: int = 0

    @property
    def _stopped_in_order(self) -> bool:
        """Other plugins, such as one with a driver, go between those of the demo."""
        ours = [step for step in self.shutdown_order if step in STOP_ORDER or not step.endswith(".unload")]
        return tuple(ours) == STOP_ORDER

    @property
    def _encrypted(self) -> bool:
        """Whether speech was decrypted. A driver that cannot tell has understood what only members of the group can."""
        if self.dave_version:
            return self.frames_decrypted > 0
        return self.in_encrypted_group and self.wer is not None and self.wer <= MAX_WER

    @property
    def wer(self) -> float | None:
        """Word errors over all words, each speaker's words as a whole; None when nothing was said."""
        from roost.text import wer

        said = [*self.utterances, *([self.last_words] if self.last_words else [])]
        if not said:
            return None
        return wer([each.reference for each in said], [each.hypothesis for each in said])

    @property
    def latencies_s(self) -> list[float]:
        return sorted(each.latency_s for each in self.utterances if each.latency_s is not None)

    def failures(self) -> list[str]:
        """What breaks the promise, one line each; empty when all is well."""
        checks: list[tuple[bool, str]] = [
            (len(self.acts) == 4, f"only {len(self.acts)} of 4 acts were played"),
            (self.wer is not None and self.wer <= MAX_WER, f"word error rate {_percent(self.wer)} > {MAX_WER:.0%}"),
            (
                len(self.latencies_s) == len(self.utterances) and _p95(self.latencies_s) <= MAX_CAPTION_S,
                f"captions took {_seconds(_p95(self.latencies_s))} (p95), {len(self.utterances)} recordings, "
                f"{len(self.latencies_s)} captioned",
            ),
            (self.refused_frames_sent > 0, "the third member never spoke"),
            (self.refused_frames_decoded == 0, f"{self.refused_frames_decoded} frames decoded without consent"),
            (self.sessions_leaked == 0, f"{self.sessions_leaked} voice sessions leaked"),
            (self.max_sessions_per_guild == 1, f"{self.max_sessions_per_guild} sessions at once in one guild"),
            (self.ghost_seen, "no ghost was seen after the kill"),
            (
                self.ghost_reaped_in_s is not None and self.ghost_reaped_in_s <= MAX_REAP_S,
                f"the ghost was reaped after {_seconds(self.ghost_reaped_in_s)} (at most {MAX_REAP_S:.0f} s)",
            ),
            (self.rejoined, "the bot did not rejoin after the crash"),
            (
                self.worker_gone_after_kill_s is not None and self.worker_gone_after_kill_s <= MAX_WORKER_GONE_S,
                f"the speech worker outlived the bot by {_seconds(self.worker_gone_after_kill_s)}",
            ),
            (self.workers_alive_at_end == 0, f"{self.workers_alive_at_end} processes left at the end"),
            (self._stopped_in_order, f"the shutdown went {' > '.join(self.shutdown_order)}"),
            (
                self.shutdown_s is not None and self.shutdown_s <= MAX_SHUTDOWN_S,
                f"the shutdown took {_seconds(self.shutdown_s)} (at most {MAX_SHUTDOWN_S:.0f} s)",
            ),
            (
                self.last_words is not None and bool(self.last_words.hypothesis) and self.last_words_in_time,
                "the last words were not posted between the signal and leaving voice",
            ),
            (self._encrypted, "no end-to-end encrypted frame was decrypted"),
        ]
        return [*self.unexpected, *(text for good, text in checks if not good)]

    def as_json(self) -> str:
        latencies = self.latencies_s
        document: dict[str, Any] = {
            "wer": self.wer,
            "utterances": [dataclasses.asdict(each) for each in self.utterances],
            "caption_latency_s": {
                "p50": statistics.median(latencies) if latencies else None,
                "p95": _p95(latencies) if latencies else None,
            },
            "sessions": {
                "opened": self.sessions_opened,
                "closed": self.sessions_closed,
                "leaked": self.sessions_leaked,
                "max_per_guild": self.max_sessions_per_guild,
            },
            "ghost": {"seen": self.ghost_seen, "reaped_in_s": self.ghost_reaped_in_s, "rejoined": self.rejoined},
            "worker": {"gone_after_kill_s": self.worker_gone_after_kill_s, "alive_at_end": self.workers_alive_at_end},
            "shutdown": {
                "order": self.shutdown_order,
                "seconds": self.shutdown_s,
                "last_words": dataclasses.asdict(self.last_words) if self.last_words else None,
                "last_words_in_time": self.last_words_in_time,
            },
            "dave": {
                "version": self.dave_version,
                "epochs": self.dave_epochs,
                "frames_decrypted": self.frames_decrypted,
                "frames_dropped": self.frames_dropped,
                "in_group": self.in_encrypted_group,
            },
            "consent": {"frames_sent": self.refused_frames_sent, "frames_decoded": self.refused_frames_decoded},
            "unexpected": self.unexpected,
            "open_files": {"at_rest": self.open_files_at_rest, "live": self.open_files_live},
            "failures": self.failures(),
            "ok": not self.failures(),
        }
        return json.dumps(document)

    def rows(self) -> list[tuple[str, str, bool]]:
        """(what, figure, within its bound) for people."""
        return [
            (
                "voice sessions opened / closed / leaked",
                f"{self.sessions_opened} / {self.sessions_closed} / {self.sessions_leaked}",
                self.sessions_leaked == 0,
            ),
            ("most sessions at once in a guild", str(self.max_sessions_per_guild), self.max_sessions_per_guild == 1),
            (
                "ghosts reaped, seconds after READY",
                f"{self.ghosts_reaped}, {_seconds(self.ghost_reaped_in_s)}",
                self.ghost_reaped_in_s is not None and self.ghost_reaped_in_s <= MAX_REAP_S,
            ),
            (
                "speech worker gone after SIGKILL of the bot",
                _milliseconds(self.worker_gone_after_kill_s),
                self.worker_gone_after_kill_s is not None and self.worker_gone_after_kill_s <= MAX_WORKER_GONE_S,
            ),
            ("worker processes alive at the end", str(self.workers_alive_at_end), self.workers_alive_at_end == 0),
            (
                "bot's open files, at rest / live",
                f"{self.open_files_at_rest} / {self.open_files_live}",
                self.open_files_live > 0,
            ),
            (
                f"frames of {self.refused_speaker or 'the third member'} (no consent) sent / decoded",
                f"{self.refused_frames_sent} / {self.refused_frames_decoded}",
                self.refused_frames_decoded == 0,
            ),
            (
                "end-to-end encryption: version, epochs, frames decrypted / dropped",
                f"DAVE {self.dave_version}, {self.dave_epochs}, {self.frames_decrypted} / {self.frames_dropped}"
                if self.dave_version
                else f"untold; by Discord's word {'in' if self.in_encrypted_group else 'outside'} the group",
                self._encrypted,
            ),
            ("word error rate", _percent(self.wer), self.wer is not None and self.wer <= MAX_WER),
            (
                "end of speech to caption, p50 / p95",
                f"{_seconds(statistics.median(self.latencies_s) if self.latencies_s else None)} / "
                f"{_seconds(_p95(self.latencies_s))}",
                _p95(self.latencies_s) <= MAX_CAPTION_S,
            ),
            (
                "shutdown",
                _seconds(self.shutdown_s),
                self.shutdown_s is not None and self.shutdown_s <= MAX_SHUTDOWN_S,
            ),
        ]


def _p95(values: Sequence[float]) -> float:
    """The smallest value that at least 95 % of all do not exceed; infinite for none."""
    if not values:
        return float("inf")
    ordered = sorted(values)
    return ordered[max(-(-95 * len(ordered) // 100) - 1, 0)]


def _seconds(value: float | None) -> str:
    return "never" if value is None or value == float("inf") else f"{value:.2f} s"


def _milliseconds(value: float | None) -> str:
    return "never" if value is None else f"{value * 1000:.0f} ms"


def _percent(value: float | None) -> str:
    return "nothing said" if value is None else f"{value:.1%}"
