"""Work that is done while its answer is deferred: it ends with the command that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from roost import deferral

pytestmark = pytest.mark.unit


class Work:
    """Waits until it is cancelled, and takes a moment to end."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), False

    async def __call__(self) -> None:
        try:
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            self.ended = True


def patient(work: Work, _defer: Callable[..., Awaitable[None]]) -> Awaitable[None]:
    interaction: Any = SimpleNamespace()
    return deferral.patiently(interaction, work())


def late(work: Work, defer: Callable[..., Awaitable[None]]) -> Awaitable[None]:
    ctx: Any = SimpleNamespace(defer=defer)
    return deferral.defer_if_late(ctx, work())


@pytest.mark.parametrize("waiting", [patient, late])
async def test_command_that_is_ended_waits_for_the_end_of_its_work(
    waiting: Callable[[Work, Callable[..., Awaitable[None]]], Awaitable[None]],
) -> None:
    work = Work()
    command = asyncio.ensure_future(waiting(work, partial(asyncio.sleep, 0)))
    await work.begun.wait()
    command.cancel()
    await asyncio.wait({command}, timeout=2)
    assert command.cancelled()
    assert work.ended


async def test_deferral_that_fails_ends_the_work_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferral, "LATE_S", 0.0)
    work = Work()

    async def defer(*, ephemeral: bool) -> None:
        await work.begun.wait()
        raise OSError("not deferred")

    with pytest.raises(OSError, match="not deferred"):
        await late(work, defer)
    assert work.ended
