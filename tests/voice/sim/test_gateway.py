"""The voice gateway's manners, seen by a client that says exactly what it wants to say."""

from __future__ import annotations

import json
import random
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.sim

GUILD, CHANNEL, BOT = 100, 200, 900
SELECT = {"protocol": "udp", "data": {"address": "127.0.0.1", "port": 9, "mode": "aead_aes256_gcm_rtpsize"}}


async def test_handshake(rig: Any) -> None:
    client = await rig.client()
    hello = await client.next()
    assert hello == {"op": 8, "d": {"v": 8, "heartbeat_interval": 13750}, "seq": 0} or "seq" not in hello
    await client.send(3, {"t": 77, "seq_ack": -1})
    assert await client.next() == {"op": 6, "d": {"t": 77}}
    await client.identify()
    ready = await client.next()
    assert "seq" not in ready
    assert ready["d"]["modes"] == ["aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"]
    assert ready["d"]["ip"] == "127.0.0.1"
    await client.send(1, SELECT)
    described = await client.next()
    assert (described["op"], described["seq"]) == (4, 0)
    assert len(described["d"]["secret_key"]) == 32
    assert described["d"]["dave_protocol_version"] == 1
    external = await client.next()
    assert (external["op"], external["seq"]) == (25, 1)
    assert rig.host.open == {1: (GUILD, BOT)}
    assert rig.voice.state()["voice_ws"] == 1


async def test_others_are_announced(rig: Any) -> None:
    await rig.join(11, 12)
    await rig.voice.member(GUILD, 11).say_speaking(1)
    await rig.host.logged(event="speaking", user_id=str(11))
    client = await rig.client()
    await client.to_ready()
    assert (await client.until(11))["d"] == {"user_ids": ["11", "12"]}
    told = (await client.until(5))["d"]
    assert (told["user_id"], told["speaking"]) == ("11", 1)
    await rig.voice.member_leave(GUILD, 12)
    assert (await client.until(13))["d"] == {"user_id": "12"}
    await rig.join(13)
    assert (await client.until(11))["d"] == {"user_ids": ["13"]}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"token": "0" * 32}, 4004),
        ({"user_id": "901"}, 4004),
        ({"server_id": "101"}, 4004),
        ({"session_id": "other"}, 4006),
        ({"max_dave_protocol_version": 0}, 4017),
        ({"max_dave_protocol_version": None}, 4017),
        ({"server_id": "not a number"}, 4002),
        ({"token": 5}, 4002),
        ({"max_dave_protocol_version": -1}, 4002),
    ],
)
async def test_identify_refused(rig: Any, changes: dict[str, Any], code: int) -> None:
    client = await rig.client()
    await client.until(8)
    await client.identify(**changes)
    assert await client.until_close() == code
    assert rig.voice.state()["voice_sessions"] == []
    assert rig.host.open == {}


async def test_superseded_ticket(rig: Any) -> None:
    old = await rig.client()
    await old.until(8)
    rig.voice.allocate(GUILD, CHANNEL + 1, BOT, "bot-session")
    await old.identify()
    assert await old.until_close() == 4006


async def test_resume_with_superseded_ticket(rig: Any) -> None:
    old = await rig.client()
    await old.to_described()
    rig.voice.allocate(GUILD, CHANNEL, BOT, "bot-session")
    again = await rig.client(like=old)
    await again.resume(0)
    assert await again.until_close() == 4006


async def test_end_closes_and_voids(rig: Any) -> None:
    client = await rig.client()
    await client.to_described()
    rig.voice.end(GUILD, BOT, 4014)
    assert await client.until_close() == 4014
    assert rig.host.closed == [(BOT, 4014)]
    assert rig.voice.state()["voice_sessions"] == []
    again = await rig.client(like=client)
    await again.until(8)
    await again.identify()
    assert await again.until_close() == 4006


async def test_a_second_identify_replaces_the_first(rig: Any) -> None:
    first = await rig.client()
    await first.to_described()
    second = await rig.client()
    await second.to_described()
    assert await first.until_close() == 4006
    assert list(rig.host.open.values()) == [(GUILD, BOT)]
    assert len(rig.voice.state()["voice_sessions"]) == 1


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("not json", 4002),
        ("[]", 4002),
        ('{"op": "0"}', 4002),
        ('{"op": true}', 4002),
        ("[" * 20_000, 4002),
        ('{"op": 1, "d": {}}', 4003),
        ('{"op": 5, "d": {"speaking": 1}}', 4003),
        (b"\x1a", 4003),
        ('{"op": 3, "d": 7}', 4002),
        ('{"op": 3, "d": {"t": []}}', 4002),
        ('{"op": 7, "d": {}}', 4002),
    ],
)
async def test_nonsense_before_identify(rig: Any, raw: str | bytes, code: int) -> None:
    client = await rig.client()
    await client.until(8)
    await (client.websocket.send_bytes(raw) if isinstance(raw, bytes) else client.websocket.send_str(raw))
    assert await client.until_close() == code


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ('{"op": 99, "d": {}}', 4001),
        ('{"op": 0, "d": {}}', 4005),
        ('{"op": 7, "d": {}}', 4005),
        ('{"op": 1, "d": {}}', 4020),
        (json.dumps({"op": 1, "d": {**SELECT, "protocol": "tcp"}}), 4012),
        (
            json.dumps({"op": 1, "d": {"protocol": "udp", "data": {**SELECT["data"], "mode": "xsalsa20_poly1305"}}}),
            4016,
        ),  # type: ignore[dict-item]
        ('{"op": 5, "d": {"speaking": "loud"}}', 4020),
        ('{"op": 23, "d": {"transition_id": 1}}', 4020),
        ('{"op": 31, "d": null}', 4020),
        (b"", 4001),
        (b"\x1d\0\0", 4001),
        (b"\x1aabc", 4020),
        (b"\x1cabc", 4020),
    ],
)
async def test_nonsense_after_identify(rig: Any, raw: str | bytes, code: int) -> None:
    client = await rig.client()
    await client.to_ready()
    await (client.websocket.send_bytes(raw) if isinstance(raw, bytes) else client.websocket.send_str(raw))
    assert await client.until_close() == code
    assert rig.host.open == {}


async def test_unknown_but_known_to_exist_ops_are_ignored(rig: Any) -> None:
    client = await rig.client()
    await client.to_described()
    for op in (12, 14, 15, 16, 18, 20):
        await client.send(op, {})
    await client.send(3, {"t": 1})
    assert (await client.until(6))["d"] == {"t": 1}


@pytest.mark.parametrize("seed", range(4))
async def test_fuzz(rig: Any, seed: int) -> None:
    """Random bytes and random field values never hurt anybody else."""
    dice = random.Random(seed)
    await rig.join(11)
    values: list[Any] = [None, -1, 2**70, "", "x", [], {}, True, 1.5, "1" * 30]
    for _ in range(40):
        client = await rig.client()
        await client.to_described()
        if dice.random() < 0.5:
            size = dice.randrange(1, 300)
            await client.websocket.send_bytes(bytes([dice.choice((26, 28, 31, 0))]) + dice.randbytes(size))
        else:
            keys = ("transition_id", "speaking", "t", "seq_ack", "protocol", "data", "server_id")
            payload = {key: dice.choice(values) for key in keys}
            await client.send(dice.choice((0, 1, 3, 5, 7, 23, 31)), dice.choice((payload, None, [], 5)))
        await client.websocket.close()
    rig.voice.member(GUILD, 11)
    assert rig.voice.state()["voice_ws"] == 1


async def test_missed_heartbeats(make_rig: Any) -> None:
    rig = await make_rig(heartbeat_interval_s=0.1, heartbeat_limit=2)
    client = await rig.client()
    await client.to_described()
    assert await client.until_close() == 4009
    silent = await rig.client(allocate=False)
    assert await silent.until_close() == 4009


@pytest.mark.parametrize("first_seq", [0, 65_534])
async def test_resume_replays_what_was_missed(make_rig: Any, first_seq: int) -> None:
    rig = await make_rig(first_seq=first_seq)
    client = await rig.client()
    await client.to_described()
    external = await client.until(25)
    rig.host.arm("reset_tcp")
    await client.until_close()
    assert rig.host.open == {}
    assert len(rig.voice.state()["voice_sessions"]) == 1
    await rig.join(11)
    again = await rig.client(like=client)
    await again.until(8)
    await again.resume(external["seq"])
    assert await again.next() == {"op": 9, "d": None}
    joined = await again.next()
    assert (joined["op"], joined["d"]) == (11, {"user_ids": ["11"]})
    assert joined["seq"] == (first_seq + 2) % 65_536
    assert sorted(rig.host.open.values()) == [(GUILD, 11), (GUILD, BOT)]
    assert [session["connection_id"] is None for session in rig.voice.state()["voice_sessions"]] == [False, False]


async def test_resume_from_nothing_and_from_the_newest(rig: Any) -> None:
    client = await rig.client()
    await client.to_described()
    newest = (await client.until(25))["seq"]
    for seq_ack, replayed in ((-1, [4, 25]), (newest, [])):
        rig.host.arm("close", code=4015)
        again = await rig.client(like=client)
        assert await client.until_close() == 4015
        client = again
        await client.until(8)
        await client.resume(seq_ack)
        await client.until(9)
        assert [(await client.next())["op"] for _ in replayed] == replayed
    await client.send(3, {"t": 5, "seq_ack": newest})
    assert (await client.next())["op"] == 6


@pytest.mark.parametrize("seq_ack", [40, 65_000])
async def test_resume_from_a_number_never_sent(rig: Any, seq_ack: int) -> None:
    client = await rig.client()
    await client.to_described()
    again = await rig.client(like=client)
    await again.resume(seq_ack)
    assert await again.until_close() == 4006


async def test_resume_of_what_has_left_the_buffer(make_rig: Any) -> None:
    rig = await make_rig(replay_messages=3)
    client = await rig.client()
    await client.to_described()
    for user in (11, 12, 13, 14):
        await rig.join(user)
    again = await rig.client(like=client)
    await again.resume(0)
    assert await again.until_close() == 4006
    assert str(BOT) not in [session["user_id"] for session in rig.voice.state()["voice_sessions"]]


async def test_resume_replaces_a_half_open_connection(rig: Any) -> None:
    client = await rig.client()
    await client.to_described()
    rig.host.arm("blackhole_ws")
    await rig.host.logged(event="fault")
    again = await rig.client(like=client)
    await again.resume(0)
    await again.until(9)
    assert list(rig.host.open.values()) == [(GUILD, BOT)]
    await rig.until(lambda: rig.voice.state()["voice_ws"] == 1)


async def test_resume_window_ends(make_rig: Any) -> None:
    rig = await make_rig(resume_window_s=0.05)
    client = await rig.client()
    await client.to_described()
    rig.host.arm("reset_tcp")
    await client.until_close()
    await rig.host.logged(event="gone")
    again = await rig.client(like=client)
    await again.resume(0)
    assert await again.until_close() == 4006


@pytest.mark.parametrize(("code", "kept"), [(1000, 0), (1001, 0), (4000, 1), (4014, 1)])
async def test_how_a_client_closes_decides_what_stays(rig: Any, code: int, kept: int) -> None:
    client = await rig.client()
    await client.to_described()
    await client.websocket.close(code=code)
    await rig.host.logged(event="close", code=code, by="client")
    assert rig.host.open == {}
    assert len(rig.voice.state()["voice_sessions"]) == kept


async def test_without_required_dave_the_channel_falls_back(make_rig: Any) -> None:
    rig = await make_rig(require_dave=False)
    await rig.join(11, 12)
    await rig.until(lambda: rig.dave(11)["epoch"] == 1)
    client = await rig.client()
    await client.until(8)
    await client.identify(max_dave_protocol_version=0)
    await client.until(2)
    await client.send(1, SELECT)
    assert (await client.until(4))["d"]["dave_protocol_version"] == 0
    await rig.until(lambda: rig.voice.member(GUILD, 11).version == 0)
    await client.websocket.close()
    await rig.until(lambda: rig.voice.member(GUILD, 11).version == 1 and rig.dave(11)["epoch"] == 1)


async def test_certificate_is_checked(rig: Any) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.ws_connect(f"wss://{rig.voice.endpoint}/?v=8")


async def test_plain_http_gets_an_answer(rig: Any) -> None:
    client = await rig.client(allocate=False)
    response = client.websocket._response
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as http:
        async with http.get(f"https://{rig.voice.endpoint}/") as answer:
            assert answer.status == 426
        async with http.get(f"https://{rig.voice.endpoint}/nowhere") as answer:
            assert answer.status == 404
    assert response.status == 101


async def test_no_secret_is_logged(rig: Any) -> None:
    client = await rig.client()
    described = await client.to_described()
    rig.voice.end(GUILD, BOT, 4014)
    text = json.dumps(rig.host.rows)
    assert client.ticket.token not in text
    assert "bot-session" not in text
    assert bytes(described["secret_key"]).hex() not in text
    assert client.ticket.token not in repr(rig.voice.state())
