"""A command that Discord would refuse, or a Meta that nothing can be done with, costs nobody else anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_rig import running

from roost.cli import main
from roost.commands.shapes import fault
from roost.plugins import State

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

BAD_NAME = """
class Wrong(lightbulb.SlashCommand, name="Bad Name", description="says"):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None: ...
@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(Wrong)
    return [loader]
"""
MANY = """
def command(number):
    class Each(lightbulb.SlashCommand, name=f"each{number}", description="says"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None: ...
    return Each
@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    for number in range(98): loader.command(command(number))
    return [loader]
"""


def option(name: str, **more: Any) -> dict[str, Any]:
    return {"type": 3, "name": name, "description": "d", "required": True} | more


@pytest.mark.unit
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, None),
        ({"name": "höre-zu_2"}, None),
        ({"name": "Upper"}, "the name of the command /Upper"),
        ({"name": "two words"}, "the name of"),
        ({"name": "x" * 33}, "the name of"),
        ({"description": ""}, "0 characters"),
        ({"description": "d" * 101}, "101 characters"),
        ({"options": [option(f"o{number}") for number in range(26)]}, "26 options"),
        ({"options": [option("a"), option("a")]}, "two options of one name"),
        ({"options": [option("a", required=False), option("b")]}, "required option b"),
        ({"options": [option("a", choices=[{"name": str(each), "value": each} for each in range(26)])]}, "25 choices"),
        ({"options": [{"type": 1, "name": "Sub", "description": "d"}]}, "the name of the command /fine Sub"),
        ({"type": 3, "name": "Any Name At All"}, None),
    ],
)
def test_what_discord_refuses(parts: dict[str, Any], said: str | None) -> None:
    found = fault({"name": "fine", "description": "d"} | parts)
    assert (found is None) if said is None else (said in str(found)), found


async def test_a_command_that_discord_would_refuse_fails_its_plugin_alone(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("wrong", BAD_NAME)
    drop("zmany", MANY)
    drop("good", says="hi")
    async with running(tmp_path, card) as live:
        assert live.state("wrong") is State.FAILED
        assert "Discord would refuse the name of the command /Bad Name" in live.host.records["wrong"].detail
        assert live.state("zmany") is State.FAILED
        assert "Discord takes 100" in live.host.records["zmany"].detail
        assert await live.slash("/good") == "hi"
        assert set(await live.commands()) == {"privacy", "plugins", "config", "bot", "good"}


async def test_what_was_not_foreseen_leaves_the_commands_of_the_core(
    tmp_path: Path, drop: Drop, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drop("wrong", BAD_NAME)
    drop("good", says="hi")
    monkeypatch.setattr("roost.commands.registry.fault", lambda _command: None)
    async with running(tmp_path, card) as live:
        await live.answers()
        assert "could not be set" in caplog.text
        await live.slash("/bot plugins unload", plugin="wrong", wait_s=8.0)
        assert await live.slash("/good") == "hi"


@pytest.mark.parametrize(
    "field",
    ["requires=None", "requires='good'", "version=None", "version=(1, 2)", "roost_api='1'", "data_version=None"],
)
async def test_a_meta_of_wrong_types(
    field: str, tmp_path: Path, drop: Drop, card: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    drop("odd", f"@hookimpl\ndef plugin_meta(): return Meta('odd', {field})\n")
    drop("good", says="hi")
    async with running(tmp_path, card) as live:
        assert live.state("odd") is State.FAILED
        assert f"Meta.{field.partition('=')[0]} must be" in live.host.records["odd"].detail
        assert await live.slash("/good") == "hi"
    assert main(["plugins", "--plugins-dir", str(tmp_path / "plugins"), "--data-dir", str(tmp_path / "data")]) == 0
    assert "Meta." in capsys.readouterr().out
