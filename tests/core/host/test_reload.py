"""Loading, unloading and reloading while the bot runs."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_report import Fault
from host_rig import log_of, running, source

from roost.errors import PluginError
from roost.plugins import State

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]


async def test_an_edit_in_a_submodule_takes_effect(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop(
        "pack",
        file="pack/__init__.py",
        code=source("pack", "from .deep import word\n", says="x").replace("'x'", "word()"),
    )
    deep = drop("pack", file="pack/deep.py", code="def word(): return 'one'\n")
    async with running(tmp_path, card) as live:
        assert await live.slash("/pack") == "one"
        since = await live.now()
        # The same size within the same second: bytecode that is trusted by date and size would be the old one.
        for word in ("two", "six"):
            deep.write_text(f"def word(): return '{word}'\n")
            assert "is loaded" in await live.slash("/bot plugins reload", plugin="pack")
            assert await live.slash("/pack") == word
        assert await live.puts(since) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + "x = = 1\n", "invalid syntax"),
        (lambda text: text + "import nothing_of_that_name\n", "nothing_of_that_name"),
        (lambda text: text + "@hookimpl\ndef on_laod(ctx): ...\n", "did you mean on_load?"),
        (lambda text: text + "@hookimpl\nasync def on_load(ctx): 1 / 0\n", "ZeroDivisionError at"),
    ],
    ids=["syntax", "import", "misspelt", "raise"],
)
async def test_broken_new_code_leaves_the_old_version_answering(
    tmp_path: Path, drop: Drop, card: dict[str, Any], change: Callable[[str], str], said: str
) -> None:
    file = drop("solid", "@hookimpl\nasync def on_unload(): log.append('unload')\n", says="as before")
    async with running(tmp_path, card) as live:
        file.write_text(change(file.read_text()).replace("as before", "never"))
        answer = await live.slash("/bot plugins reload", plugin="solid")
        assert said in answer
        assert "solid.py:" in answer
        assert await live.slash("/solid") == "as before"
        assert live.state("solid") is State.LOADED
        assert log_of("solid") == (["unload"] * 2 if "1 / 0" in file.read_text() else [])


async def test_state_is_handed_over(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop(
        "counts",
        """
        @hookimpl
        async def on_load(ctx): log.append(ctx.handover)
        @hookimpl
        async def handover(): return {"count": len(log)}
        """,
    )
    async with running(tmp_path, card) as live:
        await live.host.reload("counts")
        await live.host.reload("counts")
        assert log_of("counts") == [None, {"count": 1}, {"count": 2}]


async def test_dependents_go_first_and_come_back_after(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    life = """
    @hookimpl
    async def on_load(ctx): order.append("+" + NAME)
    @hookimpl
    async def on_unload(ctx, reason): order.append("-" + NAME + " " + reason)
    order = sys.modules["roost_test_logs"].__dict__.setdefault("order", [])
    """
    drop("upper", life.replace("NAME", "'upper'"), requires=("under",))
    drop("under", life.replace("NAME", "'under'"))
    async with running(tmp_path, card) as live:
        order = log_of("order")
        order.clear()
        await live.host.reload("under")
        assert order == ["-upper reload", "-under reload", "+under", "+upper"]
        order.clear()
        assert await live.host.unload("under", "disable") == ["upper", "under"]
        assert order == ["-upper disable", "-under disable"]
        with pytest.raises(PluginError, match="it needs the plugin under, which is not loaded"):
            await live.host.load("upper")
        assert await live.slash("/bot plugins load", plugin="under") == "**under** 1 is loaded."


async def test_an_import_that_hangs_costs_its_deadline_and_nobody_else(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("good", says="still here")
    async with running(tmp_path, card, "plugins.load_timeout_s=1.5") as live:
        file = drop("hangs", code="import time\nwhile True:\n    time.sleep(0.01)\n")
        load = asyncio.ensure_future(live.slash("/bot plugins load", plugin="hangs"))
        while not load.done():
            assert await live.slash("/good") == "still here"
            await asyncio.sleep(0.1)
        assert "its import took longer than 1.5 s" in await load
        assert f"{file}:3" in live.host.records["hangs"].detail or f"{file}:2" in live.host.records["hangs"].detail
        assert live.state("hangs") is State.FAILED


async def test_a_load_that_hangs_is_unwound(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    async with running(tmp_path, card, "plugins.load_timeout_s=0.5") as live:
        drop(
            "hangs",
            """
            @hookimpl
            async def on_load(ctx):
                ctx.on_unload(lambda: log.append("unwound"))
                await asyncio.Event().wait()
            """,
        )
        with pytest.raises(PluginError, match=r"it took too long \(.*hangs\.py:"):
            await live.host.load("hangs")
        assert log_of("hangs") == ["unwound"]
        await live.answers()


async def test_a_failed_load_can_be_mended_and_loaded(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("mend", code="import nothing_of_that_name\n")
    async with running(tmp_path, card) as live:
        assert live.state("mend") is State.FAILED
        assert "nothing_of_that_name" in await live.slash("/bot plugins check")
        drop("mend", says="mended")
        assert "**mend** 1 is loaded." in await live.slash("/bot plugins load", plugin="mend")
        assert await live.slash("/mend") == "mended"


async def test_a_late_plugin_hears_that_the_bot_has_started_and_others_hear_of_it(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop(
        "first",
        """
        @hookimpl
        async def plugin_loaded(name): log.append("+" + name)
        @hookimpl
        async def plugin_unloading(name, reason, deadline): log.append("~" + name)
        @hookimpl
        async def plugin_unloaded(name, reason): log.append("-" + name)
        """,
    )
    async with running(tmp_path, card) as live:
        drop("second", "@hookimpl\nasync def on_started(bot): log.append('started')\n")
        await live.host.load("second")
        await live.host.unload("second", "disable")
        assert log_of("first") == ["+second", "~second", "-second"]
        assert log_of("second") == ["started"]


async def test_commands_in_discord_follow_load_and_unload(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("comes", says="hello")
    async with running(tmp_path, card) as live:
        assert "comes" in await live.commands(1)
        since = await live.now()
        await live.host.unload("comes", "disable")
        assert "comes" not in await live.commands(1)
        await live.host.load("comes")
        assert "comes" in await live.commands(1)
        told = [guild for guild, _ in await live.puts(since)]
        assert sorted(told[:2]) == sorted(told[2:]) == sorted(live.guilds)
        assert await live.slash("/comes", guild=1) == "hello"


async def test_going_down_ends_a_load_that_hangs(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    async with running(tmp_path, card) as live:
        drop(
            "hangs",
            """
            @hookimpl
            async def on_load(ctx):
                ctx.on_unload(lambda: log.append("unwound"))
                log.append("loading")
                await asyncio.Event().wait()
            """,
        )
        load = asyncio.ensure_future(live.host.load("hangs"))
        while "roost_test_logs" not in sys.modules or log_of("hangs") != ["loading"]:
            await asyncio.sleep(0.01)
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 3
    assert log_of("hangs") == ["loading", "unwound"]
    with pytest.raises(asyncio.CancelledError):
        await load


async def test_an_import_that_was_given_up_does_not_take_the_mended_codes_modules_along(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    go = tmp_path / "go"
    drop("slow", code=f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n")
    async with running(tmp_path, card, "plugins.load_timeout_s=0.3") as live:
        assert live.state("slow") is State.FAILED
        drop("slow", says="mended")
        await live.host.load("slow")
        go.touch()
        for thread in threading.enumerate():
            if thread.name == "roost import slow":
                await asyncio.to_thread(thread.join, 5)
        assert "roost_dropins.slow" in sys.modules
        assert await live.slash("/slow") == "mended"


@pytest.mark.fault(149)
async def test_a_command_that_arrives_while_its_plugin_is_loaded_anew_is_answered(
    tmp_path: Path, drop: Drop, card: dict[str, Any], fault: Fault
) -> None:
    """Its commands are unregistered by then, and lightbulb drops what it does not know."""
    body = "import asyncio\n@hookimpl\nasync def on_load(ctx): await asyncio.sleep({seconds})\n"
    file = drop("sleepy", body.format(seconds=0), says="awake")
    async with running(tmp_path, card) as live:
        assert await live.slash("/sleepy") == "awake"
        file.write_text(file.read_text().replace("sleep(0)", "sleep(2)"))
        reloading = asyncio.ensure_future(live.host.reload("sleepy"))
        async with asyncio.timeout(5):
            while live.state("sleepy") is not State.LOADING:
                await asyncio.sleep(0.01)
        with fault.clock(scaled=False):
            assert await live.slash("/sleepy") == "The plugin sleepy is being reloaded. Try again in a moment."
        await reloading
        assert await live.slash("/sleepy") == "awake"


async def test_a_command_of_somebody_else_is_not_answered(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    async with running(tmp_path, card) as live:
        application, guild = int(card["bots"][0]["application_id"]), live.guilds[0]
        await live.host.bot.rest.create_slash_command(application, "theirs", "Somebody's", guild=guild)
        with pytest.raises(AssertionError, match="was not answered"):
            await live.slash("/theirs", wait_s=1.0)
