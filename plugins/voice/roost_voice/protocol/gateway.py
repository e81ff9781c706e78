"""The voice gateway's client as a state machine: frames and a clock in, events and frames out.

It owns the handshake, heartbeats, the acknowledged sequence number and the resume. Sockets are the driver's:
`OpenSocket` asks for one, and everything the driver feeds in comes from the newest.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from roost.audio import Credentials, LinkEnd, Retry, Timing

from . import messages
from .aead import choose_mode
from .close_codes import policy
from .opcodes import DAVE_BINARY_OPS, DAVE_TEXT_OPS, IGNORED_OPS, MODES, Op


class GatewayState(enum.Enum):
    """Where the connection to the voice gateway stands."""

    IDLE = "idle"
    OPENING = "opening"
    HELLO = "hello"
    READY = "ready"
    DISCOVERY = "discovery"
    SELECT = "select"
    LIVE = "live"
    RESUME_OPENING = "resume_opening"
    RESUME_HELLO = "resume_hello"
    RESUMING = "resuming"
    ENDED = "ended"


class Trigger(enum.Enum):
    """What moves it on."""

    STARTED = "started"
    OPENED = "opened"
    OPEN_FAILED = "open_failed"
    GOT_HELLO = "got_hello"
    GOT_READY = "got_ready"
    DISCOVERED = "discovered"
    DESCRIBED = "described"
    LOST = "lost"
    RESUMED = "resumed"


TRANSITIONS: dict[tuple[GatewayState, Trigger], GatewayState] = {
    (GatewayState.IDLE, Trigger.STARTED): GatewayState.OPENING,
    (GatewayState.OPENING, Trigger.OPENED): GatewayState.HELLO,
    (GatewayState.OPENING, Trigger.OPEN_FAILED): GatewayState.OPENING,
    (GatewayState.HELLO, Trigger.GOT_HELLO): GatewayState.READY,
    (GatewayState.READY, Trigger.GOT_READY): GatewayState.DISCOVERY,
    (GatewayState.DISCOVERY, Trigger.DISCOVERED): GatewayState.SELECT,
    (GatewayState.SELECT, Trigger.DESCRIBED): GatewayState.LIVE,
    (GatewayState.LIVE, Trigger.LOST): GatewayState.RESUME_OPENING,
    (GatewayState.RESUME_OPENING, Trigger.OPEN_FAILED): GatewayState.RESUME_OPENING,
    (GatewayState.RESUME_OPENING, Trigger.OPENED): GatewayState.RESUME_HELLO,
    (GatewayState.RESUME_HELLO, Trigger.GOT_HELLO): GatewayState.RESUMING,
    (GatewayState.RESUMING, Trigger.RESUMED): GatewayState.LIVE,
}
"""Every way on; a trigger without an entry is nonsense in that state. Any state may also end."""

_RESUME_STATES = frozenset({GatewayState.RESUME_OPENING, GatewayState.RESUME_HELLO, GatewayState.RESUMING})
_IDENTIFIED = frozenset(
    {
        GatewayState.READY,
        GatewayState.DISCOVERY,
        GatewayState.SELECT,
        GatewayState.LIVE,
        GatewayState.RESUMING,
    }
)
_WAITS_FOR = {
    GatewayState.HELLO: "did not say hello",
    GatewayState.READY: "did not accept the bot in time",
    GatewayState.DISCOVERY: "did not answer over UDP; is outgoing UDP blocked?",
    GatewayState.SELECT: "did not describe the session",
}
_RECENT = 64
_MAX_OUT = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class OpenSocket:
    """Close the socket in use, if any, and open a new one after `delay_s`."""

    delay_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class StateChanged:
    """For people and tests; the states of a resume are one."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class ReadyReceived:
    """Op 2: open UDP to this address, run discovery, then call `VoiceGateway.select`."""

    ssrc: int
    ip: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Described:
    """Op 4: the media keys."""

    mode: str
    key: bytes = dataclasses.field(repr=False)
    dave_version: int


@dataclasses.dataclass(frozen=True, slots=True)
class Resumed:
    """Op 9: the session goes on where it was."""


@dataclasses.dataclass(frozen=True, slots=True)
class SpeakingChanged:
    """Op 5: this user speaks on this ssrc."""

    user_id: int
    ssrc: int
    on: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StreamNamed:
    """Op 12: a client of this user sends its audio on this ssrc."""

    user_id: int
    ssrc: int


@dataclasses.dataclass(frozen=True, slots=True)
class MembersJoined:
    """Op 11."""

    user_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class MemberLeft:
    """Op 13: a client of this user has left; the message does not say which."""

    user_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class DaveText:
    """One of ops 21, 22, 24."""

    op: Op
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class DaveBinary:
    """One of ops 25, 27, 29, 30, without its opcode."""

    op: Op
    body: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class PacketDropped:
    """The server sent something that makes no sense here; it was ignored."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over and cannot be resumed."""

    end: LinkEnd


Event = (
    OpenSocket
    | StateChanged
    | ReadyReceived
    | Described
    | Resumed
    | SpeakingChanged
    | StreamNamed
    | MembersJoined
    | MemberLeft
    | DaveText
    | DaveBinary
    | PacketDropped
    | Ended
)


class VoiceGateway:
    """One connection to a voice gateway, over as many sockets as it takes to resume it.

    Every method takes the clock and returns the events it caused, in order; `out` collects frames to send.

    Args:
        cred: What Discord handed out.
        timing: The delays.
        max_dave_version: Highest version of the end-to-end encryption that we offer.
        modes: Transport encryption modes, best first.
    """

    def __init__(
        self, cred: Credentials, timing: Timing, *, max_dave_version: int, modes: Sequence[str] = MODES
    ) -> None:
        self._cred = cred
        self._timing = timing
        self._max_dave_version = max_dave_version
        self._modes = tuple(modes)
        self._mode = ""
        self._deadline: float | None = None
        self._open_tries = 0
        self._interval_s = timing.heartbeat_max_s
        self._beat_at: float | None = None
        self._beat_sent_at = 0.0
        self._outstanding: int | None = None
        self._missed = 0
        self._nonce = 0
        self._lost_at: deque[float] = deque()
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)
        self._events: list[Event] = []
        self.state = GatewayState.IDLE
        self.seq_ack = -1
        """The last sequence number seen, -1 before the first."""
        self.out: list[str | bytes] = []
        self.resumes = 0
        self.ping_s: float | None = None
        self.end: LinkEnd | None = None

    # -- sockets --------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Event]:
        """Ask for the first socket."""
        if self._move(Trigger.STARTED):
            self._ask_for_socket(0.0, now)
        return self._take()

    def opened(self, now: float) -> list[Event]:
        """The socket that was asked for is connected."""
        self.out.clear()
        if self._move(Trigger.OPENED) and self.state is GatewayState.HELLO:
            self._deadline = now + self._timing.hello_s
        return self._take()

    def open_failed(self, reason: str, now: float, *, retryable: bool = True) -> list[Event]:
        """The socket that was asked for could not be connected.

        Args:
            reason: One sentence for people.
            now: The clock, in seconds.
            retryable: False for what no second try can mend, such as a certificate.
        """
        self._open_failed(reason, now, retryable)
        return self._take()

    def closed(self, code: int | None, now: float) -> list[Event]:
        """The socket in use ended, by the server's close frame or without one (None)."""
        if self.state in (GatewayState.OPENING, GatewayState.RESUME_OPENING):
            self._open_failed(policy(code).reason, now, True)
        else:
            self._lost(code, now)
        return self._take()

    def select(self, address: str, port: int, now: float) -> list[Event]:
        """UDP works, and our address as the server sees it is known: select protocol and mode (op 1)."""
        if self._move(Trigger.DISCOVERED):
            self._deadline = now + self._timing.session_description_s
            data = {"address": address, "port": port, "mode": self._mode}
            self.send(Op.SELECT_PROTOCOL, {"protocol": "udp", "data": data})
        return self._take()

    def stop(self, end: LinkEnd) -> list[Event]:
        """End it from our side."""
        self._finish(end)
        return self._take()

    # -- frames ---------------------------------------------------------------------------------------------------

    def text(self, data: str, now: float) -> list[Event]:
        """A text frame came."""
        if self.end is not None:
            return []
        message = messages.parse_text(data)
        if isinstance(message, str):
            self._drop(message)
            return self._take()
        op, body, seq = message
        if seq is not None and self._seen(seq, hash(data)):
            self._drop("duplicate")
            return self._take()
        handler = _TEXT_HANDLERS.get(op)
        if handler is not None:
            handler(self, body, now)
        elif op in DAVE_TEXT_OPS:
            if self.state in _IDENTIFIED and isinstance(body, dict):
                self._events.append(DaveText(Op(op), body))
            else:
                self._drop("dave_text")
        elif op not in IGNORED_OPS:
            self._drop("unknown_op")
        return self._take()

    def binary(self, data: bytes, now: float) -> list[Event]:
        """A binary frame came."""
        if self.end is not None:
            return []
        message = messages.parse_binary(data)
        if isinstance(message, str):
            self._drop(message)
            return self._take()
        seq, op, body = message
        if self._seen(seq, hash(data)):
            self._drop("duplicate")
        elif op in DAVE_BINARY_OPS and self.state in _IDENTIFIED:
            self._events.append(DaveBinary(Op(op), body))
        else:
            self._drop("binary_op")
        return self._take()

    # -- time -----------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        if self._deadline is None or self._beat_at is None:
            return self._beat_at if self._deadline is None else self._deadline
        return min(self._deadline, self._beat_at)

    def handle_timer(self, now: float) -> list[Event]:
        """Act on what is due."""
        if self._deadline is not None and now >= self._deadline:
            self._step_timed_out(now)
        if self._beat_at is not None and now >= self._beat_at:
            self._beat_due(now)
        return self._take()

    # -- inside: frames -------------------------------------------------------------------------------------------

    def _on_hello(self, body: object, now: float) -> None:
        interval = messages.heartbeat_interval_s(body)
        if interval is None:
            self._drop("hello")
            return
        if not self._move(Trigger.GOT_HELLO):
            return
        # Whatever the server asks for: too often would be a busy loop, too seldom would not see a dead connection.
        self._interval_s = min(max(interval, self._timing.heartbeat_min_s), self._timing.heartbeat_max_s)
        self._beat_at = now + self._interval_s
        self._outstanding = None
        self._missed = 0
        cred = self._cred
        identity: dict[str, Any] = {
            "server_id": str(cred.guild_id),
            "session_id": cred.session_id,
            "token": cred.token,
        }
        if self.state is GatewayState.READY:
            self._deadline = now + self._timing.ready_s
            identity["user_id"] = str(cred.user_id)
            identity["max_dave_protocol_version"] = self._max_dave_version
            self.send(Op.IDENTIFY, identity)
        else:
            identity["seq_ack"] = self.seq_ack
            self.send(Op.RESUME, identity)

    def _on_ready(self, body: object, now: float) -> None:
        content = messages.ready(body)
        if content is None:
            self._drop("ready")
            return
        if not self._move(Trigger.GOT_READY):
            return
        ssrc, ip, port, modes = content
        mode = choose_mode(modes, self._modes)
        if mode is None:
            self._finish(LinkEnd(None, "Discord's voice server offers no encryption mode that we know.", Retry.STOP))
            return
        self._mode = mode
        self._deadline = now + self._timing.discovery_s
        self._events.append(ReadyReceived(ssrc, ip, port))

    def _on_description(self, body: object, _now: float) -> None:
        if self.state not in (GatewayState.SELECT, GatewayState.LIVE):
            self._drop("out_of_order")
            return
        content = messages.session_description(body)
        if not isinstance(content, str) and content[0] != self._mode:
            content = "it uses an encryption mode that we did not choose"
        if isinstance(content, str):
            if self.state is GatewayState.LIVE:
                self._drop("session_description")
            else:
                reason = f"The voice server's session description cannot be used: {content}."
                self._finish(LinkEnd(None, reason, Retry.STOP))
            return
        if self.state is GatewayState.SELECT:
            self._deadline = None
            self._move(Trigger.DESCRIBED)
        self._events.append(Described(*content))

    def _on_resumed(self, _body: object, _now: float) -> None:
        if self._move(Trigger.RESUMED):
            self._deadline = None
            self.resumes += 1
            self._events.append(Resumed())

    def _on_heartbeat(self, _body: object, now: float) -> None:
        self._beat(now)

    def _on_ack(self, body: object, now: float) -> None:
        nonce = body.get("t") if isinstance(body, dict) else body
        if self._outstanding is None or nonce != self._outstanding or type(nonce) is not int:
            self._drop("heartbeat_ack")
            return
        self.ping_s = now - self._beat_sent_at
        self._outstanding = None
        self._missed = 0
        self._beat_at = max(now, self._beat_sent_at + self._interval_s)

    def _on_speaking(self, body: object, _now: float) -> None:
        content = messages.speaking(body)
        if content is None or self.state not in _IDENTIFIED:
            self._drop("speaking")
        else:
            self._events.append(SpeakingChanged(*content))

    def _on_streams(self, body: object, _now: float) -> None:
        # It is about video in the first place: one that names no audio stream is no violation.
        content = messages.streams(body)
        if content is not None and self.state in _IDENTIFIED:
            self._events.append(StreamNamed(*content))

    def _on_connect(self, body: object, _now: float) -> None:
        user_ids = messages.snowflakes(body)
        if user_ids is None or self.state not in _IDENTIFIED:
            self._drop("clients_connect")
        else:
            self._events.append(MembersJoined(tuple(user_ids)))

    def _on_disconnect(self, body: object, _now: float) -> None:
        user_id = messages.snowflake(body.get("user_id")) if isinstance(body, dict) else None
        if user_id is None or self.state not in _IDENTIFIED:
            self._drop("client_disconnect")
        else:
            self._events.append(MemberLeft(user_id))

    def _seen(self, seq: int, digest: int) -> bool:
        """Note a sequence number; True for a message that a resume replayed although we had it."""
        mark = (seq, digest)
        if mark in self._recent:
            return True
        self._recent.append(mark)
        self.seq_ack = seq
        return False

    # -- inside: heartbeats ---------------------------------------------------------------------------------------

    def _beat_due(self, now: float) -> None:
        answer_s = self._interval_s / 2
        late = now - (self._beat_at or now)
        if self._outstanding is not None and late < answer_s:
            self._missed += 1
            if self._missed >= self._timing.heartbeat_missed:
                self._lost(None, now)
                return
        # A timer this late means that our own loop stood still; the answer may lie unread in the socket.
        self._beat(now)

    def _beat(self, now: float) -> None:
        self._nonce = max(self._nonce + 1, int(now * 1000))
        self._outstanding = self._nonce
        self._beat_sent_at = now
        # Half an interval for the answer: two misses then show within two intervals, whenever the line broke.
        self._beat_at = now + self._interval_s / 2
        self.send(Op.HEARTBEAT, {"t": self._nonce, "seq_ack": self.seq_ack})

    # -- inside: endings ------------------------------------------------------------------------------------------

    def _open_failed(self, reason: str, now: float, retryable: bool) -> None:
        delay = self._timing.ws_retry_s
        if self.state is GatewayState.OPENING:
            if retryable and self._open_tries < self._timing.ws_tries:
                self._move(Trigger.OPEN_FAILED)
                self._ask_for_socket(delay, now)
            else:
                self._finish(LinkEnd(None, reason, Retry.REJOIN if retryable else Retry.STOP))
        elif self.state is GatewayState.RESUME_OPENING:
            if retryable and self._deadline is not None and now + delay < self._deadline:
                self._move(Trigger.OPEN_FAILED)
                self._events.append(OpenSocket(delay))
            else:
                self._finish(LinkEnd(None, reason, Retry.RESUME_FAILED))

    def _step_timed_out(self, now: float) -> None:
        if self.state is GatewayState.OPENING:
            self._open_failed("Discord's voice server could not be reached in time.", now, True)
        elif self.state in _RESUME_STATES:
            self._finish(LinkEnd(None, "The voice session could not be resumed in time.", Retry.RESUME_FAILED))
        else:
            what = _WAITS_FOR.get(self.state, "did not answer")
            self._finish(LinkEnd(None, f"Discord's voice server {what}.", Retry.REJOIN))

    def _lost(self, code: int | None, now: float) -> None:
        decision = policy(code)
        if self.state is GatewayState.LIVE and decision.resume:
            while self._lost_at and now - self._lost_at[0] >= self._timing.reconnect_window_s:
                self._lost_at.popleft()
            if len(self._lost_at) >= self._timing.reconnect_limit:
                self._finish(LinkEnd(code, "The voice connection breaks off again and again.", Retry.RESUME_FAILED))
                return
            self._lost_at.append(now)
            self._move(Trigger.LOST)
            self._beat_at = None
            self._outstanding = None
            self._deadline = now + self._timing.resume_s
            self.out.clear()
            self._events.append(OpenSocket(0.0))
        elif self.state in _RESUME_STATES:
            self._finish(decision.end_after_resume(code))
        else:
            self._finish(decision.end(code))

    def _ask_for_socket(self, delay_s: float, now: float) -> None:
        self._open_tries += 1
        self._deadline = now + delay_s + self._timing.ws_open_s
        self._events.append(OpenSocket(delay_s))

    def _finish(self, end: LinkEnd) -> None:
        if self.end is not None:
            return
        self.end = end
        self._deadline = self._beat_at = None
        self.out.clear()
        self._set_state(GatewayState.ENDED)
        self._events.append(Ended(end))

    # -- inside: bookkeeping --------------------------------------------------------------------------------------

    def _move(self, trigger: Trigger) -> bool:
        target = TRANSITIONS.get((self.state, trigger))
        if target is None:
            self._drop("out_of_order")
            return False
        self._set_state(target)
        return True

    def _set_state(self, state: GatewayState) -> None:
        before = public_name(self.state)
        self.state = state
        if public_name(state) != before:
            self._events.append(StateChanged(public_name(state)))

    def send(self, op: Op, data: dict[str, Any]) -> None:
        """Queue one text frame; a server that reads none of a thousand loses what comes on top."""
        if len(self.out) >= _MAX_OUT:
            return
        self.out.append(json.dumps({"op": int(op), "d": data}))

    def _drop(self, reason: str) -> None:
        self._events.append(PacketDropped(reason))

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def public_name(state: GatewayState) -> str:
    """The name of a state as `LinkEvents.state` tells it."""
    return GatewayState.RESUMING.value if state in _RESUME_STATES else state.value


_TEXT_HANDLERS: dict[int, Callable[[VoiceGateway, object, float], None]] = {
    Op.READY: VoiceGateway._on_ready,
    Op.HEARTBEAT: VoiceGateway._on_heartbeat,
    Op.SESSION_DESCRIPTION: VoiceGateway._on_description,
    Op.SPEAKING: VoiceGateway._on_speaking,
    Op.HEARTBEAT_ACK: VoiceGateway._on_ack,
    Op.HELLO: VoiceGateway._on_hello,
    Op.RESUMED: VoiceGateway._on_resumed,
    Op.CLIENTS_CONNECT: VoiceGateway._on_connect,
    Op.VIDEO: VoiceGateway._on_streams,
    Op.CLIENT_DISCONNECT: VoiceGateway._on_disconnect,
}
