"""ORPHAN: a voice state that nobody wants, ours or a ghost's, until it is gone."""

from __future__ import annotations

from roost_voice.actor.base import Base
from roost_voice.moves import (
    Disconnected,
    GatewayReady,
    GatewayResumed,
    GuildGone,
    GuildHere,
    JournalRemove,
    JournalWrite,
    Op4Sent,
    OwnNull,
    OwnState,
    Presence,
    Priority,
    Reap,
    Reaped,
    RestAnswer,
    Rung,
    State,
    Stop,
    Taken,
    Tell,
    Tick,
    Told,
    Unwant,
    Want,
)

TAKEN = "other software that runs this bot took my place"


class Orphaned(Base):
    """Ask nicely, claim and drop, kick ourselves; then again. Until Discord shows us nowhere."""

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

    def _orphan_out(self, event: OwnNull, now: float) -> None:
        if self.unacked_nulls:
            self.unacked_nulls -= 1
            self._orphan_done(now)
        elif event.session_id == self._session_id and not self._joins_unseen:
            self._orphan_done(now)
        else:
            # Perhaps the ghost has run out, perhaps it is an older stay's.
            self._orphan_ask(now)

    def _orphan_taken(self, _event: Taken, now: float) -> None:
        if self.wish is not None:
            channel_id, self.wish = self.wish.channel_id, None
            self._tell_all(Told.FAILED, channel_id, TAKEN)
        self._orphan_done(now)

    def _orphan_gone(self, _event: GuildGone, now: float) -> None:
        self.wish = None
        self._tell_all(Told.FAILED, 0, "I am no longer in this server")
        self._orphan_done(now)

    def _orphan_done(self, now: float, *, confirmed: bool = True) -> None:
        self._drop_op4()
        if self._ghost_channel is not None:
            self._emit(Reaped(self._ghost_channel, now - self._orphan_since, confirmed))
            self._ghost_channel = None
        self._emit(JournalRemove())
        self.maybe_in = False
        self.server_channel = None
        self._forget_session()
        self._joins_unseen.clear()
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
        if event.channel_id is None and self._asked_in:
            self._orphan_ask(now)
        elif event.channel_id is None:
            self._orphan_done(now)
        else:
            self.server_channel = event.channel_id
            self._orphan_null(now, ladder=0)

    def _reap(self, event: Reap, now: float) -> None:
        if self.stopping:
            return
        self._set_state(State.ORPHAN)
        self._ghost_channel = event.channel_id
        self._requester = 0
        self._claimed = False
        self.server_channel = event.channel_id
        self.maybe_in = True
        self._orphan_since = now
        self._orphan_pass = 0
        self._retry_index = 0
        # A crash before it is gone must not make it nobody's.
        self._emit(JournalWrite(event.channel_id, event.session_id or None))
        self._orphan_null(now, ladder=0)

    def _ghost_seen(self, event: Reap, now: float) -> None:
        """A ghost, while something is wanted here: the op 4 takes its place, and leaving must make sure of it."""
        self.server_channel = event.channel_id
        self.maybe_in = self._in_before_op4 = True

    def _want_orphan(self, event: Want, now: float) -> None:
        self._take_wish(event)
        self._fresh_attempts(now)
        self._orphan_pass = 0
        if self.rung is Rung.WAIT:
            self._orphan_ask(now)

    def _unwant_orphan(self, event: Unwant, now: float) -> None:
        if event.ticket:
            self._emit(Tell(event.ticket, Told.UNCONFIRMED, 0))
        self.wish = None
        self._tell_all(Told.REFUSED, 0, event.reason)

    def _stop_orphan(self, event: Stop, now: float) -> None:
        self._drop_op4()
        self.wish = None
        self._tell_all(Told.FAILED, 0, event.reason)
        self.deadline = None
        self._emit(Disconnected(False))
        self._set_state(State.IDLE)
