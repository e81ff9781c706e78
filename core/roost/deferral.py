"""Answers of slash commands that were deferred.

The work of a command that ends something does not depend on Discord's taking the answer. And what follows a deferral
that everybody sees is seen by everybody, unless the deferral is taken back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import hikari
import lightbulb

from roost.i18n import FOLDER, Texts

_log = logging.getLogger("roost.commands")

T = TypeVar("T")
TEXTS = Texts(Path(__file__).parent / "commands" / FOLDER)
LATE_S = 1.0
"""How long a command may look before it defers its answer: Discord waits 3 s for the first one."""
SLOW_S = 15.0
"""When work that is not done yet is said to go on; a database that is locked has refused by then."""
SLOW = (
    "That takes longer than usual, for example because my database does not answer. I go on, and answer here when it "
    "is done. If there is no answer in 15 minutes, use the command again."
)


async def defer_for(ctx: lightbulb.Context, work: Callable[[], Awaitable[T]]) -> T:
    """Defer the answer of a command, for its member alone, and do the work; see `patiently`.

    Raises:
        BaseException: What the deferral raised, before the work began, or what the work raised.
    """
    await ctx.defer(ephemeral=True)
    return await patiently(ctx.interaction, work())


async def patiently(interaction: hikari.CommandInteraction | hikari.ModalInteraction, work: Awaitable[T]) -> T:
    """Do the work of an interaction whose answer is deferred; return what it returned.

    After `SLOW_S` the deferred answer tells the member that the work goes on, unless it says something already.

    Raises:
        BaseException: What the work raised.
    """
    return await _finished(work, SLOW_S, partial(_say_slow, interaction))


async def _say_slow(interaction: hikari.CommandInteraction | hikari.ModalInteraction) -> None:
    """Tell the member that work takes long; what Discord refuses is logged."""
    try:
        first = await interaction.fetch_initial_response()
        if first.flags & hikari.MessageFlag.LOADING:
            text = TEXTS(interaction, "slow", SLOW)
            await interaction.edit_initial_response(
                text, mentions_everyone=False, user_mentions=False, role_mentions=False
            )
    except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything
        _log.warning("a member could not be told that it goes on: %s", type(error).__name__)


async def defer_if_late(ctx: lightbulb.Context, work: Awaitable[T], *, ephemeral: bool = False) -> T:
    """Wait for `work`, and defer the answer of a command meanwhile if it takes long; return what the work returned.

    For what decides who sees the answer. ``ctx.initial_response_sent`` says whether it is deferred.

    Raises:
        BaseException: What the work raised, or else what the deferral raised, which ends the work.
    """
    return await _finished(work, LATE_S, partial(ctx.defer, ephemeral=ephemeral))


async def _finished(work: Awaitable[T], limit_s: float, late: Callable[[], Awaitable[None]]) -> T:
    """Do the work, and call `late` meanwhile if it takes longer than `limit_s`; return what the work returned.

    The work is over when this is: a cancellation, or a failure of `late`, cancels it and waits for its end.

    Raises:
        BaseException: What the work raised, or else what `late` raised.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
        if not done:
            await late()
    except BaseException:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
        raise
    return await task


async def defer_during(ctx: lightbulb.Context, work: Awaitable[T], *, ephemeral: bool = False) -> T:
    """Defer the answer of a command while `work` is done; return what the work returned.

    For commands that end something. A member who ran ``/voice leave`` while Discord or the machine had a bad moment
    sees that it failed, but must not be heard any longer.

    Raises:
        BaseException: What the work raised, or else what the deferral raised. Both are over by then.
    """
    deferred, done = await asyncio.gather(ctx.defer(ephemeral=ephemeral), work, return_exceptions=True)
    if isinstance(done, BaseException):
        raise done
    if isinstance(deferred, BaseException):
        raise deferred
    return done


async def answer_alone(ctx: lightbulb.Context, text: str) -> None:
    """Answer the member who ran a command, and nobody else, though the deferral said that everybody will see it.

    Raises:
        hikari.HikariError: Discord refused; then nobody has read the text.
    """
    # The first message after a deferral fills it in, for those who see the deferral.
    await ctx.interaction.delete_initial_response()
    await ctx.respond(text, ephemeral=True, mentions_everyone=False, user_mentions=False, role_mentions=False)
