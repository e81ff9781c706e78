"""The simulated Discord in a process of its own, as the demo and end-to-end tests use it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from roost.errors import ResourceError

START_S = 20.0
END_S = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class SimProcess:
    """A running simulator.

    Attributes:
        pid: Of its process.
        card: The line it printed: addresses, tokens, guilds.
    """

    pid: int
    card: dict[str, Any]


@asynccontextmanager
async def spawn(arguments: Sequence[str] = ()) -> AsyncIterator[SimProcess]:
    """Start ``roost sim``; at the end its process is gone, also when this one is killed (its input closes then).

    Raises:
        ResourceError: It did not start; carries what it said.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "roost",
        "sim",
        "--exit-with-parent",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 22,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
            card = json.loads(line)
        except (TimeoutError, ValueError):
            raise ResourceError("the simulated Discord did not start; try: roost sim") from None
        yield SimProcess(process.pid, card)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
