"""The reference of hooks follows from the specifications, and nothing in it is empty or old."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path

import pytest

from roost import cli
from roost.dev.hooks_page import description, page, rows, signature
from roost.dispatch import Dispatcher
from roost.hooks import INFO, Kind, Meta, RoostSpec, hookimpl

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[3] / "docs" / "hooks.md"
SPECS = sorted(name for name, each in vars(RoostSpec).items() if hasattr(each, "roost_spec"))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/hooks.md is stale; run: make docs"


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_documented_with_its_exact_signature(name: str) -> None:
    assert len(description(name).split()) >= 3, f"the hook {name} has no documentation"
    assert description(name).endswith((".", "`", "?"))
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(f"\n### {name}\n") == 1
    assert signature(name) in text
    arguments = inspect.signature(getattr(RoostSpec, name)).parameters.values()
    assert all(each.annotation is not each.empty for each in list(arguments)[1:])


def test_every_hook_has_rules_and_every_rule_a_hook() -> None:
    assert sorted(INFO) == SPECS
    for name, info in INFO.items():
        assert inspect.iscoroutinefunction(getattr(RoostSpec, name)) is not info.sync
        assert (info.deadline_s is None) is info.sync


def test_an_undocumented_hook_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoostSpec.voice_idle, "__doc__", None)
    assert description("voice_idle") == ""
    assert page() != PAGE.read_text(encoding="utf-8")


def test_the_listing_tells_who_is_called_in_which_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "drop"
    folder.mkdir(mode=0o755)
    for name, needs in (("aaa", ("zzz",)), ("zzz", ())):
        file = folder / f"{name}.py"
        file.write_text(
            f"from roost import Plugin\n__roost_plugin__ = plugin = Plugin({name!r}, requires={needs!r})\n"
            "@plugin.hook\nasync def voice_idle(seconds: float) -> None: ...\n"
        )
        file.chmod(0o644)
    arguments = ["--plugins-dir", str(folder), "--data-dir", str(tmp_path / "data"), "--set", "plugins.deny=voice,stt"]
    assert cli.main(["hooks", "--json", *arguments]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(found) == set(INFO)
    assert found["voice_idle"]["implementers"] == ["aaa", "zzz"]
    assert found["voice_idle"]["signature"] == "voice_idle(seconds: float) -> None"
    assert found["voice_audio_frame"] | {"implementers": [], "description": ""} == {
        "name": "voice_audio_frame",
        "signature": "voice_audio_frame(session: VoiceSession, frame: AudioFrame) -> None",
        "kind": "all",
        "sync": True,
        "deadline_s": None,
        "dependents_first": False,
        "implementers": [],
        "description": "",
    }
    assert cli.main(["hooks", *arguments]) == 0
    assert "    called: aaa -> zzz" in capsys.readouterr().out


def test_the_kinds_of_the_listing_are_those_of_the_rules() -> None:
    assert {row["kind"] for row in rows(None)} == {kind.value for kind in Kind}


class Session:
    guild_id = 7


class Traced:
    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("traced")

    @hookimpl
    async def voice_speaking(self, session: Session, user_id: int, speaking: bool) -> None: ...

    @hookimpl
    def voice_consent(self) -> None: ...

    @hookimpl
    async def voice_idle(self) -> None:
        raise RuntimeError("no")


async def test_a_trace_says_plugin_hook_guild_and_duration(caplog: pytest.LogCaptureFixture) -> None:
    dispatcher = Dispatcher(lambda: ["traced"], lambda plugin, guild: True)
    dispatcher.manager.register(Traced(), "traced")

    async def calls() -> None:
        await dispatcher.call("voice_speaking", guild_id=7, session=Session(), user_id=1, speaking=True)
        dispatcher.call_sync("voice_consent", guild_id=7, session=Session(), user_id=1)
        await dispatcher.call("voice_idle", seconds=1.0)

    await calls()
    assert not [record for record in caplog.records if record.name == "roost.hooks.trace"]
    with caplog.at_level(logging.DEBUG, "roost.hooks.trace"):
        await calls()
    seen = [record for record in caplog.records if record.name == "roost.hooks.trace"]
    assert [(r.plugin, r.hook, r.guild) for r in seen] == [  # type: ignore[attr-defined]
        ("traced", "voice_speaking", "7"),
        ("traced", "voice_consent", "7"),
        ("traced", "voice_idle", None),
    ]
    assert all(record.duration_ms >= 0 for record in seen)  # type: ignore[attr-defined]
    assert seen[2].getMessage().startswith("hook voice_idle of traced: raised in ")
