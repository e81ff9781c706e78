"""The process is told to go: rows 68, 69, 70, 72 and 109."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from bot_scene import Scene, scenes, steps
from fault_report import Fault

from roost.app import EXIT_BACKSTOP
from roost.demo.bot_process import BotProcess
from roost.demo.ledger import STOP_ORDER

pytestmark = pytest.mark.e2e

OFFLINE_S = 8.0


async def stopped(
    bot: BotProcess, scene: Scene, fault: Fault, *signals: signal.Signals, bound_s: float | None = None
) -> int:
    """Send the signals, wait for the end of the process, and claim the time; its exit status."""
    began = time.monotonic()
    for number in signals:
        os.kill(bot.pid, number)
        await asyncio.sleep(0.03)
    status = await bot.wait(OFFLINE_S + 4)
    fault.note(time.monotonic() - began, bound_s, scaled=False)
    assert await scene.place() is None
    assert (await scene.discord.state())["sessions"]["live"] == 0
    return status


@pytest.mark.fault(68)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_in_a_call_voice_is_left_before_the_gateway(number: signal.Signals, fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        assert await stopped(bot, scene, fault, number) == 0
        assert steps(bot) == tuple(step for step in STOP_ORDER if not step.startswith("stt."))
        assert await scene.leaves_before_the_gateway()
        assert scene.journals() == []


@pytest.mark.fault(68)
@pytest.mark.parametrize("held", ["withhold_vsrvu", "mute_ready", "mute_session_description", "drop_op4"])
async def test_in_mid_join_too(held: str, fault: Fault, tmp_path: Path) -> None:
    """Wherever the join stands, the bot is out when it ends."""
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot() as bot:
        await scene.discord.fault(held, guild_id=scene.guild_id, times=5)
        joining = asyncio.ensure_future(scene.join(wait_s=6.0))
        async with asyncio.timeout(5):
            while not await scene.log("op4"):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        # A leave that Discord does not confirm is waited for until the deadline of the stop.
        bound_s = 5.0 if held == "drop_op4" else None
        assert await stopped(bot, scene, fault, signal.SIGTERM, bound_s=bound_s) == 0
        assert await scene.leaves_before_the_gateway()
        await joining


@pytest.mark.fault(68)
async def test_while_a_voice_connection_is_resumed(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        await scene.discord.fault("mute_resume", guild_id=scene.guild_id, times=5)
        await scene.discord.fault("reset_tcp", guild_id=scene.guild_id)
        await asyncio.sleep(0.3)
        assert await stopped(bot, scene, fault, signal.SIGTERM) == 0
        assert await scene.leaves_before_the_gateway()


@pytest.mark.fault(69)
@pytest.mark.parametrize("how", ["await asyncio.sleep(3600)", "time.sleep(3600)"])
async def test_a_plugin_that_hangs_while_stopping_is_passed_by(how: str, fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    (folder / "sloth.py").write_text(
        "import asyncio, time\n"
        "from roost import Plugin\n"
        "__roost_plugin__ = plugin = Plugin('sloth', 'Never ends')\n"
        "@plugin.hook\n"
        f"async def on_stopping(bot, deadline): {how}\n"
        "@plugin.hook\n"
        f"async def on_unload(ctx, reason): {how}\n"
    )
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        await stopped(bot, scene, fault, signal.SIGTERM)
        assert await scene.leaves_before_the_gateway()


@pytest.mark.fault(70)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_makes_it_hurry_and_voice_is_left_all_the_same(
    number: signal.Signals, fault: Fault, tmp_path: Path
) -> None:
    """A slow drain is what a second signal cuts short."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    (folder / "talker.py").write_text(
        "import asyncio\n"
        "from roost import Plugin\n"
        "__roost_plugin__ = plugin = Plugin('talker', 'Has much to say')\n"
        "@plugin.hook\n"
        "async def voice_session_closing(session, reason, deadline): await asyncio.sleep(30)\n"
    )
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        assert await stopped(bot, scene, fault, number, number) == 0
        assert await scene.leaves_before_the_gateway()


@pytest.mark.fault(72)
async def test_a_thread_that_never_ends_does_not_keep_the_process(fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    (folder / "thread.py").write_text(
        "import threading, time\n"
        "from roost import Plugin\n"
        "__roost_plugin__ = plugin = Plugin('thread', 'Leaves a thread')\n"
        "@plugin.hook\n"
        "async def on_load(ctx): threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()\n"
    )
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        await stopped(bot, scene, fault, signal.SIGTERM)
        assert await scene.leaves_before_the_gateway()


@pytest.mark.fault(253)
async def test_a_database_that_hangs_does_not_keep_the_process(fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    (folder / "hangs.py").write_text(
        "import asyncio, roost.app, sqlalchemy.ext.asyncio\n"
        "from roost import Plugin\n"
        "__roost_plugin__ = plugin = Plugin('hangs', 'Has the database hang')\n"
        "async def hang(self): await asyncio.sleep(3600)\n"
        "roost.app.BACKSTOP_S = 3.0\n"
        "sqlalchemy.ext.asyncio.AsyncEngine.dispose = hang\n"
    )
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        assert "Joined" in await scene.join()
        assert await stopped(bot, scene, fault, signal.SIGTERM) == EXIT_BACKSTOP
        assert await scene.leaves_before_the_gateway()
        assert scene.journals() == []


@pytest.mark.fault(109)
async def test_signals_for_other_purposes_end_nothing_and_sigquit_stops_in_order(fault: Fault, tmp_path: Path) -> None:
    others = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        for number in others:
            for _ in range(3):
                os.kill(bot.pid, number)
        await bot.wait_for(lambda each: "received SIGUSR1" in str(each.get("message")), 5, "its line")
        assert await scene.place() == scene.voice[0]
        assert await stopped(bot, scene, fault, signal.SIGQUIT) == 0
        assert steps(bot) == tuple(step for step in STOP_ORDER if not step.startswith("stt."))
        assert await scene.leaves_before_the_gateway()
        assert scene.journals() == []
