"""What a user installs: the wheel and ``pip install .``, each in an empty environment. Needs the package registry."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
CONSTRAINTS = str(ROOT / "constraints.txt")


def run(*arguments: str | Path) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("ROOST_", "PYTHON"))}
    done = subprocess.run(
        [str(each) for each in arguments],
        capture_output=True,
        text=True,
        env=environ,
        timeout=240,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_environment(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin"


def pip(commands: Path, *arguments: str | Path) -> None:
    run(
        commands / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        CONSTRAINTS,
        *arguments,
    )


@pytest.fixture(scope="module", name="dist")
def built_distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and with the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module", name="wheel")
def built_wheel(dist: Path) -> Path:
    return next(dist.glob("roost-*.whl"))


def test_the_source_archive_holds_what_the_wheel_is_made_of_alone(dist: Path) -> None:
    with tarfile.open(next(dist.glob("roost-*.tar.gz"))) as archive:
        tops = {"/".join(name.split("/")[1:3]) for name in archive.getnames()}
    assert {top for top in tops if "/" in top} == {"core/roost", "plugins/voice", "plugins/stt"}


def test_the_wheel_holds_the_packages_and_their_data_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"roost", "roost_voice", "roost_stt"}
    assert {"roost/py.typed", "roost_voice/py.typed", "roost_stt/py.typed"} <= set(names)
    recordings = [name for name in names if name.startswith("roost_voice/sim/recordings/")]
    assert len([name for name in recordings if not name.endswith((".json", ".md"))]) == 6
    assert not [name for name in names if name.endswith((".pyc", ".so"))]


@pytest.mark.parametrize("how", ["wheel", "source"])
def test_the_core_alone_installs_and_says_what_the_plugins_lack(how: str, wheel: Path, tmp_path: Path) -> None:
    commands = new_environment(tmp_path / "env")
    pip(commands, wheel if how == "wheel" else ROOT)
    data = ["--data-dir", str(tmp_path / "data")]
    rows = {row["name"]: row for row in json.loads(run(commands / "roost", "plugins", "--json", *data))}
    for name in ("voice", "stt"):
        assert rows[name]["state"] == "unavailable"
        assert f"pip install 'roost[{name}]'" in rows[name]["detail"]
    assert "voice_session_opened" in run(commands / "roost", "hooks")

    program, *arguments = shlex.split(rows["voice"]["detail"].partition("run: ")[2])
    assert program == "pip"
    run(commands / program, *arguments, "-c", CONSTRAINTS)
    rows = {row["name"]: row for row in json.loads(run(commands / "roost", "plugins", "--json", *data))}
    assert rows["voice"]["state"] == "found"
    assert rows["stt"]["state"] == "unavailable"
