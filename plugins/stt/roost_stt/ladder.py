"""An engine and the smaller ones to run instead, when the card has no room for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from roost.speech import EngineSpec

SMALLER = "smaller"
"""What ended the worker asks for less memory: the next step."""
CPU = "cpu"
"""The card itself is the trouble: the next step that needs none."""
COMPUTE_TYPES = ("float32", "float16", "int8_float16", "int8")
"""From the most memory to the least."""


def whisper_ladder(config: Mapping[str, Any], factory: str, *, gpu: bool, compute_type: str) -> EngineSpec:
    """The Whisper engine with its steps: on a card from the wanted compute type down, and the CPU at the end.

    Args:
        config: Of the engine, less device and compute type.
        factory: Of the engine.
        gpu: Begin on the card.
        compute_type: CTranslate2's name, or ``auto``: float16 on a card, int8 on the CPU.
    """

    def step(device: str, kind: str) -> EngineSpec:
        return EngineSpec(factory, {**config, "device": device, "compute_type": kind}, needs_gpu=device == "cuda")

    if not gpu:
        return step("cpu", "int8" if compute_type == "auto" else compute_type)
    first = "float16" if compute_type == "auto" else compute_type
    # A type of another name, such as bfloat16 or default, takes at most as much as float32.
    below = COMPUTE_TYPES[COMPUTE_TYPES.index(first) + 1 :] if first in COMPUTE_TYPES else COMPUTE_TYPES[2:]
    smaller = (*(step("cuda", kind) for kind in below), step("cpu", "int8"))
    return dataclasses.replace(step("cuda", first), smaller=smaller)


class Ladder:
    """Which step is in use. Steps go down only; a new start begins at the top.

    Args:
        spec: The top, with its ``smaller``.
        cpu_if_gpu_fails: Whether trouble with the card other than too little memory leads to the CPU, too.
    """

    def __init__(self, spec: EngineSpec, *, cpu_if_gpu_fails: bool = False) -> None:
        self._steps = (spec, *spec.smaller)
        self._cpu_if_gpu_fails = cpu_if_gpu_fails
        self._at = 0
        self.why = ""
        """For people, when this is not the top."""
        self.asked = ""
        """`SMALLER` or `CPU`: what led to the last step down."""

    @property
    def steps(self) -> tuple[EngineSpec, ...]:
        """All of them, from the top."""
        return self._steps

    @property
    def spec(self) -> EngineSpec:
        """What to run now."""
        return self._steps[self._at]

    def reset(self) -> None:
        self._at, self.why, self.asked = 0, "", ""

    def down(self, wanted: str, reason: str) -> bool:
        """Take a step down; False when there is none.

        Args:
            wanted: `SMALLER`, `CPU`, or anything else for no step.
            reason: Of the worker's end, for people.
        """
        if wanted == CPU and not self._cpu_if_gpu_fails:
            return False
        if wanted not in (SMALLER, CPU):
            return False
        below = range(self._at + 1, len(self._steps))
        at = next((i for i in below if wanted == SMALLER or not self._steps[i].needs_gpu), None)
        if at is None:
            return False
        before, self._at, self.asked = self.spec, at, wanted
        self.why = f"{named(before)} gave up ({reason}), so it runs on {named(self.spec)}"
        return True


def named(spec: EngineSpec) -> str:
    """Where and how an engine runs, in words."""
    said = [str(spec.config[key]) for key in ("device", "compute_type") if key in spec.config]
    return " ".join(said) or ("a GPU" if spec.needs_gpu else "the CPU")
