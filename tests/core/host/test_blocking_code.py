"""Plugin code that blocks the event loop is interrupted wherever it runs, and counted where it belongs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_rig import eventually, log_of, running

Drop = Callable[..., Path]

pytestmark = pytest.mark.sim

LIMIT_S = 0.5
BLOCKS = """
class Destroyed:
    def __del__(self):
        while True: pass
class Awaited:
    def __await__(self):
        while True: pass
        yield
def spins():
    while True: pass
def soon(callback, *arguments): asyncio.get_running_loop().call_soon(callback, *arguments)

async def native(): soon(time.sleep, 30)
async def callback(): soon(spins)
async def done():
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: spins())
    future.set_result(None)
async def destructor(): soon(lambda: Destroyed() and None)
async def unowned(): log.append(asyncio.get_running_loop().create_task(waits()))
async def waits(): await Awaited()
async def caught():
    try: time.sleep(30)
    except Exception: pass
async def swallows():
    while True:
        try:
            while True:
                try: time.sleep(30)
                except BaseException: pass
        except: continue
async def logs():
    import logging
    while True: logging.getLogger("roost_test").debug("x")

@hookimpl
async def on_load(ctx): log.append((ctx, globals()))
@hookimpl
async def voice_idle(seconds): await swallows()
@hookimpl
async def on_started(bot): pass

async def completes(ctx): spins()
class Blocks(lightbulb.SlashCommand, name="blocks", description="Blocks"):
    word = lightbulb.string("word", "any", autocomplete=completes, default="")
    @lightbulb.invoke
    async def invoke(self, ctx): await swallows()
@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(Blocks)
    return [loader]
"""
WAYS = {
    "native": "its function sleep",
    "callback": "its function spins",
    "done": "its function spins",
    "destructor": "its function Destroyed.__del__",
    "unowned": "its function Awaited.__await__",
    "caught": "its function caught",
    "swallows": "its task swallows",
    "logs": "its task logs",
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the destructor
async def test_code_that_blocks_is_interrupted_and_counted_once(
    tmp_path: Path,
    drop: Drop,
    card: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = drop("blocks", BLOCKS)
    monkeypatch.setattr("roost.blocking.LIMIT_S", LIMIT_S)
    monkeypatch.setattr("roost.dispatch.LIMIT_S", LIMIT_S)
    monkeypatch.setattr("roost.blocking.REPORT_S", 0.05)
    async with running(tmp_path, card, "plugins.quarantine_failures=100") as live:
        ctx, names = log_of("blocks")[0]
        place = live.guilds[0]

        async def failed_in(source: str) -> None:
            """Wait for a failure that is the only new one, in the server that the work was for."""

            def lines() -> list[logging.LogRecord]:
                return [each for each in caplog.records if each.name == "roost.hooks"]

            await eventually(lambda: bool(lines()), 5 * LIMIT_S)
            await asyncio.sleep(0.1)
            (line,) = lines()
            assert f"plugin blocks failed in {source} (" in line.message
            assert line.message.endswith("it blocked the event loop")
            assert str(file) in line.message or source.endswith("sleep")
            last = live.host.last_failures.of("blocks", place)
            assert last is not None
            assert (last.source, last.place) == (source, place if source != "voice_idle" else None)
            caplog.clear()

        caplog.clear()
        for way, source in WAYS.items():
            ctx.task(names[way](), way, guild_id=place)
            await failed_in(source)
        assert await live.host.dispatcher.call("voice_idle", seconds=1.0) == []
        await failed_in("voice_idle")
        assert "went wrong" in await live.slash("/blocks")
        await failed_in("its command /blocks")
        choices = await live.control.autocomplete(
            member_id=live.members[0],
            channel_id=live.texts[0],
            command="/blocks",
            options={"word": "a"},
            focused="word",
            wait_s=5.0,
        )
        assert choices == []
        await failed_in("its choices for /blocks")
        await live.answers()
