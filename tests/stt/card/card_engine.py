"""An engine that takes memory of the pretended card, and says what CUDA says when there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from roost.speech import EngineOptions, Transcript, Utterance
from roost_stt import gpu

SIZES_MIB = {"float16": 4000, "int8_float16": 2500, "int8": 2000}
INFERENCE_MIB = 300
HELPER_MIB = 1000


class CardEngine:
    """Answers every utterance with where it runs. The first inference takes more memory, as with real models."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self.runs_on = f"{config['device']} {config['compute_type']}"
        self._on_card = config["device"] == "cuda"
        self._config = config
        if config.get("helper"):
            wait = [sys.executable, "-c", "import time; time.sleep(600)"]
            helper = subprocess.Popen(wait, stdin=subprocess.DEVNULL)
            (Path(os.environ["PRETEND_CARD"]) / "used" / str(helper.pid)).write_text(str(HELPER_MIB << 20))
        if self._on_card:
            if config.get("broken"):
                raise RuntimeError(
                    "CUDA failed with error CUDA driver version is insufficient for CUDA runtime version"
                )
            self._take(SIZES_MIB[str(config["compute_type"])])

    def transcribe(self, batch: Sequence[Utterance], options: EngineOptions) -> list[Transcript]:
        if self._on_card:
            self._take(SIZES_MIB[str(self._config["compute_type"])] + INFERENCE_MIB)
        return [
            Transcript(u.id, u.guild_id, u.user_id, f"heard on {self.runs_on}", u.started_at, u.ended_at) for u in batch
        ]

    def close(self) -> None:
        """Gives nothing back: like the real ones, only the end of the process does."""

    def _take(self, mib: int) -> None:
        mine = Path(os.environ["PRETEND_CARD"]) / "used" / str(os.getpid())
        mine.unlink(missing_ok=True)
        seen = gpu.look(os.environ["CUDA_VISIBLE_DEVICES"])
        if seen.total - seen.used < mib << 20:
            raise RuntimeError("CUDA failed with error out of memory")
        mine.write_text(str(mib << 20))


def create(config: Mapping[str, object]) -> CardEngine:
    return CardEngine(config)
