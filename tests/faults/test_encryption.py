"""End-to-end encryption: rows 60 to 66."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from context import Rig, SinkRecorder, eventually
from fault_report import SCALE, TELLS, Fault
from voice_scene import encrypted, encryption, epochs

from roost.sim.world import STAGE, SimSettings
from roost_voice.moves import State, Told
from roost_voice.session import Session

pytestmark = pytest.mark.sim

OPUS = b"\x78" + bytes(range(60))
RECOVERIES = 3
"""Times in 60 s that a link may declare its group broken."""
RECONNECTS = 5
"""Links in 60 s until the breaker trips."""


def arm(rig: Rig, name: str, times: int = 1, **params: Any) -> None:
    rig.sim.faults.arm(name, rig.guild_id, params, times)


def reports(rig: Rig) -> int:
    """How often the bot told the voice server that its group is broken (op 31)."""
    return sum(
        entry.get("event") == "dave_invalid" and entry.get("user_id") == str(rig.bot_id) for entry in rig.sim.entries
    )


def group_is(rig: Rig, *members: int) -> bool:
    """Whether everybody who is in the call, the bot included, holds the group."""
    return sorted(encryption(rig).get("members", ())) == sorted(map(str, (rig.bot_id, *members)))


def last_words(rig: Rig) -> list[str]:
    """What the bot wrote about ends of sessions."""
    messages = [each.body["content"] for each in rig.sim.book.in_channel(rig.text)]
    return [each for each in messages if each.startswith("I am no longer in")]


def pending(rig: Rig, session: Session) -> bool:
    """Whether the encryption waits for company."""
    return session.dave_state == "pending" if TELLS else not encrypted(rig, session)


async def enter(rig: Rig, *members: int, channel: int = 0) -> None:
    for member in members:
        await rig.sim.voice.member(rig.guild, member, rig.guild.channels[rig.channels[channel]])


async def leave(rig: Rig, member: int) -> None:
    await rig.sim.voice.member(rig.guild, member, None)


async def join_and_listen(rig: Rig, *speakers: int, channel: int = 0) -> tuple[Session, SinkRecorder]:
    """Bring the bot into a channel, with a sink that hears these speakers."""
    sink = rig.recorder.sink = SinkRecorder()
    for speaker in speakers:
        await rig.ctx.consent.agree(rig.guild_id, speaker)
    result = await rig.join(channel)
    assert result.told is Told.JOINED, result.reason
    session = result.session
    assert session is not None
    await eventually(lambda: session.capture_state == "on")
    return session, sink


@contextlib.asynccontextmanager
async def speaking(rig: Rig, member: int) -> AsyncIterator[None]:
    """Have a member speak for as long as the block lasts."""
    assert rig.sim.part is not None
    name = rig.sim.part.recordings()[0]["name"]
    task = asyncio.create_task(
        rig.sim.part.speak(rig.guild_id, member, wav=None, recording=name, params={"repeat": 20})
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hears_more(sink: SinkRecorder, more: int = 5) -> None:
    await sink.until(len(sink.frames) + more)


@pytest.mark.fault(60)
async def test_alone_is_no_error(rig: Rig, fault: Fault) -> None:
    with fault.clock():
        result = await rig.join(0)
    session = result.session
    assert session is not None
    assert pending(rig, session)
    session.send_opus(OPUS)
    # Longer than a bot with company waits for its group.
    await asyncio.sleep(6.0 * SCALE)
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert pending(rig, session)
    assert reports(rig) == 0
    assert session.generation == 1
    ada = rig.members[1]
    await enter(rig, ada)
    with fault.clock():
        await eventually(lambda: encrypted(rig, session) and group_is(rig, ada))
    assert reports(rig) == 0
    await leave(rig, ada)
    await eventually(lambda: pending(rig, session))
    assert rig.manager.state(rig.guild_id) is State.LIVE


@pytest.mark.fault(61)
async def test_a_damaged_welcome_is_reported_once(rig: Rig, fault: Fault) -> None:
    ada, ben = rig.members[1:3]
    await enter(rig, ada, ben)
    arm(rig, "flip_welcome")
    session, sink = await join_and_listen(rig, ada)
    with fault.clock():
        await eventually(lambda: reports(rig) == 1)
        await eventually(lambda: encrypted(rig, session) and group_is(rig, ada, ben))
    async with speaking(rig, ada):
        await hears_more(sink)
    assert reports(rig) == 1
    assert session.generation == 1


@pytest.mark.fault(61)
async def test_a_damaged_commit_is_reported_once(rig: Rig, fault: Fault) -> None:
    ada, ben, cleo = rig.members[1:4]
    await enter(rig, ada, ben)
    session, sink = await join_and_listen(rig, ada)
    await eventually(lambda: encrypted(rig, session) and group_is(rig, ada, ben))
    for _ in range(20):
        # The bot knows a commit of its own without reading it: wait for one of somebody else's to be damaged.
        before = epochs(rig, session)
        arm(rig, "flip_commit")
        await enter(rig, cleo)
        await eventually(lambda before=before: reports(rig) > 0 or epochs(rig, session) > before)
        if reports(rig):
            break
        await leave(rig, cleo)
        await eventually(lambda: group_is(rig, ada, ben) and encrypted(rig, session))
    with fault.clock():
        await eventually(lambda: encrypted(rig, session) and group_is(rig, ada, ben, cleo))
    async with speaking(rig, ada):
        await hears_more(sink)
    assert 1 <= reports(rig) <= (1 if TELLS else 2)  # Songbird reports some commits twice
    assert session.generation == 1


@pytest.mark.fault(62)
async def test_a_storm_of_damage_ends_in_the_breaker(rig: Rig, fault: Fault) -> None:
    ada, ben = rig.members[1:3]
    await enter(rig, ada, ben)
    for name in ("flip_welcome", "flip_commit"):
        arm(rig, name, times=10_000)
    with fault.clock():
        session, _ = await join_and_listen(rig, ada)
        reason, stats = await rig.recorder.until("closed")
    assert reason.startswith("voice kept failing: The end-to-end encryption could not be restored")
    assert session.closed
    await eventually(lambda: len(last_words(rig)) == 1)
    await eventually(lambda: rig.place is None)
    assert rig.recorder.names.count("closed") == 1
    # Three reports a link, then another link; five of those at most.
    assert 1 < stats.generation <= RECONNECTS + 1
    assert RECOVERIES <= reports(rig) <= RECOVERIES * stats.generation
    assert rig.manager.state(rig.guild_id) is State.FAILED


@pytest.mark.fault(63)
async def test_a_transition_that_nobody_announced_is_ignored(rig: Rig, fault: Fault) -> None:
    ada = rig.members[1]
    await enter(rig, ada)
    session, sink = await join_and_listen(rig, ada)
    await eventually(lambda: encrypted(rig, session))
    async with speaking(rig, ada):
        await hears_more(sink)
        with fault.clock():
            arm(rig, "unknown_transition")
            await eventually(lambda: not rig.sim.faults.armed())
            if TELLS:
                await eventually(lambda: session.stats().link.violations.get("dave_unknown_transition") == 1)
            await hears_more(sink)
    assert reports(rig) == 0
    assert session.stats().link.decrypt_failures == 0


@pytest.mark.fault(63)
@pytest.mark.parametrize("late", ["execute", "speaker"])
async def test_a_late_change_of_keys_costs_no_frame(rig: Rig, fault: Fault, late: str) -> None:
    """Op 22 comes late to the bot; or the speaker hears of the new keys late, and uses the old ones till then."""
    ada, ben = rig.members[1:3]
    await enter(rig, ada)
    session, sink = await join_and_listen(rig, ada)
    await eventually(lambda: encrypted(rig, session))
    delay_s = 8.0 * SCALE
    if late == "execute":
        arm(rig, "late_dave", op=22, delay_ms=round(delay_s * 1000))
    else:
        arm(rig, "late_dave", op=29, delay_ms=round(delay_s * 1000), user_id=ada)
    async with speaking(rig, ada):
        await hears_more(sink)
        await eventually(lambda: not rig.sim.faults.armed())
        before = epochs(rig, session)
        with fault.clock():
            await enter(rig, ben)
            await eventually(lambda: epochs(rig, session) > before)
            await hears_more(sink, round(delay_s / 0.02) + 20)
    link = session.stats().link
    assert (link.decrypt_failures, link.lost) == (0, 0)
    assert link.dropped == {}
    assert reports(rig) == 0
    assert group_is(rig, ada, ben)


@pytest.mark.fault(64)
@pytest.mark.parametrize("frames", [36, 100])
async def test_frames_that_cannot_be_decrypted_are_recovered_once(rig: Rig, fault: Fault, frames: int) -> None:
    ada = rig.members[1]
    await enter(rig, ada)
    session, sink = await join_and_listen(rig, ada)
    await eventually(lambda: encrypted(rig, session))
    async with speaking(rig, ada):
        await hears_more(sink)
        arm(rig, "corrupt_media", frames=frames)
        await eventually(lambda: session.stats().link.decrypt_failures >= 36)
        with fault.clock():
            await eventually(lambda: reports(rig) == 1)
            await eventually(lambda: encrypted(rig, session) and group_is(rig, ada))
            if frames == 36:
                await hears_more(sink)
        # Who stays garbled in the new group as well is no reason for another one.
        await hears_more(sink)
    assert session.stats().link.decrypt_failures >= (36 if frames == 36 else 2 * 36)
    assert reports(rig) == 1
    assert session.generation == 1


@pytest.mark.fault(65)
async def test_every_packet_is_opened_with_the_keys_of_the_moment(rig: Rig, fault: Fault) -> None:
    ada, ben, cleo = rig.members[1:4]
    await enter(rig, ada)
    session, sink = await join_and_listen(rig, ada, ben)
    await eventually(lambda: encrypted(rig, session))
    heard: list[tuple[int, bytes]] = []
    assert rig.sim.part is not None
    async with speaking(rig, ada):
        await hears_more(sink)
        for newcomer in (ben, cleo):
            before = epochs(rig, session)
            with fault.clock():
                await enter(rig, newcomer)
                await eventually(lambda before=before: epochs(rig, session) > before)
                await hears_more(sink)
        async with speaking(rig, ben):
            with fault.clock():
                await eventually(lambda: sink.frames[-1].user_id == ben)
        before = epochs(rig, session)
        with fault.clock():
            await leave(rig, cleo)
            await eventually(lambda: epochs(rig, session) > before and group_is(rig, ada, ben))
            await hears_more(sink)
        # The other way: what the bot says is sealed with the keys of the moment too.
        rig.sim.part.listen(rig.guild_id, ben, lambda user_id, opus: heard.append((user_id, opus)))
        with fault.clock():
            session.send_opus(OPUS)
            await eventually(lambda: (rig.bot_id, OPUS) in heard)
    link = session.stats().link
    assert link.decrypt_failures == 0
    assert link.lost == 0
    assert reports(rig) == 0


@pytest.mark.fault(66)
async def test_a_downgrade_ends_the_session(rig: Rig, fault: Fault) -> None:
    ada = rig.members[1]
    await enter(rig, ada)
    session, _ = await join_and_listen(rig, ada)
    await eventually(lambda: encrypted(rig, session))
    arm(rig, "downgrade_dave")
    await eventually(lambda: not rig.sim.faults.armed())
    with fault.clock():
        reason, _stats = await rig.recorder.until("closed")
    assert "no longer be end-to-end encrypted" in reason
    await rig.at_rest()
    await eventually(lambda: len(last_words(rig)) == 1)
    assert last_words(rig) == [
        f"I am no longer in <#{rig.channels[0]}>: The call would no longer be end-to-end encrypted, so the bot left it."
    ]
    assert rig.place is None
    assert rig.op4() == [str(rig.channels[0]), None]
    # The call stays as it is, and the bot outside.
    result = await rig.join(0)
    assert result.told is Told.FAILED
    assert "end-to-end encrypted" in result.reason
    await rig.at_rest()
    assert rig.place is None


@pytest.mark.fault(66)
@pytest.mark.parametrize("settings", [SimSettings(guilds=1, stages=1)])
async def test_a_stage_is_not_encrypted_and_stays(rig: Rig, fault: Fault) -> None:
    (stage,) = rig.guild.of_type(STAGE)
    rig.channels.append(stage.id)
    ada = rig.members[1]
    await enter(rig, ada, channel=-1)
    with fault.clock():
        session, sink = await join_and_listen(rig, ada, channel=-1)
    assert session.dave_state == "none"
    arm(rig, "downgrade_dave")
    heard: list[tuple[int, bytes]] = []
    assert rig.sim.part is not None
    rig.sim.part.listen(rig.guild_id, ada, lambda user_id, opus: heard.append((user_id, opus)))
    async with speaking(rig, ada):
        await hears_more(sink, 20)
        session.send_opus(OPUS)
        await eventually(lambda: (rig.bot_id, OPUS) in heard)
    assert rig.manager.state(rig.guild_id) is State.LIVE
    assert session.generation == 1
    assert session.stats().link.dave_version == 0
    # The exception is the stage's alone: elsewhere the same session is encrypted again.
    ben = rig.members[2]
    await enter(rig, ben)
    assert (await rig.join(0, force=True)).session is session
    await eventually(lambda: encrypted(rig, session) and group_is(rig, ben))


@pytest.mark.fault(66)
@pytest.mark.parametrize("settings", [SimSettings(guilds=1, stages=1)])
async def test_a_call_that_is_moved_out_of_a_stage_must_be_encrypted(rig: Rig, fault: Fault) -> None:
    (stage,) = rig.guild.of_type(STAGE)
    rig.channels.append(stage.id)
    ada, ben = rig.members[1:3]
    await enter(rig, ada, channel=-1)
    await enter(rig, ben)
    session, _ = await join_and_listen(rig, ada, channel=-1)
    rig.sim.voice.move(rig.guild, rig.bot_id, rig.guild.channels[rig.channels[0]])
    await eventually(lambda: encrypted(rig, session) and group_is(rig, ben))
    arm(rig, "downgrade_dave")
    await eventually(lambda: not rig.sim.faults.armed())
    with fault.clock():
        await rig.recorder.until("closed")
    await rig.at_rest()
    assert rig.place is None
