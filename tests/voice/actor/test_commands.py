"""``/voice`` as members use it."""

from __future__ import annotations

import asyncio
import re
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from context import Rig, SinkRecorder, eventually, running

from roost import processes
from roost.audio import JoinRequest, LinkStats, NoticeFacts, Use
from roost.rest_buckets import ask_before_sending
from roost.sim.client import ControlClient
from roost.sim.server import SimulatedDiscord
from roost_voice import session as session_module
from roost_voice.commands import NOT_YOURS, join_words
from roost_voice.hearing import without_dave
from roost_voice.moves import State
from roost_voice.signalling import Signalling

pytestmark = pytest.mark.sim


class Member:
    """Types commands."""

    def __init__(self, rig: Rig, control: ControlClient, number: int = 0) -> None:
        self.rig = rig
        self.control = control
        self.id = rig.members[number]

    async def types(self, command: str, *, wait_s: float = 5.0, **options: Any) -> str:
        answer = await self.control.slash(
            member_id=self.id, channel_id=self.rig.text, command=command, options=options, wait_s=wait_s
        )
        assert not answer["timed_out"]
        return str(answer["replies"][-1]["content"])

    async def enters(self, channel: int | None) -> None:
        place = self.rig.channels[channel] if channel is not None else None
        await self.control.voice(member_id=self.id, channel_id=place, guild_id=self.rig.guild_id)

        def seen() -> int | None:
            state = self.rig.ctx.bot.cache.get_voice_state(self.rig.guild_id, self.id)
            return state.channel_id if state is not None else None

        await eventually(lambda: seen() == place)


@pytest.fixture
async def rig(sim: SimulatedDiscord, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(sim, tmp_path, commands=True) as made:
        yield made


@pytest.fixture
async def control(sim: SimulatedDiscord) -> AsyncIterator[ControlClient]:
    async with ControlClient(sim.control_url) as client:
        yield client


async def test_join_status_move_leave(rig: Rig, control: ControlClient) -> None:
    member = Member(rig, control)
    first, second = rig.channels[0], rig.channels[1]
    assert "voice channel first" in await member.types("/voice join")
    await member.enters(0)
    assert await member.types("/voice join") == f"Joined <#{first}>."
    assert await member.types("/voice join") == f"Already in <#{first}>."
    status = await member.types("/voice status")
    assert f"In <#{first}>" in status
    assert "live" in status
    assert "nobody" in status
    assert await member.types("/voice join", channel=str(second)) == f"Moved to <#{second}>."
    assert await member.types("/voice leave") == f"Left <#{second}>."
    assert await member.types("/voice leave") == "I am in no voice channel."
    assert await member.types("/voice status") == "I am in no voice channel."
    assert rig.most == 1


async def test_busy_and_leave_belong_to_those_present(rig: Rig, control: ControlClient) -> None:
    here, elsewhere = Member(rig, control, 0), Member(rig, control, 1)
    await here.enters(0)
    await elsewhere.enters(1)
    await here.types("/voice join")
    assert (await elsewhere.types("/voice join")).startswith(f"Busy in <#{rig.channels[0]}>")
    assert "are using me" in await elsewhere.types("/voice leave")
    assert rig.place == rig.channels[0]


async def test_where_the_bot_is_is_told_to_nobody_who_cannot_be_there(rig: Rig, control: ControlClient) -> None:
    here, elsewhere = Member(rig, control, 0), Member(rig, control, 1)
    await here.enters(0)
    await elsewhere.enters(1)
    await here.types("/voice join")
    await control.permissions(member_id=elsewhere.id, channel_id=rig.channels[0], deny=("CONNECT",))
    await eventually(lambda: bool(_overwrites(rig, rig.channels[0])))
    for command in ("/voice join", "/voice leave", "/voice test", "/voice status"):
        assert await elsewhere.types(command) == NOT_YOURS
    assert rig.place == rig.channels[0]


async def test_whoever_may_not_be_there_any_more_reads_nothing_of_a_test(rig: Rig, control: ControlClient) -> None:
    ask_before_sending()
    member = Member(rig, control, 1)
    await member.enters(0)
    await member.types("/voice join")
    waiting = asyncio.create_task(member.types("/voice test", seconds=2))
    session = rig.manager.session(rig.guild_id)
    assert session is not None
    await eventually(lambda: bool(session._sinks))
    await control.permissions(member_id=member.id, channel_id=rig.channels[0], deny=("CONNECT",))
    await member.enters(None)
    assert await waiting == NOT_YOURS


async def test_whose_request_gave_way_is_not_told_of_a_channel_where_they_cannot_be(
    rig: Rig, control: ControlClient
) -> None:
    here, elsewhere = Member(rig, control, 0), Member(rig, control, 1)
    await here.enters(0)
    await elsewhere.enters(1)
    await control.permissions(member_id=elsewhere.id, channel_id=rig.channels[0], deny=("CONNECT",))
    await eventually(lambda: bool(_overwrites(rig, rig.channels[0])))
    rig.sim.faults.arm("drop_op4", rig.guild_id, {}, times=1)
    waiting = asyncio.create_task(elsewhere.types("/voice join"))
    await eventually(lambda: rig.manager.state(rig.guild_id) is not State.IDLE)
    assert await here.types("/voice join") == f"Joined <#{rig.channels[0]}>."
    assert await waiting == NOT_YOURS
    await here.enters(None)
    assert await elsewhere.types("/voice leave") == "Left."


async def test_permissions_are_checked_before_anything_is_sent(rig: Rig, control: ControlClient) -> None:
    member = Member(rig, control, 1)
    channel = rig.channels[0]
    await member.enters(0)
    await control.permissions(member_id=rig.bot_id, channel_id=channel, deny=("CONNECT",))
    await eventually(lambda: bool(_overwrites(rig, channel)))
    assert "I may not connect" in await member.types("/voice join", channel=str(channel))
    await control.permissions(member_id=rig.bot_id, channel_id=channel, allow=("CONNECT",))
    await control.permissions(member_id=member.id, channel_id=channel, deny=("CONNECT",))
    await eventually(lambda: len(_overwrites(rig, channel)) == 2)
    assert "You may not connect" in await member.types("/voice join", channel=str(channel))
    assert rig.op4() == []


@pytest.mark.parametrize("connect", [True, False])
@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("trust", [None, "MOVE_MEMBERS", "MANAGE_GUILD"])
async def test_who_may_bring_me_where(
    rig: Rig, control: ControlClient, connect: bool, present: bool, trust: str | None
) -> None:
    """Connect there, and be there or be trusted with other people's places; every combination."""
    member, channel = Member(rig, control, 1), rig.channels[0]
    await member.enters(0 if present else 1)
    changes = {"allow": [trust] if trust else [], "deny": [] if connect else ["CONNECT"]}
    await control.permissions(member_id=member.id, channel_id=channel, **changes)
    await eventually(lambda: bool(_overwrites(rig, channel)))
    answer = await control.slash(
        member_id=member.id, channel_id=rig.text, command="/voice join", options={"channel": str(channel)}
    )
    reply = answer["replies"][-1]
    if connect and (present or trust):
        assert reply["content"] == f"Joined <#{channel}>."
        return
    assert reply["ephemeral"]
    assert ("You are not in" if connect else "You may not connect") in reply["content"]
    assert rig.op4() == []


async def test_status_says_what_is_heard_how_well_and_how_secretly(rig: Rig, control: ControlClient) -> None:
    member = Member(rig, control, 1)
    await member.enters(0)
    await rig.ctx.consent.agree(rig.guild_id, member.id)
    rig.recorder.sink = SinkRecorder()
    await member.types("/voice join")
    await control.fault("udp_loss", guild_id=rig.guild_id, percent=30, seed=3)
    await control.speak(member_id=member.id, recording="lv_0880")
    status = await member.types("/voice status")
    assert f"Heard: <@{member.id}>." in status
    assert re.search(r"End-to-end encryption: on \(version 1\)", status)
    found = re.search(r"Packets: (\d+) in, (\d+) lost \(([\d.]+) %\)", status)
    assert found is not None
    received, lost, share = int(found[1]), int(found[2]), float(found[3])
    assert lost > 10
    assert share == pytest.approx(100 * lost / (received + lost), abs=0.05)


async def test_voice_test_tells_encryption_loss_and_level_of_each(rig: Rig, control: ControlClient) -> None:
    """Who agreed is measured, who did not is named as not heard, and bots do not come up."""
    talks, silent, refuses = (Member(rig, control, number) for number in range(3))
    robot = await control.add_member("Beep", guild_id=rig.guild_id, bot=True)
    assert "/voice join" in await talks.types("/voice test")
    for member in (talks, silent, refuses):
        await member.enters(0)
    await control.voice(member_id=robot, channel_id=rig.channels[0])
    for member in (talks, silent):
        await rig.ctx.consent.agree(rig.guild_id, member.id)
    await talks.types("/voice join")
    await control.fault("udp_loss", guild_id=rig.guild_id, percent=20, seed=3)
    speaking = [
        asyncio.create_task(control.speak(member_id=member.id, recording="lv_0880")) for member in (talks, refuses)
    ]
    text = await talks.types("/voice test", seconds=2)
    await asyncio.gather(*speaking)
    assert re.search(r"End-to-end encryption: on \(version 1\); [1-9]\d* packets could be decrypted, 0 could not", text)
    assert re.search(r"Packets: [1-9]\d* in, [1-9]\d* lost \(\d+\.\d %\)", text)
    mine = re.search(
        rf"<@{talks.id}>: ([\d.]+) s of speech, (\d+) packets? lost \([\d.]+ %\), loudness [a-z ]+ \((-\d+) dB\)", text
    )
    assert mine is not None, text
    assert 0.3 < float(mine[1]) <= 2.2
    assert int(mine[2]) > 3
    assert -45 < int(mine[3]) < 0
    assert f"<@{silent.id}>: nothing came" in text
    assert f"<@{refuses.id}>: not heard, because they have not agreed" in text
    await rig.ctx.consent.opt_out(rig.guild_id, refuses.id)
    text = await talks.types("/voice test", seconds=2)
    assert f"<@{refuses.id}>: not heard, because they do not want to be" in text
    assert f"<@{robot}>" not in text
    session = rig.manager.session(rig.guild_id)
    assert session is not None
    assert session.capture_state == "off", "nobody listens any more"
    assert "Only people in" in await Member(rig, control, 3).types("/voice test")


async def test_who_opts_out_during_a_test_is_not_decoded(rig: Rig, control: ControlClient) -> None:
    asks, leaves = Member(rig, control, 0), Member(rig, control, 1)
    for member in (asks, leaves):
        await member.enters(0)
        await rig.ctx.consent.agree(rig.guild_id, member.id)
    await asks.types("/voice join")
    session = rig.manager.session(rig.guild_id)
    assert session is not None
    decoded: list[set[int]] = []
    spawn = processes.spawn

    async def spies(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        process = await spawn(*arguments, **options)
        assert not [name for name in options["env"] if name.startswith("ROOST_")]
        (ear,) = session._sinks
        if not decoded:
            # The worst moment: the process is there, and the frames are about to go.
            asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(opts_out()))
        decoded.append({frame.user_id for frame in ear.frames})  # type: ignore[attr-defined]
        return process

    async def opts_out() -> None:
        await rig.ctx.consent.opt_out(rig.guild_id, leaves.id)

    speaking = [asyncio.create_task(control.speak(member_id=each.id, recording="lv_0880")) for each in (asks, leaves)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "spawn", spies)
        text = await asks.types("/voice test", seconds=2)
    await asyncio.gather(*speaking)
    assert decoded == [{asks.id, leaves.id}, {asks.id}]
    assert f"<@{leaves.id}>: not heard" in text
    assert re.search(rf"<@{asks.id}>: .* loudness .*\(-\d+ dB", text)


async def test_voice_test_hears_nobody_without_a_notice(rig: Rig, control: ControlClient) -> None:
    member = Member(rig, control, 0)
    await member.enters(0)
    await rig.ctx.consent.agree(rig.guild_id, member.id)
    await member.types("/voice join")
    await control.permissions(member_id=rig.bot_id, channel_id=rig.channels[0], deny=("SEND_MESSAGES",))
    assert "could not post the notice" in await member.types("/voice test", seconds=2)


@pytest.mark.parametrize("refused", ["voice chat", "text channel"])
async def test_a_notice_refused_in_mid_call_is_told_once_and_tried_until_it_stands(
    rig: Rig, control: ControlClient, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.05)
    member = Member(rig, control, 0)
    await member.enters(0)
    rig.recorder.sink = SinkRecorder()
    await member.types("/voice join")
    session = rig.manager.session(rig.guild_id)
    assert session is not None
    assert await session.capturing()
    where, other = (rig.channels[0], rig.text) if refused == "voice chat" else (rig.text, rig.channels[0])
    fault = rig.sim.faults.arm(
        "rest_error", None, {"method": "POST", "path_prefix": f"/channels/{where}", "status": 403}, 999
    )
    session.attach(SinkRecorder(), facts=NoticeFacts(Use.TEXT, channel_id=rig.text))

    async def told() -> list[str]:
        found = [each for place in (where, other) for each in await control.messages(channel_id=place)]
        return [each["content"] for each in found if "I hear nobody" in each["content"]]

    async with asyncio.timeout(8):
        while not await told():
            await asyncio.sleep(0.02)
    assert session.capture_state == "failed"
    rig.sim.faults.disarm(fault.id)
    async with asyncio.timeout(8):
        while session.capture_state != "on":
            await asyncio.sleep(0.02)
    (words,) = await told()
    assert f"Send Messages in <#{rig.text}> and <#{rig.channels[0]}>" in words


async def test_changes_of_members_elsewhere_cost_a_session_nothing(
    rig: Rig, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = Member(rig, control, 0), Member(rig, control, 1)
    await here.enters(0)
    await here.types("/voice join")
    session = rig.manager.session(rig.guild_id)
    assert session is not None
    asked: list[int] = []
    signalling = Signalling(rig.manager)
    for number, member in enumerate((elsewhere, here)):
        monkeypatch.setattr(session, "ask_again", lambda number=number: asked.append(number))
        changed: Any = types.SimpleNamespace(guild_id=rig.guild_id, user_id=member.id)
        await signalling.on_member(changed)
    assert asked == [1]


async def test_a_deafened_bot_says_so_once_and_again_when_it_hears(rig: Rig, control: ControlClient) -> None:
    member = Member(rig, control, 0)
    await member.enters(0)
    rig.recorder.sink = SinkRecorder()
    await member.types("/voice join")
    session = rig.manager.session(rig.guild_id)
    assert session is not None
    assert await session.capturing()
    payload = rig.guild.voice_states[rig.bot_id].payload(rig.guild.members[rig.bot_id])

    def becomes(deaf: bool) -> None:
        rig.sim.gateway.dispatch("VOICE_STATE_UPDATE", payload | {"deaf": deaf}, guild_id=rig.guild_id)

    async def told() -> list[str]:
        return [
            each["content"] for each in await control.messages(channel_id=rig.text) if "deafened" in each["content"]
        ]

    for _ in range(3):
        becomes(True)
    async with asyncio.timeout(8):
        while not await told():
            await asyncio.sleep(0.02)
    assert "nobody: a moderator has deafened me" in await member.types("/voice status")
    (first,) = await told()
    assert f"deafened me in <#{rig.channels[0]}>" in first
    session._deafness_at = float("-inf")
    becomes(False)
    async with asyncio.timeout(8):
        while len(await told()) < 2:
            await asyncio.sleep(0.02)
    assert "hear again" in "".join(await told())


async def test_of_fifty_at_once_one_brings_me_and_the_others_hear_where_i_am(rig: Rig) -> None:
    channel = rig.channels[0]
    people = range(1, 51)
    results = await asyncio.gather(
        *(rig.manager.join(JoinRequest(rig.guild_id, channel, person, rig.text)) for person in people)
    )
    answers = [join_words(result, channel, person) for result, person in zip(results, people, strict=True)]
    assert answers.count(f"Joined <#{channel}>.") == 1
    assert answers.count(f"Already in <#{channel}>.") == 49
    assert rig.most == 1
    assert rig.op4() == [str(channel)]


async def test_who_comes_to_the_same_channel_meanwhile_is_told(rig: Rig, control: ControlClient) -> None:
    members = [Member(rig, control, number) for number in range(3)]
    for member in members:
        await member.enters(0)
    answers = await asyncio.gather(*(member.types("/voice join") for member in members))
    assert sorted(answers) == sorted([f"Joined <#{rig.channels[0]}>.", *[f"Already in <#{rig.channels[0]}>."] * 2])


async def test_left_alone_with_bots_i_leave_unless_somebody_comes_back(sim: SimulatedDiscord, tmp_path: Path) -> None:
    async with (
        running(sim, tmp_path, commands=True, alone_leave_s=1.5) as rig,
        ControlClient(sim.control_url) as control,
    ):
        member = Member(rig, control)
        robot = await control.add_member("Beep", guild_id=rig.guild_id, bot=True)
        await member.enters(0)
        await control.voice(member_id=robot, channel_id=rig.channels[0])
        await member.types("/voice join")
        loop = asyncio.get_running_loop()
        for _ in range(3):
            # Each time for less than the limit, in all for more.
            await member.enters(None)
            await asyncio.sleep(0.7)
            assert rig.place == rig.channels[0]
            await member.enters(0)
        await member.enters(None)
        since = loop.time()
        await eventually(lambda: rig.place is None)
        assert loop.time() - since >= 1.3
        reason, _stats = await rig.recorder.until("closed")
        assert reason == "everybody left the channel"


async def test_where_i_am_to_stay_i_stay(sim: SimulatedDiscord, tmp_path: Path) -> None:
    async with running(sim, tmp_path, commands=True, alone_leave_s=0) as rig, ControlClient(sim.control_url) as control:
        member = Member(rig, control)
        await member.enters(0)
        await member.types("/voice join")
        await member.enters(None)
        await asyncio.sleep(1.0)
        assert rig.place == rig.channels[0]


async def test_a_join_that_discord_never_answers(rig: Rig, control: ControlClient) -> None:
    member, channel = Member(rig, control, 1), rig.channels[0]
    await member.enters(0)
    await control.fault("withhold_vsu", guild_id=rig.guild_id)
    expected = f"I could not join <#{channel}>: Discord did not answer in time; try again."
    assert await member.types("/voice join") == expected


def _overwrites(rig: Rig, channel_id: int) -> dict[Any, Any]:
    channel = rig.ctx.bot.cache.get_guild_channel(channel_id)
    return dict(getattr(channel, "permission_overwrites", {}))


def test_encryption_of_which_the_driver_does_not_tell_is_unknown() -> None:
    assert without_dave(LinkStats()) == "off"
    assert "unknown" in without_dave(LinkStats(tells_dave=False))
