"""A plugin that raises what would end the process fails alone, wherever it does so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_rig import eventually, running

from roost.plugins import State
from roost.strays import Tamed, host_task

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

ENDS = ["sys.exit(3)", "raise KeyboardInterrupt", "raise asyncio.CancelledError", "raise Wild"]
IDS = ["exit", "interrupt", "cancelled", "own"]
CANCELS_ITSELF = "asyncio.current_task().cancel()"

OPENING = """
class Wild(BaseException): ...
@hookimpl
async def on_load(ctx):
    {body}
"""
EVERYWHERE = """
class Wild(BaseException): ...
async def listens(event): {body}
async def works(): {body}
def cleans(): {body}
@hookimpl
async def on_load(ctx):
    ctx.listen(hikari.GuildAvailableEvent, listens)
    ctx.task(works(), "works")
    ctx.on_unload(cleans)
@hookimpl
async def on_started(bot): {body}
@hookimpl
def voice_consent(session, user_id): {body}
@hookimpl
async def on_unload(ctx): {body}

async def completes(ctx): {body}

class Wrong(lightbulb.SlashCommand, name="wrong", description="goes wrong"):
    word = lightbulb.string("word", "any", autocomplete=completes, default="")
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        {body}

@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(Wrong)
    return [loader]
"""


@pytest.mark.parametrize("body", ENDS, ids=IDS)
async def test_at_import_and_at_load(tmp_path: Path, drop: Drop, card: dict[str, Any], body: str) -> None:
    drop("imports", f"class Wild(BaseException): ...\n{body}\n")
    drop("loads", OPENING.format(body=body))
    drop("good", says="hi")
    async with running(tmp_path, card) as live:
        for name in ("imports", "loads"):
            assert live.state(name) is State.FAILED
            assert f"{name}.py:" in live.host.records[name].detail
            assert "StrayError" not in live.host.records[name].detail
        assert await live.slash("/good") == "hi"


@pytest.mark.parametrize("body", [*ENDS, CANCELS_ITSELF], ids=[*IDS, "cancels itself"])
async def test_at_run_time(
    tmp_path: Path, drop: Drop, card: dict[str, Any], body: str, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_task_factory(host_task)
    drop("wild", EVERYWHERE.format(body=body))
    drop("good", says="hi")
    async with running(tmp_path, card, "plugins.quarantine_failures=100") as live:
        assert "Something went wrong" in await live.slash("/wrong")
        completed = live.control.autocomplete(
            member_id=live.members[0],
            channel_id=live.texts[0],
            command="/wrong",
            options={"word": "a"},
            focused="word",
            wait_s=0.3,
        )
        assert await completed == []

        async def asks() -> list[Any]:
            return live.host.dispatcher.call_sync("voice_consent", session=None, user_id=1)

        assert (await asyncio.create_task(asks()))[0].reason
        answer = await live.slash("/bot plugins unload", plugin="wild", wait_s=8.0)
        assert "on_unload failed" in answer
        assert "clean-up failed" in answer
        assert live.state("wild") is State.LEAKED
        assert await live.slash("/good") == "hi"
    said = " ".join(each.message for each in caplog.records)
    for source in (
        "its listener for GuildAvailableEvent",
        "on_started",
        "its command /wrong",
        "its choices for /wrong",
    ):
        assert f"plugin wild failed in {source}" in said, source
    # A task that ends as cancelled has ended, whoever cancelled it.
    assert ("plugin wild failed in its task works" in said) is ("ancel" not in body)


async def test_a_cancellation_stays_one(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("slow", OPENING.format(body="log.append(1); await asyncio.Event().wait()"))
    async with running(tmp_path, card, "plugins.load_timeout_s=0.2") as live:
        await eventually(lambda: live.state("slow") is State.FAILED)
        assert "took too long" in live.host.records["slow"].detail
    waits = asyncio.ensure_future(Tamed(asyncio.Event().wait()))
    await asyncio.sleep(0)
    assert waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
