"""Drop-in plugins for whole bots, and what is asked of such a bot."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from bot_scene import Scene

from roost.demo.bot_process import BotProcess

HEAD = """
import asyncio, os, signal, sys, time
import hikari, lightbulb
from roost import Deny, Plugin
__roost_plugin__ = plugin = Plugin({name!r}, "A test's")
"""


def folder_of(tmp_path: Path, plugins: Mapping[str, str]) -> Path:
    """A folder of drop-in plugins: name to code, below `HEAD`."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    for name, code in plugins.items():
        file = folder / f"{name}.py"
        file.write_text(HEAD.format(name=name) + code)
        file.chmod(0o600)
    return folder


def said_of(bot: BotProcess, plugin: str) -> str:
    """What the log says about a plugin, line by line."""
    return "\n".join(str(each.get("message")) for each in bot.events if each.get("plugin") == plugin)


async def say(scene: Scene, command: str, wait_s: float = 5.0) -> str:
    """Ada types a command; the last reply."""
    answer = await scene.discord.slash(
        member_id=scene.ada, channel_id=scene.text, command=command, options={}, wait_s=wait_s
    )
    return str(answer["replies"][-1]["content"]) if answer["replies"] else ""


async def stops(bot: BotProcess, scene: Scene, number: signal.Signals = signal.SIGTERM) -> float:
    """Seconds from the signal to the end of the process, which must have left voice first."""
    began = time.monotonic()
    os.kill(bot.pid, number)
    assert await bot.wait(12.0) == 0
    seconds = time.monotonic() - began
    assert await scene.place() is None
    assert await scene.leaves_before_the_gateway()
    return seconds
