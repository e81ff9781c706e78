"""A plugin that keeps failing is stopped; everybody else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_rig import eventually, log_of, running

from roost.audio import AudioFrame
from roost.blocking import LIMIT_S
from roost.dispatch import Dispatcher
from roost.frames import OVERRUNS, SAMPLED, OverBudget
from roost.hooks import hookimpl
from roost.plugins import State

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

OWNER = """
@hookimpl
def plugin_meta(): return Meta("owner", errors_of=("*",))
@hookimpl
async def handle_error(error, source, plugin): log.append((source, plugin))
@hookimpl
async def voice_idle(seconds): log.append(seconds)
"""


async def test_the_fifth_failure_in_a_minute_quarantines_and_the_owner_is_told_once(
    tmp_path: Path, drop: Drop, card: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    drop(
        "bad",
        """
        import hikari
        @hookimpl
        async def on_load(ctx):
            ctx.listen(hikari.GuildLeaveEvent, on_leave)
            ctx.task(asyncio.Event().wait(), "waits")
        async def on_leave(event): ...
        @hookimpl
        async def voice_idle(seconds):
            log.append(seconds)
            raise RuntimeError("no")
        """,
        says="hi",
    )
    drop("owner", OWNER)
    async with running(tmp_path, card) as live:
        assert "**bad** 1: on\n" in await live.slash("/plugins list")
        for number in range(4):
            await live.host.dispatcher.call("voice_idle", seconds=number)
        assert "**bad** 1: on, but failed <t:" in await live.slash("/plugins list")
        assert "failed <t:" in await live.slash("/plugins info", plugin="bad")
        why = await live.slash("/plugins why", plugin="bad")
        assert "is on here, but failed in work for the whole bot <t:" in why
        for number in range(4, 7):
            await live.host.dispatcher.call("voice_idle", seconds=number)
        assert log_of("bad") == [0, 1, 2, 3, 4]
        assert [each for each in log_of("owner") if isinstance(each, int)] == list(range(7))
        assert live.state("bad") is State.QUARANTINED
        await eventually(lambda: ("quarantine", "bad") in log_of("owner"))
        assert log_of("owner").count(("quarantine", "bad")) == 1
        assert "quarantined" in await live.slash("/bad")
        assert "quarantined" in await live.slash("/plugins why", plugin="bad")
        assert live.host.dispatcher.implementers("voice_idle") == ("owner",)
        assert not [task for task in asyncio.all_tasks() if "plugin:bad" in task.get_name()]
        assert len([each for each in caplog.records if "plugin bad: quarantined" in each.getMessage()]) == 1
        # It had a task, which only a new start can give back.
        assert "**bad** is called again." in await live.slash("/bot plugins unquarantine", plugin="bad")
        assert live.state("bad") is State.LOADED
        assert [task for task in asyncio.all_tasks() if "plugin:bad" in task.get_name()]
        assert await live.slash("/bad") == "hi"
        assert "not quarantined" in await live.slash("/bot plugins unquarantine", plugin="bad")


async def test_failures_of_listeners_tasks_and_commands_count(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop(
        "bad",
        """
        @hookimpl
        async def on_load(ctx):
            ctx.listen(hikari.InteractionCreateEvent, on_interaction)
            ctx.task(fails(), "fails")
        async def fails(): raise RuntimeError("task")
        async def on_interaction(event):
            log.append("event")
            raise RuntimeError("listener")
        """,
        says="x",
    ).write_text((tmp_path / "plugins" / "bad.py").read_text().replace("return 'x'", "raise RuntimeError('command')"))
    async with running(tmp_path, card, "plugins.quarantine_failures=4") as live:
        log_of("bad").clear()
        assert "Something went wrong" in await live.slash("/bad")
        await live.answers()
        # The task's failure was no server's.
        assert live.host.pauses.places_of("bad") == []
        await live.answers()
        assert live.host.pauses.places_of("bad") == [live.guilds[0]]
        assert log_of("bad") == ["event"] * 3
        await live.answers()
        assert log_of("bad") == ["event"] * 3
        assert "paused" in await live.slash("/bad")
        assert live.state("bad") is State.LOADED
        assert "Something went wrong" in await live.slash("/bad", guild=1)


async def test_old_failures_do_not_count(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("bad", "@hookimpl\nasync def voice_idle(seconds): raise RuntimeError('no')\n")
    async with running(tmp_path, card, "plugins.quarantine_window_s=0.05") as live:
        for _ in range(6):
            await live.host.dispatcher.call("voice_idle", seconds=1)
            await asyncio.sleep(0.03)
        assert live.state("bad") is State.LOADED


async def test_a_hook_that_blocks_is_cut_off(
    tmp_path: Path, drop: Drop, card: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    file = drop("blocks", "@hookimpl\nasync def voice_idle(seconds):\n    time.sleep(3600)\n")
    drop("owner", OWNER)
    async with running(tmp_path, card) as live:
        async with asyncio.timeout(LIMIT_S + 5):
            await live.host.dispatcher.call("voice_idle", seconds=1)
        assert log_of("owner")[0] == 1
        assert f"blocks failed in voice_idle ({file}:12): it blocked the event loop" in caplog.text
        await live.answers()


class Told:
    """Notes failures."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str, Exception]] = []

    def __call__(self, plugin: str, source: str, error: Exception, place: int | None = None) -> None:
        self.failures.append((plugin, source, error))


def fan_of(*plugins: tuple[str, object]) -> tuple[Dispatcher, Told]:
    told = Told()
    hooks = Dispatcher(lambda: [name for name, _ in plugins], lambda name, guild: guild != 7, told)
    for name, plugin in plugins:
        hooks.manager.register(plugin, name)
    return hooks, told


FRAME = AudioFrame(1, 2, 3, 4, b"opus", 0)


class Hears:
    def __init__(self) -> None:
        self.got: list[Any] = []

    @hookimpl
    def voice_audio_frame(self, frame: AudioFrame, session: Any) -> None:
        self.got.append((session, frame))


class Breaks:
    @hookimpl
    def voice_audio_frame(self, frame: AudioFrame) -> None:
        raise RuntimeError("no")


class Slow:
    @hookimpl
    def voice_audio_frame(self) -> None:
        import time

        time.sleep(0.0003)


def test_one_failing_plugin_does_not_cost_another_its_frames() -> None:
    first, last = Hears(), Hears()
    hooks, told = fan_of(("last", last), ("breaks", Breaks()), ("first", first))
    sink = hooks.frame_sink(1, "session")
    for _ in range(2 * SAMPLED):
        sink.write(FRAME)
    assert first.got == last.got == [("session", FRAME)] * 2 * SAMPLED
    assert [each[:2] for each in told.failures] == [("breaks", "voice_audio_frame")] * 2 * SAMPLED


def test_frames_follow_quarantine_switches_and_new_plugins() -> None:
    one, two = Hears(), Hears()
    hooks, _ = fan_of(("one", one))
    sink = hooks.frame_sink(1, "session")
    elsewhere = hooks.frame_sink(7, "session")
    sink.write(FRAME)
    elsewhere.write(FRAME)
    hooks.mute("one", True)
    sink.write(FRAME)
    hooks.manager.register(two, "two")
    hooks.changed()
    sink.write(FRAME)
    hooks.mute("one", False)
    sink.write(FRAME)
    assert (len(one.got), len(two.got)) == (2, 2)


def test_fifty_slow_frames_are_over_the_budget() -> None:
    hooks, told = fan_of(("slow", Slow()))
    sink = hooks.frame_sink(1, "session")
    for number in range(SAMPLED + OVERRUNS):
        assert not told.failures, number
        sink.write(FRAME)
        if told.failures:
            break
    assert number == SAMPLED + OVERRUNS - 2
    assert isinstance(told.failures[0][2], OverBudget)


async def test_being_over_budget_is_a_pause_at_once(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("slow", "@hookimpl\ndef voice_audio_frame(frame): time.sleep(0.0003)\n")
    async with running(tmp_path, card) as live:
        sink = live.host.dispatcher.frame_sink(live.guilds[0], None)
        for _ in range(SAMPLED + OVERRUNS):
            sink.write(FRAME)
        pause = live.host.pauses.of("slow", live.guilds[0])
        assert pause is not None
        assert "50 frames took longer" in pause.failure.detail
        assert live.host.pauses.of("slow", live.guilds[1]) is None
