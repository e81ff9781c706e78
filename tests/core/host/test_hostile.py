"""Every hostile plugin ends in its state while the bot goes on answering."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hikari
import pytest
from host_rig import Live, log_of, running

from roost.hooks import INFO, Kind, RoostSpec, hookimpl
from roost.plugins import State

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

RAISES = "\n".join(
    f"@hookimpl\ndef {name}(): log.append({name!r}); raise RuntimeError('hostile')"
    for name, info in INFO.items()
    if info.kind is not Kind.OWN
)


async def test_hostile_plugins_at_start(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("syntax", code="def broken(:\n")
    drop("importerror", code="import nothing_of_that_name\n")
    drop("hangs", code="import time\nwhile True: time.sleep(0.05)\n")
    drop("exits", code="import sys\nsys.exit(3)\n")
    drop("misspelt", "@hookimpl\ndef on_laod(ctx): ...\n")
    own = "from roost import Plugin\n__roost_plugin__ = p = Plugin('misspelthere')\n@p.hook\ndef on_laod(ctx): ...\n"
    drop("misspelthere", code=own)
    drop("signature", "@hookimpl\ndef on_load(context): ...\n")
    drop("notsync", "@hookimpl\nasync def voice_consent(session, user_id): ...\n")
    drop("stayer", "@hookimpl\nasync def on_load(ctx): await asyncio.Event().wait()\n")
    drop("circle", requires=("ring",))
    drop("ring", requires=("circle",))
    drop("raises", RAISES)
    drop("good", says="hi")
    drop("voice")
    expected = {
        "syntax": "syntax.py:1",
        "importerror": "importerror.py:1",
        "hangs": "hangs.py:2",
        "exits": "exits.py:2",
        "misspelt": "misspelt.py:10); did you mean on_load?",
        "misspelthere": "misspelthere.py:3); did you mean on_load?",
        "signature": "on_load has no argument context, it has ctx",
        "notsync": "voice_consent must be a plain def",
        "stayer": "it took too long",
        "circle": "circular dependency",
        "ring": "circular dependency",
        "voice": "two plugins are called voice",
    }
    async with running(tmp_path, card, "plugins.load_timeout_s=1", "plugins.required=", deny="stt") as live:
        for name, said in expected.items():
            assert live.state(name) is State.FAILED, name
            assert said in live.host.records[name].detail, live.host.records[name].detail
            assert not live.host.dispatcher.manager.has_plugin(name)
        assert set(live.host.loaded) == {"raises", "good"}
        await live.answers()
        # It was asked whether others may, and did not say yes: refused, until it is out of the way.
        assert await live.slash("/good") == "the plugin raises failed in its check"
        for name in (name for name, info in INFO.items() if info.kind is not Kind.OWN and not info.sync):
            arguments = inspect.signature(getattr(RoostSpec, name)).parameters
            given = {each: asyncio.get_running_loop().time() + 1 if each == "deadline" else None for each in arguments}
            await live.host.dispatcher.call(name, **{key: each for key, each in given.items() if key != "self"})
        assert live.state("raises") is State.QUARANTINED
        await live.answers()
        assert "the plugin raises decides about this" in await live.slash("/good")
        await live.slash("/plugins disable", plugin="raises")
        assert await live.slash("/good") == "hi"


async def test_hooks_that_block_take_nobody_along(
    tmp_path: Path, drop: Drop, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop("blocks", "@hookimpl\ndef command_check(ctx):\n    while True: pass\n", says="x")
    monkeypatch.setattr("roost.blocking.LIMIT_S", 0.5)
    monkeypatch.setattr("roost.dispatch.LIMIT_S", 0.5)
    async with running(tmp_path, card, "plugins.quarantine_failures=2") as live:
        for _ in range(2):
            await live.slash("/blocks")
            await live.answers()
        assert live.host.pauses.places_of("blocks") == [live.guilds[0]]
        assert "is paused here" in await live.slash("/blocks")


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("threading.Thread(target=time.sleep, args=(2,), name='idler', daemon=True).start()", "thread idler"),
        (
            "import subprocess; sys.modules['roost_test_logs'].child = subprocess.Popen(['sleep', '30'])",
            "child process",
        ),
        ("import socket; sys.modules['roost_test_logs'].held = socket.socket()", "descriptor"),
        ("ctx.bot.subscribe(hikari.GuildLeaveEvent, listens)", "listener roost_dropins.leaks.listens"),
        ("sys.modules['roost_test_logs'].task = asyncio.ensure_future(waits())", "task Task-"),
    ],
    ids=["thread", "child", "socket", "listener", "task"],
)
async def test_what_is_left_behind_is_listed(
    tmp_path: Path, drop: Drop, card: dict[str, Any], body: str, left: str
) -> None:
    drop(
        "leaks",
        f"""
        async def listens(event: hikari.GuildLeaveEvent) -> None: ...
        async def waits(): await asyncio.Event().wait()
        @hookimpl
        async def on_load(ctx):
            {body}
        """,
    )
    drop("good", says="hi")
    async with running(tmp_path, card) as live:
        answer = await live.slash("/bot plugins unload", plugin="leaks", wait_s=8.0)
        assert live.state("leaks") is State.LEAKED
        assert left in live.host.records["leaks"].detail
        assert left in answer
        assert "leaked" in await live.slash("/plugins why", plugin="leaks")
        assert await live.slash("/good") == "hi"
        await clean_up(live)


async def clean_up(live: Live) -> None:
    kept = vars(sys.modules["roost_test_logs"])
    if "child" in kept:
        child = kept.pop("child")
        child.kill()
        child.wait()
    if "held" in kept:
        kept.pop("held").close()
    if "task" in kept:
        kept.pop("task").cancel()
    for listener in list(live.host.bot.get_listeners(hikari.GuildLeaveEvent, polymorphic=False)):
        if "leaks" in getattr(listener, "__module__", ""):
            live.host.bot.unsubscribe(hikari.GuildLeaveEvent, listener)
    for thread in threading.enumerate():
        if thread.name == "idler":
            await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('never')", "on_unload failed: RuntimeError at"),
        ("await asyncio.Event().wait()", "on_unload failed: it took too long"),
        ("time.sleep(3600)", "on_unload failed: it took too long"),
    ],
    ids=["raises", "hangs", "blocks"],
)
async def test_an_unload_that_fails_is_an_unload(
    tmp_path: Path, drop: Drop, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    monkeypatch.setitem(INFO, "on_unload", dataclasses.replace(INFO["on_unload"], deadline_s=0.3))
    monkeypatch.setattr("roost.dispatch.OPENING_LIMIT_S", 0.5)
    drop(
        "clings",
        f"""
        @hookimpl
        async def on_load(ctx): ctx.on_unload(lambda: log.append("cleaned"))
        @hookimpl
        async def on_unload(ctx): {body}
        """,
        says="x",
    )
    async with running(tmp_path, card) as live:
        await live.host.unload("clings", "disable")
        assert live.state("clings") is State.LEAKED
        assert said in live.host.records["clings"].detail
        assert "clings.py:" in live.host.records["clings"].detail
        assert log_of("clings") == ["cleaned"]
        assert "clings" not in await live.commands()
        await live.answers()


async def test_a_misspelt_hook_of_one_does_not_fail_another(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    async with running(tmp_path, card) as live:
        # As a plugin that was registered by other means would leave it: pending, and nobody's business here.
        live.host.dispatcher.manager.register(Stray(), "stray")
        drop("fine", says="hi")
        assert "**fine** 1 is loaded." in await live.slash("/bot plugins load", plugin="fine")
        live.host.dispatcher.manager.unregister(name="stray")


class Stray:
    @hookimpl
    def no_such_hook(self) -> None: ...
