"""Row 43: the events of a kick and of a move, in every order, lead to the same end."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from context import Rig, eventually
from fault_report import Fault
from voice_log import identified
from voice_scene import connections, live_again

from roost.audio import Timing
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.moves import Presence, Stage, State, Told, Wish
from roost_voice.protocol.close_codes import policy

HERE, THERE = 11, 12
SESSION = "session"
SINCE = ["connecting", "opening", "live"]
"""How far the bot had come when it was kicked or moved."""


class Guild:
    """One actor in voice, and all that answers it, in virtual time."""

    def __init__(self, *, since: str = "live", follow_moves: bool = True) -> None:
        self.now = 0.0
        self.core = ActorCore(1, Timing(), follow_moves=follow_moves)
        self.channel: int | None = None
        """Where Discord has the bot."""
        self.token = 0
        self.pending: list[moves.Action] = []
        self.actions: list[moves.Action] = []
        self.links: set[int] = set()
        self.took = 0.0
        """From the last event until all was at rest."""
        self.begun = 0
        """Sessions that plugins were asked about."""
        self.opened: dict[int, tuple[int, str]] = {}
        self.tell(moves.Want(1, Wish(HERE, 7)))
        while not self.reached(since):
            self.answer()
        self.actions.clear()

    def reached(self, since: str) -> bool:
        waits_for = {"connecting": moves.OpenLink, "opening": moves.StartOpening}.get(since)
        if waits_for is None:
            return self.core.state is State.LIVE and self.core.stage is Stage.OPEN
        return any(isinstance(each, waits_for) for each in self.pending)

    def tell(self, event: moves.Input) -> None:
        for action in self.core.handle(event, self.now):
            self.actions.append(action)
            self.begun += isinstance(action, moves.StartOpening)
            match action:
                case moves.SendOp4():
                    self.drop(moves.SendOp4)
                    self.pending.append(action)
                case moves.DropOp4():
                    self.drop(moves.SendOp4)
                case moves.CancelOpening():
                    self.drop(moves.StartOpening)
                case moves.OpenLink():
                    assert not self.links, "two links at once"
                    self.links.add(action.gen)
                    self.opened[action.gen] = (action.channel_id, action.token)
                    self.pending.append(action)
                case moves.CloseLink() | moves.AskRest() | moves.StartOpening() | moves.Drain():
                    self.pending.append(action)

    def drop(self, kind: type) -> None:
        self.pending = [each for each in self.pending if not isinstance(each, kind)]

    def answer(self) -> None:
        """What the actor has asked for, once."""
        waiting, self.pending = self.pending, []
        for action in waiting:
            match action:
                case moves.SendOp4():
                    self.tell(moves.Op4Sent(action.ticket, action.channel_id))
                    self.op4(action.channel_id)
                case moves.OpenLink() if action.gen in self.links:
                    self.tell(moves.LinkLive(action.gen))
                case moves.CloseLink() if action.gen in self.links:
                    self.links.discard(action.gen)
                    self.tell(moves.LinkGone(action.gen, None))
                case moves.AskRest():
                    presence = Presence.OUT if self.channel is None else Presence.IN
                    self.tell(moves.RestAnswer(action.ask, presence, self.channel))
                case moves.StartOpening():
                    self.tell(moves.OpeningDone(action.serial))
                case moves.Drain():
                    self.tell(moves.Drained(action.serial))

    def op4(self, channel: int | None) -> None:
        if channel == self.channel:
            return
        self.channel = channel
        if channel is None:
            self.tell(moves.OwnNull(SESSION))
        else:
            self.tell(moves.OwnState(channel, SESSION))
            self.tell(self.server())

    def server(self) -> moves.Server:
        self.token += 1
        return moves.Server(f"token {self.token}", "server:443")

    def settle(self) -> None:
        """Until nothing is under way; a LIVE session is at rest."""
        for _ in range(200):
            if self.pending:
                self.answer()
            elif self.core.deadline is not None:
                self.now = max(self.now, self.core.deadline)
                self.tell(moves.Tick())
            else:
                return
        raise AssertionError(f"no rest: {self.core.state}")

    def told(self, ticket: int) -> Told | None:
        return next(
            (each.told for each in self.actions if isinstance(each, moves.Tell) and each.ticket == ticket), None
        )

    def closed(self) -> list[str]:
        return [each.reason for each in self.actions if isinstance(each, moves.Closed)]

    def sent(self) -> list[int | None]:
        return [each.channel_id for each in self.actions if isinstance(each, moves.SendOp4)]


Step = Callable[[Guild], None]


def null(guild: Guild) -> None:
    guild.tell(moves.OwnNull(SESSION))


def closed_with(code: int) -> Step:
    def closes(guild: Guild) -> None:
        if 1 in guild.links:
            guild.links.discard(1)
            guild.tell(moves.LinkGone(1, policy(code).end(code)))

    return closes


def server_null(guild: Guild) -> None:
    guild.tell(moves.ServerNull())


def new_server(guild: Guild) -> None:
    guild.tell(guild.server())


def channel_deleted(guild: Guild) -> None:
    guild.tell(moves.ChannelGone(HERE))


def guild_gone(guild: Guild) -> None:
    guild.tell(moves.GuildGone())


def guild_here(guild: Guild) -> None:
    guild.tell(moves.GuildHere(guild.channel, SESSION if guild.channel else None))


def rest(guild: Guild) -> None:
    """Whatever is asked is answered now, and not before."""
    guild.answer()


def state_there(guild: Guild) -> None:
    guild.tell(moves.OwnState(THERE, SESSION))


@dataclasses.dataclass(frozen=True)
class Story:
    name: str
    where: int | None
    events: tuple[Step, ...]


KICKS = [
    Story(f"kick {code}: {name}", None, (null, closed_with(code), *more))
    for code in (4014, 4022)
    for name, more in {
        "alone": (),
        "server withdrawn": (server_null, rest),
        "guild here": (server_null, guild_here, rest),
        "channel deleted": (channel_deleted, server_null, rest),
        "removed from the server": (guild_gone, server_null, rest),
        "deleted and removed": (channel_deleted, guild_gone, rest),
    }.items()
]
MOVES = [
    Story(f"move {code}: {name}", THERE, (state_there, new_server, closed_with(code), *more))
    for code in (4014, 4022)
    for name, more in {
        "alone": (),
        "server withdrawn first": (server_null, rest),
        "guild here": (guild_here, rest),
    }.items()
]


ANSWERS = [(False, 0.0), (True, 0.0), (True, 0.2)]
"""Whether what the actor asks for is answered between two events, and the time between them."""


def orders(story: Story) -> Iterator[tuple[Step, ...]]:
    """Every order, but that a withdrawn server is followed by the new one: the other way round it is another story."""
    for order in itertools.permutations(story.events):
        if server_null in order and new_server in order and order.index(server_null) > order.index(new_server):
            continue
        yield order


def played(story: Story, order: Sequence[Step], *, eager: bool, pause_s: float, **options: Any) -> Guild:
    """One order, until all is at rest."""
    guild = Guild(**options)
    guild.channel = story.where
    for step in order:
        step(guild)
        if eager:
            guild.answer()
        last = guild.now
        guild.now += pause_s
        guild.tell(moves.Tick())
    guild.settle()
    guild.took = guild.now - last
    return guild


def every(story: Story, **options: Any) -> Iterator[tuple[str, Guild]]:
    for order in orders(story):
        for eager, pause_s in ANSWERS:
            name = " ".join(step.__name__ for step in order) + (" eager" if eager else "")
            yield name, played(story, order, eager=eager, pause_s=pause_s, **options)


@pytest.mark.unit
@pytest.mark.fault(43)
@pytest.mark.parametrize("since", SINCE)
@pytest.mark.parametrize("story", KICKS, ids=lambda story: story.name)
def test_every_order_of_a_kick(fault: Fault, story: Story, since: str) -> None:
    for name, guild in every(story, since=since):
        assert guild.core.state is State.IDLE, name
        assert guild.core.stage is Stage.NONE, name
        assert guild.core.wish is None, name
        assert guild.channel is None, name
        assert not guild.links, name
        assert set(guild.sent()) <= {None}, f"{name}: it came back"
        assert len(guild.closed()) == guild.begun, name
        assert guild.told(1) in ({None} if since == "live" else {Told.FAILED, Told.JOINED}), name
        assert any(isinstance(each, moves.JournalRemove) for each in guild.actions), name
        fault.note(guild.took, 7.0, virtual=True)


@pytest.mark.unit
@pytest.mark.fault(43)
@pytest.mark.parametrize("since", SINCE)
@pytest.mark.parametrize("story", MOVES, ids=lambda story: story.name)
def test_every_order_of_a_move(fault: Fault, story: Story, since: str) -> None:
    for name, guild in every(story, since=since):
        assert guild.core.state is State.LIVE, name
        assert guild.core.stage is Stage.OPEN, name
        assert guild.core.wish == Wish(THERE, 7), name
        assert guild.channel == THERE, name
        assert guild.links == {guild.core.gen}, name
        assert guild.opened[guild.core.gen] == (THERE, f"token {guild.token}"), f"{name}: an old server"
        assert guild.sent() == [], f"{name}: a move by others needs no op 4"
        assert guild.closed() == [], name
        moved = [(each.old, each.new) for each in guild.actions if isinstance(each, moves.Moved)]
        assert moved == [(HERE, THERE)] or (since != "live" and not moved), name
        fault.note(guild.took, virtual=True)


@pytest.mark.unit
@pytest.mark.fault(43)
@pytest.mark.parametrize("since", SINCE)
@pytest.mark.parametrize("story", MOVES, ids=lambda story: story.name)
def test_every_order_of_a_move_that_is_not_followed(fault: Fault, story: Story, since: str) -> None:
    for name, guild in every(story, since=since, follow_moves=False):
        assert guild.core.state is State.IDLE, name
        assert guild.core.stage is Stage.NONE, name
        assert guild.channel is None, name
        assert not guild.links, name
        assert set(guild.sent()) == {None}, name
        assert set(guild.closed()) <= {"I was moved to another channel"}, name
        fault.note(guild.took, 7.0, virtual=True)


# Over real sockets ----------------------------------------------------------------------------------------------------


def says(rig: Rig, event: str, payload: dict[str, Any]) -> None:
    rig.sim.gateway.dispatch(event, payload, guild_id=rig.guild_id)


def kick_events(rig: Rig, code: int) -> dict[str, Callable[[], object]]:
    """What a kick brings, each for itself; Discord has forgotten the bot before the first of them."""
    state = rig.guild.voice_states.pop(rig.bot_id)
    assert rig.sim.part is not None
    part = rig.sim.part
    out = state.payload(rig.guild.members[rig.bot_id], left=True)
    here = rig.guild.channels[rig.channels[0]]
    return {
        "state": lambda: says(rig, "VOICE_STATE_UPDATE", out),
        "close": lambda: part.end(rig.guild_id, rig.bot_id, code),
        "channel": lambda: says(rig, "CHANNEL_DELETE", here.payload()),
    }


def move_events(rig: Rig, code: int) -> dict[str, Callable[[], object]]:
    """What a move brings, each for itself; Discord has the bot in the other channel before the first of them."""
    state = dataclasses.replace(rig.guild.voice_states[rig.bot_id], channel_id=rig.channels[2])
    rig.guild.voice_states[rig.bot_id] = state
    assert rig.sim.part is not None
    part = rig.sim.part
    return {
        "state": lambda: says(rig, "VOICE_STATE_UPDATE", state.payload(rig.guild.members[rig.bot_id])),
        "server": lambda: rig.sim.voice.new_server(rig.guild, rig.bot_id),
        "close": lambda: part.end(rig.guild_id, rig.bot_id, code),
    }


@pytest.mark.sim
@pytest.mark.fault(43)
@pytest.mark.parametrize("gap_s", [0.0, 0.03])
@pytest.mark.parametrize("order", list(itertools.permutations(["state", "close", "channel"])), ids="-".join)
async def test_a_kick_in_any_order(rig: Rig, fault: Fault, order: tuple[str, ...], gap_s: float) -> None:
    await rig.join(0)
    events = kick_events(rig, 4022 if gap_s else 4014)
    for name in order:
        events[name]()
        await asyncio.sleep(gap_s)
    with fault.clock():
        await rig.recorder.until("closed")
        await rig.at_rest()
    assert rig.place is None
    assert connections(rig) == 0
    assert set(rig.op4()[1:]) <= {None}
    assert rig.recorder.names.count("closed") == 1


MOVE_ORDERS = list(itertools.permutations(["state", "server", "close"]))


@pytest.mark.sim
@pytest.mark.fault(43)
@pytest.mark.parametrize(
    ("order", "gap_s"),
    # Both at once, and the close last, it would take the new server's ticket back.
    [(order, 0.0) for order in MOVE_ORDERS if order.index("close") < order.index("server")]
    + [(order, 0.03) for order in MOVE_ORDERS],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
async def test_a_move_in_any_order(rig: Rig, fault: Fault, order: tuple[str, ...], gap_s: float) -> None:
    """The close is of the old connection: none once the new one stands, as the bot has closed the old one itself."""
    result = await rig.join(0)
    events = move_events(rig, 4014)
    for name in order:
        if name == "close" and order.index("server") < order.index("close"):
            await eventually(lambda: len(identified(rig)) == 2)
        else:
            events[name]()
        await asyncio.sleep(gap_s)
    with fault.clock():
        await rig.recorder.until("moved")
        await live_again(rig, 2)
    assert result.session is not None
    assert result.session.channel_id == rig.channels[2] == rig.place
    assert result.session.members == frozenset()
    assert connections(rig) == 1
    assert rig.op4() == [str(rig.channels[0])]
    assert "closed" not in rig.recorder.names
