"""From the first op 4 to a live link, and what Discord does to it."""

from __future__ import annotations

from roost.audio import LinkEnd, Retry
from roost_voice.actor.base import AWAY
from roost_voice.actor.leaving import CHANNEL_GONE, KICKED, Leaving
from roost_voice.actor.orphan import TAKEN
from roost_voice.moves import (
    ChannelGone,
    GatewayDown,
    GatewayReady,
    GatewayResumed,
    GuildGone,
    GuildHere,
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
    Presence,
    RestAnswer,
    Restored,
    Server,
    ServerNull,
    Stage,
    StartOpening,
    State,
    Taken,
    Tick,
    Told,
)

FORGOTTEN = "Discord forgot me"
NO_ANSWER = "Discord did not answer in time; try again"


class Linking(Leaving):
    """SIGNALLING, CONNECTING, LIVE, AWAIT_SERVER and SUSPENDED."""

    def _trip(self, now: float, why: str = "") -> None:
        reason = f"voice kept failing: {why}" if why else "voice kept failing"
        self._leave(reason, now, cooldown_s=self._timing.failed_cooldown_s)

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

    def _reopen(self, now: float) -> None:
        """Open a link with the server we know, closing the one we have first."""
        if not self._attempt(now):
            self._trip(now)
            return
        self._seen_state = True
        self._connect_if_known(now)

    def _await_server(self, seconds: float, now: float, *, forgotten: bool = False) -> None:
        self._set_state(State.AWAIT_SERVER)
        self._forgotten = forgotten
        self.deadline = now + seconds

    def _rejoin(self, reason: str, now: float) -> None:
        """The link is gone, the wish stands: get fresh credentials.

        An op 4 that changes nothing brings no answer, so a voice state that still stands is given up first.
        """
        self._interrupt(reason)
        if not self.gateway_up:
            self._suspend(AWAY * self._timing.reap_give_up_s, now)
        elif not self._attempt(now):
            self._trip(now, reason)
        elif self.maybe_in:
            # Foreign software may have taken our place and so ended the link: the leave would be its end.
            self._leave(reason, now, end=False, ask_first=not self._exclusive)
        else:
            self._signal(now)

    def _suspend(self, seconds: float, now: float) -> None:
        self._drop_op4()
        self._close_link()
        self._set_state(State.SUSPENDED)
        self._server = None
        self._seen_state = False
        self.deadline = now + seconds

    def _link_lost(self, end: LinkEnd | None, detail: str, now: float, barred: str = "") -> None:
        retry = end.retry if end else Retry.REJOIN
        if self.stage is Stage.NONE and (end is None or end.code is None) and retry is not Retry.AWAIT_SERVER:
            # The server never answered. Somebody waits for the join, and the driver has tried more than once.
            retry = Retry.STOP
        reason = end.reason if end else (detail or "the voice server could not be reached")
        if retry is Retry.STOP:
            self._leave(reason, now, cooldown_s=end.cooldown_s * self._timing.scale if end else 0.0)
        elif retry is Retry.AWAIT_SERVER:
            self._interrupt(reason)
            if self.gateway_up:
                self._await_server(self._timing.await_server_s, now)
            else:
                self._suspend(AWAY * self._timing.reap_give_up_s, now)
        elif barred and self.wish is not None and self.wish.channel_id == self._link_channel:
            # Discord would ignore the op 4 of a rejoin.
            self._leave(barred, now)
        elif retry is Retry.REJOIN and end is not None and not self._attempt_for(end.code, now):
            self._leave(reason, now, cooldown_s=self._timing.failed_cooldown_s)
        else:
            self._rejoin(reason, now)

    def _signalling_state(self, event: OwnState, now: float) -> None:
        assert self.wish is not None
        self.server_channel = event.channel_id
        if event.channel_id == self.wish.channel_id:
            self._seen_state = True
            self._learn_session(event.session_id)
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
        asked = sent and self.gateway_up
        reason = NO_ANSWER if asked else "Discord's gateway is busy or down; try again in a minute"
        if self.link_live and self.stage is Stage.OPEN and self._link_channel is not None and not self._seen_state:
            # A move that Discord ignored: the session goes on where it is.
            self._drop_op4()
            self._tell_all(Told.FAILED, self.wish.channel_id, reason)
            self._follow(self._link_channel)
            self._set_state(State.LIVE)
            self.deadline = None
        elif self.stage is Stage.OPEN and not self._tickets and (sent or not self.gateway_up):
            self._rejoin("Discord did not answer", now)
        else:
            self._leave(reason, now)

    def _signalling_down(self, event: GatewayDown, now: float) -> None:
        """The answer, or the request itself, waits for the gateway."""
        self.deadline = now + self._timing.op4_window_s

    def _signalling_resumed(self, event: GatewayResumed, now: float) -> None:
        """What Discord answered meanwhile has been replayed: if that was nothing, the request was lost."""
        if self._op4_pending:
            return
        if self._seen_state or self._server is not None:
            self.deadline = now + self._timing.signalling_s
        else:
            self._signal(now)

    def _link_gone_early(self, event: LinkGone, now: float) -> None:
        """A link that no longer matters has ended."""
        self._forget_link()

    def _kicked(self, now: float, reason: str = KICKED) -> None:
        # A join that is still unanswered may come true after whatever ended the stay before it.
        self.maybe_in = bool(self._joins_unseen)
        self.server_channel = None
        self._leave(reason, now)

    def _taken(self, event: Taken, now: float) -> None:
        """Discord ended our stay for the one of the other software, which a leave would end."""
        self._drop_op4()
        self.maybe_in = bool(self._joins_unseen)
        self.server_channel = None
        self._leave(TAKEN, now)

    def _moved_by_others(self, channel_id: int, now: float) -> None:
        assert self.wish is not None
        if not self.follow_moves:
            self._leave("I was moved to another channel", now)
            return
        self._led_away = True
        self._supersede()
        self._follow(channel_id)
        self._interrupt("moved to another channel")
        if self.state is State.CONNECTING and not self.link_live and self._server_renewed:
            # The server came before the voice state: it is the new channel's.
            self._server_renewed = False
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
        self._server_renewed = True
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
        if self._session_id is not None:
            self._own_session_ids = {self._session_id}
            self._own_is_known = True
        self._server_renewed = False
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
            self._emit(Moved(old, channel_id, by_request=not self._led_away))
        if self._interrupted:
            self._interrupted = False
            self._emit(Restored("connected again"))
        self._tell_all(Told.MOVED if moved else Told.JOINED, channel_id)
        self._led_away = False

    def _connecting_link_gone(self, event: LinkGone, now: float) -> None:
        self._forget_link()
        if self._closing_old:
            self._open_link(now)
        else:
            self._link_lost(event.end, event.detail, now, event.barred)

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
            # Forgotten in an outage, or disconnected by somebody: then the link or a voice state is about to say so.
            self.maybe_in = False
            self._interrupt(FORGOTTEN)
            self._await_server(self._timing.await_server_s, now, forgotten=True)

    def _live_link_gone(self, event: LinkGone, now: float) -> None:
        self._forget_link()
        self._link_lost(event.end, event.detail, now, event.barred)

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
            self._led_away = False
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
            self._learn_session(event.session_id)
        elif self._ours(event.session_id):
            self._seen_state = True
            self._learn_session(event.session_id)
            self._moved_by_others(event.channel_id, now)

    def _await_new_server(self, event: Server, now: float) -> None:
        self._server = (event.token, event.address)
        # After a move it is the new channel's; else it may yet prove to be that of a move.
        self._server_renewed = not self._led_away
        if self._session_id is None or not self._seen_state:
            self._set_state(State.SIGNALLING)
            self.deadline = now + self._timing.signalling_s
        else:
            self._reopen(now)

    def _await_server_null(self, event: ServerNull, now: float) -> None:
        self._server = None
        self._close_link()
        self.deadline = now + self._timing.await_server_null_s

    def _await_link_gone(self, event: LinkGone, now: float) -> None:
        self._forget_link()
        if self._forgotten and event.end is not None and event.end.retry is Retry.AWAIT_SERVER:
            self._kicked(now)

    def _await_tick(self, event: Tick, now: float) -> None:
        if self._forgotten:
            self._close_link()
            self._rejoin(FORGOTTEN, now)
        elif self.link is not None and self._server is not None:
            # Moved, but neither a new server nor the end of the old link came: they may be the same.
            self._reopen(now)
        elif self._server is None:
            self._leave("Discord offered no voice server", now)
        else:
            self._leave("I was disconnected", now, ask_first=True)

    def _channel_gone(self, event: ChannelGone, now: float) -> None:
        if self.wish is not None and event.channel_id == self.wish.channel_id:
            self._leave(CHANNEL_GONE, now)

    def _guild_gone(self, event: GuildGone, now: float) -> None:
        self._joins_unseen.clear()
        self._kicked(now, "the bot was removed from the server")

    def _gateway_new(self, event: GatewayReady, now: float) -> None:
        self._interrupt("Discord's gateway started a new session")
        self._session_id = None
        self._suspend(self._timing.await_server_null_s, now)

    def _gateway_down(self, event: GatewayDown, now: float) -> None:
        """A link does not need the main gateway; a new server would come through it."""
        if self.state is State.AWAIT_SERVER and self.link is None:
            self._suspend(AWAY * self._timing.reap_give_up_s, now)

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

    def _suspended_state(self, event: OwnState, now: float) -> None:
        """Replayed by a resume it may tell of a move, whose new server follows."""
        assert self.wish is not None
        self.server_channel = event.channel_id
        if event.session_id == self._session_id and event.channel_id != self.wish.channel_id:
            self._seen_state = True
            self._moved_by_others(event.channel_id, now)

    def _suspended_null(self, event: OwnNull, now: float) -> None:
        """Replayed by a resume it tells of a kick; after a new session it is about the old one."""
        self.server_channel = None
        if self.unacked_nulls:
            self.unacked_nulls -= 1
        elif self._session_id is not None and self._session_id == event.session_id:
            self._kicked(now)
