"""The voice handshake: rows 15 to 20."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from context import Recorder, Rig, eventually, running
from fault_report import DRIVER, HANDSHAKES, SCALE, TELLS, Fault
from voice_log import arm, identified, seen, voice_log, words

from roost.audio import Timing, VoiceSession
from roost.hooks import hookimpl
from roost.sim.server import SimulatedDiscord
from roost.testing.leftovers import leak_check
from roost_voice.moves import State, Told
from roost_voice.sim.drivers import Certificate

pytestmark = pytest.mark.sim

REAL = Timing()
TIMING = REAL.scaled(SCALE)


OPENINGS = 3 if DRIVER == "native" else HANDSHAKES
"""How often a server that cannot be reached is called."""


class SilentServer:
    """Takes connections, or not even that, and says nothing on them."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.taken = 0
        self.open = 0

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self.open += 1
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                pass
        self.open -= 1
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self, certificate: Certificate | None) -> AsyncIterator[None]:
        tls = certificate.server if certificate else None
        server = await asyncio.start_server(self._take, "127.0.0.1", 0, ssl=tls)
        async with server:
            self.endpoint = f"localhost:{server.sockets[0].getsockname()[1]}"
            yield

    @contextlib.asynccontextmanager
    async def with_a_full_backlog(self) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            self.endpoint = f"localhost:{listener.getsockname()[1]}"
            for _ in range(3):
                other = stack.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(listener.getsockname())
            yield


@pytest.mark.fault(15)
@pytest.mark.parametrize("silent", ["from the first packet", "before TLS", "after TLS"])
async def test_the_voice_server_says_nothing(sim: SimulatedDiscord, tmp_path: Path, fault: Fault, silent: str) -> None:
    server, certificate = SilentServer(), Certificate()
    assert sim.part is not None
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(sim.part.ca_file.read_text() + certificate.ca_file.read_text())
    listening = (
        server.with_a_full_backlog()
        if silent == "from the first packet"
        else server.listening(certificate if silent == "after TLS" else None)
    )
    async with leak_check(), running(sim, tmp_path, ca_file=authorities) as rig, listening:
        arm(rig, "other_endpoint", endpoint=server.endpoint)
        began = time.monotonic()
        with fault.clock():
            result = await rig.join(0)
            await rig.at_rest()
        took_s = time.monotonic() - began
        assert result.told is Told.FAILED
        assert "in time" in words(rig, result)
        assert took_s >= 3 * TIMING.ws_open_s
        if silent != "from the first packet":
            await eventually(lambda: not server.open)
            assert server.taken == OPENINGS
        assert rig.place is None
        assert rig.op4() == [str(rig.channels[0]), None]
        assert (await rig.join(0)).told is Told.JOINED
    certificate.remove()


STEPS = {
    "mute_hello": (REAL.hello_s, "did not say hello"),
    "mute_ready": (REAL.ready_s, "did not accept the bot in time"),
    "mute_session_description": (REAL.session_description_s, "did not describe the session"),
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("mute", STEPS)
async def test_a_message_of_the_handshake_never_comes(rig: Rig, fault: Fault, mute: str) -> None:
    step_s, told = STEPS[mute] if TELLS else (REAL.connecting_s, "in time")
    arm(rig, mute, times=HANDSHAKES)
    with fault.clock(step_s):
        result = await rig.join(0)
        await rig.at_rest()
    assert result.told is Told.FAILED
    assert told in words(rig, result)
    assert rig.place is None
    assert rig.op4() == [str(rig.channels[0]), None]
    await eventually(lambda: rig.sim.state()["connections"]["voice_ws"] == 0)
    assert (await rig.join(0)).told is Told.JOINED


@pytest.mark.fault(16)
@pytest.mark.parametrize("mute", STEPS)
async def test_a_message_is_missing_when_a_session_moves_to_another_server(rig: Rig, fault: Fault, mute: str) -> None:
    """The session stands, so it is joined anew rather than ended."""
    result = await rig.join(0)
    assert result.session is not None
    arm(rig, mute, times=HANDSHAKES)
    with fault.clock((STEPS[mute][0] if TELLS else REAL.connecting_s) + REAL.op4_guild_s):
        rig.sim.voice.new_server(rig.guild, rig.bot_id)
        await rig.recorder.until("restored")
    assert rig.manager.session(rig.guild_id) is result.session
    assert result.session.generation == 3
    assert rig.op4() == [str(rig.channels[0]), None, str(rig.channels[0])]


TRIES = round(TIMING.discovery_s / TIMING.discovery_resend_s)


@pytest.mark.fault(17)
@pytest.mark.parametrize("lost", [1, TRIES - 2])
async def test_discovery_is_repeated(rig: Rig, fault: Fault, lost: int) -> None:
    arm(rig, "drop_discovery", n=lost)
    with fault.clock():
        assert (await rig.join(0)).told is Told.JOINED
    assert dropped(rig) == lost
    assert len(identified(rig)) == 1


@pytest.mark.fault(17)
async def test_every_discovery_is_lost(rig: Rig, fault: Fault) -> None:
    arm(rig, "drop_discovery", n=1000, times=HANDSHAKES)
    with fault.clock():
        result = await rig.join(0)
        await rig.at_rest()
    assert result.told is Told.FAILED
    assert "is outgoing UDP blocked?" in words(rig, result)
    assert TRIES - 2 <= dropped(rig) <= TRIES + 1 if DRIVER == "native" else dropped(rig) == HANDSHAKES
    assert rig.op4() == [str(rig.channels[0]), None]


def dropped(rig: Rig) -> int:
    """Discovery requests that the simulator left unanswered."""
    assert rig.sim.part is not None
    return int(rig.sim.part.state()["datagrams_ignored"].get("discovery", 0))


@pytest.mark.fault(18)
@pytest.mark.parametrize("lost", [0, 2])
async def test_forged_answers_to_discovery(rig: Rig, fault: Fault, lost: int) -> None:
    """Also while the true answer is still to come."""
    arm(rig, "forge_discovery")
    if lost:
        arm(rig, "drop_discovery", n=lost)
    with fault.clock():
        result = await rig.join(0)
    assert result.session is not None
    (selected,) = voice_log(rig, "select")
    host, port = selected["address"].split(":")
    assert host == "127.0.0.1", "a forged address was believed"
    assert int(port) in own_udp_ports()
    assert result.session.stats().link.violations == {
        "discovery_size": 2,
        "discovery_type": 1,
        "discovery_length": 1,
        "discovery_ssrc": 1,
        "discovery_address": 3,
    }


def own_udp_ports() -> set[int]:
    lines = Path("/proc/self/net/udp").read_text().splitlines()[1:]
    return {int(line.split()[1].partition(":")[2], 16) for line in lines}


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("offer", "told"),
    [
        ("no_common_mode", "offers no encryption mode that we know"),
        ("bad_key_length", "session description cannot be used"),
    ],
)
async def test_no_encryption_that_works(rig: Rig, fault: Fault, offer: str, told: str) -> None:
    arm(rig, offer, times=5)
    with fault.clock():
        result = await rig.join(0)
        await rig.at_rest()
    assert result.told is Told.FAILED
    assert told in words(rig, result)
    assert len(identified(rig)) == HANDSHAKES, "it tried again"
    assert rig.op4() == [str(rig.channels[0]), None]


class SlowOpening(Recorder):
    """Opens a session once it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Event()

    @hookimpl
    async def voice_session_opening(self, session: VoiceSession) -> None:
        self._note("opening", session.channel_id)
        await self.allowed.wait()


@pytest.mark.fault(20)
@pytest.mark.parametrize("follow", [True, False], ids=["follows", "leaves"])
@pytest.mark.parametrize("moment", ["half an answer", "no server", "connecting", "discovering", "plugins are asked"])
async def test_moved_while_joining(
    sim: SimulatedDiscord, tmp_path: Path, fault: Fault, moment: str, follow: bool
) -> None:
    recorder = SlowOpening()
    async with leak_check(), running(sim, tmp_path, recorder=recorder, follow_moves=follow) as rig:
        if moment == "half an answer":
            arm(rig, "withhold_vsrvu")
        elif moment == "no server":
            arm(rig, "endpoint_null_first", delay_s=None)
        elif moment == "connecting":
            arm(rig, "mute_ready")
        elif moment == "discovering":
            arm(rig, "drop_discovery", n=1000)
        joining = asyncio.ensure_future(rig.join(0))
        if moment in ("half an answer", "no server"):
            await eventually(lambda: seen(rig, "vsu") == [str(rig.channels[0])])
        elif moment == "connecting":
            await eventually(lambda: len(identified(rig)) == 1)
        elif moment == "discovering":
            await eventually(lambda: dropped(rig) > 0)
        else:
            await recorder.until("opening")
        with fault.clock():
            rig.sim.voice.move(rig.guild, rig.bot_id, rig.guild.channels[rig.channels[2]])
            if moment == "plugins are asked":
                await eventually(lambda: rig.manager.state(rig.guild_id) is not State.LIVE)
            recorder.allowed.set()
            result = await joining
        if follow:
            assert words(rig, result) == f"Moved to <#{rig.channels[2]}>: a moderator moved me."
            assert result.session is not None
            assert result.session.channel_id == rig.place == rig.channels[2]
            await eventually(lambda: rig.manager.state(rig.guild_id) is State.LIVE)
            (session,) = rig.sim.state()["voice_sessions"]
            assert session["channel_id"] == str(rig.channels[2])
            assert rig.op4() == [str(rig.channels[0])]
            assert (await rig.join(1)).told is Told.MOVED
            # A move while plugins were asked is announced, once they have been.
            moves = 2 if moment == "plugins are asked" else 1
            assert await recorder.until("moved", moves) == (rig.channels[2], rig.channels[1], True)
            await rig.leave()
        else:
            assert words(rig, result) == f"I could not join <#{rig.channels[0]}>: I was moved to another channel."
            assert rig.op4() == [str(rig.channels[0]), None]
        await rig.at_rest()
        assert rig.place is None
        assert rig.most <= 1
        assert not list((tmp_path / "instances").glob("*.json"))
