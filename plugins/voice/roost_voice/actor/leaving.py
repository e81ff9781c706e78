"""LEAVING: drain, close the link, send op 4 null, have it confirmed."""

from __future__ import annotations

from roost_voice.actor.base import AWAY
from roost_voice.actor.orphan import TAKEN, Orphaned
from roost_voice.moves import (
    CancelOpening,
    ChannelGone,
    Closed,
    Disconnected,
    Drain,
    Drained,
    GatewayReady,
    GatewayResumed,
    GuildGone,
    GuildHere,
    JournalRemove,
    LinkGone,
    Op4Sent,
    OwnNull,
    OwnState,
    Phase,
    Presence,
    Priority,
    RestAnswer,
    Stage,
    State,
    Stop,
    Taken,
    Tell,
    Tick,
    Told,
    Unwant,
    Want,
)

KICKED = "I was disconnected from the channel"
CHANNEL_GONE = "the channel was deleted"
REMOVED = "the bot was removed from the server"


class Leaving(Orphaned):
    """The way out, and the detour of a rejoin."""

    def _leave(
        self,
        reason: str,
        now: float,
        *,
        end: bool = True,
        cooldown_s: float = 0.0,
        told: Told = Told.FAILED,
        ask_first: bool = False,
    ) -> None:
        """Go to LEAVING. With `end` the session ends and the wish with it; else this makes room for a rejoin.

        Args:
            ask_first: We are probably out already: ask REST before the leave, which would bring no answer.
        """
        self._drop_op4()
        self._ask_first = ask_first
        self._silent_since = None
        if end:
            self._cooldown_s = cooldown_s
            self._failure = reason.rstrip(".")
            if cooldown_s > 0:
                reason = f"{self._failure}; try again in {max(1, round(cooldown_s))} s"
            self._give_up_wish(reason, told)
            self._begin_end(reason)
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
        if self.maybe_in and self._ask_first and not self.stopping:
            self._ask_in_leaving(now)
            return
        if self.maybe_in:
            self._ask_first = False
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

    def _leaving_null(self, event: OwnNull, now: float) -> None:
        if self.unacked_nulls:
            self.unacked_nulls -= 1
        elif event.session_id != self._session_id or self._joins_unseen:
            # An older stay's, while nothing of this one has been seen yet, says nothing about this one.
            return
        self.maybe_in = False
        self.server_channel = None
        if self.phase in (Phase.NULL, Phase.ACK, Phase.ASK):
            self._drop_op4()
            self._leave_step(now)

    def _leaving_state(self, event: OwnState, now: float) -> None:
        self.server_channel = event.channel_id
        self.maybe_in = True

    def _leaving_taken(self, event: Taken, now: float) -> None:
        """A leave would end the session of the other software."""
        self._give_up_wish(TAKEN, Told.FAILED)
        self._begin_end(TAKEN)
        self._drop_op4()
        self.maybe_in = False
        self.server_channel = None
        if self.phase in (Phase.NULL, Phase.ACK, Phase.ASK):
            self._leave_step(now)

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
        silent, self._silent_since = self._silent_since, None
        if self._rejoining and event.presence is Presence.UNKNOWN:
            self._silent_since = now if silent is None else silent
            return
        if self._rejoining and event.presence is Presence.IN and silent is not None:
            # The null may still lie in a buffer of the network: this one comes after it.
            self._leave_step(now)
            return
        if event.presence is Presence.OUT:
            self.unacked_nulls = 0
            self.maybe_in = False
            self._leave_step(now)
        elif self._ask_first:
            self._ask_first = False
            self._leave_step(now)
        else:
            self.unacked_nulls = 0
            self._leave_unconfirmed(now)

    def _leaving_gone(self, event: GuildGone, now: float) -> None:
        self._drop_op4()
        self._give_up_wish("I am no longer in this server", Told.FAILED)
        self._begin_end(REMOVED)
        self.maybe_in = False
        self.server_channel = None
        if self.phase in (Phase.NULL, Phase.ACK, Phase.ASK):
            self._leave_step(now)

    def _leaving_channel_gone(self, event: ChannelGone, now: float) -> None:
        """What looked like a kick was the end of the channel: Discord tells of both, in either order."""
        if self._end and self._end_reason == KICKED and event.channel_id == self._failing_channel:
            self._end_reason = CHANNEL_GONE
            self._failing = [(ticket, told, CHANNEL_GONE) for ticket, told, _reason in self._failing]

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
        if event.channel_id is None and self._asked_in:
            return
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
        elif self._rejoining:
            self._ask_again(now)
        elif self._ask_first:
            self._ask_first = False
            self._leave_step(now)
        else:
            self.unacked_nulls = 0
            self._leave_unconfirmed(now)

    @property
    def _rejoining(self) -> bool:
        """A session that stands is on its way back."""
        return not self._end and self.wish is not None and self.stage is Stage.OPEN

    def _ask_again(self, now: float) -> None:
        """Nobody answers, so nobody would hear an op 4: wait for REST, which does not count as a try."""
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since < AWAY * self._timing.reap_give_up_s:
            self._ask_in_leaving(now)
        else:
            self._leave("Discord could not be reached", now)

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
            self._relying = None
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
        self._forget_session()
        self._joins_unseen.clear()
        self._server = None
        self._next(now, cooldown=ended)

    def _want_leaving(self, event: Want, now: float) -> None:
        if not self._end and self.stage is Stage.OPEN and self.wish is not None:
            same = event.wish.channel_id == self.wish.channel_id
            if not same and not event.may_move:
                self._emit(Tell(event.ticket, Told.BUSY, self.wish.channel_id))
                return
        self._take_wish(event)
        self._cooldown_s = 0.0

    def _unwant_leaving(self, event: Unwant, now: float) -> None:
        if event.ticket:
            self._leavers.append(event.ticket)
        self._requester = event.user_id or self._requester
        self._give_up_wish(event.reason, Told.REFUSED)
        self._begin_end(event.reason)

    def _stop_leaving(self, event: Stop, now: float) -> None:
        self._give_up_wish(event.reason, Told.FAILED)
        self._begin_end(event.reason)
