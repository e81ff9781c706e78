"""Rows 335 to 337: a database that does more than it answers, or takes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from fault_report import Fault
from pg_server import HOLDS_LOCK, Server, cut_connections

from roost import app
from roost.store import database
from roost.testing.kit import running_bot
from roost_stt import plugin


@pytest.mark.sim
@pytest.mark.fault(335)
async def test_forgotten_member_whose_agreement_got_no_answer_stays_forgotten(
    tmp_path: Path, postgres: Server, fault: Fault
) -> None:
    name = postgres.new_database()
    settings = {"store.url": postgres.url(name)}
    with cut_connections() as cut:
        async with running_bot(data_dir=tmp_path, guilds=1, settings=settings) as bot:
            postgres.slow_commits("roost_consent", 1.0, name)
            agreeing = asyncio.ensure_future(bot.slash("/privacy opt-in"))
            async with asyncio.timeout(10):
                while not await asyncio.to_thread(postgres.commits, name):
                    await asyncio.sleep(0.01)
            cut()
            assert "nothing has changed" in (await agreeing).content
            question = await bot.slash("/privacy forget-me")
            with fault.clock(scaled=False):
                assert "is deleted" in (await bot.press(question, "Delete", wait_s=10)).content
            assert not postgres.commits(name)
            assert postgres.sql("SELECT count(*) FROM roost_consent", name) == "0"


@pytest.mark.e2e
@pytest.mark.fault(336)
@pytest.mark.parametrize("busy_ms", [50, 3000])
async def test_replies_say_what_holds_while_the_database_takes_nothing(
    busy_ms: int, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", busy_ms)
    monkeypatch.setattr(plugin, "NOTED_S", 0.2)
    async with running_bot(
        data_dir=tmp_path,
        installed=("voice", "stt"),
        settings={"stt.engine": "scripted", "stt.script": "words"},
        guilds=1,
    ) as bot:
        await bot.join_voice("Ada")
        await bot.slash("/voice join", wait_s=15)
        with contextlib.closing(sqlite3.connect(tmp_path / database.FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for command, reply in (
                ("start", "Transcribing <#"),
                ("pause", " is paused."),
                ("resume", " goes on."),
                ("stop", "Transcription has stopped."),
            ):
                with fault.clock(scaled=False):
                    assert reply in (await bot.slash(f"/transcribe {command}", wait_s=20)).content


@pytest.mark.sim
@pytest.mark.fault(337)
async def test_bot_outlasts_connections_that_the_network_forgets(
    tmp_path: Path, postgres: Server, fault: Fault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "HOLD_LOOK_S", 0.05)
    caplog.set_level("INFO")

    async def logged(words: str) -> None:
        async with asyncio.timeout(10):
            while words not in caplog.text:
                await asyncio.sleep(0.01)

    name = postgres.new_database()
    settings = {"store.url": postgres.url(name)}
    with cut_connections() as cut:
        async with running_bot(data_dir=tmp_path, guilds=1, settings=settings) as bot:
            with postgres.silent(name, HOLDS_LOCK):
                cut()
                await logged("has not ended an earlier session of this process")
            with fault.clock(scaled=False):
                await logged("is held again")
            assert "You agreed" in (await bot.slash("/privacy opt-in")).content
