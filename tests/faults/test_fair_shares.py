"""One member or one server asks for a lot, and others are served all the same: rows 132 to 137, and 252."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from bot_scene import scenes
from context import NO_LIMITS, Rig, SinkRecorder, eventually, running
from fault_report import SCALE, Fault
from voice_log import arm

from roost.audio import JoinRequest
from roost.sim.client import ControlClient
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings
from roost.store import open_store
from roost.testing.leftovers import leak_check
from roost_stt.protocol.segmenter import Cut, Segment
from roost_stt.worker.backlog import Backlog
from roost_stt.worker.utterances import Spoken
from roost_voice.config import VoiceConfig
from roost_voice.guild import MAILBOX
from roost_voice.moves import Told
from roost_voice.sessions import JoinResult

pytestmark = pytest.mark.sim

GUILDS = 60
"""Servers of the member who asks for a lot, beside the first one, where somebody else is."""
LIMITS = {name: VoiceConfig.model_fields[name].default for name in NO_LIMITS}
"""Those of a bot whose owner has set nothing."""


@pytest.fixture
def settings() -> SimSettings:
    return SimSettings(guilds=GUILDS + 1, voice_channels=2)


class Flood:
    """Ann, who asks for joins and leaves in all her servers, where Discord ignores every voice request."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.guilds = [guild for guild in rig.sim.world.guilds.values() if guild.id != rig.guild_id]
        self.results: list[JoinResult] = []
        for guild in self.guilds:
            rig.sim.faults.arm("drop_op4", guild.id, {}, times=1000)

    async def joins(self) -> None:
        ann = self.rig.members[0]
        self.results += await asyncio.gather(
            *(
                self.rig.manager.join(JoinRequest(guild.id, guild.of_type(2)[0].id, ann, guild.of_type(0)[0].id))
                for guild in self.guilds
            )
        )

    async def leaves(self) -> None:
        ann = self.rig.members[0]
        await asyncio.gather(
            *(self.rig.manager.leave(guild.id, "Ann says so", user_id=ann) for guild in self.guilds),
        )

    async def run(self) -> None:
        """Join and leave everywhere, again and again."""
        while True:
            joining = asyncio.ensure_future(self.joins())
            try:
                await asyncio.sleep(0.3)
                await self.leaves()
                await joining
            finally:
                joining.cancel()


@pytest.mark.fault(132)
@pytest.mark.parametrize("limits", ["of members off", "as they are"])
async def test_one_member_with_many_servers_does_not_hold_up_another(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, limits: str
) -> None:
    """Another member joins and leaves in the middle of it, twice."""
    given = NO_LIMITS if limits == "of members off" else LIMITS
    async with leak_check(), running(sim, tmp_path, **given) as rig:
        flood = Flood(rig)
        running_flood = asyncio.ensure_future(flood.run())
        try:
            await eventually(lambda: len(rig.op4()) >= 10)
            for _ in range(2):
                await asyncio.sleep(12 * SCALE)
                with fault.clock():
                    assert (await rig.join(0, member=1)).told is Told.JOINED
                await asyncio.sleep(1 * SCALE)
                with fault.clock():
                    assert (await rig.leave()).told is Told.LEFT
        finally:
            running_flood.cancel()
            await asyncio.wait({running_flood})
        times = sorted(each["t"] for each in rig.sim.entries if each["kind"] == "op4")
        window_s = 60 * SCALE
        assert max(sum(at <= other < at + window_s for other in times) for at in times) <= 101
        for guild in flood.guilds:
            for armed in [each for each in sim.faults.armed() if each.guild_id == guild.id]:
                sim.faults.disarm(armed.id)


# Through the commands ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def typing(sim: SimulatedDiscord, data_dir: Path, **settings: Any) -> AsyncIterator[tuple[Rig, ControlClient]]:
    """A bot with its commands, and the hands of its members, who all are in the first channel."""
    async with (
        leak_check(grace_s=15.0),
        running(sim, data_dir, commands=True, **(LIMITS | settings)) as rig,
        ControlClient(sim.control_url) as control,
    ):
        yield rig, control


async def join_by_command(rig: Rig, control: ControlClient, member: int, channel: int) -> str:
    """``/voice join``; the words of the last reply."""
    return str((await reply_to_join(rig, control, member, channel))["content"])


async def reply_to_join(rig: Rig, control: ControlClient, member: int, channel: int) -> dict[str, Any]:
    """``/voice join``; the last reply."""
    answer = await control.slash(
        member_id=rig.members[member],
        channel_id=rig.text,
        command="/voice join",
        options={"channel": str(rig.channels[channel])},
        wait_s=60.0,
    )
    assert not answer["timed_out"]
    reply: dict[str, Any] = answer["replies"][-1]
    return reply


async def trust(rig: Rig, control: ControlClient, members: Iterable[int]) -> None:
    """Let members bring the bot into channels where they are not."""
    for member in members:
        await control.permissions(member_id=rig.members[member], guild_id=rig.guild_id, allow=("MOVE_MEMBERS",))


@pytest.mark.fault(133)
@pytest.mark.parametrize("counted", ["member", "server"])
async def test_more_joins_than_the_limits_allow(tmp_path: Path, fault: Fault, counted: str) -> None:
    """The reply says why and for how long; leaving has no limit, and the next minute is a new one."""
    given = {"joins_per_user": 3} if counted == "member" else {"joins_per_guild": 3}
    async with SimulatedDiscord(SimSettings(guilds=1)) as sim, typing(sim, tmp_path, **given) as (rig, control):
        await trust(rig, control, range(4))
        others = itertools.repeat(0) if counted == "member" else iter(range(4))
        begun = time.monotonic()
        for channel in (0, 1, 0):
            assert "<#" in await join_by_command(rig, control, next(others), channel)
        with fault.clock():
            reply = await reply_to_join(rig, control, next(others), 1)
        refused = str(reply["content"])
        assert reply["ephemeral"], "the whole server reads a refusal that concerns one member"
        subject = "you have" if counted == "member" else "this server has"
        found = re.fullmatch(
            rf"I did not join: {subject} asked me to join 3 times in a minute; try again in (\d+) s\.", refused
        )
        assert found, refused
        assert 1 <= int(found[1]) <= 60 * SCALE
        assert rig.place == rig.channels[0], "it stays where it is"
        if counted == "member":
            assert await join_by_command(rig, control, 1, 1) == f"Moved to <#{rig.channels[1]}>."
        assert (await rig.leave()).told is Told.LEFT
        await asyncio.sleep(60 * SCALE - (time.monotonic() - begun) + 0.1)
        assert await join_by_command(rig, control, 0, 0) == f"Joined <#{rig.channels[0]}>."


@pytest.mark.fault(134)
async def test_fifty_members_ask_for_a_join_at_once(tmp_path: Path, fault: Fault) -> None:
    """From the first command to the last final reply. All ask for one channel, none has said anything before."""
    async with (
        SimulatedDiscord(SimSettings(guilds=1, members=50)) as sim,
        typing(sim, tmp_path) as (rig, control),
    ):
        await trust(rig, control, range(50))
        with fault.clock(scaled=False):
            replies = await asyncio.gather(*(join_by_command(rig, control, each, 0) for each in range(50)))
        here = f"<#{rig.channels[0]}>."
        assert sorted(set(replies)) == [f"Already in {here}", f"Joined {here}"]
        assert replies.count(f"Joined {here}") == 1
        limited = [each for each in sim.entries if each["kind"] == "rest" and each["status"] == 429]
        assert not limited, "within Discord's limits"


@pytest.mark.fault(134)
async def test_fifty_joins_in_one_instant_count_as_one(tmp_path: Path, fault: Fault) -> None:
    """As plugins ask, before the bot has begun with the first."""
    async with SimulatedDiscord(SimSettings(guilds=1, members=50)) as sim, running(sim, tmp_path, **LIMITS) as rig:
        with fault.clock():
            results = await asyncio.gather(*(rig.join(0, member=each) for each in range(50)))
        assert {result.told for result in results} == {Told.JOINED}
        assert rig.op4() == [str(rig.channels[0])]
        for channel in range(1, 4):
            assert (await rig.join(channel, force=True)).told is Told.MOVED


@pytest.mark.fault(134)
async def test_a_leave_is_taken_however_many_wait_for_a_join(tmp_path: Path, fault: Fault) -> None:
    async with SimulatedDiscord(SimSettings(guilds=1)) as sim, running(sim, tmp_path) as rig:
        arm(rig, "mute_ready", times=100)
        joins = [asyncio.ensure_future(rig.join(0, member=each % 3)) for each in range(300)]
        await eventually(lambda: rig.place is not None)
        with fault.clock():
            assert (await rig.leave()).told is Told.LEFT
        refused = [result.reason for result in await asyncio.gather(*joins)]
        assert sum("too many voice requests" in reason for reason in refused) == 300 - MAILBOX
        await eventually(lambda: rig.place is None)


# One server's slowness ------------------------------------------------------------------------------------------------


@pytest.mark.fault(136)
def test_one_server_that_speaks_without_end_does_not_hold_up_the_captions_of_another(fault: Fault) -> None:
    """25 people speak for two minutes, twelve times what the engine can do; somebody else says a sentence at times."""
    busy, quiet, batch, cost = 1, 2, 8, 0.5
    lost: list[Spoken] = []
    backlog = Backlog(lost.append, lambda _token: None)
    said: dict[int, float] = {}
    free_at, now, mark = 0.0, 0.0, 0
    while now < 120.0:
        for speaker in range(25):
            backlog.put(_spoken(busy, 100 + speaker, mark := mark + 1))
        if now % 10 == 0:
            backlog.put(_spoken(quiet, 7, mark := mark + 1))
            said[mark] = now
        while free_at < now + 2.0 and backlog.stats()["waiting"]:
            items = backlog.take(batch).items
            free_at = max(free_at, now) + cost * sum(item.segment.duration_s for item in items)
            for item in items:
                if item.guild_id == quiet:
                    fault.note(free_at - said.pop(item.segment.first_mark), virtual=True)
            backlog.done()
        now += 2.0
    assert len(said) <= 2, "the last may still wait"
    assert {item.guild_id for item in lost} == {busy}


def _spoken(guild_id: int, user_id: int, mark: int) -> Spoken:
    return Spoken(guild_id, user_id, Segment(bytes(64_000), mark, mark, 0.0, 2.0, 1500, Cut.GAP))


@pytest.mark.fault(137)
async def test_a_server_whose_answers_come_late_does_not_hold_up_the_notice_of_another(
    tmp_path: Path, fault: Fault
) -> None:
    """Nothing has been written in either before, and nobody is heard before the notice stands."""
    async with (
        leak_check(grace_s=15.0),
        SimulatedDiscord(SimSettings(guilds=2)) as sim,
        running(sim, tmp_path) as rig,
    ):
        slow, quick = sim.world.guilds.values()
        sessions = {}
        for guild in (slow, quick):
            text = guild.of_type(0)[0].id
            request = JoinRequest(guild.id, guild.of_type(2)[0].id, rig.members[0], text)
            sessions[guild.id] = (await rig.manager.join(request)).session
        late = {"method": "POST", "path_prefix": f"/channels/{slow.of_type(2)[0].id}/", "delay_s": 6.0}
        sim.faults.arm("rest_delay", None, late, times=1)
        first, second = sessions[slow.id], sessions[quick.id]
        assert first is not None
        assert second is not None
        first.attach(SinkRecorder())
        await asyncio.sleep(0.2)
        with fault.clock(scaled=False):
            second.attach(SinkRecorder())
            assert await second.capturing()
        assert first.capture_state == "notice"


# A whole bot, at Discord's real delays --------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.fault(132)
async def test_a_bot_serves_a_member_while_another_asks_in_sixty_servers(tmp_path: Path, fault: Fault) -> None:
    """Ann's commands are answered too: ten joins, and in words for the rest."""
    async with scenes(tmp_path, "--guilds", str(GUILDS + 1)) as scene, scene.bot():

        async def types(guild: dict[str, Any], command: str, member: int, **options: str) -> str:
            answer = await scene.discord.slash(
                member_id=int(guild["members"][member]["id"]),
                channel_id=int(guild["text_channels"][0]["id"]),
                command=command,
                options=options,
                wait_s=30.0,
            )
            return str(answer["replies"][-1]["content"]) if answer["replies"] else ""

        first, *others = scene.sim.card["guilds"]
        flood = [
            asyncio.ensure_future(types(guild, "/voice join", 0, channel=str(guild["voice_channels"][0]["id"])))
            for guild in others
        ]
        for _ in range(2):
            await asyncio.sleep(1.0)
            with fault.clock(scaled=False):
                assert "Joined" in await types(first, "/voice join", 1)
            await asyncio.sleep(1.0)
            with fault.clock(scaled=False):
                assert "Left" in await types(first, "/voice leave", 1)
        replies = await asyncio.gather(*flood)
        assert sum("Joined" in each for each in replies) == 10
        assert sum("you have asked me to join 10 times in a minute" in each for each in replies) == GUILDS - 10


@pytest.mark.e2e
@pytest.mark.fault(134)
async def test_a_bot_answers_fifty_members_who_ask_at_once(tmp_path: Path, fault: Fault) -> None:
    async with scenes(tmp_path, "--guilds", "1", "--members", "50") as scene, scene.bot():
        members = [int(each["id"]) for each in scene.sim.card["guilds"][0]["members"]]
        people = [each for each in members if str(each) != scene.bot_id][:50]
        assert len(people) == 50
        for member in people:
            await scene.discord.permissions(member_id=member, guild_id=scene.guild_id, allow=("MOVE_MEMBERS",))

        async def joins(member: int) -> str:
            answer = await scene.discord.slash(
                member_id=member,
                channel_id=scene.text,
                command="/voice join",
                options={"channel": str(scene.voice[0])},
                wait_s=60.0,
            )
            assert not answer["timed_out"]
            return str(answer["replies"][-1]["content"])

        with fault.clock(scaled=False):
            replies = await asyncio.gather(*(joins(member) for member in people))
        here = f"<#{scene.voice[0]}>."
        assert sorted(set(replies)) == [f"Already in {here}", f"Joined {here}"]


@pytest.mark.fault(252)
@pytest.mark.parametrize("what", ["reads", "writes"])
async def test_decisions_do_not_wait_for_a_plugin_that_floods_the_database(
    what: str, tmp_path: Path, fault: Fault
) -> None:
    async with open_store(tmp_path) as store:
        things = store.of_plugin("greedy").collection("things")
        await things.put("first", "x" * 2000)
        flood = [
            asyncio.ensure_future(things.put(str(number), "x" * 2000) if what == "writes" else things.query(limit=10))
            for number in range(4000)
        ]
        await asyncio.sleep(0.1)
        for _ in range(3):
            with fault.clock(scaled=False):
                await store.set_consents({(1, 2): ""})
                await store.consents()
                await store.of_plugin("modest").collection("things").get("a")
        assert not all(each.done() for each in flood)
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
