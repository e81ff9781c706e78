"""Roost's driver ``songbird`` against the simulated voice server: the suite that every driver passes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("songbird", reason="NOT BUILT, SO NOT TESTED: run make songbird (it needs cargo)")
pytest.importorskip("roost_songbird", reason="NOT BUILT, SO NOT TESTED: run make songbird (it needs cargo)")

from roost_songbird.driver import PANIC_LOOK_S, SongbirdDriver

from roost.audio import DriverSettings, Retry, Timing, VoiceDriver, VoiceLink
from roost.errors import VoiceError
from roost.testing.driver_conformance import (
    ANN,
    CHECKS,
    DAVE,
    LEAVING,
    PACKETS,
    Bench,
    Check,
    RecordingEvents,
    check_name,
    open_bench,
)
from roost_voice.sim import create

pytestmark = pytest.mark.sim


def make_songbird(timing: Timing, ca_file: Path, allowed_hosts: tuple[str, ...]) -> VoiceDriver:
    return SongbirdDriver(DriverSettings(timing, ca_file, allowed_hosts))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench(make_songbird, create(tick_s=0.01), untold=(DAVE, PACKETS, LEAVING)) as made:
        async with made.link():
            pass  # from its first use on, Songbird's runtime keeps one pair of sockets for the process
        yield made


CANNOT = {
    "tells_members": "Songbird asks for version 4 of the voice gateway, which announces nobody who joins",
    "reports_a_failed_resume": "after a refused resume Songbird identifies anew with the same credentials",
    "survives_lost_and_forged_discovery": "Songbird asks for its own address once, so a lost answer costs a try",
    "sends_media_to_public_addresses_only": "Songbird opens UDP to whatever address the voice server names",
    "does_not_beat_as_fast_as_it_is_asked": "Songbird sends heartbeats as often as it is asked to",
    "keeps_count_of_damage": "a malformed packet ends Songbird's receiving half with a panic; see below",
    "refuses_to_lose_encryption": "Songbird stays in a call that stops being end-to-end encrypted",
    "stays_in_a_stage_without_encryption": "Songbird enters any call without end-to-end encryption",
}
"""Checks that a link on Songbird fails, as docs/drivers.md tells users. One that passes is to be taken off here."""


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(
            check,
            id=check_name(check),
            marks=[pytest.mark.xfail(reason=CANNOT[check_name(check)], strict=True)]
            if check_name(check) in CANNOT
            else [],
        )
        for check in CHECKS
    ],
)
async def test_conformance(check: Check, bench: Bench) -> None:
    await check(bench)


@pytest.mark.filterwarnings("ignore")
async def test_a_link_that_a_fault_made_deaf_ends_and_is_opened_anew(bench: Bench) -> None:
    """Songbird 0.6.1 panics on some malformed packets (udp_rx/mod.rs, a length below zero) and hears nothing after."""
    await bench.join(ANN)
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        bench.host.arm("malformed_rtp", count=200)
        await bench.speak(ANN, 0.6)
        async with asyncio.timeout(10):
            end = await link.wait_closed()
        assert end.retry is Retry.REJOIN
        assert "voice library failed" in end.reason
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        bench.host.disarm()
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) > 5, "Ann is heard again")


@contextlib.asynccontextmanager
async def one_driver(bench: Bench, folder: Path) -> AsyncIterator[Bench]:
    """Another voice server, with a member, and one driver for both."""
    async with open_bench(make_songbird, create(tick_s=0.01), untold=(DAVE, PACKETS, LEAVING)) as other:
        authorities = folder / "both.pem"
        authorities.write_text(bench.voice.ca_file.read_text() + other.voice.ca_file.read_text())
        bench.driver = other.driver = make_songbird(Timing().scaled(0.1), authorities, ("localhost", "127.0.0.1"))
        await asyncio.gather(bench.join(ANN), other.join(ANN))
        yield other


async def hears(bench: Bench, link: VoiceLink, events: RecordingEvents) -> None:
    await bench.speak(ANN)
    await events.until(lambda: len(events.frames) > 5, "Ann is heard")
    ended = asyncio.ensure_future(link.wait_closed())
    await asyncio.sleep(0)
    assert not ended.done()
    ended.cancel()


@pytest.mark.filterwarnings("ignore")
async def test_a_fault_in_one_link_leaves_others_alone(bench: Bench, tmp_path: Path) -> None:
    """Songbird tells of a panic, not of the link that it was in."""
    async with one_driver(bench, tmp_path) as other, bench.link() as (link, events), other.link() as (healthy, heard):
        await bench.encrypted(events)
        await other.encrypted(heard)
        bench.host.arm("malformed_rtp", count=200)
        async with asyncio.timeout(10):
            end = await link.wait_closed()
        assert end.retry is Retry.REJOIN
        await hears(other, healthy, heard)
        assert not healthy.stats().tells_dave


@pytest.mark.filterwarnings("ignore")
async def test_a_fault_while_a_link_is_opened_leaves_others_alone(bench: Bench, tmp_path: Path) -> None:
    async with one_driver(bench, tmp_path) as other, other.link() as (healthy, heard):
        await other.encrypted(heard)
        bench.host.arm("odd_hello", interval=-5)
        with pytest.raises(VoiceError):
            async with bench.link():
                pass
        await asyncio.sleep(2 * PANIC_LOOK_S)
        await hears(other, healthy, heard)


async def test_a_resume_that_is_refused_is_mended_a_few_times(bench: Bench) -> None:
    """Songbird identifies anew by itself; a connection that breaks again and again is given up all the same."""
    await bench.join(ANN)
    limit = Timing().reconnect_limit
    async with bench.link() as (link, events):
        await bench.encrypted(events)
        bench.host.arm("refuse_resume", times=limit, code=4006)
        for broken in range(1, limit):
            bench.host.arm("close", code=4015, resumable=True)
            await bench.settled(lambda broken=broken: link.stats().resumes == broken, "mended")
        await bench.encrypted(events)
        heard = len(events.frames)
        await bench.speak(ANN)
        await events.until(lambda: len(events.frames) > heard + 5, "Ann is heard again")
        bench.host.arm("close", code=4015, resumable=True)
        async with asyncio.timeout(10):
            end = await link.wait_closed()
        assert end.retry is Retry.RESUME_FAILED
        assert "again and again" in end.reason
