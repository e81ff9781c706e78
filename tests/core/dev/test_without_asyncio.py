"""Without pytest-asyncio, pytest still works beside Roost, and the fixture says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "pytest_asyncio":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
"""


def test_only_who_asks_for_the_bot_needs_pytest_asyncio(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_plain(): pass\n\ndef test_bot(roost_bot): pass\n")
    code = BLOCK + "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = ["-q", "-p", "no:asyncio", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "pip install 'roost[testing]'" in done.stdout
