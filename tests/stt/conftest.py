"""Workers that are gone when the test is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from gpu_rig import card, driver, make, stranger
from stt_rig import Build, workers

__all__ = ["card", "driver", "make", "rig", "stranger"]


@pytest.fixture
async def rig() -> AsyncIterator[Build]:
    async with workers() as build:
        yield build
