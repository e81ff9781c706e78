"""Captions that are not taken: what is kept, what is given up, what is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from roost.scopes import Scope
from roost_stt import captioner as module
from roost_stt import recalls
from roost_stt.captioner import QUEUE_LIMIT, Captioner, ChannelRate
from roost_stt.captions import Line
from roost_stt.pages import Cut, Page, Wanted, always
from roost_stt.recalls import Recaller
from roost_stt.refusals import Refusal, RefusedError

pytestmark = pytest.mark.unit


class Moody:
    """A board that answers each post as it is told."""

    def __init__(self) -> None:
        self.mood: Refusal | Exception | None = None
        self.texts: list[str] = []
        self.tries = 0
        self.is_deaf = True
        """What it refuses it has not carried out."""
        self.nonces: dict[str, int] = {}
        self.given_up: list[int] = []
        self.recaller: Recaller | None = None

    async def prepare(self) -> bool:
        return False

    async def post(self, text: str, nonce: str, wanted: Wanted = always) -> int:
        self.tries += 1
        if self.mood is None or not self.is_deaf:
            if nonce not in self.nonces:
                self.texts.append(text)
            self.nonces.setdefault(nonce, len(self.texts))
        if isinstance(self.mood, Refusal):
            raise RefusedError("no", self.mood)
        if self.mood is not None:
            raise self.mood
        return self.nonces[nonce]

    async def edit(self, message: int, text: str, wanted: Wanted = always) -> None:
        self.tries += 1
        if isinstance(self.mood, Refusal):
            raise RefusedError("no", self.mood)
        if self.mood is not None:
            raise self.mood
        self.texts[message - 1] = text

    async def delete(self, message: int) -> None:
        self.texts[message - 1] = ""


@pytest.fixture
async def scope(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scope]:
    monkeypatch.setattr(module, "AGAIN_S", (0.05,))
    monkeypatch.setattr(module, "AFTER_FAULT_S", 0.05)
    async with contextlib.aclosing(Scope("test")) as made:
        yield made


def begin(
    scope: Scope, board: Moody, *, edited: bool = False, may_show: Callable[[int], bool] = lambda _user_id: True
) -> tuple[Captioner, list[Refusal]]:
    told: list[Refusal] = []
    recaller = board.recaller = Recaller(board.given_up.append, begin=lambda work: scope.keep(work, "recalls"))
    captioner = Captioner(
        board,
        ChannelRate(1000),
        recaller=recaller,
        may_show=may_show,
        edited=lambda: edited,
        edit_every_s=0.0,
        cut_off=told.append,
    )
    scope.spawn(captioner.run(), "captions")
    return captioner, told


async def tried(board: Moody, times: int) -> None:
    async with asyncio.timeout(5):
        while board.tries < times:
            await asyncio.sleep(0.01)


async def settled(board: Moody) -> list[str]:
    """What stands there once all that was withdrawn is gone."""
    assert board.recaller is not None
    async with asyncio.timeout(5):
        await board.recaller.settled()
    return board.texts


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.mark.parametrize("mood", [Refusal.LATER, Refusal.FORBIDDEN, Refusal.GONE, OSError(), TimeoutError()])
@pytest.mark.parametrize("edited", [False, True])
async def test_what_is_not_taken_for_now_comes_later_together(
    scope: Scope, mood: Refusal | Exception, edited: bool
) -> None:
    board = Moody()
    captioner, told = begin(scope, board, edited=edited)
    board.mood = mood
    for number in range(5):
        captioner.add(Line("A", f"n{number}", 1))
        await asyncio.sleep(0.02)
    await tried(board, 3)
    assert captioner.refusal is not None
    board.mood = None
    async with asyncio.timeout(5):
        await captioner._idle.wait()
    assert board.texts == ["\n".join(f"**A**: n{number}" for number in range(5))]
    assert (captioner.refusal, captioner.dropped, captioner.captions) == (None, 0, 5)
    assert told == ([mood] if mood in (Refusal.FORBIDDEN, Refusal.GONE) else [])


@pytest.mark.parametrize("mood", [Refusal.REJECTED, Refusal.UNREADABLE])
async def test_a_message_that_never_will_be_taken_holds_up_no_other(scope: Scope, mood: Refusal) -> None:
    board = Moody()
    captioner, _ = begin(scope, board)
    board.mood = mood
    captioner.add(Line("A", "poison", 1))
    await tried(board, 1)
    board.mood = None
    captioner.add(Line("A", "fine", 1))
    assert await captioner.flush(soon(2))
    assert (board.tries, captioner.failed) == (2, 1)
    assert board.texts == ["**Roost**: 1 caption is missing above: it could not be shown here.\n**A**: fine"]


async def test_what_is_kept_has_a_bound_and_the_rest_is_told(scope: Scope) -> None:
    board = Moody()
    board.mood = Refusal.LATER
    captioner, _ = begin(scope, board)
    captioner.add(Line("A", "first", 1))
    await tried(board, 1)
    for number in range(QUEUE_LIMIT + 9):
        captioner.add(Line("A", f"n{number}", 1))
    board.mood = None
    assert await captioner.flush(soon(2))
    assert captioner.dropped == 10
    assert sum("10 captions are missing above: they could not be shown here." in text for text in board.texts) == 1
    assert not any("left out" in text for text in board.texts), "not too much was said, Discord took nothing"
    assert sum(text.count("**A**:") for text in board.texts) == QUEUE_LIMIT


async def test_too_much_speech_and_a_refused_message_are_told_each(scope: Scope) -> None:
    board = Moody()
    captioner, _ = begin(scope, board)
    board.mood = Refusal.REJECTED
    captioner.add(Line("A", "poison", 1))
    await tried(board, 1)
    board.mood = None
    for number in range(QUEUE_LIMIT + 3):
        captioner.add(Line("A", f"n{number}", 1))
    assert await captioner.flush(soon(2)) is True
    said = "\n".join(board.texts)
    assert "3 captions were left out: too much was said at once." in said
    assert "1 caption is missing above: it could not be shown here." in said


async def test_whoever_withdraws_is_not_kept(scope: Scope) -> None:
    board = Moody()
    board.mood = Refusal.LATER
    captioner, _ = begin(scope, board)
    captioner.add(Line("A", "mine", 1))
    await tried(board, 1)
    captioner.add(Line("B", "yours", 2))
    captioner.forget(1)
    board.mood = None
    assert await captioner.flush(soon(2))
    assert board.texts == ["**B**: yours"]


async def test_every_caption_that_is_given_up_is_counted(scope: Scope) -> None:
    board = Moody()
    board.mood = Refusal.FORBIDDEN
    captioner, _ = begin(scope, board)
    captioner.add(Line("Ada", "x", 7))
    await tried(board, 1)
    for word in ("y", "z"):
        captioner.add(Line("Ada", word, 7))
    await tried(board, 2)
    captioner.give_up()
    assert captioner.dropped == 3


async def test_a_session_does_not_wait_for_a_channel_that_is_gone(scope: Scope) -> None:
    board = Moody()
    board.mood = Refusal.GONE
    captioner, _ = begin(scope, board)
    captioner.add(Line("A", "x", 1))
    await tried(board, 1)
    assert not await captioner.flush(soon(5))
    assert captioner.dropped == 1


async def test_captions_move_with_what_waits(scope: Scope) -> None:
    board, other = Moody(), Moody()
    board.mood = Refusal.GONE
    captioner, _ = begin(scope, board)
    captioner.add(Line("A", "x", 1))
    await tried(board, 1)
    captioner.add(Line("A", "y", 1))
    captioner.move(other, ChannelRate())
    async with asyncio.timeout(5):
        await captioner._idle.wait()
    assert other.texts == ["**A**: x\n**A**: y"]


class Slow(Moody):
    """A board whose answers wait until `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()
        self.is_lost = False

    async def post(self, text: str, nonce: str, wanted: Wanted = always) -> int:
        made = await super().post(text, nonce, wanted)
        await self.answer.wait()
        if self.is_lost:
            raise OSError("lost")
        return made

    async def edit(self, message: int, text: str, wanted: Wanted = always) -> None:
        await super().edit(message, text, wanted)
        await self.answer.wait()
        if self.is_lost:
            raise OSError("lost")


class Turns(Moody):
    """A board whose requests wait for their turn, which comes when `turn` is set, and ask then whether to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = asyncio.Event()
        self.sent: list[str] = []
        """Every text that stood there for a while."""

    async def comes(self, wanted: Wanted) -> None:
        self.tries += 1
        await self.turn.wait()
        if not wanted():
            raise RefusedError("not wanted", Refusal.UNSENT)

    async def post(self, text: str, nonce: str, wanted: Wanted = always) -> int:
        await self.comes(wanted)
        self.sent.append(text)
        return await super().post(text, nonce)

    async def edit(self, message: int, text: str, wanted: Wanted = always) -> None:
        await self.comes(wanted)
        self.sent.append(text)
        await super().edit(message, text)


@pytest.mark.parametrize("edits", [False, True], ids=["new message", "message that is edited"])
@pytest.mark.parametrize("what", ["hold", "withdraw", "refuse", "give up", "accept readers", "move"])
async def test_words_are_not_sent_if_they_may_not_be_shown_when_their_turn_comes(
    scope: Scope, what: str, edits: bool
) -> None:
    board, new, refused = Turns(), Moody(), set[int]()
    captioner, told = begin(scope, board, edited=edits, may_show=lambda user_id: user_id not in refused)
    if edits:
        board.turn.set()
        captioner.add(Line("Ben", "before", 8))
        assert await captioner.flush(soon(5))
        board.turn.clear()
    tries = board.tries
    captioner.add(Line("Ada", "words", 7))
    await tried(board, tries + 1)
    match what:
        case "hold":
            captioner.hold()
        case "withdraw":
            captioner.forget(7)
        case "refuse":
            refused.add(7)
        case "give up":
            captioner.give_up()
            captioner.hold()
        case "accept readers":
            captioner.hold()
            captioner.give_up()
            captioner.release()
        case _:
            captioner.move(new, ChannelRate(1000))
    board.turn.set()
    for _ in range(20):
        await asyncio.sleep(0)
    await settled(board)
    assert "words" not in "".join(board.sent)
    captioner.release()
    captioner.add(Line("Ben", "after", 8))
    assert await captioner.flush(soon(5))
    there = board if what != "move" else new
    assert ("words" in "".join(there.texts)) is (what in ("hold", "move"))
    assert "after" in "".join(there.texts)
    assert ("before" in board.texts[0]) if edits else (what != "move" or not board.texts)
    assert ("words" in "".join(board.sent)) is (what == "hold")
    assert not told


async def test_withdrawn_words_go_at_once_where_what_was_to_come_with_that_may_not_be_shown(scope: Scope) -> None:
    board = Turns()
    captioner, _ = begin(scope, board, edited=True)
    board.turn.set()
    captioner.add(Line("Ada", "stands", 7))
    captioner.add(Line("Cleo", "stays", 9))
    assert await captioner.flush(soon(5))
    board.turn.clear()
    tries = board.tries
    captioner.add(Line("Ben", "words", 8))
    await tried(board, tries + 1)
    captioner.forget(7)
    board.turn.set()
    board.turn.clear()
    await tried(board, tries + 2)
    captioner.forget(8)
    board.turn.set()
    assert await captioner.flush(soon(5))
    assert board.texts == ["**Cleo**: stays"]
    assert set(board.sent[1:]) == {"**Cleo**: stays"}
    assert board.recaller is not None
    assert board.recaller.waiting == []


@pytest.mark.parametrize("end", ["move", "stop"])
async def test_words_that_wait_in_an_edit_are_not_added_by_the_recaller_later(
    scope: Scope, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.01,) * 4)
    board, new = Turns(), Moody()
    board.turn.set()
    captioner, _ = begin(scope, board, edited=True)
    captioner.add(Line("Ben", "before", 8))
    assert await captioner.flush(soon(5))
    board.turn.clear()
    tries = board.tries
    captioner.add(Line("Ada", "words", 7))
    captioner.show_partial(Line("Ben", "is saying …", 8), 1)
    await tried(board, tries + 1)
    if end == "move":
        captioner.move(new, ChannelRate(1000))
        captioner.end_partials()
    else:
        captioner.give_up()
        captioner.close()
        for task in asyncio.all_tasks():
            if task.get_name().endswith("captions"):
                task.cancel()
    await asyncio.sleep(0.05)
    board.turn.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert await settled(board) == ["**Ben**: before"]
    assert set(board.sent) == {"**Ben**: before"}
    if end == "move":
        assert await captioner.flush(soon(5))
    assert new.texts == (["**Ada**: words"] if end == "move" else [])


@pytest.mark.parametrize("waits", ["line", "message", "sent"])
async def test_words_do_not_move_to_where_their_speaker_cannot_see_them(scope: Scope, waits: str) -> None:
    old, new = Slow(), Moody()
    old.is_lost = True
    captioner, _ = begin(scope, old)
    if waits == "message":
        old.mood = Refusal.FORBIDDEN
    elif waits == "line":
        captioner.hold()
    captioner.add(Line("Ada", "for the old channel alone", 7))
    if waits != "line":
        await tried(old, 1)
    captioner.add(Line("Ben", "words", 8))
    captioner.move(new, ChannelRate(1000), lambda user_id: user_id == 8)
    captioner.release()
    old.answer.set()
    async with asyncio.timeout(5):
        while not any("words" in text for text in new.texts):
            await asyncio.sleep(0.01)
    captioner.add(Line("Ada", "later ones", 7))
    assert await captioner.flush(soon(5))
    assert "old channel" not in "".join(new.texts)
    assert "1 caption is missing" in "".join(new.texts)
    assert "later ones" in "".join(new.texts), "said under the new channel's notice"


@pytest.mark.parametrize("end", ["move", "close"])
async def test_message_on_its_way_at_a_move_is_not_edited_after_it(scope: Scope, end: str) -> None:
    old, new = Slow(), Moody()
    captioner, _ = begin(scope, old, edited=True)
    captioner.add(Line("Roost", "Nobody was heard.", own=True))
    await tried(old, 1)
    if end == "move":
        captioner.move(new, ChannelRate(1000))
    else:
        captioner.close()
    old.answer.set()
    captioner.add(Line("Ada", "words", 7))
    assert await captioner.flush(asyncio.get_running_loop().time() + 2)
    assert old.texts[0] == "**Roost**: Nobody was heard."
    assert (new if end == "move" else old).texts[-1] == "**Ada**: words"


@pytest.mark.parametrize("is_edit", [False, True], ids=["post", "edit"])
async def test_partials_and_withdrawn_words_do_not_stay_behind_at_a_move(scope: Scope, is_edit: bool) -> None:
    old, new = Slow(), Moody()
    captioner, _ = begin(scope, old, edited=True)
    if is_edit:
        old.answer.set()
        captioner.add(Line("Cleo", "first", 9))
        await tried(old, 1)
        assert await captioner.flush(asyncio.get_running_loop().time() + 2)
        old.answer.clear()
    captioner.add(Line("Ada", "words", 7))
    captioner.add(Line("Ben", "others", 8))
    captioner.show_partial(Line("Cleo", "is saying …", 9), 1)
    await tried(old, 1 + is_edit)
    assert "is saying" in old.texts[0]
    captioner.move(new, ChannelRate(1000))
    captioner.end_partials()
    captioner.forget(7)
    old.answer.set()
    expected = "**Cleo**: first\n**Ben**: others" if is_edit else "**Ben**: others"
    async with asyncio.timeout(5):
        while old.texts != [expected]:
            await asyncio.sleep(0.01)
    assert new.texts == []


@pytest.mark.parametrize("given_up", [False, True])
async def test_message_refused_after_a_move_is_posted_in_the_new_place_unless_given_up(
    scope: Scope, given_up: bool
) -> None:
    old, new = Slow(), Moody()
    captioner, told = begin(scope, old)
    captioner.add(Line("Ada", "words", 7))
    await tried(old, 1)
    captioner.move(new, ChannelRate(1000))
    if given_up:
        captioner.give_up()
    old.is_lost = True
    old.answer.set()
    captioner.add(Line("Ben", "others", 8))
    assert await captioner.flush(asyncio.get_running_loop().time() + 2)
    assert ("words" in "\n".join(new.texts)) is not given_up
    assert "others" in new.texts[-1]
    assert told == []


async def test_an_error_nobody_foresaw_ends_no_captions(scope: Scope) -> None:
    board = Moody()
    board.mood = KeyError("id")
    captioner, _ = begin(scope, board)
    captioner.add(Line("A", "x", 1))
    await tried(board, 1)
    board.mood = None
    captioner.add(Line("A", "y", 1))
    async with asyncio.timeout(5):
        while not board.texts:
            await asyncio.sleep(0.01)
    assert board.texts[-1].endswith("**A**: y")


async def test_withdrawn_words_are_taken_back_although_the_next_edits_fail(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.05,) * 4)
    board = Moody()
    captioner, _ = begin(scope, board, edited=True)
    captioner.add(Line("A", "mine", 1))
    captioner.add(Line("B", "yours", 2))
    await tried(board, 1)
    edit, failures = board.edit, iter(range(2))

    async def fails_twice(message: int, text: str, wanted: Wanted) -> None:
        if next(failures, None) is None:
            await edit(message, text, wanted)
            return
        captioner.forget(1)
        raise RefusedError("no", Refusal.LATER)

    monkeypatch.setattr(board, "edit", fails_twice)
    captioner.add(Line("B", "more", 2))
    assert await captioner.flush(soon(5))
    assert await settled(board) == ["**B**: yours", "**B**: more"]


async def begun(board: Moody, captioner: Captioner) -> None:
    """A message of two members, which Discord has posted and whose answer is lost."""
    board.mood, board.is_deaf = Refusal.UNKNOWN, False
    captioner.add(Line("A", "mine", 1))
    await tried(board, 1)


@pytest.mark.parametrize("edited", [False, True])
async def test_caption_whose_answer_is_lost_appears_once(scope: Scope, edited: bool) -> None:
    board = Moody()
    captioner, _ = begin(scope, board, edited=edited)
    await begun(board, captioner)
    captioner.add(Line("B", "yours", 2))
    await tried(board, 3)
    board.mood = None
    assert await captioner.flush(soon(2))
    assert board.texts == ["**A**: mine\n**B**: yours"]


@pytest.mark.parametrize("others", [False, True])
async def test_withdrawn_words_in_a_caption_whose_answer_is_lost_are_removed(scope: Scope, others: bool) -> None:
    board = Moody()
    captioner, _ = begin(scope, board)
    await begun(board, captioner)
    if others:
        captioner.add(Line("B", "yours", 2))
    captioner.forget(1)
    board.mood = None
    assert await captioner.flush(soon(2))
    assert board.texts == ["**B**: yours" if others else ""]


async def test_session_that_ends_in_doubt_leaves_withdrawn_words_to_the_recaller(scope: Scope) -> None:
    board = Moody()
    recaller = Recaller(board.given_up.append, begin=lambda work: scope.keep(work, "recalls"))
    captioner = Captioner(board, ChannelRate(1000), recaller=recaller)
    async with contextlib.aclosing(Scope("call")) as call:
        call.spawn(captioner.run(), "captions")
        await begun(board, captioner)
        captioner.forget(1)
    captioner.close()
    board.mood = None
    async with asyncio.timeout(5):
        await recaller.settled()
    assert (board.texts, board.given_up) == ([""], [])


async def test_edit_whose_answer_is_lost_is_not_posted_as_well(scope: Scope) -> None:
    board = Moody()
    captioner, _ = begin(scope, board, edited=True)
    captioner.add(Line("A", "one", 1))
    assert await captioner.flush(soon(2))
    board.mood = Refusal.UNKNOWN
    captioner.add(Line("A", "two", 1))
    await tried(board, 3)
    captioner.add(Line("A", "three", 1))
    board.mood = None
    assert await captioner.flush(soon(2))
    assert board.texts == ["**A**: one\n**A**: two\n**A**: three"]


async def test_withdrawn_words_that_stay_are_given_up_and_told(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.02,) * 3)
    board = Moody()
    captioner, _ = begin(scope, board, edited=True)
    captioner.add(Line("A", "mine", 1))
    captioner.add(Line("B", "yours", 2))
    assert await captioner.flush(soon(2))
    board.mood = Refusal.UNKNOWN
    captioner.forget(1)
    async with asyncio.timeout(5):
        while not board.given_up:
            await asyncio.sleep(0.01)
    assert board.given_up == [1]
    # Captions go on meanwhile, in another message.
    board.mood = None
    captioner.add(Line("B", "more", 2))
    assert await captioner.flush(soon(2))
    assert board.texts == ["**A**: mine\n**B**: yours", "**B**: more"]


async def test_next_start_tries_what_was_given_up(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.02,) * 2)
    board, noted = Moody(), dict[int, Cut | None]()
    recaller = Recaller(board.given_up.append, begin=lambda work: scope.keep(work, "recalls"), noted=noted.__setitem__)
    board.texts, board.mood = ["**A**: mine", "**A**: more"], Refusal.FORBIDDEN
    recaller.add(Page(1, [(2, "**B**: a")], standing=(1, 2)), board)
    async with asyncio.timeout(5):
        await recaller.settled()
    assert (board.given_up, noted) == ([1], {1: Cut(2, (0,))})
    board.mood = None
    recaller.add(Page(2, [(2, "**B**: b")], standing=(1, 2)), board)
    async with asyncio.timeout(5):
        await recaller.settled()
    assert noted == {1: Cut(2, (0,)), 2: None}


async def test_another_withdrawal_reaches_a_message_that_waits_for_its_recall(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.05,) * 9)
    board = Moody()
    captioner, _ = begin(scope, board, edited=True)
    for user, name in enumerate("ABC", 1):
        captioner.add(Line(name, "words", user))
    assert await captioner.flush(soon(2))
    board.mood = Refusal.FORBIDDEN
    captioner.forget(1)
    await tried(board, 3)
    captioner.forget(2)
    board.mood = None
    assert await captioner.flush(soon(2))
    assert await settled(board) == ["**C**: words"]


async def test_words_withdrawn_after_a_move_are_not_posted_in_the_new_place(scope: Scope) -> None:
    old, new = Slow(), Moody()
    captioner, _ = begin(scope, old, edited=True)
    old.answer.set()
    captioner.add(Line("Ben", "first", 8))
    await tried(old, 1)
    assert await captioner.flush(asyncio.get_running_loop().time() + 2)
    old.answer.clear()
    old.is_lost = True
    captioner.add(Line("Ada", "words", 7))
    captioner.add(Line("Ben", "others", 8))
    await tried(old, 2)
    captioner.move(new, ChannelRate(1000))
    captioner.forget(7)
    old.answer.set()
    assert await captioner.flush(asyncio.get_running_loop().time() + 2)
    assert new.texts == ["**Ben**: others"]


@pytest.mark.parametrize("was_posted", [False, True], ids=["new message", "message that is edited"])
async def test_withdrawal_reaches_a_message_whose_words_are_being_taken_back(
    scope: Scope, monkeypatch: pytest.MonkeyPatch, was_posted: bool
) -> None:
    """The edit that takes one member's words back fails, and another member withdraws before it does."""
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.01,) * 3)
    editing, may_fail = asyncio.Event(), asyncio.Event()

    class Failing(Slow):
        async def edit(self, message: int, text: str, wanted: Wanted = always) -> None:
            if may_fail.is_set():
                await Moody.edit(self, message, text)
                return
            editing.set()
            await may_fail.wait()
            raise RefusedError("no", Refusal.REJECTED)

    board = Failing()
    captioner, _ = begin(scope, board, edited=True)
    for user_id, name in enumerate(("Ada", "Ben", "Cleo"), 7):
        captioner.add(Line(name, "words", user_id))
    await tried(board, 1)
    if was_posted:
        board.answer.set()
        async with asyncio.timeout(5):
            await captioner._idle.wait()
    captioner.forget(7)
    board.answer.set()
    async with asyncio.timeout(5):
        await editing.wait()
    captioner.forget(8)
    may_fail.set()
    async with asyncio.timeout(5):
        while board.texts != ["**Cleo**: words"]:
            await asyncio.sleep(0.01)
        assert await settled(board) == ["**Cleo**: words"]


@pytest.mark.parametrize("from_where", ["board", "told"])
async def test_an_error_nobody_foresaw_ends_no_recalls(
    scope: Scope, monkeypatch: pytest.MonkeyPatch, from_where: str
) -> None:
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.05,) * 3)
    board = Moody()

    def gave_up(message: int) -> None:
        board.given_up.append(message)
        if from_where == "told":
            raise KeyError("id")

    recaller = Recaller(gave_up, begin=lambda work: scope.keep(work, "recalls"))
    board.texts = ["**A**: mine", "**A**: mine too"]
    board.mood = KeyError("id") if from_where == "board" else Refusal.FORBIDDEN
    recaller.add(Page(1, [(2, "**B**: yours")]), board)
    async with asyncio.timeout(5):
        await recaller.settled()
    assert board.given_up == [1]
    board.mood = None
    recaller.add(Page(2, [(2, "**B**: yours too")]), board)
    async with asyncio.timeout(5):
        await recaller.settled()
    assert board.texts[1] == "**B**: yours too"


async def test_the_end_of_one_flush_slows_no_other_one_down(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HURRIED_AGAIN_S", 0.05)
    monkeypatch.setattr(module, "AGAIN_S", (30.0,))
    board = Moody()
    captioner, _ = begin(scope, board)
    board.mood = Refusal.LATER
    captioner.add(Line("A", "last words", 1))
    longer = asyncio.create_task(captioner.flush(soon(5)))
    assert not await captioner.flush(soon(0.1))
    await tried(board, board.tries + 2)
    board.mood = None
    assert await longer
    assert board.texts == ["**A**: last words"]
