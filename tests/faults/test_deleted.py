"""What members delete is gone from every file, and what could not be deleted is said: rows 220 to 224 and 301."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import hikari
import lightbulb
import pytest
from fault_report import Fault

from roost import Meta, PluginContext, hookimpl
from roost.confirming import Confirmations, Outcome
from roost.testing import Reply, RoostBot, running_bot

pytestmark = pytest.mark.sim

WORDS = "a CANARY of words"
BACKUP = "keeper-v1-20260101T000000.backup.sqlite3"


class Keeper:
    """Keeps what members say with their ids."""

    def __init__(self, *, expires_s: float = 60.0) -> None:
        self.confirmations = Confirmations("keeper:confirm", expires_s=expires_s)
        self.done = 0

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("keeper")

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.lines = ctx.store.collection("lines")
        ctx.listen(hikari.InteractionCreateEvent, self.confirmations.on_interaction)

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        loader, keeper = lightbulb.Loader(), self

        @loader.command
        class Ask(lightbulb.SlashCommand, name="ask", description="Ask for everybody to see"):
            @lightbulb.invoke
            async def invoke(self, ctx: lightbulb.Context) -> None:
                row = keeper.confirmations.row(int(ctx.user.id), ("Delete", keeper.deletes))
                await ctx.respond("Sure?", components=[row])

        return [loader]

    async def deletes(self, interaction: hikari.ComponentInteraction) -> Outcome:
        self.done += 1
        return Outcome("done")


def files_with(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.rglob("*") if each.is_file() and b"CANARY" in each.read_bytes())


async def forgets(bot: RoostBot) -> Reply:
    return await bot.press(await bot.slash("/privacy forget-me"), "Delete", wait_s=10.0)


async def gone(folder: Path) -> None:
    while files_with(folder):
        await asyncio.sleep(0.05)


@pytest.mark.fault(220)
async def test_killed_before_the_traces_are_gone_they_go_after_the_next_start(fault: Fault, tmp_path: Path) -> None:
    first, killed = tmp_path / "first", tmp_path / "killed"
    keeper = Keeper()
    async with running_bot(keeper, data_dir=first) as bot:
        await keeper.lines.put("a", WORDS, user_id=bot.member("Ada"))
        reader = sqlite3.connect(first / "roost.sqlite3", isolation_level=None)
        try:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM plugin_keeper").fetchall()
            await forgets(bot)
            # What SIGKILL would leave now.
            shutil.copytree(first, killed, ignore=shutil.ignore_patterns("*.lock", "*-shm", "instances"))
        finally:
            reader.close()
    assert files_with(killed)
    async with running_bot(Keeper(), data_dir=killed):
        with fault.clock(scaled=False):
            await gone(killed)


@pytest.mark.fault(221)
async def test_a_reader_does_not_keep_deleted_words_for_good(fault: Fault, tmp_path: Path) -> None:
    keeper = Keeper()
    async with running_bot(keeper, data_dir=tmp_path) as bot:
        await keeper.lines.put("a", WORDS, user_id=bot.member("Ada"))
        reader = sqlite3.connect(tmp_path / "roost.sqlite3", isolation_level=None)
        try:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM plugin_keeper").fetchall()
            with fault.clock(scaled=False):
                reply = await forgets(bot)
            assert "The last traces of it are still being removed" in reply.content
            assert files_with(tmp_path)
            assert (await bot.slash("/privacy opt-in")).content.startswith("You agreed")
        finally:
            reader.close()
        with fault.clock(scaled=False):
            await gone(tmp_path)


@pytest.mark.fault(222)
async def test_a_backup_that_cannot_be_deleted_is_named(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "no")

    keeper = Keeper()
    async with running_bot(keeper, data_dir=tmp_path) as bot:
        await keeper.lines.put("a", WORDS, user_id=bot.member("Ada"))
        (tmp_path / BACKUP).write_text(WORDS)
        with monkeypatch.context() as patched, fault.clock(scaled=False):
            patched.setattr(Path, "unlink", refuses)
            reply = await forgets(bot)
        assert f"could not be deleted; ask whoever runs this bot: {BACKUP}." in reply.content
        assert files_with(tmp_path) == [BACKUP]
        assert f"they are deleted too: {BACKUP}." in (await forgets(bot)).content
        assert files_with(tmp_path) == []


async def test_old_backups_go_when_the_bot_starts(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    young = f"keeper-v1-{now:%Y%m%dT%H%M%S}.backup.sqlite3"
    for name in (BACKUP, young):
        (tmp_path / name).write_text(WORDS)
    async with running_bot(Keeper(), data_dir=tmp_path):
        async with asyncio.timeout(5):
            while BACKUP in files_with(tmp_path):
                await asyncio.sleep(0.05)
        assert files_with(tmp_path) == [young]


@pytest.fixture
async def captioned(tmp_path: Path) -> AsyncIterator[RoostBot]:
    """Ada is in voice and captioned."""
    settings = {
        "stt.engine": "scripted",
        "stt.script": [WORDS],
        "voice.timing_scale": 0.2,
        "voice.drain_s": 0.5,
    }
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings) as bot:
        await bot.slash("/privacy opt-in")
        await bot.join_voice("Ada", "perch")
        await bot.slash("/voice join", wait_s=15)
        yield bot


async def captions_in(bot: RoostBot, channel: str) -> int:
    return sum("CANARY" in each for each in await bot.messages(channel))


async def speaks(bot: RoostBot, channel: str) -> None:
    before = await captions_in(bot, channel)
    shortest = min(await bot.control.recordings(), key=lambda each: len(each["text"]))
    await bot.say(str(shortest["name"]), member="Ada")
    async with asyncio.timeout(10):
        while await captions_in(bot, channel) == before:
            await asyncio.sleep(0.05)


@pytest.mark.fault(223)
async def test_captions_that_cannot_be_deleted_are_counted(fault: Fault, captioned: RoostBot) -> None:
    bot = captioned
    for channel in ("general", "closed"):
        if channel == "closed":
            await bot.control.channel(name="closed", type="text")
        await bot.slash("/transcribe start", channel=channel, wait_s=20)
        await speaks(bot, channel)
        await bot.slash("/transcribe stop", channel=channel, wait_s=15)
    me = int(bot.discord.world.bots[0].user.id)
    await bot.control.permissions(member_id=me, channel_id=bot.channel("closed").id, deny=["VIEW_CHANNEL"])
    reply = await forgets(bot)
    assert "your captions in 2 messages at Discord" in reply.content
    body = {"member_id": str(bot.member("Ada")), "message_id": str(reply.id), "label": "Delete that too"}
    with fault.clock(scaled=False):
        said = (await bot.control.call("POST", "/press", {**body, "settle_s": 2.0}))["replies"][0]["content"]
    assert said.startswith("Your captions are gone from 1 message. 1 message could not be changed, because I may not")
    assert await captions_in(bot, "general") == 0


async def test_captions_of_others_in_the_same_message_stay(tmp_path: Path) -> None:
    """The message is rewritten without Ada's lines after they were offered, and before she has them deleted."""
    settings = {
        "stt.engine": "scripted",
        "stt.script": [WORDS],
        "stt.captions.mode": "edited",
        "voice.timing_scale": 0.2,
        "voice.drain_s": 0.5,
    }

    async def lines(count: int) -> list[str]:
        async with asyncio.timeout(15):
            while True:
                found = [
                    line for each in await bot.messages("general") for line in each.split("\n") if "CANARY" in line
                ]
                if len(found) == count:
                    return found
                await asyncio.sleep(0.05)

    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings) as bot:
        for member in ("Ada", "Ben"):
            await bot.slash("/privacy opt-in", member=member)
            await bot.join_voice(member, "perch")
        await bot.slash("/voice join", wait_s=15)
        await bot.slash("/transcribe start", channel="general", wait_s=20)
        shortest = min(await bot.control.recordings(), key=lambda each: len(each["text"]))
        for number, member in enumerate(("Ada", "Ben", "Ada"), 1):
            await bot.say(str(shortest["name"]), member=member)
            await lines(number)
        await bot.control.fault(
            "rest_delay", method="PATCH", path_prefix=f"/channels/{bot.channel('general').id}/", delay_s=3.0
        )
        reply = await forgets(bot)
        assert "your captions in 1 message at Discord" in reply.content
        (left,) = await lines(1)
        assert left.startswith("**Ben**")
        body = {"member_id": str(bot.member("Ada")), "message_id": str(reply.id), "label": "Delete that too"}
        said = (await bot.control.call("POST", "/press", {**body, "settle_s": 1.0}))["replies"][0]["content"]
        assert said == "Your captions are gone from 1 message."
        assert await lines(1) == [left]


@pytest.mark.fault(224)
async def test_a_question_is_answered_once_by_the_member_who_asked(fault: Fault, tmp_path: Path) -> None:
    keeper = Keeper(expires_s=1.0)
    async with running_bot(keeper, data_dir=tmp_path) as bot:
        asked = await bot.slash("/ask")
        with fault.clock(scaled=False):
            other = await bot.press(asked, "Delete", member="Ben")
        assert other.content == "Only the member who used the command can answer this."
        assert (await bot.press(asked, "Delete")).content == "done"
        again = await bot.slash("/ask")
        await asyncio.sleep(1.0)
        with fault.clock(scaled=False):
            late = await bot.press(again, "Delete")
        assert late.content.startswith("This question has expired")
        assert keeper.done == 1


@pytest.mark.fault(301)
async def test_transcripts_expire_while_their_plugin_is_quarantined(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost_stt.transcripts.SWEEP_S", 0.05)
    settings = {"stt.engine": "scripted", "plugins.quarantine_failures": 1}
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings, guilds=1) as bot:
        host = bot.app.plugins
        host.failed("stt", "a test", RuntimeError("no"))
        record = host.records["stt"]
        async with asyncio.timeout(5):
            while not record.ended_tasks:
                await asyncio.sleep(0.01)
        assert record.context is not None
        records = record.context.store.collection("records")
        long_ago = time.time() - 8 * 86_400
        head = {"id": "abcdef", "guild_id": bot.guild.id, "voice_channel_id": 1, "text_channel_id": 2, "started_by": 3}
        old = head | {"started_at": long_ago, "ended_at": long_ago}
        with fault.clock(scaled=False):
            await records.put("old", old, guild_id=bot.guild.id)
            async with asyncio.timeout(5):
                while await records.get("old") is not None:
                    await asyncio.sleep(0.01)
