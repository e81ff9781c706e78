"""The frames of speech that has not yet become text, kept by the bot in case the worker dies."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Mapping

from roost_stt.protocol.ipc import Audio

Key = tuple[int, int]
"""(guild id, user id)."""

KEPT_FRAMES = 1800
"""Per speaker: 36 s, more than the longest utterance."""


class KeptFrames:
    """Opus frames per speaker, oldest first; bounded, the oldest give way."""

    def __init__(self, per_speaker: int = KEPT_FRAMES) -> None:
        self._per_speaker = per_speaker
        self._frames: dict[Key, deque[Audio]] = {}

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._frames.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._frames

    @property
    def speakers(self) -> tuple[Key, ...]:
        return tuple(self._frames)

    def add(self, audio: Audio) -> bool:
        """Keep a frame; False when an older one had to give way."""
        key = (audio.guild_id, audio.user_id)
        kept = self._frames.get(key)
        if kept is None:
            kept = self._frames[key] = deque(maxlen=self._per_speaker)
        full = len(kept) == self._per_speaker
        kept.append(audio)
        return not full

    def heard(self, key: Key, last: int) -> None:
        """Everything of a speaker up to an index has become text or been given up."""
        kept = self._frames.get(key)
        if kept is not None:
            self._cut(key, kept, last + 1)

    def trim(self, seen: int, needed: Mapping[Key, int]) -> None:
        """The worker has seen everything up to `seen`; of each speaker in `needed` it needs what begins there."""
        for key, kept in list(self._frames.items()):
            self._cut(key, kept, min(needed.get(key, seen + 1), seen + 1))

    def forget(self, key: Key) -> None:
        self._frames.pop(key, None)

    def clear(self) -> None:
        self._frames.clear()

    def after(self, index: int, most: int) -> list[Audio]:
        """The next frames after an index, of all speakers, in the order of their arrival."""
        later: Iterator[Audio] = (
            audio for audio in heapq.merge(*self._frames.values(), key=lambda audio: audio.index) if audio.index > index
        )
        return list(itertools.islice(later, most))

    def _cut(self, key: Key, kept: deque[Audio], first: int) -> None:
        while kept and kept[0].index < first:
            kept.popleft()
        if not kept:
            del self._frames[key]
