"""Answers of slash commands that end something: the work does not depend on Discord's taking the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import lightbulb

T = TypeVar("T")


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
