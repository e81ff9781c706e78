"""The voice part of the simulated Discord: everything together, behind `roost.sim.voice_part.VoicePart`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp

from roost.audio import FRAME_MS
from roost.errors import ClosedError, UsageError
from roost.opus import PACKET_MS
from roost.scopes import Scope
from roost.sim.faults import LONGEST_DELAY_S, Param
from roost.sim.voice_part import SimHost, Ticket
from roost_voice.sim import faults, sound
from roost_voice.sim.drivers import MEMBER_HEADER, Certificate, GatewayDriver, UdpDriver, send_from_elsewhere
from roost_voice.sim.member import Listener, Member
from roost_voice.sim.server import VoiceServer
from roost_voice.sim.settings import VoiceSettings

MAX_PACKET_BYTES = 1400
_MEMBER_LIVE_S = 10.0
_CLOSE_S = 2.0


class _Running:
    """What exists between `start` and `aclose`."""

    def __init__(self, settings: VoiceSettings, host: SimHost) -> None:
        self.secret = secrets.token_hex(8)
        self.certificate = Certificate()
        self.scope = Scope("sim.voice")
        self.server = VoiceServer(settings, host, send_from_elsewhere)
        self.gateway = GatewayDriver(self.server, settings, self.certificate, self.scope, self.secret)
        self.udp = UdpDriver(self.server)
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_MEMBER_LIVE_S)
        )
        self.relay = lambda packet: self.server.media.relay(packet, time.monotonic())
        self.encoders = ThreadPoolExecutor(1, thread_name_prefix="sim-opus")
        self.members: dict[tuple[int, int], tuple[Member, asyncio.Task[None]]] = {}
        self.relay_port: int | None = None


async def _end_member(member: Member, task: asyncio.Task[None]) -> None:
    """Hang up politely, then by force."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await member.hang_up()
            await asyncio.wait([task])
    except TimeoutError:
        pass
    finally:
        task.cancel()


class SimulatedVoice:
    """See `roost.sim.voice_part.VoicePart`. Nothing runs before `start`; `aclose` leaves nothing behind."""

    def __init__(self, settings: VoiceSettings) -> None:
        self.settings = settings
        self._running: _Running | None = None

    def _need(self) -> _Running:
        if self._running is None:
            raise ClosedError("the simulated voice servers are not running")
        return self._running

    @property
    def ca_file(self) -> Path:
        """The authority that signed the voice gateway's certificate (PEM); gone after `aclose`."""
        return self._need().certificate.ca_file

    @property
    def endpoint(self) -> str:
        """``host:port`` of the voice gateway."""
        return f"{self.settings.endpoint_host}:{self._need().gateway.port}"

    @property
    def udp_address(self) -> tuple[str, int]:
        """Where the voice server takes media."""
        return self._need().server.udp_address

    @property
    def gateway_port(self) -> int:
        """Where the voice gateway listens."""
        return self._need().gateway.port

    def lead_through(self, *, udp: tuple[str, int] | None = None, gateway_port: int | None = None) -> None:
        """Announce these to bots in place of the true ones: relays, which lead there. None: the true one."""
        running = self._need()
        running.server.udp_relay = udp
        running.relay_port = gateway_port

    async def start(self, host: SimHost) -> None:
        """Open the sockets. If it fails, everything opened so far is closed again."""
        if self._running is not None:
            raise UsageError("the simulated voice servers are already running")
        running = self._running = _Running(self.settings, host)
        try:
            await running.udp.start(self.settings.host)
            await running.gateway.start()
            running.scope.spawn(self._tick(running), "tick")
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End members, connections and sockets, remove the certificate. Idempotent."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            await asyncio.gather(*(_end_member(member, task) for member, task in running.members.values()))
            await running.gateway.aclose()
            await running.scope.aclose(_CLOSE_S)
            await running.http.close()
        finally:
            running.udp.close()
            running.encoders.shutdown(wait=False, cancel_futures=True)
            running.certificate.remove()

    async def _tick(self, running: _Running) -> None:
        while True:
            await asyncio.sleep(self.settings.tick_s)
            running.server.tick(time.monotonic())

    # Tickets

    def allocate(self, guild_id: int, channel_id: int, user_id: int, session_id: str) -> Ticket:
        """A ticket; earlier ones of this user in this guild answer 4006 from now on."""
        grant = self._need().server.grant(guild_id, channel_id, user_id, session_id, virtual=False)
        relay_port = self._need().relay_port
        return Ticket(grant.token, f"{self.settings.endpoint_host}:{relay_port}" if relay_port else self.endpoint)

    def end(self, guild_id: int, user_id: int, code: int) -> None:
        """Void the ticket and close the connection with `code`; without effect where there is none."""
        if self._running is not None:
            self._running.server.end(guild_id, user_id, code, time.monotonic())

    # Members

    async def member_join(self, guild_id: int, channel_id: int, user_id: int, session_id: str) -> None:
        """Connect a virtual member; one that is connected in this guild moves.

        Raises:
            ResourceError: The connection did not come up; nothing is left of it.
        """
        running = self._need()
        await self.member_leave(guild_id, user_id)
        grant = running.server.grant(guild_id, channel_id, user_id, session_id, virtual=True)
        member = Member(
            guild_id,
            channel_id,
            user_id,
            session_id=session_id,
            token=grant.token,
            url=f"wss://{self.endpoint}",
            mode=self.settings.member_mode,
        )
        headers = {MEMBER_HEADER: running.secret}
        task = running.scope.spawn(member.run(running.http, running.certificate.client, headers), f"member-{user_id}")
        running.members[guild_id, user_id] = (member, task)
        try:
            await member.wait_live(_MEMBER_LIVE_S)
        except BaseException:
            task.cancel()
            if running.members.get((guild_id, user_id)) == (member, task):
                del running.members[guild_id, user_id]
            raise

    async def member_leave(self, guild_id: int, user_id: int) -> None:
        """Disconnect a virtual member, also in mid-speech; nothing happens when it is not there."""
        running = self._running
        if running is None:
            return
        member, task = running.members.pop((guild_id, user_id), (None, None))
        if member is None or task is None:
            return
        await _end_member(member, task)
        running.server.end(guild_id, user_id, 4014, time.monotonic())

    def member(self, guild_id: int, user_id: int) -> Member:
        """A connected virtual member.

        Raises:
            UsageError: There is none of this id in voice.
        """
        found = self._need().members.get((guild_id, user_id))
        if found is None or found[0].closed:
            raise UsageError(f"member {user_id} is not in voice")
        return found[0]

    def listen(self, guild_id: int, user_id: int, listener: Listener | None) -> None:
        """Have a virtual member decrypt what it receives and pass it on as (user id, Opus); None ends that."""
        self.member(guild_id, user_id).listener = listener

    async def speak(
        self, guild_id: int, user_id: int, *, wav: bytes | None, recording: str | None, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Have a virtual member say a WAV file or a shipped recording, in real time.

        Args:
            guild_id: Where.
            user_id: Who.
            wav: A WAV file of any rate and channel count.
            recording: Name of a shipped one; exactly one of the two is given.
            params: ``wait_s``, how long to wait for encryption; ``repeat``, how often to say it (1); ``packet_ms``, the
                length of the Opus packets (20); ``insert``, packets in hex that are sent in the middle, valid or not;
                ``direct``, true to spare the way through the member's own socket, for hundreds of speakers.

        Raises:
            UsageError: Wrong arguments, an unreadable file, or the member is not in voice.
            BusyError: The member is already speaking.
            ResourceError: Encryption did not get ready.
        """
        running = self._need()
        member = self.member(guild_id, user_id)
        if (wav is None) == (recording is None):
            raise UsageError("speak takes either wav or recording")
        try:
            wait_s = float(params.get("wait_s", self.settings.dave_wait_s))
            repeat = int(params.get("repeat", 1))
            packet_ms = float(params.get("packet_ms", FRAME_MS))
            insert = [bytes.fromhex(packet) for packet in params.get("insert", ())]
        except (TypeError, ValueError) as error:
            raise UsageError("wait_s, repeat and packet_ms must be numbers, insert a list of packets in hex") from error
        if packet_ms not in PACKET_MS:
            raise UsageError(f"packet_ms must be one of {', '.join(f'{each:g}' for each in PACKET_MS)}")
        if any(len(packet) > MAX_PACKET_BYTES for packet in insert):
            raise UsageError(f"a packet of insert has at most {MAX_PACKET_BYTES} bytes")
        if not 0 <= wait_s <= LONGEST_DELAY_S:
            raise UsageError(f"wait_s must be from 0 to {LONGEST_DELAY_S:g}")
        if not 1 <= repeat <= 1000:
            raise UsageError("repeat must be from 1 to 1000")
        loop = asyncio.get_running_loop()
        if wav is not None:
            packets = await loop.run_in_executor(running.encoders, sound.packets_of_wav, wav, packet_ms)
        else:
            packets = list(
                await loop.run_in_executor(running.encoders, sound.packets_of_recording, recording or "", packet_ms)
            )
        member.shortcut = running.relay if params.get("direct") else None
        packets *= repeat
        middle = len(packets) // 2
        return await member.speak([*packets[:middle], *insert, *packets[middle:]], wait_s=wait_s)

    def recordings(self) -> list[dict[str, Any]]:
        return sound.manifest()

    def faults(self) -> Mapping[str, str]:
        """The faults that can be armed here, with what they do."""
        return faults.descriptions()

    def fault_params(self) -> Mapping[str, Mapping[str, Param]]:
        """The parameters of those that have some."""
        return faults.PARAMS

    def state(self) -> dict[str, Any]:
        """Sessions and counters; see `VoicePart.state`."""
        return self._need().server.state()
