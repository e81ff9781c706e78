"""A real app with drop-in plugins, logged in at a simulated Discord in a process of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from roost.app import App
from roost.config import load
from roost.plugins import PluginHost, State
from roost.sim import ControlClient

READY_S = 15.0

HEAD = """
import asyncio, sys, threading, time
import hikari, lightbulb
from roost import Deny, Meta, hookimpl

log = sys.modules.setdefault("roost_test_logs", type(sys)("roost_test_logs")).__dict__.setdefault({name!r}, [])

@hookimpl
def plugin_meta(): return Meta({name!r}, version="1", requires={requires!r})
"""

COMMAND = """
class Say(lightbulb.SlashCommand, name={name!r}, description="says"):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        await ctx.respond(answer())

def answer(): return {says!r}

@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(Say)
    return [loader]
"""


def source(name: str, body: str = "", *, requires: tuple[str, ...] = (), says: str | None = None) -> str:
    """A one-file plugin, with a command of its own name when it says something."""
    text = HEAD.format(name=name, requires=requires) + textwrap.dedent(body)
    return text if says is None else text + COMMAND.format(name=name, says=says)


def log_of(name: str) -> list[Any]:
    """What a plugin of `source` has appended to its ``log``, through all its versions."""
    log: list[Any] = vars(sys.modules["roost_test_logs"]).setdefault(name, [])
    return log


@contextmanager
def simulated() -> Iterator[dict[str, Any]]:
    """``roost sim`` in its own process; gives its card."""
    with subprocess.Popen(
        [sys.executable, "-m", "roost", "sim", "--exit-with-parent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)


class Live:
    """A running bot and the hands of the members around it."""

    def __init__(self, app: App, control: ControlClient, card: dict[str, Any]) -> None:
        self.app = app
        self.control = control
        self.guilds = [int(guild["id"]) for guild in card["guilds"]]
        self.texts = [int(guild["text_channels"][0]["id"]) for guild in card["guilds"]]
        self.voices = [[int(each["id"]) for each in guild["voice_channels"]] for guild in card["guilds"]]
        self.members = [int(member["id"]) for member in card["guilds"][0]["members"]]
        """The first owns the guilds and the application."""

    @property
    def host(self) -> PluginHost:
        return self.app.plugins

    def state(self, name: str) -> State:
        return self.host.records[name].state

    async def slash(
        self, command: str, /, *, guild: int = 0, member: int = 0, wait_s: float = 5.0, **options: Any
    ) -> str:
        """The last reply to a command; raises when nothing answers."""
        answer = await self.control.slash(
            member_id=self.members[member],
            channel_id=self.texts[guild],
            command=command,
            options=options,
            wait_s=wait_s,
        )
        assert answer["replies"], f"{command} was not answered: {answer}"
        return str(answer["replies"][-1]["content"])

    async def answers(self) -> None:
        """The bot is there: ``/privacy status``."""
        assert "decided" in await self.slash("/privacy status")

    async def puts(self, since: float) -> list[tuple[int, list[str]]]:
        """(guild, command names) of every change of commands that Discord saw since then."""
        entries = await self.control.log(since)
        return [(int(each["guild_id"]), each["names"]) for each in entries if each["kind"] == "commands"]

    async def now(self) -> float:
        return float((await self.control.state())["t"])

    async def commands(self, guild: int = 0) -> list[str]:
        return list((await self.control.state())["commands"].get(str(self.guilds[guild]), []))


@asynccontextmanager
async def running(
    tmp_path: Path, card: dict[str, Any], *sets: str, deny: str = "voice,stt", folder: Path | None = None
) -> AsyncIterator[Live]:
    """Run the app with the drop-in plugins of ``tmp_path/plugins`` until the end of the block."""
    folder = folder or tmp_path / "plugins"
    folder.mkdir(mode=0o700, exist_ok=True)
    config = load(
        environ={},
        sets=[
            f"discord.rest_url={card['rest_url']}",
            f"plugins.dir={folder}",
            # Tests share the simulated Discord, each with a data folder of its own.
            "commands.remove_foreign=true",
            *([f"plugins.deny={deny}"] if deny else []),
            *sets,
        ],
        data_dir=tmp_path / "data",
    )
    app = App(config, card["bots"][0]["token"])
    run = asyncio.ensure_future(app.run())
    ready = asyncio.ensure_future(app.commands_in_place.wait())
    try:
        async with asyncio.timeout(READY_S):
            await asyncio.wait({run, ready}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            await run
        async with ControlClient(card["control_url"]) as control:
            yield Live(app, control, card)
    finally:
        ready.cancel()
        app.request_stop("the test is over")
        async with asyncio.timeout(10):
            await asyncio.wait({run})
    await run


async def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for something that announces itself by no event."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def transitions(records: list[logging.LogRecord], name: str) -> list[str]:
    """The states a plugin went through, by the log."""
    return [vars(each)["state"] for each in records if vars(each).get("plugin") == name and "state" in vars(each)]
