from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from context import Rig, running
from fault_report import DRIVER
from pg_server import Server, servers
from songbird_rows import NO_VOICE, differs

from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost.testing.leftovers import LeakError, leak_check

LEAK_GRACE_S = 15.0
"""On a busy machine the other ends of closed TLS connections take their time; what is gone sooner costs no wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DRIVER != "songbird":
        return
    for item in items:
        if item.path.parent != Path(__file__).parent:
            continue
        if item.path.name in NO_VOICE:
            item.add_marker(pytest.mark.skip(reason="makes no use of the driver"))
        elif reason := differs(item.nodeid):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True, raises=(AssertionError, TimeoutError)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test may be expected to fail in is itself alone: nothing may be left over, whatever the driver decides."""
    report = yield
    leaked = call.excinfo is not None and call.excinfo.errisinstance(LeakError)
    if (leaked or call.when == "teardown") and hasattr(report, "wasxfail"):
        del report.wasxfail
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """From its first connection on, Songbird's runtime keeps one pair of sockets: no leak of the test it falls into."""
    if DRIVER == "songbird":
        asyncio.run(_connect_once())


async def _connect_once() -> None:
    import songbird

    driver = await songbird.Driver.create(songbird.Config(retry_strategy=songbird.Strategy.every(0.01)))
    with pytest.raises(songbird.ConnectError):
        await driver.connect("token", "localhost:1", "session", 1, 2, 3)
    await driver.leave()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; the test is skipped where none is installed."""
    with servers() as server:
        yield server


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
