"""Nothing may be left: what a block opens must be closed when it ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from roost.leaks import grown, measure, settle

GRACE_S = 2.0


class LeakError(AssertionError):
    """Something was left behind; the message has a line for each."""


@asynccontextmanager
async def leak_check(grace_s: float = GRACE_S) -> AsyncIterator[None]:
    """Fail when the block leaves a task, thread, child process or descriptor.

    Listeners go with the bot that has them, so they are measured by the host at each unload, not here. The tasks of
    the test itself do not count.

    Args:
        grace_s: How long what was closed may take to be gone.

    Raises:
        LeakError: After the block, if it did not raise itself.
    """
    _warm_up()
    before = measure(modules=())
    yield

    def left() -> list[str]:
        gc.collect()
        own = asyncio.current_task()
        return [line for line in grown(before, measure(modules=())) if own is None or own.get_name() not in line]

    found = await settle(left, grace_s)
    if found:
        raise LeakError("left behind:\n" + "\n".join(f"  {line}" for line in found))


def _warm_up() -> None:
    """What a library opens once per process, on first use, is not a leak of whoever used it first."""
    import ssl

    ssl.create_default_context()
