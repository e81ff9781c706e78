"""Networks that fail: relays for datagrams and for connections, between a bot and whatever it talks to.

Everything a `UdpRelay` does to a datagram follows from one seed, so a run can be repeated. `Weather` decides without
sockets and serves in virtual time as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Self, cast

from roost.scopes import Scope

Address = tuple[str, int]
HELD = 4096
"""Datagrams under way at most; more of them are lost, as in any router."""
CLIENTS = 256
_CHUNK = 65536


@dataclasses.dataclass(frozen=True, slots=True)
class Shares:
    """How bad a network is; all shares are from 0 to 1.

    Attributes:
        loss: Of datagrams that never arrive.
        reorder: Of datagrams that are held back for `reorder_s`, so that later ones pass them.
        duplicate: Of datagrams that arrive twice.
        jitter_s: Each is delayed by up to so much.
    """

    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    jitter_s: float = 0.0
    reorder_s: float = 0.03


class Weather:
    """What becomes of each datagram."""

    def __init__(self, shares: Shares, seed: int) -> None:
        self._shares = shares
        self._dice = random.Random(seed)  # noqa: S311

    def fate(self) -> list[float]:
        """The delays with which a datagram arrives: none if it is lost, two if it arrives twice."""
        shares, dice = self._shares, self._dice
        # Four throws for each, so that one share does not change what becomes of the others.
        lost, late, twice, jitter = (dice.random() for _ in range(4))
        if lost < shares.loss:
            return []
        delay_s = jitter * shares.jitter_s + (shares.reorder_s if late < shares.reorder else 0.0)
        return [delay_s] * (2 if twice < shares.duplicate else 1)


class _Socket(asyncio.DatagramProtocol):
    """One bound UDP socket of a relay."""

    def __init__(self, relay: UdpRelay, client: Address | None) -> None:
        self._relay = relay
        self._client = client
        self._transport: asyncio.DatagramTransport | None = None
        self.gone = asyncio.Event()

    @classmethod
    async def open(cls, relay: UdpRelay, client: Address | None, port: int = 0) -> Self:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", port))
            loop = asyncio.get_running_loop()
            _, made = await loop.create_datagram_endpoint(lambda: cls(relay, client), sock=sock)
        except BaseException:
            sock.close()
            raise
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._relay.took(data, addr, self._client)

    def error_received(self, exc: Exception) -> None:
        self._relay.counts["errors"] += 1

    @property
    def address(self) -> Address:
        assert self._transport is not None
        return cast("Address", self._transport.get_extra_info("sockname"))

    def send(self, data: bytes, to: Address) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, to)

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            await self.gone.wait()


class UdpRelay:
    """Passes datagrams between clients and one server, as a router with a translation table does.

    Use as an async context manager. Each client appears to the server as a port of its own.

    Args:
        server: Where datagrams of clients go.
        shares: How bad the network is, in both directions; may be replaced at any time by `weather`.
        seed: Of everything that happens by chance.
    """

    def __init__(self, server: Address, shares: Shares | None = None, seed: int = 1) -> None:
        self.counts: Counter[str] = Counter()
        """Datagrams: ``in`` and ``out`` of clients, ``lost``, ``late``, ``twice``; errors of the system."""
        self.off = False
        """Nothing passes."""
        self.deaf = False
        """Nothing passes to the clients."""
        self._server = server
        self._seed = seed
        self._weather = Weather(shares or Shares(), seed)
        self._inside: _Socket | None = None
        self._port = 0
        self._outside: dict[Address, _Socket] = {}
        self._first: dict[Address, deque[bytes]] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._scope = Scope("relay.udp")

    async def __aenter__(self) -> Self:
        await self.open_port()
        return self

    async def __aexit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        await self._scope.aclose()
        await self.close_port()
        await self.rebind()

    @property
    def address(self) -> Address:
        """Where clients send to."""
        return "127.0.0.1", self._port

    def weather(self, shares: Shares) -> None:
        """Be another network from now on."""
        self._weather = Weather(shares, self._seed)

    async def close_port(self) -> None:
        """Stop listening: who sends is refused by the system."""
        inside, self._inside = self._inside, None
        if inside is not None:
            await inside.close()

    async def open_port(self) -> None:
        """Listen, on the same port as before."""
        self._inside = await _Socket.open(self, None, self._port)
        self._port = self._inside.address[1]

    async def rebind(self) -> None:
        """Forget all clients: each appears to the server under a new port when it next sends."""
        outside, self._outside = self._outside, {}
        for each in outside.values():
            await each.close()

    def took(self, data: bytes, addr: Address, client: Address | None) -> None:
        """A datagram arrived: from `addr`, for `client`, or for the server when that is None."""
        self.counts["in" if client is None else "out"] += 1
        delays = [] if self.off or (self.deaf and client is not None) else self._weather.fate()
        if not delays or len(self._timers) >= HELD:
            self.counts["lost"] += 1
            return
        self.counts["twice"] += len(delays) - 1
        for delay_s in delays:
            if not delay_s:
                self._pass(data, addr, client)
                continue
            self.counts["late"] += 1
            self._later(delay_s, data, addr, client)

    def _later(self, delay_s: float, data: bytes, addr: Address, client: Address | None) -> None:
        def due() -> None:
            self._timers.discard(timer)
            self._pass(data, addr, client)

        timer = asyncio.get_running_loop().call_later(delay_s, due)
        self._timers.add(timer)

    def _pass(self, data: bytes, addr: Address, client: Address | None) -> None:
        if client is not None:
            if self._inside is not None:
                self._inside.send(data, client)
            return
        outside = self._outside.get(addr)
        if outside is not None:
            outside.send(data, self._server)
        elif addr in self._first:
            self._first[addr].append(data)
        elif len(self._outside) < CLIENTS:
            self._first[addr] = deque([data], maxlen=HELD)
            self._scope.spawn(self._new(addr), "client")

    async def _new(self, client: Address) -> None:
        try:
            outside = self._outside[client] = await _Socket.open(self, client)
        finally:
            waiting = self._first.pop(client)
        for data in waiting:
            outside.send(data, self._server)


class TcpRelay:
    """Passes connections to one port of this machine, and can stop doing so in two ways.

    Use as an async context manager.

    Args:
        port: Where connections go to.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        """Where clients connect to."""
        self.taken = 0
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._scope = Scope("relay.tcp")
        self._transports: set[asyncio.WriteTransport] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    @property
    def held(self) -> int:
        """Sockets of its own; while it is silent, those of clients that have long given up too."""
        return sum(not transport.is_closing() for transport in self._transports)

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        await self._scope.aclose()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def silence(self) -> None:
        """Pass nothing on, and say nothing of it; what is sent meanwhile arrives later."""
        self._open.clear()

    async def refuse(self) -> None:
        """Reset every connection and refuse new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for transport in list(self._transports):
            transport.abort()
        if server is not None:
            await server.wait_closed()

    async def restore(self) -> None:
        """Be a network again."""
        self._open.set()
        if self._server is None:
            await self._listen()

    @contextlib.asynccontextmanager
    async def _connected(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._transports.add(writer.transport)
        try:
            yield
        finally:
            self._transports.discard(writer.transport)
            writer.transport.abort()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        if self._scope.closed:
            writer.transport.abort()
        else:
            self._scope.spawn(self._carry(reader, writer), "connection")

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._connected(writer):
            await self._open.wait()
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            except OSError:
                return
            async with self._connected(far_writer):
                there = self._scope.spawn(self._pump(reader, far_writer), "there")
                back = self._scope.spawn(self._pump(far_reader, writer), "back")
                try:
                    await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
            await self._open.wait()
