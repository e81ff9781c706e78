"""Text of what is being said, before it is finished: offered now and then, shown as far as two drafts agree.

The audio thread says what is open, the engine's thread what it heard in it. Drafts are the first thing to go when
there is work: see `roost_stt.worker.backlog`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from roost_stt.protocol.agreement import Agreement
from roost_stt.protocol.segmenter import Segment
from roost_stt.worker.backlog import Backlog
from roost_stt.worker.utterances import Key, Spoken

EVERY_MS = 500
"""Of new speech, between one draft and the next. The first words are shown after the second one."""

Tell = Callable[[Key, int, str], None]
"""Takes the speaker, the mark of their utterance, and its beginning: empty when nothing comes of it."""


@dataclasses.dataclass(slots=True)
class _Open:
    mark: int
    offered_ms: int = 0
    agreement: Agreement = dataclasses.field(default_factory=Agreement)


class Drafts:
    """The open utterances of the guilds that want to see them.

    Args:
        wanted: Whether a guild does; asked for each frame.
        backlog: Where drafts wait.
        tell: Called by either thread with what is to be shown, in its order: with the lock held.
        every_ms: See `EVERY_MS`.
    """

    def __init__(
        self, wanted: Callable[[int], bool], backlog: Backlog, tell: Tell, *, every_ms: int = EVERY_MS
    ) -> None:
        self._wanted = wanted
        self._backlog = backlog
        self._tell = tell
        self._every_ms = every_ms
        self._open: dict[Key, _Open] = {}
        """Changed by the audio thread alone."""
        self._lock = threading.Lock()

    def look(
        self,
        key: Key,
        mark: int | None,
        speech_ms: int,
        so_far: Callable[[], Segment | None],
        ended: Sequence[Segment] = (),
    ) -> None:
        """Something was heard of a speaker, or they have ended. For the audio thread.

        Args:
            key: Who.
            mark: Of the utterance that is open now, or None.
            speech_ms: How much speech there is in it.
            so_far: Gives it.
            ended: What has become of the one before.
        """
        if mark is not None and not self._wanted(key[0]):
            mark = None
        known = self._open.get(key)
        if known is not None and known.mark != mark:
            self._close(key, void=all(segment.first_mark != known.mark for segment in ended))
            known = None
        if mark is None:
            return
        if known is None:
            known = self._open[key] = _Open(mark)
        if speech_ms - known.offered_ms >= self._every_ms:
            known.offered_ms = speech_ms
            segment = so_far()
            if segment is not None:
                self._backlog.draft(Spoken(*key, segment))

    def forget(self, key: Key) -> None:
        """Drop the open utterances of a speaker who has withdrawn; with user 0, of a guild. For the audio thread."""
        for each in [each for each in self._open if each[0] == key[0] and key[1] in (0, each[1])]:
            self._close(each, void=False)

    def heard(self, spoken: Spoken, text: str) -> None:
        """What the engine made of a draft; nothing, if the utterance has ended meanwhile. For the engine's thread."""
        key = (spoken.guild_id, spoken.user_id)
        with self._lock:
            known = self._open.get(key)
            if known is None or known.mark != spoken.segment.first_mark:
                return
            if known.agreement.draft(text):
                self._tell(key, known.mark, known.agreement.text)

    def _close(self, key: Key, *, void: bool) -> None:
        with self._lock:
            known = self._open.pop(key, None)
            self._backlog.drop_draft(key)
            if known is not None and void and known.agreement.text:
                self._tell(key, known.mark, "")
