"""Where the speech worker stands, and what its supervision is set to."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from roost.speech import EngineSpec
from roost_stt.ladder import CPU, SMALLER
from roost_stt.protocol.endpointing import Endpointing


class State(enum.Enum):
    """Where the worker stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """It died and the next start is delayed."""
    FAILED = "failed"
    """It died too often; only a new `SpeechWorker.start` tries again."""


class Trouble(enum.Enum):
    """What the people in the channel may have to be told."""

    CRASHED = "crashed"
    LOST = "lost"
    FAILED = "failed"
    SMALLER = "smaller"
    """The card has no room; what runs now is less exact or slower."""
    NO_CARD = "no card"
    """The card cannot be used; what runs now is slower."""


STEPS_DOWN = {SMALLER: Trouble.SMALLER, CPU: Trouble.NO_CARD}
"""What people are told of a step down of the engine's ladder."""


class Cause(enum.Enum):
    """How a worker's life ended, as far as it says who may have caused it."""

    CRASHED = "crashed"
    """By itself: what the engine or the audio thread was at may be why."""
    HUNG = "hung"
    """The engine does not come back."""
    SILENT = "silent"
    """It does not answer: its audio thread or all of it hangs."""
    MEMORY = "memory"
    """The engine says that there is too little memory."""
    NOBODY = "nobody"
    """Nobody's words can be why."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerTiming:
    """Every delay of the supervision, in seconds."""

    handshake_s: float = 30.0
    card_handshake_s: float = 90.0
    """The same for a step on a card: the first use of one loads or compiles its kernels, 19 s with a small model."""
    heartbeat_s: float = 1.0
    silent_s: float = 5.0
    """No answer for so long: it hangs."""
    bot_silent_s: float = 30.0
    """A worker that hears nothing from its bot for so long ends by itself: a bot that is frozen keeps no GPU."""
    busy_s: float = 25.0
    """One batch may take so long."""
    decoder_idle_s: float = 50.0
    """The worker frees the decoder of whoever has been silent for so long."""
    exit_s: float = 0.3
    """From the closed pipe to SIGKILL."""
    reap_s: float = 2.0
    backoff_s: tuple[float, ...] = (0.0, 0.2, 1.0, 5.0)
    window_s: float = 60.0
    crashes_per_window: int = 5

    def start_s(self, spec: EngineSpec) -> float:
        """How long a process may take to be ready with this engine."""
        return self.card_handshake_s if spec.needs_gpu else self.handshake_s


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What to run.

    Attributes:
        spec: The engine.
        endpointing: How utterances are cut.
        threads: CPU threads for one inference.
        max_batch: Utterances decoded together.
        lease: Folder, GPU and slots of the GPU lease, or None.
        environment: More variables for the worker.
        cpu_if_gpu_fails: Go on with the step of the engine that needs no card when the card is not usable.
        timing: See `WorkerTiming`.
    """

    spec: EngineSpec
    endpointing: Endpointing = dataclasses.field(default_factory=Endpointing)
    threads: int = 2
    max_batch: int = 8
    lease: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cpu_if_gpu_fails: bool = False
    timing: WorkerTiming = WorkerTiming()
