"""One input in, actions out; and the table of what may follow what."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from roost_voice.actor.linking import Linking
from roost_voice.moves import (
    Abandon,
    Action,
    ChannelGone,
    Drained,
    GatewayDown,
    GatewayReady,
    GatewayResumed,
    GuildGone,
    GuildHere,
    Input,
    LinkGone,
    LinkLive,
    Op4Sent,
    OpeningDone,
    OwnNull,
    OwnState,
    Reap,
    RestAnswer,
    Server,
    ServerNull,
    Stage,
    State,
    Stop,
    Stray,
    Taken,
    Tell,
    Tick,
    Told,
    Unwant,
    Want,
)

CANCELLED = "the request was cancelled"


class ActorCore(Linking):
    """One guild's decisions.

    Args:
        guild_id: For messages only.
        timing: Every delay.
        drain_s: How long the closing hooks may take while still connected.
        opening_s: How long the opening hooks may take.
        follow_moves: Stay in a session that a moderator moves; otherwise leave.
        exclusive: No foreign software uses the token. Otherwise a voice session that is not ours is left alone.
    """

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input; give the actions to carry out in order."""
        self._out = []
        if self._is_foreign(event):
            event = Taken()
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

    def _is_foreign(self, event: Input) -> bool:
        """Whether Discord shows a voice session of foreign software in our place."""
        if self._exclusive or self.at_rest or self.state is State.FAILED:
            return False
        match event:
            case OwnState(channel_id=channel_id, session_id=str() as session_id):
                pass
            case GuildHere(channel_id=int() as channel_id, session_id=str() as session_id):
                pass
            case RestAnswer(ask=ask, channel_id=int() as channel_id, session_id=str() as session_id):
                if ask != self._ask:
                    return False
            case _:
                return False
        if not self._own_is_known or channel_id in self._joins_unseen:
            # What Discord shows may be the answer to a join, or a ghost of ours.
            return False
        return session_id not in self._own_session_ids

    def _note_gateway(self, event: Input) -> None:
        if isinstance(event, GatewayDown):
            self.gateway_up = False
        elif isinstance(event, GatewayReady | GatewayResumed):
            self.gateway_up = True
            if isinstance(event, GatewayReady):
                self.unacked_nulls = 0
                self._asked_in = False
                # What came of an unanswered join is of a voice session that nothing has named.
                self._own_is_known = self._own_is_known and not self._joins_unseen
                self._joins_unseen.clear()
        elif isinstance(event, GuildHere):
            self.unacked_nulls = 0
            if event.channel_id is not None and self.wish is not None:
                # Whosever it is: leaving must make sure of it.
                self.maybe_in = self._in_before_op4 = True
        elif isinstance(event, OwnState):
            # Even if the op 4 that is still queued is withdrawn now, an earlier one has let us in.
            self.maybe_in = self._in_before_op4 = True
            if event.channel_id in self._joins_unseen:
                while self._joins_unseen.popleft() != event.channel_id:
                    pass
        elif isinstance(event, Op4Sent) and event.channel_id is not None:
            self._asked_in = True
            self._joins_unseen.append(event.channel_id)
        elif isinstance(event, Op4Sent) and event.ticket != self._null_ticket:
            self._null_ticket = event.ticket
            self.unacked_nulls += 1
        elif isinstance(event, Stop):
            self.stopping = True
            self._requester = 0

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

    def _want_idle(self, event: Want, now: float) -> None:
        self._take_wish(event)
        self._fresh_attempts(now)
        if self.unacked_nulls:
            self._set_state(State.LEAVING)
            self._ask_in_leaving(now)
        else:
            self._signal(now)

    def _want_active(self, event: Want, now: float) -> None:
        """A wish while another is being carried out."""
        assert self.wish is not None
        if event.wish.channel_id == self.wish.channel_id:
            if self.state is State.LIVE and self.stage is Stage.OPEN:
                self._relying = 0
                self._emit(Tell(event.ticket, Told.ALREADY, self.wish.channel_id))
            else:
                self._tickets[event.ticket] = event.wish.channel_id
            return
        if self.stage is Stage.OPEN and not event.may_move:
            self._emit(Tell(event.ticket, Told.BUSY, self.wish.channel_id))
            return
        self._take_wish(event)
        self._fresh_attempts(now)
        if self.state is not State.SUSPENDED:
            self._signal(now)

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
        self._requester = event.user_id or self._requester
        self._leave(event.reason, now, told=Told.REFUSED)

    def _abandon(self, event: Abandon, now: float) -> None:
        self._tickets.pop(event.ticket, None)
        if self._superseded.pop(event.ticket, None) is not None:
            return
        self._failing = [entry for entry in self._failing if entry[0] != event.ticket]
        if event.ticket in self._leavers:
            self._leavers.remove(event.ticket)
            return
        if self._tickets or self.wish is None:
            return
        if self.stage is Stage.OPEN and self._relying not in (None, event.ticket):
            return
        if self.state is State.LEAVING:
            self._give_up_wish(CANCELLED, Told.FAILED)
            self._begin_end(CANCELLED)
        elif self.state is State.ORPHAN:
            channel_id, self.wish = self.wish.channel_id, None
            self._tell_all(Told.FAILED, channel_id, CANCELLED)
        else:
            self._leave(CANCELLED, now)

    def _stop_rest(self, event: Stop, now: float) -> None:
        self.deadline = None
        self._set_state(State.IDLE)

    def _stop_active(self, event: Stop, now: float) -> None:
        self._leave(event.reason, now)

    def _late_null(self, event: OwnNull, now: float) -> None:
        self.unacked_nulls = max(0, self.unacked_nulls - 1)

    def _failed_tick(self, event: Tick, now: float) -> None:
        self.deadline = None
        self._set_state(State.IDLE)

    def _stray(self, event: OwnState | GuildHere, now: float) -> None:
        if event.channel_id is not None and not self.stopping:
            self._emit(Stray(event.channel_id, event.session_id or ""))


Handler = Callable[[ActorCore, object, float], None]
_C = ActorCore
_S = State
_OUT = frozenset({_S.LEAVING, _S.IDLE, _S.FAILED, _S.SIGNALLING, _S.ORPHAN})
"""Where the end of a stay can lead at once, when nothing has to be waited for."""
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
    Taken: (_C._taken, _OUT),
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
        GatewayDown: (_C._signalling_down, _STAY),
        GatewayResumed: (_C._signalling_resumed, _STAY),
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
        LinkGone: (_C._await_link_gone, _OUT),
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
        ChannelGone: (_C._leaving_channel_gone, _STAY),
        GatewayReady: (_C._leaving_ready, _STAY),
        GatewayResumed: (_C._leaving_resumed, _OUT),
        Op4Sent: (_C._leaving_sent, _STAY),
        LinkGone: (_C._leaving_link_gone, _OUT),
        Drained: (_C._leaving_drained, _OUT),
        OpeningDone: (_C._leaving_opening, _STAY),
        Reap: (_C._ghost_seen, _STAY),
        Taken: (_C._leaving_taken, _OUT),
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
        GuildGone: (_C._orphan_gone, _OUT),
        Taken: (_C._orphan_taken, _OUT),
        GatewayReady: (_C._orphan_ready, _STAY),
        GatewayResumed: (_C._orphan_again, _STAY),
        Op4Sent: (_C._orphan_sent, _STAY),
        RestAnswer: (_C._orphan_rest, _OUT),
        Tick: (_C._orphan_tick, _OUT),
    },
    _S.SUSPENDED: {
        **_ACTIVE,
        OwnState: (_C._suspended_state, _OUT | {_S.AWAIT_SERVER}),
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
