"""Rows 315 to 317: a database, or a record of refusals, that lacks what members decided."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fault_report import Fault

from roost.consent import StoredConsent
from roost.store.database import FILE_NAME
from roost.store.withdrawals import NAME
from roost.testing.kit import RoostBot, running_bot

UNDECIDED = "You have not decided"


async def decide(bot: RoostBot, command: str, *members: str) -> None:
    for member in members:
        await bot.slash(f"/privacy {command}", member=member)
    consent = bot.app.plugins.consent
    assert isinstance(consent, StoredConsent)
    async with asyncio.timeout(10):
        while consent.unstored:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def run(data: Path, url: str = "") -> AsyncIterator[RoostBot]:
    settings = {"store.url": url} if url else {}
    async with running_bot(data_dir=data, guilds=1, settings=settings) as bot:
        yield bot


async def nobody_counts_as_agreed(data: Path, fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    """Ada and Ben are asked anew, and nobody is heard meanwhile."""
    caplog.clear()
    async with run(data) as bot:
        with fault.clock(scaled=False):
            for member in ("Ada", "Ben"):
                assert not bot.app.plugins.consent.allows(bot.guild.id, bot.member(member))
                assert UNDECIDED in (await bot.slash("/privacy status", member=member)).content
        await decide(bot, "opt-in", "Ben")
    assert caplog.text.count("are asked anew") == 1


@pytest.mark.sim
@pytest.mark.fault(315)
async def test_agreements_of_a_restored_backup_do_not_count(
    tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async with run(tmp_path) as bot:
        await decide(bot, "opt-in", "Ada", "Ben")
    shutil.copy(tmp_path / FILE_NAME, tmp_path / "backup")
    async with run(tmp_path) as bot:
        await decide(bot, "opt-out", "Ada")
    shutil.copy(tmp_path / "backup", tmp_path / FILE_NAME)
    await nobody_counts_as_agreed(tmp_path, fault, caplog)
    caplog.clear()
    async with run(tmp_path) as bot:
        assert bot.app.plugins.consent.allows(bot.guild.id, bot.member("Ben"))
        assert not bot.app.plugins.consent.allows(bot.guild.id, bot.member("Ada"))
    assert "are asked anew" not in caplog.text


@pytest.mark.sim
@pytest.mark.fault(316)
async def test_agreements_of_a_database_do_not_count_when_another_one_was_in_use(
    tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async with run(tmp_path) as bot:
        await decide(bot, "opt-in", "Ada", "Ben")
    async with run(tmp_path, f"sqlite:///{tmp_path / 'other.sqlite3'}") as bot:
        await decide(bot, "opt-out", "Ada")
    await nobody_counts_as_agreed(tmp_path, fault, caplog)


@pytest.mark.sim
@pytest.mark.fault(317)
async def test_record_of_refusals_that_the_disk_zeroed_is_damaged(
    tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async with run(tmp_path) as bot:
        await decide(bot, "opt-in", "Ada", "Ben")
    (tmp_path / NAME).write_bytes(bytes((tmp_path / NAME).stat().st_size))
    await nobody_counts_as_agreed(tmp_path, fault, caplog)
