"""Where plugins come from, and what is refused."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_rig import running, source, transitions

from roost.cli import main
from roost.config import load
from roost.errors import ConfigError
from roost.plugins import State, inspect_plugins
from roost.plugins.declared import IncompatibleError, refuse_other_interface
from roost.plugins.records import Origin

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

CLASS = """
from roost import Meta, hookimpl

class {name}:
    @hookimpl
    def plugin_meta(self): return Meta({plugin!r}, version="2")
"""

TWO = CLASS.format(name="One", plugin="x") + CLASS.format(name="Two", plugin="odd")


def rows(tmp_path: Path, *sets: str, **environ: str) -> dict[str, dict[str, Any]]:
    config = load(environ=environ, sets=[f"plugins.dir={tmp_path / 'plugins'}", *sets], data_dir=tmp_path / "data")
    return {row["name"]: row for row in inspect_plugins(config)}


def test_a_file_a_package_and_an_installed_plugin_appear_in_the_table(tmp_path: Path, drop: Drop) -> None:
    drop("single", "@hookimpl\nasync def on_load(ctx): ...\n")
    drop("whole", file="whole/__init__.py", code="from .inside import *\n" + source("whole"))
    drop("inside", file="whole/inside.py", code="VALUE = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "roost", "plugins", "--json", "--plugins-dir", str(tmp_path / "plugins")],
        env={"ROOST_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin"},
        capture_output=True,
        check=True,
    )
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["single"] == found["single"] | {
        "name": "single",
        "version": "1",
        "source": str(tmp_path / "plugins"),
        "state": "found",
        "detail": "",
        "hooks": ["on_load", "plugin_meta"],
    }
    assert found["whole"]["state"] == "found"
    assert found["voice"]["source"] == "roost"
    assert "voice_driver" in found["voice"]["hooks"]


def test_an_empty_allow_list_loads_none(tmp_path: Path, drop: Drop) -> None:
    drop("single")
    assert {row["state"] for row in rows(tmp_path, ROOST_PLUGINS="").values()} == {"disabled"}
    only = rows(tmp_path, ROOST_PLUGINS="single")
    assert (only["single"]["state"], only["voice"]["state"]) == ("found", "disabled")
    assert rows(tmp_path, "plugins.deny=single")["single"]["state"] == "disabled"


HANGS = {
    "model": """
@hookimpl
def register_config(): time.sleep(3600)
""",
    "check": """
class Settings(BaseModel):
    @model_validator(mode="after")
    def check(self): time.sleep(3600)

@hookimpl
def register_config(): return Settings
""",
}


@pytest.mark.parametrize("what", HANGS)
def test_settings_that_hang_are_a_row_too(
    what: str, tmp_path: Path, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost.plugins.discovery.OPENING_LIMIT_S", 0.5)
    drop("hangs", f"import time\nfrom pydantic import BaseModel, model_validator\n{HANGS[what]}")
    config = load(environ={}, sets=[f"plugins.dir={tmp_path / 'plugins'}"], data_dir=tmp_path / "data")
    found = {row["name"]: row for row in inspect_plugins(config, validate=True)}
    assert found["hangs"]["state"] == "failed"
    assert "it took too long" in found["hangs"]["detail"]
    assert found["voice"]["state"] == "found"


def test_an_import_that_hangs_is_a_row_too(tmp_path: Path, drop: Drop) -> None:
    drop("hangs", code="import time\nwhile True: time.sleep(0.05)\n")
    found = rows(tmp_path, "plugins.load_timeout_s=0.3")["hangs"]
    assert found["state"] == "failed"
    assert "hangs.py:2" in found["detail"]


@pytest.mark.parametrize("name", ["plugins", "plugins/single.py"])
def test_what_others_can_write_to_is_refused(tmp_path: Path, drop: Drop, name: str) -> None:
    drop("single")
    (tmp_path / name).chmod(0o770)
    with pytest.raises(ConfigError, match=r"plugins\.dir: .*chmod go-w"):
        rows(tmp_path)
    assert rows(tmp_path, "plugins.allow_writable_dir=true")["single"]["state"] == "found"


@pytest.mark.parametrize("inside", ["pack/inner.py", "pack/deep/inner.py", "pack/deep"])
def test_what_others_can_write_to_inside_a_package_is_refused(tmp_path: Path, drop: Drop, inside: str) -> None:
    drop("pack", file="pack/__init__.py")
    drop("inner", file="pack/inner.py")
    drop("deep", file="pack/deep/inner.py")
    assert rows(tmp_path)["pack"]["state"] == "found"
    (tmp_path / "plugins" / inside).chmod(0o722)
    with pytest.raises(ConfigError, match=f"{inside} can be written to by other users"):
        rows(tmp_path)
    assert rows(tmp_path, "plugins.allow_writable_dir=true")["pack"]["state"] == "found"


async def test_names_of_the_core_are_not_for_plugins(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    for name in ("core", "discord", "plugins"):
        drop(name, says="mine")
    drop("good", says="hi")
    async with running(tmp_path, card) as live:
        for name in ("core", "discord", "plugins"):
            assert live.state(name) is State.FAILED
            assert "a name of the core" in live.host.records[name].detail
            assert "a name of the core" in await live.slash("/bot plugins load", plugin=name)
        assert set(await live.commands()) == {"privacy", "plugins", "config", "bot", "good"}


def test_a_file_whose_name_no_plugin_can_have_is_said(
    tmp_path: Path, drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("Upper", "2nd", "_shared"):
        drop(name)
    assert not {"Upper", "2nd", "_shared"} & set(rows(tmp_path))
    assert [each for each in ("Upper.py", "2nd.py", "_shared.py") if f"{each} is left out" in caplog.text] == [
        "Upper.py",
        "2nd.py",
    ]


@pytest.mark.parametrize("command", [["plugins", "--json"], ["hooks", "--json"], ["config", "schema"]])
def test_what_a_plugin_prints_stays_out_of_the_json(
    tmp_path: Path, drop: Drop, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    drop("chatty", "print('hello')\n")
    assert main([*command, "--plugins-dir", str(tmp_path / "plugins"), "--data-dir", str(tmp_path / "data")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)
    assert "hello" in said.err


def test_namesakes_are_an_error_that_names_both(tmp_path: Path, drop: Drop) -> None:
    drop("voice")
    found = rows(tmp_path)["voice"]
    assert found["state"] == "failed"
    assert "roost (roost_voice.plugin)" in found["detail"]
    assert str(tmp_path / "plugins" / "voice.py") in found["detail"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (CLASS.format(name="One", plugin="odd"), ""),
        (TWO, "several plugin classes"),
        (
            TWO + "__roost_plugin__ = Two\n",
            "",
        ),
        (
            CLASS.format(name="One", plugin="x")
            + CLASS.format(name="Two", plugin="odd")
            + "__roost_plugin__ = 'Two'\n",
            "",
        ),
        (CLASS.format(name="One", plugin="even"), "calls itself 'even' but is installed as 'odd'"),
        ("x = 1\n", "it has no plugin_meta"),
    ],
    ids=["class", "two classes", "named", "named by name", "other name", "nothing"],
)
def test_what_in_a_file_is_the_plugin(tmp_path: Path, drop: Drop, code: str, said: str) -> None:
    drop("odd", code=code)
    found = rows(tmp_path)["odd"]
    assert found["state"] == ("failed" if said else "found")
    assert said in found["detail"]


async def test_every_state_is_reached_and_logged_once(
    tmp_path: Path, drop: Drop, card: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    drop("good", says="hello")
    imported = tmp_path / "imported"
    for_newer = source("newer", f"open({str(imported)!r}, 'w').close()\nfrom roost import NotYetThere\n")
    drop("newer", code=for_newer.replace('version="1"', 'version="1", roost_api=99'))
    computed = source("computed").replace('version="1"', 'version="1", roost_api=90 + 9')
    drop("computed", code=computed)
    drop("broken", code="import nothing_of_that_name\n")
    drop("denied")
    with caplog.at_level(logging.INFO, "roost.plugins"):
        async with running(tmp_path, card, deny="voice,stt,denied") as live:
            assert await live.slash("/good") == "hello"
            listed = await live.slash("/plugins list")
            await live.host.unload("good", "disable")
            with pytest.raises(Exception, match="disabled"):
                await live.host.load("denied")
            states = {row["name"]: row["state"] for row in live.host.table()}
    assert states == {
        "broken": "failed",
        "denied": "disabled",
        "good": "unloaded",
        "newer": "incompatible",
        "computed": "incompatible",
        "stt": "disabled",
        "voice": "disabled",
    }
    assert "**good** 1: on" in listed
    assert "**newer** 1: incompatible" in listed
    assert transitions(caplog.records, "good") == ["loading", "loaded", "unloading", "unloaded"]
    assert transitions(caplog.records, "broken") == ["failed"]
    assert transitions(caplog.records, "denied") == ["disabled"]
    assert transitions(caplog.records, "newer") == ["incompatible"]
    assert rows(tmp_path)["newer"]["state"] == "incompatible"
    assert not imported.exists()


@pytest.mark.parametrize(
    ("files", "module"),
    [
        ({"far.py": "Meta('far', roost_api=2)"}, "far"),
        ({"far/__init__.py": "raise SystemExit", "far/inner.py": "roost.Meta('far', '1', (), '', 2)"}, "far.inner"),
        ({"far/__init__.py": "raise SystemExit", "far/inner.py": "Meta('far', roost_api=2)"}, "far"),
        ({"far/__init__.py": "", "far/inner/__init__.py": "Meta('far', roost_api=2)"}, "far.inner"),
    ],
    ids=["module", "submodule", "package", "subpackage"],
)
def test_an_installed_plugin_for_another_interface_is_not_imported(
    files: dict[str, str], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(IncompatibleError, match="written for hook interface 2, this Roost has 1"):
        refuse_other_interface("far", Origin(module, "Far"))
    assert "far" not in sys.modules
    for name in files:
        (tmp_path / name).write_text("def broken(: Meta(roost_api=2)")
    refuse_other_interface("far", Origin(module, "Far"))


async def test_a_new_file_is_found_at_run_time(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    async with running(tmp_path, card) as live:
        drop("late", says="here I am")
        assert "**late** 1 is loaded" in await live.slash("/bot plugins load", plugin="late")
        assert await live.slash("/late") == "here I am"
        assert live.state("late") is State.LOADED
