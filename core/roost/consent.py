"""Who may be heard. Decided before any frame is delivered; see the table in docs/privacy.md."""

from __future__ import annotations

from typing import Protocol


class Consent(Protocol):
    """The consent decisions of every guild. `allows` is synchronous because the receive path asks it."""

    def mode(self, guild_id: int) -> str:
        """``opt-in`` (nobody is heard before they agree) or ``notice`` (everybody but those who opted out)."""
        ...

    def allows(self, guild_id: int, user_id: int) -> bool: ...

    async def agree(self, guild_id: int, user_id: int) -> None:
        """Record an agreement, durably, before returning."""

    async def opt_out(self, guild_id: int, user_id: int) -> None:
        """Record a refusal, durably, before returning; live sessions revoke the user."""

    def subscribe(self, callback: ConsentCallback) -> Unsubscribe:
        """Call back with (guild_id, user_id) after every change."""
        ...


class ConsentCallback(Protocol):
    def __call__(self, guild_id: int, user_id: int) -> None: ...


class Unsubscribe(Protocol):
    def __call__(self) -> None: ...
