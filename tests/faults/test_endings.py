"""Descriptors: rows 78 and 79."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from context import Rig, eventually
from fault_report import Fault

from roost.errors import PluginError
from roost_voice.moves import Told

pytestmark = pytest.mark.sim


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


@pytest.mark.fault(342)
async def test_a_leave_that_is_lost_at_the_unload_is_sent_again(rig: Rig, fault: Fault) -> None:
    assert (await rig.join(0)).told is Told.JOINED
    rig.sim.faults.arm("drop_op4", rig.guild_id, {}, 1)
    with fault.clock(scaled=False):
        await rig.plugin.on_unload(rig.ctx, "disable")  # type: ignore[arg-type]
        await rig.ctx.close()
        assert rig.place is None


@pytest.mark.fault(342)
async def test_an_unload_says_where_discord_still_shows_the_bot(rig: Rig, fault: Fault) -> None:
    assert (await rig.join(0)).told is Told.JOINED
    manager, armed = rig.manager, rig.sim.faults.arm("drop_op4", rig.guild_id, {}, 100)
    with fault.clock(scaled=False):
        await rig.plugin.on_unload(rig.ctx, "disable")  # type: ignore[arg-type]
        with pytest.raises(PluginError, match="a voice channel of 1 server"):
            await rig.ctx.close()
    assert rig.place is not None
    await rig.ctx.close()
    rig.sim.faults.disarm(armed.id)
    # What is confirmed after the last leave counts.
    assert await manager.leave_for_good(asyncio.get_running_loop().time() + 0.5) == []


async def test_tasks_that_go_on_at_the_unload_keep_no_leave_from_being_sent_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await rig.join(0)).told is Told.JOINED
    rig.sim.faults.arm("drop_op4", rig.guild_id, {}, 1)
    ends = rig.manager.aclose

    async def aclose() -> list[str]:
        return [*await ends(), "stays"]

    monkeypatch.setattr(rig.manager, "aclose", aclose)
    await rig.plugin.on_unload(rig.ctx, "disable")  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=r"ignored their cancellation: stays$"):
        await rig.ctx.close()
    assert rig.place is None
