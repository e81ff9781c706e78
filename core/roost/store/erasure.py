"""Deletions that members ask for: what they name is in no file afterwards, backups of migrations included."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from roost.store.backups import Backups, DeletedBackups
from roost.store.database import Operations
from roost.store.traces import Traces

WITHIN_S = 5.0
"""How long a deletion waits for its traces to be gone; after that it is answered, and they go in the background."""


@dataclasses.dataclass(slots=True)
class Erased:
    """What an erasure came to; complete after its block.

    Attributes:
        backups: The backups of migrations that were deleted with it, and those that could not be.
        traceless: Nothing of it is in the database's files any more; False while that is still being done.
    """

    backups: DeletedBackups = dataclasses.field(default_factory=DeletedBackups)
    traceless: bool = False


class Erasure:
    """Deletes so that nothing is left."""

    def __init__(self, traces: Traces, backups: Backups, operations: Operations) -> None:
        self._traces = traces
        self._backups = backups
        self._operations = operations

    @asynccontextmanager
    async def everywhere(self, within_s: float = WITHIN_S) -> AsyncIterator[Erased]:
        """Delete in this block; then the backups of migrations are deleted, and the traces are waited for.

        Raises:
            ResourceError: The database failed.
        """
        erased = Erased()
        async with self._traces.deleting():
            yield erased
            erased.backups = await self._operations.run(self._backups.delete())
        erased.traceless = await self._traces.gone(within_s)

    @asynccontextmanager
    async def soon(self) -> AsyncIterator[None]:
        """Delete in this block what is only to be kept no longer; its traces go in the background.

        Raises:
            ResourceError: The database failed.
        """
        async with self._traces.deleting():
            yield
