"""Withdrawn words are gone from messages, whatever Discord answers and in whatever order: random walks.

People speak, withdraw and are moved while every request waits for an answer that is drawn: done, refused, lost after it
was done, or unreadable. A walk ends with a Discord that does all it is asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from roost_stt import captioner as captioner_module
from roost_stt import recalls
from roost_stt.captioner import Captioner, ChannelRate
from roost_stt.captions import Line
from roost_stt.pages import WITHDRAWN, Cut, Wanted, always
from roost_stt.recalls import Recaller
from roost_stt.refusals import Refusal, RefusedError

pytestmark = pytest.mark.unit

WALKS = 150
STEPS = 60
MOST_TURNS = 4000
PEOPLE = (1, 2, 3)
Message = tuple[int, int]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"w\d+x", text))


@dataclasses.dataclass(eq=False)
class Request:
    """One that waits for its answer."""

    do: Callable[[], Message | None]
    message: Message | None
    answer: asyncio.Future[Message | None]
    withdrawn: set[str] = dataclasses.field(default_factory=set)
    """What may not stand in the message when it is answered late."""


class Place:
    """A channel: `roost_stt.pages.Board`."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._nonces: dict[str, Message] = {}

    async def prepare(self) -> bool:
        return False

    async def post(self, text: str, nonce: str, wanted: Wanted = always) -> Message | None:
        given_up = self._walk.given_up

        def do() -> Message:
            self._walk.check_wanted(self, wanted, text, "", given_up)
            if nonce not in self._nonces:
                message = self._nonces[nonce] = (id(self), len(self._nonces))
                self._walk.messages[message] = text
            return self._nonces[nonce]

        return await self._walk.ask(do, None, text)

    async def edit(self, message: Message, text: str, wanted: Wanted = always) -> None:
        given_up = self._walk.given_up

        def do() -> None:
            if message not in self._walk.messages:
                raise RefusedError("gone", Refusal.GONE)
            self._walk.check_wanted(self, wanted, text, self._walk.messages[message], given_up)
            self._walk.messages[message] = text

        await self._walk.ask(do, message, text)

    async def delete(self, message: Message) -> None:
        await self._walk.ask(lambda: self._walk.messages.pop(message, None) and None, message, "")


class Walk:
    def __init__(self, seed: int, *, edited: bool, agrees: bool) -> None:
        self.random = random.Random(seed)
        self.messages: dict[Message, str] = {}
        self.requests: list[Request] = []
        self.said: dict[str, int] = {}
        self.given_up = 0
        """How often what waited was given up."""
        self.withdrawn: set[str] = set()
        self.refused: set[int] = set()
        self.empty_of: list[tuple[Message, set[str]]] = []
        """Messages, and words that may not stand in them in the end."""
        self.noted: dict[Message, tuple[int, ...]] = {}
        self.tasks: list[asyncio.Future[Any]] = []
        self.known: set[Message] = set()
        """Messages of which Discord said which they are."""
        self.cuts: dict[Message, Cut] = {}
        """What another process would take out of messages."""
        self.recaller = Recaller(
            lambda message: pytest.fail(f"{message} is given up"),
            begin=self.begin,
            stands=self.noted.__setitem__,
            noted=self.note_cut,
        )
        self.captioner = Captioner(
            Place(self),
            ChannelRate(100_000),
            recaller=self.recaller,
            # Where nobody has to agree, a member who was forgotten may be shown again.
            may_show=lambda user_id: not agrees or user_id not in self.refused,
            edited=lambda: edited,
            edit_every_s=0.0,
            stands=self.noted.__setitem__,
        )

    def note_cut(self, message: Message, cut: Cut | None) -> None:
        self.cuts.pop(message, None)
        if cut is not None:
            self.cuts[message] = cut

    def check_killed(self) -> None:
        """If the process were killed now, the next one would take all withdrawn words out of the known messages."""
        for message, words in self.empty_of:
            if message not in self.known or message not in self.messages:
                continue
            lines, cut = self.messages[message].split("\n"), self.cuts.get(message)
            left = lines if cut is None else [lines[place] for place in cut.left(len(lines))]
            assert not words_of("\n".join(left)) & words

    def check_wanted(self, place: Place, wanted: Wanted, text: str, before: str, given_up: int) -> None:
        """A request is sent now, perhaps long after it was made: it shows nothing more that may not be shown now."""
        if not wanted():
            raise RefusedError("not wanted", Refusal.UNSENT)
        more = words_of(text) - words_of(before)
        is_here, is_recall = place is self.captioner._board, wanted is always
        assert is_here or not more, "sent to where captions were before"
        if is_recall or not more:
            return
        assert not self.captioner.held
        assert given_up == self.given_up, "sent although it was given up"
        assert not more & self.withdrawn, "sent after their speaker withdrew"

    def begin(self, work: Any) -> None:
        self.tasks.append(asyncio.ensure_future(work()))

    async def ask(self, do: Callable[[], Message | None], message: Message | None, text: str) -> Message | None:
        assert not words_of(text) & self.withdrawn, "sent after their speaker withdrew"
        request = Request(do, message, asyncio.get_running_loop().create_future())
        self.requests.append(request)
        try:
            return await request.answer
        finally:
            self.requests.remove(request)

    def answer(self, *, well: bool = False) -> None:
        """Answer a request, or not."""
        waiting = [each for each in self.requests if not each.answer.done()]
        if not waiting:
            return
        request, lot = self.random.choice(waiting), self.random.random()
        try:
            if well or lot < 0.6:
                made = self._do(request)
                request.answer.set_result(made)
                self.known |= {made} if made is not None else set()
                return
            if lot < 0.7:
                self._do(request)
            if lot < 0.8:
                raise RefusedError("lost", Refusal.UNKNOWN)
            if lot < 0.86:
                raise RefusedError("later", Refusal.LATER)
            if lot < 0.9:
                raise RefusedError("no", Refusal.REJECTED)
            if lot < 0.93:
                self._do(request)
                raise RefusedError("what", Refusal.UNREADABLE)
            if lot < 0.97 or request.message is None:
                raise RefusedError("closed", Refusal.FORBIDDEN)
            self.messages.pop(request.message, None)
            raise RefusedError("gone", Refusal.GONE)
        except RefusedError as error:
            request.answer.set_exception(error)

    def _do(self, request: Request) -> Message | None:
        made = request.do()
        message = made or request.message
        if message is not None and request.withdrawn:
            self.empty_of.append((message, request.withdrawn))
        return made

    def word(self, user_id: int) -> Line:
        word = f"w{len(self.said)}x"
        self.said[word] = user_id
        return Line(f"U{user_id}", word, user_id)

    def withdraw(self, user_id: int) -> None:
        theirs = {word for word, speaker in self.said.items() if speaker == user_id}
        self.withdrawn |= theirs
        self.refused.add(user_id)
        for request in self.requests:
            request.withdrawn |= theirs
        if self.captioner._page is not None:
            self.empty_of.append((self.captioner._page.message, theirs))
        self.captioner.forget(user_id)

    def step(self) -> None:
        captioner, lot, user_id = self.captioner, self.random.random(), self.random.choice(PEOPLE)
        if lot < 0.25:
            self.refused.discard(user_id)
            captioner.add(self.word(user_id))
        elif lot < 0.32 and user_id not in self.refused:
            captioner.show_partial(self.word(user_id), len(self.said))
        elif lot < 0.36:
            captioner.end_partial(user_id, len(self.said))
        elif lot < 0.46:
            self.withdraw(user_id)
        elif lot < 0.5:
            captioner.move(Place(self), ChannelRate(100_000))
        elif lot < 0.53:
            captioner.hold()
        elif lot < 0.58:
            captioner.release()
        elif lot < 0.6:
            self.given_up += 1
            captioner.give_up()
        else:
            self.answer()

    async def go(self) -> None:
        self.begin(self.captioner.run)
        try:
            for _ in range(STEPS):
                self.step()
                await self._turn()
                self.check_killed()
            self.captioner.release()
            for _ in range(MOST_TURNS):
                self.answer(well=True)
                await self._turn()
                if not self.requests and self.captioner._idle.is_set() and not self.recaller.waiting:
                    return
            pytest.fail("it does not come to rest")
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _turn(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)


@pytest.mark.parametrize("edited", [False, True], ids=["messages", "edited"])
@pytest.mark.parametrize("agrees", [False, True], ids=["notice", "opt-in"])
async def test_withdrawn_words_are_gone(monkeypatch: pytest.MonkeyPatch, edited: bool, agrees: bool) -> None:
    monkeypatch.setattr(captioner_module, "AGAIN_S", (0.0,))
    monkeypatch.setattr(recalls, "RECALL_AGAIN_S", (0.0,) * 400)
    for seed in range(WALKS):
        walk = Walk(seed, edited=edited, agrees=agrees)
        await walk.go()
        for message, words in walk.empty_of:
            assert not words_of(walk.messages.get(message, "")) & words, seed
        for message, text in walk.messages.items():
            assert text != WITHDRAWN, seed
            lines = text.split("\n")
            assert len(lines) == len(walk.noted.get(message, lines)), f"{seed}: what is noted of {message} is another"
        assert walk.cuts == {}, seed
