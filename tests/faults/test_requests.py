"""Requests that meet each other: rows 10 to 14."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from context import Recorder, Rig, eventually, running
from fault_report import FULL, HANDSHAKES, SCALE, Fault
from voice_log import arm, identified, out_before_each_join, words

from roost.audio import Timing, VoiceSession
from roost.hooks import hookimpl
from roost.sim.server import SimulatedDiscord
from roost.testing.leftovers import leak_check
from roost_voice.moves import Priority, SendOp4, State, Told
from roost_voice.op4 import Op4Queue
from roost_voice.sessions import JoinResult

pytestmark = pytest.mark.sim


@pytest.mark.fault(10)
@pytest.mark.parametrize("spread", [False, True], ids=["at once", "until it is in"])
@pytest.mark.parametrize("number", [2, 10, 50])
async def test_many_joins_to_one_channel(rig: Rig, fault: Fault, number: int, spread: bool) -> None:
    """All in one instant, or half of them while the first is connecting."""
    at_once = number // 2 if spread else number
    if spread:
        arm(rig, "drop_discovery", n=1)
    with fault.clock():
        requests = [asyncio.ensure_future(rig.join(0, member=each % 3)) for each in range(at_once)]
        if spread:
            await eventually(lambda: len(identified(rig)) == 1)
            requests += [asyncio.ensure_future(rig.join(0, member=each % 3)) for each in range(at_once, number)]
        results = await asyncio.gather(*requests)
    assert {result.told for result in results} == {Told.JOINED}
    assert len({id(result.session) for result in results}) == 1
    assert rig.op4() == [str(rig.channels[0])]
    assert len(identified(rig)) == (HANDSHAKES if spread else 1)


@pytest.mark.fault(11)
@pytest.mark.parametrize("number", [2, 9, 50])
async def test_many_joins_to_different_channels(rig: Rig, fault: Fault, number: int) -> None:
    with fault.clock():
        results = await asyncio.gather(*(rig.join(each % 4, member=each % 3) for each in range(number)))
    last = rig.channels[(number - 1) % 4]
    assert rig.place == last, "the last wish wins"
    for asked, result in enumerate(results):
        mine = asked % 4 == (number - 1) % 4
        assert result.told is (Told.JOINED if mine else Told.SUPERSEDED)
        expected = f"Joined <#{last}>." if mine else f"Moved to <#{last}>: a later request won."
        assert words(rig, result, asked % 4) == expected
    assert len(rig.op4()) <= 2
    assert rig.op4()[-1] == str(last)
    assert len(rig.manager.sessions) == len(rig.sim.state()["voice_sessions"]) == 1


@pytest.mark.fault(12)
@pytest.mark.parametrize("leave", ["confirmed", "unanswered", "lost"])
@pytest.mark.parametrize("to", [0, 1])
async def test_a_join_while_leaving(rig: Rig, fault: Fault, leave: str, to: int) -> None:
    await rig.join(0)
    if leave != "confirmed":
        arm(rig, "withhold_leave_vsu" if leave == "unanswered" else "drop_op4")
    leaving = asyncio.ensure_future(rig.leave())
    await rig.recorder.until("closing")
    assert rig.manager.state(rig.guild_id) is State.LEAVING
    with fault.clock():
        result = await rig.join(to)
    assert result.told is Told.JOINED
    assert (await leaving).told is (Told.UNCONFIRMED if leave == "lost" else Told.LEFT)
    assert rig.place == rig.channels[to]
    assert rig.op4()[:2] == [str(rig.channels[0]), None]
    assert rig.op4()[-1] == str(rig.channels[to])
    assert out_before_each_join(rig)
    await rig.recorder.until("opened", 2)


class SlowOpening(Recorder):
    """Is never done with opening a session."""

    @hookimpl
    async def voice_session_opening(self, session: VoiceSession) -> None:
        self._note("opening", session.channel_id)
        await asyncio.Event().wait()


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    "moment", ["at once", "no answer yet", "half an answer", "no server", "connecting", "plugins are asked"]
)
async def test_a_leave_while_joining(sim: SimulatedDiscord, tmp_path: Path, fault: Fault, moment: str) -> None:
    async with leak_check(), running(sim, tmp_path, recorder=SlowOpening()) as rig:
        if moment == "no answer yet":
            arm(rig, "drop_op4")
        elif moment == "half an answer":
            arm(rig, "withhold_vsrvu")
        elif moment == "no server":
            arm(rig, "endpoint_null_first", delay_s=None)
        elif moment == "connecting":
            arm(rig, "mute_ready")
        joining = asyncio.ensure_future(rig.join(0))
        if moment == "at once":
            await asyncio.sleep(0)
        elif moment == "no answer yet":
            await eventually(lambda: len(rig.op4()) == 1)
        elif moment in ("half an answer", "no server"):
            await eventually(lambda: rig.place is not None)
        elif moment == "connecting":
            await eventually(lambda: len(identified(rig)) == 1)
        else:
            await rig.recorder.until("opening")
        # Where Discord says nothing at all, the second between two voice requests comes before the wait for an answer.
        with fault.clock(3 if moment == "no answer yet" else 2):
            left = await rig.leave()
            refused = await joining
            await rig.at_rest()
        assert left.told in (Told.LEFT, Told.NOT_IN_VOICE)
        assert words(rig, refused) == "I did not join: the test says so."
        assert rig.place is None
        assert rig.op4() in ([], [str(rig.channels[0]), None])
        await eventually(lambda: rig.sim.state()["connections"]["voice_ws"] == 0)
        assert "opened" not in rig.recorder.names
        assert rig.most <= 1
        assert not list((tmp_path / "instances").glob("*.json"))


@pytest.mark.fault(14)
@pytest.mark.parametrize("end", ["in", "out"])
async def test_a_storm_of_joins_and_leaves(rig: Rig, fault: Fault, end: str) -> None:
    """50 requests a second for 2 s, or 6 where delays are real."""
    requests: list[asyncio.Future[JoinResult]] = []
    for number in range(300 if FULL else 100):
        requests.append(asyncio.ensure_future(rig.leave() if number % 2 else rig.join(number % 4, member=number % 3)))
        await asyncio.sleep(0.02)
    last = rig.join(3) if end == "in" else rig.leave()
    with fault.clock():
        result = await last
        await asyncio.gather(*requests)
        wanted = rig.channels[3] if end == "in" else None
        await eventually(lambda: rig.place == wanted)
    assert result.told in (Told.JOINED, Told.LEFT, Told.NOT_IN_VOICE)
    times = [each["t"] for each in rig.sim.entries if each["kind"] == "op4"]
    assert len(times) >= 4
    second = Timing().scaled(SCALE).op4_guild_s
    most = max(sum(at <= other < at + second for other in times) for at in times)
    assert most <= 2, "one a second leaves Roost, and two may arrive within a second"
    assert len(times) <= (times[-1] - times[0]) / second + 2
    assert not [each for each in rig.sim.entries if each["kind"] == "gateway_close"]


@pytest.mark.fault(14)
def test_a_storm_in_every_server_of_a_shard() -> None:
    """40 servers want a voice request 50 times a second, for ten minutes."""
    timing = Timing()
    queue = Op4Queue(timing)
    sent: list[tuple[float, int]] = []
    for tick in range(10 * 60 * 50):
        now = tick / 50
        for guild_id in range(40):
            queue.put(guild_id, SendOp4(tick, tick % 2 or None, Priority.LEAVE if tick % 2 else Priority.JOIN))
        while (entry := queue.take(now)) is not None:
            sent.append((now, entry.guild_id))
    assert max(sum(at <= other < at + 60 for other, _ in sent) for at, _ in sent) == 100
    for guild_id in range(40):
        mine = [at for at, guild in sent if guild == guild_id]
        assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(mine))
