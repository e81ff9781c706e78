"""One guild's actor in a small model of everything around it, with a fault at any step.

What may happen is a method of `World`; `World.check` holds after every step, `World.settle` at the end of every run.
"""

from __future__ import annotations

import dataclasses

from actor_driver import AT_REST, GUILD, Driver

from roost_voice import moves
from roost_voice.actor.base import AWAY
from roost_voice.moves import Presence, Priority, Stage, State, Wish
from roost_voice.protocol.close_codes import policy

OTHERS = range(1000, 1100)
"""Other guilds of the shard."""


class World(Driver):
    """Commands, events, close codes, timers, cancellations and kills."""

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

    def cancel_all(self) -> None:
        """Everybody who waits is cancelled, one after another."""
        while self.open_tickets:
            self.cancel(0)

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
        self.discord.owed.clear()
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

    def owed_state(self) -> None:
        """A voice state that is told of long after the voice server was; of a stay that is over, it is not told."""
        state = self.discord.owed.pop(0)
        if isinstance(state, moves.OwnState) and state.channel_id == self.discord.channel:
            self.discord.events.append(state)

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
        before = self.snapshot()
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
        return Snapshot(
            core.state, core.stage, core.phase, core.rung, core.deadline, core.wish, core.link, core.maybe_in
        )

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
        self.discord.owed.clear()
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
        self.discord.owed.clear()
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
            assert self.opening is None, "hooks run for nobody"
            assert self.drain is None, "hooks run for nobody"
            assert all(state == "closing" for state in self.links.values()), "a link that nobody owns"
            assert not self.open_tickets, "somebody waits for ever"
            assert GUILD not in self.queue_guilds(), "an op 4 that nobody wants"
        if self.stopped or discord.events or discord.owed or not discord.up:
            return
        # 3: nothing wanted, nothing held, once all news are heard.
        if idle:
            assert discord.channel is None or self.left_alone, "a ghost"
        # 4: what Discord holds of this process has an owner, who would be found after a crash.
        if discord.channel is not None and discord.owner == discord.gateway and not self.left_alone:
            assert not idle, "a voice state without an owner"
            assert self.journal is not None or self.uninvited, "a crash now would leave a ghost that no journal names"

    def queue_guilds(self) -> set[int]:
        return {entry.guild_id for entry in self.queue._waiting.values()}

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
            elif discord.owed:
                self.owed_state()
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
