"""Captions: what a transcript looks like in a text channel, and when it may be posted.

Rendering and rate are pure; `Captioner` posts through a function it is given. Text from people's mouths and names from
their profiles are both hostile input here: nothing they contain may ping, link, format or reorder anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import unicodedata
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from roost.errors import RoostError

_log = logging.getLogger("roost.stt.captions")

MESSAGE_LIMIT = 2000
"""Discord's, in characters; counted here in UTF-16 units, which is never less."""
NAME_LIMIT = 32
QUEUE_LIMIT = 256
MAX_COMBINING = 2
_SPECIAL = re.compile(r"([\\*_~`|<>@#\[\]()])")
_WORD_LIMIT = 400


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One utterance to be shown."""

    name: str
    text: str = dataclasses.field(repr=False)
    user_id: int = 0


def clean(text: str) -> str:
    """Drop what cannot be seen or reorders what can, and stacked accents; every run of white space becomes a blank."""
    out: list[str] = []
    combining = 0
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        blank = char.isspace() or category in ("Zl", "Zp")
        if not blank and (category in ("Cc", "Cf", "Cs", "Co", "Cn") or char in _INVISIBLE):
            continue
        combining = combining + 1 if category in ("Mn", "Me") else 0
        if combining <= MAX_COMBINING:
            out.append(" " if blank else char)
    return " ".join("".join(out).split())


_INVISIBLE = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f\ufe0e\ufe0f")
"""Letters and marks that show nothing, although their categories say otherwise."""


def escape(text: str) -> str:
    """Make Discord show a cleaned text as it is: no formatting, mention, link, invite, timestamp or emoji code."""
    text = _SPECIAL.sub(r"\\\1", text)
    # A link needs "://" and an invite "discord.gg/": a backslash before the slash is shown as the slash alone.
    text = text.replace("/", "\\/")
    return re.sub(r":(?=\S)", r"\\:", text)


def display_name(name: str) -> str:
    """A profile's name, made safe; never empty."""
    return escape(clean(name)[:NAME_LIMIT].strip()) or "Someone"


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def render(lines: Sequence[Line], limit: int = MESSAGE_LIMIT) -> list[str]:
    """Lines as messages: ``**Name**: words``, one line each, packed into as few messages as fit.

    A line over the limit goes on in the next message under its name. No escape sequence is ever cut in two.
    """
    return [_text(message) for message in _pack(lines, limit)]


_Message = list[tuple[int, str]]
"""Pieces of one message, each with the user who said it."""


def _text(message: _Message) -> str:
    return "\n".join(piece for _, piece in message)


def _pack(lines: Sequence[Line], limit: int = MESSAGE_LIMIT) -> list[_Message]:
    messages: list[_Message] = []
    units = 0
    for line in lines:
        head = f"**{display_name(line.name)}**:"
        for piece in _pieces(head, clean(line.text), limit):
            more = _units(piece) + 1
            if not messages or units + more > limit:
                messages.append([])
                units = -1
            messages[-1].append((line.user_id, piece))
            units += more
    return messages


def _pieces(head: str, text: str, limit: int) -> list[str]:
    pieces: list[str] = []
    current = head
    for word in text.split(" "):
        for part in [word[i : i + _WORD_LIMIT] for i in range(0, len(word), _WORD_LIMIT)]:
            safe = escape(part)
            if _units(current) + 1 + _units(safe) > limit:
                pieces.append(current)
                current = head
            current = f"{current} {safe}"
    if current != head:
        pieces.append(current)
    return pieces


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


Post = Callable[[str], Awaitable[None]]


class Captioner:
    """Posts the captions of one session to one channel, in order.

    Constructing it starts nothing: its owner runs `run` as a task. Lines that must wait for the rate limit are merged
    into one message; lines beyond the queue's bound push out the oldest, which is counted and told once.

    Args:
        post: Sends one message; bounded by `post_timeout_s`; its errors are counted, logged and survived.
        rate: Of the channel, shared by everybody who posts captions there.
        may_show: Asked for every speaker at the moment before their words are sent.
    """

    def __init__(
        self,
        post: Post,
        rate: ChannelRate,
        *,
        may_show: Callable[[int], bool] = lambda _user_id: True,
        post_timeout_s: float = 10.0,
    ) -> None:
        self._post = post
        self._may_show = may_show
        self._rate = rate
        self._post_timeout_s = post_timeout_s
        self._lines: deque[Line] = deque()
        self._unsent: deque[_Message] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurry = False
        self._told_overflow = False
        self.posted = 0
        self.captions = 0
        """Pieces of speech in the messages posted."""
        self.merged = 0
        self.dropped = 0
        self.failed = 0

    def add(self, line: Line) -> None:
        """Queue a line; never blocks."""
        if len(self._lines) >= QUEUE_LIMIT:
            self._lines.popleft()
            self.dropped += 1
        self._lines.append(line)
        self._idle.clear()
        self._wake.set()

    def forget(self, user_id: int) -> None:
        """Drop all that is not yet sent of one speaker, what stands in a message with others' words too."""
        self._lines = deque(line for line in self._lines if line.user_id != user_id)
        left = ([entry for entry in message if entry[0] != user_id] for message in self._unsent)
        self._unsent = deque(message for message in left if message)

    async def run(self) -> None:
        """Post for ever."""
        loop = asyncio.get_running_loop()
        waited = False
        while True:
            if not self._lines and not self._unsent:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
            delay_s = self._rate.wait_s(loop.time())
            if delay_s > 0 and not self._hurry:
                waited = True
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._wake.wait()
                continue
            # With room for a message each, every utterance gets its own; else all that waits goes together.
            await self._send(self._next(merge=waited or self._hurry), loop)
            waited = False

    async def flush(self, deadline: float) -> bool:
        """Post everything queued now, merged and without waiting for the rate, until `deadline` (event loop time)."""
        self._hurry = True
        self._wake.set()
        try:
            async with asyncio.timeout_at(deadline):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._hurry = False
        return True

    def _next(self, *, merge: bool) -> _Message:
        if not self._unsent and self._lines:
            count = len(self._lines) if merge else 1
            lines = [self._lines.popleft() for _ in range(count)]
            self.merged += count - 1
            if self.dropped and not self._told_overflow:
                self._told_overflow = True
                lines.insert(0, Line("Roost", f"{self.dropped} captions were left out: too much was said at once."))
            self._unsent.extend(_pack(lines))
        return self._unsent.popleft() if self._unsent else []

    async def _send(self, message: _Message, loop: asyncio.AbstractEventLoop) -> None:
        shown = [entry for entry in message if not entry[0] or self._may_show(entry[0])]
        if not shown:
            return
        self._rate.sent(loop.time())
        try:
            async with asyncio.timeout(self._post_timeout_s):
                await self._post(_text(shown))
            self.posted += 1
            self.captions += sum(1 for user_id, _ in shown if user_id)
        except (TimeoutError, OSError, RoostError) as error:
            self.failed += 1
            _log.warning("a caption could not be posted: %s", type(error).__name__)
