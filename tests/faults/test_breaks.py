"""The voice connection breaks: rows 21 to 24, 35 and 36."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from context import Rig, SinkRecorder, eventually
from fault_report import SCALE, TELLS, Fault
from voice_log import arm, identified
from voice_scene import company, encryption, hears, order, own

from roost.audio import Timing, VoiceSession
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost_voice.moves import State, Told
from roost_voice.sim.part import SimulatedVoice
from roost_voice.sim.settings import VoiceSettings

pytestmark = pytest.mark.sim

RESUME_S = 3.0
BEAT_S = Timing().heartbeat_max_s * SCALE


@pytest.fixture
def voice() -> VoiceSettings:
    """What the voice servers are like; a test that wants others overrides this."""
    return VoiceSettings()


@pytest.fixture
async def sim(settings: SimSettings, voice: VoiceSettings) -> AsyncIterator[SimulatedDiscord]:
    async with SimulatedDiscord(settings, part=SimulatedVoice(voice)) as made:
        yield made


async def in_call(rig: Rig) -> VoiceSession:
    """The bot in channel 0, live and announced."""
    session = (await rig.join(0)).session
    assert session is not None
    return session


async def struck(rig: Rig, name: str) -> None:
    """Wait until the fault has happened as often as it was armed."""
    await eventually(lambda: all(each.name != name for each in rig.sim.faults.armed()))


def resumes(rig: Rig) -> list[int]:
    """The sequence numbers that resumes have named, of those that were granted."""
    return [int(each["seq_ack"]) for each in own(rig, "resume")]


def went_on(rig: Rig, session: VoiceSession, resumed: int = 1) -> None:
    """The same connection, resumed; nobody was told, and Discord was asked for nothing."""
    assert rig.manager.session(rig.guild_id) is session
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert session.generation == 1
    assert order(rig).count("identify") == 1
    assert len(resumes(rig)) == resumed
    assert rig.op4() == [str(rig.channels[0])]
    assert "interrupted" not in rig.recorder.names


def joined_anew(rig: Rig, session: VoiceSession) -> None:
    """The same session over a fresh join, for which the old voice state was given up."""
    here = str(rig.channels[0])
    assert rig.manager.session(rig.guild_id) is session
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert session.generation == 2
    assert len(identified(rig)) == 2
    assert rig.op4() == [here, None, here]
    assert rig.recorder.names.count("interrupted") == rig.recorder.names.count("restored") == 1


BREAKS = [
    pytest.param("reset_tcp", None, marks=pytest.mark.fault(21), id="reset"),
    pytest.param("close", 1001, marks=pytest.mark.fault(21), id="1001"),
    pytest.param("close", 1006, marks=pytest.mark.fault(21), id="1006 in a close frame"),
    pytest.param("close", 1000, marks=pytest.mark.fault(24), id="1000"),
]


def break_off(rig: Rig, how: str, code: int | None) -> None:
    if code is None:
        arm(rig, how)
    else:
        arm(rig, how, code=code, resumable=True)


@pytest.mark.parametrize(("how", "code"), BREAKS)
async def test_a_broken_connection_is_resumed(rig: Rig, fault: Fault, how: str, code: int | None) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    await hears(rig, sink)
    with fault.clock(RESUME_S):
        break_off(rig, how, code)
        await eventually(lambda: len(resumes(rig)) == 1)
        await hears(rig, sink)
    went_on(rig, session)
    assert encryption(rig)["in_group"]
    if TELLS:
        assert session.stats().link.dave_version == 1


@pytest.mark.parametrize(("how", "code"), BREAKS)
async def test_a_broken_connection_that_cannot_be_resumed(rig: Rig, fault: Fault, how: str, code: int | None) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    arm(rig, "refuse_resume", code=4006)
    with fault.clock():
        break_off(rig, how, code)
        await rig.recorder.until("restored")
        await hears(rig, sink)
    joined_anew(rig, session)


@pytest.mark.fault(21)
async def test_it_breaks_again_and_again(rig: Rig, fault: Fault) -> None:
    """As often as the breaker allows, each time over a resume."""
    sink = await company(rig, 0)
    session = await in_call(rig)
    for number in range(1, 5):
        with fault.clock(RESUME_S):
            arm(rig, "reset_tcp")
            await eventually(lambda number=number: len(resumes(rig)) == number)
    await hears(rig, sink)
    went_on(rig, session, resumed=4)


@pytest.mark.fault(22)
async def test_silence(rig: Rig, fault: Fault) -> None:
    """What was said into the dead connection is not lost: somebody comes, and is heard after the resume."""
    rig.recorder.sink = SinkRecorder()
    session = await in_call(rig)
    with fault.clock():
        arm(rig, "blackhole_ws")
        await struck(rig, "blackhole_ws")
        sink = await company(rig, 0)
        await eventually(lambda: len(resumes(rig)) == 1)
        await hears(rig, sink)
    (resume,) = own(rig, "resume")
    assert resume["replayed"] > 0
    went_on(rig, session)


@pytest.mark.fault(22)
async def test_silence_that_cannot_be_resumed(rig: Rig, fault: Fault) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    arm(rig, "mute_resume")
    with fault.clock(10 + RESUME_S + 8):
        arm(rig, "blackhole_ws")
        await rig.recorder.until("restored")
        await hears(rig, sink)
    joined_anew(rig, session)


@pytest.mark.fault(23)
async def test_heartbeats_are_answered_with_a_wrong_number(rig: Rig, fault: Fault) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    with fault.clock():
        arm(rig, "wrong_heartbeat_nonce", times=2)
        await eventually(lambda: len(resumes(rig)) == 1)
        await hears(rig, sink)
    went_on(rig, session)
    assert session.stats().link.violations["heartbeat_ack"] == 2


@pytest.mark.fault(23)
async def test_one_wrong_number_is_forgiven(rig: Rig, fault: Fault) -> None:
    session = await in_call(rig)
    with fault.clock():
        arm(rig, "wrong_heartbeat_nonce")
        await struck(rig, "wrong_heartbeat_nonce")
    await asyncio.sleep(3 * BEAT_S)
    went_on(rig, session, resumed=0)
    assert session.stats().link.violations["heartbeat_ack"] == 1


@pytest.mark.fault(35)
@pytest.mark.parametrize("code", [4004, 4006, 4009, 4011, 4015, 4099, 1000])
async def test_a_resume_is_refused(rig: Rig, fault: Fault, code: int) -> None:
    """Whatever the code would be worth alone, a resume is tried once."""
    sink = await company(rig, 0)
    session = await in_call(rig)
    arm(rig, "refuse_resume", code=code)
    with fault.clock(8):
        arm(rig, "reset_tcp")
        await rig.recorder.until("restored")
    joined_anew(rig, session)
    assert not resumes(rig)
    await hears(rig, sink)


@pytest.mark.fault(35)
async def test_a_resume_is_not_answered(rig: Rig, fault: Fault) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    arm(rig, "mute_resume")
    with fault.clock():
        arm(rig, "reset_tcp")
        await rig.recorder.until("restored")
    joined_anew(rig, session)
    assert not resumes(rig)
    await hears(rig, sink)


@pytest.mark.fault(35)
@pytest.mark.parametrize(("code", "word"), [(4014, "disconnected"), (4021, "4021"), (4017, "4017")])
async def test_a_resume_is_refused_for_good(rig: Rig, fault: Fault, code: int, word: str) -> None:
    """A code that forbids a fresh join does so here too."""
    await in_call(rig)
    arm(rig, "refuse_resume", code=code)
    with fault.clock():
        arm(rig, "reset_tcp")
        reason, stats = await rig.recorder.until("closed")
        await eventually(lambda: rig.place is None)
    assert word in reason
    assert stats.generation == 1
    assert rig.op4() == [str(rig.channels[0]), None]
    assert len(identified(rig)) == 1


@pytest.mark.fault(35)
@pytest.mark.parametrize("name", ["refuse_resume", "mute_resume"])
async def test_a_leave_while_it_resumes(rig: Rig, fault: Fault, name: str) -> None:
    await in_call(rig)
    arm(rig, name)
    arm(rig, "reset_tcp")
    await eventually(lambda: "close" in order(rig))
    with fault.clock():
        result = await rig.leave()
        await rig.at_rest()
    assert result.told is Told.LEFT
    assert rig.place is None
    assert len(identified(rig)) == 1


def numbers(rig: Rig) -> tuple[int, int]:
    """Of the bot's voice session: the number of the last message it was sent, and of the last it has acknowledged."""
    assert rig.sim.part is not None
    (own,) = [each for each in rig.sim.part.state()["voice_sessions"] if each["user_id"] == str(rig.bot_id)]
    return own["last_seq"], own["seq_ack"]


def last_number(rig: Rig) -> int:
    return numbers(rig)[0]


async def acknowledged(rig: Rig, number: int) -> None:
    """Wait until a heartbeat names it."""
    await eventually(lambda: numbers(rig)[1] == number)


async def quiet(rig: Rig) -> None:
    """Wait until the member who spoke has said that this is over: it is a message with a number, too."""

    def over() -> bool:
        spoken = [each["speaking"] for each in rig.sim.entries if each.get("event") == "speaking"]
        return bool(spoken) and spoken[-1] == 0

    await eventually(over)


async def resumes_at(rig: Rig, fault: Fault, number: int, time: int = 1) -> None:
    """The connection breaks; the resume names this number, so that nothing is repeated and nothing missed."""
    with fault.clock():
        arm(rig, "reset_tcp")
        await eventually(lambda: len(resumes(rig)) == time)
    assert resumes(rig)[-1] == number
    assert own(rig, "resume")[-1]["replayed"] == 0


@pytest.mark.fault(36)
@pytest.mark.parametrize("voice", [VoiceSettings(first_seq=65_500)], ids=[""])
@pytest.mark.parametrize("last", [65_535, 0, 1, 10])
async def test_numbers_wrap(rig: Rig, voice: VoiceSettings, fault: Fault, last: int) -> None:
    sink = await company(rig, 0)
    session = await in_call(rig)
    await hears(rig, sink)
    await quiet(rig)
    missing = (last - last_number(rig)) % 65_536
    assert 0 < missing < 60
    arm(rig, "new_streams", count=missing)
    await eventually(lambda: last_number(rig) == last)
    await acknowledged(rig, last)
    await resumes_at(rig, fault, last)
    await hears(rig, sink)
    await quiet(rig)
    await resumes_at(rig, fault, last_number(rig), 2)
    went_on(rig, session, resumed=2)


@pytest.mark.fault(36)
@pytest.mark.parametrize("voice", [VoiceSettings(), VoiceSettings(first_seq=65_500)], ids=["low", "about the wrap"])
@pytest.mark.parametrize("count", [1, 20])
async def test_numbers_repeat(rig: Rig, voice: VoiceSettings, fault: Fault, count: int) -> None:
    """A message that comes twice counts once, and the older of two repeated ones is not the last."""
    sink = await company(rig, 0)
    session = await in_call(rig)
    await hears(rig, sink)
    await quiet(rig)
    before = last_number(rig)
    arm(rig, "new_streams", count=40)
    await eventually(lambda: last_number(rig) == (before + 40) % 65_536)
    await acknowledged(rig, last_number(rig))
    arm(rig, "repeat_messages", count=count)
    await eventually(lambda: session.stats().link.violations.get("duplicate", 0) == count)
    await resumes_at(rig, fault, last_number(rig))
    await hears(rig, sink)
    went_on(rig, session)
