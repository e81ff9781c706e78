"""Row 8: every public coroutine of the voice plugin, cancelled at every one of its awaits."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dis
import inspect
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from context import Recorder, Rig, SinkRecorder, eventually, running
from fault_report import DRIVER, SCALE, Fault
from stepping import Countdown, cancelled_at, watching

from roost.audio import AudioFrame, Credentials, JoinRequest, SessionStats, VoiceSession
from roost.hooks import SwitchCause, hookimpl
from roost.sim.server import SimulatedDiscord
from roost.sim.world import Guild, SimSettings
from roost.testing.leftovers import leak_check
from roost_voice import chosen_driver, guild, native, op4, plugin, sessions, signalling
from roost_voice import session as session_module
from roost_voice.moves import State, Told

pytestmark = pytest.mark.sim

GUILDS = 6
OWN_SCALE = max(SCALE, 0.25)
"""Several joins at once must not run out of time on a busy machine: it is the cancellation that is to end them."""
Work = Callable[[Rig], Coroutine[Any, Any, Any]]


class Slow(Recorder):
    """Its hooks wait, so that each of them can be cancelled."""

    @hookimpl
    async def voice_join_check(self, request: JoinRequest) -> None:
        await asyncio.sleep(0)
        self._note("join_check", request.channel_id)

    @hookimpl
    async def voice_session_opening(self, session: VoiceSession) -> None:
        await asyncio.sleep(0)
        self._note("opening", session.channel_id)

    @hookimpl
    async def voice_session_closing(self, session: VoiceSession, reason: str, deadline: float) -> None:
        await asyncio.sleep(0)
        self._note("closing", reason)

    @hookimpl
    async def voice_session_closed(self, session: VoiceSession, reason: str, stats: SessionStats) -> None:
        await asyncio.sleep(0)
        self._note("closed", (reason, stats))


@pytest.fixture
def settings() -> SimSettings:
    # Two shards: the limit of op 4s is each shard's, and here they are many.
    return SimSettings(guilds=GUILDS, shards=2, members=GUILDS)


@pytest.fixture
async def rig(sim: SimulatedDiscord, tmp_path: Path) -> AsyncIterator[Rig]:
    async with leak_check(), running(sim, tmp_path, recorder=Slow(), timing_scale=OWN_SCALE) as made:
        yield made
        assert made.most <= 1
        assert not list((tmp_path / "instances").glob("*.json")), "the journal is not empty"


def at(rig: Rig, place: Guild) -> Rig:
    """The same bot, seen from another of its servers."""
    other = copy.copy(rig)
    other.guild, other.guild_id = place, place.id
    other.channels = [channel.id for channel in place.of_type(2)]
    other.text = place.of_type(0)[0].id
    # Each server has a member of its own who asks: one alone would have a share of the op 4s.
    members = [member.user.id for member in place.members.values() if not member.user.bot]
    first = list(rig.sim.world.guilds).index(place.id)
    other.members = members[first:] + members[:first]
    return other


def everywhere(rig: Rig) -> list[Rig]:
    return [at(rig, place) for place in rig.sim.world.guilds.values()]


def held(rig: Rig) -> list[dict[str, Any]]:
    """The voice connections in this server, at the voice servers."""
    assert rig.sim.part is not None
    sessions = [each for each in rig.sim.part.state()["voice_sessions"] if each["guild_id"] == str(rig.guild_id)]
    # Who breaks off could still resume; the voice state that this needs is gone.
    return sessions if DRIVER == "native" else [each for each in sessions if each["connection_id"]]


async def gone(rig: Rig) -> None:
    """Nothing of the bot is left in this server, at Discord's end or ours."""
    await eventually(lambda: rig.manager.state(rig.guild_id) is State.IDLE)
    assert rig.place is None
    await eventually(lambda: not held(rig))
    assert rig.manager.session(rig.guild_id) is None


# Cancelled while others work for it -----------------------------------------------------------------------------------


async def cancel_everywhere(rig: Rig, prepare: Work, work: Work, after: Callable[[Rig], Awaitable[None]]) -> int:
    """Cancel `work` at each await of every task that has to do with its server, one in each server at a time.

    Returns:
        How many awaits there were.
    """
    counts: dict[str, Countdown] = {}

    def suspended(task: str) -> None:
        for guild_id, countdown in counts.items():
            if guild_id in task:
                countdown.step()

    async def once(here: Rig, steps: int) -> bool:
        await prepare(here)
        countdown = counts[str(here.guild_id)] = Countdown(steps)
        countdown.task = asyncio.create_task(work(here), name=f"asked {here.guild_id}")
        await asyncio.wait({countdown.task})
        counts.pop(str(here.guild_id))
        if countdown.struck:
            assert countdown.task.cancelled(), f"the cancellation at await {steps} did not come out"
        else:
            countdown.task.result()
        await after(here)
        await gone(here)
        return countdown.struck

    async def lane(here: Rig, numbers: Iterator[int]) -> int:
        while await once(here, steps := next(numbers)):
            pass
        return steps

    numbers = itertools.count(1)
    with watching(suspended):
        return min(await asyncio.gather(*(lane(here, numbers) for here in everywhere(rig))))


async def nothing(rig: Rig) -> None:
    pass


async def leaves(rig: Rig) -> None:
    await rig.leave()


@pytest.mark.fault(8)
async def test_a_join_is_cancelled_at_any_await(rig: Rig, fault: Fault) -> None:
    """Also at those of the tasks that work for it: signalling, handshake, hooks. It must end by itself."""
    loop = asyncio.get_running_loop()

    async def timed(here: Rig) -> None:
        began = loop.time()
        await gone(here)
        worst.append(loop.time() - began)

    async def join(here: Rig) -> None:
        assert (await here.join(0)).told is Told.JOINED
        joined.append(here.guild_id)
        # Whoever was told leaves; whoever was not is not asked to.
        await here.leave()

    worst: list[float] = []
    joined: list[int] = []
    assert await cancel_everywhere(rig, nothing, join, timed) > 15
    assert joined
    fault.note(max(worst))


@pytest.mark.fault(8)
async def test_a_move_is_cancelled_at_any_await(rig: Rig, fault: Fault) -> None:
    """The session goes on, in one of the two channels; it is never doubled, and leaving ends it."""

    async def prepare(here: Rig) -> None:
        assert (await here.join(0)).told is Told.JOINED

    async def move(here: Rig) -> None:
        assert (await here.join(1)).told is Told.MOVED

    async def after(here: Rig) -> None:
        await eventually(lambda: here.manager.state(here.guild_id) is State.LIVE)
        stay = here.manager.session(here.guild_id)
        assert stay is not None
        assert stay.channel_id == here.place
        with fault.clock():
            assert (await here.leave()).told is Told.LEFT

    assert await cancel_everywhere(rig, prepare, move, after) > 10


@pytest.mark.fault(8)
async def test_a_leave_is_cancelled_at_any_await(rig: Rig, fault: Fault) -> None:
    """Nobody waits for it any more; it is done all the same."""

    async def prepare(here: Rig) -> None:
        assert (await here.join(0)).told is Told.JOINED

    async def after(here: Rig) -> None:
        with fault.clock():
            await gone(here)

    assert await cancel_everywhere(rig, prepare, leaves, after) > 5


@pytest.mark.fault(8)
async def test_a_link_is_cancelled_at_any_await(rig: Rig, fault: Fault) -> None:
    """Also at those of the tasks that keep its sockets."""

    async def after(here: Rig) -> None:
        with fault.clock():
            await eventually(lambda: not held(here))

    assert await cancel_everywhere(rig, nothing, hold_a_link, after) > 10


# Each public coroutine, cancelled at its own awaits -------------------------------------------------------------------


class Nobody:
    """Hears a link and does nothing."""

    def wants(self, user_id: int) -> bool:
        return True

    def frame(self, frame: AudioFrame) -> None: ...
    def member_joined(self, user_id: int) -> None: ...
    def member_left(self, user_id: int) -> None: ...
    def speaking(self, user_id: int, on: bool) -> None: ...
    def dave(self, version: int, epoch: int, state: str) -> None: ...
    def state(self, name: str) -> None: ...


async def each_await(rig: Rig, prepare: Work, work: Work, after: Callable[[Rig], Awaitable[None]]) -> int:
    """Cancel `work` at each of its own awaits; gives how many there are."""
    for steps in itertools.count(1):
        await prepare(rig)
        struck = await cancelled_at(lambda: work(rig), steps)
        await after(rig)
        await gone(rig)
        if not struck:
            return steps - 1
    raise AssertionError


async def in_voice(rig: Rig) -> None:
    assert (await rig.join(0)).told is Told.JOINED


async def leave_then(rig: Rig) -> None:
    """What was cancelled did no harm: the session stands, and leaves when asked."""
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert (await rig.leave()).told is Told.LEFT


async def capturing(rig: Rig) -> None:
    stay = rig.manager.session(rig.guild_id)
    assert stay is not None
    stay.attach(SinkRecorder())
    assert await stay.capturing()


async def listen_for_a_moment(rig: Rig) -> None:
    await rig.manager.test(rig.guild_id, 0.1)


async def drain_a_plugin(rig: Rig) -> None:
    await rig.plugin.plugin_unloading("recorder", "disabled", asyncio.get_running_loop().time() + 1)


async def switch_off(rig: Rig) -> None:
    await rig.plugin.guild_disabled(rig.ctx, rig.guild_id, SwitchCause.ADMIN)


async def hold_a_link(rig: Rig) -> None:
    """A driver used by hand: opened, and closed again when live."""
    assert rig.sim.part is not None
    channel_id, session_id = rig.channels[0], "a session"
    ticket = rig.sim.part.allocate(rig.guild_id, channel_id, rig.bot_id, session_id)
    credentials = Credentials(rig.guild_id, channel_id, rig.bot_id, session_id, ticket.token, ticket.endpoint)
    driver = await rig.plugin.voice_driver("native", plugin.settings_of(rig.ctx.config))
    assert driver is not None
    async with driver.open(credentials, Nobody()) as link:
        assert held(rig)
        assert await link.update(credentials)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await link.wait_closed()


EACH: dict[str, tuple[Work, Work, Work]] = {
    "capturing": (in_voice, capturing, leave_then),
    "plugin_unloading": (in_voice, drain_a_plugin, leave_then),
    "guild_disabled": (in_voice, switch_off, nothing),
    "link": (nothing, hold_a_link, nothing),
    "test": (in_voice, listen_for_a_moment, leave_then),
}


@pytest.mark.fault(8)
@pytest.mark.parametrize("name", EACH)
async def test_a_coroutine_is_cancelled_at_each_of_its_awaits(rig: Rig, fault: Fault, name: str) -> None:
    prepare, work, after = EACH[name]

    async def timed(here: Rig) -> None:
        with fault.clock():
            await after(here)
            await gone(here)

    assert await each_await(rig, prepare, work, timed) > 0


async def stop_all(rig: Rig) -> None:
    assert not await rig.manager.stop_all("the test says so", asyncio.get_running_loop().time() + 2.4)


async def stopping(rig: Rig) -> None:
    await rig.plugin.on_stopping(rig.ctx.bot, asyncio.get_running_loop().time() + 2.4)


async def unload(rig: Rig) -> None:
    await rig.plugin.on_unload(rig.ctx, "the test says so")


async def close_all(rig: Rig) -> None:
    await stop_all(rig)
    await rig.manager.aclose()


ENDS: dict[str, Work] = {"stop_all": stop_all, "on_stopping": stopping, "on_unload": unload, "aclose": close_all}


@pytest.mark.fault(8)
@pytest.mark.parametrize("name", ENDS)
async def test_the_end_of_voice_is_cancelled_at_each_of_its_awaits(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, name: str
) -> None:
    """Whoever ends voice may be cancelled; sessions that were told to end do."""
    struck, steps = True, 0
    while struck:
        steps += 1
        async with leak_check(), running(sim, tmp_path, recorder=Slow(), timing_scale=OWN_SCALE) as rig:
            await in_voice(rig)
            struck = await cancelled_at(lambda: ENDS[name](rig), steps)
            with fault.clock(3):
                await gone(rig)
    assert steps > 1
    assert not list((tmp_path / "instances").glob("*.json"))


async def last_leaves(rig: Rig) -> None:
    assert not await rig.manager.leave_for_good(asyncio.get_running_loop().time() + 2)


@pytest.mark.fault(8)
async def test_the_last_leaves_are_cancelled_at_each_of_their_awaits(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault
) -> None:
    """Whoever asks for them again has the bot out of voice, and nothing is left for the next process to end."""
    struck, steps = True, 0
    while struck:
        steps += 1
        async with leak_check(), running(sim, tmp_path, recorder=Slow(), timing_scale=OWN_SCALE) as rig:
            await in_voice(rig)
            assert not await rig.manager.aclose()
            struck = await cancelled_at(lambda: last_leaves(rig), steps)
            with fault.clock(3):
                await last_leaves(rig)
            assert rig.place is None
    assert steps > 1
    assert not list((tmp_path / "instances").glob("*.json"))


@pytest.mark.fault(8)
async def test_an_actor_is_cancelled_at_each_of_its_awaits(rig: Rig, fault: Fault) -> None:
    """As by a host in a hurry: its link and tasks go with it, whoever waits is told, and the next one takes over."""
    steps, struck, channels = 0, True, itertools.cycle([0, 1])
    counting: list[Countdown] = []

    def suspended(task: str) -> None:
        for countdown in counting:
            if task == f"voice/guild {rig.guild_id}":
                countdown.task = countdown.task or asyncio.current_task()
                countdown.step()

    while struck:
        steps += 1
        counting.append(Countdown(steps))
        with watching(suspended):
            result = await rig.join(next(channels))
        struck = counting.pop().struck
        assert result.told is Told.JOINED or struck
        if struck:
            with fault.clock():
                await eventually(lambda: not held(rig) and not rig.manager.states())
        assert (await rig.join(next(channels))).told in (Told.JOINED, Told.MOVED)
        assert (await rig.leave()).told is Told.LEFT
        await gone(rig)
        await rig.at_rest()
        next(channels)
    assert steps > 3


@pytest.mark.parametrize("name", ["update", "wait_closed"])
async def test_cancelling_the_check_of_a_foreign_link_cancels_the_link(name: str) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def waits(*_given: object) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    link: Any = SimpleNamespace(update=waits, wait_closed=waits)
    hooks: Any = SimpleNamespace(failed=pytest.fail)
    checked = chosen_driver.CheckedLink(link, "driver", 1, hooks)
    task = asyncio.ensure_future(getattr(checked, name)(*([None] if name == "update" else [])))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


# Nobody is forgotten --------------------------------------------------------------------------------------------------

COVERED = {
    "SessionManager": {"join", "leave", "leave_for_good", "plugin_unloading", "stop_all", "aclose", "test"},
    "Session": {"capturing"},
    "GuildActor": {"run"},
    "VoicePlugin": {"on_stopping", "on_unload", "guild_disabled", "plugin_unloading"},
    "NativeLink": {"start", "aclose", "wait_closed"},
    "ChosenDriver": {"open"},
    "CheckedLink": {"update", "wait_closed"},
    "NativeDriver": {"open"},
}


def public_coroutines(of: type) -> Iterator[str]:
    for name, function in vars(of).items():
        inner = inspect.unwrap(function) if callable(function) else None
        asynchronous = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
        # One that awaits nothing cannot be cancelled.
        if asynchronous and not name.startswith("_") and waits(inner):
            yield name


def waits(function: Any) -> bool:
    """Whether it awaits; a generator's own hand-over to the event loop aside."""
    return any(each.opname == "GET_AWAITABLE" for each in dis.get_instructions(function))


def test_every_public_coroutine_is_cancelled_here() -> None:
    found: dict[str, set[str]] = {}
    for module in (chosen_driver, guild, native, op4, plugin, session_module, sessions, signalling):
        for name, of in inspect.getmembers(module, inspect.isclass):
            if of.__module__ == module.__name__ and (names := set(public_coroutines(of))):
                found[name] = names
    assert found == COVERED
