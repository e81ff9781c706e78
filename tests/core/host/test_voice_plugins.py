"""The host with the real voice and speech plugins in a real call."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_report import Fault
from host_rig import Live, eventually, log_of, running

from roost import __version__, leaks
from roost.hooks import INFO
from roost.plugins import State

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]


@asynccontextmanager
async def speaking_bot(tmp_path: Path, card: dict[str, Any]) -> AsyncIterator[Live]:
    sets = [
        f"voice.ca_file={card['ca_file']}",
        "voice.allowed_hosts=localhost,127.0.0.1",
        "voice.timing_scale=0.2",
        "voice.drain_s=0.5",
        "stt.engine=scripted",
    ]
    async with running(tmp_path, card, *sets, deny="") as live:
        yield live


async def opened(live: Live, guild: int = 0) -> tuple[int, int]:
    """(sessions now, sessions ever) in a guild, by Discord's count."""
    state = await live.control.state()
    here = [each for each in state["sessions"]["per_guild"] if each["guild_id"] == str(live.guilds[guild])]
    return sum(each["live"] for each in here), sum(each["opened"] for each in here)


async def join(live: Live, guild: int) -> None:
    await live.control.voice(member_id=live.members[1], channel_id=live.voices[guild][0])
    assert "Joined" in await live.slash("/voice join", member=1, guild=guild, wait_s=10)


@pytest.mark.parametrize("does", ["raise OSError('the list cannot be read')", "await asyncio.Event().wait()"])
@pytest.mark.parametrize("hook", ["voice_join_check(request)", "voice_session_opening(session)"])
async def test_a_check_that_fails_keeps_the_bot_out(
    tmp_path: Path, drop: Drop, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch, hook: str, does: str
) -> None:
    name = hook.partition("(")[0]
    monkeypatch.setitem(INFO, name, dataclasses.replace(INFO[name], deadline_s=0.3))
    drop("guard", f"@hookimpl\nasync def {hook}: {does}\n")
    async with speaking_bot(tmp_path, card) as live:
        ever = (await opened(live))[1]
        since = await live.now()
        await live.control.voice(member_id=live.members[1], channel_id=live.voices[0][0])
        said = await live.slash("/voice join", member=1, wait_s=10)
        assert said == "I did not join: the plugin guard failed in its check."
        assert (await opened(live))[0] == 0
        if name == "voice_join_check":  # nothing was sent at all
            assert (await opened(live))[1] == ever
            assert not [each for each in await live.control.log(since) if each["kind"] == "op4"]
        await live.slash("/plugins disable", plugin="guard")
        assert "Joined" in await live.slash("/voice join", member=1, wait_s=15)
        await live.control.voice(member_id=live.members[1], channel_id=None)


async def test_reloading_speech_leaves_voice_connected_and_goes_on(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop(
        "watcher",
        """
        @hookimpl
        async def voice_session_opened(session): log.append(("opened", session.id))
        @hookimpl
        async def voice_session_closed(session, reason): log.append(("closed", session.id))
        """,
    )
    async with speaking_bot(tmp_path, card) as live:
        await join(live, 0)
        now, ever = await opened(live)
        assert now == 1
        await eventually(lambda: len(log_of("watcher")) == 1)
        assert "Transcribing" in await live.slash("/transcribe start", member=1, wait_s=10)
        assert f"**stt** {__version__} is loaded." in await live.slash("/bot plugins reload", plugin="stt", wait_s=10)
        assert await opened(live) == (1, ever)
        async with asyncio.timeout(8):
            while "Transcribing" not in await live.slash("/transcribe status", member=1):
                await asyncio.sleep(0.1)
        assert "In <#" in await live.slash("/voice status", member=1)
        # A plugin that comes in the middle of a call is told of it, and gets the frames.
        drop("late", "@hookimpl\nasync def voice_session_opened(session): log.append(session.id)\n")
        await live.host.load("late")
        await eventually(lambda: log_of("late") == [log_of("watcher")[0][1]])
        # And so is one that is switched on.
        await live.slash("/plugins disable", plugin="late")
        await live.slash("/plugins enable", plugin="late")
        await eventually(lambda: len(log_of("late")) == 2)
        assert len(log_of("watcher")) == 1
        steps = live.app.stop_steps
    assert [step for step in steps if step not in ("watcher.stopping", "late.stopping")] == [
        "stt.stopping",
        "voice.stopping",
        "closing",
        "drained",
        "disconnected",
        "closed",
        *(step for step in steps if step.endswith(".unload")),
        "gateway.closed",
    ]
    assert steps.index("stt.unload") < steps.index("voice.unload")


async def test_disabling_voice_in_a_guild_ends_its_session_there(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    async with speaking_bot(tmp_path, card) as live:
        await join(live, 1)
        since = await live.now()
        answer = await live.slash("/plugins disable", plugin="voice", guild=1, wait_s=10)
        assert answer == "**voice** is now disabled here. So is stt, which needs it."
        assert (await opened(live, 1))[0] == 0
        assert [guild for guild, _ in await live.puts(since)] == [live.guilds[1]]
        assert not {"voice", "transcribe"} & set(await live.commands(1))
        assert {"voice", "transcribe"} <= set(await live.commands(0))
        await live.slash("/plugins enable", plugin="voice", guild=1)
        await live.control.voice(member_id=live.members[1], channel_id=None)
        await join(live, 1)
        assert (await opened(live, 1))[0] == 1
        await live.control.voice(member_id=live.members[1], channel_id=None)


@pytest.mark.fault(67)
async def test_unloaded_in_a_call_it_leaves_and_nothing_of_it_stays(
    tmp_path: Path, drop: Drop, card: dict[str, Any], fault: Fault
) -> None:
    async with speaking_bot(tmp_path, card) as live:
        for _ in range(3):
            await join(live, 0)
            old = weakref.ref(live.host.records["voice"].instance)
            with fault.clock(scaled=False):
                assert await live.host.unload("voice", "disable") == ["stt", "voice"]
            assert (await opened(live))[0] == 0
            assert live.state("voice") is State.UNLOADED, live.host.records["voice"].detail
            gc.collect()
            gone = old() is None  # an assert would hold it itself
            assert gone, "the plugin could not be collected"
            await live.host.load("voice")
            await live.host.load("stt")
        assert (await live.control.state())["max_sessions_per_guild"] == 1


@pytest.mark.fault(67)
async def test_a_hundred_cycles_end_where_they_began(
    tmp_path: Path, drop: Drop, card: dict[str, Any], fault: Fault
) -> None:
    async with speaking_bot(tmp_path, card) as live:
        host = live.host

        def held() -> dict[str, int]:
            counts = leaks.measure(host.bot, modules=("roost_voice", "roost_stt")).counts()
            implementations = sum(
                len(caller.get_hookimpls())
                for name in dir(host.dispatcher.manager.hook)
                if hasattr(caller := getattr(host.dispatcher.manager.hook, name), "get_hookimpls")
            )
            return counts | {
                "hook implementations": implementations,
                "commands": len(host.command_names("voice")) + len(host.command_names("stt")),
            }

        async def cycle(number: int) -> None:
            with fault.clock(scaled=False):
                await turn(number)
            assert {live.state("voice"), live.state("stt")} == {State.LOADED}
            assert not host.records["voice"].detail + host.records["stt"].detail

        async def turn(number: int) -> None:
            if number % 5 == 0:
                assert await host.unload("voice", "disable") == ["stt", "voice"]
                assert {live.state("voice"), live.state("stt")} == {State.UNLOADED}, host.records["voice"].detail
                await host.load("voice")
                await host.load("stt")
            else:
                await host.reload("voice" if number % 2 else "stt")

        async def at_rest() -> dict[str, int]:
            """Once what begins with a load is done: what is held for a quarter of a second."""
            now = held()
            for _ in range(40):
                before, now = now, (await asyncio.sleep(0.25), held())[1]
                if now == before:
                    break
            return now

        await cycle(0)
        baseline = await at_rest()
        for number in range(100):
            await cycle(number)
        after = await at_rest()
        # Connections to Discord come and go by themselves.
        assert after.pop("descriptors") <= baseline.pop("descriptors") + 2
        assert after == baseline
        assert baseline["modules"] > 20
        await live.answers()
        assert "In <#" not in await live.slash("/voice status")
