"""The picture in the README: taken from a run that went well, and of the demo as it is today."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

import pytest

from roost.demo.ledger import Ledger

pytestmark = pytest.mark.unit
COMMITTED = Path(__file__).parents[3] / "docs" / "demo.svg"
PICTURE = Path(os.environ.get("ROOST_DEMO_PICTURE", COMMITTED))
"""CI has this look at the picture that it has just taken, too."""
_PIECE = re.compile(r'<text class="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>')


def lines_of(picture: str) -> list[str]:
    """The text of the picture, line by line."""
    pieces: dict[float, list[tuple[float, str]]] = {}
    for x, y, text in _PIECE.findall(picture):
        pieces.setdefault(float(y), []).append((float(x), html.unescape(text).replace("\xa0", " ")))
    return ["".join(text for _, text in sorted(row)) for _, row in sorted(pieces.items())]


LINES = lines_of(PICTURE.read_text(encoding="utf-8"))


def panel(title: str) -> str:
    """The words of a panel on the right, its broken lines joined."""
    first = next(number for number, line in enumerate(LINES) if f" {title} " in line and "╭" in line)
    rows = []
    for line in LINES[first + 1 :]:
        if "╰" in line:
            break
        rows.append(line.split("│")[-2].strip())
    return " ".join(row for row in rows if row)


def test_what_is_shown_is_what_the_demo_expects() -> None:
    shown = panel("Shown so far")
    assert shown == "Joined #perch. Transcribing #perch into #general. A notice asks everybody before anything is heard"


def test_both_speakers_have_captions() -> None:
    words = panel("#general")
    assert re.findall(r"(\w+): ", words)[:1] == ["Ben"]
    assert {"Ada", "Ben"} == set(re.findall(r"(\w+): ", words))


def test_every_row_of_the_ledger_is_there_and_well() -> None:
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in LINES if line.endswith("│ok│")]
    labels = [what for what, _, _ in Ledger(refused_speaker="Cleo").rows()]
    assert [row[0] for row in rows] == labels
    assert not any("FAILED" in line for line in LINES)
