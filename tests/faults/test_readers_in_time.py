"""Who may read, and what may be read, change while something is on its way: rows 280 to 282 and 333."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hikari
import pytest
from fault_report import Fault
from stt_house import ADA, BEN, GUILD, TEXT, VOICE, House, houses
from stt_rig import packets_of

from roost.errors import StoreError
from roost.speech import Transcript
from roost.store import open_store
from roost.testing import running_bot
from roost_stt.boards import ChannelBoard
from roost_stt.captioner import Captioner, ChannelRate
from roost_stt.captions import Line
from roost_stt.plugin import SttPlugin
from roost_stt.recalls import Recaller
from roost_stt.transcripts import TranscriptBook

pytestmark = pytest.mark.e2e


def line(user: int, text: str) -> Transcript:
    return Transcript(1, GUILD, user, text, 1000.0, 1001.0)


@pytest.mark.fault(280)
async def test_words_withdrawn_while_a_thread_is_opened_are_not_sent(fault: Fault) -> None:
    async with houses() as make:
        house: House = await make(script=["hello"], captions={"where": "thread"})
        rest, opening, opens, sent = house.bot.rest, asyncio.Event(), asyncio.Event(), list[str]()
        create, open_thread = rest.create_message, rest.create_message_thread

        async def create_message(channel: int, text: str, **options: Any) -> Any:
            sent.append(text)
            return await create(channel, text, **options)

        async def create_slowly(*arguments: Any, **options: Any) -> Any:
            opening.set()
            await opens.wait()
            return await open_thread(*arguments, **options)

        rest.create_message, rest.create_message_thread = create_message, create_slowly
        await house.open()
        await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
        packets = packets_of("lv_0880")
        house.session.say(packets)
        async with asyncio.timeout(10):
            await opening.wait()
        with fault.clock(scaled=False):
            house.opt_out(ADA)
            opens.set()
            house.session.say(packets, BEN)
            await house.until(lambda: "**Ben**: hello" in sent)
        assert sent == ["Captions of <#20>", "**Ben**: hello"]
        await house.plugin.stop_transcribing(GUILD, ADA, False)


@pytest.mark.fault(281)
@pytest.mark.parametrize("command", ["/transcript show", "/transcript export", "/transcript list"])
async def test_reader_who_loses_the_right_meanwhile_gets_nothing(
    tmp_path: Path, fault: Fault, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), guilds=1) as bot:
        plugin: SttPlugin = bot.app.plugins.records["stt"].instance
        room, text = bot.channel("perch").id, bot.channel("general").id
        keeper = plugin.book.begin(bot.guild.id, room, text, 0)
        user = int(bot.member("Ada"))
        await keeper.keep(Transcript(1, bot.guild.id, user, "words of Ada", 1e9, 2e9), "Ada")
        await keeper.close()
        reads, goes_on = asyncio.Event(), asyncio.Event()
        pages, newest = plugin.book.pages, plugin.book.newest

        async def pages_slowly(record: str) -> AsyncIterator[Any]:
            async for page in pages(record):
                reads.set()
                await goes_on.wait()
                yield page

        async def newest_slowly(*arguments: Any) -> Any:
            found = await newest(*arguments)
            reads.set()
            await goes_on.wait()
            return found

        monkeypatch.setattr(plugin.book, "pages", pages_slowly)
        monkeypatch.setattr(plugin.book, "newest", newest_slowly)
        named = {} if command.endswith("list") else {"transcript": keeper.head.id}
        asked = asyncio.create_task(bot.slash(command, member="Ben", wait_s=20.0, **named))
        async with asyncio.timeout(10):
            await reads.wait()
        with fault.clock(scaled=False):
            await bot.control.permissions(member_id=bot.member("Ben"), channel_id=text, deny=["VIEW_CHANNEL"])
            async with asyncio.timeout(10):
                while not plugin.bot.cache.get_guild_channel(text).permission_overwrites:  # type: ignore[union-attr]
                    await asyncio.sleep(0.01)
            goes_on.set()
            reply = await asked
        assert "There is no transcript" in reply.content


@pytest.mark.fault(281)
async def test_reader_who_loses_the_right_while_the_answer_waits_gets_nothing(tmp_path: Path, fault: Fault) -> None:
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), guilds=1) as bot:
        plugin: SttPlugin = bot.app.plugins.records["stt"].instance
        room, text = bot.channel("perch").id, bot.channel("general").id
        keeper = plugin.book.begin(bot.guild.id, room, text, 0)
        await keeper.keep(line(int(bot.member("Ada")), "words of Ada"), "Ada")
        await keeper.close()
        name = {"transcript": keeper.head.id}
        commands: dict[str, dict[str, str]] = {"/transcript show": name, "/transcript export": name}
        commands["/transcript list"] = {}
        for command, options in commands.items():
            await bot.control.permissions(member_id=bot.member("Ben"), channel_id=room, allow=["CONNECT"])
            await told(plugin, room, hikari.Permissions.CONNECT)
            await bot.control.fault("rest_error", path_prefix="/webhooks", status=502)
            asked = asyncio.create_task(bot.slash(command, member="Ben", wait_s=20.0, **options))
            async with asyncio.timeout(5):
                while (await bot.control.faults())["armed"]:
                    await asyncio.sleep(0.01)
            with fault.clock(scaled=False):
                await bot.control.permissions(member_id=bot.member("Ben"), channel_id=room, deny=["CONNECT"])
                await told(plugin, room, hikari.Permissions.NONE)
                reply = await asked
            assert "There is no transcript" in reply.content, command
            assert not reply.files


async def told(plugin: SttPlugin, channel: int, allowed: hikari.Permissions) -> None:
    """Wait until the bot knows that a channel's only overwrite allows exactly this."""
    async with asyncio.timeout(10):
        while True:
            known = plugin.bot.cache.get_guild_channel(channel)
            assert known is not None
            if [each.allow for each in known.permission_overwrites.values()] == [allowed]:
                return
            await asyncio.sleep(0.01)


@pytest.mark.fault(333)
async def test_caption_that_hikari_repeats_is_not_sent_to_readers_who_came_meanwhile(
    tmp_path: Path, fault: Fault
) -> None:
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), guilds=1) as bot:
        text = bot.channel("general").id
        plugin: SttPlugin = bot.app.plugins.records["stt"].instance
        board = ChannelBoard(plugin.bot, text, lambda: "channel", lambda: 0)
        recaller = Recaller(lambda _message: None, begin=lambda _work: None)
        captioner = Captioner(board, ChannelRate(), recaller=recaller)
        running = asyncio.create_task(captioner.run())
        try:
            await bot.control.fault("rest_error", method="POST", path_prefix=f"/channels/{text}/messages", status=502)
            captioner.add(Line("Ada", "words", 7))
            async with asyncio.timeout(5):
                while (await bot.control.faults())["armed"]:
                    await asyncio.sleep(0.01)
            captioner.hold()
            async with asyncio.timeout(5):
                while captioner.refusal is None:
                    await asyncio.sleep(0.01)
            assert not await bot.messages("general")
            with fault.clock(scaled=False):
                captioner.release()
                while not (said := await bot.messages("general")):
                    await asyncio.sleep(0.01)
            assert said == ["**Ada**: words"]
        finally:
            running.cancel()


@pytest.mark.fault(282)
@pytest.mark.parametrize("wanted", [True, False])
async def test_withdrawn_line_is_deleted_from_a_store_that_failed_and_has_it(
    tmp_path: Path, fault: Fault, wanted: bool
) -> None:
    async with open_store(tmp_path) as store:
        kept = store.of_plugin("stt")
        lines = kept.collection("lines")
        put = lines.put

        async def commits_and_fails(*arguments: Any, **more: Any) -> None:
            await put(*arguments, **more)
            raise StoreError("the connection broke", retryable=True)

        lines.put = commits_and_fails  # type: ignore[method-assign]
        kept.collection = lambda name: lines if name == "lines" else type(kept).collection(kept, name)  # type: ignore[method-assign]
        keeper = TranscriptBook(kept, lambda _guild: 7).begin(GUILD, VOICE, TEXT, ADA)
        with fault.clock(scaled=False), pytest.raises(StoreError):
            await keeper.keep(line(ADA, "words"), "Ada", lambda: wanted)
        assert len(await lines.query()) == wanted
