"""Losing the lock of a data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.holder import Holder, hold_folder

pytestmark = pytest.mark.unit


def test_folder_that_a_file_took_the_place_of_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    with hold_folder(path, Holder.of_this_process(5)) as folder:
        assert folder.trouble() == ""
        path.rename(tmp_path / "moved")
        path.write_text("a file")
        assert "was removed or replaced" in folder.trouble()
