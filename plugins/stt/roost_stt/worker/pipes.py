"""The worker's two pipes: what comes in is sorted here, what goes out is written whole."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from roost_stt.protocol import ipc
from roost_stt.worker.utterances import Key

_log = logging.getLogger("roost.stt.worker")

MAX_AUDIO = 8192
"""Frames waiting to be decoded: 164 speaker-seconds."""

READ_BYTES = 1 << 20
"""More than a pipe holds: what waits in it is read at once, so that a purge overtakes all the audio before it."""

REFUSALS_LOGGED = 20

Order = tuple[ipc.Kind, dict[str, Any]]


class Outbox:
    """Writes messages to the bot. The process ends when the bot no longer listens."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, kind: ipc.Kind, fields: Mapping[str, Any]) -> None:
        """Write one message; blocks while the pipe is full."""
        data = memoryview(ipc.encode_json(kind, fields))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                os._exit(0)


class Inbox:
    """What the reader thread has taken from the pipe and the audio thread has not yet processed.

    Reading must never block on processing, or the end of the pipe would be noticed late: when full, audio is dropped
    and counted; orders never are.
    """

    def __init__(self, max_audio: int = MAX_AUDIO) -> None:
        self._max_audio = max_audio
        self._items: deque[ipc.Audio | Order] = deque()
        self._audio = 0
        self._condition = threading.Condition()
        self.dropped = 0
        self.refused = 0
        """Messages that broke the rules."""

    def held(self) -> AbstractContextManager[Any]:
        """Keep the audio thread from taking anything until all that was read at once is in."""
        return self._condition

    def refuse(self, reason: str) -> None:
        """Count a message that breaks the rules."""
        self.refused += 1
        if self.refused <= REFUSALS_LOGGED:
            _log.error("a message was dropped: %s", reason)

    def audio(self, audio: ipc.Audio) -> None:
        with self._condition:
            if self._audio >= self._max_audio:
                self.dropped += 1
                return
            self._audio += 1
            self._items.append(audio)
            self._condition.notify()

    def order(self, kind: ipc.Kind, fields: dict[str, Any]) -> None:
        """Queue an order behind the audio before it; pings go first, and so do purges, which remove audio."""
        with self._condition:
            if kind is ipc.Kind.PURGE:
                self._remove((fields.get("guild", 0), fields.get("user", 0)))
            if kind in (ipc.Kind.PING, ipc.Kind.PURGE):
                self._items.appendleft((kind, fields))
            else:
                self._items.append((kind, fields))
            self._condition.notify()

    def take(self, timeout_s: float) -> ipc.Audio | Order | None:
        """The next item, or None when none came in time."""
        with self._condition:
            if not self._items:
                self._condition.wait(timeout_s)
            if not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, ipc.Audio):
                self._audio -= 1
            return item

    def _remove(self, key: Key) -> None:
        """Drop a speaker's audio, or with user 0 a guild's."""
        kept = [
            each
            for each in self._items
            if not (isinstance(each, ipc.Audio) and each.guild_id == key[0] and key[1] in (0, each.user_id))
        ]
        self._audio -= len(self._items) - len(kept)
        self._items = deque(kept)


def read_forever(fd: int, inbox: Inbox, hello: threading.Event, greeting: dict[str, Any]) -> None:
    """The reader thread. Drops messages that break the rules, and ends the process at once when the pipe ends.

    ``os._exit`` on purpose: an engine in the middle of an inference cannot be asked to stop, and a bot that is gone
    leaves nobody to tidy up for.
    """
    parser = ipc.FrameParser()
    while True:
        try:
            data = os.read(fd, READ_BYTES)
        except OSError:
            data = b""
        if not data:
            os._exit(0)
        with inbox.held():
            for message in parser.feed(data):
                _sort_in(message, inbox, hello, greeting)


def _sort_in(
    message: ipc.Message | ipc.Violation, inbox: Inbox, hello: threading.Event, greeting: dict[str, Any]
) -> None:
    if isinstance(message, ipc.Violation):
        inbox.refuse(message.reason)
    elif message.kind is ipc.Kind.AUDIO:
        audio = ipc.decode_audio(message.body)
        if isinstance(audio, ipc.Violation):
            inbox.refuse(audio.reason)
        else:
            inbox.audio(audio)
    else:
        fields = ipc.decode_json(message.body)
        if isinstance(fields, ipc.Violation):
            inbox.refuse(fields.reason)
        elif message.kind is ipc.Kind.HELLO:
            greeting.update(fields)
            hello.set()
        else:
            inbox.order(message.kind, fields)
