"""What members read of whether they are heard is what holds in the call: rows 260 to 264, whole bots.

Row 265: what is listed after their words are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fault_report import Fault

from roost.hooks import Deny, Meta, hookimpl
from roost.testing import RoostBot, running_bot
from roost_voice import session as session_module

pytestmark = pytest.mark.e2e

REMOTE = {"stt.engine": "openai", "stt.remote.url": "https://speech.example.com/v1"}
MORE = "the notice there asks for more than you agreed to"
HEARD = "You are heard in <#"


class Gate:
    """A plugin that decides who is heard."""

    def __init__(self) -> None:
        self.answer: Deny | Exception | None = None

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("gate")

    @hookimpl
    def voice_consent(self, user_id: int) -> Deny | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@contextlib.asynccontextmanager
async def a_call(folder: Path, *plugins: object, mode: str = "opt-in", **settings: Any) -> AsyncIterator[RoostBot]:
    """Ada and the bot in perch, whose captions go to general."""
    given = {"stt.engine": "scripted", "stt.script": "words", "consent.mode": mode, **settings}
    async with running_bot(*plugins, data_dir=folder, installed=("voice", "stt"), settings=given, guilds=1) as bot:
        await bot.join_voice("Ada")
        assert "Joined" in (await bot.slash("/voice join", wait_s=15)).content
        yield bot


async def says(bot: RoostBot, command: str, member: str = "Ada", **options: Any) -> str:
    return (await bot.slash(command, member=member, wait_s=20, **options)).content


async def notices(bot: RoostBot, channel: str = "perch") -> list[dict[str, Any]]:
    found = await bot.control.messages(channel_id=bot.channel(channel).id)
    return [dict(each) for each in found if each["components"]]


async def presses(bot: RoostBot, label: str) -> str:
    """Ada presses a button of the last notice; the reply."""
    return (await bot.press(int((await notices(bot))[-1]["id"]), label)).content


@pytest.mark.fault(260)
async def test_who_agreed_to_less_than_the_notice_asks_for_reads_it(fault: Fault, tmp_path: Path) -> None:
    async with a_call(tmp_path, **REMOTE) as bot:
        said = await says(bot, "/privacy opt-in")
        assert MORE not in said, "nobody listens yet"
        assert "Nobody is heard in <#" in said
        await says(bot, "/transcribe start")
        for command in ("/privacy status", "/privacy opt-in"):
            with fault.clock(scaled=False):
                said = await says(bot, command)
            assert MORE in said
            assert "press **Agree** under it" in said
            assert HEARD not in said
        assert HEARD in await presses(bot, "Agree")
        assert HEARD in await says(bot, "/privacy status")
        await says(bot, "/transcribe pause")
        assert "Nobody is heard in <#" in await says(bot, "/privacy status")


@pytest.mark.fault(261)
async def test_whom_a_plugin_refuses_reads_its_reason(fault: Fault, tmp_path: Path) -> None:
    gate = Gate()
    gate.answer = Deny("Ben is asleep.")
    async with a_call(tmp_path, gate) as bot:
        await says(bot, "/transcribe start")
        await bot.join_voice("Ben")
        with fault.clock(scaled=False):
            replies = [
                await presses(bot, "Agree"),
                await says(bot, "/privacy status"),
                await says(bot, "/privacy opt-in"),
            ]
        replies.append(await says(bot, "/voice test", seconds=2))
        for said in replies:
            assert "the plugin `gate` does not allow it" in said
            assert "Ben is asleep." in said
            assert HEARD not in said
        assert "asleep" not in await says(bot, "/voice test", member="Ben", seconds=2)
        gate.answer = None
        await presses(bot, "Don't")
        assert HEARD in await presses(bot, "Agree")


@pytest.mark.fault(262)
async def test_a_guard_that_is_silent_about_everybody_is_told(fault: Fault, tmp_path: Path) -> None:
    gate = Gate()
    gate.answer = KeyError("the list")
    async with a_call(tmp_path, gate) as bot:
        await says(bot, "/transcribe start")
        with fault.clock(scaled=False):
            said = await presses(bot, "Agree")
            assert "the plugin `gate`, which decides about that, does not work" in said
            async with asyncio.timeout(5):
                while not (told := [each for each in await bot.messages() if "does not work" in each]):
                    await asyncio.sleep(0.01)
        assert "I do not hear everybody in <#" in told[0]
        why = await says(bot, "/plugins why", member="Mod", plugin="gate")
        assert "it ran into an error" in why
        assert "they are refused here" in why
        assert "**gate**: on, but failed <t:" in await says(bot, "/plugins list", member="Mod")
        for _ in range(5):
            await presses(bot, "Don't")
            assert "does not work" in await presses(bot, "Agree")
        assert "is paused here" in await says(bot, "/plugins why", member="Mod", plugin="gate")
        assert len([each for each in await bot.messages() if "does not work" in each]) == 1


@pytest.mark.fault(263)
@pytest.mark.parametrize("mode", ["notice", "opt-in"])
async def test_presses_without_end_leave_one_notice(
    mode: str, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.05)
    async with a_call(tmp_path, mode=mode) as bot:
        await says(bot, "/transcribe start")
        before = {each: len(await bot.messages(each)) for each in ("perch", "general")}
        for _ in range(3):
            assert HEARD in await presses(bot, "Agree")
            assert "You are not heard" in await presses(bot, "Don't")
            await presses(bot, "Agree")
            with fault.clock(scaled=False):
                forgotten = await bot.press(await bot.slash("/privacy forget-me"), "Delete", wait_s=10)
            assert "you are not heard now" in forgotten.content
            assert "press **Agree** under the notice there" in forgotten.content.replace("Press", "press")
            assert HEARD not in await says(bot, "/privacy status")
            # A late notice would come now.
            await asyncio.sleep(0.1)
        assert {each: len(await bot.messages(each)) for each in before} == before
        assert HEARD in await presses(bot, "Agree")


@pytest.mark.fault(264)
async def test_who_is_heard_reads_that_captions_wait(fault: Fault, tmp_path: Path) -> None:
    async with a_call(tmp_path) as bot:
        await says(bot, "/transcribe start")
        assert "captions" not in await presses(bot, "Agree")
        role = int((await bot.control.role(name="guests"))["id"])
        with fault.clock(scaled=False):
            await bot.control.permissions(role_id=role, channel_id=bot.channel("perch").id, deny=["CONNECT"])
            async with asyncio.timeout(5):
                while "captions are not shown for now" not in (said := await says(bot, "/privacy status")):
                    await asyncio.sleep(0.05)
        assert HEARD in said
        assert "who cannot be in <#" in said


@pytest.mark.fault(265)
async def test_a_transcript_is_gone_with_the_last_words_in_it(fault: Fault, tmp_path: Path) -> None:
    async with a_call(tmp_path) as bot:
        await says(bot, "/transcribe start")
        for ends_first in (True, False):
            await presses(bot, "Agree")
            await bot.say("lv_0880")
            async with asyncio.timeout(20):
                while "1 line," not in await says(bot, "/transcript list"):
                    await asyncio.sleep(0.05)
            if ends_first:
                await says(bot, "/transcribe stop")
            await bot.press(await bot.slash("/privacy forget-me"), "Delete", wait_s=10)
            with fault.clock(scaled=False):
                assert "There is no transcript" in await says(bot, "/transcript list")
            if ends_first:
                await says(bot, "/transcribe start")
        await says(bot, "/transcribe stop")
        assert "There is no transcript" in await says(bot, "/transcript list")
