"""A stock discord.py bot in a process of its own: joins a voice channel, sends Opus, reports what it could decrypt.

Nothing of discord.py is patched; only the addresses it uses and the certificate authority it trusts come from outside.
Talks JSON lines: the configuration is the first argument; a line on stdin is a command, a line on stdout an event.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import sys
import threading
import time
from typing import Any

import aiohttp
import davey
import discord
import discord.gateway
import discord.http
import nacl.secret
import yarl
from discord.voice_state import VoiceConnectionState

SILENCE = b"\xf8\xff\xfe"
_lock = threading.Lock()


def say(event: str, **fields: Any) -> None:
    with _lock:
        print(json.dumps({"event": event, **fields}), flush=True)


class Receiver(discord.VoiceClient):
    """discord.py sends but does not receive; its hook for extensions gives the SSRCs, its socket reader the packets."""

    users: dict[int, int]
    heard: dict[int, list[str]]
    first_bytes: set[int]
    failures: dict[str, int]

    def create_connection_state(self) -> VoiceConnectionState:
        self.users, self.heard, self.first_bytes, self.failures = {}, {}, set(), {}
        return VoiceConnectionState(self, hook=self._on_message)

    async def _on_message(self, _: Any, message: dict[str, Any]) -> None:
        if message["op"] == 5:
            self.users[message["d"]["ssrc"]] = int(message["d"]["user_id"])

    def on_packet(self, data: bytes) -> None:
        """In discord.py's reader thread."""
        if len(data) < 32 or data[1] != 0x78:
            return
        try:
            self.first_bytes.add(data[0])
            user, opus = self._decrypt(data)
        except Exception as error:
            name = f"{type(error).__name__}: {error}"
            self.failures[name] = self.failures.get(name, 0) + 1
            return
        self.heard.setdefault(user, []).append(opus.hex())

    def _decrypt(self, data: bytes) -> tuple[int, bytes]:
        header = 12 + 4 * (data[0] & 15) + (4 if data[0] & 0x10 else 0)
        box = nacl.secret.Aead(bytes(self._connection.secret_key))
        payload = box.decrypt(data[header:-4], data[:header], data[-4:] + bytes(20))
        if data[0] & 0x10:
            payload = payload[4 * struct.unpack_from(">H", data, header - 2)[0] :]
        if data[0] & 0x20:
            payload = payload[: -payload[-1]]
        user = self.users[struct.unpack_from(">I", data, 8)[0]]
        session = self._connection.dave_session
        if payload != SILENCE and session is not None:
            payload = session.decrypt(user, davey.MediaType.audio, payload)
        return user, payload

    def dave(self) -> dict[str, Any]:
        session = self._connection.dave_session
        return {
            "ready": bool(session and session.ready),
            "epoch": session.epoch if session else None,
            "users": sorted(session.get_user_ids() or []) if session else [],
            "code": self.voice_privacy_code,
        }


async def speak(voice: Receiver, packets: list[bytes]) -> None:
    await voice.ws.speak()
    start = time.monotonic()
    for number, packet in enumerate(packets):
        await asyncio.sleep(max(0.0, start + number * 0.02 - time.monotonic()))
        voice.send_audio_packet(packet, encode=False)
    await voice.ws.speak(discord.SpeakingState.none)


async def serve(voice: Receiver) -> None:
    """Obey commands until stdin ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        if command["do"] == "speak":
            await speak(voice, [bytes.fromhex(packet) for packet in command["packets"]])
            say("spoke")
        elif command["do"] == "report":
            say(
                "report",
                heard={str(user): packets for user, packets in voice.heard.items()},
                first_bytes=sorted(voice.first_bytes),
                failures=voice.failures,
                connected=voice.is_connected(),
                dave=voice.dave(),
            )


async def main(config: dict[str, Any]) -> None:
    discord.http.Route.BASE = config["rest_url"]
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(config["gateway_url"])
    context = ssl.create_default_context(cafile=config["ca_file"])
    intents = discord.Intents(guilds=True, voice_states=True)
    async with discord.Client(intents=intents, connector=aiohttp.TCPConnector(ssl=context)) as client:
        ready = asyncio.Event()

        @client.event
        async def on_ready() -> None:
            ready.set()

        running = asyncio.ensure_future(client.start(config["token"]))
        async with asyncio.timeout(20):
            waiting = asyncio.ensure_future(ready.wait())
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            say("ready", user_id=client.user.id if client.user else None)
            channel = client.get_channel(config["channel_id"])
            assert isinstance(channel, discord.VoiceChannel), f"channel {config['channel_id']} is not there"
            started = time.monotonic()
            voice = await channel.connect(cls=Receiver, timeout=10, reconnect=False)
        voice._connection.add_socket_listener(voice.on_packet)
        say("joined", seconds=time.monotonic() - started, mode=voice.mode)
        try:
            await serve(voice)
        finally:
            await voice.disconnect()
    await asyncio.gather(running, return_exceptions=True)
    say("left")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
