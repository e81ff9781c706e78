"""A plugin that derives from `roost.Hooks` is checked by the type checker, and works."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

from roost import Hooks, Meta, hookimpl
from roost.dispatch import Dispatcher

pytestmark = [pytest.mark.unit, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
HEAD = """\
from roost import AudioFrame, CommandContext, Deny, Hooks, JoinRequest, Meta, Plugin, Transcript, VoiceSession, hookimpl

class Mine(Hooks):
    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("mine")
"""
RIGHT = """
    @hookimpl
    async def voice_join_check(self, request: JoinRequest) -> Deny | None:
        return Deny("closed") if request.user_id == 1 else None

    @hookimpl
    def voice_audio_frame(self, session: VoiceSession, frame: AudioFrame) -> None: ...

plugin = Plugin("other")

@plugin.hook
async def transcript_ready(transcript: Transcript) -> None:
    print(transcript.text)

@plugin.command("hi", "Say hi")
async def hi(ctx: CommandContext, name: str = "you") -> None:
    await ctx.respond(f"hi {name}, {ctx.user.id}")
"""
# A wrong name of an argument is left to the load: mypy lets an override rename positional arguments.
WRONG = {
    "type of an argument": "async def voice_idle(self, seconds: str) -> None: ...",
    "an argument too many": "async def voice_idle(self, seconds: float, more: int) -> None: ...",
    "answer": "async def health(self) -> str: return ''",
    "async for sync": "async def voice_consent(self, session: VoiceSession, user_id: int) -> Deny | None: ...",
}


def test_wrong_signatures_are_type_errors_and_right_ones_are_not(tmp_path: Path) -> None:
    """One run of the type checker over a right plugin and a wrong one for each mistake."""
    (tmp_path / "right.py").write_text(HEAD + RIGHT)
    for number, code in enumerate(WRONG.values()):
        (tmp_path / f"wrong{number}.py").write_text(f"{HEAD}\n    @hookimpl\n    {code}\n")
    arguments = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    output, errors, _ = api.run([*arguments, "--no-error-summary", *map(str, sorted(tmp_path.glob("*.py")))])
    assert errors == ""
    lines = [line for line in output.splitlines() if ": error:" in line]
    assert not [line for line in lines if "right.py" in line], output
    for number, what in enumerate(WRONG):
        mine = [line for line in lines if f"wrong{number}.py:9:" in line]
        assert len(mine) == 1, f"{what}: {output}"
        assert "override" in mine[0]


def test_the_base_adds_nothing_at_run_time() -> None:
    class Mine(Hooks):
        @hookimpl
        def plugin_meta(self) -> Meta:
            return Meta("mine")

    dispatcher = Dispatcher(list, lambda plugin, guild: True)
    dispatcher.manager.register(Mine(), "mine")
    assert [
        caller.name for caller in dispatcher.manager.get_hookcallers(dispatcher.manager.get_plugin("mine")) or ()
    ] == ["plugin_meta"]
