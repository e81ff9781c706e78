"""Child processes that never outlive a failed start, and processes that leave no image of their memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from asyncio.subprocess import Process, SubprocessStreamProtocol
from typing import Any

READ_LIMIT_BYTES = 2**16
ROUNDS = 20
SMALLEST_CORE = 1
"""Bytes of a core dump. Linux writes no file of so few, and starts no program to take one, which it does at 0."""


def leave_no_core() -> None:
    """Have no crash of this process, or of its children, write what is in their memory to a disk: voices are."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = SMALLEST_CORE if most != 0 else 0
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


async def spawn(program: str, *arguments: str, **options: Any) -> Process:
    """`asyncio.create_subprocess_exec` that leaves no process behind when it fails.

    After the fork asyncio needs more of the machine to watch the child: a thread with Python 3.11, else a descriptor.
    Where the machine refuses that, asyncio raises and forgets the child, which then runs on and is never reaped.

    Args:
        program: To run.
        arguments: Of the program.
        options: Of `asyncio.loop.subprocess_exec`.

    Raises:
        OSError: The machine refuses the process, or what is needed to watch it.
    """
    loop = asyncio.get_running_loop()
    protocol = _Protocol(READ_LIMIT_BYTES, loop)
    try:
        transport, _ = await loop.subprocess_exec(lambda: protocol, program, *arguments, **options)
    except RuntimeError as error:
        await protocol.abandon()
        raise OSError(f"{program} cannot be watched: {error}") from error
    except OSError:
        await protocol.abandon()
        raise
    return Process(transport, protocol, loop)


class _Protocol(SubprocessStreamProtocol):
    """Knows the child also when asyncio's own call failed after the fork."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self._forked: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._forked = transport
        super().connection_made(transport)

    async def abandon(self) -> None:
        """Kill and reap the child, if there is one."""
        # asyncio tells its protocol a few rounds after the fork; of a fork that failed it tells nothing.
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        if self._forked is None or self._forked.get_returncode() is not None:
            return
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._forked.get_pid(), signal.SIGKILL)
            # Nobody else can reap it any more; the kernel needs milliseconds for it.
            os.waitpid(self._forked.get_pid(), 0)  # noqa: ASYNC222
        self._forked.close()
