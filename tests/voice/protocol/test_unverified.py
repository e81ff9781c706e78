"""Every place that docs/unverified.md names exists."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[3] / "docs" / "unverified.md").read_text()
PLACES = sorted(set(re.findall(r"`(roost[\w.]*):([\w.]+)`", PAGE)))


@pytest.mark.parametrize(("module", "name"), PLACES, ids=[f"{module}:{name}" for module, name in PLACES])
def test_the_place_exists(module: str, name: str) -> None:
    found: object = importlib.import_module(module)
    for part in name.split("."):
        if dataclasses.is_dataclass(found) and part in {field.name for field in dataclasses.fields(found)}:
            return
        found = getattr(found, part)


def test_the_page_names_places() -> None:
    assert len(PLACES) > 20
