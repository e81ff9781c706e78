"""Withdrawn words that Discord did not let go of at once: tried again until it does, beyond the session's end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from roost_stt.pages import DONE, Board, Cut, Page, tried
from roost_stt.refusals import Refusal

_log = logging.getLogger("roost.stt.captions")

RECALL_AGAIN_S = (1.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 180.0)
"""Pauses before withdrawn words are taken out of a message again; some 10 minutes in all."""


@dataclasses.dataclass(slots=True, eq=False)
class _Recall:
    page: Page
    rewrite: Callable[[], Awaitable[None]]
    due_s: float
    tries: int = 0
    is_earlier: bool = False
    """An earlier process left it: nothing is known of the message but what has to go."""


class Recaller:
    """Takes words out of the messages of one server.

    Args:
        gave_up: Called with a message that still has withdrawn words after the last try; may not block or raise.
        begin: Keeps its work running in a task of the owner until it returns; called whenever there is some again.
        stands: Called with each message that was written and the user of each of its lines; without any it was
            deleted.
        noted: Called with a message and what has to go from it, before the first attempt, and with None when that is
            done: what another process needs if this one ends first or gives up.
    """

    def __init__(
        self,
        gave_up: Callable[[Any], None],
        *,
        begin: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        stands: Callable[[Any, tuple[int, ...]], None] = lambda _message, _speakers: None,
        noted: Callable[[Any, Cut | None], None] = lambda _message, _cut: None,
    ) -> None:
        self._stands = stands
        self._noted = noted
        self._gave_up = gave_up
        self._begin = begin
        self._works = False
        self._recalls: list[_Recall] = []
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def waiting(self) -> list[Any]:
        """The messages that still have withdrawn words."""
        return [each.page.message for each in self._recalls]

    def add(self, page: Page, board: Board) -> None:
        """Have a message show no more than its page; never blocks."""
        due_s = asyncio.get_running_loop().time() + RECALL_AGAIN_S[0]
        self._add(_Recall(page, lambda: self._rewrite(page, board), due_s))
        self.note(page)

    def take_up(self, message: Any, take_out: Callable[[], Awaitable[None]]) -> None:
        """Go on with what an earlier process noted of a message; never blocks.

        Args:
            message: The message.
            take_out: Takes out of it what was noted; raises as a `Board` does.
        """
        now = asyncio.get_running_loop().time()
        self._add(_Recall(Page(message, []), take_out, now, is_earlier=True))

    def note(self, page: Page) -> None:
        """Note what has to go from the message of a page, or that this is nothing; never blocks."""
        if page.message is None:
            return
        cut = page.cut
        if cut is not None or all(each.page.message != page.message for each in self._recalls):
            self._noted(page.message, cut)

    def _add(self, recall: _Recall) -> None:
        self._recalls.append(recall)
        self._settled.clear()
        self._wake.set()
        if not self._works:
            self._works = True
            self._begin(self._work)

    def forget(self, user_id: int) -> None:
        """Take another speaker's words out of the same messages."""
        for each in self._recalls:
            each.page.lose(user_id)
            if not each.is_earlier:
                self.note(each.page)

    async def settled(self) -> None:
        """Wait until no message has withdrawn words any more, or all of them were given up."""
        await self._settled.wait()

    async def _work(self) -> None:
        while self._recalls:
            await self._next()
        self._settled.set()
        self._works = False

    async def _next(self) -> None:
        """Wait for the recall that is due first, or for another one, and try it."""
        self._wake.clear()
        first = min(self._recalls, key=lambda each: each.due_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(first.due_s):
                await self._wake.wait()
                return
        try:
            await self._try(first)
        except Exception as error:  # noqa: BLE001  withdrawn words of a whole server hang on this task
            _log.error("a recall failed: %s", type(error).__name__, exc_info=error)
            if first in self._recalls:
                self._again_or_give_up(first, type(error).__name__)

    async def _try(self, recall: _Recall) -> None:
        now = asyncio.get_running_loop().time()
        if recall.page.message is None and now > recall.page.nonce_until_s:
            self._give_up(recall, "nobody knows which message it is")
            return
        text = recall.page.text
        refusal = await tried(recall.rewrite)
        # Where the answer does not say which message it is, nothing in it was changed.
        if (refusal in DONE and recall.page.message is not None) or refusal is Refusal.GONE:
            if not recall.is_earlier:
                self._stands(recall.page.message, recall.page.speakers if refusal is not Refusal.GONE else ())
            # More may have been withdrawn meanwhile.
            if recall.page.text == text or refusal is Refusal.GONE:
                self._remove(recall)
            else:
                recall.tries += 1
            return
        self._again_or_give_up(recall, str(refusal))

    async def _rewrite(self, page: Page, board: Board) -> None:
        if page.message is None:
            await page.find(board)
            self.note(page)
        await page.rewrite(board)

    def _again_or_give_up(self, recall: _Recall, why: str) -> None:
        """Have another try later, if there is one left."""
        recall.tries += 1
        if recall.tries < len(RECALL_AGAIN_S):
            recall.due_s = asyncio.get_running_loop().time() + RECALL_AGAIN_S[recall.tries]
            return
        self._give_up(recall, why)

    def _give_up(self, recall: _Recall, why: str) -> None:
        _log.error("words that may not stay still stand in message %s: %s", recall.page.message, why)
        # What has to go stays noted, so that the next start tries again.
        self._recalls.remove(recall)
        self._gave_up(recall.page.message)

    def _remove(self, recall: _Recall) -> None:
        self._recalls.remove(recall)
        message = recall.page.message
        if message is not None and all(each.page.message != message for each in self._recalls):
            self._noted(message, None)
