"""Who may be heard. Decided before any frame is delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from roost.store import Store

Mode = Literal["opt-in", "notice"]
Changed = Callable[[int, int], None]

AGREE_ID = "roost:consent:agree"
REFUSE_ID = "roost:consent:refuse"
"""``custom_id`` of the two buttons of every notice."""


class Consent(Protocol):
    """The consent decisions of every guild. `allows` is synchronous because the receive path asks it."""

    def mode(self, guild_id: int) -> str:
        """``opt-in`` (nobody is heard before they agree) or ``notice`` (everybody but those who opted out)."""
        ...

    def allows(self, guild_id: int, user_id: int) -> bool: ...

    def decision(self, guild_id: int, user_id: int) -> bool | None:
        """What the user said, or None if they never did."""
        ...

    async def agree(self, guild_id: int, user_id: int) -> None:
        """Record an agreement, durably, before returning."""

    async def opt_out(self, guild_id: int, user_id: int) -> None:
        """Record a refusal, durably, before returning; live sessions stop hearing the user first."""

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        """Call back with (guild_id, user_id) after every change; the result unsubscribes."""
        ...


class StoredConsent:
    """`Consent` over the store, all decisions held in memory."""

    def __init__(self, store: Store, mode: Mode, decisions: dict[tuple[int, int], bool]) -> None:
        self._store = store
        self._mode = mode
        self._decisions = decisions
        self._callbacks: list[Changed] = []

    @classmethod
    async def load(cls, store: Store, mode: Mode) -> StoredConsent:
        return cls(store, mode, await store.consents())

    def mode(self, guild_id: int) -> str:
        return self._mode

    def allows(self, guild_id: int, user_id: int) -> bool:
        return self._decisions.get((guild_id, user_id), self._mode == "notice")

    def decision(self, guild_id: int, user_id: int) -> bool | None:
        """What the user said, or None if they never did."""
        return self._decisions.get((guild_id, user_id))

    async def agree(self, guild_id: int, user_id: int) -> None:
        await self._store.set_consent(guild_id, user_id, True)
        self._decisions[guild_id, user_id] = True
        self._tell(guild_id, user_id)

    async def opt_out(self, guild_id: int, user_id: int) -> None:
        # A refusal counts from the moment it is made, even if the disk is slow or refuses.
        self._decisions[guild_id, user_id] = False
        self._tell(guild_id, user_id)
        await self._store.set_consent(guild_id, user_id, False)

    def decisions_of(self, user_id: int) -> dict[str, str]:
        """All that is held about a user: guild id to ``agreed`` or ``refused``."""
        return {
            str(guild_id): "agreed" if allowed else "refused"
            for (guild_id, user), allowed in sorted(self._decisions.items())
            if user == user_id
        }

    async def forget(self, user_id: int) -> tuple[int, ...]:
        """Delete a user's decisions; durable when it returns. Live sessions stop hearing them first.

        A refusal in a guild that hears everybody who does not refuse is kept: without it they would be heard again.

        Returns:
            The guilds in which a refusal is kept.
        """
        mine = {guild: allowed for (guild, user), allowed in self._decisions.items() if user == user_id}
        kept = tuple(guild for guild, allowed in mine.items() if not allowed and self.mode(guild) == "notice")
        for guild in mine:
            if guild not in kept:
                del self._decisions[guild, user_id]
                self._tell(guild, user_id)
        await self._store.forget_consent(user_id, keep=kept)
        return kept

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def _tell(self, guild_id: int, user_id: int) -> None:
        for callback in tuple(self._callbacks):
            callback(guild_id, user_id)
