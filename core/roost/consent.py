"""Who may be heard. Decided before any frame is delivered."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from roost.store import Store

_log = logging.getLogger("roost.consent")

Mode = Literal["opt-in", "notice"]
Changed = Callable[[int, int], None]

AGREE_ID = "roost:consent:agree"
REFUSE_ID = "roost:consent:refuse"
"""``custom_id`` of the two buttons of a notice. `agree_id` adds the terms of the notice to the first."""

USUAL_DAYS = 7
"""Days for which text is kept under the usual terms."""


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What an agreement covers, or what a member has to agree to before they are heard.

    The usual terms, `USUAL`, are what ``/privacy opt-in`` agrees to: the sound stays on the bot's machine, text is kept
    for at most `USUAL_DAYS`, and the member can see every channel where the notice stands.

    Attributes:
        kept_days: Days for which text is kept, at most.
        services: Digest of the services that the sound is sent to; empty for none.
        places: Digest of the channels where the notice stands, where the member cannot see all of them; else empty.
    """

    kept_days: int = USUAL_DAYS
    services: str = ""
    places: str = ""

    def covers(self, needed: Terms) -> bool:
        """Whether an agreement to these terms is one to `needed` too."""
        return (
            needed.kept_days <= self.kept_days
            and needed.services in ("", self.services)
            and needed.places in ("", self.places)
        )

    @property
    def token(self) -> str:
        """The terms as a short text, for `parse`."""
        return f"{self.kept_days}.{self.services}.{self.places}"

    @classmethod
    def parse(cls, token: str) -> Terms:
        """The terms of a `token`.

        Raises:
            ValueError: It is no such text.
        """
        days, services, places = token.split(".")
        return cls(int(days), services, places)


USUAL = Terms()


def digest(parts: Iterable[str]) -> str:
    """A short name for a set of texts, whatever their order; empty for the empty set."""
    whole = "\n".join(sorted(set(parts)))
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest() if whole else ""


def agree_id(terms: Terms) -> str:
    """``custom_id`` of the button that agrees to these terms."""
    return f"{AGREE_ID}:{terms.token}"


def agreed_terms(custom_id: str) -> Terms | None:
    """The terms that a press of a button agrees to; None for a button that agrees to nothing.

    Notices of earlier versions have a button without terms, which agrees to the usual ones.
    """
    if custom_id == AGREE_ID:
        return USUAL
    prefix = f"{AGREE_ID}:"
    return _readable(custom_id.removeprefix(prefix)) if custom_id.startswith(prefix) else None


def _readable(token: str) -> Terms:
    """The terms of a token, or the usual ones where it is damaged: an agreement to them covers the least."""
    try:
        return Terms.parse(token)
    except ValueError:
        _log.warning("the terms of an agreement cannot be read, so it counts for the usual ones")
        return USUAL


class Consent(Protocol):
    """The consent decisions of every guild. `allows` is synchronous because the receive path asks it."""

    def mode(self, guild_id: int) -> str:
        """``opt-in`` (nobody is heard before they agree) or ``notice`` (everybody but those who opted out)."""
        ...

    def allows(self, guild_id: int, user_id: int) -> bool: ...

    def decision(self, guild_id: int, user_id: int) -> bool | None:
        """What the user said, or None if they never did."""
        ...

    def agreed_to(self, guild_id: int, user_id: int) -> Terms | None:
        """What the user's agreement covers, or None if they did not agree."""
        ...

    async def agree(self, guild_id: int, user_id: int, terms: Terms = USUAL) -> None:
        """Record an agreement, durably, before returning. One to more than `terms` stays as it is."""

    async def opt_out(self, guild_id: int, user_id: int) -> None:
        """Record a refusal, durably, before returning; live sessions stop hearing the user first."""

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        """Call back with (guild_id, user_id) after every change; the result unsubscribes."""
        ...


class StoredConsent:
    """`Consent` over the store, all decisions held in memory."""

    def __init__(
        self,
        store: Store,
        mode: Mode,
        decisions: dict[tuple[int, int], bool],
        terms: dict[tuple[int, int], Terms],
    ) -> None:
        self._store = store
        self._mode = mode
        self._decisions = decisions
        self._terms = terms
        """Of agreements to other than the usual terms."""
        self._callbacks: list[Changed] = []

    @classmethod
    async def load(cls, store: Store, mode: Mode) -> StoredConsent:
        terms = {key: _readable(token) for key, token in (await store.consent_terms()).items()}
        return cls(store, mode, await store.consents(), terms)

    def mode(self, guild_id: int) -> str:
        return self._mode

    def allows(self, guild_id: int, user_id: int) -> bool:
        return self._decisions.get((guild_id, user_id), self._mode == "notice")

    def decision(self, guild_id: int, user_id: int) -> bool | None:
        """What the user said, or None if they never did."""
        return self._decisions.get((guild_id, user_id))

    def agreed_to(self, guild_id: int, user_id: int) -> Terms | None:
        """What the user's agreement covers, or None if they did not agree."""
        key = guild_id, user_id
        return self._terms.get(key, USUAL) if self._decisions.get(key) else None

    async def agree(self, guild_id: int, user_id: int, terms: Terms = USUAL) -> None:
        held = self.agreed_to(guild_id, user_id)
        if held is not None and held.covers(terms):
            terms = held
        await self._store.set_consent(guild_id, user_id, True, terms.token if terms != USUAL else None)
        self._decisions[guild_id, user_id] = True
        self._note(guild_id, user_id, terms)
        self._tell(guild_id, user_id)

    def _note(self, guild_id: int, user_id: int, terms: Terms) -> None:
        if terms == USUAL:
            self._terms.pop((guild_id, user_id), None)
        else:
            self._terms[guild_id, user_id] = terms

    async def opt_out(self, guild_id: int, user_id: int) -> None:
        # A refusal counts from the moment it is made, even if the disk is slow or refuses.
        self._decisions[guild_id, user_id] = False
        self._note(guild_id, user_id, USUAL)
        self._tell(guild_id, user_id)
        await self._store.set_consent(guild_id, user_id, False)

    def decisions_of(self, user_id: int) -> dict[str, str]:
        """All that is held about a user: guild id to ``agreed`` or ``refused``."""
        return {
            str(guild_id): "agreed" if allowed else "refused"
            for (guild_id, user), allowed in sorted(self._decisions.items())
            if user == user_id
        }

    def terms_of(self, user_id: int) -> dict[str, dict[str, object]]:
        """What is held about a user's agreements to other than the usual terms: guild id to the fields of `Terms`."""
        mine = {guild: terms for (guild, user), terms in self._terms.items() if user == user_id}
        return {str(guild): dataclasses.asdict(terms) for guild, terms in mine.items()}

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
                self._note(guild, user_id, USUAL)
                self._tell(guild, user_id)
        await self._store.forget_consent(user_id, keep=kept)
        return kept

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def ask_again(self, guild_id: int, user_id: int) -> None:
        """Have live sessions ask anew about a user; one without a decision is a newcomer to them, whom nobody told."""
        self._tell(guild_id, user_id)

    def _tell(self, guild_id: int, user_id: int) -> None:
        for callback in tuple(self._callbacks):
            callback(guild_id, user_id)
