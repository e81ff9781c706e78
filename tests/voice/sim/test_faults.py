"""Every fault can be armed, happens, and spares virtual members."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import davey
import pytest

import roost_voice.sim
from roost.sim.voice_part import Ticket
from roost_voice.sim import faults, rtp
from roost_voice.sim.member import Member
from roost_voice.sim.server import VoiceServer

pytestmark = pytest.mark.sim

GUILD, CHANNEL, BOT = 100, 200, 900


class Udp:
    """A plain blocking-free UDP client."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", 0))
        self.server = (host, port)

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.server)

    async def receive(self, timeout_s: float = 2.0) -> tuple[bytes, tuple[str, int]]:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().sock_recvfrom(self.socket, 2048)


async def to_udp(client: Any) -> tuple[Udp, int]:
    ready = await client.to_ready()
    return Udp(ready["ip"], ready["port"]), ready["ssrc"]


async def silent(client: Any) -> bool:
    """Whether the server answers a heartbeat next, that is, has nothing else to say."""
    await client.send(3, {"t": 1})
    return bool((await client.next())["op"] == 6)


def test_the_list() -> None:
    listed = roost_voice.sim.create().faults()
    assert set(listed) == set(faults.AWAITED) | set(faults.ACTIVE)
    assert all(text and "\n" not in text for text in listed.values())
    assert all(hasattr(VoiceServer, f"_fault_{name}") for name in set(faults.ACTIVE) - {"downgrade_dave"})


async def test_mute_hello(rig: Any) -> None:
    rig.host.arm("mute_hello")
    await rig.join(11)
    client = await rig.client()
    assert await silent(client)
    await (await rig.client()).until(8)


async def test_mute_ready(rig: Any) -> None:
    rig.host.arm("mute_ready")
    client = await rig.client()
    await client.until(8)
    await client.identify()
    assert await silent(client)


async def test_mute_session_description(rig: Any) -> None:
    rig.host.arm("mute_session_description")
    client = await rig.client()
    await client.to_ready()
    await client.send(
        1, {"protocol": "udp", "data": {"address": "127.0.0.1", "port": 9, "mode": "aead_aes256_gcm_rtpsize"}}
    )
    assert (await client.next())["op"] == 25
    assert await silent(client)


@pytest.mark.parametrize("code", [4004, 4006, 4011, 4021])
async def test_refuse_identify(rig: Any, code: int) -> None:
    rig.host.arm("refuse_identify", code=code)
    client = await rig.client()
    await client.until(8)
    await client.identify()
    assert await client.until_close() == code


@pytest.mark.parametrize(
    ("code", "kept"), [(1000, 1), (1001, 1), (4006, 0), (4014, 0), (4015, 1), (4017, 0), (4099, 0)]
)
async def test_close(rig: Any, code: int, kept: int) -> None:
    client = await rig.client()
    await client.to_described()
    rig.host.arm("close", code=code)
    assert await client.until_close() == code
    assert rig.host.closed == [(BOT, code)]
    assert len(rig.voice.state()["voice_sessions"]) == kept


async def test_close_of_a_chosen_user(rig: Any) -> None:
    client = await rig.client()
    await client.to_described()
    await rig.join(11)
    rig.host.arm("close", code=4014, user_id="11")
    await rig.host.logged(event="close", user_id=str(11), code=4014)
    await client.until(13)
    await rig.until(lambda: rig.voice._running.members[GUILD, 11][0].closed)


async def test_a_fault_waits_for_its_target(rig: Any) -> None:
    await rig.join(11)
    client = await rig.client()
    await client.to_ready()
    await client.until(11)
    rig.host.arm("close", code=4014)
    await rig.until(lambda: not rig.host.armed["close"])
    assert await silent(client)
    await client.send(
        1, {"protocol": "udp", "data": {"address": "127.0.0.1", "port": 9, "mode": "aead_aes256_gcm_rtpsize"}}
    )
    assert await client.until_close() == 4014
    rig.voice.member(GUILD, 11)


async def test_reset_tcp(rig: Any) -> None:
    client = await rig.client()
    await client.to_described()
    rig.host.arm("reset_tcp")
    await client.until_close()
    assert client.websocket.close_code == 1006
    assert rig.host.closed == [(BOT, None)]


async def test_blackhole(make_rig: Any) -> None:
    rig = await make_rig(heartbeat_interval_s=0.2, heartbeat_limit=2)
    client = await rig.client()
    await client.to_described()
    await client.until(25)
    rig.host.arm("blackhole_ws")
    await rig.host.logged(event="fault")
    await client.send(3, {"t": 1})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.websocket.receive()
    await rig.host.logged(event="close", code=4009)
    assert rig.host.open == {}


async def test_wrong_nonce(rig: Any) -> None:
    client = await rig.client()
    await client.to_ready()
    rig.host.arm("wrong_heartbeat_nonce")
    for nonce, answer in ((5, 6), (6, 6)):
        await client.send(3, {"t": nonce})
        assert (await client.until(6))["d"] == {"t": answer}


async def test_discovery_lost_and_forged(rig: Any) -> None:
    rig.host.arm("drop_discovery", n=2)
    rig.host.arm("forge_discovery")
    client = await rig.client()
    udp, ssrc = await to_udp(client)
    for _ in range(2):
        udp.send(rtp.discovery_request(ssrc))
    with pytest.raises(TimeoutError):
        await udp.receive(0.1)
    udp.send(rtp.discovery_request(ssrc))
    received = [await udp.receive() for _ in range(10)]
    truth = ("127.0.0.1", udp.socket.getsockname()[1])
    valid = [
        rtp.read_discovery_reply(data, ssrc)
        for data, source in received
        if source == udp.server and rtp.read_discovery_reply(data, ssrc) is not None
    ]
    assert valid == [truth]
    assert any(source != udp.server and rtp.read_discovery_reply(data, ssrc) != truth for data, source in received)
    udp.socket.close()


async def test_no_common_mode(rig: Any) -> None:
    rig.host.arm("no_common_mode")
    client = await rig.client()
    assert not set((await client.to_ready())["modes"]) & set(rtp.MODES)


async def test_bad_key_length(rig: Any) -> None:
    rig.host.arm("bad_key_length")
    client = await rig.client()
    assert len((await client.to_described())["secret_key"]) == 31


async def test_resume_refused_and_unanswered(rig: Any) -> None:
    client = await rig.client()
    await client.to_described()
    rig.host.arm("reset_tcp")
    await client.until_close()
    rig.host.arm("mute_resume")
    again = await rig.client(like=client)
    await again.until(8)
    await again.resume(0)
    assert await silent(again)
    rig.host.arm("refuse_resume", code=4009)
    again = await rig.client(like=client)
    await again.until(8)
    await again.resume(0)
    assert await again.until_close() == 4009
    assert rig.voice.state()["voice_sessions"] == []


@pytest.fixture
async def bot(rig: Any) -> AsyncIterator[Member]:
    """A full client on a bot's ticket, next to two virtual members."""
    await rig.join(11, 12)
    running = rig.voice._running
    ticket: Ticket = rig.voice.allocate(GUILD, CHANNEL, BOT, "bot-session")
    member = Member(
        GUILD,
        CHANNEL,
        BOT,
        session_id="bot-session",
        token=ticket.token,
        url=f"wss://{ticket.endpoint}",
        mode="aead_aes256_gcm_rtpsize",
    )
    task = running.scope.spawn(member.run(running.http, running.certificate.client, {}), "bot")
    await member.wait_live(5)
    yield member
    await member.hang_up()
    await asyncio.wait([task])


async def in_one_group(rig: Any, bot: Member, *users: int) -> None:
    await rig.until(lambda: sorted(rig.dave(11)["members"]) == sorted(map(str, (BOT, *users))))
    await rig.until(lambda: bot.ready and all(rig.voice.member(GUILD, user).ready for user in users))


async def test_flip_commit(rig: Any, bot: Member) -> None:
    await in_one_group(rig, bot, 11, 12)
    rig.host.arm("flip_commit")
    before = rig.dave(11)["epochs"]
    await rig.join(13)
    await rig.until(lambda: not rig.host.armed["flip_commit"])
    if bot.problems:  # unless its own commit won: davey takes its word for that
        await rig.host.logged(event="dave_invalid", user_id=str(BOT))
    await in_one_group(rig, bot, 11, 12, 13)
    assert rig.dave(11)["epochs"] > before


async def test_flip_welcome(make_rig: Any) -> None:
    rig = await make_rig()
    rig.host.arm("flip_welcome")
    await rig.join(11, 12)
    await rig.until(lambda: rig.dave(11)["epoch"] == 1)
    running = rig.voice._running
    ticket = rig.voice.allocate(GUILD, CHANNEL, BOT, "bot-session")
    member = Member(
        GUILD,
        CHANNEL,
        BOT,
        session_id="bot-session",
        token=ticket.token,
        url=f"wss://{ticket.endpoint}",
        mode=rtp.XCHACHA20,
    )
    running.scope.spawn(member.run(running.http, running.certificate.client, {}), "bot")
    await member.wait_live(5)
    await rig.host.logged(event="dave_invalid", user_id=str(BOT))
    await in_one_group(rig, member, 11, 12)
    assert member.problems == {"op_30": 1}
    await member.hang_up()


async def test_downgrade(rig: Any, bot: Member) -> None:
    await in_one_group(rig, bot, 11, 12)
    rig.host.arm("downgrade_dave")
    await rig.until(lambda: bot.version == 0 and rig.voice.member(GUILD, 11).version == 0)


async def test_unknown_transition_and_repeated_epoch(rig: Any, bot: Member) -> None:
    await in_one_group(rig, bot, 11, 12)
    rig.host.arm("unknown_transition")
    rig.host.arm("repeat_invalid_epoch")
    await rig.until(lambda: rig.dave(11)["epochs"] >= 3)
    await in_one_group(rig, bot, 11, 12)


async def test_udp_loss_is_for_the_bot_alone(rig: Any, bot: Member) -> None:
    await in_one_group(rig, bot, 11, 12)
    rig.host.arm("udp_loss", percent=50, seed=3)
    await rig.host.logged(event="fault")
    packets_before, other_before = bot.packets_received, rig.voice.member(GUILD, 12).packets_received
    await rig.voice.speak(GUILD, 11, wav=None, recording="lv_0880", params={})
    sent = rig.voice.state()["voice_sessions"][0]["relayed"]
    await rig.until(lambda: rig.voice.member(GUILD, 12).packets_received - other_before == sent)
    assert 0.3 * sent < bot.packets_received - packets_before < 0.7 * sent


async def test_malformed_packets_and_corrupt_media(rig: Any, bot: Member) -> None:
    await in_one_group(rig, bot, 11, 12)
    heard: list[bytes] = []
    bot.listener = lambda user, opus: heard.append(opus)
    rig.host.arm("malformed_rtp", count=80)
    rig.host.arm("corrupt_media", frames=5)
    await rig.host.logged(event="fault", name="malformed_rtp")
    await rig.host.logged(event="fault", name="corrupt_media")
    result = await rig.voice.speak(GUILD, 11, wav=None, recording="lv_0880", params={})
    await rig.until(lambda: len(heard) == result["frames"])  # five less, and five frames of silence
    assert bot.problems["undecryptable"] >= 5
    assert set(bot.problems) & {"bad_padding", "bad_extension", "truncated"}


async def test_keepalive_echo(make_rig: Any) -> None:
    for echo in (True, False):
        rig = await make_rig(keepalive_echo=echo)
        client = await rig.client()
        udp, _ = await to_udp(client)
        udp.send(b"\1" + bytes(7))
        if echo:
            assert (await udp.receive())[0] == b"\1" + bytes(7)
        else:
            with pytest.raises(TimeoutError):
                await udp.receive(0.1)
        udp.socket.close()


async def test_receiver_reports(make_rig: Any) -> None:
    rig = await make_rig(report_packets=3)
    client = await rig.client()
    udp, ssrc = await to_udp(client)
    udp.send(rtp.discovery_request(ssrc))
    await udp.receive()
    await client.send(
        1, {"protocol": "udp", "data": {"address": "127.0.0.1", "port": 9, "mode": "aead_xchacha20_poly1305_rtpsize"}}
    )
    cipher = rtp.Cipher(rtp.XCHACHA20, bytes((await client.until(4))["d"]["secret_key"]))
    await client.send(5, {"speaking": 1, "delay": 0, "ssrc": ssrc})
    await rig.host.logged(event="speaking", user_id=str(BOT))
    for number in range(3):
        udp.send(rtp.seal(rtp.Packet(ssrc, 40 + number, 1, b"x"), cipher))
    report, _ = await udp.receive()
    assert report[:4] == b"\x81\xc9\x00\x07"
    assert not rtp.is_media(report)
    block = cipher.open(report, 8)
    assert (int.from_bytes(block[:4], "big"), int.from_bytes(block[8:12], "big")) == (ssrc, 42)
    udp.socket.close()


async def test_datagrams_nobody_expects(rig: Any) -> None:
    client = await rig.client()
    udp, ssrc = await to_udp(client)
    udp.send(rtp.discovery_request(ssrc))
    assert rtp.read_discovery_reply((await udp.receive())[0], ssrc) == ("127.0.0.1", udp.socket.getsockname()[1])
    cipher = rtp.Cipher(rtp.AES256_GCM, bytes(32))
    packet = rtp.seal(rtp.Packet(ssrc, 1, 1, b"x"), cipher)
    foreign = rtp.seal(rtp.Packet(5, 1, 1, b"x"), cipher)
    for data in (b"", b"\x80", bytes(74), rtp.discovery_request(4), foreign, b"\x81\xc9" + bytes(40), packet):
        udp.send(data)
    state = rig.voice.state
    await rig.until(lambda: state()["voice_sessions"][0]["bad"] == {"no_session_description": 1})
    assert state()["datagrams_ignored"] == {"not_media": 4, "discovery_of_nobody": 1, "unknown_ssrc": 1}
    await client.send(
        1, {"protocol": "udp", "data": {"address": "127.0.0.1", "port": 9, "mode": "aead_aes256_gcm_rtpsize"}}
    )
    key = bytes((await client.until(4))["d"]["secret_key"])
    udp.send(rtp.seal(rtp.Packet(ssrc, 1, 1, b"x"), rtp.Cipher(rtp.AES256_GCM, key)))
    await rig.until(lambda: state()["voice_sessions"][0]["bad"].get("never_said_speaking") == 1)
    await client.send(5, {"speaking": 1, "delay": 0, "ssrc": ssrc})
    await rig.host.logged(event="speaking", user_id=str(BOT))
    udp.send(packet)
    await rig.until(lambda: state()["voice_sessions"][0]["bad"].get("undecryptable") == 1)
    udp.send(rtp.seal(rtp.Packet(ssrc, 1, 1, b"x"), rtp.Cipher(rtp.AES256_GCM, key)))
    await rig.until(lambda: state()["voice_sessions"][0]["relayed"] == 1)
    udp.socket.close()


def test_davey_is_the_version_the_notes_are_about() -> None:
    assert davey.__version__ == "0.1.7"
