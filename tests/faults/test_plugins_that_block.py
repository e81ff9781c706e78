"""Plugins that block the event loop outside their hooks: row 345. A whole bot at a simulated Discord."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bot_scene import scenes
from fault_report import Fault
from plugin_scene import folder_of, said_of, say

from roost.demo.bot_process import BotProcess

pytestmark = pytest.mark.e2e

BLOCKS = """
@plugin.command("sleeps", "Blocks")
async def sleeps(ctx): time.sleep(30)

@plugin.command("begins", "Starts a task that blocks")
async def begins(ctx):
    await ctx.respond("begun")
    plugin.ctx.task(spins(), "spins")
async def spins():
    while True: pass

@plugin.command("heard", "Is answered")
async def heard(ctx): await ctx.respond("heard")
@plugin.hook
async def on_load(ctx):
    plugin.ctx = ctx
    ctx.listen(hikari.InteractionCreateEvent, hears)
async def hears(event):
    while getattr(event.interaction, "command_name", "") == "heard":
        try:
            time.sleep(30)
        except BaseException:
            pass
"""


async def told(bot: BotProcess, plugin: str, text: str) -> dict[str, Any]:
    """The line of the log about a plugin with a text in it."""
    async with asyncio.timeout(5.0):
        while True:
            for each in bot.events:
                if each.get("plugin") == plugin and text in str(each.get("message")):
                    return dict(each)
            await asyncio.sleep(0.05)


@pytest.mark.fault(345)
async def test_blocking_plugin_is_interrupted_and_counted(fault: Fault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"blocks": BLOCKS})
    async with scenes(tmp_path) as scene, scene.bot("--plugins-dir", str(folder)) as bot:
        with fault.clock(scaled=False):
            assert "went wrong" in await say(scene, "/sleeps")
        for command, what in (("/begins", "its task spins"), ("/heard", "its listener for InteractionCreateEvent")):
            with fault.clock(scaled=False):
                await say(scene, command)
                assert "decided" in await say(scene, "/privacy status")
            line = await told(bot, "blocks", f"blocks failed in {what}")
            assert "it blocked the event loop" in line["message"]
            assert f"{folder}/blocks.py:" in line["message"]
            assert line["guild"] == scene.guild_id
        assert f"blocks failed in its command /sleeps ({folder}/blocks.py:8)" in said_of(bot, "blocks")
