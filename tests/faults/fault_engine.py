"""An engine for the speech worker that goes wrong once in the way a test asks for, and then works."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roost.speech import EngineOptions, EngineSpec, Transcript, Utterance

OUT_OF_MEMORY = "CUDA failed with error out of memory"
"""What CTranslate2 raises, as a RuntimeError, when the GPU is full."""


class FaultEngine:
    """Answers ``said by {user}``, after the faults its file does not yet remember.

    Args:
        folder: Where each fault that has happened is remembered, so that the next process goes on.
        faults: ``segv``, ``oom``, ``big`` (out of memory for more than one utterance), ``hang`` in an inference; and
            always, not once: ``segv:7`` for each utterance of user 7, ``nonsense:7`` answers that no message can hold.
        delay_s: How long each batch takes.
    """

    def __init__(self, folder: Path, faults: Sequence[str], delay_s: float) -> None:
        self._folder = folder
        self._faults = list(faults)
        self._delay_s = delay_s

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        if "big" in self._faults and len(batch) > 1:
            (self._folder / "big").touch()
            raise RuntimeError(OUT_OF_MEMORY)
        for fault in self._faults:
            name, _, user = fault.partition(":")
            if user and any(str(each.user_id) == user for each in batch):
                if name == "nonsense":
                    return [nonsense(each) for each in batch]
                (self._folder / f"deaths.{time.monotonic_ns()}").touch()
                happen(name)
            if not user and fault != "big" and first_time(self._folder, fault):
                happen(fault)
        (self._folder / "busy").touch()
        time.sleep(self._delay_s)
        return [
            Transcript(
                each.id,
                each.guild_id,
                each.user_id,
                f"said by {each.user_id}",
                each.started_at,
                each.ended_at,
                each.language,
                confidence=1.0,
            )
            for each in batch
        ]

    def close(self) -> None:
        """Nothing to release."""


def nonsense(utterance: Utterance) -> Transcript:
    """An answer that JSON cannot hold."""
    text: Any = {"text": {1, 2}}
    return Transcript(utterance.id, utterance.guild_id, utterance.user_id, text, math.nan, math.inf, confidence=1.0)


POISON = b"\xf8poison"
"""A packet that ``create`` teaches the worker's decoder to die of, with the fault ``decoder``."""


def poison_decoder(deadly: str) -> None:
    """Have the decoder die, or raise, of `POISON`."""
    from roost_stt.worker import speakers

    decode = speakers.OpusDecoder.decode

    def dies(self: Any, packet: bytes) -> Any:
        if packet == POISON:
            if deadly == "raises":
                raise RuntimeError("a fault nobody foresaw")
            signal.raise_signal(signal.SIGSEGV)  # in this thread, as a true one
        return decode(self, packet)

    speakers.OpusDecoder.decode = dies  # type: ignore[method-assign]


def first_time(folder: Path, fault: str) -> bool:
    try:
        (folder / fault).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def happen(fault: str) -> None:
    if fault == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault in ("oom", "load_oom"):
        raise RuntimeError(OUT_OF_MEMORY)
    elif fault == "no_memory":
        raise MemoryError
    elif fault == "hang":
        time.sleep(3600)


def create(config: Mapping[str, object]) -> FaultEngine:
    folder = Path(str(config["folder"]))
    faults = str(config["faults"]).split()
    for fault in [each for each in faults if each.startswith("decoder")]:
        faults.remove(fault)
        poison_decoder(fault.partition("-")[2])
    starts = len(list(folder.glob("start.*")))
    (folder / f"start.{starts}").touch()
    if "load_oom" in faults and starts == 1:  # the first start works, the one after the crash does not
        happen("load_oom")
    delay_s = config.get("delay_s", 0.0)
    assert isinstance(delay_s, float | int)
    return FaultEngine(folder, [each for each in faults if each != "load_oom"], delay_s)


def spec(folder: Path, *faults: str, delay_s: float = 0.0, needs_gpu: bool = False) -> EngineSpec:
    """For the bot's side. The worker finds this module when PYTHONPATH names its folder."""
    config = {"folder": str(folder), "faults": " ".join(faults), "delay_s": delay_s}
    return EngineSpec("fault_engine:create", config, needs_gpu=needs_gpu)
