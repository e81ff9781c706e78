"""The part of MLS (RFC 9420, suite 2) that a DAVE delivery service reads and writes. Pure.

The voice gateway is no member of any group: it signs external proposals, reads public messages and key packages,
and passes welcomes on. So there is no tree, no key schedule and no HPKE here. Everything from a client may be
nonsense; it raises `WireError`, which the gateway answers with a close code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

VERSION_MLS10 = 1
SUITE_P256 = 2
WIRE_PUBLIC_MESSAGE = 1
WIRE_KEY_PACKAGE = 5
CONTENT_PROPOSAL = 2
CONTENT_COMMIT = 3
PROPOSAL_ADD = 1
PROPOSAL_REMOVE = 3
SENDER_MEMBER = 1
SENDER_EXTERNAL = 2
CREDENTIAL_BASIC = 1
LEAF_KEY_PACKAGE = 1
LEAF_UPDATE = 2
LEAF_COMMIT = 3
LIFETIME_ALWAYS = (0, 2**64 - 1)
_REFERENCE = 2
_ECDSA = ec.ECDSA(hashes.SHA256())


class WireError(ValueError):
    """A peer's bytes do not follow the format, or their signature does not hold."""


def vector(data: bytes) -> bytes:
    """Prefix `data` with its length in the shortest of the three forms of RFC 9420 section 2.1.2."""
    size = len(data)
    if size < 1 << 6:
        return struct.pack(">B", size) + data
    if size < 1 << 14:
        return struct.pack(">H", size | 1 << 14) + data
    if size < 1 << 30:
        return struct.pack(">I", size | 2 << 30) + data
    raise WireError("too long for a vector")


class Reader:
    """Walks over bytes; every read past the end raises `WireError`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise WireError("truncated")
        start, self.position = self.position, self.position + size
        return self.data[start : self.position]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self) -> bytes:
        first = self.integer(1)
        form = first >> 6
        if form == 3:
            raise WireError("reserved length form")
        extra = (0, 1, 3)[form]
        size = (first & 0x3F) << 8 * extra | int.from_bytes(self.take(extra), "big")
        if size < (0, 1 << 6, 1 << 14)[form]:
            raise WireError("length is not minimal")
        return self.take(size)

    def end(self, what: str) -> None:
        if self.left:
            raise WireError(f"{self.left} bytes after the {what}")


def _signed(label: str, content: bytes) -> bytes:
    return vector(b"MLS 1.0 " + label.encode("ascii")) + vector(content)


def reference(label: str, value: bytes) -> bytes:
    """RefHash of RFC 9420 section 5.2."""
    return hashlib.sha256(_signed(label, value)).digest()


def verify(public_key: bytes, label: str, content: bytes, signature: bytes) -> None:
    """Raise `WireError` unless `signature` is VerifyWithLabel-valid under the uncompressed point `public_key`."""
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
        key.verify(signature, _signed(label, content), _ECDSA)
    except (InvalidSignature, ValueError) as error:
        raise WireError(f"{label}: the signature does not hold") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """What a LeafNode says about its owner."""

    encryption_key: bytes
    signature_key: bytes
    identity: bytes
    source: int
    lifetime: tuple[int, int] | None
    signed: bytes
    signature: bytes


def read_leaf(reader: Reader, group_id: bytes = b"", leaf_index: int = 0) -> Leaf:
    """Read one LeafNode; group and index complete what is signed for leaves that came with a commit."""
    start = reader.position
    encryption_key, signature_key = reader.vector(), reader.vector()
    if reader.integer(2) != CREDENTIAL_BASIC:
        raise WireError("the credential is not basic")
    identity = reader.vector()
    for _ in range(5):  # versions, suites, extensions, proposals, credentials
        reader.vector()
    source = reader.integer(1)
    lifetime = None
    if source == LEAF_KEY_PACKAGE:
        lifetime = (reader.integer(8), reader.integer(8))
    elif source == LEAF_COMMIT:
        reader.vector()  # parent hash
    elif source != LEAF_UPDATE:
        raise WireError("unknown leaf source")
    reader.vector()  # extensions
    signed = reader.data[start : reader.position]
    if source != LEAF_KEY_PACKAGE:
        signed += vector(group_id) + struct.pack(">I", leaf_index)
    return Leaf(encryption_key, signature_key, identity, source, lifetime, signed, reader.vector())


@dataclasses.dataclass(frozen=True, slots=True)
class KeyPackage:
    """A checked key package; `raw` has no MLSMessage header."""

    raw: bytes = dataclasses.field(repr=False)
    user_id: int
    ref: bytes


def read_key_package(body: bytes) -> KeyPackage:
    """Op 26's body: a bare KeyPackage, as clients send it, or an MLSMessage around one, as the protocol text has it."""
    header = struct.pack(">HH", VERSION_MLS10, WIRE_KEY_PACKAGE)
    if body.startswith(header + struct.pack(">H", VERSION_MLS10)):
        body = body[len(header) :]
    reader = Reader(body)
    if (reader.integer(2), reader.integer(2)) != (VERSION_MLS10, SUITE_P256):
        raise WireError("not a key package of suite 2")
    init_key = reader.vector()
    leaf = read_leaf(reader)
    reader.vector()  # extensions
    signed = body[: reader.position]
    signature = reader.vector()
    reader.end("key package")
    if leaf.source != LEAF_KEY_PACKAGE or leaf.lifetime != LIFETIME_ALWAYS:
        raise WireError("the leaf is not made for a key package without end")
    if len(leaf.identity) != 8:
        raise WireError("the identity is not a user id")
    if init_key == leaf.encryption_key:
        raise WireError("init key and encryption key are the same")
    verify(leaf.signature_key, "LeafNodeTBS", leaf.signed, leaf.signature)
    verify(leaf.signature_key, "KeyPackageTBS", signed, signature)
    return KeyPackage(body, int.from_bytes(leaf.identity, "big"), reference("KeyPackage Reference", body))


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """An external proposal as sent out. `key_package` is set for an Add, `leaf` for a Remove."""

    message: bytes = dataclasses.field(repr=False)
    ref: bytes
    user_id: int
    key_package: KeyPackage | None = None
    leaf: int | None = None

    @property
    def is_add(self) -> bool:
        return self.key_package is not None


class ExternalSender:
    """The voice gateway's signing identity in one channel."""

    def __init__(
        self, identity: bytes = b"simulated-voice-gateway", key: ec.EllipticCurvePrivateKey | None = None
    ) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        self._identity = identity
        self._public = self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )

    def package(self) -> bytes:
        """Op 25's body."""
        return vector(self._public) + struct.pack(">H", CREDENTIAL_BASIC) + vector(self._identity)

    def _sign(self, group_id: bytes, epoch: int, proposal: bytes) -> tuple[bytes, bytes]:
        head = struct.pack(">HH", VERSION_MLS10, WIRE_PUBLIC_MESSAGE)
        content = b"".join(
            (
                vector(group_id),
                struct.pack(">QBI", epoch, SENDER_EXTERNAL, 0),
                vector(b""),
                struct.pack(">B", CONTENT_PROPOSAL),
                proposal,
            )
        )
        signature = self._key.sign(_signed("FramedContentTBS", head + content), _ECDSA)
        authenticated = content + vector(signature)
        return head + authenticated, reference("Proposal Reference", head[2:] + authenticated)

    def add(self, group_id: bytes, epoch: int, package: KeyPackage) -> Proposal:
        message, ref = self._sign(group_id, epoch, struct.pack(">H", PROPOSAL_ADD) + package.raw)
        return Proposal(message, ref, package.user_id, key_package=package)

    def remove(self, group_id: bytes, epoch: int, leaf: int, user_id: int) -> Proposal:
        message, ref = self._sign(group_id, epoch, struct.pack(">HI", PROPOSAL_REMOVE, leaf))
        return Proposal(message, ref, user_id, leaf=leaf)


@dataclasses.dataclass(frozen=True, slots=True)
class Commit:
    """A commit as a delivery service can read it."""

    message: bytes = dataclasses.field(repr=False)
    group_id: bytes
    epoch: int
    sender_leaf: int
    refs: tuple[bytes, ...]
    inline: bool
    identity: bytes | None
    """The committer's credential where the commit brings a new leaf."""


def split_commit(body: bytes) -> tuple[Commit, bytes]:
    """Op 28's body into the commit and the Welcome (may be empty); only walking the commit finds its end."""
    reader = Reader(body)
    if (reader.integer(2), reader.integer(2)) != (VERSION_MLS10, WIRE_PUBLIC_MESSAGE):
        raise WireError("not a public message")
    group_id, epoch = reader.vector(), reader.integer(8)
    if reader.integer(1) != SENDER_MEMBER:
        raise WireError("not sent by a member")
    sender_leaf = reader.integer(4)
    reader.vector()  # authenticated data
    if reader.integer(1) != CONTENT_COMMIT:
        raise WireError("not a commit")
    refs: list[bytes] = []
    inline = False
    proposals = Reader(reader.vector())
    while proposals.left:
        if proposals.integer(1) != _REFERENCE:
            inline = True  # forbidden anyway, so its body need not be walked
            break
        refs.append(proposals.vector())
    identity = None
    has_path = reader.integer(1)
    if has_path > 1:
        raise WireError("bad optional")
    if has_path:
        identity = read_leaf(reader, group_id, sender_leaf).identity
        reader.vector()  # path nodes
    for _ in range(3):  # signature, confirmation tag, membership tag
        reader.vector()
    message = body[: reader.position]
    commit = Commit(message, group_id, epoch, sender_leaf, tuple(refs), inline, identity)
    return commit, body[reader.position :]


@dataclasses.dataclass(frozen=True, slots=True)
class Welcome:
    """A Welcome taken apart, so that each newcomer can be sent its own secrets alone."""

    suite: bytes
    secrets: dict[bytes, bytes] = dataclasses.field(repr=False)
    group_info: bytes = dataclasses.field(repr=False)

    def for_package(self, ref: bytes) -> bytes:
        return self.suite + vector(self.secrets[ref]) + vector(self.group_info)


def read_welcome(body: bytes) -> Welcome:
    reader = Reader(body)
    suite = reader.take(2)
    if suite != struct.pack(">H", SUITE_P256):
        raise WireError("welcome of another suite")
    entries = Reader(reader.vector())
    secrets: dict[bytes, bytes] = {}
    while entries.left:
        start = entries.position
        ref = entries.vector()
        entries.vector()  # KEM output
        entries.vector()  # ciphertext
        secrets[ref] = entries.data[start : entries.position]
    group_info = reader.vector()
    reader.end("welcome")
    return Welcome(suite, secrets, group_info)
