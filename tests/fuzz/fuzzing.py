"""The engine of the fuzz targets: changed inputs, their runs, and what is said when one breaks its promise."""

from __future__ import annotations

import json
import random
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SLOW_S = 2.0
"""No input may take longer, on a busy machine."""
GROWTH_BYTES = 128 << 20
"""What the process may grow by over a run; the caches of a warm process are below half of it."""
WARM_INPUTS = 300
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1)
_JUNK: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 1.5, 255, 256, 65_535, 65_536, 2**32, 2**63, 2**64, 10**30,
    float("nan"), float("inf"), "", "0", "1", "-1", "x", "\ud800", "\0", "٣",
    "9" * 30, "a" * 300, [], [[]], [None], {}, {"": None},
)  # fmt: skip

Make = Callable[[random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """One parser, what is fed to it, and what it may answer.

    Attributes:
        name: Of ``--target``.
        corpus: Valid inputs, to be changed.
        run: Feeds one input and checks the answer; an AssertionError says what promise was broken, and any other
            exception that the parser raised what it may not.
        make: An input from chance; by default a changed one of the corpus, or plain noise.
    """

    name: str
    corpus: Sequence[bytes]
    run: Callable[[bytes], None]
    make: Make | None = None

    def next(self, dice: random.Random) -> bytes:
        if self.make is not None:
            return self.make(dice)
        return mutate(dice, self.corpus)


@dataclass(frozen=True)
class Finding:
    """An input that broke a promise."""

    target: str
    data: bytes = field(repr=False)
    why: str


@dataclass
class Tally:
    """What a run did."""

    inputs: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    finding: Finding | None = None


def noise(dice: random.Random, most: int = 200) -> bytes:
    return dice.randbytes(dice.randrange(most))


def mutate(dice: random.Random, corpus: Sequence[bytes], most: int = 6) -> bytes:
    """Noise, or one of the corpus with up to `most` changes."""
    if not corpus or dice.random() < 0.1:
        return noise(dice)
    data = bytearray(dice.choice(corpus))
    for _ in range(dice.randint(1, most)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = dice.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF))
        elif kind == 2:
            data[at:at] = noise(dice, 9)
        elif kind == 3:
            del data[at : at + dice.randrange(1, 20)]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            width = dice.choice((1, 2, 4, 8))
            number = dice.choice(_NUMBERS) & (1 << 8 * width) - 1
            data[at : at + width] = number.to_bytes(width, dice.choice(("big", "little")))
        elif kind == 6:
            other = dice.choice(corpus)
            data[at:] = other[dice.randrange(len(other) + 1) :]
        else:
            end = at + dice.randrange(1, 40)
            data[at:at] = bytes(data[at:end]) * dice.choice((1, 1, 2, 30))
    return bytes(data[: 1 << 16])


def mutate_json(dice: random.Random, corpus: Sequence[Any]) -> bytes:
    """A JSON text: one of the corpus with some of its values changed, at times cut or overlong."""
    value = json.loads(json.dumps(dice.choice(corpus)))
    for _ in range(dice.randint(1, 4)):
        value = _change(dice, value)
    text = json.dumps(value).encode()
    if dice.random() < 0.03:
        depth = dice.choice((10, 20, 400, 5000))
        text = b"[" * depth + text + b"]" * depth
    if dice.random() < 0.2:
        text = mutate(dice, [text], 3)
    return text


def _change(dice: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        if dice.random() < 0.15:
            return {each: old for each, old in value.items() if each != key}
        return {**value, key: _change(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.7:
        at = dice.randrange(len(value))
        if dice.random() < 0.2:
            return value[:at] + value * dice.choice((1, 50))
        return [*value[:at], _change(dice, value[at]), *value[at + 1 :]]
    return dice.choice(_JUNK)


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def attempt(target: Target, data: bytes) -> Finding | None:
    """Run one input."""
    began = time.perf_counter()
    try:
        target.run(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # also what is no Exception, such as a panic below a binding
        return Finding(target.name, data, traceback.format_exc(limit=-6))
    took_s = time.perf_counter() - began
    return Finding(target.name, data, f"took {took_s:.1f} s") if took_s > SLOW_S else None


def fuzz(target: Target, seconds: float, seed: int, progress: Callable[[Tally], None] = lambda _: None) -> Tally:
    """Feed a target for a while; ends early with a finding."""
    dice = random.Random(f"{seed}/{target.name}")
    tally = Tally()
    began = told = time.monotonic()
    warm = 0
    for data in _inputs(target, dice):
        before = time.monotonic()
        tally.seconds = before - began
        if tally.seconds >= seconds and tally.inputs > len(target.corpus):
            break
        if before - told >= 5.0:
            told = before
            progress(tally)
        tally.finding = attempt(target, data)
        tally.inputs += 1
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - before)
        if tally.finding is not None:
            return tally
        if tally.inputs == WARM_INPUTS:
            warm = resident_bytes()
    grown = resident_bytes() - warm
    if warm and grown > GROWTH_BYTES:
        why = f"the process grew by {grown >> 20} MiB over {tally.inputs} inputs"
        tally.finding = Finding(target.name, b"", why)
    return tally


def _inputs(target: Target, dice: random.Random) -> Iterable[bytes]:
    yield from target.corpus
    while True:
        yield target.next(dice)


def smaller(finding: Finding, target: Target, seconds: float = 3.0) -> Finding:
    """The same finding with as few bytes as can be found soon."""
    until = time.monotonic() + seconds
    best, size = finding, max(1, len(finding.data) // 2)
    while size and time.monotonic() < until:
        at = 0
        while at < len(best.data) and time.monotonic() < until:
            found = attempt(target, best.data[:at] + best.data[at + size :])
            if found is not None:
                best = found
            else:
                at += size
        size //= 2
    return best


class Script:
    """Reads an input as steps: whatever it holds, there is a meaning, so that chance reaches far."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, width: int = 1) -> int:
        return int.from_bytes(self.take(width), "big")

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        return self._data[start : self._at]

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[self.number() % len(choices)]
