"""The simulated Discord in a process of its own, as the demo and end-to-end tests use it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from roost.errors import ResourceError
from roost.scopes import Scope

START_S = 20.0
END_S = 5.0
KEPT_LINES = 50


@dataclasses.dataclass(frozen=True, slots=True)
class SimProcess:
    """A running simulator.

    Attributes:
        pid: Of its process.
        card: The line it printed: addresses, tokens, guilds.
        said: The last lines of its standard error.
    """

    pid: int
    card: dict[str, Any] = dataclasses.field(repr=False)
    said: deque[str] = dataclasses.field(repr=False)


@asynccontextmanager
async def spawn(arguments: Sequence[str] = ()) -> AsyncIterator[SimProcess]:
    """Start ``roost sim``; at the end its process is gone, also when this one is killed (its input closes then).

    Args:
        arguments: Further ones of ``roost sim``.

    Raises:
        ResourceError: It did not start; carries the last line it said.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roost", "sim", "--exit-with-parent", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 22,
        start_new_session=True,  # A Ctrl-C at the terminal is for the parent alone, which ends this one last.
    )
    scope, said = Scope("sim process"), deque[str](maxlen=KEPT_LINES)
    try:
        reader = scope.spawn(_drain(process.stderr, said), "stderr")
        try:
            async with asyncio.timeout(START_S):
                line = await _stream(process.stdout).readline()
            card = json.loads(line)
        except (TimeoutError, ValueError):
            await _end(process)
            await asyncio.wait([reader], timeout=1.0)
            why = said[-1] if said else "it said nothing; try: roost sim"
            raise ResourceError(f"the simulated Discord did not start: {why}") from None
        yield SimProcess(process.pid, card, said)
    finally:
        try:
            await _end(process)
        finally:
            await scope.aclose()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its input, which ends it, and wait; one that does not go is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if not isinstance(error, TimeoutError):
            raise
        await process.wait()


async def _drain(stream: asyncio.StreamReader | None, lines: deque[str]) -> None:
    while line := await _stream(stream).readline():
        lines.append(line.decode(errors="replace").rstrip())


def _stream(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    assert stream is not None
    return stream
