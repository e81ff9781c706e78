"""A virtual member: a small voice client of its own, through the same sockets as everybody's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import davey

from roost.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, SILENCE_FRAME
from roost.errors import BusyError, ClosedError, ResourceError
from roost.opus_packet import packet_samples
from roost_voice.sim import rtp

_STEP_S = 5.0
_HEARTBEAT_S = 5.0
_KEEPALIVE_S = 5.0
_CLOSING_FRAMES = 5
_SPEAKING_LEAD_S = 0.02
"""Between op 5 and the first frame: the one goes through two websockets, the other straight."""

Listener = Callable[[int, bytes], None]


def lasting(opus: bytes) -> int:
    """Samples by which a packet moves the media clock; one that is no Opus takes the place of 20 ms."""
    return packet_samples(opus) or FRAME_SAMPLES


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, member: Member) -> None:
        self._member = member

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._member.datagram(data)

    def error_received(self, exc: Exception) -> None:
        pass  # the server has gone; the websocket tells


class Member:
    """One virtual member's voice connection. Whoever runs `run` owns it; cancelling that task ends it.

    Args:
        guild_id: The guild.
        channel_id: The voice channel, also the MLS group id.
        user_id: The member.
        session_id: Of its voice state.
        token: Of its ticket.
        url: The voice gateway.
        mode: Transport encryption it prefers.
    """

    def __init__(
        self, guild_id: int, channel_id: int, user_id: int, *, session_id: str, token: str, url: str, mode: str
    ) -> None:
        self.guild_id = guild_id
        self.channel_id = channel_id
        self.user_id = user_id
        self.live = asyncio.Event()
        self.changed = asyncio.Event()
        """Set whenever the encryption may have become ready; see `wait_ready`."""
        self.closed = False
        self.shortcut: Callable[[rtp.Packet], None] | None = None
        """Takes packets in place of the UDP socket; for loads under which the simulator would drop datagrams."""
        self.listener: Listener | None = None
        """Called with (user id, Opus) for every decrypted frame; without one nothing is decrypted."""
        self.packets_received = 0
        self.problems: dict[str, int] = {}
        self.version = 0
        self.dave: davey.DaveSession | None = None
        self.others: set[int] = set()
        self._session_id = session_id
        self._token = token
        self._url = url
        self._mode = mode
        self._websocket: aiohttp.ClientWebSocketResponse | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._discovered: asyncio.Future[tuple[str, int]] | None = None
        self._opener: rtp.Cipher | None = None
        self._sealer: rtp.Cipher | None = None
        self._ssrc = 0
        self._users: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._seq_ack = -1
        self._sequence = 1
        self._timestamp = FRAME_SAMPLES
        self._speaking = False
        self._connecting: asyncio.Task[None] | None = None

    # Life

    async def run(self, http: aiohttp.ClientSession, context: ssl.SSLContext, headers: Mapping[str, str]) -> None:
        """Connect and stay until cancelled or thrown out; sockets are closed when this returns."""
        try:
            async with (
                http.ws_connect(
                    f"{self._url}/?v=8", ssl=context, headers=headers, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)
                ) as websocket,
                asyncio.TaskGroup() as tasks,
            ):
                self._websocket = websocket
                await self._send(
                    0,
                    {
                        "server_id": str(self.guild_id),
                        "user_id": str(self.user_id),
                        "session_id": self._session_id,
                        "token": self._token,
                        "max_dave_protocol_version": davey.DAVE_PROTOCOL_VERSION,
                    },
                )
                beats = tasks.create_task(self._beat())
                try:
                    async for message in websocket:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            await self._json(json.loads(message.data), tasks)
                        elif message.type is aiohttp.WSMsgType.BINARY:
                            await self._binary(message.data)
                finally:
                    beats.cancel()
                    if self._connecting is not None:
                        self._connecting.cancel()
        except* (ConnectionError, aiohttp.ClientError):
            self._problem("connection")
        finally:
            self.closed = True
            self.live.set()
            self.changed.set()
            if self._transport is not None:
                self._transport.close()

    async def hang_up(self) -> None:
        """Close the websocket as a client does (1000); `run` then returns by itself."""
        if self._websocket is not None:
            await self._websocket.close()

    async def wait_live(self, timeout_s: float) -> None:
        """Wait for the session description.

        Raises:
            ResourceError: It did not come.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.live.wait()
        except TimeoutError as error:
            raise ResourceError(f"virtual member {self.user_id} got no voice connection in {timeout_s:g} s") from error
        if self.closed:
            raise ResourceError(f"virtual member {self.user_id} was refused by the voice gateway")

    async def _beat(self) -> None:
        for number in range(1 << 62):
            await self._send(3, {"t": int(time.time() * 1000), "seq_ack": self._seq_ack})
            if self._transport is not None and self.live.is_set():
                self._transport.sendto(struct.pack("<Q", number))
            await asyncio.sleep(min(_HEARTBEAT_S, _KEEPALIVE_S))

    # Signalling

    async def _send(self, op: int, payload: Any) -> None:
        if self._websocket is None or self._websocket.closed:
            return
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            if isinstance(payload, bytes):
                await self._websocket.send_bytes(bytes([op]) + payload)
            else:
                await self._websocket.send_str(json.dumps({"op": op, "d": payload}))

    def _problem(self, what: str) -> None:
        self.problems[what] = self.problems.get(what, 0) + 1

    async def _json(self, message: Mapping[str, Any], tasks: asyncio.TaskGroup) -> None:
        op, payload = message["op"], message["d"]
        self._seq_ack = message.get("seq", self._seq_ack)
        if op == 2:
            self._connecting = tasks.create_task(self._connect_udp(payload))
        elif op == 4:
            key = bytes(payload["secret_key"])
            self._opener, self._sealer = rtp.Cipher(payload["mode"], key), rtp.Cipher(payload["mode"], key)
            self.version = payload["dave_protocol_version"]
            await self._new_group()
            self.live.set()
        elif op == 5:
            self._users[payload["ssrc"]] = int(payload["user_id"])
        elif op == 11:
            self.others |= {int(user) for user in payload["user_ids"]} - {self.user_id}
        elif op == 13:
            self.others.discard(int(payload["user_id"]))
        elif op == 21:
            await self._prepare(payload["transition_id"], payload["protocol_version"])
        elif op == 22:
            self._execute(payload["transition_id"])
        elif op == 24 and payload["epoch"] == 1:
            self.version = payload["protocol_version"]
            await self._new_group()
        self.changed.set()

    async def _connect_udp(self, ready: Mapping[str, Any]) -> None:
        self._ssrc = ready["ssrc"]
        loop = asyncio.get_running_loop()
        self._discovered = loop.create_future()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Udp(self), remote_addr=(ready["ip"], ready["port"])
        )
        for _ in range(12):
            self._transport.sendto(rtp.discovery_request(self._ssrc))
            done, _ = await asyncio.wait([self._discovered], timeout=0.25)
            if done:
                break
        else:
            self._problem("discovery")
            return
        host, port = self._discovered.result()
        mode = self._mode if self._mode in ready["modes"] else ready["modes"][0]
        await self._send(1, {"protocol": "udp", "data": {"address": host, "port": port, "mode": mode}})

    async def _prepare(self, number: int, version: int) -> None:
        self._pending[number] = version
        if number == 0:
            self._execute(0)
            return
        if version == 0 and self.dave is not None:
            self.dave.set_passthrough_mode(True, 10)
        await self._send(23, {"transition_id": number})

    def _execute(self, number: int) -> None:
        if number in self._pending:
            self.version = self._pending.pop(number)

    async def _binary(self, message: bytes) -> None:
        self._seq_ack = int.from_bytes(message[:2], "big")
        op, body = message[2], message[3:]
        if self.dave is None:
            return
        number = int.from_bytes(body[:2], "big")
        try:
            if op == 25:
                self.dave.set_external_sender(body)
            elif op == 27:
                kind = davey.ProposalsOperationType.revoke if body[0] else davey.ProposalsOperationType.append
                made = self.dave.process_proposals(kind, body[1:], [self.user_id, *self.others])
                if made is not None:
                    await self._send(28, made.commit + (made.welcome or b""))
            elif op == 29:
                self.dave.process_commit(body[2:])
            elif op == 30:
                self.dave.process_welcome(body[2:])
        except ValueError:  # davey's only kind of error, for peer data and for the wrong moment alike
            self._problem(f"op_{op}")
            if op in (29, 30):
                await self._send(31, {"transition_id": number})
                await self._new_group()
            return
        if op in (29, 30):
            self._pending[number] = self.version
            if number:
                await self._send(23, {"transition_id": number})
            else:
                self._execute(0)
        self.changed.set()

    async def _new_group(self) -> None:
        if self.version == 0:
            return
        if self.dave is None:
            self.dave = davey.DaveSession(self.version, self.user_id, self.channel_id)
        else:
            self.dave.reinit(self.version, self.user_id, self.channel_id)
        await self._send(26, self.dave.get_serialized_key_package())

    # Media

    @property
    def ready(self) -> bool:
        """Whether a frame sent now reaches everybody known to be in the channel."""
        if not self.version or not self.others:
            return True
        if self.dave is None or not self.dave.ready:
            return False
        return self.others <= {int(user) for user in self.dave.get_user_ids()}

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until `ready`; past the timeout, go on if at least some can decrypt.

        Raises:
            ResourceError: Nobody could decrypt what this member says.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.ready and not self.closed:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError as error:
            if self.dave is None or not self.dave.ready:
                raise ResourceError(
                    f"end-to-end encryption of member {self.user_id} was not ready in {timeout_s:g} s"
                ) from error

    def send_opus(self, opus: bytes) -> None:
        """Send one packet; while encryption is not ready nothing leaves, only the media clock moves on."""
        sequence, timestamp = self._sequence, self._timestamp
        self._sequence = (sequence + 1) & 0xFFFF
        self._timestamp = (timestamp + lasting(opus)) & 0xFFFFFFFF
        if self._sealer is None or self._transport is None or self._transport.is_closing():
            return
        if self.version and opus != SILENCE_FRAME:
            if self.dave is None or not self.dave.ready:
                return
            opus = self.dave.encrypt_opus(opus)
        packet = rtp.Packet(self._ssrc, sequence, timestamp, opus)
        if self.shortcut is not None:
            self.shortcut(packet)
        else:
            self._transport.sendto(rtp.seal(packet, self._sealer))

    async def say_speaking(self, bits: int) -> None:
        await self._send(5, {"speaking": bits, "delay": 0, "ssrc": self._ssrc})

    async def speak(self, packets: Sequence[bytes], *, wait_s: float) -> dict[str, Any]:
        """Send the packets in real time, each for as long as it lasts.

        Returns:
            ``started_at`` and ``ended_at`` (`time.monotonic` at the first and the last packet) and ``frames``.

        Raises:
            BusyError: It is already speaking.
            ClosedError: Its connection has ended.
            ResourceError: Its encryption did not get ready.
        """
        if self._speaking:
            raise BusyError(f"member {self.user_id} is already speaking")
        self._speaking = True
        try:
            await self.wait_ready(wait_s)
            await self.say_speaking(1)
            try:
                await asyncio.sleep(_SPEAKING_LEAD_S)
                started_at = time.monotonic()
                ended_at = started_at
                due = started_at
                for packet in packets:
                    await self._until(due)
                    self.send_opus(packet)
                    ended_at = time.monotonic()
                    due += lasting(packet) / SAMPLE_RATE_HZ
                for _ in range(_CLOSING_FRAMES):
                    await self._until(due)
                    self.send_opus(SILENCE_FRAME)
                    due += FRAME_SAMPLES / SAMPLE_RATE_HZ
            finally:
                await self.say_speaking(0)
            return {"started_at": started_at, "ended_at": ended_at, "frames": len(packets)}
        finally:
            self._speaking = False

    async def _until(self, moment: float) -> None:
        if self.closed:
            raise ClosedError(f"member {self.user_id} left while speaking")
        await asyncio.sleep(max(0.0, moment - time.monotonic()))

    def datagram(self, data: bytes) -> None:
        """One datagram from the voice server."""
        if self._discovered is not None and not self._discovered.done():
            found = rtp.read_discovery_reply(data, self._ssrc)
            if found is not None:
                self._discovered.set_result(found)
            return
        if not rtp.is_media(data):
            return
        self.packets_received += 1
        if self.listener is None or self._opener is None:
            return
        try:
            packet = rtp.open_packet(data, self._opener)
        except rtp.BadPacket as error:
            self._problem(str(error))
            return
        user = self._users.get(packet.ssrc)
        if user is None:
            self._problem("unknown_ssrc")
            return
        opus = packet.payload
        if self.version and opus != SILENCE_FRAME:
            if self.dave is None:
                return
            try:
                opus = bytes(self.dave.decrypt(user, davey.MediaType.audio, opus))
            except ValueError:
                self._problem("undecryptable")
                return
        self.listener(user, opus)
