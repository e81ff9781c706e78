"""Rows 190 to 199, 232 and 233: the last word of a member counts, at once and for good, whatever the store does."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from bot_scene import Scene, scenes
from fault_report import Fault
from pg_server import Server, servers

from roost import confirming, consent
from roost.consent import AGREE_ID, REFUSE_ID
from roost.demo.bot_process import descendants_of
from roost.store import database, withdrawals
from roost.store.database import FILE_NAME
from roost.testing.kit import RoostBot, running_bot

UNHEARD = "You are not heard, and nothing"
AGREED = "You agreed"
NO_VOICE = {"plugins__deny": "stt,voice", "plugins__required": ""}


def notice(bot: RoostBot) -> int:
    """A message with the notice's buttons; its id."""
    buttons = [
        {"type": 2, "style": 2, "custom_id": each, "label": label}
        for each, label in ((AGREE_ID, "Agree"), (REFUSE_ID, "Don't"))
    ]
    user = bot.discord.world.bots[0]
    body: dict[str, Any] = {"content": "", "components": [{"type": 1, "components": buttons}]}
    made = bot.discord.book.post(
        bot.channel("general").id, bot.guild.id, user.user.payload(), body, application_id=user.application_id
    )
    return made.id


@contextmanager
def locked(data: Path) -> Iterator[None]:
    other = sqlite3.connect(data / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def rows(data: Path) -> dict[int, bool]:
    """The decisions in the store, by user."""
    other = sqlite3.connect(data / FILE_NAME)
    try:
        return {
            int(user): bool(allowed) for user, allowed in other.execute("SELECT user_id, allowed FROM roost_consent")
        }
    finally:
        other.close()


async def at_rest(bot: RoostBot) -> None:
    held = bot.app.plugins.consent
    assert isinstance(held, consent.StoredConsent)
    async with asyncio.timeout(10):
        while held.unstored:
            await asyncio.sleep(0.005)


@pytest.mark.sim
@pytest.mark.fault(190)
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(("first", "second"), [("Agree", "Don't"), ("Don't", "Agree")])
async def test_the_last_of_two_presses_counts(
    first: str, second: str, busy: bool, tmp_path: Path, fault: Fault
) -> None:
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        buttons, ada = notice(bot), bot.member("Ada")
        for number in range(2 if busy else 10):
            with locked(tmp_path) if busy else contextmanager(lambda: iter([None]))():
                pressed = []
                for label in (first, second):
                    pressed.append(asyncio.ensure_future(bot.press(buttons, label, wait_s=10.0)))
                    await asyncio.sleep(0.001)
                if busy:
                    await asyncio.sleep(1.0)
            with fault.clock(scaled=False):
                replies = await asyncio.gather(*pressed)
                await at_rest(bot)
            assert rows(tmp_path) == {ada: second == "Agree"}, number
            assert bot.app.plugins.consent.allows(bot.guild.id, ada) == (second == "Agree"), number
            assert (AGREED if second == "Agree" else UNHEARD) in replies[1].content


async def said(scene: Scene, command: str, wait_s: float = 10.0) -> str:
    answer = await scene.discord.slash(member_id=scene.ada, channel_id=scene.text, command=command, wait_s=wait_s)
    return str(answer["replies"][0]["content"])


@asynccontextmanager
async def refused_and_killed(scene: Scene, fault: Fault, **settings: str) -> AsyncIterator[None]:
    """A member agrees; in the block the store fails, and they refuse; after the block the next start is asked."""
    async with scene.bot(**NO_VOICE, **settings) as bot:
        assert AGREED in await said(scene, "/privacy opt-in")
        yield
        with fault.clock(scaled=False):
            assert UNHEARD in await said(scene, "/privacy opt-out")
        bot.kill()
        await bot.wait(5)


@asynccontextmanager
async def started_again(scene: Scene, **settings: str) -> AsyncIterator[None]:
    async with scene.bot(**NO_VOICE, **settings) as bot:
        assert UNHEARD in await said(scene, "/privacy status")
        yield
        bot.terminate()
        assert await bot.wait(10) == 0


@pytest.mark.e2e
@pytest.mark.fault(191)
async def test_a_refusal_survives_a_kill_while_the_database_is_locked(tmp_path: Path, fault: Fault) -> None:
    data = tmp_path / "data"
    async with scenes(tmp_path) as scene:
        other = None
        async with refused_and_killed(scene, fault):
            other = locked(data)
            other.__enter__()
        assert rows(data) == {scene.ada: True}, "the store never got it"
        other.__exit__(None, None, None)
        async with started_again(scene):
            pass
        assert rows(data) == {scene.ada: False}


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 4 MiB; skips where none can be mounted."""
    folder.mkdir(mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("no disk can be mounted here; the test with a limit on the size of files is run")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return filler


@pytest.mark.e2e
@pytest.mark.fault(192)
async def test_a_refusal_survives_a_kill_on_a_full_disk(tmp_path: Path, fault: Fault) -> None:
    with small_disk(tmp_path / "data") as data:
        async with scenes(tmp_path) as scene:
            filler = data
            async with refused_and_killed(scene, fault):
                filler = fill(data)
            filler.unlink()
            async with started_again(scene):
                pass
            assert rows(data) == {scene.ada: False}


@pytest.mark.sim
@pytest.mark.fault(192)
async def test_a_refusal_survives_a_start_where_no_file_can_grow(tmp_path: Path, fault: Fault) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        async with running_bot(data_dir=tmp_path, guilds=1) as bot:
            assert AGREED in (await bot.slash("/privacy opt-in")).content
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            with fault.clock(scaled=False):
                assert UNHEARD in (await bot.slash("/privacy opt-out")).content
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(rows(tmp_path).values()) == [True]
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        assert not bot.app.plugins.consent.allows(bot.guild.id, bot.member("Ada"))


def freeze(server: Server, number: signal.Signals) -> None:
    first = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    for pid in (first, *descendants_of(first)):
        os.kill(pid, number)


@pytest.mark.e2e
@pytest.mark.fault(191, 193)
@pytest.mark.parametrize("stands_still", [False, True])
async def test_a_refusal_survives_a_kill_without_postgresql(stands_still: bool, tmp_path: Path, fault: Fault) -> None:
    with servers() as server:
        url = server.url(server.new_database())
        async with scenes(tmp_path) as scene:
            async with refused_and_killed(scene, fault, store__url=url):
                if stands_still:
                    freeze(server, signal.SIGSTOP)
                else:
                    server.stop()
            if stands_still:
                freeze(server, signal.SIGCONT)
            else:
                server.start()
            async with started_again(scene, store__url=url):
                pass


@pytest.mark.e2e
@pytest.mark.fault(194)
async def test_a_kill_at_any_moment_loses_nothing_that_was_said(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path) as scene:
        for delay_s in (0.002, 0.02):
            async with scene.bot(**NO_VOICE) as bot:
                assert AGREED in await said(scene, "/privacy opt-in")
                refusal = asyncio.ensure_future(said(scene, "/privacy opt-out", wait_s=2.0))
                await asyncio.sleep(delay_s)
                bot.kill()
                await bot.wait(5)
                try:
                    told = UNHEARD in await refusal
                except (IndexError, TimeoutError):
                    told = False
            began = time.monotonic()
            async with scene.bot(**NO_VOICE) as bot:
                fault.note(time.monotonic() - began, scaled=False)
                status = await said(scene, "/privacy status")
                assert UNHEARD in status or (AGREED in status and not told), (delay_s, told, status)
                bot.kill()
                await bot.wait(5)


@pytest.mark.sim
@pytest.mark.fault(195)
async def test_an_agreement_that_the_store_has_too_late_is_withdrawn(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent, "STORED_S", 0.5)
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        with locked(tmp_path):
            assert "nothing has changed" in (await bot.slash("/privacy opt-in")).content
        with fault.clock(scaled=False):
            await at_rest(bot)
        assert rows(tmp_path) == {}
        assert "You have not decided" in (await bot.slash("/privacy status")).content


@pytest.mark.sim
@pytest.mark.fault(196)
async def test_every_answer_is_there_or_deferred_at_once(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 3500)  # longer than Discord waits for a first answer
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        buttons = notice(bot)
        commands = ["status", "opt-in", "opt-out", "my-data", "forget-me"]
        with locked(tmp_path):
            presses = [bot.press(buttons, label, member="Ben", wait_s=20) for label in ("Agree", "Don't")]
            used = [bot.slash(f"/privacy {each}", member="Cleo", wait_s=20) for each in commands]
            replies = list(await asyncio.gather(*presses, *used))
            forget = next(reply for reply in replies if "Delete" in reply.buttons)
            replies.append(await bot.press(forget, "Delete", member="Cleo", wait_s=20))
        assert all(reply.content for reply in replies)
        answers = [each["after_s"] for each in await bot.control.log() if each["kind"] == "interaction_answer"]
        assert len(answers) == len(replies)
        for after_s in answers:
            fault.note(after_s, scaled=False)


@pytest.mark.sim
@pytest.mark.fault(232)
async def test_refusal_that_a_failed_deletion_keeps_is_told(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    async with running_bot(data_dir=tmp_path, settings={"consent.mode": "notice"}, guilds=1) as bot:
        await bot.slash("/privacy opt-out")
        with locked(tmp_path):
            for member, kept in (("Ada", True), ("Ben", False)):
                question = await bot.slash("/privacy forget-me", member=member)
                with fault.clock(scaled=False):
                    reply = await bot.press(question, "Delete", member=member)
                assert "could not be deleted" in reply.content
                assert ("Your refusal stays in servers" in reply.content) is kept
                assert "decisions" not in reply.content, "a refusal is one, and it counts"
            assert "You are not heard" in (await bot.slash("/privacy status")).content


@pytest.mark.sim
@pytest.mark.fault(233)
async def test_deletion_that_gets_no_answer_is_said_to_go_on(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirming, "SLOW_S", 0.3)
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        await bot.slash("/privacy opt-in")
        question = await bot.slash("/privacy forget-me")
        with locked(tmp_path):
            with fault.clock(scaled=False):
                reply = await bot.press(question, "Delete")
            assert reply.content.startswith("That is not done yet")
        async with asyncio.timeout(10):
            while rows(tmp_path):
                await asyncio.sleep(0.05)


@pytest.mark.sim
@pytest.mark.fault(197)
async def test_who_is_forgotten_while_the_store_is_away_is_not_heard_after_a_start(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        assert AGREED in (await bot.slash("/privacy opt-in")).content
        lock = locked(tmp_path)
        lock.__enter__()
        with fault.clock(scaled=False):
            reply = await bot.press(await bot.slash("/privacy forget-me"), "Delete")
        assert "do not count any more" in reply.content
        assert "forget-me` again" in reply.content
    assert list(rows(tmp_path).values()) == [True]
    lock.__exit__(None, None, None)
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        assert "You have not decided" in (await bot.slash("/privacy status")).content
        await at_rest(bot)
        assert rows(tmp_path) == {}
        assert "is deleted" in (await bot.press(await bot.slash("/privacy forget-me"), "Delete")).content


@pytest.mark.sim
@pytest.mark.fault(198)
async def test_refusals_beyond_the_room_for_them_silence_the_next_start(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    monkeypatch.setattr(withdrawals, "SLOTS", 1)
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        for member in ("Ada", "Ben", "Cleo"):
            assert AGREED in (await bot.slash("/privacy opt-in", member=member)).content
        lock = locked(tmp_path)
        lock.__enter__()
        for member in ("Ada", "Ben"):
            with fault.clock(scaled=False):
                assert UNHEARD in (await bot.slash("/privacy opt-out", member=member)).content
    lock.__exit__(None, None, None)
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        assert "the members are asked anew" in caplog.text
        for member in ("Ada", "Ben", "Cleo"):
            assert not bot.app.plugins.consent.allows(bot.guild.id, bot.member(member))
        assert "You have not decided" in (await bot.slash("/privacy status", member="Cleo")).content
        assert AGREED in (await bot.slash("/privacy opt-in", member="Cleo")).content


@pytest.mark.sim
@pytest.mark.fault(199)
async def test_a_refusal_that_nothing_can_keep_counts_and_is_said_to_be_at_risk(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent, "STORED_S", 1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        assert AGREED in (await bot.slash("/privacy opt-in")).content
        resource.setrlimit(resource.RLIMIT_FSIZE, (withdrawals.SLOT_BYTES, before[1]))
        try:
            with fault.clock(5, scaled=False):
                reply = await bot.slash("/privacy opt-out", wait_s=10)
            assert "neither my database nor my disk could keep that yet" in reply.content
            assert not bot.app.plugins.consent.allows(bot.guild.id, bot.member("Ada"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await at_rest(bot)
        assert list(rows(tmp_path).values()) == [False]
