"""How people want their speech understood, as the bot tells its worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """Of a server (`user_id` 0), or of one person wherever they speak (`guild_id` 0). It replaces the one before.

    Attributes:
        language: Code of the spoken language; None: whatever counts next, in the end the engine's guess.
        hints: Words likely to occur. Of a server alone.
        word_timestamps: Whether each word's time is wanted. Of a server alone.
        partials: Whether what is being said is wanted before it is finished. Of a server alone.
    """

    guild_id: int
    user_id: int = 0
    language: str | None = None
    hints: tuple[str, ...] = ()
    word_timestamps: bool = False
    partials: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.guild_id, self.user_id

    @property
    def empty(self) -> bool:
        """Whether it asks for nothing."""
        return not (self.language or self.hints or self.word_timestamps or self.partials)

    def fields(self) -> dict[str, Any]:
        return {
            "guild": self.guild_id,
            "user": self.user_id,
            "language": self.language,
            "hints": list(self.hints),
            "words": self.word_timestamps,
            "partials": self.partials,
        }

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Wish:
        return cls(
            int(fields["guild"]),
            int(fields["user"]),
            fields.get("language") or None,
            tuple(str(each) for each in fields.get("hints") or ()),
            bool(fields.get("words")),
            bool(fields.get("partials")),
        )


class Wishes:
    """All that are not empty. One thread may change them while another asks."""

    def __init__(self) -> None:
        self._wishes: dict[tuple[int, int], Wish] = {}

    def __iter__(self) -> Iterator[Wish]:
        return iter(list(self._wishes.values()))

    def put(self, wish: Wish) -> None:
        if wish.empty:
            self._wishes.pop(wish.key, None)
        else:
            self._wishes[wish.key] = wish

    def language_of(self, guild_id: int, user_id: int) -> str | None:
        """The user's own, else the server's."""
        for key in ((0, user_id), (guild_id, 0)):
            wish = self._wishes.get(key)
            if wish is not None and wish.language:
                return wish.language
        return None

    def of_guild(self, guild_id: int) -> Wish:
        return self._wishes.get((guild_id, 0)) or Wish(guild_id)
