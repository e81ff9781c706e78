"""The floor that Roost is measured against: the same libraries, with nothing around them.

``joins`` makes the handshake step by step, one message after the other, and leaves again. ``receive`` lets Roost join,
then takes its socket away: one bare DatagramProtocol opens, decrypts and counts what arrives.

Usage: python floor.py joins|receive CARD BOT GUILD:CHANNEL ... ; it prints JSON lines and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import davey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from roost.audio import AudioFrame, Credentials
from roost_voice._gateway import make_tls
from roost_voice.native import NativeDriver, NativeLink

TEN_S = 10.0
INTENTS = 1 | 1 << 7


class Gateway:
    """The main gateway, as bare as it gets."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, ready: dict[str, Any]) -> None:
        self._websocket = websocket
        self.user_id = int(ready["user"]["id"])
        self._sequence: int | None = None

    @classmethod
    async def connect(cls, http: aiohttp.ClientSession, card: dict[str, Any], bot: int) -> Gateway:
        websocket = await http.ws_connect(card["gateway_url"] + "?v=10&encoding=json", max_msg_size=0)
        await websocket.receive_json()
        properties = {"os": "", "browser": "", "device": ""}
        identify = {"token": card["bots"][bot]["token"], "intents": INTENTS, "properties": properties}
        await websocket.send_json({"op": 2, "d": identify})
        while True:
            message = await websocket.receive_json()
            if message["t"] == "READY":
                return cls(websocket, message["d"])

    async def heartbeats(self) -> None:
        while True:
            await asyncio.sleep(TEN_S)
            await self._websocket.send_json({"op": 1, "d": None})

    async def op4(self, guild_id: int, channel_id: int | None) -> None:
        data = {
            "guild_id": str(guild_id),
            "channel_id": channel_id and str(channel_id),
            "self_mute": False,
            "self_deaf": False,
        }
        await self._websocket.send_json({"op": 4, "d": data})

    async def credentials(self, guild_id: int, channel_id: int) -> Credentials:
        await self.op4(guild_id, channel_id)
        state: dict[str, Any] | None = None
        server: dict[str, Any] | None = None
        while state is None or server is None:
            message = await self._websocket.receive_json()
            data = message["d"]
            if message["t"] == "VOICE_STATE_UPDATE" and int(data["user_id"]) == self.user_id and data["channel_id"]:
                state = data
            elif message["t"] == "VOICE_SERVER_UPDATE" and data["endpoint"] and int(data["guild_id"]) == guild_id:
                server = data
        return Credentials(guild_id, channel_id, self.user_id, state["session_id"], server["token"], server["endpoint"])


@asynccontextmanager
async def main_gateway(card: dict[str, Any], bot: int) -> AsyncIterator[Gateway]:
    async with aiohttp.ClientSession() as http:
        gateway = await Gateway.connect(http, card, bot)
        beat = asyncio.create_task(gateway.heartbeats())
        try:
            yield gateway
        finally:
            beat.cancel()
            await asyncio.wait({beat})


async def handshake(cred: Credentials, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
    """Every message of the voice handshake, each sent as soon as the one before it is there."""
    loop = asyncio.get_running_loop()

    async def until(op: int) -> Any:
        while True:
            message = await websocket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                found = json.loads(message.data)
                if found["op"] == op:
                    return found["d"]

    websocket = await http.ws_connect(f"wss://{cred.server_address}/?v=8")
    identify = {
        "server_id": str(cred.guild_id),
        "channel_id": str(cred.channel_id),
        "user_id": str(cred.user_id),
        "session_id": cred.session_id,
        "token": cred.token,
        "max_dave_protocol_version": davey.DAVE_PROTOCOL_VERSION,
    }
    await websocket.send_json({"op": 0, "d": identify})
    ready = await until(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.connect((ready["ip"], ready["port"]))
        await loop.sock_sendall(udp, struct.pack(">HHI64sH", 1, 70, ready["ssrc"], b"", 0))
        _, _, _, address, port = struct.unpack(">HHI64sH", await loop.sock_recv(udp, 256))
    select = {"address": address.rstrip(b"\0").decode(), "port": port, "mode": "aead_aes256_gcm_rtpsize"}
    await websocket.send_json({"op": 1, "d": {"protocol": "udp", "data": select}})
    await until(4)
    return websocket


async def joins(card: dict[str, Any], bot: int, places: list[tuple[int, int]]) -> None:
    tls = make_tls(Path(card["ca_file"]))
    async with main_gateway(card, bot) as gateway:
        for guild_id, channel_id in places:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, force_close=True)) as http:
                began = time.perf_counter()
                websocket = await handshake(await gateway.credentials(guild_id, channel_id), http)
                print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
                await websocket.close()
            await gateway.op4(guild_id, None)


class Bare(asyncio.DatagramProtocol):
    """Receives, opens and decrypts; no replay window, no order, no statistics, no consent."""

    def __init__(self, key: bytes, dave: davey.DaveSession, speakers: dict[int, int]) -> None:
        self._open = AESGCM(key).decrypt
        self._decrypt = dave.decrypt
        self._speakers = speakers
        self.packets = 0
        self.undecrypted = 0

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) < 28 or data[1] != 0x78:
            return
        clear = 16 if data[0] & 0x10 else 12
        payload = self._open(data[-4:] + bytes(8), data[clear:-4], data[:clear])
        if clear == 16:
            payload = payload[4 * int.from_bytes(data[14:16], "big") :]
        if payload != b"\xf8\xff\xfe":
            try:
                self._decrypt(self._speakers[int.from_bytes(data[8:12], "big")], davey.MediaType.audio, payload)
            except ValueError:
                self.undecrypted += 1
        self.packets += 1


class Events:
    """`roost.audio.LinkEvents`, to learn which stream is whose."""

    def __init__(self) -> None:
        self.speakers: dict[int, int] = {}
        self._news = asyncio.Event()

    async def heard(self, speakers: int) -> None:
        """Wait until so many have spoken."""
        while len(self.speakers) < speakers:
            self._news.clear()
            await self._news.wait()

    def wants(self, user_id: int) -> bool:
        return True

    def frame(self, frame: AudioFrame) -> None:
        self.speakers[frame.ssrc] = frame.user_id
        self._news.set()

    def member_joined(self, user_id: int) -> None: ...

    def member_left(self, user_id: int) -> None: ...

    def speaking(self, user_id: int, on: bool) -> None: ...

    def dave(self, version: int, epoch: int, state: str) -> None: ...

    def state(self, name: str) -> None: ...


def bare(link: NativeLink, speakers: dict[int, int]) -> Bare:
    """Take the link's socket away from it."""
    protocol, udp = link._protocol, link._udp  # a peer of our own making reaches inside
    assert udp is not None
    session = protocol._dave._session
    assert session is not None
    found = Bare(protocol._key, session, speakers)
    udp._transport.set_protocol(found)
    return found


async def receive(card: dict[str, Any], bot: int, place: tuple[int, int]) -> None:
    """A line per line of input: ``{"cpu_s", "packets", "undecrypted"}``. The first turns the link into the bare one."""
    driver = NativeDriver(ca_file=Path(card["ca_file"]), allowed_hosts=("localhost", "127.0.0.1"))
    events = Events()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with main_gateway(card, bot) as gateway, driver.open(await gateway.credentials(*place), events) as link:
        print(json.dumps({"live": True}), flush=True)
        found: Bare | None = None
        while line := await reader.readline():
            wanted = json.loads(line)
            if found is None:
                async with asyncio.timeout(TEN_S):
                    await events.heard(wanted["speakers"])
                found = bare(link, events.speakers)
            figures = {"cpu_s": time.process_time(), "packets": found.packets, "undecrypted": found.undecrypted}
            print(json.dumps(figures), flush=True)


def main() -> None:
    what, card, bot, *places = sys.argv[1:]
    named = [(int(guild), int(channel)) for guild, _, channel in (place.partition(":") for place in places)]
    if what == "joins":
        asyncio.run(joins(json.loads(card), int(bot), named))
    else:
        asyncio.run(receive(json.loads(card), int(bot), named[0]))


if __name__ == "__main__":
    main()
