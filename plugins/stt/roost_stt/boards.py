"""Where captions stand at Discord: in the channel, or in a thread of it. Nothing sent from here pings anybody."""

from __future__ import annotations

import datetime
import http
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import hikari

from roost.permissions import permissions_in
from roost.rest_buckets import NotSentError, new_nonce, sent_only_if
from roost.unreadable import is_unreadable_answer, was_carried_out
from roost_stt.captions import clean
from roost_stt.config import Where
from roost_stt.pages import Wanted, always
from roost_stt.refusals import WAITS, Refusal, RefusedError

_log = logging.getLogger("roost.stt")

THREADS = hikari.Permissions.CREATE_PUBLIC_THREADS | hikari.Permissions.SEND_MESSAGES_IN_THREADS
THREAD_NAME_LIMIT = 100
THREAD_IDLE = datetime.timedelta(days=1)
NO_THREAD = (
    "I cannot write captions into a thread here, so they go to this channel. "
    "A thread needs a text channel, and Create Public Threads and Send Messages in Threads for me."
)

_NOT_THE_THREADS = frozenset({Refusal.LATER, Refusal.UNKNOWN, Refusal.UNSENT, Refusal.UNREADABLE})
"""Refusals that do not come of where the message was to go."""
Standing = tuple[int, int]
"""Channel and id of a message."""


async def say(bot: hikari.GatewayBot, channel_id: int, text: str, nonce: str | None = None) -> int:
    """One message; gives its id.

    Args:
        bot: Whose.
        channel_id: Where.
        text: Of the message.
        nonce: Have Discord post nothing where the bot used it in the last minutes, and give that message's id. None:
            a new one.

    Raises:
        RefusedError: Discord refused it.
    """
    try:
        message = await bot.rest.create_message(
            channel_id,
            text,
            flags=hikari.MessageFlag.SUPPRESS_EMBEDS,
            nonce=nonce or new_nonce(),
            mentions_everyone=False,
            user_mentions=False,
            role_mentions=False,
        )
        return int(message.id)
    except Exception as error:
        raise refused(f"channel {channel_id} refused a message", error) from error


def refused(what: str, error: Exception) -> RefusedError:
    """What an error of a request means.

    Discord's answer is foreign input: what hikari raises on one of another shape can be anything.
    """
    return RefusedError(f"{what}: {type(error).__name__}", _refusal_of(error))


def _refusal_of(error: Exception) -> Refusal:
    if isinstance(error, NotSentError):
        return Refusal.UNKNOWN if error.perhaps_done else Refusal.UNSENT
    if isinstance(error, hikari.ForbiddenError):
        return Refusal.FORBIDDEN
    if isinstance(error, hikari.NotFoundError):
        return Refusal.GONE
    if isinstance(error, hikari.ClientHTTPResponseError) and not isinstance(error, hikari.UnauthorizedError):
        return Refusal.REJECTED if error.status != http.HTTPStatus.TOO_MANY_REQUESTS else Refusal.LATER
    if isinstance(error, hikari.UnrecognisedEntityError):
        return Refusal.UNREADABLE
    if isinstance(error, hikari.RateLimitTooLongError):
        return Refusal.LATER
    if isinstance(error, hikari.HikariError | OSError | TimeoutError):
        return Refusal.UNKNOWN
    # What Discord refused for a reason that cannot be read was not carried out.
    is_refused = is_unreadable_answer(error) and not was_carried_out(error)
    return Refusal.UNKNOWN if is_refused else Refusal.UNREADABLE


class ChannelBoard:
    """`roost_stt.pages.Board` of one text channel.

    The thread is made under a first message when the first caption comes. Whoever may not have one is told so once,
    and gets the captions in the channel.

    Args:
        bot: Whose.
        channel_id: The text channel.
        where: Asked for each message.
        voice_channel: Which one is heard now; the thread is named after it.
        thread_id: The thread of before, where a transcription goes on after a reload.
        opened: Called with the id of a thread that was made, before anything stands in it; with None when it takes
            nothing any more.
    """

    def __init__(
        self,
        bot: hikari.GatewayBot,
        channel_id: int,
        where: Callable[[], Where],
        voice_channel: Callable[[], int],
        *,
        thread_id: int | None = None,
        opened: Callable[[int | None], Awaitable[None]] | None = None,
    ) -> None:
        self._bot = bot
        self._channel_id = channel_id
        self._where = where
        self._voice_channel = voice_channel
        self._has_no_thread = False
        self._owes_word = False
        """Nobody has been told that there is no thread."""
        self._opened = opened
        self.thread_id = thread_id

    async def prepare(self) -> bool:
        """Open the thread, or tell that there is none; see `roost_stt.pages.Board`.

        Raises:
            RefusedError: Discord refused it for now.
        """
        wants_one = self._where() == "thread" and not self._has_no_thread and not self._is_thread()
        opens = wants_one and self.thread_id is None
        if opens:
            if self._may_open():
                await self._open()
            else:
                self._go_without()
        if not self._owes_word:
            return opens
        try:
            await say(self._bot, self._channel_id, NO_THREAD)
        except RefusedError as error:
            if error.refusal in WAITS:
                raise
            _log.warning("channel %d could not be told that there is no thread: %s", self._channel_id, error)
        self._owes_word = False
        return True

    async def post(self, text: str, nonce: str, wanted: Wanted = always) -> Standing:
        """One message, where captions are to stand now; see `roost_stt.pages.Board`.

        Raises:
            RefusedError: Discord refused it.
        """
        place = self._channel_id
        if self._where() == "thread" and not self._has_no_thread and self.thread_id is not None:
            place = self.thread_id
        try:
            with sent_only_if(wanted):
                return place, await say(self._bot, place, text, nonce)
        except RefusedError as error:
            if place == self._channel_id or error.refusal in _NOT_THE_THREADS:
                raise
            # The thread is gone, locked or closed to the bot: the next try goes to the channel.
            self.thread_id = None
            self._go_without()
            if self._opened is not None:
                await self._opened(None)
            raise RefusedError(str(error), Refusal.LATER) from error

    async def edit(self, message: Standing, text: str, wanted: Wanted = always) -> None:
        """Change a message.

        Raises:
            RefusedError: Discord refused it; the message may be gone.
        """
        try:
            with sent_only_if(wanted):
                await self._bot.rest.edit_message(
                    *message, text, mentions_everyone=False, user_mentions=False, role_mentions=False
                )
        except Exception as error:
            raise refused(f"a message in {message[0]} cannot be edited", error) from error

    async def delete(self, message: Standing) -> None:
        """Delete a message; one that is gone is deleted.

        Raises:
            RefusedError: Discord refused it.
        """
        try:
            await self._bot.rest.delete_message(*message)
        except hikari.NotFoundError:
            return
        except Exception as error:
            raise refused(f"a message in {message[0]} cannot be deleted", error) from error

    async def _open(self) -> None:
        voice = self._voice_channel()
        channel = self._bot.cache.get_guild_channel(voice)
        name = f"Captions of {clean((channel.name if channel is not None else None) or 'voice')}"[:THREAD_NAME_LIMIT]
        try:
            first = await say(self._bot, self._channel_id, f"Captions of <#{voice}>")
        except RefusedError as error:
            if error.refusal in WAITS:
                raise
            self._go_without()
            return
        try:
            thread = await self._bot.rest.create_message_thread(
                self._channel_id, first, name, auto_archive_duration=THREAD_IDLE
            )
            self.thread_id = int(thread.id)
        except Exception as error:  # noqa: BLE001  see `refused`
            _log.warning("channel %d: no thread: %s", self._channel_id, type(error).__name__)
            self._has_no_thread = True
            await self.edit((self._channel_id, first), NO_THREAD)
            return
        if self._opened is not None:
            await self._opened(self.thread_id)

    def _go_without(self) -> None:
        self._has_no_thread = self._owes_word = True

    def _is_thread(self) -> bool:
        return self._bot.cache.get_thread(self._channel_id) is not None

    def _may_open(self) -> bool:
        """Whether it is worth trying; what the cache does not know is left to Discord."""
        channel: Any = self._bot.cache.get_guild_channel(self._channel_id)
        if channel is None:
            return True
        if channel.type not in (hikari.ChannelType.GUILD_TEXT, hikari.ChannelType.GUILD_NEWS):
            return False
        me = self._bot.get_me()
        guild = self._bot.cache.get_guild(channel.guild_id)
        member = self._bot.cache.get_member(channel.guild_id, me.id) if me is not None else None
        if guild is None or member is None:
            return True
        return not THREADS & ~permissions_in(member, guild, channel)
