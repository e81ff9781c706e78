"""What a worker was at, kept where its death does not reach it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roost_stt.blackbox import BlackBox

pytestmark = pytest.mark.unit


def test_what_one_process_notes_the_other_reads() -> None:
    box = BlackBox.create()
    assert box.fd is not None
    other = BlackBox(os.dup(box.fd))
    assert box.read() is None
    other.begin((1, 7), 42)
    assert box.read() == ((1, 7), 42)
    other.end()
    assert box.read() is None
    for each in (box, other, box):
        each.close()


def test_it_needs_no_room_on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    box = BlackBox.create()
    box.begin((1, 7), 42)
    box.close()
