"""What all of an actor's decisions share: its state, and the steps that several of them take."""

from __future__ import annotations

from collections import Counter, deque

from roost.audio import Timing
from roost_voice.moves import (
    Action,
    AskRest,
    CloseLink,
    DropOp4,
    Interrupted,
    JournalWrite,
    Phase,
    Priority,
    Rung,
    SendOp4,
    Stage,
    State,
    Tell,
    Told,
    Want,
    Wish,
)
from roost_voice.protocol.close_codes import policy

AWAY = 4
"""How many times `Timing.reap_give_up_s` a session outlives the main gateway, or the whole network."""


class Base:
    """The state of one guild's actor; see `roost_voice.actor.ActorCore`."""

    def __init__(
        self,
        guild_id: int,
        timing: Timing,
        *,
        drain_s: float = 2.5,
        opening_s: float = 30.0,
        follow_moves: bool = True,
        exclusive: bool = True,
    ) -> None:
        self.guild_id = guild_id
        self._exclusive = exclusive
        self._timing = timing
        self._drain_s = drain_s
        self._opening_s = opening_s
        self.follow_moves = follow_moves
        self._led_away = False
        """Somebody moved us since plugins were last told where we are."""

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
        self._own_session_ids: set[str] = set()
        """Ours since the link was last live: each session of the main gateway has another one."""
        self._own_is_known = False
        """A link was live with one of them, so no other voice session is ours."""
        self._seen_state = False
        self._server: tuple[str, str] | None = None
        self._server_renewed = False
        """Another server took the place of one since we signalled or were last live: perhaps that of a move."""
        self._link_closing = False
        self._link_channel: int | None = None
        self._closing_old = False
        self._tickets: dict[int, int] = {}
        """Those who wait for the wish, and the channel each asked for."""
        self._superseded: dict[int, int] = {}
        """Those whose channel a later wish took the place of: they hear where that one led, and no earlier."""
        self._relying: int | None = None
        """The one who was told that the session stands; 0 when there are several, None when nobody was told yet."""
        self._forgotten = False
        """In AWAIT_SERVER: Discord says that we are out, and nothing has said why."""
        self._leavers: list[int] = []
        self._requester = 0
        """The user who asked last for a join or a leave; what follows from it is sent in their share. 0 at a stop."""
        self._failing: list[tuple[int, Told, str]] = []
        self._failing_channel = 0
        self._attempts: deque[float] = deque()
        self._code_attempts: dict[int, deque[float]] = {}
        """Fresh joins made for a close code, by code; see `Decision.tries`."""
        self._op4_ticket = 0
        self._null_ticket = 0
        self._op4_pending = False
        self._asked_in = False
        """A join went out in this gateway session: a GUILD_CREATE without us may be older than what came of it."""
        self._joins_unseen: deque[int] = deque(maxlen=8)
        """The channels of joins that went out and have brought no voice state yet."""
        self._in_before_op4 = False
        self._ask = 0
        self._silent_since: float | None = None
        """Since when neither Discord's gateway nor REST has answered: the network may be down."""
        self._serial = 0
        self._interrupted = False
        self._live_channel: int | None = None
        self._end = False
        self._ask_first = False
        """Before the leave is sent, REST is asked whether there is anything to leave."""
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
        self._emit(SendOp4(self._op4_ticket, channel_id, priority, hidden, self._requester))

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
        live = told in (Told.JOINED, Told.MOVED)
        if live and (hear := [*self._tickets, *self._superseded]):
            self._relying = hear[0] if len(hear) == 1 and self._relying is None else 0
        self._tickets.clear()
        for ticket, asked in self._superseded.items():
            if live:
                if asked == channel_id:
                    self._emit(Tell(ticket, told, channel_id))
                else:
                    why = "a moderator moved me" if self._led_away else "a later request won"
                    self._emit(Tell(ticket, Told.SUPERSEDED, channel_id, why))
            else:
                self._emit(Tell(ticket, told, channel_id, _superseded_reason(told, channel_id, reason)))
        self._superseded.clear()

    def _supersede(self) -> None:
        """Whoever waits now will hear where the later wish, or the moderator's move, led."""
        self._superseded |= self._tickets
        self._tickets.clear()

    def _forget_session(self) -> None:
        """Out of voice: what Discord shows next is no voice session of ours."""
        self._session_id = None
        self._own_session_ids.clear()
        self._own_is_known = False

    def _learn_session(self, session_id: str) -> None:
        self._session_id = session_id
        self._own_session_ids.add(session_id)

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

    def _attempt_for(self, code: int | None, now: float) -> bool:
        """Count a fresh join for a close code; False when the code has had its share of them."""
        decision = policy(code)
        if code is None or decision.tries is None:
            return True
        window_s = decision.tries_window_s * self._timing.scale
        made = self._code_attempts.setdefault(code, deque())
        while made and made[0] <= now - window_s:
            made.popleft()
        if len(made) >= decision.tries:
            return False
        made.append(now)
        return True

    def _fresh_attempts(self, now: float) -> None:
        """Somebody asked: what failed before does not count against it."""
        self._attempts.clear()
        self._code_attempts.clear()
        self._attempt(now)

    def _interrupt(self, reason: str) -> None:
        if self.stage is Stage.OPEN and not self._interrupted:
            self._interrupted = True
            self._emit(Interrupted(reason))

    def _signal(self, now: float) -> None:
        assert self.wish is not None
        self._set_state(State.SIGNALLING)
        self._server = None
        self._server_renewed = False
        self._seen_state = False
        self._send_op4(self.wish.channel_id, Priority.MOVE if self.stage is Stage.OPEN else Priority.JOIN)
        self.deadline = now + self._timing.op4_window_s

    def _close_link(self) -> None:
        if self.link is not None and not self._link_closing:
            self._link_closing = True
            self.link_live = False
            self._emit(CloseLink(self.link))

    def _forget_link(self) -> None:
        """The link is gone, or has had its time to go: what it still says is stale."""
        self.link, self.link_live, self._link_closing = None, False, False

    def _follow(self, channel_id: int) -> None:
        assert self.wish is not None
        self.wish = Wish(channel_id, self.wish.user_id, self.wish.text_channel_id)

    def _take_wish(self, event: Want) -> None:
        if self.wish is not None and self.wish.channel_id != event.wish.channel_id:
            self._supersede()
            self._led_away = False
        self.wish = event.wish
        self._requester = event.wish.user_id
        for ticket in [each for each, channel in self._superseded.items() if channel == event.wish.channel_id]:
            self._tickets[ticket] = self._superseded.pop(ticket)
        self._tickets[event.ticket] = event.wish.channel_id

    def _give_up_wish(self, reason: str, told: Told) -> None:
        channel_id = self.wish.channel_id if self.wish else 0
        self.wish = None
        for ticket in self._tickets:
            self._failing.append((ticket, told, reason))
        self._tickets.clear()
        for ticket in self._superseded:
            self._failing.append((ticket, told, _superseded_reason(told, channel_id, reason)))
        self._superseded.clear()
        self._failing_channel = channel_id

    def _begin_end(self, reason: str) -> None:
        if not self._end:
            self._end = True
            self._end_reason = reason

    def _ask_in_leaving(self, now: float) -> None:
        self.phase = Phase.ASK
        self._ask_rest()
        self.deadline = now + self._timing.leave_ack_s

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


def _superseded_reason(told: Told, channel_id: int, reason: str) -> str:
    """Why somebody whose wish had to give way is nowhere either."""
    later = f"a later request, for <#{channel_id}>," if channel_id else "a later request"
    return f"{later} won, {'but failed' if told is Told.FAILED else 'but was ended'}: {reason}"
