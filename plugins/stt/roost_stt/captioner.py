"""When captions are posted, in which messages, and how one is taken back.

`Captioner` posts through a `Board`; it knows neither Discord nor consent but by what it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from roost.i18n import counted
from roost.rest_buckets import new_nonce
from roost_stt.captions import MESSAGE_LIMIT, Line, Message, fill, fit, pack, text_of, units_of
from roost_stt.pages import ANSWER_S, DONE, WITHDRAWN, Board, Page, Wanted, always, tried
from roost_stt.recalls import Recaller
from roost_stt.refusals import CUT_OFF, WAITS, Refusal

_log = logging.getLogger("roost.stt.captions")

QUEUE_LIMIT = 256
"""Captions that wait, for the rate or for a channel that takes none."""
AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses before a message that was not taken is tried again, the last one for ever."""
HURRIED_AGAIN_S = 0.3
SLOW_S = 1.0
"""A message that takes longer than this is followed by one with all that has come meanwhile."""
AFTER_FAULT_S = 1.0
"""Before the captioner goes on after an error that nobody foresaw."""
EDIT_EVERY_S = 2.0
NONCE_S = 120.0
"""For so long a nonce keeps a message from being posted twice; Discord says "the past few minutes"."""
MAY_STAND = (Refusal.UNKNOWN, Refusal.UNREADABLE)
"""After these a message that was to be posted may stand there."""
MOST_RATES = 1000
"""Channels and threads whose rates are in memory; Discord's own limits hold for all the others."""


class ChannelRate:
    """How many messages a channel takes: Discord allows 5 in 5 seconds.

    Args:
        count: Messages per window.
        window_s: Seconds.
    """

    def __init__(self, count: int = 5, window_s: float = 5.0) -> None:
        self._count = count
        self._window_s = window_s
        self._sent: deque[float] = deque(maxlen=count)

    def wait_s(self, now: float) -> float:
        """Seconds until the next message is allowed."""
        if len(self._sent) < self._count:
            return 0.0
        return max(0.0, self._sent[0] + self._window_s - now)

    def sent(self, now: float) -> None:
        self._sent.append(now)


class ChannelRates:
    """The rates of the channels and threads that were used last, for one transcription after the other."""

    def __init__(self) -> None:
        self._rates: dict[int, ChannelRate] = {}

    def __len__(self) -> int:
        return len(self._rates)

    def of(self, channel_id: int) -> ChannelRate:
        """The rate of a channel. Beyond `MOST_RATES` the one that was asked for longest ago is forgotten."""
        rate = self._rates.pop(channel_id, None) or ChannelRate()
        self._rates[channel_id] = rate
        if len(self._rates) > MOST_RATES:
            del self._rates[next(iter(self._rates))]
        return rate


@dataclasses.dataclass(slots=True)
class _Doubt:
    """A message that may have been posted: the answer of Discord did not arrive."""

    nonce: str
    since_s: float
    texts: set[str] = dataclasses.field(default_factory=set)
    speakers: set[int] = dataclasses.field(default_factory=set)
    is_withdrawn: bool = False
    """It may have words of somebody who has withdrawn."""


class Captioner:
    """Posts the captions of one session, in order.

    Constructing it starts nothing: its owner runs `run` as a task. Lines that must wait for the rate limit are merged
    into one message; lines beyond the queue's bound push out the oldest, which is counted and told once. A message that
    Discord does not take for now is kept and goes out later, with what has come to it; what is lost is told in the next
    message that is taken. In the message that is edited, what is being said may stand below what was said; it has no
    place of its own, gives way to every line, and is never tried twice.

    Args:
        board: Each of its calls is bounded by `post_timeout_s`; errors are counted, logged and survived.
        cut_off: Called once whenever the board begins to refuse everything until somebody does something.
        rate: Of the channel, shared by everybody who posts captions there.
        stands: Called with each message that was written and the user of each of its lines; without any it was
            deleted.
        recaller: Takes over the messages whose withdrawn words Discord did not let go of at once.
        may_show: Asked for every speaker before their words are handed over, at the moment when they are really
            sent, and once more after.
        edited: Whether captions are collected in one message that is edited, until it is full; asked each time.
        edit_every_s: The least time between two edits.
    """

    def __init__(
        self,
        board: Board,
        rate: ChannelRate,
        *,
        recaller: Recaller,
        may_show: Callable[[int], bool] = lambda _user_id: True,
        edited: Callable[[], bool] = lambda: False,
        edit_every_s: float = EDIT_EVERY_S,
        post_timeout_s: float = ANSWER_S,
        cut_off: Callable[[Refusal], None] = lambda _refusal: None,
        stands: Callable[[Any, tuple[int, ...]], None] = lambda _message, _speakers: None,
    ) -> None:
        self._stands = stands
        self._cut_off = cut_off
        self.refusal: Refusal | None = None
        """Why captions wait, while they do."""
        self._refusals = 0
        """In a row."""
        self._again_s = float("-inf")
        self._lost = 0
        """Captions that were dropped and that nobody was told of, but for `_crowded_out`."""
        self._crowded_out = 0
        """Captions that gave way to newer ones while Discord took them."""
        self._board = board
        self._may_show = may_show
        self._sees: Callable[[int], bool] = lambda _user_id: True
        """Whether a speaker can see the place where captions moved last."""
        self._edited = edited
        self._rate = rate
        self._edit_every_s = edit_every_s
        self._post_timeout_s = post_timeout_s
        self._lines: deque[Line] = deque()
        self._unsent: deque[Message] = deque()
        self._recaller = recaller
        self._doubt: _Doubt | None = None
        self._page: Page | None = None
        self._page_stale = False
        """Words in the page are of somebody who took their consent back."""
        self._on_its_way: Page | None = None
        """Discord is being asked to show it as it is to be now."""
        self._partials: dict[int, tuple[int, Line]] = {}
        """By user: the mark of their utterance, and how it begins."""
        self._at_once = False
        self._ended = 0
        """How often the messages of a place were ended: what is on its way then is no message to go on with."""
        self._given_up = 0
        """How often what waited was given up: what is on its way then is not kept."""
        self.held = False
        """Nothing that was said is posted."""
        self._written_s = float("-inf")
        self._withdrawn: set[int] = set()
        """Who was forgotten since the last message, or change of one, went on its way."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._flushes = 0
        """Calls of `flush` under way."""
        self._told_overflow = False
        self.posted = 0
        self.captions = 0
        """Pieces of speech in the messages posted."""
        self.merged = 0
        self.edits = 0
        self.recalled = 0
        self.dropped = 0
        self.failed = 0

    def add(self, line: Line) -> None:
        """Queue a line; never blocks."""
        if len(self._lines) + sum(len(message) for message in self._unsent) >= QUEUE_LIMIT:
            self._drop_oldest()
        self._lines.append(line)
        self._has_work()

    def move(self, board: Board, rate: ChannelRate, sees: Callable[[int], bool] = lambda _user_id: True) -> None:
        """Post elsewhere from now on, beginning with what waits.

        Args:
            board: Of the new place.
            rate: Of its channel.
            sees: Whether a speaker can see that place. Words of others that wait were said for another one and are
                dropped.
        """
        if self._page is not None and self._page.is_dirty:
            self._keep(self._page.give_back(), self._given_up, self._board)
        self.close()
        self._board, self._rate, self._sees = board, rate, sees
        lines = deque(line for line in self._lines if not line.user_id or sees(line.user_id))
        self._count_lost(len(self._lines) - len(lines))
        self._lines = lines
        self._unsent = deque(filter(None, map(self._moved, self._unsent)))
        self.try_again()

    def _moved(self, message: Message) -> Message:
        """What goes on of a message of the place before."""
        left = [entry for entry in message if not entry[0] or self._sees(entry[0])]
        self._count_lost(_captions_in(message) - _captions_in(left))
        return left

    def _count_lost(self, captions: int) -> None:
        """Note that captions are dropped; the next message tells so."""
        self.dropped += captions
        self._lost += captions

    def try_again(self) -> None:
        """Try at once what a refusal made wait."""
        self.refusal, self._refusals, self._again_s = None, 0, float("-inf")
        self._has_work()

    def hold(self) -> None:
        """Post nothing that was said until `release`, only what Roost says itself.

        What is not final is taken out of the message that is being edited.
        """
        self.held = True
        self._has_work()

    def release(self) -> None:
        """Post again, beginning with what waits."""
        if self.held:
            self.held = False
            self._has_work()

    def _drop_oldest(self) -> None:
        self.dropped += 1
        if self.refusal is None and not self.held:
            self._crowded_out += 1
        else:
            self._lost += 1
        if not self._unsent:
            self._lines.popleft()
            return
        oldest = self._unsent[0]
        del oldest[0]
        if not oldest:
            self._unsent.popleft()

    def show_partial(self, line: Line, mark: int) -> None:
        """Show how an utterance begins until `end_partial`; never blocks."""
        self._partials[line.user_id] = mark, line
        self._has_work()

    def end_partial(self, user_id: int, mark: int) -> None:
        """A user's utterance is over, and the ones before it; its line, if it has one, is to be added at once."""
        known = self._partials.get(user_id)
        if known is not None and known[0] <= mark:
            del self._partials[user_id]
            self._has_work()

    def end_partials(self, *, at_once: bool = False) -> None:
        """Show only what is final; `at_once`: whenever the last edit was."""
        self._partials.clear()
        self._at_once = at_once
        if self._has_to_write():
            self._has_work()

    def forget(self, user_id: int) -> None:
        """Drop all that is not yet sent of one speaker, what stands in a message with others' words too.

        A message on its way is taken back when it has arrived, and the page that is being edited loses their words,
        for the next edit would say them once more.
        """
        self._lines = deque(line for line in self._lines if line.user_id != user_id)
        left = ([entry for entry in message if entry[0] != user_id] for message in self._unsent)
        self._unsent = deque(message for message in left if message)
        self._withdrawn.add(user_id)
        self._partials.pop(user_id, None)
        self._recaller.forget(user_id)
        if self._doubt is not None and user_id in self._doubt.speakers:
            self._doubt.is_withdrawn = True
        page = self._page
        if page is None:
            return
        if page.shows(user_id):
            self._page_stale = True
            self._has_work()
        page.lose(user_id)
        self._recaller.note(page)

    async def run(self) -> None:
        """Post for ever."""
        while True:
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001  the captions of a whole call hang on this task
                self.failed += 1
                _log.error("captions: %s", type(error).__name__, exc_info=error)
                await asyncio.sleep(AFTER_FAULT_S)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        waited = False
        while True:
            page = self._page
            if page is not None and page.partials and (self.held or not self._edited()):
                page.partials = []
                await self._take_back(page, self._board)
                continue
            if not self._has_to_write():
                self._at_once = False
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            delay_s = 0.0 if self._hurry else self._delay_s(loop.time())
            if not self._page_stale:
                delay_s = max(delay_s, self._again_s - loop.time())
            if delay_s > 0:
                waited = True
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._wake.wait()
                continue
            began_s = loop.time()
            if self._begins_message() and await self._prepare(loop):
                waited |= loop.time() - began_s > SLOW_S
                continue
            if self._edited() or self._page_stale or (page is not None and page.is_dirty):
                await self._write_page(loop)
            else:
                self._page = None
                # With room for a message each, every utterance gets its own; else all that waits goes together.
                await self._send(self._next(merge=waited or self._hurry), loop)
            # What came while Discord thought goes together, too.
            waited = loop.time() - began_s > SLOW_S

    def _begins_message(self) -> bool:
        """Whether what is written next is a new message."""
        page = self._page
        if self._page_stale or (page is not None and page.is_dirty):
            return False
        return not self._edited() or page is None or bool(self._unsent) or self._doubt is not None

    async def _prepare(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Have the place be ready; whether that took time, in which all may have changed that is to be posted."""
        board, ended, took = self._board, self._ended, [True]

        async def prepare() -> None:
            took[0] = await board.prepare()

        refusal = await tried(prepare, self._post_timeout_s)
        if refusal is not None and self._ended == ended:
            self._partials.clear()
            self._was_blocked(refusal, loop)
        return took[0]

    @property
    def _hurry(self) -> bool:
        return self._flushes > 0

    async def flush(self, deadline: float) -> bool:
        """Post everything queued now, merged and without waiting for the rate, until `deadline` (event loop time)."""
        self.end_partials(at_once=True)
        dropped = self.dropped
        self._flushes += 1
        self._again_s = min(self._again_s, asyncio.get_running_loop().time() + HURRIED_AGAIN_S)
        self._wake.set()
        try:
            async with asyncio.timeout_at(deadline):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._flushes -= 1
        return self.dropped == dropped and not self._lines and not self._unsent

    def close(self) -> None:
        """End the messages of this place: what has yet to be taken back is left to the recaller."""
        page = self._page
        # Of one on its way it is known later what stands in it.
        known = page if page is not self._on_its_way else None
        if known is not None and (self._page_stale or known.is_dirty or known.partials):
            self._hand_over(known, self._board)
        self._ended += 1
        self._drop_doubt()
        self._page, self._page_stale = None, False

    def _drop_doubt(self) -> None:
        """Post the message in doubt no more; where withdrawn words may stand in it, the recaller looks for it."""
        doubt, self._doubt = self._doubt, None
        if doubt is not None and (doubt.is_withdrawn or WITHDRAWN in doubt.texts):
            self._look_for(doubt, self._board)

    def _look_for(self, doubt: _Doubt, board: Board) -> None:
        """Have the recaller delete a message in doubt."""
        page = Page(None, [], nonce=doubt.nonce, nonce_until_s=doubt.since_s + NONCE_S)
        self._recaller.add(page, board)

    def _leave_behind(self, page: Page, board: Board) -> None:
        """Leave a message of a place that has ended; what may not stand in it, the recaller takes out."""
        if self._lose_withdrawn(page) or page.partials or page.is_dirty:
            self._hand_over(page, board)

    def _hand_over(self, page: Page, board: Board) -> None:
        """Have the recaller write a message without what may not stand in it."""
        # While it was written others may have withdrawn, of whom the recaller has not heard.
        self._lose_withdrawn(page)
        page.partials, page.is_dirty = [], False
        self._recaller.add(page, board)

    def _lose_withdrawn(self, page: Page) -> bool:
        """Take out what may not be shown any more, although it was when it was sent; whether there was any."""
        speakers = page.speakers
        for user_id in set(speakers):
            if user_id in self._withdrawn or (user_id and not self._may_show(user_id)):
                page.lose(user_id)
        return page.speakers != speakers

    def give_up(self) -> None:
        """Post nothing of what still waits; it is counted as dropped."""
        self._given_up += 1
        self.dropped += len(self._lines) + sum(len(message) for message in self._unsent)
        self._lines.clear()
        self._unsent.clear()

    def _was_refused(self, refusal: Refusal, message: Message, loop: asyncio.AbstractEventLoop) -> None:
        """Keep a message that may be taken later, and give up what never will be."""
        if refusal not in WAITS:
            self._drop_doubt()
            self.failed += bool(message)
            self._lost += _captions_in(message)
            return
        if message:
            self._unsent.appendleft(message)
        elif self._doubt is None:
            return
        self._was_blocked(refusal, loop)

    def _was_blocked(self, refusal: Refusal, loop: asyncio.AbstractEventLoop) -> None:
        """Wait with all that is to be posted, or give it up."""
        if self._hurry and refusal in CUT_OFF:
            # Nobody can do anything about it in the time that is left.
            self._drop_doubt()
            self.give_up()
            return
        if refusal in CUT_OFF and self.refusal is not refusal:
            self._cut_off(refusal)
        self._wait(refusal, loop)

    def _wait(self, refusal: Refusal, loop: asyncio.AbstractEventLoop) -> None:
        """Pause before the next try."""
        self.refusal = refusal
        pause_s = HURRIED_AGAIN_S if self._hurry else AGAIN_S[min(self._refusals, len(AGAIN_S) - 1)]
        self._refusals += 1
        self._again_s = loop.time() + pause_s

    def _was_taken(self) -> None:
        if self.refusal is not None:
            _log.info("captions are taken again")
        self.refusal, self._refusals, self._again_s = None, 0, float("-inf")

    def _is_stale(self) -> bool:
        """`_page_stale` as it is now: it may change during every wait."""
        return self._page_stale

    def _has_to_write(self) -> bool:
        if self.held:
            doubtful = self._doubt is not None and self._doubt.is_withdrawn
            dirty = self._page is not None and self._page.is_dirty
            return self._page_stale or dirty or doubtful or any(_is_for_all(line) for line in self._lines)
        page = self._page
        if self._lines or self._unsent or self._page_stale or self._doubt is not None:
            return True
        if page is not None and page.is_dirty:
            return True
        return self._partials_below(page.pieces if page else []) != (page.partials if page else [])

    def _partials_below(self, pieces: Message) -> Message:
        """Those that fit into a message below what stands in it."""
        if not self._partials or self.held or not self._edited():
            return []
        packed = [pack([line]) for _, line in self._partials.values()]
        whole = [messages[0][0] for messages in packed if len(messages) == 1]
        return fit(self._shown(whole), _room_below(pieces))[0]

    def _has_work(self) -> None:
        self._idle.clear()
        self._wake.set()

    def _delay_s(self, now: float) -> float:
        if self._page_stale or (self._at_once and self._page is not None and self._page.partials):
            return 0.0
        if self._edited() and self._page is not None and not self._unsent:
            return max(0.0, self._written_s + self._edit_every_s - now)
        return self._rate.wait_s(now)

    def _next(self, *, merge: bool) -> Message:
        if self.held:
            return next(iter(pack(self._taken(1))), [])
        if self._lines and (merge or not self._unsent):
            fresh = pack(self._taken(len(self._lines) if merge else 1))
            if self._unsent:
                fresh = fill([entry for message in (*self._unsent, *fresh) for entry in message])
            self._unsent = deque(fresh)
        return self._unsent.popleft() if self._unsent else []

    def _taken(self, count: int) -> list[Line]:
        if self.held:
            own = [line for line in self._lines if _is_for_all(line)]
            self._lines = deque([*own[count:], *(line for line in self._lines if not _is_for_all(line))])
            return own[:count]
        lines = [self._lines.popleft() for _ in range(count)]
        self.merged += max(0, count - 1)
        if lines and self._crowded_out and not self._told_overflow:
            self._told_overflow = True
            what = counted(self._crowded_out, "caption was", "captions were")
            lines.insert(0, Line("Roost", f"{what} left out: too much was said at once."))
        return lines

    def _with_the_lost(self, message: Message) -> Message:
        """A message, above it how many captions are missing, if it has room for that."""
        if not self._lost or not message:
            return message
        what = counted(self._lost, "caption is missing above: it", "captions are missing above: they")
        told = pack([Line("Roost", f"{what} could not be shown here.", own=True)])[0]
        return [*told, *message] if len(fill([*told, *message])) == 1 else message

    # Messages -------------------------------------------------------------------------------------------------------

    async def _send(self, message: Message, loop: asyncio.AbstractEventLoop) -> Page | None:
        """Post a message; gives it with what stands in it, or None where nothing does.

        One that may have been posted is posted once more under its nonce, which says which message it is.
        """
        shown = self._shown(message)
        # What waits comes into a message below this one, and partials stand below everything.
        partials = self._partials_below(shown) if not self._unsent else []
        doubt = self._known_doubt(loop.time())
        if not shown and not partials and doubt is None:
            return None
        self._rate.sent(loop.time())
        self._withdrawn.clear()
        board, ended, given_up = self._board, self._ended, self._given_up
        made: list[Any] = []
        lost, said = self._lost, shown
        if not partials:
            shown = self._with_the_lost(shown)
        text = text_of([*shown, *partials]) or WITHDRAWN
        was_known = doubt is None
        # Until Discord answers nobody knows whether it stands there.
        doubt = self._doubt = doubt or _Doubt(new_nonce(), loop.time())
        doubt.texts.add(text)
        speakers = tuple(user_id for user_id, _ in (*shown, *partials))
        doubt.speakers.update(speakers)
        is_wanted = self._at_its_turn(board, speakers)

        async def post() -> None:
            made.append(await board.post(text, doubt.nonce, is_wanted))
            self._stands(made[0], speakers)

        refusal = await tried(post, self._post_timeout_s)
        if refusal is not None:
            if was_known and refusal in (Refusal.LATER, Refusal.REJECTED, Refusal.UNSENT, *CUT_OFF):
                self._doubt = None
            self._partials.clear()
            # Who withdrew their consent meanwhile is not kept.
            kept = [entry for entry in said if entry[0] not in self._withdrawn and self._given_up == given_up]
            if self._ended == ended and refusal is not Refusal.UNSENT:
                self._was_refused(refusal, kept, loop)
                return None
            self._keep(kept, given_up, board)
            if refusal in MAY_STAND and not doubt.is_withdrawn and doubt.speakers & self._withdrawn:
                self._look_for(doubt, board)
            return None
        self._was_taken()
        self._doubt = None
        if shown is not said:
            self._lost -= lost
        self.posted += 1
        self.captions += _captions_in(shown)
        page = Page(made[0], shown, partials)
        # It may be the one of before, with other words.
        page.is_dirty = text == WITHDRAWN or doubt.texts != {text}
        page.unsure = list(shown) if page.is_dirty else []
        page.standing = None if page.is_dirty else page.speakers
        page.may_stand = frozenset(doubt.speakers)
        page.has_lost = doubt.is_withdrawn
        checked = await self._checked(page, board)
        if checked is not None and self._ended != ended:
            self._leave_behind(checked, board)
            return None
        return checked

    def _at_its_turn(self, board: Board, speakers: Collection[int]) -> Wanted:
        """Ask of a request that shows more than stands there whether all of it may still be shown, and here.

        Args:
            board: Makes the request.
            speakers: Of all that it shows; 0: Roost.
        """
        ended, given_up = self._ended, self._given_up
        people = {user_id for user_id in speakers if user_id}

        def is_wanted() -> bool:
            is_here = board is self._board and self._ended == ended
            if not is_here or self._given_up != given_up or (self.held and people):
                return False
            return people.isdisjoint(self._withdrawn) and all(map(self._may_show, people))

        return is_wanted

    def _known_doubt(self, now: float) -> _Doubt | None:
        """The doubt, while the nonce helps."""
        doubt = self._doubt
        if doubt is not None and now - doubt.since_s > NONCE_S:
            _log.error("a caption may be posted twice: Discord gave no answer for %.0f s", now - doubt.since_s)
            self._drop_doubt()
        return self._doubt

    async def _checked(self, page: Page, board: Board) -> Page | None:
        """Take back what may not be shown any more, although it was when it was sent."""
        while True:
            if self._lose_withdrawn(page):
                self.recalled += 1
                page.is_dirty = True
            if not page.is_dirty:
                return page if page.pieces or page.partials else None
            # Others may withdraw meanwhile.
            if not await self._take_back(page, board):
                return None

    async def _take_back(self, page: Page, board: Board) -> bool:
        """Write a message anew without the words that it lacks already; return whether Discord took it.

        If not, the message is given up for captions, and its words are taken back later.
        """
        done = False
        ended, given_up = self._ended, self._given_up
        self._recaller.note(page)
        try:
            refusal = await self._rewrite(page, board)
            if refusal is Refusal.UNSENT:
                # Not with what it was to show more; what may not stand there has to go all the same.
                self._lose_withdrawn(page)
                page.partials = []
                self._keep(page.give_back(), given_up, board)
                refusal = await self._rewrite(page, board)
            done = refusal in DONE
        finally:
            if not done:
                if self._page is page:
                    self._page = None
                self._keep(page.give_back(), given_up, board)
                self._hand_over(page, board)
            else:
                self._recaller.note(page)
                if self._ended != ended:
                    self._leave_behind(page, board)
        return done

    def _keep(self, message: Message, given_up: int, board: Board) -> None:
        """Post something later that was for a board, unless what waited was given up since, or its speaker withdrew."""
        if self._given_up != given_up:
            return
        message = [entry for entry in message if entry[0] not in self._withdrawn]
        if board is not self._board:
            message = self._moved(message)
        if message:
            self._unsent.appendleft(message)

    async def _rewrite(self, page: Page, board: Board) -> Refusal | None:
        """Have Discord show what is to stand in a page; return why it was refused, if it was."""
        self._withdrawn.clear()
        if self.held:
            self._keep(page.give_back(), self._given_up, board)
        # Words can be withdrawn while the answer is awaited; they stand there until the next time.
        written = page.speakers
        # What only takes words out is wanted whatever happens.
        wanted = self._at_its_turn(board, written) if page.unsure or page.partials else always
        self._on_its_way = page
        try:
            refusal = await tried(lambda: page.rewrite(board, wanted), self._post_timeout_s)
        except BaseException:
            # Cancelled: `close` leaves it to the recaller.
            page.is_dirty = True
            raise
        finally:
            self._on_its_way = None
        if refusal in DONE:
            self._stands(page.message, written)
            page.is_dirty, page.unsure = page.speakers != written, []
            page.has_lost = page.is_dirty
            # An answer that cannot be read says nothing for certain about an edit.
            page.standing = written if refusal is None or not written else None
            page.may_stand = frozenset(written)
            if not written and self._page is page:
                self._page = None
        return refusal

    def _shown(self, message: Message) -> Message:
        return [entry for entry in message if not entry[0] or self._may_show(entry[0])]

    # One message that is edited -------------------------------------------------------------------------------------

    async def _write_page(self, loop: asyncio.AbstractEventLoop) -> None:
        page = self._page
        if self._page_stale:
            self._page_stale = False
            if page is not None:
                self.recalled += 1
                await self._take_back(page, self._board)
            return
        if page is not None and page.is_dirty:
            await self._finish_page(page, [], loop)
            return
        if self._unsent or page is None or self._doubt is not None:
            self._written_s = loop.time()
            self._page = await self._send(self._next(merge=True), loop)
            if self._is_stale() and page is not None:
                # The one before, which was still the page when somebody withdrew.
                self._page_stale = False
                self._hand_over(page, self._board)
            return
        pieces = [entry for message in pack(self._taken(len(self._lines))) for entry in message]
        fitting, rest = fit(self._shown(pieces), _room_below(page.pieces))
        if rest:
            self._unsent.extend(fill(rest))
        page.pieces = [*self._shown(page.pieces), *fitting]
        page.unsure = [*page.unsure, *fitting]
        shown, page.partials = page.partials, [] if rest else self._partials_below(page.pieces)
        if not fitting and page.partials == shown:
            return
        await self._finish_page(page, shown, loop)

    async def _finish_page(self, page: Page, shown: Message, loop: asyncio.AbstractEventLoop) -> None:
        """Have Discord show what is in the page.

        Args:
            page: With what is to be shown.
            shown: The partials that stand in it.
            loop: The running one.
        """
        self._written_s = loop.time()
        fresh, was_dirty = page.unsure, page.is_dirty
        board, ended, given_up = self._board, self._ended, self._given_up
        page.may_stand |= frozenset((*(page.standing or ()), *page.speakers))
        standing, page.standing = page.standing, None
        try:
            refusal = await self._rewrite(page, board)
        except BaseException:
            if self._ended != ended or self._given_up != given_up or self.held:
                page.give_back()
            if self._ended != ended:
                self._hand_over(page, board)
            raise
        if refusal not in MAY_STAND and refusal is not None:
            page.standing = standing
        if refusal in DONE:
            self._was_taken()
            self.edits += 1
            self.captions += _captions_in(fresh)
            if self._ended != ended:
                self._recaller.note(page)
                self._leave_behind(page, board)
                return
            left = self._shown(page.pieces), self._shown(page.partials)
            page.has_lost |= left != (page.pieces, page.partials)
            self._page_stale |= page.has_lost
            page.pieces, page.partials = left
            self._recaller.note(page)
            return
        self._partials.clear()
        if self._ended != ended:
            self._keep(page.give_back(), given_up, board)
            # Whatever stands in it now; of one that is gone, nothing may stay noted.
            self._hand_over(page, board)
            return
        if refusal in (Refusal.LATER, Refusal.UNKNOWN, Refusal.UNSENT):
            # The same edit again does no harm; in another message, what it was to add might stand twice.
            page.partials, page.is_dirty = [], True
            if self._given_up != given_up:
                page.give_back()
            if refusal is Refusal.UNSENT:
                self._page_stale |= self._lose_withdrawn(page)
            else:
                self._wait(refusal, loop)
            return
        # Somebody may have deleted it: what was to be added begins a new one.
        self._page = None
        kept = page.give_back()
        if refusal in WAITS:
            self._was_refused(refusal, kept, loop)
        elif kept:
            self._unsent.appendleft(kept)
        withdrawn = self._is_stale()
        if shown or withdrawn or was_dirty:
            # If it is there after all, what is not final or was taken back may not stay in it.
            page.partials = []
            if await self._take_back(page, board):
                self._leave_behind(page, board)


def _is_for_all(line: Line) -> bool:
    """Whether a line is Roost's own, about nobody."""
    return line.own and not line.user_id


def _room_below(pieces: Message) -> int:
    return MESSAGE_LIMIT - units_of(text_of(pieces)) - 1 if pieces else MESSAGE_LIMIT


def _captions_in(message: Message) -> int:
    return sum(1 for user_id, _ in message if user_id)
