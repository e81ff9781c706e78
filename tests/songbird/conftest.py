"""Songbird against the simulated voice server, where the module is built."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from roost.testing.driver_conformance import ANN, BOT, CHANNEL, GUILD, Bench, open_bench
from roost_voice.sim import create

DEADLINE_S = 10.0


class Stage:
    """A voice server, and drivers that connect to it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def connect(self, driver: Any, **changes: Any) -> None:
        cred = self.bench.credentials()
        given = {
            "token": cred.token,
            "endpoint": cred.server_address,
            "session_id": cred.session_id,
            "guild_id": GUILD,
            "channel_id": CHANNEL,
            "user_id": BOT,
        }
        await driver.connect(**{**given, **changes})

    async def encrypted(self) -> None:
        """Wait until Ann and the bot are in one group, Ann's end included."""
        member = self.bench.voice.member(GUILD, ANN)  # type: ignore[attr-defined]
        await self.until(lambda: bool(self.bench.sessions()) and self.bench.sessions()[0]["dave"]["in_group"])
        await self.until(lambda: member.ready)

    async def until(self, condition: Callable[[], bool], what: str = "") -> None:
        give_up_at = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < give_up_at, f"did not happen: {what or condition}"
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def staged(**settings: Any) -> AsyncIterator[Stage]:
    voice = create(**{"tick_s": 0.01, **settings})
    async with open_bench(lambda *_: None, voice) as bench:  # type: ignore[arg-type, return-value]
        yield Stage(bench)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with staged() as made:
        # In the process's environment until the test ends.
        monkeypatch.setenv("SSL_CERT_FILE", str(Path(made.bench.voice.ca_file)))
        await made.bench.join(ANN)
        yield made


@pytest.fixture
async def driver() -> AsyncIterator[Any]:
    # The modules of this folder skip where it is not built; this file cannot.
    import songbird

    made = await songbird.Driver.create()
    yield made
    await made.leave()
