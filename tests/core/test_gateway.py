"""Whatever the main gateway sends, a shard comes back; without a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import hikari
import hikari.impl.shard
import pytest

from roost import gateway
from roost.audience import count_members, knows_everybody
from roost.gateway import OTHERS_PER_WINDOW, OTHERS_WINDOW_S, Bot, Others
from roost.sim.damage import FRAMES, HELLOS
from roost.sim.gateway import PRIVILEGED
from roost.sim.server import SimulatedDiscord
from roost.sim.world import SimSettings

pytestmark = pytest.mark.sim

IGNORED = frozenset({"beat", "unknown_op", "resumed_twice", "rate_limited"})
"""What hikari reads, or what costs no more than itself."""


class Harness:
    """A simulated Discord and a bot."""

    def __init__(self, sim: SimulatedDiscord) -> None:
        self.sim = sim
        self.turns: list[int] = []
        self.bot = self.make(hikari.Intents.ALL_UNPRIVILEGED)

    def make(self, intents: hikari.Intents) -> Bot:
        return Bot(
            self.sim.world.bots[0].token,
            turn=self.turn,
            intents=intents,
            rest_url=self.sim.rest_url,
            banner=None,
            logs=None,
            suppress_optimization_warning=True,
        )

    @contextlib.asynccontextmanager
    async def turn(self, _shard: int) -> AsyncIterator[Callable[[], None]]:
        yield lambda: self.turns.append(1)

    async def start(self) -> None:
        async with asyncio.timeout(15):
            await self.bot.start(check_for_updates=False)

    def count(self, kind: str) -> int:
        return sum(each["kind"] == kind for each in self.sim.entries)

    def arm(self, name: str, times: int = 1, **params: Any) -> None:
        self.sim.faults.arm(name, None, params, times)
        self.sim.gateway.strike()

    async def works(self) -> None:
        """Wait until an event comes through."""
        came = asyncio.Event()

        async def on_typing(_event: hikari.GuildTypingEvent) -> None:
            came.set()

        self.bot.subscribe(hikari.GuildTypingEvent, on_typing)
        guild = next(iter(self.sim.world.guilds.values()))
        member = next(iter(guild.members))
        data = {
            "guild_id": str(guild.id),
            "channel_id": str(next(iter(guild.channels))),
            "user_id": str(member),
            "timestamp": 1_800_000_000,
            "member": guild.member_payload(member),
        }
        async with asyncio.timeout(10):
            while not came.is_set():
                self.sim.gateway.dispatch("TYPING_START", data, guild_id=guild.id)
                await asyncio.sleep(0.05)
        self.bot.unsubscribe(hikari.GuildTypingEvent, on_typing)


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    monkeypatch.setattr(hikari.impl.shard, "_BACKOFF_WINDOW", 0.0)
    monkeypatch.setattr(gateway, "PAUSE_S", 0.05)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(gateway.on_loop_error)
    async with SimulatedDiscord(SimSettings(guilds=1, intents_allowed=PRIVILEGED)) as sim:
        made = Harness(sim)
        try:
            yield made
        finally:
            if made.bot.is_alive:
                await made.bot.close()
            assert not [task for task in asyncio.all_tasks() if "(shard" in task.get_name()], "hikari's tasks are left"
            loop.set_exception_handler(None)


@pytest.mark.parametrize("kind", sorted(FRAMES))
async def test_a_damaged_frame_costs_at_most_its_connection(
    kind: str, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.start()
    harness.arm("gateway_frame", kind=kind)
    if kind not in IGNORED:
        async with asyncio.timeout(10):
            while not harness.count("gateway_resume") and harness.count("gateway_identify") < 2:
                await asyncio.sleep(0.02)
    await harness.works()
    assert not [record for record in caplog.records if record.exc_info], "one line, no traceback"


async def test_heartbeats_that_discord_asks_for_without_end_hold_nothing_up(harness: Harness) -> None:
    await harness.start()
    (connection,) = [each.connection for each in harness.sim.gateway.sessions.values() if each.connection]
    harness.arm("gateway_frame", 300, kind="beat")
    for _ in range(299):
        harness.sim.gateway.strike()
    await harness.works()
    guild = next(iter(harness.sim.world.guilds.values()))
    async with asyncio.timeout(5):
        await harness.bot.update_voice_state(guild.id, None)
    assert 1 <= connection.beats <= 5


async def test_a_server_that_somebody_waits_for_comes_before_others() -> None:
    others = Others()
    turns = {guild_id: others.put(guild_id) for guild_id in range(1, 21)}
    presence = others.put(None)
    assert others.go(0.0) == OTHERS_WINDOW_S
    assert [guild_id for guild_id, turn in turns.items() if turn.done()] == list(range(1, OTHERS_PER_WINDOW + 1))
    assert others.hurry(20)
    assert not others.hurry(1), "asked for already"
    assert others.go(1.0) == OTHERS_WINDOW_S
    assert [turns[20].done(), turns[19].done()] == [True, False]
    for guild_id in (15, 16, 17):
        others.hurry(guild_id)
    assert others.go(2.0) == OTHERS_WINDOW_S, "there is an end to hurry, too"
    assert [turns[16].done(), turns[17].done()] == [True, False]
    turns[13].cancel()
    assert others.go(OTHERS_WINDOW_S) is None
    assert all(turn.done() for turn in (*turns.values(), presence))


async def test_a_list_of_members_is_whole_when_its_last_part_came(harness: Harness) -> None:
    """Whatever number Discord gives: it may be too low."""
    guild = harness.sim.world.guilds[next(iter(harness.sim.world.guilds))]
    harness.arm("damaged_guild", replaced={"member_count": 2})
    harness.arm("late_members", size=4, delay_s=0.3)
    harness.bot = harness.make(hikari.Intents.GUILDS | hikari.Intents.GUILD_MEMBERS)
    await harness.start()

    def known() -> int:
        return len(harness.bot.cache.get_members_view_for_guild(guild.id))

    async with asyncio.timeout(5):
        while known() < 4:
            await asyncio.sleep(0.01)
        assert known() < len(guild.members)
        assert not knows_everybody(harness.bot, guild.id)
        while not knows_everybody(harness.bot, guild.id):
            await asyncio.sleep(0.01)
    assert known() == len(guild.members)


async def test_a_member_who_leaves_twice_is_counted_once(harness: Harness) -> None:
    """Else one whom the bot has never heard of would make the list whole."""
    guild = harness.sim.world.guilds[next(iter(harness.sim.world.guilds))]
    harness.bot = harness.make(hikari.Intents.GUILDS | hikari.Intents.GUILD_MEMBERS)
    count_members(harness.bot)
    gone = asyncio.Queue[hikari.MemberDeleteEvent]()

    async def on_delete(event: hikari.MemberDeleteEvent) -> None:
        await gone.put(event)

    harness.bot.subscribe(hikari.MemberDeleteEvent, on_delete)
    await harness.start()
    async with asyncio.timeout(5):
        while not knows_everybody(harness.bot, guild.id):
            await asyncio.sleep(0.01)
        user = next(each.user for each in guild.members.values() if not each.user.bot)
        data = {"guild_id": str(guild.id), "user": user.payload()}
        for _ in range(3):
            harness.sim.gateway.dispatch("GUILD_MEMBER_REMOVE", data, guild_id=guild.id)
            await gone.get()
        await asyncio.sleep(0.05)
    shown = harness.bot.cache.get_guild(guild.id)
    assert shown is not None
    assert shown.member_count == len(guild.members) - 1


async def test_commands_that_wait_end_with_their_session() -> None:
    others = Others()
    turn = others.put(1)
    others.drop()
    with pytest.raises(hikari.ComponentStateConflictError):
        await turn
    assert others.go(0.0) is None


@pytest.mark.parametrize("kind", sorted(HELLOS))
async def test_a_damaged_hello_is_tried_again(kind: str, harness: Harness) -> None:
    harness.arm("damaged_hello", kind=kind)
    await harness.start()
    await harness.works()
    assert harness.turns == [1], "IDENTIFY was sent once"


@pytest.mark.parametrize(
    "params",
    [
        {"without": ["session_id"]},
        {"without": ["user"]},
        {"without": ["user.id"]},
        {"without": ["user.username"]},
        {"without": ["guilds"]},
        {"without": ["guilds.0.id"]},
        {"without": ["application"]},
        {"replaced": {"user": []}},
        {"replaced": {"guilds": 7}},
        {"replaced": {"v": "ten"}},
    ],
    ids=str,
)
async def test_a_damaged_ready_means_a_new_session(params: dict[str, Any], harness: Harness) -> None:
    ready: list[int] = []

    async def on_ready(event: hikari.ShardReadyEvent) -> None:
        ready.append(event.shard.id)

    harness.bot.subscribe(hikari.ShardReadyEvent, on_ready)
    harness.arm("damaged_ready", **params)
    await harness.start()
    await harness.works()
    assert ready == [0]
    assert harness.bot.get_me() is not None


@pytest.mark.parametrize("url", ["", "http://[", "gopher://x", "ws://", "ws://x:70000", 5, None], ids=str)
async def test_an_unusable_address_for_resuming_is_not_used(url: Any, harness: Harness) -> None:
    harness.arm("damaged_ready", replaced={"resume_gateway_url": url})
    await harness.start()
    harness.sim.gateway.abort(harness.sim.world.bots[0])
    await harness.works()
    assert harness.count("gateway_resume") == 1


async def test_an_address_for_resuming_where_nobody_listens_is_given_up(harness: Harness) -> None:
    harness.arm("damaged_ready", replaced={"resume_gateway_url": "ws://127.0.0.1:9"})
    await harness.start()
    harness.sim.gateway.abort(harness.sim.world.bots[0])
    await harness.works()
    assert harness.count("gateway_resume") == 1


async def test_an_event_that_cannot_be_read_is_dropped_and_not_quoted(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.arm("damaged_guild", without=["channels"])
    await harness.start()
    await harness.works()
    lines = [record.getMessage() for record in caplog.records if "dropped the event" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("dropped the event GUILD_CREATE of Discord, which cannot be read: ")
    assert "Ada" not in caplog.text


async def test_a_ready_that_does_not_come_is_not_waited_for(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_S", 0.3)
    harness.arm("withhold_ready")
    await harness.start()
    await harness.works()
    assert len(harness.turns) == 2


async def test_an_event_that_breaks_every_resume_ends_the_session(harness: Harness) -> None:
    await harness.start()
    (session,) = harness.sim.gateway.sessions.values()
    session.dispatch(5, {})  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while harness.count("gateway_identify") < 2:
            await asyncio.sleep(0.02)
    await harness.works()
    assert harness.count("gateway_resume") == gateway.UNREADABLE - 1


@pytest.mark.parametrize("code", [4001, 4003, 4005, 4006, 4099])
async def test_a_close_code_that_is_not_final_is_a_lost_connection(code: int, harness: Harness) -> None:
    await harness.start()
    await harness.sim.gateway.drop(harness.sim.world.bots[0], code)
    await harness.works()


async def test_a_final_close_code_ends_the_shard(harness: Harness) -> None:
    await harness.start()
    await harness.sim.gateway.drop(harness.sim.world.bots[0], 4004)
    with pytest.raises(hikari.GatewayServerClosedConnectionError):
        async with asyncio.timeout(5):
            await harness.bot.join()


@pytest.mark.parametrize("name", ["poll events", "keep alive"])
async def test_a_cancellation_that_nobody_asked_for_ends_no_shard(
    name: str, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.start()
    for task in asyncio.all_tasks():
        if task.get_name().startswith(name):
            task.cancel()
    await harness.works()
    assert "a cancellation that nobody asked for" in caplog.text
    assert logging.getLogger("roost.gateway").isEnabledFor(logging.ERROR)


async def test_a_cancelled_start_leaves_no_shard_running(harness: Harness) -> None:
    harness.arm("withhold_ready")
    starting = asyncio.ensure_future(harness.start())
    async with asyncio.timeout(10):
        while not harness.turns:
            await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("keep alive")]
