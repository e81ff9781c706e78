"""Answers of slash commands that were deferred.

The work of a command that ends something does not depend on Discord's taking the answer. And what follows a deferral
that everybody sees is seen by everybody, unless the deferral is taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import lightbulb

T = TypeVar("T")
LATE_S = 1.0
"""How long a command may look before it defers its answer: Discord waits 3 s for the first one."""


async def defer_if_late(ctx: lightbulb.Context, work: Awaitable[T], *, ephemeral: bool = False) -> T:
    """Wait for `work`, and defer the answer of a command meanwhile if it takes long; return what the work returned.

    For what decides who sees the answer. ``ctx.initial_response_sent`` says whether it is deferred.

    Raises:
        BaseException: What the work raised, or else what the deferral raised, which ends the work.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=LATE_S)
        if not done:
            await ctx.defer(ephemeral=ephemeral)
        return await task
    finally:
        task.cancel()


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
