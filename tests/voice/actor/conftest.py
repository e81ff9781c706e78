from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from context import Rig, running

from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings


@pytest.fixture(params=["honoured"])
def ghost_null(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def sim(ghost_null: str) -> AsyncIterator[SimulatedDiscord]:
    async with SimulatedDiscord(SimSettings(ghost_null=ghost_null, guilds=1)) as made:
        yield made


@pytest.fixture
async def rig(sim: SimulatedDiscord, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(sim, tmp_path) as made:
        yield made
