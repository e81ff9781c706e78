"""Close codes of the voice server: rows 25 to 34, and 37."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from context import Rig, eventually, running
from fault_report import HANDSHAKES, SCALE, TELLS, Fault
from voice_log import arm, identified
from voice_scene import company, hears, live_again, order

from roost.audio import Timing, VoiceSession
from roost.sim.server import SimulatedDiscord
from roost.testing.leftovers import leak_check
from roost_voice.moves import State, Told

pytestmark = pytest.mark.sim

OUR_BUGS = (4001, 4002, 4003, 4005, 4012, 4016, 4020)
RESUME_S = 3.0


async def in_call(rig: Rig) -> VoiceSession:
    """The bot in channel 0, live and announced."""
    session = (await rig.join(0)).session
    assert session is not None
    return session


def cycles(rig: Rig, fresh: int, *, left: bool = False) -> list[str | None]:
    """The op 4s of a join and of so many fresh ones: the standing voice state is given up before each."""
    here = str(rig.channels[0])
    return [here] + [None, here] * fresh + ([None] if left else [])


def farewells(rig: Rig) -> list[str]:
    """What people read in the channel when voice ended."""
    texts = [str(each.body["content"]) for each in rig.sim.book.in_channel(rig.text)]
    return [text for text in texts if text.startswith("I am no longer in")]


async def ended(rig: Rig) -> str:
    """Wait for the end of the session; gives its reason, once nothing of it is left at Discord."""
    reason, _stats = await rig.recorder.until("closed")
    await eventually(lambda: rig.place is None and rig.manager.session(rig.guild_id) is None)
    await eventually(lambda: bool(farewells(rig)))
    return str(reason)


async def told_once(rig: Rig, *words: str) -> None:
    """Plugins and people heard of one end, in these words."""
    reason = await ended(rig)
    (farewell,) = farewells(rig)
    for word in words:
        assert word in reason
        assert word in farewell
    assert rig.recorder.names.count("closed") == rig.recorder.names.count("closing") == 1


async def cools_down(rig: Rig, word: str) -> None:
    """A new join is refused with the cause and a time, and Discord is not asked."""
    assert rig.manager.state(rig.guild_id) is State.FAILED
    asked = rig.op4()
    result = await rig.join(0)
    assert result.told is Told.FAILED
    assert word in result.reason
    assert "try again in" in result.reason
    assert rig.op4() == asked


async def fresh_join(rig: Rig, fault: Fault, code: int, number: int, session: VoiceSession) -> None:
    """The code closes the connection; the same session is back over a fresh join, the `number`-th."""
    with fault.clock():
        arm(rig, "close", code=code)
        await rig.recorder.until("restored", number)
    assert rig.manager.session(rig.guild_id) is session
    assert session.generation == number + 1
    assert rig.op4() == cycles(rig, number)
    assert order(rig) == ["identify"] + ["close", "identify"] * number, "nothing of the old session is resumed"


async def gives_up(rig: Rig, fault: Fault, code: int, made: int) -> None:
    """The code closes the connection once more than it is worth fresh joins."""
    with fault.clock():
        arm(rig, "close", code=code)
        reason = await ended(rig)
    assert str(code) in reason
    assert rig.op4() == cycles(rig, made, left=True)
    assert len(identified(rig)) == made + 1
    await told_once(rig, str(code))
    await cools_down(rig, str(code))


@pytest.mark.parametrize(
    ("code", "tries"),
    [
        *(pytest.param(code, 1, marks=pytest.mark.fault(25)) for code in OUR_BUGS),
        pytest.param(4004, 1, marks=pytest.mark.fault(26)),
        pytest.param(4006, 3, marks=pytest.mark.fault(27)),
        pytest.param(4011, 2, marks=pytest.mark.fault(29)),
        pytest.param(4099, 1, marks=pytest.mark.fault(34)),
        pytest.param(4010, 1, marks=pytest.mark.fault(34)),
    ],
)
async def test_a_code_that_is_worth_fresh_joins(rig: Rig, fault: Fault, code: int, tries: int) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    for number in range(1, tries + 1):
        await fresh_join(rig, fault, code, number, session)
    await hears(rig, sink)
    await gives_up(rig, fault, code, tries)


@pytest.mark.fault(27)
async def test_fresh_joins_bring_fresh_credentials(rig: Rig, fault: Fault) -> None:
    """Three are used up; a command asks for a session of its own and has all of them again."""
    session = await in_call(rig)
    for number in range(1, 4):
        await fresh_join(rig, fault, 4006, number, session)
    assert (await rig.join(1, force=True)).told is Told.MOVED
    generation = session.generation
    with fault.clock():
        arm(rig, "close", code=4006)
        await live_again(rig, generation + 1)
    assert rig.manager.session(rig.guild_id) is session
    assert rig.place == rig.channels[1]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(4009, marks=pytest.mark.fault(28)),
        pytest.param(4013, marks=pytest.mark.fault(30)),
        pytest.param(4015, marks=pytest.mark.fault(30)),
    ],
)
async def test_a_code_that_is_worth_a_resume(rig: Rig, fault: Fault, code: int) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    with fault.clock(RESUME_S):
        arm(rig, "close", code=code, resumable=True)
        await eventually(lambda: order(rig) == ["identify", "close", "resume"])
        await hears(rig, sink)
    assert rig.manager.session(rig.guild_id) is session
    assert session.generation == 1
    assert rig.op4() == cycles(rig, 0)
    assert "interrupted" not in rig.recorder.names


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(4009, marks=pytest.mark.fault(28)),
        pytest.param(4013, marks=pytest.mark.fault(30)),
        pytest.param(4015, marks=pytest.mark.fault(30)),
    ],
)
@pytest.mark.parametrize("again", ["forgotten", "closed with the same code"])
async def test_a_resume_that_fails_leads_to_a_fresh_join(rig: Rig, fault: Fault, code: int, again: str) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    if again != "forgotten":
        arm(rig, "refuse_resume", code=code)
    with fault.clock():
        arm(rig, "close", code=code, resumable=again != "forgotten")
        await rig.recorder.until("restored")
    assert rig.manager.session(rig.guild_id) is session
    assert session.generation == 2
    assert order(rig) == ["identify", "close", "identify"]
    assert rig.op4() == cycles(rig, 1)
    await hears(rig, sink)


@pytest.mark.fault(31)
@pytest.mark.parametrize("code", [4014, 4022])
async def test_the_bot_is_out_of_the_call_and_no_server_follows(rig: Rig, fault: Fault, code: int) -> None:
    """The voice state still stands, so that only the time tells."""
    await in_call(rig)
    with fault.clock():
        arm(rig, "close", code=code)
        await rig.recorder.until("interrupted")
        assert rig.manager.state(rig.guild_id) is State.AWAIT_SERVER
        await rig.recorder.until("closed")
    await rig.at_rest()
    assert rig.op4() == cycles(rig, 0, left=True)
    assert len(identified(rig)) == 1
    await told_once(rig, "disconnected")


@pytest.mark.fault(31)
@pytest.mark.parametrize("code", [4014, 4022])
async def test_the_bot_is_out_of_the_call_and_a_server_follows(rig: Rig, fault: Fault, code: int) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    arm(rig, "close", code=code)
    await rig.recorder.until("interrupted")
    with fault.clock():
        rig.sim.voice.new_server(rig.guild, rig.bot_id)
        await rig.recorder.until("restored")
    assert rig.manager.session(rig.guild_id) is session
    assert rig.op4() == cycles(rig, 0)
    assert order(rig) == ["identify", "close", "identify"]
    await hears(rig, sink)


@pytest.mark.fault(32)
@pytest.mark.parametrize("when", ["during the call", "at the join"])
async def test_encryption_is_required(rig: Rig, fault: Fault, when: str) -> None:
    if when == "at the join":
        arm(rig, "refuse_identify", times=HANDSHAKES, code=4017)
        with fault.clock():
            result = await rig.join(0)
        assert result.told is Told.FAILED
        assert "end-to-end encryption" in result.reason
    else:
        await in_call(rig)
        with fault.clock():
            arm(rig, "close", code=4017)
            await rig.recorder.until("closed")
        await told_once(rig, "end-to-end encryption", "4017")
    await rig.at_rest()
    assert rig.op4() == cycles(rig, 0, left=True), "it was tried again"


@pytest.mark.fault(33)
@pytest.mark.parametrize("when", ["during the call", "at the join"])
async def test_too_many_connections(rig: Rig, fault: Fault, when: str) -> None:
    if when == "at the join":
        arm(rig, "refuse_identify", times=HANDSHAKES, code=4021)
        with fault.clock():
            result = await rig.join(0)
        assert result.told is Told.FAILED
        assert "4021" in result.reason
        assert "try again in" in result.reason
    else:
        await in_call(rig)
        with fault.clock():
            arm(rig, "close", code=4021)
            await rig.recorder.until("closed")
        await told_once(rig, "4021", "try again in")
    await eventually(lambda: rig.manager.state(rig.guild_id) is State.FAILED)
    assert rig.op4() == cycles(rig, 0, left=True), "it was tried again"
    await cools_down(rig, "4021")


@pytest.mark.parametrize(
    ("code", "fresh"),
    [pytest.param(4021, 0, marks=pytest.mark.fault(33)), pytest.param(4099, 1, marks=pytest.mark.fault(34))],
)
async def test_the_cool_down_ends(sim: SimulatedDiscord, tmp_path: Path, fault: Fault, code: int, fresh: int) -> None:
    scale = SCALE / 5
    async with leak_check(), running(sim, tmp_path, timing_scale=scale) as rig:
        await in_call(rig)
        with fault.clock():
            for number in range(1, fresh + 1):
                arm(rig, "close", code=code)
                await rig.recorder.until("restored", number)
            arm(rig, "close", code=code)
            await rig.recorder.until("closed")
        await eventually(lambda: rig.manager.state(rig.guild_id) is State.FAILED)
        began = time.monotonic()
        await eventually(lambda: not rig.manager.states(), 60 * scale + 1)
        assert time.monotonic() - began > 50 * scale
        assert (await rig.join(0)).told is Told.JOINED
        await rig.leave()


@pytest.mark.fault(37)
@pytest.mark.parametrize("where", ["closed once live", "refused at identify"])
async def test_every_connection_is_closed_with_4006(rig: Rig, fault: Fault, where: str) -> None:
    await in_call(rig)
    with fault.clock():
        if where == "closed once live":
            arm(rig, "close", times=1000, code=4006)
        else:
            arm(rig, "refuse_identify", times=1000, code=4006)
            arm(rig, "close", code=4006)
        await ended(rig)
    assert rig.op4() == cycles(rig, 3, left=True)
    await told_once(rig, "4006")
    await cools_down(rig, "4006")


@pytest.mark.fault(37)
async def test_every_connection_breaks_and_no_resume_helps(rig: Rig, fault: Fault) -> None:
    """No code's own count ends it: the breaker does, after five joins in a minute."""
    await in_call(rig)
    with fault.clock():
        arm(rig, "refuse_resume", times=1000, code=4006)
        arm(rig, "close", times=1000, code=4015)
        await ended(rig)
    assert rig.op4() == cycles(rig, 4, left=True)
    # A driver that identifies anew by itself may do so as often as it may resume.
    assert len(identified(rig)) == 5 * (1 if TELLS else 1 + Timing().reconnect_limit)
    await told_once(rig, "voice kept failing")
    await cools_down(rig, "voice kept failing")
