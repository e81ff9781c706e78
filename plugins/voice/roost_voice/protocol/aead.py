"""Transport encryption: the two rtpsize modes of Discord's voice servers.

A packet is ``clear header | ciphertext | 16-byte tag | 4-byte counter``; the clear header is authenticated. The nonce
is the counter, big-endian, in the first 4 of 12 (AES-256-GCM) or 24 (XChaCha20-Poly1305) bytes, the rest zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl import bindings as sodium
from nacl.exceptions import CryptoError

from .opcodes import MODE_GCM, MODE_XCHACHA, MODES

KEY_BYTES = 32
REPLAY_WINDOW = 512
_REPLAY_MASK = (1 << REPLAY_WINDOW) - 1
_COUNTER_LIMIT = 1 << 32

Opener = Callable[[bytes, int], bytes | None]
"""(datagram, bytes in clear) -> plaintext, or None when the packet was not sealed with our key."""


def choose_mode(offered: Iterable[str], preferred: Iterable[str] = MODES) -> str | None:
    """The first of our modes that the server offers."""
    names = frozenset(offered)
    return next((mode for mode in preferred if mode in names), None)


def make_opener(mode: str, key: bytes) -> Opener:
    """A function that opens packets of one session.

    Args:
        mode: One of `MODES`.
        key: 32 bytes.
    """
    if mode == MODE_GCM:
        decrypt = AESGCM(key).decrypt
        rest = bytes(8)

        def open_gcm(data: bytes, clear: int) -> bytes | None:
            try:
                return decrypt(data[-4:] + rest, data[clear:-4], data[:clear])
            except InvalidTag:
                return None

        return open_gcm
    if mode == MODE_XCHACHA:
        open_xchacha = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt
        padding = bytes(20)

        def open_sodium(data: bytes, clear: int) -> bytes | None:
            try:
                return open_xchacha(data[clear:-4], data[:clear], data[-4:] + padding, key)
            except CryptoError:
                return None

        return open_sodium
    raise ValueError(f"not an encryption mode: {mode}")


class Sealer:
    """Seals outgoing packets of one session; owns its packet counter.

    Args:
        mode: One of `MODES`.
        key: 32 bytes.
    """

    __slots__ = ("_counter", "_gcm", "_key")

    def __init__(self, mode: str, key: bytes) -> None:
        if mode not in MODES:
            raise ValueError(f"not an encryption mode: {mode}")
        self._gcm = AESGCM(key) if mode == MODE_GCM else None
        self._key = key
        self._counter = 0

    def seal(self, header: bytes, payload: bytes) -> bytes | None:
        """One whole packet, or None when the counter is used up: a nonce may never repeat under one key."""
        if self._counter >= _COUNTER_LIMIT:
            return None
        counter = self._counter.to_bytes(4, "big")
        self._counter += 1
        if self._gcm is not None:
            return header + self._gcm.encrypt(counter + bytes(8), payload, header) + counter
        sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(payload, header, counter + bytes(20), self._key)
        return header + sealed + counter


class ReplayWindow:
    """Refuses packet counters seen before.

    One per ssrc, which is authenticated with the packet: that holds whether the server counts packets per connection
    or per stream.
    """

    __slots__ = ("_seen", "newest")

    def __init__(self) -> None:
        self.newest = -1
        """The highest counter seen: that of the packet the server sent last."""
        self._seen = 0

    def accept(self, counter: int) -> bool:
        """Whether this counter is new; it is remembered. Counters older than the window are refused."""
        highest = self.newest
        if highest < 0:
            self.newest = counter
            self._seen = 1
            return True
        ahead = (counter - highest) & 0xFFFFFFFF
        if 0 < ahead < 0x80000000:
            self._seen = ((self._seen << ahead) | 1) & _REPLAY_MASK if ahead < REPLAY_WINDOW else 1
            self.newest = counter
            return True
        behind = (highest - counter) & 0xFFFFFFFF
        if behind >= REPLAY_WINDOW or self._seen >> behind & 1:
            return False
        self._seen |= 1 << behind
        return True
