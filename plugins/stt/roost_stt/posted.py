"""Which messages hold whose captions, so that a member who is forgotten can have them deleted at Discord too.

No words are kept, only the ids of messages and the places of lines in them, for `KEPT_DAYS`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence

import hikari

from roost.errors import RoostError
from roost.store import Document, PluginStore
from roost_stt.boards import Standing, refused
from roost_stt.refusals import Refusal, RefusedError

_log = logging.getLogger("roost.stt.captions")

KEPT_DAYS = 30
MOST_DELETED = 1000
"""Messages of one request."""
DELETING_S = 600.0
"""The longest work at one request; Discord takes a change of its answer for 15 minutes."""
REMEMBERED = 512
"""Messages whose speakers are in memory; only the latest of each channel still change."""
AGAIN_S = 5.0
DAY_S = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Posted:
    """One message with somebody's captions.

    Attributes:
        channel_id: Where it stands.
        message_id: Of the message.
        lines: Places of their lines, counted from 0.
        count: Number of lines of the message.
    """

    channel_id: int
    message_id: int
    lines: tuple[int, ...]
    count: int


@dataclasses.dataclass(slots=True)
class Deleted:
    """What a deletion of captions came to, in messages."""

    gone: int = 0
    """Deleted, or without those captions now."""
    forbidden: int = 0
    """Left because the bot may not change them."""
    left: int = 0
    """Left for another reason, such as time."""


class PostedCaptions:
    """The collection ``posted``: one document for each speaker of each message.

    Constructing it starts nothing: its owner runs `run` as a task.
    """

    def __init__(self, store: PluginStore) -> None:
        self._kept = store.collection("posted")
        self._pending: dict[Standing, tuple[int, tuple[int, ...]]] = {}
        self._speakers: dict[Standing, frozenset[int]] = {}
        """Of the messages that were stored last."""
        self._wake = asyncio.Event()
        self._storing = asyncio.Lock()

    def note(self, guild_id: int, message: Standing, speakers: Sequence[int]) -> None:
        """A message stands now with lines of these users, 0 for the bot's own; without any it is deleted."""
        self._pending[message] = guild_id, tuple(speakers)
        self._wake.set()

    async def run(self) -> None:
        """Store what is noted, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
            except RoostError as error:
                _log.warning("the places of captions could not be stored: %s", error)
                await asyncio.sleep(AGAIN_S)
                self._wake.set()

    async def flush(self) -> None:
        """Store what is noted.

        Raises:
            RoostError: The store refused it; it is noted still.
        """
        async with self._storing:
            while self._pending:
                message, (guild_id, speakers) = next(iter(self._pending.items()))
                await self._store(guild_id, message, speakers)
                if self._pending.get(message) == (guild_id, speakers):
                    del self._pending[message]

    async def flush_within(self, limit_s: float) -> None:
        """`flush` at the end, when there is no time for more than one attempt; what fails is logged."""
        try:
            async with asyncio.timeout(limit_s):
                await self.flush()
        except (RoostError, TimeoutError) as error:
            _log.warning("the places of the last captions could not be stored: %s", error or "no answer in time")

    async def _store(self, guild_id: int, message: Standing, speakers: tuple[int, ...]) -> None:
        present = frozenset(speakers) - {0}
        for user_id in self._speakers.pop(message, frozenset()) - present:
            await self._kept.delete(_key(message[1], user_id))
        if not present:
            return
        documents = []
        for user_id in sorted(present):
            lines = [place for place, speaker in enumerate(speakers) if speaker == user_id]
            documents.append((_key(message[1], user_id), _value(message[0], lines, len(speakers)), guild_id, user_id))
        await self._kept.put_many(documents)
        self._speakers[message] = present
        while len(self._speakers) > REMEMBERED:
            del self._speakers[next(iter(self._speakers))]

    async def of(self, user_id: int) -> list[Posted]:
        """The latest messages with a user's captions.

        Raises:
            RoostError: The store failed.
        """
        await self.flush()
        found = await self._kept.query(user_id=user_id, newest_first=True, limit=MOST_DELETED)
        return [each for each in map(_posted_of, found) if each is not None]

    async def sweep(self) -> None:
        """Delete what is older than `KEPT_DAYS`."""
        await self._kept.delete_where(changed_before=time.time() - KEPT_DAYS * DAY_S)

    async def delete(self, rest: hikari.api.RESTClient, posted: Sequence[Posted]) -> Deleted:
        """Delete captions at Discord: a whole message, or its lines where others' stand in it too.

        Takes at most `DELETING_S`; what Discord's rate limits allow.
        """
        result = Deleted()
        until = asyncio.get_running_loop().time() + DELETING_S
        for each in posted:
            try:
                async with asyncio.timeout_at(until):
                    await self._take_out(rest, each)
                result.gone += 1
            except TimeoutError:
                result.left += 1
            except RefusedError as error:
                if error.refusal is Refusal.GONE:
                    result.gone += 1
                elif error.refusal is Refusal.FORBIDDEN:
                    result.forbidden += 1
                else:
                    result.left += 1
            except RoostError as error:
                _log.warning("the places of captions could not be changed: %s", error)
                result.gone += 1
        return result

    async def _take_out(self, rest: hikari.api.RESTClient, posted: Posted) -> None:
        """Raises RefusedError when Discord refuses it."""
        try:
            message = await rest.fetch_message(posted.channel_id, posted.message_id)
            lines = (message.content or "").split("\n")
            kept = [line for place, line in enumerate(lines) if place not in posted.lines]
            others = posted.count - len(posted.lines)
            if not others or len(lines) != posted.count:
                await rest.delete_message(posted.channel_id, posted.message_id)
                return
            await rest.edit_message(
                posted.channel_id,
                posted.message_id,
                "\n".join(kept),
                mentions_everyone=False,
                user_mentions=False,
                role_mentions=False,
            )
        except Exception as error:
            raise refused(f"captions in {posted.channel_id} cannot be deleted", error) from error
        await self._move_up(posted)

    async def _move_up(self, without: Posted) -> None:
        """Note for the other speakers of a message that it has fewer lines."""
        for document in await self._kept.query(prefix=f"{without.message_id:020d}-"):
            other = _posted_of(document)
            if other is None or other.count != without.count:
                continue
            lines = [place - sum(gone < place for gone in without.lines) for place in other.lines]
            value = _value(other.channel_id, lines, other.count - len(without.lines))
            await self._kept.put(document.key, value, guild_id=document.guild_id, user_id=document.user_id)


def words(result: Deleted) -> str:
    """For the member who asked."""
    said = [f"Your captions are gone from {_messages(result.gone)}."]
    if result.forbidden:
        said.append(
            f"{_messages(result.forbidden)} could not be changed, because I may not read or write there any more: ask "
            "those who manage the server to delete them."
        )
    if result.left:
        said.append(
            f"{_messages(result.left)} could not be changed, because Discord did not take it: ask those who "
            "manage the server to delete them."
        )
    return " ".join(said)


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


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
        return Posted(int(value["channel"]), message_id, lines, int(value["count"]))
    except (KeyError, TypeError, ValueError) as error:
        _log.error("the place of a caption is damaged: %s: %s", document.key, type(error).__name__)
        return None
