"""Rows 272 to 275: where captions may go, whether they serve anybody, and what members are told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fault_report import Fault

from roost.testing import RoostBot, running_bot

pytestmark = pytest.mark.e2e

ENDS = "so transcription ends and I hear nobody"


@contextlib.asynccontextmanager
async def a_call(folder: Path) -> AsyncIterator[RoostBot]:
    """Ada, who agreed, and the bot in perch."""
    settings = {"stt.engine": "scripted", "stt.script": "words number {count}"}
    async with running_bot(data_dir=folder, installed=("voice", "stt"), settings=settings, guilds=1) as bot:
        await bot.slash("/privacy opt-in")
        await bot.join_voice("Ada")
        await bot.slash("/voice join", wait_s=15)
        yield bot


async def start(bot: RoostBot, channel: str = "general", into: str | int | None = None) -> str:
    options = {} if into is None else {"channel": str(bot.channel(into).id)}
    return (await bot.slash("/transcribe start", channel=channel, wait_s=20, options=options)).content


async def until(bot: RoostBot, channel: str | int, check: Callable[[str], bool]) -> None:
    async with asyncio.timeout(20):
        while not check("\n".join(await bot.messages(channel))):
            await asyncio.sleep(0.02)


async def config(bot: RoostBot, key: str, value: str) -> None:
    await bot.slash("/config set", member="Mod", options={"plugin": "stt", "key": key, "value": value})


@pytest.mark.fault(272)
async def test_the_bot_writes_nowhere_for_members_who_may_not(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as bot:
        ada, captions, general = bot.member("Ada"), bot.channel("captions").id, bot.channel("general").id
        thread = await bot.control.private_thread("quiet", channel_id=general)
        await bot.control.permissions(member_id=ada, channel_id=captions, deny=["SEND_MESSAGES"])
        with fault.clock(scaled=False):
            reply = await bot.slash("/transcribe start", options={"channel": str(captions)})
        assert reply.ephemeral
        assert f"You cannot write in <#{captions}>" in reply.content
        await bot.control.permissions(member_id=ada, channel_id=captions, deny=["VIEW_CHANNEL"])
        assert f"You cannot see <#{captions}>" in await start(bot, into="captions")
        assert f"You cannot see <#{thread}>" in await start(bot, into=thread)
        await bot.control.permissions(member_id=ada, channel_id=general, deny=["SEND_MESSAGES"])
        assert f"You cannot write in <#{general}>" in await start(bot)
        await bot.control.permissions(member_id=ada, channel_id=general, allow=["SEND_MESSAGES"])
        assert f"Transcribing <#{bot.channel('perch').id}> into <#{general}>." in await start(bot)


@pytest.mark.fault(273)
async def test_nobody_is_heard_for_nothing(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as bot:
        assert "Transcribing" in await start(bot)
        await config(bot, "retention_days", "0")
        with fault.clock(scaled=False):
            await config(bot, "captions.where", "none")
            assert "Heard: nobody" in (await bot.slash("/voice status")).content
            await until(bot, "general", lambda text: ENDS in text)
        assert "nothing to read" in await start(bot)


@pytest.mark.parametrize("plugin", ["stt", "voice"])
async def test_a_plugin_that_is_switched_off_says_so_and_does_not_go_on_by_itself(plugin: str, tmp_path: Path) -> None:
    async with a_call(tmp_path) as bot:
        assert "Transcribing" in await start(bot)
        await bot.slash("/plugins disable", member="Mod", plugin=plugin, wait_s=15)
        await until(bot, "general", lambda text: "Transcription was switched off in this server" in text)
        if plugin == "voice":
            await until(bot, "general", lambda text: "voice was switched off in this server" in text)
        await bot.slash("/plugins enable", member="Mod", plugin=plugin, wait_s=15)
        if plugin == "voice":
            return
        assert "Heard: nobody" in (await bot.slash("/voice status")).content
        assert "Nothing is being transcribed here." in (await bot.slash("/transcribe status")).content
        await bot.say("lv_0880")
        assert "Transcribing" in await start(bot)


@pytest.mark.fault(274)
async def test_captions_in_a_thread_are_announced_there(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as bot:
        general = bot.channel("general").id
        await config(bot, "captions.where", "thread")
        with fault.clock(scaled=False):
            assert f"into a thread of <#{general}>" in await start(bot)
            await until(bot, "perch", lambda text: f"becomes captions in a thread of <#{general}>" in text)
        await bot.say("lv_0880")
        async with asyncio.timeout(20):
            while not (threads := await bot.control.threads(channel_id=general)):
                await asyncio.sleep(0.02)
        await until(bot, int(threads[0]["id"]), lambda text: "words number 1" in text)
        assert f"into <#{threads[0]['id']}>" in (await bot.slash("/transcribe status")).content


@pytest.mark.fault(275)
async def test_a_move_to_where_the_bot_cannot_write_is_told_where_it_can(tmp_path: Path, fault: Fault) -> None:
    async with a_call(tmp_path) as bot:
        loft, me = bot.channel("loft").id, bot.discord.world.bots[0].user.id
        await start(bot)
        await bot.control.permissions(member_id=me, channel_id=loft, deny=["SEND_MESSAGES"])
        await bot.join_voice("Ada", "loft")
        assert "Moved to" in (await bot.slash("/voice join", wait_s=15)).content
        with fault.clock(scaled=False):
            await until(bot, "general", lambda text: f"I hear nobody in <#{loft}>" in text)
        status = (await bot.slash("/transcribe status")).content
        assert "I keep trying" in status
        await bot.control.permissions(member_id=me, channel_id=loft, allow=["SEND_MESSAGES"])
        assert "The notice stands now" in await start(bot)
