"""The native voice driver: Roost's own protocol core over asyncio sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

from roost.audio import Credentials, LinkClosed, LinkEnd, LinkEvents, LinkStats, Retry, Timing
from roost.errors import VoiceError
from roost.scopes import Scope

from . import _gateway
from ._gateway import GatewaySocket, OpenError
from ._udp import UdpSocket
from .protocol.address import ALLOWED_HOSTS, check_address
from .protocol.link import LinkProtocol
from .protocol.opcodes import GATEWAY_VERSION, MODES

_log = logging.getLogger("roost.voice.link")

_TIMER_STEP_S = 0.001
"""No timer fires sooner than this, whatever the protocol asks for: a fault there may not eat the processor."""
_SWITCH_GRACE_S = 0.01
_TASKS_END_S = 1.0
_INTERNAL = LinkEnd(None, "The voice link failed inside Roost; see the log.", Retry.REJOIN)
_NO_UDP = LinkEnd(None, "The system refused a UDP socket for voice.", Retry.REJOIN)


class NativeLink:
    """See `roost.audio.VoiceLink`. Opened and closed by `NativeDriver.open`."""

    def __init__(
        self, url: str, tls: ssl.SSLContext, cred: Credentials, timing: Timing, protocol: LinkProtocol
    ) -> None:
        self._url = url
        self._tls = tls
        self._cred = cred
        self._timing = timing
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._scope = Scope(f"voice.link.{cred.guild_id}", self._task_failed)
        self._ended: asyncio.Future[LinkEnd] = self._loop.create_future()
        self._progress = asyncio.Event()
        self._frames_wait = asyncio.Event()
        self._socket_changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._udp: UdpSocket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._state = ""
        self._complained = False

    def __repr__(self) -> str:
        return f"<NativeLink guild={self._cred.guild_id} {self._protocol.state}>"

    # -- VoiceLink ------------------------------------------------------------------------------------------------

    def send_opus(self, opus: bytes) -> None:
        """Send one 20 ms frame when its turn comes; dropped and counted when a second of audio waits already."""
        self._protocol.send_opus(opus, self._loop.time())
        self._pump()

    def set_speaking(self, on: bool) -> None:
        """Tell the others that frames follow, or, after what is queued, that they ended."""
        self._protocol.set_speaking(on, self._loop.time())
        self._pump()

    async def update(self, cred: Credentials) -> bool:
        """True only for the credentials in use: a voice server takes new ones with a new session alone."""
        return cred == self._cred and self._protocol.end is None

    def stats(self) -> LinkStats:
        """Counters since the link opened; still valid after its end."""
        return self._protocol.stats()

    async def wait_closed(self) -> LinkEnd:
        """Wait, without limit, until the link has ended by itself or was closed by its owner."""
        return await asyncio.shield(self._ended)

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def end(self) -> LinkEnd | None:
        """Why the link is over, or None."""
        return self._protocol.end

    async def start(self) -> None:
        """Connect; returns when the link is live or has ended. Every step has a deadline in `Timing`."""
        self._protocol.start(self._loop.time())
        self._pump()
        self._supervisor = self._scope.spawn(self._supervise(), "supervisor")
        await self._progress.wait()

    async def aclose(self) -> None:
        """Leave, and close sockets and tasks within `Timing.close_local_s`. Idempotent."""
        self._protocol.close(self._loop.time())
        self._pump()
        try:
            if self._supervisor is not None and not self._supervisor.done():
                await asyncio.wait({self._supervisor}, timeout=self._timing.close_local_s * 0.75)
        finally:
            stuck = await self._scope.aclose(_TASKS_END_S)
            if stuck:
                _log.error("guild %d: tasks ignored their cancellation: %s", self._cred.guild_id, ", ".join(stuck))
            if self._udp is not None:
                self._udp.abort()
                await self._udp.wait_closed()

    def _task_failed(self, name: str, error: BaseException) -> None:
        _log.error("guild %d: %s failed", self._cred.guild_id, name, exc_info=error)
        self._protocol.fail(_INTERNAL, self._loop.time())
        self._pump()

    # -- the gateway's socket -------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keep one socket to the gateway, the one the protocol wants, until the link is over."""
        async with _gateway.make_http(self._tls) as http:
            while self._protocol.end is None:
                self._socket_changed.clear()
                delay_s = self._protocol.socket_wanted or 0.0
                self._protocol.socket_wanted = None
                attempt = self._scope.spawn(self._converse(http, delay_s), "gateway")
                try:
                    await self._socket_changed.wait()
                finally:
                    attempt.cancel()
                    await asyncio.wait({attempt})

    async def _converse(self, http: aiohttp.ClientSession, delay_s: float) -> None:
        """Open a socket and feed what it says to the protocol, until either gives it up."""
        protocol, loop = self._protocol, self._loop
        if delay_s:
            await asyncio.sleep(delay_s)
        try:
            socket = await GatewaySocket.open(http, self._url)
        except OpenError as error:
            protocol.ws_open_failed(str(error), loop.time(), retryable=error.retryable)
            self._pump()
            return
        code: int | None = None
        writer = self._scope.spawn(self._write(socket), "writer")
        try:
            protocol.ws_opened(loop.time())
            self._pump()
            while not self._socket_changed.is_set():
                message = await socket.receive()
                if self._socket_changed.is_set():
                    break
                if isinstance(message, int):
                    code = message
                    break
                protocol.ws_frame(message, loop.time())
                if protocol.udp_wanted is not None and self._udp is None:
                    await self._open_udp()
                self._pump()
        finally:
            writer.cancel()
            if protocol.end is not None:
                await socket.close(_gateway.CODE_LEFT, self._timing.close_local_s / 4)
            else:
                await socket.close(_gateway.CODE_RESUMING, _SWITCH_GRACE_S)
        if code is not None:
            protocol.ws_closed(code, loop.time())
            self._pump()

    async def _write(self, socket: GatewaySocket) -> None:
        """Carry frames to one socket; a failure shows in its reader."""
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            while True:
                await self._frames_wait.wait()
                self._frames_wait.clear()
                for frame in self._protocol.take_frames():
                    await socket.send(frame)

    # -- media ----------------------------------------------------------------------------------------------------

    async def _open_udp(self) -> None:
        target = self._protocol.udp_wanted
        assert target is not None
        try:
            self._udp = await UdpSocket.open(
                target.ip, target.port, on_datagram=self._on_datagram, on_error=self._on_udp_error
            )
        except OSError:
            self._protocol.fail(_NO_UDP, self._loop.time())
            return
        self._protocol.udp_opened(self._loop.time())

    def _on_datagram(self, data: bytes) -> None:
        protocol = self._protocol
        try:
            protocol.datagram(data, self._loop.time())
        except Exception:  # noqa: BLE001
            # A consumer that raises in spite of its contract costs that frame, not the receive loop.
            if not self._complained:
                self._complained = True
                _log.exception("guild %d: a frame could not be delivered", self._cred.guild_id)
        if protocol.dirty:
            self._pump()

    def _on_udp_error(self) -> None:
        self._protocol.udp_errors += 1

    # -- carrying out what the protocol asks for ------------------------------------------------------------------

    def _pump(self) -> None:
        protocol = self._protocol
        protocol.dirty = False
        if protocol.datagrams:
            for data in protocol.datagrams:
                if self._udp is not None:
                    self._udp.send(data)
            protocol.datagrams.clear()
        if protocol.frames_waiting:
            self._frames_wait.set()
        if protocol.state != self._state:
            self._state = protocol.state
            _log.debug("guild %d: %s", self._cred.guild_id, self._state)
        end = protocol.end
        if end is not None:
            if not self._ended.done():
                self._ended.set_result(end)
            self._socket_changed.set()
            self._progress.set()
            if self._udp is not None:
                self._udp.abort()
        elif protocol.live:
            self._progress.set()
        if protocol.socket_wanted is not None:
            self._socket_changed.set()
        self._arm()

    def _arm(self) -> None:
        due = self._protocol.get_timer()
        if due == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due is not None:
            self._timer = self._loop.call_at(max(due, self._loop.time() + _TIMER_STEP_S), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = None
        self._protocol.handle_timer(self._loop.time())
        self._pump()


class NativeDriver:
    """Opens links over Roost's own protocol core. Holds no sockets and no tasks of its own.

    Args:
        timing: Every delay.
        ca_file: A certificate authority to trust besides the system's (PEM).
        allowed_hosts: Patterns of the voice servers that may be called.
        modes: Transport encryption modes, best first.
        allow_unencrypted: Stay in every call without end-to-end encryption; else only in those of stages.

    Raises:
        ConfigError: `ca_file` cannot be read.
    """

    name = "native"

    def __init__(
        self,
        timing: Timing | None = None,
        *,
        ca_file: Path | None = None,
        allowed_hosts: Sequence[str] = ALLOWED_HOSTS,
        modes: Sequence[str] = MODES,
        allow_unencrypted: bool = False,
    ) -> None:
        self._timing = timing or Timing()
        self._tls = _gateway.make_tls(ca_file)
        self._allowed_hosts = tuple(allowed_hosts)
        self._modes = tuple(modes)
        self._allow_unencrypted = allow_unencrypted
        self._closing = Scope("voice.native.closing")

    @contextlib.asynccontextmanager
    async def open(self, cred: Credentials, events: LinkEvents) -> AsyncIterator[NativeLink]:
        """See `roost.audio.VoiceDriver.open`."""
        url = f"wss://{check_address(cred.server_address, self._allowed_hosts)}/?v={GATEWAY_VERSION}"
        protocol = LinkProtocol(
            cred,
            events,
            self._timing,
            sequence=secrets.randbits(16),
            rtp_timestamp=secrets.randbits(32),
            modes=self._modes,
            allow_unencrypted=self._allow_unencrypted or cred.stage,
            allowed_hosts=self._allowed_hosts,
        )
        link = NativeLink(url, self._tls, cred, self._timing, protocol)
        try:
            await link.start()
            end = link.end
            if end is not None:
                retryable = end.retry is not Retry.STOP
                raise VoiceError(end.reason, retryable=retryable, retry_after_s=end.cooldown_s or None) from LinkClosed(
                    end
                )
            yield link
        finally:
            await self._close(link)

    async def _close(self, link: NativeLink) -> None:
        """Close a link to the end, whatever cancels us meanwhile; it bounds itself."""
        closing = self._closing.spawn(link.aclose(), "link")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait({closing})
            raise
