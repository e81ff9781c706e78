"""The changelog names each version once, newest first, and the next one's changes are files that towncrier can read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import roost

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TYPES = {kind["directory"]: kind["name"] for kind in PROJECT["tool"]["towncrier"]["type"]}
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_the_newest_version_of_the_changelog_is_the_package_s() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", CHANGELOG, re.MULTILINE)
    as_numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert as_numbers == sorted(set(as_numbers), reverse=True)
    assert versions[0] == PROJECT["project"]["version"] == roost.__version__


def test_a_version_has_each_kind_of_change_once_and_in_order() -> None:
    _, *versions = re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)
    for version in versions:
        kinds = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert kinds == [name for name in TYPES.values() if name in kinds], version.splitlines()[0]


def test_files_of_coming_changes_have_a_known_kind_and_hold_a_sentence() -> None:
    for path in (ROOT / "changelog.d").glob("*.md"):
        assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(TYPES)})\.md", path.name), path.name
        text = path.read_text().strip()
        assert text, path.name
        assert not text.startswith(("-", "*", "#")), f"{path.name}: the sentence alone, without a bullet"


def test_the_place_of_the_next_version_is_marked() -> None:
    assert CHANGELOG.count(PROJECT["tool"]["towncrier"]["start_string"]) == 1
