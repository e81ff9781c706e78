"""Who may be heard. Decided before any frame is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Protocol

from roost.errors import ResourceError, StoreError
from roost.file_errors import explain
from roost.holder import cannot_use
from roost.scopes import Scope, finished
from roost.store import Store
from roost.store.decisions import NO_GUILD, Decisions, FileBatch, FileResult, Key, Outcome, Stamp, Word, Write
from roost.store.withdrawals import WithdrawalFile, open_withdrawals
from roost.strays import taming

_log = logging.getLogger("roost.consent")

Mode = Literal["opt-in", "notice"]
Changed = Callable[[int, int], None]
Decided = Mapping[Key, str | bool]
"""Decisions of the store: see `Store.consents`."""

AGREE_ID = "roost:consent:agree"
REFUSE_ID = "roost:consent:refuse"
"""``custom_id`` of the two buttons of a notice. `agree_id` adds the terms of the notice to the first."""

STORED_S = 12.0
"""How long a decision waits for the store; a locked SQLite refuses a little sooner."""
VOIDED_S = 2.0
"""How long the record of a failed agreement waits for the local file."""
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 60.0
REMEMBERED_S = 1.0
"""How long decisions that the store has wait until the data folder remembers that."""
ROWS = 500
"""Most decisions of one transaction."""
DRAINED_S = 1.0
"""How long the end waits for decisions that the store does not have yet; the local file keeps the rest."""
DISCORD_MS_SHIFT = 22
"""Discord's ids begin with the milliseconds since 2015; the bits behind those are not in order."""

USUAL_DAYS = 7
"""Days for which text is kept under the usual terms."""


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What an agreement covers, or what a member has to agree to before they are heard.

    The usual terms, `USUAL`, are what ``/privacy opt-in`` agrees to: the sound stays on the bot's machine and becomes
    text alone, which is kept for at most `USUAL_DAYS`, and the member can see every channel where the notice stands.

    Attributes:
        kept_days: Days for which text is kept, at most.
        services: Digest of the services that the sound is sent to, and of the plugins that receive it; empty for none.
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


@functools.lru_cache(maxsize=1024)
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
        """Record an agreement, durably, before returning. One to more than `terms` stays as it is.

        A later decision of the user may count by then.

        Raises:
            ResourceError: It could not be stored, so nothing has changed.
        """

    async def opt_out(self, guild_id: int, user_id: int) -> None:
        """Record a refusal, durably, before returning; live sessions stop hearing the user first.

        Raises:
            ResourceError: Nothing could be written yet; the user is not heard, and it is tried again.
        """

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        """Call back with (guild_id, user_id) after every change; the result unsubscribes."""
        ...


class StoredConsent:
    """`Consent` over the store and the local file of refusals, all decisions held in memory. Made by `open_consent`.

    The rules are those of `roost.store.decisions`.

    Args:
        store: Where decisions are kept.
        mode: Of the configuration.
        file: For those that the store does not have yet.
        decisions: What counts now.
        complete: No refusal is missing; else nobody is heard before they agree, whatever the mode.
    """

    def __init__(
        self, store: Store, mode: Mode, file: WithdrawalFile, decisions: Decisions, *, complete: bool = True
    ) -> None:
        self._store = store
        self._mode: Mode = mode if complete else "opt-in"
        self._keeps_refusals = mode == "notice"
        self._file = file
        self._decisions = decisions
        self._stamp = file.stamp
        """The last one, which the store may not have taken."""
        self._callbacks: list[Changed] = []
        self._file_news = asyncio.Event()
        self._store_news = asyncio.Event()
        self._ends: dict[int, asyncio.Future[Outcome]] = {}
        self._error: ResourceError | None = None
        """Of the last transaction; None when that was committed."""
        self._at_rest = asyncio.Event()
        self._thread: ThreadPoolExecutor | None = None

    def mode(self, guild_id: int) -> str:
        return self._mode

    def allows(self, guild_id: int, user_id: int) -> bool:
        word = self._decisions.held.get((guild_id, user_id))
        return self._mode == "notice" if word is None else word is not False

    def decision(self, guild_id: int, user_id: int) -> bool | None:
        """What the user said, or None if they never did."""
        word = self._decisions.held.get((guild_id, user_id))
        return None if word is None else word is not False

    def agreed_to(self, guild_id: int, user_id: int) -> Terms | None:
        """What the user's agreement covers, or None if they did not agree."""
        return _terms(self._decisions.held.get((guild_id, user_id)))

    @property
    def unstored(self) -> int:
        """Number of decisions that the store does not have yet."""
        return self._decisions.unstored

    def trouble(self) -> str:
        """How the local file was lost, as a sentence; empty while it is there."""
        return self._file.trouble()

    async def agree(self, guild_id: int, user_id: int, terms: Terms = USUAL, *, press: int | None = None) -> None:
        """See `Consent.agree`.

        Args:
            terms: What the user agrees to.
            press: Id of the interaction in which the user decided; their presses count in Discord's order.
        """
        wanted = _terms(self._decisions.wanted((guild_id, user_id)))
        if wanted is not None and wanted.covers(terms):
            terms = wanted
        word = "" if terms == USUAL else terms.token
        number = self._decisions.agree((guild_id, user_id), word, _pressed_ms(press))
        await self._ended([] if number is None else [number])

    async def opt_out(self, guild_id: int, user_id: int, *, press: int | None = None) -> None:
        """See `Consent.opt_out` and `agree`."""
        number = self._decisions.refuse((guild_id, user_id), _pressed_ms(press))
        await self._ended([] if number is None else [number])

    def decisions_of(self, user_id: int) -> dict[str, str]:
        """All that is held about a user: guild id to ``agreed`` or ``refused``."""
        return {
            str(guild_id): "refused" if word is False else "agreed"
            for (guild_id, user), word in sorted(self._decisions.held.items())
            if user == user_id
        }

    def terms_of(self, user_id: int) -> dict[str, dict[str, object]]:
        """What is held about a user's agreements to other than the usual terms: guild id to the fields of `Terms`."""
        found = {guild_id: _terms(word) for (guild_id, user), word in self._decisions.held.items() if user == user_id}
        return {str(guild): dataclasses.asdict(terms) for guild, terms in found.items() if terms not in (None, USUAL)}

    async def forget(self, user_id: int) -> tuple[int, ...]:
        """Delete a user's decisions; the store has that when it returns. Live sessions stop hearing them first.

        A refusal in a guild that hears everybody who does not refuse is kept: without it they would be heard again.

        Returns:
            The guilds in which a refusal is kept.

        Raises:
            ResourceError: The store failed; the decisions do not count any more, and it is tried again.
        """
        numbers, kept = self._decisions.forget(user_id, keep_refusals=self._keeps_refusals)
        await self._ended(numbers.values())
        return kept

    def kept_refusals(self, user_id: int) -> tuple[int, ...]:
        """The guilds in which `forget` keeps a user's refusal."""
        refused = (
            guild_id for (guild_id, user), word in self._decisions.held.items() if user == user_id and word is False
        )
        return tuple(sorted(refused)) if self._keeps_refusals else ()

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def ask_again(self, guild_id: int, user_id: int) -> None:
        """Have live sessions ask anew about a user; one without a decision is a newcomer to them, whom nobody told."""
        self._tell(guild_id, user_id)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write decisions until the block ends."""
        scope = Scope("consent")
        # Of its own: plugins may keep all of the loop's common threads.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="consent")
        # It begins now: later there may be no room for one.
        await asyncio.get_running_loop().run_in_executor(self._thread, _begun)
        try:
            scope.keep(self._keep_in_file, "local file")
            scope.keep(self._write_to_store, "store")
            self._wake()
            yield
            await self._drained()
        finally:
            left = await scope.aclose()
            self._thread.submit(self._file.close)  # after a write that hangs, if there is one
            self._thread.shutdown(wait=not left)
            for end in self._ends.values():
                if not end.done():
                    end.set_result(Outcome.FAILED)
            if self._decisions.unstored:
                _log.warning(
                    "%d decisions are not in the database; the next start writes them", self._decisions.unstored
                )

    async def _drained(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAINED_S):
                await self._at_rest.wait()

    async def _ended(self, numbers: Iterable[int]) -> None:
        """Wait until decisions came to their end.

        Raises:
            ResourceError: One of them could not be stored.
        """
        loop = asyncio.get_running_loop()
        ends = [(number, self._ends.setdefault(number, loop.create_future())) for number in numbers]
        self._wake()
        until = loop.time() + STORED_S
        failed = False
        for number, end in ends:
            await asyncio.wait({end}, timeout=until - loop.time())
            if not end.done():
                self._decisions.give_up(number)
                self._wake()
                await asyncio.wait({end}, timeout=VOIDED_S)
                self._decisions.give_up(number)
                self._ends.pop(number, None)
            failed = failed or not end.done() or end.result() is Outcome.FAILED
        if failed:
            raise _again(self._error)

    def _wake(self, *, store: bool = True) -> None:
        """After every step of `_decisions`: tell what changed, end waits, and look for more to write.

        Args:
            store: In the store, too; it is tried again at once even if it has just failed.
        """
        for guild_id, user_id in self._decisions.take_changed():
            self._tell(guild_id, user_id)
        for number, outcome in self._decisions.take_outcomes():
            end = self._ends.pop(number, None)
            if end is not None and not end.done():
                end.set_result(outcome)
        self._file_news.set()
        if store:
            self._store_news.set()
        if self._decisions.is_at_rest or (self._error is not None and self._decisions.is_safe):
            self._at_rest.set()
        else:
            self._at_rest.clear()

    def _tell(self, guild_id: int, user_id: int) -> None:
        for callback in tuple(self._callbacks):
            try:
                with taming():
                    callback(guild_id, user_id)
            except Exception:  # noqa: BLE001 - logged; one subscriber must not cost the others the change
                _log.exception("guild %d: a change of consent was not taken up", guild_id)

    async def _keep_in_file(self) -> None:
        pause_s, failed = FIRST_RETRY_S, False
        while True:
            self._file_news.clear()
            if (batch := self._decisions.take_file_batch()) is not None:
                worked = await finished(self._apply(batch))
                if worked and failed:
                    self._decisions.try_file_again()
                if worked:
                    pause_s = FIRST_RETRY_S
                failed = not worked
            elif not failed:
                await self._file_news.wait()
            else:
                try:
                    async with asyncio.timeout(pause_s):
                        await self._file_news.wait()
                except TimeoutError:
                    self._decisions.try_file_again()
                    pause_s = min(2 * pause_s, LONGEST_RETRY_S)

    async def _apply(self, batch: FileBatch) -> bool:
        """Carry out a batch of the file; whether all of it worked."""
        assert self._thread is not None
        result = FileResult(kept=False, cleared=False)
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, self._file.apply, batch)
        finally:
            self._decisions.file_done(result)
            self._wake(store=self._error is None)
        return result.kept and result.cleared

    async def _write_to_store(self) -> None:
        pause_s = FIRST_RETRY_S
        while True:
            self._store_news.clear()
            if not (batch := self._decisions.take_store_batch(ROWS)):
                await self._store_news.wait()
                continue
            try:
                stamp = self._next_stamp(batch)
                await self._store.set_consents({write.key: write.word for write in batch}, stamp)
                await self._remember(stamp)
            except ResourceError as error:
                if self._error is None:
                    _log.error("%d decisions of members wait for the database: %s", len(batch), error)
                self._error = error
                self._decisions.store_failed(perhaps_done=not isinstance(error, StoreError) or error.perhaps_done)
                self._wake()
            except BaseException:
                self._decisions.store_failed(perhaps_done=True)
                self._wake()
                raise
            else:
                if self._error is not None:
                    _log.info("the database takes the decisions of members again")
                self._error, pause_s = None, FIRST_RETRY_S
                self._decisions.store_done()
                self._wake()
                continue
            if not self._decisions.has_agreements:
                self._store_news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._store_news.wait()
                pause_s = min(2 * pause_s, LONGEST_RETRY_S)

    def _next_stamp(self, batch: Iterable[Write]) -> Stamp | None:
        """The stamp of a transaction; None for one with agreements alone, which no database has to have."""
        if all(isinstance(write.word, str) for write in batch):
            return None
        # Another at every attempt: one that failed may have been committed.
        self._stamp = self._stamp._replace(number=self._stamp.number + 1)
        return self._stamp

    async def _remember(self, stamp: Stamp | None) -> None:
        """Have the data folder remember a stamp before the local file loses the decisions that came with it.

        A disk that hangs delays that alone: the file is changed in the order in which it was asked.
        """
        if stamp is None:
            return
        assert self._thread is not None
        remembered = asyncio.get_running_loop().run_in_executor(self._thread, _remembered, self._file, stamp)
        await asyncio.wait({remembered}, timeout=REMEMBERED_S)


@asynccontextmanager
async def open_consent(store: Store, mode: Mode, data_dir: Path) -> AsyncIterator[StoredConsent]:
    """The decisions of the store, and the refusals and withdrawals that it does not have yet.

    Raises:
        ConfigError: The local file cannot be used.
        ResourceError: The store failed.
    """
    found = await store.consents()
    file = open_withdrawals(data_dir)
    try:
        stored, complete = await _checked(store, file, await _without_forgotten(store, file, found))
    except BaseException:
        file.close()
        raise
    if not complete and mode == "notice":
        _log.error(
            "the consent mode notice counts as opt-in: refusals are missing in the database, so nobody is heard before "
            "they agree; to have silence count again, stop the bot and delete the file %s",
            file.path,
        )
    consent = StoredConsent(store, mode, file, Decisions(stored, file.records()), complete=complete)
    async with consent.writing():
        yield consent


async def _checked(store: Store, file: WithdrawalFile, stored: Decided) -> tuple[Decided, bool]:
    """What counts of the store's decisions, and whether no refusal is missing among them.

    Agreements do not count where the member may have refused since: in a database that lacks refusals that were made
    with this data folder, and where the local file lost some. They are deleted there, and the members asked anew.

    Raises:
        ConfigError: The local file cannot be written.
        ResourceError: The store failed.
    """
    seen = await store.seen(file.stamp.folder)
    stamp = Stamp(file.stamp.folder, max(seen.number, file.stamp.number))
    complete = seen.complete
    try:
        if file.marked:
            # With a number that no copy of the database has: those lack the lost refusals, too.
            stamp = stamp._replace(number=stamp.number + 1)
            stored, complete = await _without_agreements(store, stamp, stored), False
            _log.error(
                "more members refused while the database was away than %s has room for, or a part of it is lost: "
                "agreements do not count any more, and the members are asked anew",
                file.path,
            )
            file.mend(stamp)
        elif seen.number < stamp.number:
            # With the same number: the newer database is still good until the next refusal.
            stored, complete = await _without_agreements(store, stamp, stored), False
            _log.error(
                "the database %s lacks refusals that were made with the data folder %s (it is an older copy, or "
                "another one was in use meanwhile): agreements in it do not count any more, and the members are asked "
                "anew",
                store.place,
                file.path.parent,
            )
        elif stored and not stamp.number:
            # Both are new to each other; from now on the folder knows which database it was.
            stamp = stamp._replace(number=1)
            await store.note_folder(stamp)
        if stamp != file.stamp:
            file.remember(stamp)
    except OSError as error:
        raise cannot_use(file.path, error, f"the data folder {file.path.parent}") from None
    return stored, complete


async def _without_forgotten(store: Store, file: WithdrawalFile, stored: Decided) -> Decided:
    """Delete agreements of users who were forgotten while another database was in use; what is left."""
    forgotten = {user_id for _, (guild_id, user_id), _ in file.records() if guild_id == NO_GUILD}
    gone = {key: None for key, word in stored.items() if key[1] in forgotten and word is not False}
    if gone:
        await store.set_consents(gone)
    return {key: word for key, word in stored.items() if key not in gone}


async def _without_agreements(store: Store, stamp: Stamp, stored: Decided) -> Decided:
    """Delete all agreements; what is left."""
    dropped = await store.drop_agreements(stamp)
    _log.warning("%d agreements were deleted from the database", dropped)
    return {key: word for key, word in stored.items() if word is False}


def _remembered(file: WithdrawalFile, stamp: Stamp) -> None:
    try:
        file.remember(stamp)
    except OSError as error:
        _log.error("%s cannot note what the database has: %s", file.path, explain(error, file.path))


def _terms(word: Word) -> Terms | None:
    """What an agreement covers; None for any other word."""
    if not isinstance(word, str):
        return None
    return _readable(word) if word else USUAL


def _begun() -> None:
    """The first work of a thread."""


def _pressed_ms(press: int | None) -> int | None:
    return None if press is None else int(press) >> DISCORD_MS_SHIFT


def _again(error: ResourceError | None) -> ResourceError:
    """An error for one of those who waited for the same transaction."""
    if error is None:
        return StoreError("the database does not answer; see its own log", retryable=True)
    if isinstance(error, StoreError):
        return StoreError(str(error), cause=error.cause, retryable=error.retryable)
    return ResourceError(str(error), retryable=error.retryable)
