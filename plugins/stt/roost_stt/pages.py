"""A message with captions at Discord: what stands in it, and how it is changed."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from roost.errors import RoostError
from roost_stt.captions import Message, text_of
from roost_stt.refusals import Refusal, RefusedError

_log = logging.getLogger("roost.stt.captions")

ANSWER_S = 10.0
"""How long Discord may take to answer."""
WITHDRAWN = "(withdrawn)"
"""Stands for the words of a message that may have been posted and has none left, until it is deleted."""
DONE = (None, Refusal.UNREADABLE)
"""A change of a message that was made, or probably was."""


Wanted = Callable[[], bool]
"""Asked right before a request is sent, which can be seconds after it was made: whether to send it."""


def always() -> bool:
    """`Wanted` whatever happens."""
    return True


class Board(Protocol):
    """Where captions stand. What `post` returns names the message for `edit` and `delete`.

    All four raise `RefusedError`, or another `RoostError`, for what was refused.
    """

    async def prepare(self) -> bool:
        """Have the place be there for the next message, so that `post` sends its text at once.

        Returns:
            Whether there was something to do, which takes time. What may be posted may have changed meanwhile.
        """
        ...

    async def post(self, text: str, nonce: str, wanted: Wanted = always) -> Any:
        """Post a message; one that was posted with this nonce in the last minutes is returned instead."""
        ...

    async def edit(self, message: Any, text: str, wanted: Wanted = always) -> None: ...

    async def delete(self, message: Any) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """What has to go from a message, told without its words.

    Attributes:
        count: Number of lines of the message; 0: nobody knows, so all of it has to go.
        places: Of the lines that have to go, counted from 0.
    """

    count: int = 0
    places: tuple[int, ...] = ()

    def left(self, count: int) -> tuple[int, ...]:
        """Places of the lines that stay of a message that has so many lines now; none: it is deleted."""
        if self.count and count == self.count:
            return tuple(place for place in range(count) if place not in self.places)
        # Without them already, or changed by somebody else, so that nobody knows which lines they are.
        return tuple(range(count)) if self.count and count == self.count - len(self.places) else ()


@dataclasses.dataclass(slots=True)
class Page:
    """A message, and what stands in it or is to stand in it."""

    message: Any
    """None: it may be at Discord, under its nonce."""
    pieces: Message
    partials: Message = dataclasses.field(default_factory=list)
    """Its last lines, which are written over. Nobody counts on them."""
    unsure: Message = dataclasses.field(default_factory=list)
    """The last of the pieces, whose edit Discord has not confirmed."""
    is_dirty: bool = False
    """What stands in it may differ."""
    standing: tuple[int, ...] | None = None
    """The speaker of each line that stands in it; None: nobody knows."""
    may_stand: frozenset[int] = frozenset()
    """Where nobody knows, the speakers of whom a line may stand in it."""
    has_lost: bool = False
    """Words may stand in it that were taken out of the page."""
    nonce: str = ""
    nonce_until_s: float = 0.0
    """Until this event loop time the nonce says which message it is."""

    @property
    def text(self) -> str:
        return text_of([*self.pieces, *self.partials])

    @property
    def speakers(self) -> tuple[int, ...]:
        """Of each of its lines."""
        return tuple(user_id for user_id, _ in (*self.pieces, *self.partials))

    def shows(self, user_id: int) -> bool:
        return user_id in self.speakers

    @property
    def cut(self) -> Cut | None:
        """What has to go from what stands in it; None where that is nothing."""
        wanted = self.speakers
        if self.standing == wanted:
            return None
        if self.standing is None:
            return Cut() if self.has_lost or not wanted else None
        places, kept = [], 0
        # What the page has lost of a speaker who still is in it stood at the end.
        for place, user_id in enumerate(self.standing):
            if kept < len(wanted) and wanted[kept] == user_id:
                kept += 1
            else:
                places.append(place)
        return Cut(len(self.standing), tuple(places)) if places else None

    def lose(self, user_id: int) -> None:
        self.has_lost |= user_id in self.may_stand or self.shows(user_id)
        self.pieces = [entry for entry in self.pieces if entry[0] != user_id]
        self.partials = [entry for entry in self.partials if entry[0] != user_id]
        self.unsure = [entry for entry in self.unsure if entry[0] != user_id]

    def give_back(self) -> Message:
        """Do without the pieces whose edit Discord has not confirmed; return them."""
        given, self.unsure = self.unsure, []
        self.pieces = self.pieces[: len(self.pieces) - len(given)]
        return given

    async def find(self, board: Board) -> None:
        """Learn by its nonce which message it is."""
        self.message = await board.post(self.text or WITHDRAWN, self.nonce)

    async def rewrite(self, board: Board, wanted: Wanted = always) -> None:
        """Have what is to stand in it stand there, or delete it if that is nothing."""
        if self.text:
            await board.edit(self.message, self.text, wanted)
        else:
            await board.delete(self.message)


async def tried(what: Callable[[], Awaitable[None]], limit_s: float = ANSWER_S) -> Refusal | None:
    """Do something at a board; return why it was not done, if it was not."""
    try:
        async with asyncio.timeout(limit_s):
            await what()
    except RefusedError as error:
        if error.refusal is not Refusal.UNSENT:
            _log.warning("a caption could not be written: %s", error)
        return error.refusal
    except (TimeoutError, OSError) as error:
        _log.warning("a caption could not be written: %s", type(error).__name__)
        return Refusal.UNKNOWN
    except RoostError as error:
        _log.warning("a caption could not be written: %s", type(error).__name__)
        return Refusal.REJECTED
    return None
