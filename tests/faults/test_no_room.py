"""A machine that has no room for anything more: row 161."""

from __future__ import annotations

from pathlib import Path

import pytest
from bot_scene import scenes
from fault_report import Fault
from test_plugins_that_harm import folder_of, say, stops

pytestmark = pytest.mark.e2e

FULL = """
@plugin.command("full", "From now on the machine allows no thread")
async def full(ctx):
    import threading
    def refuse(*args, **options):
        raise RuntimeError("can't start new thread")
    for name in ("_start_new_thread", "_start_joinable_thread"):
        if hasattr(threading, name):
            setattr(threading, name, refuse)
    # What watches a child where threads are not needed for it takes a descriptor.
    os.pidfd_open = lambda *args: (_ for _ in ()).throw(OSError(24, "Too many open files"))
    await ctx.respond("Full.")
"""


@pytest.mark.fault(161)
async def test_a_machine_without_room_for_a_thread_leaves_nothing_and_stops_in_order(
    tmp_path: Path, fault: Fault
) -> None:
    plugins = ["--plugins-dir", str(folder_of(tmp_path, {"full": FULL}))]
    settings = {"plugins.deny": "", "plugins.required": "voice,stt"}
    async with (
        scenes(tmp_path) as scene,
        scene.bot(*plugins, **{key.replace(".", "__"): value for key, value in settings.items()}) as bot,
    ):
        assert "Joined" in await scene.join()
        assert await say(scene, "/full") == "Full."
        answer = await say(scene, "/transcribe start", 20.0)
        assert "the machine has no room for it" in answer
        assert bot.descendants() == [], "a worker that nobody watches"
        with fault.clock(scaled=False):
            await stops(bot, scene)
