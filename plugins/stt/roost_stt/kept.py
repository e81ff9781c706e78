"""The frames of speech that has not yet become text, kept by the bot in case the worker dies."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Mapping
from operator import attrgetter

from roost_stt.protocol.ipc import Audio

Key = tuple[int, int]
"""(guild id, user id)."""

KEPT_FRAMES = 1800
"""Per speaker: 36 s, more than the longest utterance."""
MAX_FRAMES = 60_000
"""Of all speakers: 20 minutes of speech, some 20 MiB."""


class KeptFrames:
    """Opus frames per speaker, oldest first; bounded, the oldest of the speaker or of the fullest guild give way."""

    def __init__(self, per_speaker: int = KEPT_FRAMES, in_all: int = MAX_FRAMES) -> None:
        self._per_speaker = per_speaker
        self._in_all = in_all
        self._frames: dict[Key, deque[Audio]] = {}
        self._count = 0
        self._of_guild: dict[int, dict[Key, int]] = {}
        """By guild: the number of frames of each of its speakers."""
        self._in_guild: Counter[int] = Counter()
        """By guild: the number of its frames."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: Key) -> bool:
        return key in self._frames

    @property
    def speakers(self) -> tuple[Key, ...]:
        return tuple(self._frames)

    def add(self, audio: Audio) -> Audio | None:
        """Keep a frame; gives the older one that had to give way."""
        key = (audio.guild_id, audio.user_id)
        kept = self._frames.get(key)
        if kept is None:
            kept = self._frames[key] = deque()
        kept.append(audio)
        self._counted(key, 1)
        if len(kept) > self._per_speaker:
            return self._drop_first(key)
        if self._count > self._in_all:
            # The speaker kept longest there: looking for the oldest frame would cost every frame a search.
            fullest = max(self._in_guild, key=self._in_guild.__getitem__)
            return self._drop_first(next(iter(self._of_guild[fullest])))
        return None

    def heard(self, key: Key, last: int) -> None:
        """Everything of a speaker up to an index has become text or been given up."""
        if key in self._frames:
            self._cut(key, last + 1)

    def trim(self, seen: int, needed: Mapping[Key, int]) -> None:
        """The worker has seen everything up to `seen`; of each speaker in `needed` it needs what begins there."""
        for key in list(self._frames):
            self._cut(key, min(needed.get(key, seen + 1), seen + 1))

    def remove(self, key: Key, index: int) -> None:
        """Drop one frame."""
        kept = self._frames.get(key)
        if kept is None:
            return
        left = deque(audio for audio in kept if audio.index != index)
        self._counted(key, len(left) - len(kept))
        if left:
            self._frames[key] = left
        else:
            del self._frames[key]

    def forget(self, key: Key) -> None:
        self._counted(key, -len(self._frames.pop(key, ())))

    def clear(self) -> None:
        self._frames.clear()
        self._of_guild.clear()
        self._in_guild.clear()
        self._count = 0

    def after(self, index: int) -> list[Audio]:
        """All frames after an index, of all speakers, in the order of their arrival."""
        later = (audio for audio in itertools.chain(*self._frames.values()) if audio.index > index)
        return sorted(later, key=attrgetter("index"))

    def holds(self, audio: Audio) -> bool:
        """Whether a frame that was kept still is."""
        kept = self._frames.get((audio.guild_id, audio.user_id))
        return kept is not None and kept[0].index <= audio.index

    def _cut(self, key: Key, first: int) -> None:
        kept = self._frames[key]
        while kept and kept[0].index < first:
            kept.popleft()
            self._counted(key, -1)
        if not kept:
            del self._frames[key]

    def _drop_first(self, key: Key) -> Audio:
        first = self._frames[key][0]
        self._cut(key, first.index + 1)
        return first

    def _counted(self, key: Key, change: int) -> None:
        """Note that a speaker has so many frames more, or fewer."""
        if not change:
            return
        guild_id = key[0]
        self._count += change
        self._in_guild[guild_id] += change
        speakers = self._of_guild.setdefault(guild_id, {})
        speakers[key] = speakers.get(key, 0) + change
        if not speakers[key]:
            del speakers[key]
        if not speakers:
            del self._of_guild[guild_id]
            del self._in_guild[guild_id]
