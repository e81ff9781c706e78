"""Which messages hold whose captions, so that a member who is forgotten can have them deleted at Discord too.

Also, which lines of which messages have to go, so that it is done after the next start where Discord refused it until
the end. No words are kept, only the ids of messages and the places of lines in them, for `KEPT_DAYS`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import hikari

from roost.errors import ResourceError, RoostError
from roost.i18n import counted
from roost.store import Document, PluginStore
from roost_stt.boards import Standing, refused
from roost_stt.pages import Cut
from roost_stt.refusals import Refusal, RefusedError

T = TypeVar("T")
_log = logging.getLogger("roost.stt.captions")

KEPT_DAYS = 30
DELETING_S = 600.0
"""The longest work at one request; Discord takes a change of its answer for 15 minutes."""
REMEMBERED = 512
"""Messages whose speakers are in memory; only the latest of each channel still change."""
MOST_PENDING = 10_000
"""Messages that wait for a store that is away; beyond that the oldest are not stored."""
MOST_CUTS = 1000
"""Messages from which something has to go that are noted for the next start."""
MOST_LEFT = 100
"""Members who were offered to have their captions deleted, of whom those that stand are in memory."""
AGAIN_S = 5.0
DAY_S = 86_400.0
UNKNOWN = -1
"""Speaker of a line that is not noted: the bot's own line, or a line of a member who was forgotten."""


@dataclasses.dataclass(frozen=True, slots=True)
class Posted:
    """One message with somebody's captions, as it was noted.

    Attributes:
        user_id: The speaker.
        guild_id: Of the message's server.
        channel_id: Of the message.
        message_id: Of the message.
        lines: Places of their lines, counted from 0.
        count: Number of lines of the message.
    """

    user_id: int
    guild_id: int
    channel_id: int
    message_id: int
    lines: tuple[int, ...]
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class NotedCut:
    """What an earlier process noted of a message.

    Attributes:
        guild_id: Of the message's server.
        message: The message.
        cut: What has to go from it.
    """

    guild_id: int
    message: Standing
    cut: Cut


@dataclasses.dataclass(slots=True)
class Deleted:
    """What a deletion of captions came to, in messages."""

    gone: int = 0
    """Deleted, or without those captions now."""
    forbidden: int = 0
    """Left because the bot may not change them."""
    unclear: int = 0
    """Left because it is not certain which of the lines are theirs."""
    left: int = 0
    """Left because a request failed."""
    late: int = 0
    """Left because the time was over."""


async def _store_each(
    pending: dict[Standing, tuple[int, T]], store: Callable[[int, Standing, T], Awaitable[None]]
) -> Exception | None:
    """Store all that is noted, and return the first failure that is not the store's: it holds up nothing else.

    Raises:
        RoostError: The store failed.
    """
    failed: dict[Standing, Exception] = {}
    while (message := next((each for each in pending if each not in failed), None)) is not None:
        noted = pending[message]
        try:
            await store(noted[0], message, noted[1])
        except RoostError:
            raise
        except Exception as error:  # noqa: BLE001  returned
            failed[message] = error
            continue
        if pending.get(message) == noted:
            del pending[message]
    return next(iter(failed.values()), None)


class _UnclearError(ResourceError):
    """The lines of a message are not the ones that were noted."""


class PostedCaptions:
    """Two collections: ``posted`` has a document for each speaker of each message, ``cuts`` for what has to go.

    Constructing it starts nothing: its owner keeps `run` running.
    """

    def __init__(self, store: PluginStore) -> None:
        self._kept = store.collection("posted")
        self._cuts = store.collection("cuts")
        self._pending_cuts: dict[Standing, tuple[int, Cut | None]] = {}
        self._noted_cuts: set[Standing] = set()
        """Messages in `_cuts`, or on the way there."""
        self._given_up: dict[Standing, int] = {}
        """Those of them that this process tries no more, with their guilds; the oldest first."""
        self._pending: dict[Standing, tuple[int, tuple[int, ...]]] = {}
        self._speakers: dict[Standing, tuple[int, tuple[int, ...]]] = {}
        """Of each line of the messages that were stored last, with the message's guild."""
        self._left: dict[int, list[Posted]] = {}
        """By user: captions that were offered for deletion, or could not be deleted at the last request."""
        self._taking = asyncio.Lock()
        """Held while one message is changed: two members' lines can be in it."""
        self._overflows = False
        """Pending notes have been dropped since the store was last up to date."""
        self._wake = asyncio.Event()
        self._storing = asyncio.Lock()

    def note(self, guild_id: int, message: Standing, speakers: Sequence[int]) -> None:
        """A message stands now with lines of these users, 0 for the bot's own; without any it is deleted."""
        self._pending[message] = guild_id, tuple(speakers)
        if len(self._pending) > MOST_PENDING:
            del self._pending[next(iter(self._pending))]
            if not self._overflows:
                _log.error("the places of more than %d captions wait for the store; the oldest are lost", MOST_PENDING)
            self._overflows = True
        self._wake.set()

    def note_cut(self, guild_id: int, message: Standing, cut: Cut | None) -> None:
        """What has to go from a message, for the next process if this one does not come to it; None: nothing."""
        if message not in self._noted_cuts:
            if cut is None:
                return
            if len(self._noted_cuts) >= MOST_CUTS and not self._drop_given_up():
                _log.error("what has to go from more than %d messages waits; the next start misses one", MOST_CUTS)
                return
            self._noted_cuts.add(message)
        self._given_up.pop(message, None)
        self._pending_cuts[message] = guild_id, cut
        self._wake.set()

    def gave_up(self, guild_id: int, message: Standing) -> None:
        """What has to go from a message is left to the next start, and to people."""
        if message in self._noted_cuts:
            self._given_up[message] = guild_id

    def _drop_given_up(self) -> bool:
        """Note no longer what was given up first; return whether there was anything."""
        if not self._given_up:
            return False
        message = next(iter(self._given_up))
        self.note_cut(self._given_up[message], message, None)
        self._noted_cuts.discard(message)
        return True

    def keeps_cut(self, message: Standing) -> bool:
        """Whether the store has what has to go from a message."""
        return message in self._noted_cuts and message not in self._pending_cuts

    async def earlier_cuts(self) -> list[NotedCut]:
        """What earlier processes left, at most `MOST_CUTS`; `note_cut` with None when it is done.

        Raises:
            RoostError: The store failed.
        """
        found = []
        for document in await self._cuts.query(limit=MOST_CUTS):
            noted = _cut_of(document)
            if noted is not None:
                found.append(noted)
                self._noted_cuts.add(noted.message)
        return found

    async def run(self) -> None:
        """Store what is noted, for ever, whatever the store makes of it."""
        while True:
            try:
                await self.flush()
            except RoostError as error:
                _log.warning("the places of captions could not be stored: %s", error)
            except Exception as error:  # noqa: BLE001  tried again, or nobody's captions would be noted any more
                _log.error("the places of captions could not be stored: %s", type(error).__name__, exc_info=error)
            else:
                await self._wake.wait()
                self._wake.clear()
                continue
            await asyncio.sleep(AGAIN_S)

    async def flush(self) -> None:
        """Store what is noted.

        Raises:
            RoostError: The store refused it; it is noted still.
            Exception: It failed for another reason with some of it, which is noted still; the rest is stored.
        """
        async with self._storing:
            first = await _store_each(self._pending_cuts, self._store_cut)
            second = await _store_each(self._pending, self._store)
            self._overflows = False
        for failure in (first, second):
            if failure is not None:
                raise failure

    async def flush_within(self, limit_s: float) -> None:
        """`flush` at the end, when there is no time for more than one attempt; what fails is logged."""
        try:
            async with asyncio.timeout(limit_s):
                await self.flush()
        except (RoostError, TimeoutError) as error:
            _log.warning("the places of the last captions could not be stored: %s", error or "no answer in time")
        except Exception as error:  # noqa: BLE001  the plugin has more to end
            _log.error("the places of the last captions could not be stored: %s", type(error).__name__, exc_info=error)

    async def _store_cut(self, guild_id: int, message: Standing, cut: Cut | None) -> None:
        key = f"{message[1]:020d}"
        if cut is not None:
            await self._cuts.put(key, _value(message[0], cut.places, cut.count), guild_id=guild_id)
        else:
            await self._cuts.delete(key)
        if self._pending_cuts.get(message) == (guild_id, cut):
            del self._pending_cuts[message]
            if cut is None:
                self._noted_cuts.discard(message)

    async def _store(self, guild_id: int, message: Standing, speakers: tuple[int, ...]) -> None:
        _, before = self._speakers.get(message, (guild_id, ()))
        await self._write(guild_id, message, before, speakers)
        # Only now: if that failed, the next attempt has to know whose documents to delete.
        self._speakers.pop(message, None)
        if not _members(speakers):
            return
        self._speakers[message] = guild_id, speakers
        while len(self._speakers) > REMEMBERED:
            del self._speakers[next(iter(self._speakers))]

    async def _write(self, guild_id: int, message: Standing, before: Sequence[int], now: Sequence[int]) -> None:
        """Store the documents of a message that had lines of some speakers and has lines of others."""
        for user_id in _members(before) - _members(now):
            await self._kept.delete(_key(message[1], user_id))
        documents = []
        for user_id in sorted(_members(now)):
            value = _value(message[0], _places(now, user_id), len(now))
            documents.append((_key(message[1], user_id), value, guild_id, user_id))
        if documents:
            await self._kept.put_many(documents)

    async def of(self, user_id: int) -> list[Posted]:
        """All messages with a user's captions, the newest first; also those that were `offered` and not deleted.

        Raises:
            RoostError: The store failed.
        """
        await self.flush()
        found = {each.message_id: each for each in self._left.get(user_id, ())}
        async for document in self._kept.scan(user_id=user_id):
            posted = _posted_of(document)
            if posted is not None:
                found[posted.message_id] = posted
        return [found[message_id] for message_id in sorted(found, reverse=True)]

    def offered(self, user_id: int, posted: Sequence[Posted]) -> None:
        """Remember captions whose deletion is offered to a member: the store forgets them before the member answers."""
        self._left.pop(user_id, None)
        self._left[user_id] = list(posted)
        self._bound_left()

    def _bound_left(self) -> None:
        while len(self._left) > MOST_LEFT:
            del self._left[next(iter(self._left))]

    async def sweep(self) -> None:
        """Delete what is older than `KEPT_DAYS`.

        Raises:
            RoostError: The store failed.
            Exception: Something noted cannot be stored; what is too old is deleted all the same.
        """
        try:
            # What is done may still be noted.
            await self.flush()
        finally:
            await self._sweep_stored()

    async def _sweep_stored(self) -> None:
        before = time.time() - KEPT_DAYS * DAY_S
        await self._kept.delete_where(changed_before=before)
        async with self._storing:
            old = [each async for each in self._cuts.scan() if each.changed_at < before]
            for document in old:
                await self._cuts.delete(document.key)
                if (noted := _cut_of(document)) is not None:
                    self._noted_cuts.discard(noted.message)
                    self._given_up.pop(noted.message, None)
        if old:
            messages = counted(len(old), "message")
            _log.error("withdrawn words were not taken out of %s within %d days", messages, KEPT_DAYS)

    async def delete(self, rest: hikari.api.RESTClient, posted: Sequence[Posted]) -> Deleted:
        """Delete captions at Discord: a whole message, or its lines where others' are in it too.

        Takes at most `DELETING_S`. `of` finds what failed or was not reached once more, until the process ends.
        """
        result = Deleted()
        left: dict[int, list[Posted]] = {each.user_id: [] for each in posted}
        until = asyncio.get_running_loop().time() + DELETING_S
        for each in posted:
            again = False
            try:
                async with asyncio.timeout_at(until):
                    await self._take_out(rest, each)
                result.gone += 1
            except TimeoutError:
                result.late += 1
                again = True
            except _UnclearError as error:
                _log.warning("captions were not deleted: %s", error)
                result.unclear += 1
            except RefusedError as error:
                if error.refusal is Refusal.GONE:
                    result.gone += 1
                    continue
                result.forbidden += error.refusal is Refusal.FORBIDDEN
                result.left += error.refusal is not Refusal.FORBIDDEN
                again = True
            except RoostError as error:
                _log.warning("captions were not deleted: %s", error)
                result.left += 1
                again = True
            if again:
                left[each.user_id].append(each)
        for user_id, rest_of_it in left.items():
            self._left.pop(user_id, None)
            if rest_of_it:
                self._left[user_id] = rest_of_it
        self._bound_left()
        return result

    async def _take_out(self, rest: hikari.api.RESTClient, posted: Posted) -> None:
        """Delete one speaker's lines of a message.

        Who said which line is asked when it is changed, for it may have changed since it was noted.

        Raises:
            RefusedError: Discord refuses it.
            _UnclearError: The lines at Discord are not the ones that were noted.
            RoostError: The store failed; nothing is changed.
        """
        message = posted.channel_id, posted.message_id
        async with self._taking:
            known = self._known(message)
            if known is not None and posted.user_id not in known:
                return
            noted = await self._noted(posted) if known is None else ()
            lines = await _lines_of(rest, message)
            speakers = self._known(message) or noted
            if len(lines) != len(speakers):
                raise _UnclearError(f"message {posted.message_id} has {len(lines)} lines, not {len(speakers)}")
            kept = [place for place, speaker in enumerate(speakers) if speaker != posted.user_id]
            await _leave(rest, message, [lines[place] for place in kept])
            await self._took_out(posted, speakers, [speakers[place] for place in kept])

    async def take_out(self, rest: hikari.api.RESTClient, noted: NotedCut) -> None:
        """Take out of a message what an earlier process noted; the whole message where its lines are others now.

        Raises:
            RefusedError: Discord refuses it.
        """
        async with self._taking:
            lines = await _lines_of(rest, noted.message)
            left = noted.cut.left(len(lines))
            if len(left) < len(lines):
                await _leave(rest, noted.message, [lines[place] for place in left])
            try:
                await self._follow(noted, is_gone=not left)
            except RoostError as error:
                _log.warning("the places of other members' captions are not up to date: %s", error)

    async def _follow(self, noted: NotedCut, *, is_gone: bool) -> None:
        """Note what is left of whose captions in a message after a cut."""
        kept = [place for place in range(noted.cut.count) if place not in noted.cut.places]
        documents = []
        for document in await self._kept.query(prefix=f"{noted.message[1]:020d}-"):
            posted = _posted_of(document)
            if posted is None or (posted.count != noted.cut.count and not is_gone):
                continue
            lines = [] if is_gone else [kept.index(place) for place in posted.lines if place in kept]
            if lines:
                value = _value(posted.channel_id, lines, len(kept))
                documents.append((document.key, value, noted.guild_id, posted.user_id))
            else:
                await self._kept.delete(document.key)
        if documents:
            await self._kept.put_many(documents)

    def _known(self, message: Standing) -> tuple[int, ...] | None:
        """The speakers of the lines of a message that was noted lately; () for one that was deleted."""
        known = self._pending.get(message) or self._speakers.get(message)
        return None if known is None else known[1]

    async def _noted(self, posted: Posted) -> tuple[int, ...]:
        """The speakers of the lines of an older message, by what is stored about the others.

        Raises:
            _UnclearError: The message was changed since `posted` was noted.
            RoostError: The store failed.
        """
        speakers = [posted.user_id if place in posted.lines else UNKNOWN for place in range(posted.count)]
        for document in await self._kept.query(prefix=f"{posted.message_id:020d}-"):
            other = _posted_of(document)
            if other is None or other.user_id == posted.user_id:
                continue
            if other.count != posted.count or any(speakers[place] != UNKNOWN for place in other.lines):
                raise _UnclearError(f"message {posted.message_id} has changed since its lines were noted")
            for place in other.lines:
                speakers[place] = other.user_id
        return tuple(speakers)

    async def _took_out(self, posted: Posted, before: Sequence[int], now: Sequence[int]) -> None:
        """Note that a message has fewer lines."""
        message = posted.channel_id, posted.message_id
        if self._known(message) is not None:
            self.note(posted.guild_id, message, now)
            return
        try:
            await self._write(posted.guild_id, message, before, now)
        except RoostError as error:
            # Their number of lines does not fit any more, so nobody else's lines are taken for theirs.
            _log.warning("the places of other members' captions are not up to date: %s", error)


def words(result: Deleted) -> str:
    """For the member who asked."""
    said = [f"Your captions are gone from {_messages(result.gone)}."]
    if result.forbidden:
        said.append(
            f"{_messages(result.forbidden)} could not be changed, because I may not read or write there any more: ask "
            "those who manage the server to delete them."
        )
    if result.unclear:
        said.append(
            f"{_messages(result.unclear)} could not be changed, because I cannot tell for certain which of the lines "
            "are yours: ask those who manage the server to delete them."
        )
    if result.left:
        said.append(
            f"{_messages(result.left)} could not be changed, because Discord did not take it: use "
            "`/privacy forget-me` again later, or ask those who manage the server to delete them."
        )
    if result.late:
        said.append(
            f"{_messages(result.late)} could not be changed in time: use `/privacy forget-me` again, and I go on."
        )
    return " ".join(said)


async def _lines_of(rest: hikari.api.RESTClient, message: Standing) -> list[str]:
    """The lines of a message at Discord.

    Raises:
        RefusedError: Discord refuses it.
    """
    try:
        return ((await rest.fetch_message(*message)).content or "").split("\n")
    except Exception as error:
        raise refused(f"captions in {message[0]} cannot be deleted", error) from error


async def _leave(rest: hikari.api.RESTClient, message: Standing, lines: Sequence[str]) -> None:
    """Have a message show these lines alone; without any it is deleted.

    Raises:
        RefusedError: Discord refuses it.
    """
    try:
        if lines:
            text = "\n".join(lines)
            await rest.edit_message(*message, text, mentions_everyone=False, user_mentions=False, role_mentions=False)
        else:
            await rest.delete_message(*message)
    except Exception as error:
        raise refused(f"captions in {message[0]} cannot be deleted", error) from error


def _messages(count: int) -> str:
    return counted(count, "message")


def _members(speakers: Sequence[int]) -> frozenset[int]:
    return frozenset(speakers) - {0, UNKNOWN}


def _places(speakers: Sequence[int], user_id: int) -> list[int]:
    return [place for place, speaker in enumerate(speakers) if speaker == user_id]


def _key(message_id: int, user_id: int) -> str:
    return f"{message_id:020d}-{user_id}"


def _value(channel_id: int, lines: Sequence[int], count: int) -> dict[str, object]:
    return {"channel": str(channel_id), "lines": list(lines), "count": count}


def _posted_of(document: Document) -> Posted | None:
    """A stored document; None for one that is damaged."""
    try:
        value = document.value
        message_id = int(document.key.partition("-")[0])
        lines = tuple(int(each) for each in value["lines"])
        return Posted(
            int(document.user_id or 0),
            int(document.guild_id or 0),
            int(value["channel"]),
            message_id,
            lines,
            int(value["count"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        _log.error("the place of a caption is damaged: %s: %s", document.key, type(error).__name__)
        return None


def _cut_of(document: Document) -> NotedCut | None:
    """A stored document; None for one that is damaged."""
    try:
        value = document.value
        cut = Cut(int(value["count"]), tuple(int(each) for each in value["lines"]))
        return NotedCut(int(document.guild_id or 0), (int(value["channel"]), int(document.key)), cut)
    except (KeyError, TypeError, ValueError) as error:
        _log.error("what has to go from a message is damaged: %s: %s", document.key, type(error).__name__)
        return None
