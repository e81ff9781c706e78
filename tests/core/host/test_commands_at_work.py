"""A plugin goes while its commands are at work: they finish, or they are ended and their members told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_rig import Live, eventually, log_of, running, simulated

from roost.plugins import State

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

WORKS = """
go = asyncio.Event()

class Work(lightbulb.SlashCommand, name="work", description="works"):
    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        log.append("began")
        try:
            {body}
        finally:
            log.append("over")

@hookimpl
async def on_unload(reason): log.append(reason)

@hookimpl
async def handover(): log.append("handover")

@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(Work)
    return [loader]
"""
STOPPED = "This was stopped before it was done. The plugin slow is being "


async def begin(live: Live, *, wait_s: float = 10.0) -> asyncio.Task[dict[str, Any]]:
    """Ada's ``/work`` is at work."""
    log_of("slow").clear()
    ada, here = live.members[1], live.texts[0]
    working = asyncio.ensure_future(
        live.control.slash(member_id=ada, channel_id=here, command="/work", options={}, wait_s=wait_s)
    )
    await eventually(lambda: log_of("slow") == ["began"])
    return working


async def said(working: asyncio.Task[dict[str, Any]]) -> list[str]:
    return [str(each["content"]) for each in (await working)["replies"]]


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost.plugins.host.DRAIN_S", 0.3)


@pytest.mark.parametrize("change", ["unload", "reload"])
async def test_a_command_at_work_may_finish(tmp_path: Path, drop: Drop, card: dict[str, Any], change: str) -> None:
    drop("slow", WORKS.format(body="await go.wait(); await ctx.respond('done')"))
    async with running(tmp_path, card) as live:
        go = live.host.records["slow"].instance.go
        working = await begin(live)
        going = asyncio.ensure_future(live.slash(f"/bot plugins {change}", plugin="slow", wait_s=10))
        commands = live.host._commands
        assert commands is not None
        await eventually(lambda: "slow" in commands.running.going)
        # Nobody else begins what could not be finished.
        refused = await live.slash("/work")
        assert refused.startswith(f"The plugin slow is being {change}ed.")
        assert log_of("slow") == ["began"]
        go.set()
        assert await said(working) == ["done"]
        await going
        assert log_of("slow") == [
            "began",
            "over",
            *(["handover"] if change == "reload" else []),
            ("reload" if change == "reload" else "disable"),
        ]
        assert live.state("slow") is (State.LOADED if change == "reload" else State.UNLOADED)


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ("await go.wait()", []),
        ("await ctx.defer(); await go.wait()", []),
        ("await ctx.respond('I am at it'); await go.wait()", ["I am at it"]),
        (
            "await ctx.interaction.create_initial_response(hikari.ResponseType.MESSAGE_CREATE, 'past you');"
            " await go.wait()",
            ["past you"],
        ),
        ("await asyncio.wait_for(go.wait(), 60)", []),
    ],
    ids=["silent", "deferred", "answered", "behind lightbulb's back", "in a time-out of its own"],
)
@pytest.mark.parametrize("change", ["unload", "reload"])
async def test_a_command_that_takes_too_long_is_ended_and_answered(
    tmp_path: Path,
    drop: Drop,
    card: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    body: str,
    first: list[str],
) -> None:
    quick(monkeypatch)
    drop("slow", WORKS.format(body=body))
    async with running(tmp_path, card) as live:
        working = await begin(live, wait_s=5.0)
        if first:  # The control API gives what there is as soon as there is something.
            assert await said(working) == first
        since = await live.now()
        assert "slow" in await live.slash(f"/bot plugins {change}", plugin="slow", wait_s=10)
        assert log_of("slow")[:2] == ["began", "over"]
        assert live.state("slow") is (State.LOADED if change == "reload" else State.UNLOADED)
        if first:
            told = [each["content"] for each in await live.control.log(since) if STOPPED in str(each.get("content"))]
            assert len(told) == 1
        else:
            (only,) = await said(working)
            assert only.startswith(f"{STOPPED}{change}ed.")
        assert not live.host.dispatcher.failures


async def test_a_command_that_ignores_its_end_is_named_and_its_member_told(
    tmp_path: Path, drop: Drop, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    body = """while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    log.append("ignored")"""
    drop("slow", WORKS.format(body=body))
    async with running(tmp_path, card) as live:
        go = live.host.records["slow"].instance.go
        working = await begin(live)
        answer = await live.slash("/bot plugins unload", plugin="slow", wait_s=10)
        assert "its command /work ignored its cancellation" in answer
        assert live.state("slow") is State.LEAKED
        (only,) = await said(working)
        assert only.startswith(STOPPED)
        go.set()
        await eventually(lambda: "over" in log_of("slow"))


async def test_it_is_answered_when_the_bot_goes_down(tmp_path: Path, drop: Drop) -> None:
    drop("slow", WORKS.format(body="await ctx.defer(); await go.wait()"))
    with simulated() as card:
        async with running(tmp_path, card) as live:
            working = await begin(live)
            live.app.request_stop("a test")
            assert await said(working) == ["This was stopped before it was done. I am going down."]
            await eventually(lambda: "gateway.closed" in live.app.stop_steps)
            assert log_of("slow") == ["began", "over", "shutdown"]


async def test_what_is_checked_while_its_plugin_goes_does_not_begin(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    """Admitted by the old version, it would run on what that version gave back."""
    drop("slow", WORKS.format(body="await ctx.respond('done')"))
    drop(
        "asks",
        "go = asyncio.Event()\n@hookimpl\nasync def command_check(ctx):\n    log.append(1)\n    await go.wait()\n",
    )
    async with running(tmp_path, card) as live:
        asking = asyncio.ensure_future(live.slash("/work", wait_s=10))
        await eventually(lambda: log_of("asks") == [1])
        await live.host.reload("slow")
        live.host.records["asks"].instance.go.set()
        assert await asking == "The plugin slow is being reloaded. Try again in a moment."
        assert "began" not in log_of("slow")
        assert await live.slash("/work") == "done"
