"""Captions that Discord does not take, and answers that make no sense: rows 124 to 126 and 179, whole bots."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fault_report import Fault

from roost.testing import RoostBot, running_bot

pytestmark = pytest.mark.e2e

SAID = "words of {user} number {count}"


class Call:
    """Ada and Ben in voice, a bot that transcribes into #general."""

    def __init__(self, bot: RoostBot) -> None:
        self.bot = bot

    async def say(self, member: str = "Ben") -> None:
        await self.bot.say("lv_0880", member=member)

    async def texts(self, channel: str = "general") -> str:
        return "\n".join(await self.bot.messages(channel))

    async def until(self, check: Callable[[str], bool], channel: str = "general", timeout_s: float = 30.0) -> str:
        """Wait until a channel's messages are as they should be."""
        async with asyncio.timeout(timeout_s):
            while not check(text := await self.texts(channel)):
                await asyncio.sleep(0.05)
        return text


@contextlib.asynccontextmanager
async def a_call(folder: Path) -> AsyncIterator[Call]:
    settings = {"stt.engine": "scripted", "stt.script": SAID}
    async with running_bot(data_dir=folder, installed=("voice", "stt"), settings=settings, guilds=1) as bot:
        for member in ("Ada", "Ben"):
            await bot.slash("/privacy opt-in", member=member)
        await bot.join_voice("Ada")
        await bot.join_voice("Ben")
        await bot.slash("/voice join")
        reply = await bot.slash("/transcribe start")
        assert "Transcribing" in reply.content, reply.content
        call = Call(bot)
        await call.say()
        await call.until(lambda text: "number 1" in text)
        yield call


def numbers(text: str) -> list[int]:
    """Which utterances are shown, in their order."""
    return [int(each) for each in re.findall(r"number (\d+)", text)]


def posts(call: Call) -> str:
    return f"/channels/{call.bot.channel('general').id}/messages"


ODD = {"an empty object": {}, "a list": [1, 2], "null": None, "an id that is none": {"id": {"a": 1}}, "a text": "ok"}


@pytest.mark.fault(124)
async def test_answers_of_another_shape_end_no_captions(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        for body in ODD.values():
            await call.bot.control.fault("rest_error", method="POST", path_prefix=posts(call), status=200, body=body)
            await call.say()
        with fault.clock(scaled=False):
            await call.say("Ada")
            text = await call.until(lambda text: "number 7" in text)
        # What was probably posted is not posted again; that it may be missing is told.
        assert numbers(text) == [1, 7]
        assert "5 captions are missing above" in text


@pytest.mark.fault(125)
@pytest.mark.parametrize(
    "answer",
    [
        {"status": 429, "retry_after_s": 400.0},
        {"status": 429, "body": {"message": "no", "retry_after": "soon", "global": False}},
        {"status": 503},
        {"status": 500},
    ],
    ids=["429", "429 without a number", "503", "500"],
)
async def test_captions_that_are_not_taken_come_later_together(
    tmp_path: Path, fault: Fault, answer: dict[str, Any]
) -> None:
    async with a_call(tmp_path) as call:
        before = len(await call.bot.messages("general"))
        armed = await call.bot.control.fault("rest_error", method="POST", path_prefix=posts(call), times=1000, **answer)
        for _ in range(3):
            await call.say()
        assert numbers(await call.texts()) == [1]
        await call.bot.control.disarm(armed)
        with fault.clock(scaled=False):
            await call.say("Ada")
            text = await call.until(lambda text: "number 5" in text, timeout_s=60.0)
        assert numbers(text) == [1, 2, 3, 4, 5]
        assert len(await call.bot.messages("general")) - before < 4
        assert "missing" not in text


@pytest.mark.fault(179)
async def test_caption_whose_confirmation_is_lost_is_posted_once(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        await call.bot.control.fault("rest_error", method="POST", path_prefix=posts(call), status=503, taken=True)
        with fault.clock(scaled=False):
            await call.say()
            await call.say("Ada")
            text = await call.until(lambda text: "number 3" in text)
        assert numbers(text) == [1, 2, 3]


@pytest.mark.fault(126)
async def test_a_lost_permission_is_told_in_the_voice_channels_chat(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        bot = call.bot
        general, me = int(bot.channel("general").id), int(bot.discord.world.bots[0].user.id)
        await bot.control.permissions(member_id=me, channel_id=general, deny=["SEND_MESSAGES"])
        with fault.clock(scaled=False):
            await call.say()
            await call.until(lambda text: "may no longer write" in text, "perch")
        await call.say()
        status = await bot.slash("/transcribe status", channel="perch")
        assert "Captions wait" in status.content
        await bot.control.permissions(member_id=me, channel_id=general, allow=["SEND_MESSAGES"])
        text = await call.until(lambda text: "number 3" in text, timeout_s=60.0)
        assert numbers(text) == [1, 2, 3]
        assert (await call.texts("perch")).count("may no longer write") == 1


@pytest.mark.fault(126)
async def test_a_deleted_channel_is_told_and_start_moves_the_captions(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        bot = call.bot
        await bot.control.channel(channel_id=str(bot.channel("general").id), delete=True)
        with fault.clock(scaled=False):
            await call.say()
            await call.until(lambda text: "channel for the captions is gone" in text, "perch")
        await call.say("Ada")
        reply = await bot.slash("/transcribe start", channel="perch")
        assert "Transcribing" in reply.content
        text = await call.until(lambda text: "number 3" in text, "perch")
        assert numbers(text) == [2, 3]
        await call.say()
        assert numbers(await call.until(lambda text: "number 4" in text, "perch")) == [2, 3, 4]
        # What was said before stays with those who could read it: there is a new transcript, without it.
        shown = await bot.slash("/transcript list", channel="perch")
        (lines,) = re.findall(r"(\d+) lines?,", shown.content)
        assert int(lines) <= 2, shown.content


@pytest.mark.fault(130)
async def test_a_member_who_leaves_before_the_text_is_ready_keeps_their_name(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as call:
        ben = call.bot.member("Ben")
        await call.say("Ben")
        with fault.clock(scaled=False):
            await call.bot.control.remove_member(ben)
            text = await call.until(lambda text: "number 2" in text)
        assert f"**Ben**: words of {ben} number 2" in text
