"""What Discord's main gateway sends that nobody can read, and stops that do not reach it: rows 140 to 142."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from bot_scene import Scene, scenes, steps
from fault_report import Fault

pytestmark = pytest.mark.e2e

RECONNECTED_S = 10.0


async def again(scene: Scene, *kinds: str, than: int = 0) -> None:
    """Wait until the bot has resumed or begun a session more often than this."""
    async with asyncio.timeout(RECONNECTED_S + 5):
        while len(await scene.log(*kinds)) <= than:
            await asyncio.sleep(0.02)


@pytest.mark.fault(140)
@pytest.mark.parametrize("kind", ["not_json", "text", "zlib", "no_op", "nested"])
async def test_a_frame_that_nobody_can_read_costs_one_connection(kind: str, fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        with fault.clock(scaled=False):
            await scene.discord.fault("gateway_frame", kind=kind)
            await again(scene, "gateway_resume")
        assert bot.returncode is None
        assert await scene.place() == scene.voice[0]
        assert not any("Traceback" in str(each.get("error", "")) for each in bot.events), bot.events[-5:]
        bot.terminate()
        assert await bot.wait(10) == 0, "\n".join(bot.tail)
        assert await scene.leaves_before_the_gateway()


@pytest.mark.fault(141)
@pytest.mark.parametrize("code", [4001, 4005, 4099])
async def test_only_final_close_codes_end_the_bot(code: int, fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path) as scene, scene.bot() as bot:
        with fault.clock(scaled=False):
            await scene.discord.fault("gateway_drop", code=code)
            await again(scene, "gateway_resume")
        assert bot.returncode is None


@pytest.mark.fault(142)
async def test_a_stop_that_does_not_reach_discord_says_so(fault: Fault, tmp_path: Path) -> None:
    async with scenes(tmp_path, "--ghosts", "ignored") as scene, scene.bot() as bot:
        assert "Joined" in await scene.join()
        await scene.discord.fault("refuse_gateway", times=1000)
        await scene.discord.fault("gateway_abort")
        await bot.wait_for(lambda each: "cannot be reached" in each.get("message", ""), 10, "the loss")
        began = time.monotonic()
        os.kill(bot.pid, signal.SIGTERM)
        status = await bot.wait(12)
        fault.note(time.monotonic() - began, scaled=False)
        assert status == 3
        assert any(each.get("event") == "stop_unreached" for each in bot.events)
        assert "unconfirmed" in steps(bot)
        assert "disconnected" not in steps(bot)
        assert steps(bot)[-1] == "gateway.lost"
        assert await scene.place() == scene.voice[0], "the ghost that the log speaks of"
        assert scene.journals(), "the next start reaps it"
