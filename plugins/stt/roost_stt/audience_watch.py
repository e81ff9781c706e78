"""Holds captions back while somebody may be able to read them who cannot be in the voice room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import hikari

if TYPE_CHECKING:
    from roost.scopes import Scope
    from roost_stt.captioner import Captioner

_log = logging.getLogger("roost.stt")

LOOK_AGAIN_S = 30.0
"""Between two looks when Discord tells of no change: a timeout ends without an event."""
LOOK_EVERY_S = 0.5
"""Between two looks when it tells of many, or when a look failed."""
TELL_EVERY_S = 10.0
"""At most `TELL_AT_ONCE` messages about it in so many seconds."""
TELL_AT_ONCE = 2
"""That captions pause, and that they go on."""

CHANGES: tuple[type[hikari.Event], ...] = (
    hikari.GuildChannelUpdateEvent,
    hikari.GuildChannelDeleteEvent,
    hikari.GuildThreadUpdateEvent,
    hikari.GuildThreadDeleteEvent,
    hikari.ThreadListSyncEvent,
    hikari.RoleCreateEvent,
    hikari.RoleUpdateEvent,
    hikari.RoleDeleteEvent,
    hikari.GuildAvailableEvent,
    hikari.GuildUpdateEvent,
)
"""Events after which other people may be able to read along."""
MEMBER_CHANGES: tuple[type[hikari.Event], ...] = (
    hikari.MemberCreateEvent,
    hikari.MemberUpdateEvent,
    hikari.MemberDeleteEvent,
    hikari.MemberChunkEvent,
)
"""The same, with the intent GUILD_MEMBERS."""


class AudienceWatch:
    """Watches over one transcription. `run` is a task of its owner's.

    Captions wait from `doubt` until a look finds that nobody reads along who may not. What was heard meanwhile is
    shown then.

    Args:
        captioner: Posts the captions; held back before the first look.
        scope: Owns the task that tells people.
        is_wide: Whether somebody may read along who cannot be in the room.
        tell: Tells people that captions pause (True), or go on.
        accepted: Somebody who manages the server wants the captions there all the same.
    """

    def __init__(
        self,
        captioner: Captioner,
        scope: Scope,
        is_wide: Callable[[], Awaitable[bool]],
        tell: Callable[[bool], Awaitable[None]],
        *,
        accepted: bool = False,
    ) -> None:
        self._captioner = captioner
        self._scope = scope
        self._is_wide = is_wide
        self._tell = tell
        self._doubts = asyncio.Event()
        self._looking = asyncio.Lock()
        self._told = False
        self._told_at: deque[float] = deque(maxlen=TELL_AT_ONCE)
        self._telling: asyncio.Task[None] | None = None
        self.accepted = accepted
        self.wide = False
        """What the last look found."""
        captioner.hold()

    def doubt(self) -> None:
        """Hold captions back, and look again."""
        self._captioner.hold()
        self._doubts.set()

    def accept(self, *, accepted: bool) -> None:
        """Somebody began again, here or elsewhere, with or without regard to who reads along.

        What waited was said for others than those who read along now, so it is not shown to them.
        """
        self.accepted = accepted
        self._told = False
        if accepted:
            self._captioner.give_up()
        self.doubt()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_EVERY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._doubts.wait()

    async def settle(self, deadline: float) -> None:
        """Have no doubt about what waits, if a look until `deadline` (event loop time) finds none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                if self._doubts.is_set():
                    await self._look()

    async def _look(self) -> None:
        """Hold captions back or release them; whatever goes wrong, they wait."""
        async with self._looking:
            self._doubts.clear()
            try:
                self.wide = not self.accepted and await self._is_wide()
            except Exception as error:  # noqa: BLE001  nobody may read along because of a fault
                _log.error("who reads along is unknown: %s", type(error).__name__, exc_info=error)
                self.doubt()
                return
            if self.wide:
                self._captioner.hold()
            elif not self._doubts.is_set():
                self._captioner.release()
        tells = self._telling is not None and not self._telling.done()
        # A transcription can end while another request waits for the same end.
        if self._told is not self.wide and not tells and not self._scope.closed:
            self._telling = self._scope.spawn(self._tell_people(), "audience")

    async def _tell_people(self) -> None:
        loop = asyncio.get_running_loop()
        while self._told is not self.wide:
            if len(self._told_at) == TELL_AT_ONCE:
                await asyncio.sleep(max(0.0, self._told_at[0] + TELL_EVERY_S - loop.time()))
            if self._told is not self.wide:
                self._told = self.wide
                self._told_at.append(loop.time())
                await self._tell(self.wide)
