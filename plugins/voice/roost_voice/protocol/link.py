"""One voice link, whole and without sockets: gateway, discovery, media and end-to-end encryption together.

The driver feeds it frames, datagrams and the time, and carries out what it finds in `LinkProtocol.take_frames`,
`datagrams`, `socket_wanted`, `udp_wanted` and `end`. Frames of speech leave through `LinkEvents` in the same call
stack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

from roost.audio import AudioFrame, Credentials, LinkEnd, LinkEvents, LinkStats, Retry, Timing

from . import discovery, gateway
from .address import may_send_media
from .aead import Sealer, make_opener
from .dave import MAX_VERSION, DaveGroup
from .gateway import GatewayState, VoiceGateway
from .liveness import KEEPALIVE_BYTES, PathAction, PathWatch
from .opcodes import MODES, Op
from .receive import Receiver
from .send import Sender

MAX_MEMBERS = 16_384
LEFT = LinkEnd(1000, "The bot left the voice channel.", Retry.STOP)


@dataclasses.dataclass(frozen=True, slots=True)
class UdpTarget:
    """Where the voice server takes media."""

    ip: str
    port: int


class LinkProtocol:
    """The protocol of one `VoiceLink`.

    After every call the owner looks at `dirty`: while it is False there is nothing to carry out and no timer moved.

    Args:
        cred: What Discord handed out.
        events: The link's owner; called synchronously.
        timing: The delays.
        sequence: First RTP sequence number, random.
        rtp_timestamp: First RTP timestamp, random.
        modes: Transport encryption modes, best first.
        allow_unencrypted: Accept a call without end-to-end encryption.
        allowed_hosts: Addresses that may get media though they are not public; see `address.may_send_media`.
    """

    def __init__(
        self,
        cred: Credentials,
        events: LinkEvents,
        timing: Timing,
        *,
        sequence: int = 0,
        rtp_timestamp: int = 0,
        modes: Sequence[str] = MODES,
        allow_unencrypted: bool = False,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        self._allowed_hosts = allowed_hosts
        self._cred = cred
        self._events = events
        self._timing = timing
        self._gateway = VoiceGateway(cred, timing, max_dave_version=MAX_VERSION, modes=modes)
        self._dave = DaveGroup(
            cred.user_id, cred.channel_id, timing, allow_unencrypted=allow_unencrypted, on_change=events.dave
        )
        self._receiver = Receiver(cred.guild_id, self._dave, self._emit_frame, timing, events.wants)
        self.datagrams: list[bytes] = []
        """To be sent to `udp_wanted`, in order."""
        self._sender = Sender(
            self._dave,
            self._announce_speaking,
            self.datagrams.append,
            sequence=sequence,
            rtp_timestamp=rtp_timestamp,
        )
        self._path = PathWatch(timing)
        self._ssrc = 0
        self._address: tuple[str, int] | None = None
        self._discovery_at: float | None = None
        self._mode = ""
        self._key = b""
        self._violations: dict[str, int] = {}
        self._stop_media = False
        self._clients: dict[int, int] = {}
        """By member: how many clients of theirs are in the call."""
        self.socket_wanted: float | None = None
        """Seconds after which a new gateway socket should be opened; the owner sets it back to None."""
        self.udp_wanted: UdpTarget | None = None
        self.dirty = False
        self.udp_errors = 0

    # -- what the owner carries out -------------------------------------------------------------------------------

    @property
    def end(self) -> LinkEnd | None:
        """Why the link is over, or None."""
        return self._gateway.end

    @property
    def live(self) -> bool:
        """Whether the session description has come and the gateway is connected."""
        return self._gateway.state is GatewayState.LIVE

    @property
    def state(self) -> str:
        """The gateway's state, by its public name."""
        return gateway.public_name(self._gateway.state)

    @property
    def frames_waiting(self) -> bool:
        """Whether `take_frames` has something."""
        return bool(self._gateway.out)

    def take_frames(self) -> list[str | bytes]:
        """Frames for the gateway's socket: ``str`` as text, ``bytes`` as binary."""
        out = self._gateway.out
        taken = out[:]
        out.clear()
        return taken

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        dues = [
            due
            for due in (
                self._gateway.get_timer(),
                self._dave.due,
                self._receiver.due,
                self._sender.due,
                self._path.due,
                self._discovery_at,
            )
            if due is not None
        ]
        return min(dues) if dues and self._gateway.end is None else None

    # -- the gateway's socket -------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Ask for the first socket."""
        self._run(self._gateway.start(now), now)

    def ws_opened(self, now: float) -> None:
        """The wanted socket is connected."""
        self._run(self._gateway.opened(now), now)

    def ws_open_failed(self, reason: str, now: float, *, retryable: bool = True) -> None:
        """The wanted socket could not be connected."""
        self._run(self._gateway.open_failed(reason, now, retryable=retryable), now)

    def ws_frame(self, data: str | bytes, now: float) -> None:
        """A frame came on the newest socket."""
        events = self._gateway.text(data, now) if isinstance(data, str) else self._gateway.binary(data, now)
        self._run(events, now)

    def ws_closed(self, code: int | None, now: float) -> None:
        """The newest socket ended."""
        self._run(self._gateway.closed(code, now), now)

    def close(self, now: float) -> None:
        """We leave."""
        self._finish(LEFT, now)

    def fail(self, end: LinkEnd, now: float) -> None:
        """Something outside the protocol ended the link, such as a refused UDP socket."""
        self._finish(end, now)

    # -- media ----------------------------------------------------------------------------------------------------

    def udp_opened(self, now: float) -> None:
        """The socket to `udp_wanted` is connected: discovery starts."""
        self._discovery_at = now
        self.handle_timer(now)

    def datagram(self, data: bytes, now: float) -> None:
        """A datagram came on the UDP socket."""
        if len(data) == KEEPALIVE_BYTES and self._path.echo(data):
            return
        if discovery.looks_like_discovery(data):
            self._on_discovery(data, now)
            return
        receiver = self._receiver
        due = receiver.due
        receiver.datagram(data, now)
        if receiver.last_packet_at == now:
            self._path.heard()
        if receiver.due != due or self._dave.out or self._dave.failure:
            self._after(now)

    def send_opus(self, opus: bytes, now: float) -> None:
        """Send one 20 ms frame as soon as its turn comes."""
        if not self.live:
            self._sender.dropped += 1
            return
        self._sender.send_opus(opus, now)
        self.dirty = True

    def set_speaking(self, on: bool, now: float) -> None:
        """Announce that frames follow, or that they ended."""
        if self.live:
            self._sender.set_speaking(on, now)
            self.dirty = True

    # -- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: float) -> None:
        """Act on what is due."""
        if self._gateway.end is not None:
            return
        due = self._gateway.get_timer()
        if due is not None and now >= due:
            self._run(self._gateway.handle_timer(now), now)
        if self._discovery_at is not None and now >= self._discovery_at:
            self._discovery_at = now + self._timing.discovery_resend_s
            self.datagrams.append(discovery.build_request(self._ssrc))
        if self._receiver.due is not None and now >= self._receiver.due:
            self._receiver.handle_timer(now)
        if self._sender.due is not None and now >= self._sender.due:
            self._sender.handle_timer(now)
        self._dave.handle_timer(now)
        for action in self._path.handle_timer(now):
            if action is PathAction.SEND_KEEPALIVE:
                self.datagrams.append(self._path.keepalive())
            elif action is PathAction.SEND_DISCOVERY:
                self.datagrams.append(discovery.build_request(self._ssrc))
            else:
                self._finish(LinkEnd(None, "No voice packets reach the bot any more.", Retry.RESUME_FAILED), now)
        self._after(now)

    # -- counters -------------------------------------------------------------------------------------------------

    def stats(self) -> LinkStats:
        """Counters since the link opened."""
        receiver, sender, dave, ping_s = self._receiver, self._sender, self._dave, self._gateway.ping_s
        return LinkStats(
            packets_in=receiver.packets_in,
            frames_out=receiver.frames_out,
            dropped=dict(receiver.dropped),
            lost=receiver.lost,
            packets_sent=sender.packets_sent,
            dave_version=dave.version,
            dave_epoch=dave.epoch,
            dave_epochs=dave.epochs,
            frames_decrypted=dave.decrypted,
            frames_passed_through=dave.passed_through,
            decrypt_failures=dave.failures,
            resumes=self._gateway.resumes,
            ping_ms=None if ping_s is None else ping_s * 1000,
            mode=self._mode,
            send_dropped=sender.dropped,
            udp_errors=self.udp_errors,
            violations={**self._violations, **{f"dave_{name}": count for name, count in dave.violations.items()}},
        )

    # -- inside ---------------------------------------------------------------------------------------------------

    def _run(self, events: list[gateway.Event], now: float) -> None:
        for event in events:
            self._handlers[type(event)](self, event, now)
        self._after(now)

    def _after(self, now: float) -> None:
        """Move on what the parts left behind."""
        dave = self._dave
        dave.check_wait(now)
        if dave.failure is not None and self._gateway.end is None:
            retry = Retry.REJOIN if dave.failure_retryable else Retry.STOP
            self._finish(LinkEnd(None, dave.failure, retry), now)
        # While a resume is under way nothing may go out before it; the group's messages wait.
        if dave.out and self._gateway.state is GatewayState.LIVE:
            self._gateway.out += dave.out
            dave.out.clear()
        self.dirty = True

    def _finish(self, end: LinkEnd, now: float) -> None:
        if self._gateway.end is None:
            for event in self._gateway.stop(end):
                self._handlers[type(event)](self, event, now)
            self.dirty = True

    def _on_discovery(self, data: bytes, now: float) -> None:
        reply = discovery.parse_reply(data, self._ssrc)
        if isinstance(reply, str):
            self._violation(reply)
        elif self._discovery_at is not None:
            self._discovery_at = None
            self._address = reply
            self._run(self._gateway.select(*reply, now), now)
        elif self._path.probing:
            if reply == self._address:
                self._path.discovered()
            else:
                reason = "The bot's network address changed, so voice packets go astray."
                self._finish(LinkEnd(None, reason, Retry.RESUME_FAILED), now)

    def _emit_frame(self, frame: AudioFrame) -> None:
        if not self._stop_media:
            self._events.frame(frame)

    def _announce_speaking(self, on: bool) -> None:
        data = {"speaking": int(on), "delay": 0, "ssrc": self._ssrc}
        self._gateway.send(Op.SPEAKING, data)

    def _violation(self, name: str) -> None:
        self._violations[name] = self._violations.get(name, 0) + 1

    def _on_open_socket(self, event: gateway.OpenSocket, _now: float) -> None:
        self.socket_wanted = event.delay_s

    def _on_state(self, event: gateway.StateChanged, _now: float) -> None:
        self._events.state(event.name)

    def _on_ready(self, event: gateway.ReadyReceived, now: float) -> None:
        if not may_send_media(event.ip, self._allowed_hosts):
            reason = f"The voice server wants its media at {event.ip}, which is no public address."
            self._finish(LinkEnd(None, reason, Retry.STOP), now)
            return
        self._ssrc = event.ssrc
        self.udp_wanted = UdpTarget(event.ip, event.port)

    def _on_described(self, event: gateway.Described, now: float) -> None:
        if event.key == self._key:
            return
        first = not self._key
        self._key = event.key
        self._mode = event.mode
        self._receiver.set_opener(make_opener(event.mode, event.key))
        self._sender.set_key(self._ssrc, Sealer(event.mode, event.key))
        # Described again while live, it brings a new transport key; the group stays unless its version changed.
        if first or event.dave_version != self._dave.version:
            self._dave.describe(event.dave_version)
        if first:
            self._path.start(now)

    def _on_resumed(self, _event: gateway.Resumed, _now: float) -> None:
        if self._sender.speaking:
            self._announce_speaking(True)

    def _on_speaking(self, event: gateway.SpeakingChanged, now: float) -> None:
        if event.user_id == self._cred.user_id:
            return
        self._receiver.learn(event.ssrc, event.user_id, now)
        if event.on:
            self._path.speech(now)
        self._events.speaking(event.user_id, event.on)

    def _on_joined(self, event: gateway.MembersJoined, _now: float) -> None:
        clients = self._clients
        for user_id in dict.fromkeys(event.user_ids):
            if user_id == self._cred.user_id:
                continue
            if user_id in clients:
                clients[user_id] += 1
                continue
            if len(clients) >= MAX_MEMBERS:
                self._violation("too_many_members")
                return
            clients[user_id] = 1
            self._dave.members.add(user_id)
            self._events.member_joined(user_id)

    def _on_left(self, event: gateway.MemberLeft, now: float) -> None:
        user_id = event.user_id
        self._receiver.client_left(user_id, now)
        left = self._clients.get(user_id, 0) - 1
        if left > 0:
            self._clients[user_id] = left
        elif left == 0:
            del self._clients[user_id]
            self._dave.members.discard(user_id)
            self._events.member_left(user_id)

    def _on_stream(self, event: gateway.StreamNamed, now: float) -> None:
        if event.user_id != self._cred.user_id:
            self._receiver.learn(event.ssrc, event.user_id, now)

    def _on_dave_text(self, event: gateway.DaveText, now: float) -> None:
        self._dave.handle_text(event.op, event.data, now)

    def _on_dave_binary(self, event: gateway.DaveBinary, now: float) -> None:
        self._dave.handle_binary(event.op, event.body, now)

    def _on_dropped(self, event: gateway.PacketDropped, _now: float) -> None:
        self._violation(event.reason)

    def _on_ended(self, _event: gateway.Ended, _now: float) -> None:
        self._stop_media = True
        self._discovery_at = None
        self.socket_wanted = None

    _handlers: ClassVar[dict[type, Callable[..., None]]] = {
        gateway.OpenSocket: _on_open_socket,
        gateway.StateChanged: _on_state,
        gateway.ReadyReceived: _on_ready,
        gateway.Described: _on_described,
        gateway.Resumed: _on_resumed,
        gateway.SpeakingChanged: _on_speaking,
        gateway.StreamNamed: _on_stream,
        gateway.MembersJoined: _on_joined,
        gateway.MemberLeft: _on_left,
        gateway.DaveText: _on_dave_text,
        gateway.DaveBinary: _on_dave_binary,
        gateway.PacketDropped: _on_dropped,
        gateway.Ended: _on_ended,
    }
