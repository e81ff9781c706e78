"""A shard's queue of op 4 goes on, whatever one send raises."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hikari
import pytest

from roost.audio import Timing
from roost.scopes import Scope
from roost_voice.moves import Op4Sent, Priority, SendOp4
from roost_voice.op4 import ShardSender

pytestmark = pytest.mark.unit

GUILD = 7


class Shard:
    """Fails once, as it is told, and takes everything after that."""

    id = 0
    is_connected = True

    def __init__(self, failure: BaseException) -> None:
        self.failure: BaseException | None = failure
        self.failed, self.sent = asyncio.Event(), asyncio.Event()
        self.channels: list[int | None] = []

    async def update_voice_state(self, _guild: int, channel: int | None, **_options: Any) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            self.failed.set()
            raise failure
        self.channels.append(channel)
        self.sent.set()


@pytest.mark.parametrize(
    "failure", [asyncio.CancelledError("its rate limiter was closed"), AssertionError("no socket"), RuntimeError()]
)
async def test_what_could_not_be_sent_is_sent_again(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost.scopes.FIRST_RESTART_S", 0.01)
    scope = Scope("test")
    told: list[Op4Sent] = []
    sender = ShardSender(Timing().scaled(0.01), scope, lambda _guild, sent: told.append(sent), "0")
    shard = Shard(failure)
    sender.resume(cast("hikari.api.GatewayShard", shard))
    sender.put(GUILD, SendOp4(1, None, Priority.LEAVE))
    async with asyncio.timeout(5):
        await shard.failed.wait()
        await asyncio.sleep(0)
        sender.resume(cast("hikari.api.GatewayShard", shard))
        await shard.sent.wait()
    assert told == [Op4Sent(1, None), Op4Sent(1, None)]
    assert await scope.aclose() == []


@pytest.mark.parametrize(
    "failure", [asyncio.CancelledError("its rate limiter was closed"), hikari.ComponentStateConflictError("down")]
)
async def test_a_new_connection_is_no_failure_that_delays_leaves(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    scope = Scope("test")
    sender = ShardSender(Timing().scaled(0.01), scope, lambda _guild, _sent: None, "0")
    shard = Shard(failure)
    sender.resume(cast("hikari.api.GatewayShard", shard))
    sender.put(GUILD, SendOp4(1, None, Priority.LEAVE))
    async with asyncio.timeout(5):
        await shard.failed.wait()
        await asyncio.sleep(0)
        sender.resume(cast("hikari.api.GatewayShard", shard))
        await shard.sent.wait()
    assert await scope.aclose() == []
    assert "failed and starts again" not in caplog.text


async def test_what_waits_for_a_connection_can_be_withdrawn() -> None:
    scope = Scope("test")
    sender = ShardSender(Timing().scaled(0.01), scope, lambda _guild, _sent: None, "0")
    shard = Shard(hikari.ComponentStateConflictError("down"))
    sender.resume(cast("hikari.api.GatewayShard", shard))
    sender.put(GUILD, SendOp4(1, 5, Priority.JOIN))
    async with asyncio.timeout(5):
        await shard.failed.wait()
        await asyncio.sleep(0)
        # The actor replaces the join by a leave and withdraws that, in one step.
        sender.put(GUILD, SendOp4(2, None, Priority.LEAVE))
        sender.queue.drop(GUILD)
        sender.put(8, SendOp4(1, None, Priority.LEAVE))
        await shard.sent.wait()
    await asyncio.sleep(0.05)
    assert shard.channels == [None]
    assert await scope.aclose() == []
