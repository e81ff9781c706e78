"""The mistakes of `tests/mutations.py` fit the sources, and name tests that exist."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    path = Path(__file__).with_name("mutations.py")
    spec = importlib.util.spec_from_file_location("mutations", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module
    spec.loader.exec_module(module)
    return module


def test_every_mutation_fits_one_place(mutations: ModuleType) -> None:
    def places(mutation: object) -> int:
        return int((mutations.ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old))  # type: ignore[attr-defined]

    assert [each.what for each in mutations.MUTATIONS if places(each) != 1] == []


def test_every_mutation_names_tests_that_exist(mutations: ModuleType) -> None:
    for mutation in mutations.MUTATIONS:
        for test in mutation.tests:
            file, _, name = test.partition("::")
            text = (mutations.ROOT / file).read_text(encoding="utf-8")
            assert not name or f"def {name.split('[')[0]}(" in text, test
