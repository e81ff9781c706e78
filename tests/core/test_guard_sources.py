"""What the source of a plugin that cannot be imported says of the hooks that it guards."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.plugins.guards import named_in
from roost.plugins.records import Origin, PluginRecord

pytestmark = pytest.mark.unit


def record_of(file: Path, *doubles: Path) -> PluginRecord:
    others = tuple(Origin("roost_dropins.gate", file=str(each)) for each in doubles)
    return PluginRecord("gate", "a folder", "1", Origin("roost_dropins.gate", file=str(file)), doubles=others)


@pytest.mark.parametrize(
    ("code", "hooks"),
    [
        ("async def voice_join_check(request): ...", {"voice_join_check"}),
        ("class Gate:\n    def voice_consent(self): ...", {"voice_consent"}),
        ("@hookimpl(specname='command_check')\nasync def decide(ctx): ...", {"command_check"}),
        ("plugin.voice_session_opening = hookimpl(opening)", {"voice_session_opening"}),
        ("def voice_consent(:\ndef x", {"voice_consent"}),
        ("def voice_consent_of(user): ...", set()),
        ('"""Asks voice_consent of others."""\n# voice_consent', set()),
        ("def voice_speaking(user_id): ...", set()),
        ("\0", set()),
    ],
)
def test_source_names_the_hooks_that_a_plugin_guards(code: str, hooks: set[str], tmp_path: Path) -> None:
    file = tmp_path / "gate.py"
    file.write_text(code)
    assert named_in(record_of(file)) == hooks


def test_every_file_of_a_package_counts_and_every_plugin_of_the_name(tmp_path: Path) -> None:
    inner = tmp_path / "gate" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "gate" / "__init__.py").write_text("import nothing_of_that_name")
    (inner / "rules.py").write_text("def voice_consent(user_id): ...")
    other = tmp_path / "other.py"
    other.write_text("async def command_check(ctx): ...")
    assert named_in(record_of(tmp_path / "gate" / "__init__.py", other)) == {"voice_consent", "command_check"}
    assert named_in(record_of(tmp_path / "gone.py")) == set()
