"""Write the golden vectors beside this file, from the specifications alone.

Nothing of Roost is imported: the bytes come from the published formats and from the primitives of `cryptography`
and `PyNaCl`, so that neither the product nor the simulated Discord can share a mistake with them. Signatures are
deterministic (RFC 6979), so running this twice gives the same files.

Usage: ``python tests/vectors/make.py`` writes; ``--check`` compares and exits 1 on a difference.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl import bindings as sodium

HERE = Path(__file__).resolve().parent
GCM = "aead_aes256_gcm_rtpsize"
XCHACHA = "aead_xchacha20_poly1305_rtpsize"


def rtp_vector(
    name: str,
    mode: str,
    *,
    counter: int,
    payload: bytes,
    extension: bytes = b"",
    padding: int = 0,
    sequence: int = 4660,
    timestamp: int = 305_419_896,
    ssrc: int = 3_735_928_559,
    csrc: tuple[int, ...] = (),
    marker: bool = False,
) -> dict[str, Any]:
    """One sealed RTP packet: clear header, ciphertext of (extension body, payload, padding), tag, counter."""
    key = bytes(range(32))
    first = 0x80 | (0x20 if padding else 0) | (0x10 if extension else 0) | len(csrc)
    header = struct.pack(">BBHII", first, 0x78 | (0x80 if marker else 0), sequence, timestamp, ssrc)
    header += b"".join(struct.pack(">I", source) for source in csrc)
    if extension:
        assert len(extension) % 4 == 0
        header += b"\xbe\xde" + struct.pack(">H", len(extension) // 4)
    plain = extension + payload + (bytes(padding - 1) + bytes([padding]) if padding else b"")
    nonce = struct.pack(">I", counter)
    if mode == GCM:
        sealed = AESGCM(key).encrypt(nonce + bytes(8), plain, header)
    else:
        sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, header, nonce + bytes(20), key)
    return {
        "name": name,
        "mode": mode,
        "key": key.hex(),
        "nonce_counter": counter,
        "header": header.hex(),
        "extension": extension.hex(),
        "padding": padding,
        "payload": payload.hex(),
        "packet": (header + sealed + nonce).hex(),
        "ssrc": ssrc,
        "sequence": sequence,
        "timestamp": timestamp,
    }


def rtp_vectors() -> list[dict[str, Any]]:
    payload = bytes.fromhex("78") + bytes((7 * i) & 0xFF for i in range(59))
    extension = bytes.fromhex("105a32010203") + bytes(2)
    found = []
    for short, mode in (("gcm", GCM), ("xchacha", XCHACHA)):
        found += [
            rtp_vector(f"{short}-plain", mode, counter=0, payload=payload),
            rtp_vector(f"{short}-extension", mode, counter=1, payload=payload, extension=extension),
            rtp_vector(f"{short}-padding", mode, counter=2, payload=payload, padding=5),
            rtp_vector(f"{short}-padding-one", mode, counter=3, payload=payload, padding=1),
            rtp_vector(f"{short}-extension-padding", mode, counter=4, payload=payload, extension=extension, padding=12),
            rtp_vector(f"{short}-silence", mode, counter=5, payload=b"\xf8\xff\xfe"),
            rtp_vector(f"{short}-csrc-extension", mode, counter=6, payload=payload, extension=extension, csrc=(1, 2)),
            rtp_vector(
                f"{short}-wrap-marker",
                mode,
                counter=0xFFFFFFFF,
                payload=payload,
                sequence=0xFFFF,
                timestamp=0xFFFFFFFF,
                ssrc=1,
                marker=True,
            ),
        ]
    return found


def discovery_vectors() -> list[dict[str, Any]]:
    def one(name: str, ssrc: int, address: str, port: int) -> dict[str, Any]:
        request = struct.pack(">HHI", 1, 70, ssrc) + bytes(66)
        reply = struct.pack(">HHI", 2, 70, ssrc) + address.encode("ascii").ljust(64, b"\0") + struct.pack(">H", port)
        assert len(request) == len(reply) == 74
        return {
            "name": name,
            "ssrc": ssrc,
            "address": address,
            "port": port,
            "request": request.hex(),
            "reply": reply.hex(),
        }

    return [
        one("documentation-address", 1001, "203.0.113.42", 50123),
        one("loopback", 0xFFFFFFFF, "127.0.0.1", 65535),
        one("ipv6-text", 7, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 1),
    ]


def vec(data: bytes) -> bytes:
    """RFC 9420 section 2.1.2: the shortest length prefix, then the bytes."""
    if len(data) < 64:
        return struct.pack(">B", len(data)) + data
    assert len(data) < 16384
    return struct.pack(">H", 0x4000 + len(data)) + data


def signing_key(seed: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(bytes([seed])).digest(), "big") >> 1, ec.SECP256R1())


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def sign(key: ec.EllipticCurvePrivateKey, label: str, content: bytes) -> bytes:
    """RFC 9420 section 5.1.2, SignWithLabel."""
    to_sign = vec(b"MLS 1.0 " + label.encode()) + vec(content)
    return key.sign(to_sign, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def ref_hash(label: str, value: bytes) -> bytes:
    """RFC 9420 section 5.2, RefHash."""
    return hashlib.sha256(vec(b"MLS 1.0 " + label.encode()) + vec(value)).digest()


def key_package(user_id: int, seed: int) -> dict[str, Any]:
    """RFC 9420 section 10: suite 2, basic credential, no extensions, a lifetime without end."""
    init, encryption, signature = signing_key(seed), signing_key(seed + 1), signing_key(seed + 2)
    capabilities = (
        vec(struct.pack(">H", 1)) + vec(struct.pack(">H", 2)) + vec(b"") + vec(b"") + vec(struct.pack(">H", 1))
    )
    leaf_tbs = vec(point(encryption)) + vec(point(signature)) + struct.pack(">H", 1)
    leaf_tbs += vec(struct.pack(">Q", user_id)) + capabilities + b"\1" + struct.pack(">QQ", 0, 2**64 - 1) + vec(b"")
    leaf = leaf_tbs + vec(sign(signature, "LeafNodeTBS", leaf_tbs))
    tbs = struct.pack(">HH", 1, 2) + vec(point(init)) + leaf + vec(b"")
    raw = tbs + vec(sign(signature, "KeyPackageTBS", tbs))
    return {
        "user_id": user_id,
        "signature_key": point(signature).hex(),
        "key_package": raw.hex(),
        "mls_message": (struct.pack(">HH", 1, 5) + raw).hex(),
        "ref": ref_hash("KeyPackage Reference", raw).hex(),
    }


def proposal(key: ec.EllipticCurvePrivateKey, group_id: bytes, epoch: int, body: bytes) -> tuple[bytes, bytes]:
    """RFC 9420 sections 6.1, 6.2 and 12.1.8: a PublicMessage of external sender 0, and its reference."""
    content = vec(group_id) + struct.pack(">QBI", epoch, 2, 0) + vec(b"") + b"\2" + body
    signature = sign(key, "FramedContentTBS", struct.pack(">HH", 1, 1) + content)
    authenticated = content + vec(signature)
    return struct.pack(">HH", 1, 1) + authenticated, ref_hash(
        "Proposal Reference", struct.pack(">H", 1) + authenticated
    )


def mls_vectors() -> dict[str, Any]:
    sender = signing_key(1)
    identity = b"golden-voice-gateway"
    group_id = struct.pack(">Q", 2200)
    packages = [key_package(1001, 10), key_package(2**63 + 5, 20)]
    adds = []
    for number, package in enumerate(packages):
        body = struct.pack(">H", 1) + bytes.fromhex(package["key_package"])
        message, ref = proposal(sender, group_id, number, body)
        adds.append({"epoch": number, "user_id": package["user_id"], "message": message.hex(), "ref": ref.hex()})
    message, ref = proposal(sender, group_id, 3, struct.pack(">HI", 3, 2))
    return {
        "group_id": group_id.hex(),
        "external_sender": {
            "private_value": hex(sender.private_numbers().private_value),
            "public_key": point(sender).hex(),
            "identity": identity.hex(),
            "package": (vec(point(sender)) + struct.pack(">H", 1) + vec(identity)).hex(),
        },
        "key_packages": packages,
        "add_proposals": adds,
        "remove_proposal": {"epoch": 3, "leaf": 2, "message": message.hex(), "ref": ref.hex()},
    }


def main() -> int:
    files = {"rtp.json": rtp_vectors(), "discovery.json": discovery_vectors(), "mls.json": mls_vectors()}
    wrong = []
    for name, content in files.items():
        text = json.dumps(content, indent=1) + "\n"
        path = HERE / name
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            wrong.append(name)
    for name in wrong:
        print(f"{name} differs from what make.py makes", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
