from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from context import Rig, running

from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost.testing.leftovers import leak_check

LEAK_GRACE_S = 15.0
"""On a busy machine the other ends of closed TLS connections take their time; what is gone sooner costs no wait."""


@pytest.fixture
def settings() -> SimSettings:
    """What the simulated Discord is like; a test that wants another one overrides this fixture."""
    return SimSettings(guilds=1)


@pytest.fixture
async def sim(settings: SimSettings) -> AsyncIterator[SimulatedDiscord]:
    async with SimulatedDiscord(settings) as made:
        yield made


@pytest.fixture
async def rig(sim: SimulatedDiscord, tmp_path: Path) -> AsyncIterator[Rig]:
    """A bot with the voice plugin. At its end nobody may be in voice and nothing may be left of it."""
    async with leak_check(grace_s=LEAK_GRACE_S):
        async with running(sim, tmp_path) as made:
            yield made
        for member in made.members:
            await sim.voice.member(made.guild, member, None)
        assert made.most <= 1
        assert made.place is None
        assert not list((tmp_path / "instances").glob("*.json")), "the journal is not empty"
