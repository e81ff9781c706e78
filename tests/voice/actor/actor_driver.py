"""Discord's side of one guild, and the driver's part of its actor, played by hand in virtual time."""

from __future__ import annotations

from collections import Counter, deque

from roost.audio import Timing
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.journal import Claim, session_hash
from roost_voice.moves import Priority, Stage, State, Told
from roost_voice.op4 import Op4Queue
from roost_voice.reaper import Verdict, judge

GUILD = 1
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
        self.owed: list[moves.Input] = []
        """News that come later than all others."""
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
        self.set(channel, told=fate != "state late")
        if fate == "state late":
            self.owed.append(moves.OwnState(channel, self.session_id(self.gateway)))
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


class Driver:
    """Carries out what the actor decides, and complains about what it never may."""

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
        self.core = ActorCore(GUILD, self.timing, exclusive=self.exclusive)
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
            in_dead_journal=self.dead is not None,
            exclusive=self.exclusive,
            asked=asked is not None and asked[0] == action.channel_id and self.now < asked[1],
        )
        if verdict is Verdict.GHOST:
            self.discord.events.appendleft(moves.Reap(action.channel_id, action.session_id))
        else:
            self.left_alone = True
