"""What a newcomer mistypes is found by `roost config check`, `roost doctor` and the start, not by the first member."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from roost_stt.config import SttConfig
from roost_stt.models import DOWNLOADED

pytestmark = pytest.mark.unit

WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "model": (("stt.model=large-v9",), "stt.model: there is no speech model of that name (near it: large"),
    "folder": (("stt.model_path=nowhere",), "stt.model_path: "),
    "device": (("stt.device=gpu",), "stt.device: "),
    "language": (("stt.language=klingon",), "or `auto`, but it is 'klingon'"),
    "compute type": (("stt.device=cpu", "stt.compute_type=float16"), "stt.compute_type: no CPU computes in that"),
    "url": (("stt.engine=openai", "stt.remote.url=127.0.0.1:8000"), "stt.remote.url: "),
    "url with a space": (("stt.engine=openai", "stt.remote.url=http://a b/v1"), "stt.remote.url: "),
    "engine": (("stt.engine=wisper",), "stt.engine: no plugin provides the engine wisper"),
    "driver": (("voice.driver=nativ",), "voice.driver: there is no voice driver called nativ (there is: native"),
    "no url": (("stt.engine=openai",), "stt.remote: the engine openai needs url"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("command", [("config", "check"), ("doctor",)], ids=["config check", "doctor"])
def test_mistyped_settings_are_found(what: str, command: tuple[str, ...], tmp_path: Path) -> None:
    sets, said = WRONG[what]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "roost", *command, "--data-dir", str(tmp_path / "data")),
            *(word for each in sets for word in ("--set", each)),
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("model", ["tiny.en", "base.en", "large-v3", "Systran/faster-whisper-tiny"])
def test_models_that_may_be_there_are_taken(model: str) -> None:
    assert SttConfig.model_validate({"model": model}).model == model


def test_model_is_of_no_concern_to_other_engines() -> None:
    assert SttConfig.model_validate({"engine": "theirs", "model": "large-v9", "model_path": "/none"}).engine == "theirs"
    with pytest.raises(ValidationError, match="no speech model"):
        SttConfig.model_validate({"model": "large-v9"})


def test_names_are_those_of_faster_whisper() -> None:
    utils = pytest.importorskip("faster_whisper.utils")
    assert set(utils.available_models()) == DOWNLOADED
