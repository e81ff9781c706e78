"""One guild's actor in a small model of everything around it, in virtual time, with a fault at any step.

What may happen is `OPERATIONS`: a name, when it can happen, and its finite choices. A Hypothesis machine and a seeded
soak both draw from it. `World.check` holds after every step, `World.settle` at the end of every run.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from roost.audio import Timing
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.actor.base import AWAY
from roost_voice.journal import Claim, session_hash
from roost_voice.moves import Presence, Priority, Stage, State, Told, Wish
from roost_voice.op4 import Op4Queue
from roost_voice.protocol.close_codes import CloseCode, policy
from roost_voice.reaper import Verdict, judge

GUILD, OTHERS = 1, range(1000, 1100)
CHANNELS = (11, 12, 13)
CODES = (None, *CloseCode, 4099)
FATES = ("done", "done", "server first", "first server null", "stale null first", "ignored", "late", "no state", "no server")
AT_REST = (State.IDLE, State.FAILED)


class Discord:
    """The server's side of the guild: where the bot is, and what it will hear about it."""

    def __init__(self, *, null_honoured: bool) -> None:
        self.null_honoured = null_honoured
        self.gateway = 1
        self.up = True
        self.channel: int | None = None
        self.owner: int | None = None
        self.token = 0
        self.events: deque[moves.Input] = deque()
        self.late: list[tuple[int, int]] = []
        """Joins that are carried out later: (channel, gateway session)."""

    def session_id(self, gateway: int) -> str:
        return f"session {gateway}"

    def op4(self, channel: int | None, fate: str = "done") -> None:
        if fate == "ignored":
            return
        if channel is None:
            if self.channel is not None and (self.null_honoured or self.owner == self.gateway):
                self.set(None)
            return
        if fate == "late":
            self.late.append((channel, self.gateway))
            return
        if channel == self.channel and self.owner == self.gateway:
            return
        self.owner = self.gateway
        if fate == "stale null first":
            self.events.append(moves.OwnNull("session of another day"))
        if fate == "first server null":
            self.events.append(moves.ServerNull())
        if fate == "server first":
            self.offer()
        self.set(channel, told=fate != "no state")
        if fate not in ("server first", "no server"):
            self.offer()

    def set(self, channel: int | None, *, told: bool = True) -> None:
        self.channel = channel
        session = self.session_id(self.gateway if self.owner is None else self.owner)
        if channel is None:
            self.owner = None
        if told:
            self.events.append(moves.OwnNull(session) if channel is None else moves.OwnState(channel, session))

    def offer(self) -> None:
        self.token += 1
        self.events.append(moves.Server(f"token {self.token}", "server:443"))

    def forget(self) -> None:
        self.channel = self.owner = None

    def here(self) -> moves.GuildHere:
        owner = self.session_id(self.owner or 0) if self.channel is not None else None
        return moves.GuildHere(self.channel, owner)


class World:
    """The driver's part, played by hand, and Discord's."""

    def __init__(self, *, null_honoured: bool, exclusive: bool, ghost: bool) -> None:
        self.now = 0.0
        self.timing = Timing()
        self.exclusive = exclusive
        self.discord = Discord(null_honoured=null_honoured)
        self.dead: Claim | None = None
        """What a killed process's journal says of the guild."""
        self.loud = False
        """Print every input and what the actor decides."""
        self.steps = 0
        self.rows: set[tuple[State, type]] = set()
        """Rows of the actor's table that came true."""
        self.states: Counter[State] = Counter()
        self.starts = 0
        self.opened = 0
        self.reaped = 0
        self.slowest_s = 0.0
        """The longest way to rest, once Discord works again and nobody wants anything."""
        if ghost:
            self.discord.channel, self.discord.owner = 11, 0
        self.begin_process()

    def begin_process(self) -> None:
        """A fresh process, whose gateway has just said READY and GUILD_CREATE."""
        self.starts += 1
        self.core = ActorCore(GUILD, self.timing)
        self.queue = Op4Queue(self.timing)
        self.sent: deque[tuple[float, int]] = deque(maxlen=self.timing.op4_per_window + 1)
        self.links: dict[int, str] = {}
        self.asks: list[moves.AskRest] = []
        self.opening: int | None = None
        self.drain: int | None = None
        self.next_ticket = 0
        self.open_tickets: set[int] = set()
        self.last_joined = 0
        self.begun = 0
        self.closed = 0
        self.last_gen = 0
        self.last_serial = 0
        self.opened_at: list[float] = []
        self.journal: Claim | None = None
        self.stopped = False
        self.asked: tuple[int, float] | None = None
        self.left_alone = False
        """A voice state stands of which nobody knows whose it is."""
        self.uninvited = False
        """Discord let us in after we had given up, so that no journal tells of it."""
        if self.discord.channel is None:
            self.dead = None
        self.discord.events.append(self.discord.here())

    # The driver's part ------------------------------------------------------------------------------------------------

    def tell(self, event: moves.Input) -> list[moves.Action]:
        self.rows.add((self.core.state, type(event)))
        if isinstance(event, moves.OwnState) and self.core.state not in AT_REST:
            self.asked = None
        actions = self.core.handle(event, self.now)
        if self.loud:
            print(f"    {self.now:.1f} {event} -> {self.core.state.value} {self.core.phase or self.core.rung or ''}")
        for action in actions:
            if self.loud:
                print(f"        {action}")
            self.do(action)
        return actions

    def do(self, action: moves.Action) -> None:
        match action:
            case moves.SendOp4():
                if action.channel_id is not None:
                    assert self.journal is not None, "the journal is written before op 4"
                    if action.priority is not Priority.REAP:
                        assert self.core.unacked_nulls == 0, "a join while a null is unacknowledged"
                self.queue.put(GUILD, action)
            case moves.DropOp4():
                self.queue.drop(GUILD)
            case moves.JournalWrite():
                digest = session_hash(action.session_id) if action.session_id else None
                self.journal = Claim(action.channel_id, digest)
            case moves.JournalRemove():
                self.journal = self.dead = None
            case moves.OpenLink():
                self.open_link(action)
            case moves.CloseLink():
                if action.gen in self.links:
                    self.links[action.gen] = "closing"
            case moves.AskRest():
                self.asks.append(action)
            case moves.Tell():
                self.told(action)
            case moves.StartOpening():
                assert self.begun == self.closed, "the last session has not been closed"
                self.begun += 1
                self.opening = self.serial(action.serial)
            case moves.CancelOpening():
                self.opening = None
            case moves.Opened():
                self.opened += 1
            case moves.Drain():
                assert self.core.stage is Stage.OPEN
                self.drain = self.serial(action.serial)
            case moves.Closed():
                self.closed += 1
                assert self.closed == self.begun, "closed exactly once"
                self.opening = self.drain = None
            case moves.Stray():
                self.stray(action)
            case moves.Reaped():
                self.queue.release(GUILD)
                self.reaped += action.confirmed
                if not action.confirmed:
                    assert self.discord.owner != self.discord.gateway, "gave up on a voice state of its own"
                    self.discord.forget()
            case _:
                pass

    def open_link(self, action: moves.OpenLink) -> None:
        assert action.gen > self.last_gen, "a generation came back"
        assert all(state == "closing" for state in self.links.values()), "two links at once"
        assert action.token not in repr(action), "a token in a log line"
        assert action.token == f"token {self.discord.token}" or self.discord.events, "a token of yesterday"
        self.last_gen = action.gen
        self.links[action.gen] = "opening"
        self.opened_at.append(self.now)
        recent = [at for at in self.opened_at if at > self.now - self.timing.reconnect_window_s]
        assert len(recent) <= self.timing.reconnect_limit + 1, "the breaker did not trip"

    def told(self, action: moves.Tell) -> None:
        assert action.ticket in self.open_tickets, "told twice, or nobody asked"
        self.open_tickets.discard(action.ticket)
        if action.told in (Told.SUPERSEDED, Told.JOINED, Told.MOVED):
            assert self.core.state is State.LIVE, "told of a channel that is not reached yet"
            assert self.core.wish is not None
            assert action.channel_id == self.core.wish.channel_id
            self.last_joined = action.ticket
        elif action.told is Told.LEFT:
            assert not self.core.maybe_in or self.core.wish is not None, "told that it left though it may be in"

    def serial(self, number: int) -> int:
        assert number > self.last_serial
        self.last_serial = number
        return number

    def stray(self, action: moves.Stray) -> None:
        asked, self.asked = self.asked, None
        verdict = judge(
            action.session_id,
            (),
            in_dead_journal=self.dead is not None,
            exclusive=self.exclusive,
            asked=asked is not None and asked[0] == action.channel_id and self.now < asked[1],
        )
        if verdict is Verdict.GHOST:
            self.discord.events.appendleft(moves.Reap(action.channel_id, action.session_id))
        else:
            self.left_alone = True

    # Wishes -----------------------------------------------------------------------------------------------------------

    def ticket(self) -> int:
        self.next_ticket += 1
        self.open_tickets.add(self.next_ticket)
        return self.next_ticket

    def want(self, channel: int, may_move: bool) -> None:
        self.opened_at.clear()
        self.tell(moves.Want(self.ticket(), Wish(channel, 7), may_move))

    def unwant(self) -> None:
        self.tell(moves.Unwant(self.ticket(), "asked"))

    def unwant_unasked(self) -> None:
        self.tell(moves.Unwant(0, "everybody left"))

    def cancel(self, pick: int) -> None:
        """Whoever waits is cancelled."""
        ticket = sorted(self.open_tickets)[pick % len(self.open_tickets)]
        self.open_tickets.discard(ticket)
        self.tell(moves.Abandon(ticket))

    def cancel_too_late(self) -> None:
        """Cancelled in the moment in which the answer came."""
        ticket, self.last_joined = self.last_joined, 0
        self.tell(moves.Abandon(ticket))

    def stop(self) -> None:
        self.stopped = True
        self.tell(moves.Stop("shutdown"))

    def kill(self, ghost: bool, torn: bool) -> None:
        """SIGKILL in any state, also while the journal is written; then a start."""
        if self.journal is not None and not torn:
            self.dead = self.journal
        if not ghost:
            self.discord.forget()
        self.discord.events.clear()
        self.discord.late.clear()
        self.discord.gateway += 1
        self.discord.up = True
        self.begin_process()

    # The world --------------------------------------------------------------------------------------------------------

    def send_op4(self, fate: str) -> None:
        """What may go out now goes out; else time passes until it may."""
        entry = self.queue.take(self.now)
        if entry is None:
            at = self.queue.wake_at(self.now)
            assert at is not None
            self.pass_time(max(at, self.now + 1e-6))
            return
        if len(self.sent) == self.sent.maxlen:
            assert self.sent[0][0] <= self.now - self.timing.op4_window_s, "more than 100 op 4 a minute"
        last = max((at for at, guild in self.sent if guild == entry.guild_id), default=float("-inf"))
        assert last <= self.now - self.timing.op4_guild_s + 1e-6, "more than one op 4 a second"
        self.sent.append((self.now, entry.guild_id))
        if entry.guild_id != GUILD:
            return
        order = entry.order
        if order.channel_id is not None:
            self.asked = order.channel_id, self.now + self.timing.late_answer_s
        self.discord.op4(order.channel_id, fate)
        self.tell(moves.Op4Sent(order.ticket, order.channel_id))

    def others_send(self, count: int) -> None:
        """Other guilds of the shard want to send too."""
        for guild in list(OTHERS)[:count]:
            self.queue.put(guild, moves.SendOp4(1, 99, Priority.JOIN))

    def op4_late(self) -> None:
        """A join that Discord carries out long after."""
        channel, gateway = self.discord.late.pop(0)
        if gateway == self.discord.gateway and (self.discord.channel, self.discord.owner) != (channel, gateway):
            self.uninvited = True
            self.discord.op4(channel)

    def deliver(self, count: int) -> None:
        for _ in range(count):
            if self.discord.events and self.discord.up:
                self.tell(self.discord.events.popleft())

    def link(self, state: str) -> int:
        return next(gen for gen, each in self.links.items() if each == state)

    def handshake(self) -> None:
        gen = self.link("opening")
        self.links[gen] = "live"
        self.tell(moves.LinkLive(gen))

    def handshake_fails(self, code: int | None, barred: bool) -> None:
        self.end_link(self.link("opening"), code, barred=barred)

    def close_code(self, code: int | None, resumed: bool, barred: bool) -> None:
        """The link is closed with a code; what could be resumed was tried."""
        self.end_link(self.link("live"), code, resumed=resumed, barred=barred)

    def link_closes(self, code: int | None) -> None:
        """A link that is being closed is gone, perhaps by a code that came at the same time."""
        self.end_link(self.link("closing"), code)

    def end_link(self, gen: int, code: int | None, *, resumed: bool = False, barred: bool = False) -> None:
        del self.links[gen]
        decision = policy(code)
        end = decision.end_after_resume(code) if resumed else decision.end(code)
        told = None if code is None and not resumed else end
        self.tell(moves.LinkGone(gen, told, "", "I may not connect" if barred else ""))

    def rest_answers(self, known: bool) -> None:
        self.answer(self.asks.pop(0), known)

    def answer(self, ask: moves.AskRest, known: bool) -> None:
        if ask.kick and known and self.discord.channel is not None:
            self.discord.set(None)
        channel = self.discord.channel
        presence = Presence.UNKNOWN if not known else Presence.OUT if channel is None else Presence.IN
        self.tell(moves.RestAnswer(ask.ask, presence, channel if known else None))

    def hooks_open(self, denied: bool) -> None:
        serial, self.opening = self.opening, None
        assert serial is not None
        self.tell(moves.OpeningDone(serial, "no" if denied else None))

    def hooks_drain(self) -> None:
        serial, self.drain = self.drain, None
        assert serial is not None
        self.tell(moves.Drained(serial))

    def stale(self, kind: int) -> None:
        """News of what is over: nothing may come of them."""
        before = dataclasses.replace(self.snapshot())
        old: list[moves.Input] = [
            moves.LinkLive(self.last_gen + 1),
            moves.LinkGone(self.last_gen - 1, policy(4006).end(4006)),
            moves.OpeningDone(self.last_serial - 1),
            moves.Drained(self.last_serial + 100),
            moves.RestAnswer(-1, Presence.OUT),
        ]
        event = old[kind % len(old)]
        if isinstance(event, moves.LinkGone) and self.core.link == event.gen:
            return
        assert self.tell(event) == []
        assert self.snapshot() == before, "a stale callback changed something"

    def snapshot(self) -> Snapshot:
        core = self.core
        return Snapshot(core.state, core.stage, core.phase, core.rung, core.deadline, core.wish, core.link, core.maybe_in)

    def wait(self, fraction: float) -> None:
        assert self.core.deadline is not None
        self.pass_time(self.now + max(0.0, self.core.deadline - self.now) * fraction)

    def time_passes(self, seconds: float) -> None:
        self.pass_time(self.now + seconds)

    def pass_time(self, until: float) -> None:
        """Every deadline on the way is heard of."""
        for _ in range(1000):
            due = self.core.deadline
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.tell(moves.Tick())
        else:
            raise AssertionError("deadlines without end")
        self.now = max(self.now, until)

    def kick(self, told: bool) -> None:
        self.discord.set(None, told=told)
        if not told:
            # Its voice connection says so.
            for gen in [gen for gen, state in self.links.items() if state == "live"]:
                self.end_link(gen, 4014)

    def moderator_moves(self, channel: int, server_first: bool) -> None:
        if channel == self.discord.channel:
            return
        if server_first:
            self.discord.offer()
        self.discord.set(channel)
        if not server_first:
            self.discord.offer()

    def server_goes(self, back: bool) -> None:
        self.discord.events.append(moves.ServerNull())
        if back:
            self.discord.offer()

    def server_changes(self) -> None:
        self.discord.offer()

    def channel_deleted(self, channel: int) -> None:
        if self.discord.channel == channel:
            self.discord.set(None)
        self.tell(moves.ChannelGone(channel))

    def guild_leaves(self) -> None:
        """The bot is removed from the guild, and added again."""
        self.discord.forget()
        self.discord.events.clear()
        self.discord.late.clear()
        self.tell(moves.GuildGone())

    def outage(self, lost: bool) -> None:
        """GUILD_CREATE once more, perhaps without us in it."""
        if lost:
            self.discord.forget()
        self.discord.events.append(self.discord.here())

    def gateway_drops(self) -> None:
        self.discord.up = False
        self.tell(moves.GatewayDown())

    def gateway_resumes(self) -> None:
        self.discord.up = True
        self.tell(moves.GatewayResumed())

    def gateway_identifies(self, ghost: bool) -> None:
        self.discord.up = True
        self.discord.gateway += 1
        self.discord.events.clear()
        if not ghost:
            self.discord.forget()
        self.tell(moves.GatewayReady())
        self.discord.events.append(self.discord.here())

    # What must hold ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """After every step; the numbers are those of the invariants in the fault table's source."""
        core, discord = self.core, self.discord
        self.steps += 1
        self.states[core.state] += 1
        idle = core.state in AT_REST
        if discord.channel is None:
            self.left_alone = self.uninvited = False
        # 9: every wait has a deadline, and no deadline is further away than the longest wait.
        if core.state is not State.IDLE and (core.state, core.stage) != (State.LIVE, Stage.OPEN):
            assert core.deadline is not None, f"{core.state} waits for ever"
        if core.deadline is not None:
            assert core.deadline - self.now <= AWAY * self.timing.reap_give_up_s + 1, "a deadline too far away"
        # 1, 2, 5: one session and one link at most, and of this generation.
        assert sum(state != "closing" for state in self.links.values()) <= 1
        assert core.link is None or core.link == core.gen == self.last_gen
        if core.state is State.LIVE:
            assert self.links.get(core.link or 0) in ("live", "closing"), "LIVE without a link"
        # 6, 12: what runs belongs to somebody.
        if idle:
            assert core.stage is Stage.NONE
            assert core.wish is None
            assert self.begun == self.closed, "a session that nobody ends"
            assert self.opening is None and self.drain is None, "hooks run for nobody"
            assert all(state == "closing" for state in self.links.values()), "a link that nobody owns"
            assert not self.open_tickets, "somebody waits for ever"
            assert GUILD not in self.queue_guilds(), "an op 4 that nobody wants"
        if self.stopped or discord.events or not discord.up:
            return
        # 3: nothing wanted, nothing held, once all news are heard.
        if idle:
            assert discord.channel is None or self.left_alone, "a ghost"
        # 4: what Discord holds of this process has an owner, who would be found after a crash.
        if discord.channel is not None and discord.owner == discord.gateway and not self.left_alone:
            assert not idle, "a voice state without an owner"
            assert self.journal is not None or self.uninvited, "a crash now would leave a ghost that no journal tells of"

    def queue_guilds(self) -> set[int]:
        return {entry.guild_id for entry in self.queue._waiting.values()}  # noqa: SLF001 - it shows its length alone

    def settle(self) -> None:
        """Leave, with a Discord that works again: everything must come to rest, with nothing left anywhere."""
        discord = self.discord
        discord.late.clear()
        if not discord.up:
            self.gateway_resumes()
        self.tell(moves.Unwant(self.ticket(), "the end"))
        began, steps = self.now, 0
        while True:
            steps += 1
            assert steps < 2000, f"no rest: {self.core.state}, {self.core.phase or self.core.rung}"
            if discord.events:
                self.tell(discord.events.popleft())
            elif "closing" in self.links.values():
                self.link_closes(None)
            elif self.asks:
                self.answer(self.asks.pop(0), True)
            elif self.drain is not None:
                self.hooks_drain()
            elif len(self.queue):
                self.send_op4("done")
            elif self.core.deadline is not None:
                self.pass_time(self.core.deadline)
            else:
                break
            self.check()
        self.slowest_s = max(self.slowest_s, self.now - began)
        assert self.core.state is State.IDLE
        assert not self.links
        assert not self.open_tickets
        assert self.closed == self.begun
        if self.stopped:
            # Its own end of the gateway session ends what it could not confirm.
            return
        assert discord.channel is None or self.left_alone, "a ghost at the end"
        if discord.channel is None:
            assert self.journal is None, "the journal names a guild that is left"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a stale callback must not change."""

    state: State
    stage: Stage
    phase: moves.Phase | None
    rung: moves.Rung | None
    deadline: float | None
    wish: Wish | None
    link: int | None
    maybe_in: bool


@dataclasses.dataclass(frozen=True)
class Operation:
    """Something that may happen, its choices, and how often a soak picks it."""

    choices: dict[str, tuple[Any, ...]]
    possible: Callable[[World], bool]
    weight: int = 10

    @property
    def fault(self) -> bool:
        """Something that a run can do without."""
        return self.weight < 15


BOTH = (False, True)


def _any(_world: World) -> bool:
    return True


def _in_voice(world: World) -> bool:
    return world.discord.channel is not None


OPERATIONS: dict[str, Operation] = {
    "want": Operation({"channel": CHANNELS, "may_move": BOTH}, _any, 15),
    "unwant": Operation({}, _any, 4),
    "unwant_unasked": Operation({}, _any, 1),
    "cancel": Operation({"pick": tuple(range(8))}, lambda w: bool(w.open_tickets), 4),
    "cancel_too_late": Operation({}, lambda w: bool(w.last_joined), 2),
    "stop": Operation({}, lambda w: not w.stopped, 1),
    "kill": Operation({"ghost": BOTH, "torn": BOTH}, _any, 1),
    "send_op4": Operation({"fate": FATES}, lambda w: len(w.queue) > 0 and w.discord.up, 100),
    "others_send": Operation({"count": (1, 20, 100)}, _any, 1),
    "op4_late": Operation({}, lambda w: bool(w.discord.late) and w.discord.up),
    "deliver": Operation({"count": (1, 2, 4)}, lambda w: bool(w.discord.events) and w.discord.up, 100),
    "handshake": Operation({}, lambda w: "opening" in w.links.values(), 100),
    "handshake_fails": Operation({"code": CODES, "barred": BOTH}, lambda w: "opening" in w.links.values(), 8),
    "close_code": Operation({"code": CODES, "resumed": BOTH, "barred": BOTH}, lambda w: "live" in w.links.values()),
    "link_closes": Operation({"code": (None, None, 4014, 4006)}, lambda w: "closing" in w.links.values(), 30),
    "rest_answers": Operation({"known": (True, True, False)}, lambda w: bool(w.asks), 20),
    "hooks_open": Operation({"denied": (False, False, False, True)}, lambda w: w.opening is not None, 60),
    "hooks_drain": Operation({}, lambda w: w.drain is not None, 20),
    "stale": Operation({"kind": tuple(range(5))}, _any, 3),
    "wait": Operation({"fraction": (0.3, 1.0)}, lambda w: w.core.deadline is not None, 15),
    "time_passes": Operation({"seconds": (0.01, 1.0, 70.0)}, _any, 5),
    "kick": Operation({"told": BOTH}, _in_voice, 4),
    "moderator_moves": Operation({"channel": CHANNELS, "server_first": BOTH}, _in_voice, 6),
    "server_goes": Operation({"back": BOTH}, _in_voice, 4),
    "server_changes": Operation({}, _in_voice, 4),
    "channel_deleted": Operation({"channel": CHANNELS}, _any, 2),
    "guild_leaves": Operation({}, _any, 1),
    "outage": Operation({"lost": BOTH}, lambda w: w.discord.up, 2),
    "gateway_drops": Operation({}, lambda w: w.discord.up, 4),
    "gateway_resumes": Operation({}, lambda w: not w.discord.up, 10),
    "gateway_identifies": Operation({"ghost": BOTH}, lambda w: not w.discord.up, 10),
}
