"""Without pytest-asyncio, pytest still works beside Roost, and the fixture says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

CODE = "import sys; sys.modules['pytest_asyncio'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def test_only_who_asks_for_the_bot_needs_pytest_asyncio(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_plain(): pass\n\ndef test_bot(roost_bot): pass\n")
    arguments = ["-q", "-p", "roost.testing.pytest_plugin", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "pip install 'roost[testing]'" in done.stdout
