"""Row 71: the end of one session goes wrong, and the others end all the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from context import Recorder, running
from fault_report import SCALE, Fault

from roost.audio import Credentials, JoinRequest, LinkEvents, SessionStats, Timing, VoiceLink, VoiceSession
from roost.hooks import hookimpl
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost.testing.leftovers import leak_check
from roost_voice.moves import Told
from roost_voice.native import NativeDriver

pytestmark = pytest.mark.sim

GUILDS = 5
OWN_SCALE = max(SCALE, 0.25)
"""Five joins at once must not run out of time on a busy machine."""
ENDS_S = 1.2
"""What the host allows."""


class Faulty(Recorder):
    """In one server the end of the link or of the hooks raises or never comes."""

    name = "faulty"

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.where = 0
        self.inner: NativeDriver | None = None

    @hookimpl
    async def voice_driver(self, name: str) -> Faulty:
        return self

    @contextlib.asynccontextmanager
    async def open(self, cred: Credentials, events: LinkEvents) -> AsyncIterator[VoiceLink]:
        assert self.inner is not None
        async with self.inner.open(cred, events) as link:
            try:
                yield link
            finally:
                await self.fail("link", cred.guild_id)

    @hookimpl
    async def voice_session_closing(self, session: VoiceSession, reason: str, deadline: float) -> None:
        await self.fail("closing", session.guild_id)

    @hookimpl
    async def voice_session_closed(self, session: VoiceSession, reason: str, stats: SessionStats) -> None:
        self._note("closed", session.guild_id)
        await self.fail("closed", session.guild_id)

    async def fail(self, what: str, guild_id: int) -> None:
        if guild_id != self.where or what not in self.how:
            return
        if "hangs" in self.how:
            await asyncio.Event().wait()
        raise RuntimeError("out of order")


@pytest.fixture
def settings() -> SimSettings:
    return SimSettings(guilds=GUILDS)


@pytest.mark.fault(71)
@pytest.mark.parametrize(
    "how", ["link raises", "link hangs", "closing raises", "closing hangs", "closed raises", "closed hangs"]
)
async def test_one_end_goes_wrong(sim: SimulatedDiscord, tmp_path: Path, fault: Fault, how: str) -> None:
    faulty = Faulty(how)
    async with leak_check(), running(sim, tmp_path, recorder=faulty, driver="faulty", timing_scale=OWN_SCALE) as rig:
        config = rig.ctx.config
        faulty.inner = NativeDriver(
            Timing().scaled(config.timing_scale), ca_file=config.ca_file, allowed_hosts=config.allowed_hosts
        )
        guilds = list(sim.world.guilds.values())
        faulty.where = guilds[2].id
        joined = await asyncio.gather(
            *(
                rig.manager.join(JoinRequest(guild.id, guild.of_type(2)[0].id, rig.members[0], guild.of_type(0)[0].id))
                for guild in guilds
            )
        )
        assert {each.told for each in joined} == {Told.JOINED}
        loop = asyncio.get_running_loop()
        with fault.clock(scaled=False):
            late = await rig.manager.stop_all("the test says so", loop.time() + ENDS_S)
        waited_for = {faulty.where} if how in ("closed hangs", "link hangs") else set()
        assert set(late) <= waited_for
        assert not any(guild.voice_states.get(rig.bot_id) for guild in guilds)
        assert rig.sim.state()["connections"]["voice_ws"] == 0
        assert sorted(detail for name, detail in faulty.calls if name == "closed") == sorted(each.id for each in guilds)
    assert not list((tmp_path / "instances").glob("*.json"))
