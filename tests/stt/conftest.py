"""Workers that are gone when the test is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from stt_rig import Build, workers


@pytest.fixture
async def rig() -> AsyncIterator[Build]:
    async with workers() as build:
        yield build
