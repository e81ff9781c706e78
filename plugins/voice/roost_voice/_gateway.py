"""The WebSocket to a voice gateway: who may be called, over verified TLS, with bounded messages."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from pathlib import Path
from typing import Any, NoReturn

import aiohttp

from roost.errors import ConfigError

from .protocol.messages import MAX_BINARY_BYTES

MAX_MESSAGE_BYTES = MAX_BINARY_BYTES
CODE_LEFT = 1000
CODE_RESUMING = 4900
"""Sent when a socket is given up for another: 1000 would end the session that is about to be resumed."""

TLS_BUFFER_BYTES = 32 * 1024
"""A TLS record holds 16 KiB at most. asyncio would give each connection 256 KiB, most of what an idle session takes."""


class OpenError(Exception):
    """A socket could not be opened; the message is for people.

    Args:
        message: One sentence.
        retryable: Whether the same call may succeed later.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


def make_tls(ca_file: Path | None) -> ssl.SSLContext:
    """A context that verifies certificates and host names.

    Args:
        ca_file: An authority to trust besides the system's (PEM).

    Raises:
        ConfigError: The file is missing or no certificate.
    """
    # Nothing public sets it for one connection alone.
    SSLProtocol.max_size = min(SSLProtocol.max_size, TLS_BUFFER_BYTES)
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=str(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot read a certificate authority from {ca_file}", key="voice.ca_file") from error
    return context


async def _refuse_redirect(*_: Any) -> NoReturn:
    raise OpenError("Discord's voice server answered with a redirect.", retryable=False)


def make_http(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """A session for the sockets of one link, which owns and closes it."""
    no_redirects = aiohttp.TraceConfig()
    # A redirect would lead past the list of allowed hosts.
    no_redirects.on_request_redirect.append(_refuse_redirect)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[no_redirects],
        trust_env=False,
    )


class GatewaySocket:
    """One connected WebSocket. Whoever opened it calls `close`."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket

    @classmethod
    async def open(cls, http: aiohttp.ClientSession, url: str) -> GatewaySocket:
        """Connect; takes as long as it takes, so bound it by cancelling.

        Raises:
            OpenError: It did not come about.
        """
        try:
            websocket = await http.ws_connect(
                url, max_msg_size=MAX_MESSAGE_BYTES, autoping=True, heartbeat=None, compress=0
            )
        except aiohttp.ClientConnectorCertificateError as error:
            raise OpenError("The voice server's TLS certificate could not be verified.", retryable=False) from error
        except aiohttp.ClientSSLError as error:
            raise OpenError("TLS with Discord's voice server failed.", retryable=False) from error
        except aiohttp.WSServerHandshakeError as error:
            raise OpenError(
                f"Discord's voice server refused the connection (HTTP {error.status}).", retryable=error.status >= 500
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise OpenError("Discord's voice server could not be reached.", retryable=True) from error
        return cls(websocket)

    async def receive(self) -> str | bytes | int:
        """The next message, or the close code once the socket has ended (1006 if the connection broke off)."""
        websocket = self._websocket
        while True:
            message = await websocket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                return str(message.data)
            if message.type is aiohttp.WSMsgType.BINARY:
                return bytes(message.data)
            if message.type not in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG):
                code = websocket.close_code
                return int(aiohttp.WSCloseCode.ABNORMAL_CLOSURE) if code is None else int(code)

    async def send(self, frame: str | bytes) -> None:
        """Send one message.

        Raises:
            ConnectionError: The socket is closed.
        """
        if isinstance(frame, str):
            await self._websocket.send_str(frame)
        else:
            await self._websocket.send_bytes(frame)

    async def close(self, code: int, grace_s: float) -> None:
        """Say good-bye, wait for the answer at most `grace_s`, then cut the connection, also when cancelled."""
        try:
            async with asyncio.timeout(grace_s):
                await self._websocket.close(code=code)
        except (TimeoutError, aiohttp.ClientError, OSError):
            # aiohttp has cut the connection when its close was cancelled or failed.
            pass
