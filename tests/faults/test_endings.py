"""A session's end that goes wrong, and a process without descriptors: rows 71, 78 and 79."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from context import Recorder, Rig, eventually, running
from fault_report import SCALE, Fault

from roost.audio import Credentials, JoinRequest, LinkEvents, Timing, VoiceDriver, VoiceLink
from roost.hooks import hookimpl
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost_voice.moves import Told
from roost_voice.native import NativeDriver

pytestmark = pytest.mark.sim

STOP_S = 3.0


class FaultyDriver:
    """Roost's driver, but the end of one guild's link raises or hangs."""

    name = "faulty"

    def __init__(self, inner: NativeDriver, bad: int, how: str) -> None:
        self._inner = inner
        self._bad = bad
        self._how = how
        self.struck = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open(self, cred: Credentials, events: LinkEvents) -> AsyncIterator[VoiceLink]:
        async with self._inner.open(cred, events) as link:
            try:
                yield link
            finally:
                if cred.guild_id == self._bad:
                    self.struck.set()
                    if self._how == "raises":
                        raise RuntimeError("this link does not want to end")
                    await asyncio.sleep(60)


class Provider(Recorder):
    """The plugin that provides the faulty driver."""

    def __init__(self, sim: SimulatedDiscord, how: str) -> None:
        super().__init__()
        assert sim.part is not None
        inner = NativeDriver(Timing().scaled(SCALE), ca_file=sim.part.ca_file, allowed_hosts=("localhost", "127.0.0.1"))
        self.driver = FaultyDriver(inner, next(iter(sim.world.guilds)), how)

    @hookimpl
    async def voice_driver(self, name: str) -> VoiceDriver | None:
        return self.driver if name == "faulty" else None


@pytest.mark.fault(71)
@pytest.mark.parametrize("how", ["raises", "hangs"])
async def test_the_other_sessions_end_all_the_same(how: str, fault: Fault, tmp_path: Path) -> None:
    async with SimulatedDiscord(SimSettings(guilds=3, ghost_null="ignored")) as sim:
        recorder = Provider(sim, how)
        async with running(sim, tmp_path, recorder=recorder, driver="faulty") as rig:
            for guild in sim.world.guilds.values():
                channel, text = guild.of_type(2)[0].id, guild.of_type(0)[0].id
                request = JoinRequest(guild.id, channel, rig.members[0], text)
                assert (await rig.manager.join(request)).told is Told.JOINED
            with fault.clock(STOP_S, scaled=False):
                deadline = asyncio.get_running_loop().time() + 2.7
                left = await rig.manager.stop_all("the bot stops", deadline)
                await rig.manager.aclose()
            assert recorder.driver.struck.is_set()
            # What hangs is cancelled at last; voice was left all the same.
            assert left == ([] if how == "raises" else [next(iter(sim.world.guilds))])
            assert all(rig.bot_id not in guild.voice_states for guild in sim.world.guilds.values())


@pytest.mark.fault(78)
async def test_a_child_gets_no_socket_of_ours(rig: Rig, fault: Fault) -> None:
    """Even one that is started without closing anything."""
    assert (await rig.join(0)).told is Told.JOINED
    with fault.clock():
        child = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", "import os\nfor fd in os.listdir('/proc/self/fd'):\n"
             " try: print(os.readlink(f'/proc/self/fd/{fd}'))\n except OSError: pass"],
            close_fds=False, capture_output=True, text=True, check=True, timeout=20, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    ours = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert len([each for each in ours if each.startswith("socket:")]) >= 3
    assert not [each for each in child.stdout.split() if each.startswith("socket:")]


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Nothing can be opened within the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.fault(79)
async def test_without_descriptors_the_join_fails_and_nothing_stays(rig: Rig, fault: Fault) -> None:
    with fault.clock():
        with no_descriptors_left():
            result = await rig.join(0)
            assert result.told is Told.FAILED, result
            assert result.reason
        await rig.at_rest()
    assert rig.place is None
    assert (await rig.join(0)).told is Told.JOINED
    await rig.leave()
    await eventually(lambda: rig.place is None)
