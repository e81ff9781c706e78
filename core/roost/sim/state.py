"""State that the parts of the simulated Discord share."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from roost.scopes import Scope
from roost.sim.faults import CORE_FAULTS, CORE_PARAMS, FaultTable
from roost.sim.messages import MessageBook
from roost.sim.ratelimit import RateLimiter
from roost.sim.voice_part import VoicePart
from roost.sim.world import SimSettings, World

KEPT_LOG = 100_000


class SimState:
    """The settings, world, messages, armed faults and log of one simulated Discord.

    `roost.sim.server.SimulatedDiscord` makes it, and alone closes the scope and the voice part.

    Args:
        settings: How the simulator behaves.
        part: The voice part, or None to run without voice.

    Attributes:
        commands: The application commands of each bot: (application id, guild id or None for global) -> commands.
        scope: Owns the tasks of all parts.
        entries: The log, oldest first.
        gateway_url: Where bots find the gateway; empty until the simulator listens.
    """

    def __init__(self, settings: SimSettings, part: VoicePart | None) -> None:
        self.settings = settings
        self.world = World(settings)
        self.book = MessageBook(self.world.snowflake)
        self.limits = RateLimiter()
        self.commands: dict[tuple[int, int | None], list[dict[str, Any]]] = {}
        self.part = part
        self.faults = (
            FaultTable(CORE_FAULTS, part.faults(), {**CORE_PARAMS, **part.fault_params()})
            if part
            else FaultTable(CORE_FAULTS, params=CORE_PARAMS)
        )
        self.scope = Scope("sim")
        self.entries: deque[dict[str, Any]] = deque(maxlen=KEPT_LOG)
        self._entries_dropped = 0
        self.gateway_url = ""

    def log(self, kind: str, **fields: Any) -> None:
        """Append an entry to the log, with the monotonic time as ``t``; the oldest of `KEPT_LOG` is dropped for it."""
        if len(self.entries) == KEPT_LOG:
            self._entries_dropped += 1
        self.entries.append({"t": time.monotonic(), "kind": kind, **fields})

    def log_since(self, t: float) -> dict[str, Any]:
        """Return the entries after a monotonic time, and how many entries were dropped in all."""
        return {"entries": [each for each in self.entries if each["t"] > t], "dropped": self._entries_dropped}

    def later(self, delay_s: float, action: Callable[[], Any]) -> asyncio.Task[None] | None:
        """Call an action after a delay, unless the task is cancelled or the simulator ends first."""

        async def wait() -> None:
            await asyncio.sleep(delay_s)
            action()

        return None if self.scope.closed else self.scope.spawn(wait(), "later")
