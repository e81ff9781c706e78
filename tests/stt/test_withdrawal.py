"""What is withdrawn comes out of no stage between a frame and its text."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from stt_rig import Build, packets_of, scripted

from roost.speech import Transcript, Withdrawal
from roost_stt.accounts import Accounts
from roost_stt.partials import Partial
from roost_stt.protocol import ipc
from roost_stt.protocol.ipc import Audio
from roost_stt.protocol.segmenter import Cut, Segment
from roost_stt.worker.backlog import Backlog
from roost_stt.worker.pipes import Inbox
from roost_stt.worker.utterances import Spoken

GUILD, ADA, BEN = 1, 7, 8


def audio(index: int, user: int = ADA, guild: int = GUILD) -> Audio:
    return Audio(index, guild, user, index * 960, index * 0.02, 0, b"opus")


def spoken(user: int = ADA, guild: int = GUILD, mark: int = 1) -> Spoken:
    return Spoken(guild, user, Segment(bytes(3200), mark, mark, 0.0, 0.1, 100, Cut.SILENCE))


def text_of(user: int, mark: int) -> dict[str, Any]:
    return {
        "id": mark,
        "guild": GUILD,
        "user": user,
        "text": "words",
        "started_at": 0.0,
        "ended_at": 0.1,
        "language": None,
        "confidence": 0.5,
        "words": [],
        "last": mark,
        "decode_s": 0.1,
    }


class Book:
    """Accounts, and what came out of them."""

    def __init__(self) -> None:
        self.texts: list[Transcript] = []
        self.partials: list[Partial] = []
        self.accounts = Accounts(
            self.texts.append, lambda _what, _guild, _why: None, self.partials.append, lambda _guild, _user: None
        )


@pytest.mark.unit
@pytest.mark.parametrize("user", [ADA, 0], ids=["of a speaker", "of a guild"])
def test_text_that_arrives_after_a_confirmed_purge_is_dropped(user: int) -> None:
    book = Book()
    book.accounts.keep(audio(5), 0)
    book.accounts.purge((GUILD, user), 1, 5)
    book.accounts.purging.discard(1)
    assert len(book.accounts.kept) == 0
    book.accounts.partial({"guild": GUILD, "user": ADA, "mark": 4, "text": "wor"})
    book.accounts.transcript(text_of(ADA, 4))
    assert (book.texts, book.partials) == ([], [])
    # What is said after a new agreement is heard.
    book.accounts.transcript(text_of(ADA, 6))
    assert [each.utterance_id for each in book.texts] == [6]


@pytest.mark.unit
def test_purge_of_a_speaker_leaves_the_others_alone() -> None:
    book = Book()
    book.accounts.keep(audio(4, BEN), 0)
    book.accounts.purge((GUILD, ADA), 1, 5)
    book.accounts.transcript(text_of(BEN, 4))
    assert [each.user_id for each in book.texts] == [BEN]


@pytest.mark.unit
def test_purge_overtakes_the_audio_in_the_workers_inbox() -> None:
    inbox = Inbox()
    inbox.audio(audio(1, BEN))
    inbox.audio(audio(2))
    inbox.order(ipc.Kind.DRAIN, {"guild": GUILD, "token": 1})
    inbox.order(ipc.Kind.PURGE, {"guild": GUILD, "user": ADA, "token": 2})
    inbox.audio(audio(3))
    taken = [inbox.take(0.0) for _ in range(5)]
    kinds = [each.index if isinstance(each, Audio) else each and each[0] for each in taken]
    assert kinds == [ipc.Kind.PURGE, 1, ipc.Kind.DRAIN, 3, None]


@pytest.mark.unit
def test_purge_of_a_guild_removes_its_audio_alone() -> None:
    inbox = Inbox()
    for user, guild in ((ADA, GUILD), (BEN, GUILD), (ADA, 2)):
        inbox.audio(audio(user, user, guild))
    inbox.order(ipc.Kind.PURGE, {"guild": GUILD, "user": 0, "token": 2})
    taken = [inbox.take(0.0) for _ in range(3)]
    assert [each.guild_id if isinstance(each, Audio) else each and each[0] for each in taken] == [
        ipc.Kind.PURGE,
        2,
        None,
    ]


@pytest.mark.unit
@pytest.mark.parametrize("is_draft", [False, True])
def test_purge_reaches_what_the_engine_has(is_draft: bool) -> None:
    backlog = Backlog(lambda _item: None, lambda _token: None)
    mine, others = spoken(), spoken(BEN)
    (backlog.draft if is_draft else backlog.put)(mine)
    batch = backlog.take(8)
    (backlog.draft if is_draft else backlog.put)(others)
    assert batch.items == [mine]
    backlog.purge((GUILD, ADA))
    assert (mine.withdrawal.withdrawn, others.withdrawal.withdrawn) == (True, False)
    assert backlog.take(8).items == [others]


@pytest.mark.unit
def test_withdrawal_calls_back_once_and_at_once_when_late() -> None:
    withdrawal, called = Withdrawal(), list[str]()
    withdrawal.subscribe(lambda: called.append("kept"))
    withdrawal.subscribe(lambda: called.append("gone"))()
    assert not withdrawal.wait(0.0)
    withdrawal.withdraw()
    withdrawal.withdraw()
    withdrawal.subscribe(lambda: called.append("late"))
    assert called == ["kept", "late"]
    assert withdrawal.wait(0.0)


@pytest.mark.e2e
async def test_words_in_the_pipe_of_a_worker_that_stands_still_never_become_text(rig: Build) -> None:
    made = await rig(scripted("{user}"), silent_s=30.0)
    pid = made.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        # More than a pipe holds: the rest waits in the bot.
        for _ in range(3):
            await made.say(packets_of("lv_0880"), user=ADA)
        await made.say(packets_of("lv_0880"), user=BEN)
        made.worker.purge(GUILD, ADA)
        assert made.worker.stats()["kept_frames"] <= len(packets_of("lv_0880"))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await made.worker.purged(asyncio.get_running_loop().time() + 5)
    assert await made.drain()
    assert {each.user_id for each in made.transcripts} == {BEN}
