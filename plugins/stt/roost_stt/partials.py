"""What is known of utterances that are not over, on the bot's side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from roost_stt.kept import Key


@dataclasses.dataclass(frozen=True, slots=True)
class Partial:
    """The certain beginning of an utterance.

    Attributes:
        guild_id: Where.
        user_id: Who is speaking.
        mark: Which utterance of theirs: later ones have higher marks. Its transcript has the mark as its id.
        text: It grows from one partial of the utterance to the next. Empty: nothing comes of the utterance.
    """

    guild_id: int
    user_id: int
    mark: int
    text: str = dataclasses.field(repr=False)

    @property
    def key(self) -> Key:
        return self.guild_id, self.user_id


class OpenPartials:
    """Sees to it that each partial that was told ends in a transcript or in an empty one."""

    def __init__(self, tell: Callable[[Partial], None]) -> None:
        self._tell = tell
        self._open: dict[Key, int] = {}

    def take(self, partial: Partial) -> None:
        """One of the worker's."""
        if partial.text:
            self._open[partial.key] = partial.mark
        else:
            self._open.pop(partial.key, None)
        self._tell(partial)

    def final(self, key: Key, mark: int) -> None:
        """The transcript has come: whoever was told of the partial is told of that, too."""
        if self._open.get(key, mark + 1) <= mark:
            del self._open[key]

    def over(self, key: Key, last: int | None = None) -> None:
        """Nothing comes of a speaker's utterance, if it is none that began after `last`."""
        mark = self._open.get(key)
        if mark is not None and (last is None or mark <= last):
            del self._open[key]
            self._tell(Partial(*key, mark, ""))

    def over_in(self, guild_id: int, user_id: int) -> None:
        """Nothing comes of any utterance of a speaker, or with user 0 of anybody in the guild."""
        for key in [key for key in self._open if key[0] == guild_id and user_id in (0, key[1])]:
            self.over(key)

    def all_over(self) -> None:
        """Nor of anybody's, for the worker is gone."""
        for key in list(self._open):
            self.over(key)
