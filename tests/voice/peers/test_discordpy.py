"""An unmodified discord.py bot at the simulated Discord: where the two disagree, the simulator is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from roost.audio import SILENCE_FRAME, Credentials, Timing
from roost.demo.bot_process import run_bot
from roost.sim import ControlClient, SimSettings, SimulatedDiscord
from roost.sim.world import TEXT, VOICE
from roost.testing.driver_conformance import RecordingEvents
from roost_voice.native import NativeDriver
from roost_voice.sim import create, sound

pytestmark = pytest.mark.sim

DEADLINE_S = 20.0
PEER = Path(__file__).with_name("discordpy_peer.py")


class Peer:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for its next event, which must be this one."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = await self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"the peer ended: {(await self.process.stderr.read()).decode()[-3000:]}")
        event: dict[str, Any] = json.loads(line)
        assert event["event"] == name, event
        return event

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")

    async def report(self) -> dict[str, Any]:
        self.tell(do="report")
        return await self.event("report")

    async def until_encrypted(self) -> None:
        """Wait until its own end of the encryption stands, not only the server's view of it."""
        async with asyncio.timeout(DEADLINE_S):
            while not (await self.report())["dave"]["ready"]:
                await asyncio.sleep(0.02)

    async def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.event("left")
        async with asyncio.timeout(DEADLINE_S):
            assert await self.process.wait() == 0


class Scene:
    """The simulated Discord, its first guild, two of its members and the second bot."""

    def __init__(self, sim: SimulatedDiscord, peers: list[Peer]) -> None:
        self.sim = sim
        self.part: Any = sim.part
        self.guild = next(iter(sim.world.guilds.values()))
        self.channels = self.guild.of_type(VOICE)
        self.ada, self.ben = [user.id for user in sim.world.humans][1:3]
        self.bot = sim.world.bots[1]
        self._peers = peers

    async def enter(self, *users: int) -> None:
        for user in users:
            await self.sim.voice.member(self.guild, user, self.channels[0])

    async def peer(self) -> Peer:
        """discord.py, in the channel."""
        config = {
            "rest_url": self.sim.rest_url,
            "gateway_url": self.sim.gateway_url,
            "ca_file": str(self.part.ca_file),
            "token": self.bot.token,
            "channel_id": self.channels[0].id,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PEER),
            json.dumps(config),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        peer = Peer(process)
        self._peers.append(peer)
        assert (await peer.event("ready"))["user_id"] == self.bot.user.id
        joined = await peer.event("joined")
        assert joined["mode"] == "aead_xchacha20_poly1305_rtpsize"
        return peer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def until_heard(self, peer: Peer, user: int, packets: int) -> dict[str, Any]:
        """The peer's report once it has decrypted so many packets of a user."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                report = await peer.report()
                if len(report["heard"].get(str(user), ())) >= packets:
                    return report
                await asyncio.sleep(0.02)

    def group(self) -> list[int]:
        """Who shares the DAVE group of the bot's channel."""
        for session in self.part.state()["voice_sessions"]:
            if session["user_id"] == str(self.bot.user.id):
                return sorted(int(user) for user in session["dave"]["members"])
        return []

    def listen(self, user: int) -> list[tuple[int, bytes]]:
        heard: list[tuple[int, bytes]] = []
        self.part.listen(self.guild.id, user, lambda speaker, opus: heard.append((speaker, opus)))
        return heard

    def voice_log(self, event: str, user: int | None = None) -> list[dict[str, Any]]:
        """What the voice gateway logged of a user, by default the peer."""
        rows = [row for row in self.sim.entries if row["kind"] == "voice" and row["event"] == event]
        return [row for row in rows if row.get("user_id") == str(user or self.bot.user.id)]


@pytest.fixture(params=[True, False], ids=["first-transition-0", "first-transition-1"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    peers: list[Peer] = []
    # discord.py listens for the answer to its discovery after it has sent the request: loopback would be too quick.
    part = create(first_transition_zero=request.param, discovery_delay_s=0.02, tick_s=0.01)
    async with SimulatedDiscord(SimSettings(), part=part) as sim:
        try:
            yield Scene(sim, peers)
        finally:
            for peer in peers:
                if peer.process.returncode is None:
                    peer.process.kill()
                await peer.process.wait()
                peer.process._transport.close()  # type: ignore[attr-defined]


async def test_it_hears_members(scene: Scene) -> None:
    await scene.enter(scene.ada, scene.ben)
    peer = await scene.peer()
    await scene.until(lambda: scene.group() == sorted((scene.ada, scene.ben, scene.bot.user.id)))
    await asyncio.gather(
        scene.part.speak(scene.guild.id, scene.ada, wav=None, recording="lv_0880", params={}),
        scene.part.speak(scene.guild.id, scene.ben, wav=None, recording="lv_0930", params={}),
    )
    await scene.until_heard(peer, scene.ada, len(sound.packets_of_recording("lv_0880")) + 5)
    report = await scene.until_heard(peer, scene.ben, len(sound.packets_of_recording("lv_0930")) + 5)
    assert report["dave"]["ready"]
    assert sorted(map(int, report["dave"]["users"])) == scene.group()
    assert report["dave"]["code"] == scene.part.member(scene.guild.id, scene.ada).dave.voice_privacy_code
    for user, name in ((scene.ada, "lv_0880"), (scene.ben, "lv_0930")):
        said = [packet.hex() for packet in (*sound.packets_of_recording(name), *[SILENCE_FRAME] * 5)]
        assert report["heard"][str(user)] == said
    assert report["failures"] == {}
    assert set(report["first_bytes"]) >= {0x80, 0x90, 0xB0}
    await peer.leave()
    await scene.until(lambda: scene.bot.user.id not in scene.guild.voice_states)
    assert str(scene.bot.user.id) not in [each["user_id"] for each in scene.part.state()["voice_sessions"]]
    assert scene.sim.state()["max_sessions_per_guild"] == 1


async def test_members_hear_it(scene: Scene) -> None:
    peer = await scene.peer()
    await scene.enter(scene.ada)
    await scene.until(lambda: scene.group() == sorted((scene.ada, scene.bot.user.id)))
    await scene.until(lambda: scene.part.member(scene.guild.id, scene.ada).ready)
    await peer.until_encrypted()
    heard = scene.listen(scene.ada)
    packets = list(sound.packets_of_recording("lv_0880"))
    peer.tell(do="speak", packets=[packet.hex() for packet in packets])
    await peer.event("spoke")
    await scene.until(lambda: len(heard) == len(packets))
    assert heard == [(scene.bot.user.id, packet) for packet in packets]
    assert scene.part.member(scene.guild.id, scene.ada).problems == {}
    assert [row["speaking"] for row in scene.voice_log("speaking")] == [0, 1, 0]
    await peer.leave()


@pytest.mark.long
async def test_keys_change_while_it_is_there(scene: Scene) -> None:
    """Members join and leave; the bot stays in the group, also through a time alone."""
    await scene.enter(scene.ada)
    peer = await scene.peer()
    bot = scene.bot.user.id
    said = len(sound.packets_of_recording("lv_0880")) + 5
    codes: list[str] = []
    for change, members in (
        (None, (scene.ada, bot)),
        (scene.channels[0], (scene.ada, scene.ben, bot)),
        (None, (scene.ada, bot)),
    ):
        if change is not None or codes:
            await scene.sim.voice.member(scene.guild, scene.ben, change)
        await scene.until(lambda members=members: scene.group() == sorted(members))  # type: ignore[misc]
        await scene.part.speak(scene.guild.id, scene.ada, wav=None, recording="lv_0880", params={})
        report = await scene.until_heard(peer, scene.ada, (len(codes) + 1) * said)
        assert report["failures"] == {}
        codes.append(report["dave"]["code"])
    assert len(set(codes)) == 3
    assert len(report["heard"][str(scene.ada)]) == 3 * said
    await scene.sim.voice.member(scene.guild, scene.ada, None)
    await scene.until(lambda: scene.group() == [])
    await scene.enter(scene.ben)
    await scene.until(lambda: scene.group() == sorted((scene.ben, bot)))
    await scene.part.speak(scene.guild.id, scene.ben, wav=None, recording="lv_0880", params={})
    report = await scene.until_heard(peer, scene.ben, said)
    assert (report["failures"], report["connected"]) == ({}, True)
    assert len(report["heard"][str(scene.ben)]) == said
    await peer.leave()


async def test_it_is_moved(scene: Scene) -> None:
    """By a moderator: 4014, then a new ticket. It comes back in the other channel."""
    await scene.enter(scene.ada)
    peer = await scene.peer()
    await scene.until(lambda: len(scene.group()) == 2)
    await peer.until_encrypted()
    assert scene.sim.voice.move(scene.guild, scene.bot.user.id, scene.channels[1])
    await scene.sim.voice.member(scene.guild, scene.ada, scene.channels[1])
    await scene.until(lambda: scene.group() == sorted((scene.ada, scene.bot.user.id)))
    await scene.part.speak(scene.guild.id, scene.ada, wav=None, recording="lv_0880", params={})
    report = await scene.until_heard(peer, scene.ada, len(sound.packets_of_recording("lv_0880")) + 5)
    assert (report["failures"], report["connected"]) == ({}, True)
    await peer.leave()
    closes = [row["code"] for row in scene.voice_log("close")]
    assert closes[0] == 4014
    assert scene.sim.state()["max_sessions_per_guild"] == 1


async def test_killed_it_leaves_a_ghost(scene: Scene) -> None:
    """TCP ends without a close frame: the voice state lives on, the voice session waits to be resumed."""
    await scene.enter(scene.ada)
    peer = await scene.peer()
    await scene.until(lambda: len(scene.group()) == 2)
    peer.process.send_signal(signal.SIGKILL)
    await peer.process.wait()
    await scene.until(lambda: bool(scene.voice_log("close")))
    assert scene.voice_log("close")[-1]["code"] is None
    assert scene.bot.user.id in scene.guild.voice_states
    assert [each["connected"] for each in scene.sim.state()["gateway_sessions"]] == [False]


async def test_it_talks_with_roosts_driver_both_ways(scene: Scene) -> None:
    """Roost's native driver and discord.py hear each other, bit for bit, through the same end-to-end group."""
    roost = scene.sim.world.bots[0].user.id
    channel = scene.channels[0]
    await scene.enter(scene.ada)
    peer = await scene.peer()
    ticket = scene.part.allocate(scene.guild.id, channel.id, roost, "roosts-own-session")
    credentials = Credentials(scene.guild.id, channel.id, roost, "roosts-own-session", ticket.token, ticket.endpoint)
    driver = NativeDriver(Timing(), ca_file=scene.part.ca_file, allowed_hosts=("localhost", "127.0.0.1"))
    events = RecordingEvents()
    async with driver.open(credentials, events) as link:
        await scene.until(lambda: scene.group() == sorted((scene.ada, roost, scene.bot.user.id)))
        await scene.until(lambda: events.encrypted)
        await peer.until_encrypted()
        packets = [bytes(packet) for packet in sound.packets_of_recording("lv_0880")]
        peer.tell(do="speak", packets=[packet.hex() for packet in packets])
        await peer.event("spoke")
        await scene.until(lambda: len([f for f in events.frames if f.user_id == scene.bot.user.id]) >= len(packets))
        heard = [frame.opus for frame in events.frames if frame.user_id == scene.bot.user.id]
        assert heard[: len(packets)] == packets
        link.set_speaking(True)
        # Nobody knows whose packets they are before op 5 has arrived; on a real line the packets are slower.
        await scene.until(lambda: bool(scene.voice_log("speaking", roost)))
        for packet in packets:
            link.send_opus(packet)
            await asyncio.sleep(0.02)
        report = await scene.until_heard(peer, roost, len(packets))
        assert report["heard"][str(roost)][: len(packets)] == [packet.hex() for packet in packets]
        assert report["failures"] == {}
        assert link.stats().decrypt_failures == 0
    await peer.leave()


async def test_a_running_roost_shares_its_channel(scene: Scene, tmp_path: Path) -> None:
    """The whole bot joins the channel: discord.py's frames stay encrypted, because that is a bot."""
    roost = scene.sim.world.bots[0]
    settings = {
        "discord.rest_url": scene.sim.rest_url,
        "voice.ca_file": scene.part.ca_file,
        "voice.allowed_hosts": "localhost,127.0.0.1",
        "log.format": "json",
    }
    arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}
    environ |= {"ROOST_TOKEN": roost.token, "ROOST_DATA_DIR": str(tmp_path / "data")}
    text = scene.guild.of_type(TEXT)[0].id
    await scene.enter(scene.ada)
    peer = await scene.peer()
    async with run_bot(arguments, environ) as bot, ControlClient(scene.sim.control_url) as discord:
        await bot.ready()
        for command in ("/voice join", "/transcribe start"):
            answer = await discord.slash(member_id=scene.ada, channel_id=text, command=command, wait_s=15)
            assert not answer["timed_out"], "\n".join(bot.tail)
        await scene.until(lambda: scene.group() == sorted((scene.ada, roost.user.id, scene.bot.user.id)))
        await peer.until_encrypted()
        packets = sound.packets_of_recording("lv_0880")
        peer.tell(do="speak", packets=[packet.hex() for packet in packets])
        await peer.event("spoke")
        bot.terminate()
        assert await bot.wait(15) == 0
        stats = next(each["stats"] for each in bot.events if each.get("event") == "session_closed")
        spoken = [each for each in bot.events if each.get("event") == "speech_report"]
    await peer.leave()
    assert stats["refused_by_user"][str(scene.bot.user.id)] >= len(packets)
    assert stats["link"]["dropped"]["refused"] >= len(packets)
    assert stats["link"]["frames_decrypted"] == 0
    assert stats["link"]["decrypt_failures"] == 0
    assert stats["frames_delivered"] == 0
    assert all(str(scene.bot.user.id) not in each["decoded"] for each in spoken)
