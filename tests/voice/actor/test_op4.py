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
        self.sent = asyncio.Event()

    async def update_voice_state(self, _guild: int, _channel: int | None, **_options: Any) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
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
        await shard.sent.wait()
    assert told == [Op4Sent(1, None), Op4Sent(1, None)]
    assert await scope.aclose() == []
