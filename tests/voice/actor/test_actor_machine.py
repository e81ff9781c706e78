"""The actor's core against a small model of Discord, in virtual time, with faults at every step."""

from __future__ import annotations

import os
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roost.audio import LinkEnd, Retry, Timing
from roost_voice import moves
from roost_voice.actor import TRANSITIONS, ActorCore
from roost_voice.moves import Presence, Stage, State, Told, Wish

pytestmark = pytest.mark.unit

CHANNELS = st.sampled_from([11, 12, 13])
RETRIES = st.sampled_from(list(Retry))


class Discord:
    """The server's side of one guild: where the bot is, and what it will hear about it."""

    def __init__(self, *, null_honoured: bool) -> None:
        self.null_honoured = null_honoured
        self.gateway = 1
        self.up = True
        self.channel: int | None = None
        self.owner: int | None = None
        self.token = 0
        self.events: deque[moves.Input] = deque()

    def session_id(self, gateway: int) -> str:
        return f"session {gateway}"

    def op4(self, channel: int | None) -> None:
        if channel is None:
            if self.channel is not None and (self.null_honoured or self.owner == self.gateway):
                self.set(None)
            return
        if channel == self.channel and self.owner == self.gateway:
            return
        self.owner = self.gateway
        self.set(channel)
        self.offer()

    def set(self, channel: int | None) -> None:
        self.channel = channel
        session = self.session_id(self.owner or self.gateway)
        if channel is None:
            self.owner = None
            self.events.append(moves.OwnNull(session))
        else:
            self.events.append(moves.OwnState(channel, session))

    def offer(self) -> None:
        self.token += 1
        self.events.append(moves.Server(f"token {self.token}", "server:443"))


class ActorMachine(RuleBasedStateMachine):
    @initialize(null_honoured=st.booleans(), ghost=st.booleans())
    def begin(self, null_honoured: bool, ghost: bool) -> None:
        self.now = 0.0
        self.timing = Timing()
        self.core = ActorCore(1, self.timing)
        self.discord = Discord(null_honoured=null_honoured)
        self.queued: moves.SendOp4 | None = None
        self.links: dict[int, str] = {}
        self.last_gen = 0
        self.asks: list[moves.AskRest] = []
        self.opening: int | None = None
        self.drain: int | None = None
        self.next_ticket = 0
        self.open_tickets: set[int] = set()
        self.told: dict[int, Told] = {}
        self.begun = 0
        self.opened = 0
        self.closed = 0
        self.journal: int | None = None
        self.stopped = False
        self.op4_sent: list[float] = []
        if ghost:
            self.discord.channel, self.discord.owner = 11, 0
            self.tell(moves.GuildHere(11, self.discord.session_id(0)))

    # The driver's part ---------------------------------------------------------------------------------------------

    def tell(self, event: moves.Input) -> None:
        unacked = self.core.unacked_nulls
        for action in self.core.handle(event, self.now):
            self.do(action, unacked)

    def do(self, action: moves.Action, unacked: int) -> None:
        match action:
            case moves.SendOp4():
                if action.channel_id is not None:
                    assert self.journal is not None, "the journal is written before op 4"
                    if action.priority is not moves.Priority.REAP:
                        assert self.core.unacked_nulls == 0, "a join while a null is unacknowledged"
                self.queued = action
            case moves.DropOp4():
                self.queued = None
            case moves.JournalWrite():
                self.journal = action.channel_id
            case moves.JournalRemove():
                self.journal = None
            case moves.OpenLink():
                assert action.gen > self.last_gen
                assert all(state == "closing" for state in self.links.values()), "two links at once"
                self.last_gen = action.gen
                self.links[action.gen] = "opening"
            case moves.CloseLink():
                if action.gen in self.links:
                    self.links[action.gen] = "closing"
            case moves.AskRest():
                self.asks.append(action)
            case moves.Tell():
                assert action.ticket in self.open_tickets, "told twice, or nobody asked"
                self.open_tickets.discard(action.ticket)
                self.told[action.ticket] = action.told
                if action.told in (Told.SUPERSEDED, Told.JOINED, Told.MOVED):
                    assert self.core.state is State.LIVE, "told of a channel that is not reached yet"
                    assert self.core.wish is not None
                    assert action.channel_id == self.core.wish.channel_id
            case moves.StartOpening():
                assert self.begun == self.closed, "the last session has not been closed"
                self.begun += 1
                self.opening = action.serial
            case moves.CancelOpening():
                self.opening = None
            case moves.Opened():
                self.opened += 1
                assert self.opened <= self.begun
            case moves.Drain():
                assert self.core.stage is Stage.OPEN
                self.drain = action.serial
            case moves.Closed():
                self.closed += 1
                assert self.closed == self.begun, "closed exactly once"
            case moves.Stray():
                self.discord.events.appendleft(moves.Reap(action.channel_id, action.session_id))
            case moves.Reaped(confirmed=False):
                assert self.discord.owner != self.discord.gateway, "gave up on a voice state of its own"
                self.discord.channel = self.discord.owner = None
            case _:
                pass

    # Wishes --------------------------------------------------------------------------------------------------------

    def ticket(self) -> int:
        self.next_ticket += 1
        self.open_tickets.add(self.next_ticket)
        return self.next_ticket

    @rule(channel=CHANNELS, may_move=st.booleans())
    def want(self, channel: int, may_move: bool) -> None:
        self.tell(moves.Want(self.ticket(), Wish(channel, 7), may_move))

    @rule()
    def unwant(self) -> None:
        self.tell(moves.Unwant(self.ticket(), "asked"))

    @precondition(lambda self: self.open_tickets)
    @rule(pick=st.integers(0, 100))
    def abandon(self, pick: int) -> None:
        ticket = sorted(self.open_tickets)[pick % len(self.open_tickets)]
        self.open_tickets.discard(ticket)
        self.tell(moves.Abandon(ticket))

    @precondition(lambda self: not self.stopped)
    @rule(really=st.integers(0, 19))
    def stop(self, really: int) -> None:
        if really == 0:
            self.stopped = True
            self.tell(moves.Stop("shutdown"))

    # The world -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.queued is not None and self.discord.up)
    @rule(ignored=st.booleans(), null_first=st.booleans())
    def send_op4(self, ignored: bool, null_first: bool) -> None:
        """Goes out; a join may be ignored (no permission), its first endpoint may be null."""
        order, self.queued = self.queued, None
        assert order is not None
        self.op4_sent.append(self.now)
        if order.channel_id is None or not ignored:
            if order.channel_id is not None and null_first:
                self.discord.events.append(moves.ServerNull())
            self.discord.op4(order.channel_id)
        self.tell(moves.Op4Sent(order.ticket, order.channel_id))

    @precondition(lambda self: self.discord.events)
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            if self.discord.events and self.discord.up:
                self.tell(self.discord.events.popleft())

    @precondition(lambda self: "opening" in self.links.values())
    @rule(works=st.booleans(), retry=st.none() | RETRIES)
    def handshake(self, works: bool, retry: Retry | None) -> None:
        gen = next(gen for gen, state in self.links.items() if state == "opening")
        if works:
            self.links[gen] = "live"
            self.tell(moves.LinkLive(gen))
        else:
            self.end_link(gen, retry)

    @precondition(lambda self: "live" in self.links.values())
    @rule(retry=RETRIES, cooldown=st.sampled_from([0.0, 60.0]))
    def lose_link(self, retry: Retry, cooldown: float) -> None:
        gen = next(gen for gen, state in self.links.items() if state == "live")
        self.end_link(gen, retry, cooldown)

    @precondition(lambda self: "closing" in self.links.values())
    @rule()
    def finish_close(self) -> None:
        gen = next(gen for gen, state in self.links.items() if state == "closing")
        self.end_link(gen, None)

    def end_link(self, gen: int, retry: Retry | None, cooldown: float = 0.0) -> None:
        del self.links[gen]
        end = LinkEnd(4000, "it ended", retry, cooldown) if retry else None
        self.tell(moves.LinkGone(gen, end))

    @precondition(lambda self: self.asks)
    @rule(known=st.booleans())
    def rest_answers(self, known: bool) -> None:
        self.answer(self.asks.pop(0), known)

    def answer(self, ask: moves.AskRest, known: bool) -> None:
        if ask.kick and known and self.discord.channel is not None:
            self.discord.set(None)
        channel = self.discord.channel
        presence = Presence.UNKNOWN if not known else Presence.OUT if channel is None else Presence.IN
        self.tell(moves.RestAnswer(ask.ask, presence, channel if known else None))

    @precondition(lambda self: self.opening is not None)
    @rule(denied=st.booleans())
    def hooks_open(self, denied: bool) -> None:
        serial, self.opening = self.opening, None
        assert serial is not None
        self.tell(moves.OpeningDone(serial, "no" if denied else None))

    @precondition(lambda self: self.drain is not None)
    @rule()
    def hooks_drain(self) -> None:
        serial, self.drain = self.drain, None
        assert serial is not None
        self.tell(moves.Drained(serial))

    @precondition(lambda self: self.core.deadline is not None)
    @rule(fraction=st.sampled_from([0.3, 1.0]))
    def wait(self, fraction: float) -> None:
        assert self.core.deadline is not None
        self.now += max(0.0, self.core.deadline - self.now) * fraction
        self.tell(moves.Tick())

    @precondition(lambda self: self.discord.channel is not None)
    @rule()
    def kick(self) -> None:
        self.discord.set(None)

    @precondition(lambda self: self.discord.channel is not None)
    @rule(channel=CHANNELS, server_first=st.booleans())
    def moderator_moves(self, channel: int, server_first: bool) -> None:
        if channel == self.discord.channel:
            return
        if server_first:
            self.discord.offer()
        self.discord.set(channel)
        if not server_first:
            self.discord.offer()

    @precondition(lambda self: self.discord.channel is not None)
    @rule(back=st.booleans())
    def server_goes(self, back: bool) -> None:
        self.discord.events.append(moves.ServerNull())
        if back:
            self.discord.offer()

    @rule(channel=CHANNELS)
    def channel_deleted(self, channel: int) -> None:
        if self.discord.channel == channel:
            self.discord.set(None)
        self.tell(moves.ChannelGone(channel))

    @precondition(lambda self: self.discord.up)
    @rule()
    def gateway_drops(self) -> None:
        self.discord.up = False
        self.tell(moves.GatewayDown())

    @precondition(lambda self: not self.discord.up)
    @rule()
    def gateway_resumes(self) -> None:
        self.discord.up = True
        self.tell(moves.GatewayResumed())

    @precondition(lambda self: not self.discord.up)
    @rule(ghost=st.booleans())
    def gateway_identifies(self, ghost: bool) -> None:
        self.discord.up = True
        self.discord.gateway += 1
        self.discord.events.clear()
        if not ghost:
            self.discord.channel = self.discord.owner = None
        self.tell(moves.GatewayReady())
        owner = self.discord.session_id(self.discord.owner or 0) if self.discord.channel is not None else None
        self.discord.events.append(moves.GuildHere(self.discord.channel, owner))

    # What must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def every_wait_has_a_deadline(self) -> None:
        core = getattr(self, "core", None)
        if core is None:
            return
        at_rest = core.state is State.IDLE or (core.state is State.LIVE and core.stage is Stage.OPEN)
        assert at_rest or core.deadline is not None, core.state

    @invariant()
    def one_link_at_most(self) -> None:
        if not hasattr(self, "core"):
            return
        assert sum(state != "closing" for state in self.links.values()) <= 1
        assert self.core.link is None or self.core.link == self.core.gen
        if self.core.state is State.LIVE:
            assert self.links.get(self.core.link or 0) in ("live", "closing")

    @invariant()
    def nothing_wanted_nothing_held(self) -> None:
        """With all news delivered, an idle actor means that Discord shows us nowhere."""
        if not hasattr(self, "core") or self.stopped or self.discord.events or not self.discord.up:
            return
        if self.core.state in (State.IDLE, State.FAILED):
            assert self.discord.channel is None
            assert not [gen for gen, state in self.links.items() if state != "closing"]
            assert self.core.stage is Stage.NONE

    @invariant()
    def waiters_wait_for_someone(self) -> None:
        if hasattr(self, "core") and self.core.state in (State.IDLE, State.FAILED):
            assert not self.open_tickets

    def teardown(self) -> None:
        """Leave, with a Discord that works again: everything must come to rest, with nothing left anywhere."""
        if not hasattr(self, "core"):
            return
        if not self.discord.up:
            self.gateway_resumes()
        self.tell(moves.Unwant(self.ticket(), "the end"))
        limit = self.now + 400.0
        steps = 0
        while self.now < limit:
            steps += 1
            assert steps < 1000, f"no rest: {self.core.state}, {self.core.phase or self.core.rung}"
            if self.discord.events:
                self.tell(self.discord.events.popleft())
            elif self.queued is not None:
                order, self.queued = self.queued, None
                self.discord.op4(order.channel_id)
                self.tell(moves.Op4Sent(order.ticket, order.channel_id))
            elif "closing" in self.links.values():
                self.finish_close()
            elif self.asks:
                self.answer(self.asks.pop(0), True)
            elif self.drain is not None:
                self.hooks_drain()
            elif self.core.deadline is not None:
                self.now = max(self.now, self.core.deadline)
                self.tell(moves.Tick())
            else:
                break
        assert self.core.state is State.IDLE
        assert not self.links
        assert not self.open_tickets
        assert self.closed == self.begun
        if not self.stopped:
            assert self.discord.channel is None
            assert self.journal is None


ActorMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("ROOST_ACTOR_EXAMPLES", "300")),
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
TestActorMachine = ActorMachine.TestCase


def test_every_state_hears_its_deadline_and_its_end() -> None:
    for state in State:
        if state is not State.IDLE:
            assert (state, moves.Tick) in TRANSITIONS
        assert (state, moves.Stop) in TRANSITIONS
        assert (state, moves.Unwant) in TRANSITIONS


def tells(actions: list[moves.Action]) -> list[tuple[int, Told, int, str]]:
    return [(each.ticket, each.told, each.channel_id, each.reason) for each in actions if isinstance(each, moves.Tell)]


def three_wishes() -> tuple[ActorCore, list[moves.Action]]:
    """Three joins for three channels, and a fourth for the last one's, before Discord has said anything."""
    core = ActorCore(1, Timing())
    actions = []
    for ticket, channel in enumerate((11, 12, 13, 13), 1):
        actions += core.handle(moves.Want(ticket, Wish(channel, 7)), 0.0)
    return core, actions


def test_the_superseded_hear_of_the_winner_when_it_is_live() -> None:
    core, actions = three_wishes()
    order = [each for each in actions if isinstance(each, moves.SendOp4)][-1]
    for event in (
        moves.Op4Sent(order.ticket, 13),
        moves.OwnState(13, "session"),
        moves.Server("token", "server:443"),
        moves.LinkLive(1),
    ):
        actions += core.handle(event, 0.1)
    assert tells(actions) == []
    opening = next(each.serial for each in actions if isinstance(each, moves.StartOpening))
    assert tells(core.handle(moves.OpeningDone(opening), 0.2)) == [
        (3, Told.JOINED, 13, ""),
        (4, Told.JOINED, 13, ""),
        (1, Told.SUPERSEDED, 13, "a later request won"),
        (2, Told.SUPERSEDED, 13, "a later request won"),
    ]


def test_the_superseded_hear_that_the_winner_failed() -> None:
    core, actions = three_wishes()
    assert tells(actions) == []
    told = tells(core.handle(moves.GuildGone(), 0.1))
    assert [(ticket, how, channel) for ticket, how, channel, _ in told] == [
        (ticket, Told.FAILED, 13) for ticket in (3, 4, 1, 2)
    ]
    assert "later request" not in told[0][3]
    assert told[2][3] == f"a later request, for <#13>, won, but failed: {told[0][3]}"


def test_a_wish_that_comes_back_is_a_winner() -> None:
    core, actions = three_wishes()
    actions += core.handle(moves.Want(5, Wish(11, 7)), 0.0)
    assert tells(actions) == []
    told = tells(core.handle(moves.Unwant(6, "asked"), 0.1) + core.handle(moves.GuildHere(None, None), 0.2))
    reasons = {ticket: reason for ticket, _, _, reason in told}
    assert reasons[1] == reasons[5] == "asked"
    assert reasons[3] == "a later request, for <#11>, won, but was ended: asked"


def test_an_abandoned_winner_leaves_nobody_waiting() -> None:
    core, actions = three_wishes()
    for ticket in (3, 4):
        actions += core.handle(moves.Abandon(ticket), 0.1)
    actions += core.handle(moves.GuildHere(None, None), 0.2)
    assert {ticket for ticket, how, _, _ in tells(actions) if how is Told.FAILED} == {1, 2}


def test_an_old_wishs_news_while_the_server_is_awaited() -> None:
    """Discord answers the first wish, without an endpoint yet, while the second wish's op 4 is still queued."""
    core = ActorCore(1, Timing())
    actions = core.handle(moves.Want(1, Wish(11, 7)), 0.0)
    order = next(each for each in actions if isinstance(each, moves.SendOp4))
    core.handle(moves.Op4Sent(order.ticket, 11), 0.0)
    actions = core.handle(moves.Want(2, Wish(12, 7)), 0.0)
    for event in (
        moves.ServerNull(),
        moves.OwnState(11, "session"),
        moves.Server("token 1", "server:443"),
        moves.Server("token 2", "server:443"),
        moves.OwnState(12, "session"),
    ):
        actions += core.handle(event, 0.1)
    actions += core.handle(moves.LinkGone(core.gen, None), 0.2)
    assert core.state is State.CONNECTING
    actions += core.handle(moves.LinkLive(core.gen), 0.3)
    opening = next(each.serial for each in actions if isinstance(each, moves.StartOpening))
    assert tells(core.handle(moves.OpeningDone(opening), 0.4)) == [
        (1, Told.SUPERSEDED, 12, "a moderator moved me"),
        (2, Told.JOINED, 12, ""),
    ]
