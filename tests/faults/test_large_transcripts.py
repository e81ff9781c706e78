"""Transcripts of tens of thousands of lines, and damaged ones: rows 123 and 127, a whole bot at the simulator."""

from __future__ import annotations

import asyncio
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from fault_report import Fault

from roost.speech import Transcript
from roost.testing import RoostBot, running_bot
from roost_stt.plugin import SttPlugin
from roost_stt.transcripts import DAY_S, TranscriptBook

pytestmark = pytest.mark.e2e

LINES = 40_000
MIB = 1 << 20
SAID = "and so my fellow members, what was said at that moment went on and on " * 4 + "until number"


async def fill(bot: RoostBot, count: int) -> str:
    """A transcript of so many lines; its id."""
    book, guild = book_of(bot), bot.guild.id
    keeper = book.begin(guild, bot.channel("perch").id, bot.channel("general").id, 0)
    at = time.time() - count
    await keeper.keep(Transcript(1, guild, 7, f"{SAID} 0", at, at + 1.0, "en", 0.5), "Ada")
    collection = book._lines
    rows = [
        {
            "collection": collection.name,
            "key": f"{keeper.key}/{round((at + n) * 1000):014d}-x",
            "guild_id": guild,
            "user_id": 7,
            "changed_at": at,
            "value": json.dumps(
                {"user_id": 7, "name": "Ada", "text": f"{SAID} {n}", "started_at": at + n, "ended_at": at + n + 1.0}
            ),
        }
        for n in range(1, count)
    ]
    async with collection._door.write() as connection:
        await connection.execute(sa.insert(collection._table), rows)
    await keeper.close()
    return keeper.head.id


def book_of(bot: RoostBot) -> TranscriptBook:
    plugin: SttPlugin = bot.app.plugins.records["stt"].instance
    return plugin.book


class Gauge:
    """The most memory, and the longest that anybody waited for this process's loop."""

    def __init__(self) -> None:
        self.me = psutil.Process()
        self.before = self.most = self.me.memory_info().rss
        self.lag_s = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.02
            await asyncio.sleep(0.02)
            self.lag_s = max(self.lag_s, loop.time() - due)
            self.most = max(self.most, self.me.memory_info().rss)


@pytest.mark.fault(123)
async def test_eight_large_exports_hold_up_no_command(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine an export takes longer than this, and the last answer is what counts here.
    monkeypatch.setattr("roost.deferral.SLOW_S", 120.0)
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings={"stt.engine": "scripted"}) as bot:
        names = ["Ada", "Ben", *(f"Reader {n}" for n in range(6))]
        for name in names[2:]:
            await bot.control.add_member(name, guild_id=bot.guild.id)
        kept = await fill(bot, LINES)
        gauge = Gauge()
        watch = asyncio.create_task(gauge.watch())

        async def export(member: str) -> Any:
            return await bot.slash("/transcript export", transcript=kept, member=member, wait_s=60.0)

        exports = [asyncio.create_task(export(name)) for name in names]
        answered_s: list[float] = []
        while not all(each.done() for each in exports):
            began_s = time.monotonic()
            await bot.slash("/voice status", member="Ada")
            answered_s.append(time.monotonic() - began_s)
        watch.cancel()
        assert len(answered_s) > 5, "the exports ended before anybody could be held up"
        fault.note(max(*answered_s, gauge.lag_s))
        for reply in [each.result() for each in exports]:
            (file,) = reply.files
            assert f"{LINES} lines" in reply.content
            assert "compressed" in reply.content
            with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
                assert archive.read(archive.namelist()[0]).count(b"\n") == LINES
        assert gauge.most - gauge.before < 200 * MIB
        shown = await bot.slash("/transcript show", transcript=kept, wait_s=30.0)
        assert f"number {LINES - 1}" in shown.content


@pytest.mark.fault(127)
async def test_damaged_records_and_lines_are_left_out_and_end(tmp_path: Path, fault: Fault) -> None:
    settings = {"stt.engine": "scripted"}
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings) as bot:
        book, guild = book_of(bot), bot.guild.id
        kept = await fill(bot, 3)
        found = await book.find(guild, kept)
        assert found is not None
        key = found[0]
        good = (await book._records.get(key)) | {"a_later_field": 1}
        await book._records.put(key, good, guild_id=guild)
        await book._lines.put(f"{key}/00000000000001-x", {"user_id": 1, "started_at": "soon"}, guild_id=guild)
        await book._lines.put(f"{key}/00000000000002-x", [1], guild_id=guild)
        for number, damage in enumerate([None, 5, [], {}, {"id": "zzzzzz"}, good | {"started_at": "never"}]):
            await book._records.put(f"0000000000000{number}-bad{number}xx", damage, guild_id=guild)
    # The next bot starts, and everything works on the rest.
    with fault.clock(scaled=False):
        async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings) as bot:
            book = book_of(bot)
            listed = await bot.slash("/transcript list")
            assert listed.content.count("lines") == 1
            reply = await bot.slash("/transcript export", transcript=kept)
            assert "3 lines" in reply.content
            shown = await bot.slash("/transcript show", transcript=kept)
            assert f"{SAID} 2" in shown.content
            await book.forget(bot.member("Ada"))
            assert await book.sweep(time.time() + 8 * DAY_S) == 7
            assert await book._records.count() == 0
