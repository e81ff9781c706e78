"""Asking a member before something that cannot be undone: a button that only they can press, once, for a while.

The command that asks is over when it has asked; the work begins with the press. An owner makes one `Confirmations`,
and has `Confirmations.on_interaction` called with every interaction.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import hikari
import lightbulb
from hikari.impl import MessageActionRowBuilder

from roost.errors import RoostError, StoreCause, StoreError
from roost.i18n import FOLDER, Texts
from roost.unreadable import is_unread_reply

_log = logging.getLogger("roost.commands")

TEXTS = Texts(Path(__file__).parent / "commands" / FOLDER)

EXPIRES_S = 120.0
SLOW_S = 15.0
"""When work that is not done yet is said to go on; a database that is locked has refused by then."""
LATER_S = 840.0
"""The longest work after an answer; Discord takes a change of it for 15 minutes."""
MOST_WAITING = 1000
"""Buttons of one owner that can be pressed; beyond that the oldest expire."""

SURE = "Are you sure? {what}"
CANCEL = "Cancel"
CANCELLED = "Nothing was deleted."
EXPIRED = "This question has expired, and nothing was done. Use the command again."
NOT_YOURS = "Only the member who used the command can answer this."
SLOW = (
    "That is not done yet: something that I need for it does not answer, such as my database. I go on trying, and this "
    "message changes when it is done. If it has not changed in 15 minutes, use the command again."
)
FAILED = "Something went wrong, so not all of it may be done. Use the command again."
STORE_BUSY = "My database is busy, so not all of it is done. Use the command again in a moment."
STORE_UNUSABLE = (
    "My database cannot be written, for example because its disk is full, so not all of it is done. "
    "Tell the owner of this bot, and use the command again later."
)

NO_PINGS: dict[str, Any] = {"mentions_everyone": False, "user_mentions": False, "role_mentions": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a member reads after a press.

    Attributes:
        text: At most 2000 characters.
        rows: Buttons below it, made by `Confirmations.row`.
        later: Called once the text stands; gives the text that takes its place. Ended after `LATER_S`.
    """

    text: str
    rows: Sequence[MessageActionRowBuilder] = ()
    later: Callable[[], Awaitable[str]] | None = None


Work = Callable[[hikari.ComponentInteraction], Awaitable[Outcome]]
"""What a press begins. A `roost.errors.RoostError` that it raises is shown to the member."""


Spawn = Callable[[Coroutine[Any, Any, None], str], object]


@dataclasses.dataclass(slots=True)
class _Button:
    user_id: int
    work: Work
    until_s: float
    group: str
    """Of buttons of which one can be pressed."""
    pressed: bool = False


class Confirmations:
    """The questions of one owner that wait for their answers.

    Args:
        prefix: Of the buttons' custom ids; no other owner has it.
        expires_s: How long a button can be pressed.
        spawn: Starts a task of the owner, for `Outcome.later`.
    """

    def __init__(self, prefix: str, *, expires_s: float = EXPIRES_S, spawn: Spawn | None = None) -> None:
        self._spawn = spawn
        self._prefix = f"{prefix}:"
        self._expires_s = expires_s
        self._buttons: dict[str, _Button] = {}

    async def ask(self, ctx: lightbulb.Context, what: str, label: str, work: Work) -> None:
        """Ask the member who ran a command, and nobody else, and return.

        Args:
            ctx: Of the command, deferred or not.
            what: What would be done.
            label: Of the button that begins it.
            work: What a press begins.
        """

        async def cancel(interaction: hikari.ComponentInteraction) -> Outcome:
            return Outcome(TEXTS(interaction, "cancelled", CANCELLED))

        row = self.row(int(ctx.user.id), (label, work), (TEXTS(ctx, "cancel", CANCEL), cancel))
        text = TEXTS(ctx, "sure", SURE, what=what)
        await ctx.respond(text, components=[row], ephemeral=True, **NO_PINGS)

    def row(self, user_id: int, *buttons: tuple[str, Work], expires_s: float | None = None) -> MessageActionRowBuilder:
        """Buttons of which one member can press one: their labels, and what a press begins; the first is dangerous."""
        row, group = MessageActionRowBuilder(), secrets.token_hex(8)
        until_s = time.monotonic() + (self._expires_s if expires_s is None else expires_s)
        for number, (label, work) in enumerate(buttons):
            custom_id = f"{self._prefix}{group}:{number}"
            self._buttons[custom_id] = _Button(user_id, work, until_s, group)
            if number:
                row.add_interactive_button(hikari.ButtonStyle.SECONDARY, custom_id, label=label)
            else:
                row.add_interactive_button(hikari.ButtonStyle.DANGER, custom_id, label=label)
        self._buttons = {key: each for key, each in self._buttons.items() if not self._is_over(key)}
        while len(self._buttons) > MOST_WAITING:
            del self._buttons[next(iter(self._buttons))]
        return row

    async def on_interaction(self, event: hikari.InteractionCreateEvent) -> None:
        """Answer a press of one of these buttons, also of one that has expired."""
        interaction = event.interaction
        if not isinstance(interaction, hikari.ComponentInteraction):
            return
        if not interaction.custom_id.startswith(self._prefix):
            return
        button = self._buttons.get(interaction.custom_id)
        if button is None or self._is_over(interaction.custom_id):
            text = TEXTS(interaction, "expired", EXPIRED)
            await interaction.create_initial_response(
                hikari.ResponseType.MESSAGE_UPDATE, text, components=[], **NO_PINGS
            )
        elif button.user_id != int(interaction.user.id):
            await interaction.create_initial_response(
                hikari.ResponseType.MESSAGE_CREATE,
                TEXTS(interaction, "not-yours", NOT_YOURS),
                flags=hikari.MessageFlag.EPHEMERAL,
                **NO_PINGS,
            )
        elif button.pressed:
            await interaction.create_initial_response(hikari.ResponseType.DEFERRED_MESSAGE_UPDATE)
        else:
            for each in self._buttons.values():
                each.pressed |= each.group == button.group
            await self._carry_out(interaction, button.work)

    async def _carry_out(self, interaction: hikari.ComponentInteraction, work: Work) -> None:
        over = asyncio.Event()

        async def carry_out() -> Outcome:
            try:
                return await work(interaction)
            finally:
                over.set()

        # What was confirmed is done, whether or not Discord takes the answer.
        deferred, done, told = await asyncio.gather(
            interaction.create_initial_response(hikari.ResponseType.DEFERRED_MESSAGE_UPDATE),
            carry_out(),
            _say_slow(interaction, over),
            return_exceptions=True,
        )
        failure = told
        if isinstance(done, StoreError):
            _log.error("what a member confirmed failed: %s", done)
            done = Outcome(_of_store(interaction, done))
        elif isinstance(done, RoostError):
            done = Outcome(str(done))
        elif isinstance(done, BaseException):
            failure, done = done, Outcome(TEXTS(interaction, "confirmed-failed", FAILED))
        try:
            if isinstance(deferred, BaseException):
                _log.warning("Discord did not take the answer to a confirmation: %s", type(deferred).__name__)
            else:
                await interaction.edit_initial_response(done.text[:2000], components=list(done.rows), **NO_PINGS)
        except Exception as error:  # noqa: BLE001 - raised below, once the rest of the work has begun
            if is_unread_reply(error):
                _log.warning("what Discord says of the answer to a confirmation cannot be read")
            else:
                failure = failure or error
        if done.later is not None:
            assert self._spawn is not None, "its owner gave nothing to run later work with"
            self._spawn(_say_later(interaction, done.later), "confirmed work")
        if failure is not None:
            raise failure

    def _is_over(self, custom_id: str) -> bool:
        return self._buttons[custom_id].until_s < time.monotonic()


async def _say_slow(interaction: hikari.ComponentInteraction, over: asyncio.Event) -> None:
    """Tell the member when work takes long; what Discord refuses is logged."""
    try:
        async with asyncio.timeout(SLOW_S):
            await over.wait()
            return
    except TimeoutError:
        _log.warning("what a member confirmed is not done after %g s, and goes on", SLOW_S)
    try:
        await interaction.edit_initial_response(TEXTS(interaction, "confirmed-slow", SLOW), components=[], **NO_PINGS)
    except hikari.HikariError as error:
        _log.warning("a member could not be told that it goes on: %s", type(error).__name__)


async def _say_later(interaction: hikari.ComponentInteraction, work: Callable[[], Awaitable[str]]) -> None:
    failed = TEXTS(interaction, "confirmed-failed", FAILED)
    timer = asyncio.timeout(LATER_S)
    try:
        async with timer:
            text = await work()
    except Exception:
        if not timer.expired():
            await interaction.edit_initial_response(failed, components=[], **NO_PINGS)
            raise
        _log.error("what a member confirmed was not done in %g s", LATER_S)
        text = failed
    await interaction.edit_initial_response(text[:2000], components=[], **NO_PINGS)


def _of_store(reader: Any, error: StoreError) -> str:
    if error.cause is StoreCause.BUSY:
        return TEXTS(reader, "confirmed-busy", STORE_BUSY)
    return TEXTS(reader, "confirmed-unusable", STORE_UNUSABLE)
