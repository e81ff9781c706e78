"""The sockets of the simulated voice servers: websockets over TLS (aiohttp) and one UDP socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import socket
import ssl
import struct
import tempfile
import time
from pathlib import Path

import trustme
from aiohttp import WSMsgType, web

from roost.scopes import Scope
from roost_voice.sim.media import Address
from roost_voice.sim.server import VoiceServer
from roost_voice.sim.session import Session
from roost_voice.sim.settings import VoiceSettings

MEMBER_HEADER = "X-Simulated-Member"
"""Marks the websockets of virtual members, which faults spare; its value is a secret of the process."""

_OUTBOX_LIMIT = 4096
_GARBLED = -1
"""In a pipe's queue, where frames and close codes are."""
_CLOSE_S = 1.0
_MAX_MESSAGE_BYTES = 64 * 1024
_RCVBUF_BYTES = 1 << 20


class Certificate:
    """A certificate authority made for this run. The folder with its public half is removed by `remove`."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self._folder = Path(tempfile.mkdtemp(prefix="roost-sim-"))  # 0700
        self.ca_file = self._folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(self.server)
        self.client = ssl.create_default_context(cafile=str(self.ca_file))

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class WebSocketPipe:
    """A client's websocket: a bounded queue and the task that writes from it."""

    def __init__(
        self, number: int, socket_: web.WebSocketResponse, transport: asyncio.Transport, virtual: bool, version: int
    ) -> None:
        self.id = number
        self.virtual = virtual
        self.version = version
        self.session: Session | None = None
        self.last_heartbeat = 0.0
        self._socket = socket_
        self._transport = transport
        self._queue: asyncio.Queue[str | bytes | int] = asyncio.Queue(_OUTBOX_LIMIT)
        self._mute = False
        self.closing = False
        """No frame follows: a close frame is queued, or TCP was reset."""
        self.gone = False
        """TCP was reset."""

    def send(self, frame: str | bytes) -> None:
        self._put(frame)

    def close(self, code: int) -> None:
        if self._mute:
            self.reset()
            return
        self._put(code)
        self.closing = True

    def garble(self) -> None:
        self._put(_GARBLED)

    def _put(self, item: str | bytes | int) -> None:
        if self._mute or self.closing:
            return
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:  # the client does not read
            self.reset()

    def reset(self) -> None:
        self.closing = self.gone = True
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):  # linger of zero seconds turns the close into an RST
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def blackhole(self) -> None:
        self._mute = True
        self._transport.pause_reading()

    async def write(self) -> None:
        """Send what is queued; after a close frame, give the client a moment to answer it, then drop TCP."""
        while True:
            item = await self._queue.get()
            try:
                if isinstance(item, str):
                    await self._socket.send_str(item)
                elif isinstance(item, bytes):
                    await self._socket.send_bytes(item)
                elif item == _GARBLED:
                    await self._socket.send_frame(b"\xff\xfe", WSMsgType.TEXT)
                else:
                    # Not aiohttp's close(): that drops TCP before the client has answered, and an aiohttp client then
                    # reports 1006 instead of our code.
                    await self._socket.send_frame(struct.pack(">H", item), WSMsgType.CLOSE)
                    await asyncio.sleep(_CLOSE_S)
                    self._transport.abort()
                    return
            except ConnectionError:
                return


class GatewayDriver:
    """Accepts websockets and feeds the server."""

    def __init__(
        self, server: VoiceServer, settings: VoiceSettings, certificate: Certificate, scope: Scope, secret: str
    ) -> None:
        self._server = server
        self._settings = settings
        self._certificate = certificate
        self._scope = scope
        self._secret = secret
        self._numbers = itertools.count(1)
        self._pipes: dict[int, WebSocketPipe] = {}
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_S, handle_signals=False)
        await runner.setup()
        self._runner = runner
        site = web.TCPSite(
            runner, self._settings.host, self._settings.port, ssl_context=self._certificate.server, backlog=256
        )
        await site.start()
        self.port = runner.addresses[0][1]

    async def aclose(self) -> None:
        for pipe in list(self._pipes.values()):
            pipe.reset()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse(autoclose=False, max_msg_size=_MAX_MESSAGE_BYTES)
        if not websocket.can_prepare(request):
            return web.Response(status=426, text="a voice gateway: connect with a websocket\n")
        await websocket.prepare(request)
        transport = request.transport
        if not isinstance(transport, asyncio.Transport):
            return websocket
        virtual = request.headers.get(MEMBER_HEADER) == self._secret
        asked = request.query.get("v", "")
        version = int(asked) if asked in ("4", "5", "6", "7") else 8
        pipe = WebSocketPipe(next(self._numbers), websocket, transport, virtual, version)
        self._pipes[pipe.id] = pipe
        writer = self._scope.spawn(pipe.write(), f"ws-{pipe.id}")
        code: int | None = None
        try:
            self._server.opened(pipe, time.monotonic())
            code = await self._read(pipe, websocket)
        finally:
            del self._pipes[pipe.id]
            self._server.closed(pipe, None if pipe.closing else code, time.monotonic())
            writer.cancel()
        if code is not None and not pipe.closing:
            await websocket.close(code=code)
        transport.close()
        return websocket

    async def _read(self, pipe: WebSocketPipe, websocket: web.WebSocketResponse) -> int | None:
        """Feed messages to the server until the websocket ends; the code of the client's close frame, if any."""
        while True:
            message = await websocket.receive()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                if not pipe.closing:
                    self._server.received(pipe, message.data, time.monotonic())
            else:
                return int(message.data or 1005) if message.type is WSMsgType.CLOSE else None


class UdpDriver(asyncio.DatagramProtocol):
    """The one media socket."""

    def __init__(self, server: VoiceServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None
        self.errors = 0

    async def start(self, host: str) -> None:
        raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            raw.setblocking(False)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RCVBUF_BYTES)
            raw.bind((host, 0))
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=raw)
        except BaseException:
            raw.close()
            raise
        self._transport = transport
        self._server.udp_address = raw.getsockname()
        self._server.media.sendto = self._sendto

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _sendto(self, data: bytes, address: Address) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, address)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._server.media.received(data, addr, time.monotonic())

    def error_received(self, exc: Exception) -> None:
        self.errors += 1  # a receiver has gone: its ICMP answer is no fault of ours


def send_from_elsewhere(data: bytes, address: Address) -> None:
    """Send a datagram from a socket that is not the voice server's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger, contextlib.suppress(OSError):
        stranger.bind(("127.0.0.1", 0))
        stranger.sendto(data, address)
