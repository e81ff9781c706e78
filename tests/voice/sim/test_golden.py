"""The simulator's formats against the golden bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from roost_voice.sim import mls, rtp

pytestmark = pytest.mark.unit

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
RTP: list[dict[str, Any]] = json.loads((VECTORS / "rtp.json").read_text())
MLS: dict[str, Any] = json.loads((VECTORS / "mls.json").read_text())


def test_the_files_are_what_the_script_makes() -> None:
    subprocess.run([sys.executable, VECTORS / "make.py", "--check"], check=True)


@pytest.mark.parametrize("vector", RTP, ids=[vector["name"] for vector in RTP])
def test_open(vector: dict[str, Any]) -> None:
    cipher = rtp.Cipher(vector["mode"], bytes.fromhex(vector["key"]))
    packet = rtp.open_packet(bytes.fromhex(vector["packet"]), cipher)
    assert packet.payload.hex() == vector["payload"]
    assert packet.extension.hex() == vector["extension"]
    assert (packet.ssrc, packet.sequence, packet.timestamp, packet.padding) == (
        vector["ssrc"],
        vector["sequence"],
        vector["timestamp"],
        vector["padding"],
    )


@pytest.mark.parametrize("vector", [v for v in RTP if v["nonce_counter"] == 0], ids=lambda vector: vector["name"])
def test_seal(vector: dict[str, Any]) -> None:
    packet = rtp.Packet(vector["ssrc"], vector["sequence"], vector["timestamp"], bytes.fromhex(vector["payload"]))
    sealed = rtp.seal(packet, rtp.Cipher(vector["mode"], bytes.fromhex(vector["key"])))
    assert sealed.hex() == vector["packet"]


@pytest.mark.parametrize("mode", rtp.MODES)
def test_seal_counts_and_keeps_extension_and_padding(mode: str) -> None:
    key = bytes(range(32))
    sealer = rtp.Cipher(mode, key)
    sealed = [rtp.seal(rtp.Packet(5, n, 960 * n, b"opus", bytes(8), 7), sealer) for n in range(3)]
    assert [packet[-4:] for packet in sealed] == [bytes([0, 0, 0, n]) for n in range(3)]
    assert {packet[0] for packet in sealed} == {0xB0}
    opened = [rtp.open_packet(packet, rtp.Cipher(mode, key)) for packet in sealed]
    assert [(p.sequence, p.payload, p.extension, p.padding) for p in opened] == [
        (n, b"opus", bytes(8), 7) for n in range(3)
    ]


@pytest.mark.parametrize("vector", RTP, ids=[vector["name"] for vector in RTP])
def test_every_damaged_byte_is_noticed(vector: dict[str, Any]) -> None:
    packet = bytes.fromhex(vector["packet"])
    cipher = rtp.Cipher(vector["mode"], bytes.fromhex(vector["key"]))
    for place in range(len(packet)):
        damaged = packet[:place] + bytes([packet[place] ^ 0x41]) + packet[place + 1 :]
        with pytest.raises(rtp.BadPacket):
            rtp.open_packet(damaged, cipher)
        with pytest.raises(rtp.BadPacket):
            rtp.open_packet(packet[:place], cipher)


def test_discovery() -> None:
    for vector in json.loads((VECTORS / "discovery.json").read_text()):
        assert rtp.discovery_request(vector["ssrc"]).hex() == vector["request"]
        assert rtp.read_discovery_request(bytes.fromhex(vector["request"])) == vector["ssrc"]
        assert rtp.discovery_reply(vector["ssrc"], vector["address"], vector["port"]).hex() == vector["reply"]
        reply = bytes.fromhex(vector["reply"])
        assert rtp.read_discovery_reply(reply, vector["ssrc"]) == (vector["address"], vector["port"])
        assert rtp.read_discovery_reply(reply, vector["ssrc"] ^ 1) is None
        assert rtp.read_discovery_reply(reply[:-1], vector["ssrc"]) is None


def test_external_sender_and_proposals() -> None:
    secret = int(MLS["external_sender"]["private_value"], 16)
    sender = mls.ExternalSender(
        bytes.fromhex(MLS["external_sender"]["identity"]), ec.derive_private_key(secret, ec.SECP256R1())
    )
    assert sender.package().hex() == MLS["external_sender"]["package"]
    group_id = bytes.fromhex(MLS["group_id"])
    for package, add in zip(MLS["key_packages"], MLS["add_proposals"], strict=True):
        read = mls.read_key_package(bytes.fromhex(package["key_package"]))
        made = sender.add(group_id, add["epoch"], read)
        assert _unsigned(made.message) == _unsigned(bytes.fromhex(add["message"]))
    remove = MLS["remove_proposal"]
    made = sender.remove(group_id, remove["epoch"], remove["leaf"], 1)
    assert _unsigned(made.message) == _unsigned(bytes.fromhex(remove["message"]))
    message = bytes.fromhex(remove["message"])
    assert mls.reference("Proposal Reference", message[2:]).hex() == remove["ref"]


def _unsigned(message: bytes) -> bytes:
    """A proposal without its signature, which is random."""
    reader = mls.Reader(message)
    reader.take(4)
    reader.vector()
    reader.take(8 + 1 + 4)
    reader.vector()
    reader.take(1)
    if reader.integer(2) == mls.PROPOSAL_REMOVE:
        reader.take(4)
    else:
        reader.take(4)
        reader.vector()
        mls.read_leaf(reader)
        reader.vector()
        reader.vector()
    end = reader.position
    assert len(reader.vector()) > 60
    assert reader.left == 0
    return message[:end]


def test_key_packages() -> None:
    for package in MLS["key_packages"]:
        raw = bytes.fromhex(package["key_package"])
        for form in (raw, bytes.fromhex(package["mls_message"])):
            read = mls.read_key_package(form)
            assert (read.user_id, read.ref.hex(), read.raw) == (package["user_id"], package["ref"], raw)
        for place in range(0, len(raw), 7):
            with pytest.raises(mls.WireError):
                mls.read_key_package(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        for size in range(len(raw)):
            with pytest.raises(mls.WireError):
                mls.read_key_package(raw[:size])
