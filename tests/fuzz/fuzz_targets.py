"""Every target by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fuzz_dave
import fuzz_files
import fuzz_gateway
import fuzz_packets
from fuzzing import Target

FOUND: dict[str, list[str]] = json.loads((Path(__file__).parent / "found.json").read_text())
"""Inputs that once broke a promise, as hex, by target: tried first, ever after."""


def _with_found(target: Target) -> Target:
    return dataclasses.replace(target, corpus=[*map(bytes.fromhex, FOUND.get(target.name, ())), *target.corpus])


TARGETS = {
    target.name: _with_found(target)
    for module in (fuzz_packets, fuzz_gateway, fuzz_dave, fuzz_files)
    for target in module.TARGETS
}
