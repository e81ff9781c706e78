"""Row 335: PostgreSQL goes on with a commit, and the bot does not hear of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fault_report import Fault
from pg_server import Server, cut_connections

from roost.testing.kit import running_bot


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
