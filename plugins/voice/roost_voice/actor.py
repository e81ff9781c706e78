"""The decisions of one guild's voice actor. Pure: no I/O, no clock; `now` is a parameter, time is in seconds.

`ActorCore.handle` takes one input and gives the actions to carry out, in order. Commands set a wish; the core brings
Discord and the link in line with it. Everything that comes back late carries a number (generation of a link, ticket of
an op 4, number of a question), and a stale number is dropped.

What may follow what is the table `TRANSITIONS` at the end of this file.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping

from roost.audio import LinkEnd, Retry, Timing
from roost_voice.moves import (
    Abandon,
    Action,
    AskRest,
    CancelOpening,
    ChannelGone,
    Closed,
    CloseLink,
    Disconnected,
    Drain,
    Drained,
    DropOp4,
    GatewayDown,
    GatewayReady,
    GatewayResumed,
    GuildGone,
    GuildHere,
    Input,
    Interrupted,
    JournalRemove,
    JournalWrite,
    LinkGone,
    LinkLive,
    Moved,
    Op4Sent,
    Opened,
    OpeningDone,
    OpenLink,
    OwnNull,
    OwnState,
    Phase,
    Presence,
    Priority,
    Reap,
    Reaped,
    RestAnswer,
    Restored,
    Rung,
    SendOp4,
    Server,
    ServerNull,
    Stage,
    StartOpening,
    State,
    Stop,
    Stray,
    Tell,
    Tick,
    Told,
    Unwant,
    Want,
    Wish,
)

NO_ANSWER = "Discord did not let me in: the channel may be full, or I may not connect to it"


class ActorCore:
    """One guild's decisions.

    Args:
        guild_id: For messages only.
        timing: Every delay.
        drain_s: How long the closing hooks may take while still connected.
        opening_s: How long the opening hooks may take.
        follow_moves: Stay in a session that a moderator moves; otherwise leave.
    """

    def __init__(
        self,
        guild_id: int,
        timing: Timing,
        *,
        drain_s: float = 2.5,
        opening_s: float = 30.0,
        follow_moves: bool = True,
    ) -> None:
        self.guild_id = guild_id
        self._timing = timing
        self._drain_s = drain_s
        self._opening_s = opening_s
        self._follow_moves = follow_moves

        self.state = State.IDLE
        self.stage = Stage.NONE
        self.phase: Phase | None = None
        self.rung: Rung | None = None
        self.deadline: float | None = None
        """When `Tick` is due; None only at rest."""
        self.wish: Wish | None = None
        self.server_channel: int | None = None
        """Where Discord last said we are."""
        self.gen = 0
        self.link: int | None = None
        """Generation of the link that exists, live or not."""
        self.link_live = False
        self.maybe_in = False
        """Discord may hold a voice state of ours."""
        self.unacked_nulls = 0
        self.gateway_up = True
        self.stopping = False
        self.stale: Counter[str] = Counter()
        """Inputs dropped, by name."""

        self._session_id: str | None = None
        self._seen_state = False
        self._server: tuple[str, str] | None = None
        self._link_closing = False
        self._link_channel: int | None = None
        self._closing_old = False
        self._tickets: dict[int, int] = {}
        self._leavers: list[int] = []
        self._failing: list[tuple[int, Told, str]] = []
        self._failing_channel = 0
        self._attempts: deque[float] = deque()
        self._op4_ticket = 0
        self._null_ticket = 0
        self._op4_pending = False
        self._in_before_op4 = False
        self._ask = 0
        self._serial = 0
        self._interrupted = False
        self._live_channel: int | None = None
        self._end = False
        self._end_reason = ""
        self._drained = False
        self._cooldown_s = 0.0
        self._failure = ""
        self._retry_index = 0
        self._orphan_since = 0.0
        self._orphan_pass = 0
        self._ladder = 0
        self._ghost_channel: int | None = None
        self._claimed = False
        self._out: list[Action] = []
        self._allowed: frozenset[State] = frozenset()

    @property
    def at_rest(self) -> bool:
        """Nothing is wanted, held or under way."""
        return self.state is State.IDLE

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input; give the actions to carry out in order."""
        self._out = []
        self._note_gateway(event)
        if self._is_stale(event, now):
            self.stale[type(event).__name__] += 1
            return []
        if self.stopping and isinstance(event, Want):
            self._emit(Tell(event.ticket, Told.FAILED, 0, "the bot is shutting down"))
            return self._out
        row = TRANSITIONS.get((self.state, type(event)))
        if row is None:
            self.stale[type(event).__name__] += 1
            return self._out
        handler, self._allowed = row
        handler(self, event, now)
        return self._out

    # Plumbing -------------------------------------------------------------------------------------------------------

    def _note_gateway(self, event: Input) -> None:
        if isinstance(event, GatewayDown):
            self.gateway_up = False
        elif isinstance(event, GatewayReady | GatewayResumed):
            self.gateway_up = True
            if isinstance(event, GatewayReady):
                self.unacked_nulls = 0
        elif isinstance(event, GuildHere):
            self.unacked_nulls = 0
        elif isinstance(event, OwnState):
            # Even if the op 4 that is still queued is withdrawn now, an earlier one has let us in.
            self.maybe_in = self._in_before_op4 = True
        elif isinstance(event, Op4Sent) and event.channel_id is None and event.ticket != self._null_ticket:
            self._null_ticket = event.ticket
            self.unacked_nulls += 1
        elif isinstance(event, Stop):
            self.stopping = True

    def _is_stale(self, event: Input, now: float) -> bool:
        match event:
            case LinkLive(gen=gen) | LinkGone(gen=gen):
                return gen != self.link
            case Op4Sent(ticket=ticket):
                if ticket == self._op4_ticket and self._op4_pending:
                    self._op4_pending = False
                    return False
                # It went out just before it was withdrawn: Discord may have let us in.
                self.maybe_in = self.maybe_in or event.channel_id is not None
                return True
            case RestAnswer(ask=ask):
                return ask != self._ask
            case OpeningDone(serial=serial) | Drained(serial=serial):
                return serial != self._serial
            case Tick():
                return self.deadline is None or now < self.deadline
            case _:
                return False

    def _set_state(self, state: State) -> None:
        if state is not self.state and state not in self._allowed:
            raise AssertionError(f"the table has no way from {self.state.value} to {state.value}")
        self.state = state
        if state is not State.LEAVING:
            self.phase = None
        if state is not State.ORPHAN:
            self.rung = None

    def _emit(self, action: Action) -> None:
        self._out.append(action)

    def _send_op4(self, channel_id: int | None, priority: Priority, *, hidden: bool = False) -> None:
        self._op4_ticket += 1
        self._op4_pending = True
        self._in_before_op4 = self.maybe_in
        if channel_id is not None:
            self.maybe_in = True
            self._emit(JournalWrite(channel_id, None))
        self._emit(SendOp4(self._op4_ticket, channel_id, priority, hidden))

    def _drop_op4(self) -> None:
        if self._op4_pending:
            self._op4_pending = False
            self.maybe_in = self.maybe_in and self._in_before_op4
            self._emit(DropOp4())

    def _ask_rest(self, *, kick: bool = False) -> None:
        self._ask += 1
        self._emit(AskRest(self._ask, kick))

    def _tell_all(self, told: Told, channel_id: int, reason: str = "") -> None:
        for ticket in self._tickets:
            self._emit(Tell(ticket, told, channel_id, reason))
        self._tickets.clear()

    def _ours(self, session_id: str) -> bool:
        return self._session_id is None or session_id == self._session_id

    def _attempt(self, now: float) -> bool:
        """Count a try to get voice back; False when the breaker has tripped."""
        while self._attempts and self._attempts[0] <= now - self._timing.reconnect_window_s:
            self._attempts.popleft()
        if len(self._attempts) >= self._timing.reconnect_limit:
            return False
        self._attempts.append(now)
        return True

    def _trip(self, now: float) -> None:
        self._leave("voice kept failing", now, cooldown_s=self._timing.failed_cooldown_s)

    def _interrupt(self, reason: str) -> None:
        if self.stage is Stage.OPEN and not self._interrupted:
            self._interrupted = True
            self._emit(Interrupted(reason))

    # Signalling and connecting --------------------------------------------------------------------------------------

    def _signal(self, now: float) -> None:
        assert self.wish is not None
        self._set_state(State.SIGNALLING)
        self._server = None
        self._seen_state = False
        self._send_op4(self.wish.channel_id, Priority.MOVE if self.stage is Stage.OPEN else Priority.JOIN)
        self.deadline = now + self._timing.op4_window_s

    def _connect_if_known(self, now: float) -> bool:
        if not (self._seen_state and self._server):
            return False
        self._set_state(State.CONNECTING)
        if self.link is not None:
            self._closing_old = True
            self._close_link()
            self.deadline = now + self._timing.close_local_s
        else:
            self._open_link(now)
        return True

    def _open_link(self, now: float) -> None:
        assert self.wish is not None
        assert self._server is not None
        assert self._session_id is not None
        self._closing_old = False
        self.gen += 1
        self.link, self.link_live, self._link_closing = self.gen, False, False
        self._link_channel = self.wish.channel_id
        token, address = self._server
        self._emit(JournalWrite(self.wish.channel_id, self._session_id))
        self._emit(OpenLink(self.gen, self.wish.channel_id, self._session_id, token, address, self.wish))
        self.deadline = now + self._timing.connecting_s

    def _close_link(self) -> None:
        if self.link is not None and not self._link_closing:
            self._link_closing = True
            self.link_live = False
            self._emit(CloseLink(self.link))

    def _forget_link(self) -> None:
        """The link is gone, or has had its time to go: what it still says is stale."""
        self.link, self.link_live, self._link_closing = None, False, False

    def _reopen(self, now: float) -> None:
        """Open a link with the server we know, closing the one we have first."""
        if not self._attempt(now):
            self._trip(now)
            return
        self._seen_state = True
        self._connect_if_known(now)

    def _follow(self, channel_id: int) -> None:
        assert self.wish is not None
        self.wish = Wish(channel_id, self.wish.user_id, self.wish.text_channel_id)

    def _await_server(self, seconds: float, now: float) -> None:
        self._set_state(State.AWAIT_SERVER)
        self.deadline = now + seconds

    def _rejoin(self, reason: str, now: float) -> None:
        """The link is gone, the wish stands: get fresh credentials.

        An op 4 that changes nothing brings no answer, so a voice state that still stands is given up first.
        """
        self._interrupt(reason)
        if not self.gateway_up:
            self._suspend(2 * self._timing.reap_give_up_s, now)
        elif not self._attempt(now):
            self._trip(now)
        elif self.maybe_in:
            self._leave(reason, now, end=False)
        else:
            self._signal(now)

    def _suspend(self, seconds: float, now: float) -> None:
        self._drop_op4()
        self._close_link()
        self._set_state(State.SUSPENDED)
        self._server = None
        self._seen_state = False
        self.deadline = now + seconds

    def _link_lost(self, end: LinkEnd | None, detail: str, now: float) -> None:
        retry = end.retry if end else (Retry.STOP if self.stage is Stage.NONE else Retry.REJOIN)
        reason = end.reason if end else (detail or "the voice server could not be reached")
        if retry is Retry.STOP:
            self._leave(reason, now, cooldown_s=end.cooldown_s if end else 0.0)
        elif retry is Retry.AWAIT_SERVER:
            self._interrupt(reason)
            if self.gateway_up:
                self._await_server(self._timing.await_server_s, now)
            else:
                self._suspend(2 * self._timing.reap_give_up_s, now)
        else:
            self._rejoin(reason, now)

    # Wishes ---------------------------------------------------------------------------------------------------------

    def _want_idle(self, event: Want, now: float) -> None:
        self._take_wish(event)
        self._attempts.clear()
        self._attempt(now)
        if self.unacked_nulls:
            self._set_state(State.LEAVING)
            self._ask_in_leaving(now)
        else:
            self._signal(now)

    def _take_wish(self, event: Want) -> None:
        if self.wish is not None and self.wish.channel_id != event.wish.channel_id:
            self._tell_all(Told.SUPERSEDED, event.wish.channel_id)
        self.wish = event.wish
        self._tickets[event.ticket] = event.wish.channel_id

    def _want_active(self, event: Want, now: float) -> None:
        """A wish while another is being carried out."""
        assert self.wish is not None
        if event.wish.channel_id == self.wish.channel_id:
            if self.state is State.LIVE and self.stage is Stage.OPEN:
                self._emit(Tell(event.ticket, Told.ALREADY, self.wish.channel_id))
            else:
                self._tickets[event.ticket] = event.wish.channel_id
            return
        if self.stage is Stage.OPEN and not event.may_move:
            self._emit(Tell(event.ticket, Told.BUSY, self.wish.channel_id))
            return
        self._take_wish(event)
        self._attempts.clear()
        self._attempt(now)
        if self.state is not State.SUSPENDED:
            self._signal(now)

    def _want_leaving(self, event: Want, now: float) -> None:
        if not self._end and self.stage is Stage.OPEN and self.wish is not None:
            same = event.wish.channel_id == self.wish.channel_id
            if not same and not event.may_move:
                self._emit(Tell(event.ticket, Told.BUSY, self.wish.channel_id))
                return
        self._take_wish(event)
        self._cooldown_s = 0.0

    def _want_orphan(self, event: Want, now: float) -> None:
        self._take_wish(event)
        self._attempts.clear()
        self._attempt(now)
        self._orphan_pass = 0
        if self.rung is Rung.WAIT:
            self._orphan_ask(now)

    def _want_failed(self, event: Want, now: float) -> None:
        assert self.deadline is not None
        seconds = max(1, round(self.deadline - now))
        reason = f"{self._failure}; try again in {seconds} s"
        self._emit(Tell(event.ticket, Told.FAILED, event.wish.channel_id, reason))

    def _unwant_idle(self, event: Unwant, now: float) -> None:
        if event.ticket:
            self._emit(Tell(event.ticket, Told.NOT_IN_VOICE, 0))

    def _unwant_active(self, event: Unwant, now: float) -> None:
        if event.ticket:
            self._leavers.append(event.ticket)
        self._leave(event.reason, now, told=Told.REFUSED)

    def _unwant_leaving(self, event: Unwant, now: float) -> None:
        if event.ticket:
            self._leavers.append(event.ticket)
        self._give_up_wish(event.reason, Told.REFUSED)
        self._begin_end(event.reason)

    def _unwant_orphan(self, event: Unwant, now: float) -> None:
        if event.ticket:
            self._emit(Tell(event.ticket, Told.UNCONFIRMED, 0))
        self.wish = None
        self._tell_all(Told.REFUSED, 0, event.reason)

    def _abandon(self, event: Abandon, now: float) -> None:
        self._tickets.pop(event.ticket, None)
        self._failing = [entry for entry in self._failing if entry[0] != event.ticket]
        if event.ticket in self._leavers:
            self._leavers.remove(event.ticket)
            return
        if self._tickets or self.wish is None or self.stage is Stage.OPEN:
            return
        if self.state in (State.LEAVING, State.ORPHAN):
            self.wish = None
        else:
            self._leave("the request was cancelled", now)

    def _stop_rest(self, event: Stop, now: float) -> None:
        self.deadline = None
        self._set_state(State.IDLE)

    def _stop_active(self, event: Stop, now: float) -> None:
        self._leave(event.reason, now)

    def _stop_leaving(self, event: Stop, now: float) -> None:
        self._give_up_wish(event.reason, Told.FAILED)
        self._begin_end(event.reason)

    def _stop_orphan(self, event: Stop, now: float) -> None:
        self._drop_op4()
        self.wish = None
        self._tell_all(Told.FAILED, 0, event.reason)
        self.deadline = None
        self._emit(Disconnected(False))
        self._set_state(State.IDLE)

    def _give_up_wish(self, reason: str, told: Told) -> None:
        channel_id = self.wish.channel_id if self.wish else 0
        self.wish = None
        for ticket in self._tickets:
            self._failing.append((ticket, told, reason))
        self._tickets.clear()
        self._failing_channel = channel_id

    # Leaving --------------------------------------------------------------------------------------------------------

    def _begin_end(self, reason: str) -> None:
        if not self._end:
            self._end = True
            self._end_reason = reason

    def _leave(
        self, reason: str, now: float, *, end: bool = True, cooldown_s: float = 0.0, told: Told = Told.FAILED
    ) -> None:
        """Go to LEAVING. With `end` the session ends and the wish with it; else this makes room for a rejoin."""
        self._drop_op4()
        if end:
            self._give_up_wish(reason, told)
            self._begin_end(reason)
            self._cooldown_s = cooldown_s
            self._failure = reason
        self._set_state(State.LEAVING)
        self.phase = None
        self._leave_step(now)

    def _leave_step(self, now: float) -> None:
        """Do the next thing that leaving still needs."""
        if self._end and self.stage is Stage.OPENING:
            self._serial += 1
            self._emit(CancelOpening())
            self._drained = True
        if self._end and self.stage is Stage.OPEN and not self._drained:
            if self.phase is not Phase.DRAIN:
                self.phase = Phase.DRAIN
                self._serial += 1
                self._emit(Drain(self._serial, self._end_reason))
                self.deadline = now + self._drain_s
            return
        if self.link is not None:
            self._close_link()
            self.phase = Phase.CLOSE
            self.deadline = now + self._timing.close_local_s
            return
        if self.maybe_in:
            self.phase = Phase.NULL
            self._send_op4(None, Priority.LEAVE)
            self.deadline = now + (self._timing.leave_ack_s if self.stopping else self._timing.op4_window_s)
            return
        if self.wish is not None and self.unacked_nulls:
            # A null of ours is still on its way back: an op 4 now would be followed by it and look like a kick.
            if self.phase is not Phase.ASK:
                self._ask_in_leaving(now)
            return
        self._finish(now, confirmed=True)

    def _ask_in_leaving(self, now: float) -> None:
        self.phase = Phase.ASK
        self._ask_rest()
        self.deadline = now + self._timing.leave_ack_s

    def _leaving_null(self, event: OwnNull, now: float) -> None:
        if self.unacked_nulls:
            self.unacked_nulls -= 1
        elif not self._ours(event.session_id):
            return
        self.maybe_in = False
        self.server_channel = None
        if self.phase in (Phase.NULL, Phase.ACK, Phase.ASK):
            self._drop_op4()
            self._leave_step(now)

    def _leaving_state(self, event: OwnState, now: float) -> None:
        self.server_channel = event.channel_id
        self.maybe_in = True

    def _leaving_sent(self, event: Op4Sent, now: float) -> None:
        if self.phase is Phase.NULL:
            self.phase = Phase.ACK
            self.deadline = now + self._timing.leave_ack_s

    def _leaving_drained(self, event: Drained, now: float) -> None:
        self._drained = True
        self._leave_step(now)

    def _leaving_link_gone(self, event: LinkGone, now: float) -> None:
        self._forget_link()
        if self.phase is Phase.CLOSE:
            self._leave_step(now)

    def _leaving_rest(self, event: RestAnswer, now: float) -> None:
        if self.phase is not Phase.ASK:
            return
        self.unacked_nulls = 0
        if event.presence is Presence.OUT:
            self.maybe_in = False
            self._leave_step(now)
        else:
            self._leave_unconfirmed(now)

    def _leaving_gone(self, event: GuildGone, now: float) -> None:
        self._drop_op4()
        self._give_up_wish("I am no longer in this server", Told.FAILED)
        self._begin_end("the bot was removed from the server")
        self.maybe_in = False
        self.server_channel = None
        if self.phase in (Phase.NULL, Phase.ACK, Phase.ASK):
            self._leave_step(now)

    def _leaving_ready(self, event: GatewayReady, now: float) -> None:
        """The acknowledgement will not come any more; GUILD_CREATE says whether we are still in voice."""
        self._session_id = None
        if self.phase in (Phase.NULL, Phase.ACK, Phase.ASK):
            self._drop_op4()
            self.phase = Phase.ACK
            self.deadline = now + self._timing.leave_ack_s

    def _leaving_resumed(self, event: GatewayResumed, now: float) -> None:
        if self.phase in (Phase.ACK, Phase.ASK):
            self._leave_step(now)

    def _leaving_here(self, event: GuildHere, now: float) -> None:
        self.server_channel = event.channel_id
        self.maybe_in = event.channel_id is not None
        if self.phase in (Phase.NULL, Phase.ACK, Phase.ASK):
            self._drop_op4()
            self._leave_step(now)

    def _leaving_tick(self, event: Tick, now: float) -> None:
        if self.phase is Phase.DRAIN:
            self._drained = True
            self._leave_step(now)
        elif self.phase is Phase.CLOSE:
            self._forget_link()
            self._leave_step(now)
        elif self.phase in (Phase.NULL, Phase.ACK):
            self._drop_op4()
            self._ask_in_leaving(now)
        else:
            self.unacked_nulls = 0
            self._leave_unconfirmed(now)

    def _leave_unconfirmed(self, now: float) -> None:
        if not self._end and self.wish is not None:
            self._signal(now)
            return
        if self._end and self.stage is Stage.OPEN and not self._drained:
            self._leave_step(now)
            return
        if self.stopping:
            self._finish(now, confirmed=False)
            return
        wish, self.wish = self.wish, None
        self._close_session(Told.UNCONFIRMED, confirmed=False)
        self.wish = wish
        self._set_state(State.ORPHAN)
        self._ghost_channel = None
        self._orphan_since = now
        self._orphan_pass = 0
        self._retry_index = 0
        self._orphan_wait(now)

    def _close_session(self, told: Told, *, confirmed: bool) -> None:
        self._emit(Disconnected(confirmed))
        if self._end and self.stage is not Stage.NONE:
            self.stage = Stage.NONE
            self._interrupted = False
            self._live_channel = None
            self._serial += 1
            self._emit(Closed(self._end_reason))
        for ticket in self._leavers:
            self._emit(Tell(ticket, told, self.server_channel or 0))
        self._leavers.clear()
        for ticket, why, reason in self._failing:
            self._emit(Tell(ticket, why, self._failing_channel, reason))
        self._failing.clear()
        self._end = False
        self._drained = False

    def _finish(self, now: float, *, confirmed: bool) -> None:
        """Out of voice: end the session if it was to end, then do what is wished next."""
        ended = self._end
        if confirmed:
            self._emit(JournalRemove())
        self._close_session(Told.LEFT if confirmed else Told.UNCONFIRMED, confirmed=confirmed)
        self.maybe_in = False
        self.server_channel = None
        self._session_id = None
        self._server = None
        self._next(now, cooldown=ended)

    def _next(self, now: float, *, cooldown: bool = False) -> None:
        cooldown_s, self._cooldown_s = self._cooldown_s, 0.0
        if self.wish is not None and self.unacked_nulls:
            self._set_state(State.LEAVING)
            self._ask_in_leaving(now)
        elif self.wish is not None:
            self._signal(now)
        elif cooldown and cooldown_s > 0 and not self.stopping:
            self._set_state(State.FAILED)
            self.deadline = now + cooldown_s
        else:
            self._set_state(State.IDLE)
            self.deadline = None

    # Orphans and ghosts ---------------------------------------------------------------------------------------------

    def _reap(self, event: Reap, now: float) -> None:
        if self.stopping:
            return
        self._set_state(State.ORPHAN)
        self._ghost_channel = event.channel_id
        self._claimed = False
        self.server_channel = event.channel_id
        self.maybe_in = True
        self._orphan_since = now
        self._orphan_pass = 0
        self._retry_index = 0
        self._orphan_null(now, ladder=0)

    def _ghost_seen(self, event: Reap, now: float) -> None:
        """A ghost, while something is wanted here: the op 4 takes its place, and leaving must make sure of it."""
        self.server_channel = event.channel_id
        self.maybe_in = self._in_before_op4 = True

    def _orphan_null(self, now: float, *, ladder: int) -> None:
        self._ladder = ladder
        self.rung = Rung.NULL
        self._send_op4(None, Priority.LEAVE if self._ghost_channel is None else Priority.REAP)
        self.deadline = now + self._timing.op4_window_s

    def _orphan_ask(self, now: float, *, kick: bool = False) -> None:
        self._drop_op4()
        self.rung = Rung.ASK
        self._ask_rest(kick=kick)
        self.deadline = now + self._timing.leave_ack_s * (2 if kick else 1)

    def _orphan_wait(self, now: float) -> None:
        delays = self._timing.orphan_retry_s
        self.rung = Rung.WAIT
        self.deadline = now + delays[min(self._retry_index, len(delays) - 1)]
        self._retry_index += 1

    def _orphan_sent(self, event: Op4Sent, now: float) -> None:
        if self.rung is Rung.NULL:
            self.rung = Rung.ACK
            reaping = self._ghost_channel is not None
            self.deadline = now + (self._timing.reap_null_s if reaping else self._timing.leave_ack_s)
        elif self.rung is Rung.CLAIM:
            self.rung = Rung.CLAIMED
            self.deadline = now + self._timing.reap_claim_s

    def _orphan_state(self, event: OwnState, now: float) -> None:
        self.server_channel = event.channel_id
        self._claimed = True
        if self.rung in (Rung.CLAIM, Rung.CLAIMED):
            self._orphan_null(now, ladder=1)

    def _orphan_out(self, _event: OwnNull | GuildGone, now: float) -> None:
        if isinstance(_event, OwnNull) and self.unacked_nulls:
            self.unacked_nulls -= 1
        if isinstance(_event, GuildGone):
            self.wish = None
            self._tell_all(Told.FAILED, 0, "I am no longer in this server")
        self._orphan_done(now)

    def _orphan_done(self, now: float, *, confirmed: bool = True) -> None:
        self._drop_op4()
        if self._ghost_channel is not None:
            self._emit(Reaped(self._ghost_channel, now - self._orphan_since, confirmed))
            self._ghost_channel = None
        if confirmed:
            self._emit(JournalRemove())
        self.maybe_in = False
        self.server_channel = None
        self._session_id = None
        self._next(now)

    def _orphan_rest(self, event: RestAnswer, now: float) -> None:
        if self.rung is not Rung.ASK:
            return
        self.unacked_nulls = 0
        if event.presence is Presence.OUT:
            self._orphan_done(now)
            return
        if event.channel_id is not None:
            self.server_channel = event.channel_id
        if self.wish is not None:
            if self._ghost_channel is not None or self.server_channel != self.wish.channel_id:
                # One op 4 takes the ghost's place: never null first, so there is never a second session.
                if self._ghost_channel is not None:
                    self._emit(Reaped(self._ghost_channel, now - self._orphan_since, True))
                    self._ghost_channel = None
                self._signal(now)
                return
            if self._orphan_pass >= 1:
                self.wish = None
                self._tell_all(Told.FAILED, 0, "Discord has not confirmed that I left; try again in a few seconds")
        if event.presence is Presence.UNKNOWN:
            self._orphan_wait(now)
        elif self._ladder == 0 and self.server_channel is not None:
            self.rung = Rung.CLAIM
            self._send_op4(self.server_channel, Priority.REAP, hidden=True)
            self.deadline = now + self._timing.op4_window_s
        elif self._ladder == 1:
            self._ladder = 2
            self._orphan_ask(now, kick=True)
        else:
            self._orphan_wait(now)

    def _orphan_tick(self, event: Tick, now: float) -> None:
        if self.rung in (Rung.NULL, Rung.ACK):
            self._orphan_ask(now)
        elif self.rung in (Rung.CLAIM, Rung.CLAIMED):
            self._orphan_null(now, ladder=1)
        elif self.rung is Rung.ASK:
            self.unacked_nulls = 0
            self._orphan_rest(RestAnswer(self._ask, Presence.UNKNOWN), now)
        elif (
            self._ghost_channel is not None
            and not self._claimed
            and now - self._orphan_since > self._timing.reap_give_up_s
        ):
            # Its gateway session has run out by now, and the ghost with it.
            self._orphan_done(now, confirmed=False)
        else:
            self._orphan_pass += 1
            self._orphan_null(now, ladder=0)

    def _orphan_again(self, _event: GatewayResumed, now: float) -> None:
        self._orphan_null(now, ladder=0)

    def _orphan_ready(self, _event: GatewayReady, now: float) -> None:
        self._drop_op4()
        self.rung = Rung.WAIT
        self.deadline = now + self._timing.orphan_retry_s[0]

    def _orphan_here(self, event: GuildHere, now: float) -> None:
        if event.channel_id is None:
            self._orphan_done(now)
        else:
            self.server_channel = event.channel_id
            self._orphan_null(now, ladder=0)

    # What Discord says ----------------------------------------------------------------------------------------------

    def _stray(self, event: OwnState | GuildHere, now: float) -> None:
        if event.channel_id is not None and not self.stopping:
            self._emit(Stray(event.channel_id, event.session_id or ""))

    def _signalling_state(self, event: OwnState, now: float) -> None:
        assert self.wish is not None
        self.server_channel = event.channel_id
        if event.channel_id == self.wish.channel_id:
            self._seen_state = True
            self._session_id = event.session_id
            self._connect_if_known(now)
        elif self._seen_state:
            self._moved_by_others(event.channel_id, now)

    def _signalling_null(self, event: OwnNull, now: float) -> None:
        """Before the first voice state of this join every null is a leftover of an earlier stay."""
        if self.unacked_nulls:
            self.unacked_nulls -= 1
        elif self._seen_state and self._ours(event.session_id):
            self._kicked(now)

    def _signalling_server(self, event: Server, now: float) -> None:
        self._server = (event.token, event.address)
        self._connect_if_known(now)

    def _signalling_server_null(self, event: ServerNull, now: float) -> None:
        self._server = None
        self._await_server(self._timing.await_first_server_s, now)

    def _signalling_sent(self, event: Op4Sent, now: float) -> None:
        self.deadline = now + self._timing.signalling_s

    def _signalling_tick(self, event: Tick, now: float) -> None:
        assert self.wish is not None
        sent = not self._op4_pending
        reason = NO_ANSWER if sent else "Discord's gateway is busy or down; try again in a minute"
        if self.link_live and self.stage is Stage.OPEN and self._link_channel is not None and not self._seen_state:
            # A move that Discord ignored: the session goes on where it is.
            self._drop_op4()
            self._tell_all(Told.FAILED, self.wish.channel_id, reason)
            self._follow(self._link_channel)
            self._set_state(State.LIVE)
            self.deadline = None
        elif self.stage is Stage.OPEN and not self._tickets and sent:
            self._rejoin("Discord did not answer", now)
        else:
            self._leave(reason, now)

    def _link_gone_early(self, event: LinkGone, now: float) -> None:
        """A link that no longer matters has ended."""
        self._forget_link()

    def _kicked(self, now: float, reason: str = "I was disconnected from the channel") -> None:
        self.maybe_in = False
        self.server_channel = None
        self._leave(reason, now)

    def _moved_by_others(self, channel_id: int, now: float) -> None:
        assert self.wish is not None
        if self.stage is Stage.OPEN and not self._follow_moves:
            self._leave("I was moved to another channel", now)
            return
        self._tell_all(Told.SUPERSEDED, channel_id)
        self._follow(channel_id)
        self._interrupt("moved to another channel")
        if self.state is State.CONNECTING and not self.link_live:
            # The server we were given last is the new channel's, or its successor is on its way.
            self._reopen(now)
        else:
            self._await_server(self._timing.await_server_s, now)

    def _connecting_state(self, event: OwnState, now: float) -> None:
        assert self.wish is not None
        if not self._ours(event.session_id):
            return
        self.server_channel = event.channel_id
        if event.channel_id != self.wish.channel_id:
            self._moved_by_others(event.channel_id, now)

    def _active_null(self, event: OwnNull, now: float) -> None:
        if self.unacked_nulls:
            self.unacked_nulls -= 1
        elif self._ours(event.session_id):
            self._kicked(now)

    def _new_server(self, event: Server, now: float) -> None:
        fresh = (event.token, event.address)
        if fresh == self._server and self.state is not State.AWAIT_SERVER:
            return
        self._server = fresh
        if self.state is State.LIVE:
            self._interrupt("the voice server changed")
        self._reopen(now)

    def _server_lost(self, _event: ServerNull, now: float) -> None:
        self._server = None
        self._interrupt("the voice server went away")
        self._close_link()
        self._await_server(self._timing.await_server_null_s, now)

    def _connecting_live(self, event: LinkLive, now: float) -> None:
        assert self.wish is not None
        if self._link_closing:
            return
        self._set_state(State.LIVE)
        self.link_live = True
        self.deadline = None
        channel_id = self.wish.channel_id
        old, self._live_channel = self._live_channel, channel_id
        if self.stage is Stage.NONE:
            self.stage = Stage.OPENING
            self._serial += 1
            self._emit(StartOpening(self._serial))
        if self.stage is Stage.OPENING:
            self.deadline = now + self._opening_s
            return
        moved = old is not None and old != channel_id
        if moved:
            assert old is not None
            self._emit(Moved(old, channel_id))
        if self._interrupted:
            self._interrupted = False
            self._emit(Restored("connected again"))
        self._tell_all(Told.MOVED if moved else Told.JOINED, channel_id)

    def _connecting_link_gone(self, event: LinkGone, now: float) -> None:
        self._forget_link()
        if self._closing_old:
            self._open_link(now)
        else:
            self._link_lost(event.end, event.detail, now)

    def _connecting_tick(self, event: Tick, now: float) -> None:
        if self._closing_old:
            self._forget_link()
            self._open_link(now)
        else:
            self._close_link()
            self._link_lost(None, "the voice server did not answer in time", now)

    def _live_state(self, event: OwnState, now: float) -> None:
        assert self.wish is not None
        if not self._ours(event.session_id):
            return
        self.server_channel = event.channel_id
        if event.channel_id != self.wish.channel_id:
            self._moved_by_others(event.channel_id, now)

    def _live_here(self, event: GuildHere, now: float) -> None:
        if event.channel_id is None:
            self._ask_rest()
        else:
            self._live_state(OwnState(event.channel_id, event.session_id or ""), now)

    def _live_rest(self, event: RestAnswer, now: float) -> None:
        if event.presence is Presence.OUT:
            self.maybe_in = False
            self._close_link()
            self._rejoin("Discord forgot me", now)

    def _live_link_gone(self, event: LinkGone, now: float) -> None:
        self._forget_link()
        self._link_lost(event.end, event.detail, now)

    def _opening_done(self, event: OpeningDone, now: float) -> None:
        if self.stage is not Stage.OPENING:
            return
        if event.denied is not None:
            self._leave(event.denied, now, told=Told.REFUSED)
            return
        self.stage = Stage.OPEN
        self._emit(Opened())
        if self.state is State.LIVE:
            self.deadline = None
            assert self.wish is not None
            self._tell_all(Told.JOINED, self.wish.channel_id)
        else:
            self._interrupt("the link was lost while opening")

    def _leaving_opening(self, event: OpeningDone, now: float) -> None:
        """The answer of the opening hooks, while the link is being replaced."""
        if self._end or self.stage is not Stage.OPENING:
            return
        if event.denied is not None:
            self._give_up_wish(event.denied, Told.REFUSED)
            self._begin_end(event.denied)
        else:
            self._opening_done(event, now)

    def _live_tick(self, event: Tick, now: float) -> None:
        self._leave("a plugin took too long to get ready", now)

    def _await_state(self, event: OwnState, now: float) -> None:
        assert self.wish is not None
        self.server_channel = event.channel_id
        if event.channel_id == self.wish.channel_id:
            self._seen_state = True
            self._session_id = event.session_id
        elif self._ours(event.session_id):
            self._seen_state = True
            self._moved_by_others(event.channel_id, now)

    def _await_new_server(self, event: Server, now: float) -> None:
        self._server = (event.token, event.address)
        if self._session_id is None or not self._seen_state:
            self._set_state(State.SIGNALLING)
            self.deadline = now + self._timing.signalling_s
        else:
            self._reopen(now)

    def _await_server_null(self, event: ServerNull, now: float) -> None:
        self._server = None
        self._close_link()
        self.deadline = now + self._timing.await_server_null_s

    def _await_tick(self, event: Tick, now: float) -> None:
        if self.link_live and self._server is not None:
            # Moved, but neither a new server nor the end of the old link came: they may be the same.
            self._reopen(now)
        else:
            self._leave("Discord offered no voice server" if self._server is None else "I was disconnected", now)

    def _channel_gone(self, event: ChannelGone, now: float) -> None:
        if self.wish is not None and event.channel_id == self.wish.channel_id:
            self._leave("the channel was deleted", now)

    def _guild_gone(self, event: GuildGone, now: float) -> None:
        self._kicked(now, "the bot was removed from the server")

    def _gateway_new(self, event: GatewayReady, now: float) -> None:
        self._interrupt("Discord's gateway started a new session")
        self._session_id = None
        self._suspend(self._timing.await_server_null_s, now)

    def _gateway_down(self, event: GatewayDown, now: float) -> None:
        """A link does not need the main gateway; a new server would come through it."""
        if self.state is State.AWAIT_SERVER and self.link is None:
            self._suspend(2 * self._timing.reap_give_up_s, now)

    def _suspended_here(self, event: GuildHere, now: float) -> None:
        self.server_channel = event.channel_id
        self.maybe_in = event.channel_id is not None
        if self._attempt(now):
            self._signal(now)
        else:
            self._trip(now)

    def _suspended_resumed(self, event: GatewayResumed, now: float) -> None:
        self._rejoin("Discord's gateway is back", now)

    def _suspended_tick(self, event: Tick, now: float) -> None:
        self._leave("Discord's gateway did not come back", now)

    def _late_null(self, event: OwnNull, now: float) -> None:
        self.unacked_nulls = max(0, self.unacked_nulls - 1)

    def _suspended_state(self, event: OwnState, now: float) -> None:
        self.server_channel = event.channel_id

    def _suspended_null(self, event: OwnNull, now: float) -> None:
        """Replayed by a resume it tells of a kick; after a new session it is about the old one."""
        self.server_channel = None
        if self.unacked_nulls:
            self.unacked_nulls -= 1
        elif self._session_id is not None and self._session_id == event.session_id:
            self._kicked(now)

    def _failed_tick(self, event: Tick, now: float) -> None:
        self.deadline = None
        self._set_state(State.IDLE)


Handler = Callable[[ActorCore, object, float], None]
_C = ActorCore
_S = State
_OUT = frozenset({_S.LEAVING, _S.IDLE, _S.FAILED, _S.SIGNALLING, _S.ORPHAN})
"""Where the end of a stay can lead at once, when nothing has to be waited for."""
_ANY = frozenset(State)
_STAY: frozenset[State] = frozenset()
_SIGNAL = frozenset({_S.SIGNALLING})

_ACTIVE: dict[type, tuple[object, frozenset[State]]] = {
    Want: (_C._want_active, _SIGNAL),
    Unwant: (_C._unwant_active, _OUT),
    Abandon: (_C._abandon, _OUT),
    Stop: (_C._stop_active, _OUT),
    ChannelGone: (_C._channel_gone, _OUT),
    GuildGone: (_C._guild_gone, _OUT),
    GatewayReady: (_C._gateway_new, frozenset({_S.SUSPENDED})),
    GatewayDown: (_C._gateway_down, _STAY),
    OpeningDone: (_C._opening_done, _OUT),
    Reap: (_C._ghost_seen, _STAY),
}
"""The same in SIGNALLING, CONNECTING, LIVE, AWAIT_SERVER and SUSPENDED."""

_RECONNECT = _OUT | {_S.CONNECTING, _S.AWAIT_SERVER, _S.SUSPENDED}

_ROWS: dict[State, dict[type, tuple[object, frozenset[State]]]] = {
    _S.IDLE: {
        Want: (_C._want_idle, frozenset({_S.SIGNALLING, _S.LEAVING})),
        Unwant: (_C._unwant_idle, _STAY),
        Stop: (_C._stop_rest, _STAY),
        OwnState: (_C._stray, _STAY),
        OwnNull: (_C._late_null, _STAY),
        GuildHere: (_C._stray, _STAY),
        Reap: (_C._reap, frozenset({_S.ORPHAN})),
    },
    _S.SIGNALLING: {
        **_ACTIVE,
        OwnState: (_C._signalling_state, _RECONNECT),
        OwnNull: (_C._signalling_null, _OUT),
        Server: (_C._signalling_server, frozenset({_S.CONNECTING})),
        ServerNull: (_C._signalling_server_null, frozenset({_S.AWAIT_SERVER})),
        Op4Sent: (_C._signalling_sent, _STAY),
        LinkGone: (_C._link_gone_early, _STAY),
        Tick: (_C._signalling_tick, _OUT | {_S.LIVE, _S.SUSPENDED}),
    },
    _S.CONNECTING: {
        **_ACTIVE,
        OwnState: (_C._connecting_state, _RECONNECT),
        OwnNull: (_C._active_null, _OUT),
        Server: (_C._new_server, _RECONNECT),
        ServerNull: (_C._server_lost, frozenset({_S.AWAIT_SERVER})),
        LinkLive: (_C._connecting_live, frozenset({_S.LIVE})),
        LinkGone: (_C._connecting_link_gone, _RECONNECT),
        Tick: (_C._connecting_tick, _RECONNECT),
    },
    _S.LIVE: {
        **_ACTIVE,
        OwnState: (_C._live_state, _RECONNECT),
        OwnNull: (_C._active_null, _OUT),
        Server: (_C._new_server, _RECONNECT),
        ServerNull: (_C._server_lost, frozenset({_S.AWAIT_SERVER})),
        GuildHere: (_C._live_here, _RECONNECT),
        RestAnswer: (_C._live_rest, _RECONNECT),
        LinkGone: (_C._live_link_gone, _RECONNECT),
        Tick: (_C._live_tick, _OUT),
    },
    _S.AWAIT_SERVER: {
        **_ACTIVE,
        OwnState: (_C._await_state, _RECONNECT),
        OwnNull: (_C._active_null, _OUT),
        GatewayDown: (_C._gateway_down, frozenset({_S.SUSPENDED})),
        Server: (_C._await_new_server, _RECONNECT),
        ServerNull: (_C._await_server_null, _STAY),
        LinkGone: (_C._link_gone_early, _STAY),
        Tick: (_C._await_tick, _RECONNECT),
    },
    _S.LEAVING: {
        Want: (_C._want_leaving, _STAY),
        Unwant: (_C._unwant_leaving, _STAY),
        Abandon: (_C._abandon, _STAY),
        Stop: (_C._stop_leaving, _STAY),
        OwnState: (_C._leaving_state, _STAY),
        OwnNull: (_C._leaving_null, _OUT),
        GuildHere: (_C._leaving_here, _OUT),
        GuildGone: (_C._leaving_gone, _OUT),
        GatewayReady: (_C._leaving_ready, _STAY),
        GatewayResumed: (_C._leaving_resumed, _OUT),
        Op4Sent: (_C._leaving_sent, _STAY),
        LinkGone: (_C._leaving_link_gone, _OUT),
        Drained: (_C._leaving_drained, _OUT),
        OpeningDone: (_C._leaving_opening, _STAY),
        Reap: (_C._ghost_seen, _STAY),
        RestAnswer: (_C._leaving_rest, _OUT),
        Tick: (_C._leaving_tick, _OUT),
    },
    _S.ORPHAN: {
        Want: (_C._want_orphan, _STAY),
        Unwant: (_C._unwant_orphan, _STAY),
        Abandon: (_C._abandon, _STAY),
        Stop: (_C._stop_orphan, frozenset({_S.IDLE})),
        OwnState: (_C._orphan_state, _STAY),
        OwnNull: (_C._orphan_out, _OUT),
        GuildHere: (_C._orphan_here, _OUT),
        GuildGone: (_C._orphan_out, _OUT),
        GatewayReady: (_C._orphan_ready, _STAY),
        GatewayResumed: (_C._orphan_again, _STAY),
        Op4Sent: (_C._orphan_sent, _STAY),
        RestAnswer: (_C._orphan_rest, _OUT),
        Tick: (_C._orphan_tick, _OUT),
    },
    _S.SUSPENDED: {
        **_ACTIVE,
        OwnState: (_C._suspended_state, _STAY),
        OwnNull: (_C._suspended_null, _OUT),
        GuildHere: (_C._suspended_here, _OUT),
        GatewayResumed: (_C._suspended_resumed, _OUT),
        LinkGone: (_C._link_gone_early, _STAY),
        Tick: (_C._suspended_tick, _OUT),
    },
    _S.FAILED: {
        Want: (_C._want_failed, _STAY),
        Unwant: (_C._unwant_idle, _STAY),
        Stop: (_C._stop_rest, frozenset({_S.IDLE})),
        OwnState: (_C._stray, _STAY),
        OwnNull: (_C._late_null, _STAY),
        GuildHere: (_C._stray, _STAY),
        Reap: (_C._reap, frozenset({_S.ORPHAN})),
        Tick: (_C._failed_tick, frozenset({_S.IDLE})),
    },
}

TRANSITIONS: Mapping[tuple[State, type], tuple[Handler, frozenset[State]]] = {
    (state, event): row  # type: ignore[misc]
    for state, rows in _ROWS.items()
    for event, row in rows.items()
}
"""(state, input) to (what is done, the states it may lead to). An input without a row is dropped and counted."""
