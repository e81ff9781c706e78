"""Every fuzz target for a second; and that the fuzzer finds what is there."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_targets import TARGETS
from fuzzing import Script, Target, attempt, fuzz, smaller

pytestmark = pytest.mark.unit

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize("name", TARGETS)
def test_a_second_of(name: str) -> None:
    seed = secrets.randbits(32)
    tally = fuzz(TARGETS[name], 1.0, seed)
    found = tally.finding
    assert found is None, f"seed {seed}: {found.data.hex()}\n{found.why}"
    assert tally.inputs > 0


def fragile(data: bytes) -> None:
    """A parser with a mistake: JSON numbers are taken for lists."""
    try:
        value = json.loads(data)
    except ValueError:
        return
    len(value)


def test_a_mistake_is_found_and_made_small() -> None:
    target = Target("fragile", [b'{"a": [1, 2, 3]}', b'["b", 5]'], fragile)
    tally = fuzz(target, 20.0, 1)
    assert tally.finding is not None
    assert "TypeError" in tally.finding.why
    assert len(smaller(tally.finding, target).data) <= 2
    assert fuzz(target, 20.0, 1).finding == tally.finding, "the same seed, the same input"


def test_an_input_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.SLOW_S", 0.0)
    found = attempt(Target("slow", [b"x"], lambda data: None), b"x")
    assert found is not None
    assert found.why.startswith("took")


def test_a_script_has_a_meaning_for_any_bytes() -> None:
    script = Script(b"\1\2\3")
    assert (script.number(), script.number(2), bool(script)) == (1, 0x0203, False)
    assert (script.number(), script.take(5), script.pick("ab")) == (0, b"", "a")


def test_the_command_says_its_seed_and_what_it_did() -> None:
    done = subprocess.run(
        [sys.executable, RUN, "--seconds", "0.2", "--seed", "7", "--target", "rtp"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second, last = done.stdout.splitlines()
    assert first == "seed 7"
    assert second.startswith("rtp: ")
    assert last == "fuzz: 1 targets, 0 with a finding; seed 7"
