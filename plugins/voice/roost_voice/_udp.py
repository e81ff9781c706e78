"""The UDP socket of a voice link: connected, so that the kernel drops what comes from anywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import cast

RECEIVE_BUFFER_BYTES = 1 << 20
"""A second of 25 speakers is about 250 KB; the kernel may grant less."""


class UdpSocket(asyncio.DatagramProtocol):
    """One connected UDP socket.

    Args:
        on_datagram: Called with every datagram, in the call stack of the event loop.
        on_error: Called when the system reports an error, such as ECONNREFUSED; the socket stays usable.
    """

    def __init__(self, on_datagram: Callable[[bytes], None], on_error: Callable[[], None]) -> None:
        self._on_datagram = on_datagram
        self._on_error = on_error
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = asyncio.Event()

    @classmethod
    async def open(
        cls, ip: str, port: int, *, on_datagram: Callable[[bytes], None], on_error: Callable[[], None]
    ) -> UdpSocket:
        """Connect to an address (no names: nothing to resolve, so nothing to wait for).

        Raises:
            OSError: The system refused the socket.
        """
        family = socket.AF_INET6 if ipaddress.ip_address(ip).version == 6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            sock.connect((ip, port))
            _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: cls(on_datagram, on_error), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        return protocol

    def send(self, data: bytes) -> None:
        """Send one datagram, or drop it if the socket is closed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data)

    def abort(self) -> None:
        """Close now; what is unsent is dropped. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the descriptor is gone; call `abort` first."""
        await self._closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._on_datagram(data)

    def error_received(self, exc: Exception) -> None:
        self._on_error()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
