"""The UDP side of the simulated voice servers: IP discovery, keepalives, the relay. Pure."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable

from roost_voice.sim import faults, rtp
from roost_voice.sim.session import Room, Session
from roost_voice.sim.settings import VoiceSettings

Address = tuple[str, int]
Sendto = Callable[[bytes, Address], None]
SILENCE = b"\xf8\xff\xfe"
FORGED = b"\xf8forged in the name of somebody else"
"""A valid Opus packet."""
_KEEPALIVE_BYTES = (4, 8)
"""Clients differ: 8 bytes in most, 4 (the ssrc) in some."""


@dataclasses.dataclass(slots=True)
class Loss:
    """Datagrams of one user get lost, both ways."""

    share: float
    until: float | None
    dice: random.Random

    def hits(self, now: float) -> bool:
        return (self.until is None or now < self.until) and self.dice.random() < self.share


class MediaRelay:
    """Answers discovery and passes each sender's payload on, sealed anew for each receiver.

    Args:
        settings: Shares of extensions and padding, echo.
        find: The session and room of an ssrc.
        take_fault: (name, session) to the parameters of an armed fault.
        forge: Sends bytes to an address from a socket that is not the voice server's.
    """

    def __init__(
        self,
        settings: VoiceSettings,
        find: Callable[[int], tuple[Session, Room] | None],
        take_fault: Callable[[str, Session], dict[str, object] | None],
        forge: Sendto,
    ) -> None:
        self._settings = settings
        self._find = find
        self._take_fault = take_fault
        self._forge = forge
        self._dice = random.Random(settings.seed)  # noqa: S311
        self.sendto: Sendto = lambda data, address: None
        """Set by whoever owns the socket."""
        self._delayed: list[tuple[float, bytes, Address]] = []
        self.losses: dict[tuple[int, int], Loss] = {}
        """By (guild, user)."""
        self.corrupt: dict[tuple[int, int], int] = {}
        """Frames still to damage on the way to (guild, user)."""
        self.offsets: dict[int, int] = {}
        """By ssrc: what is added to the numbers of its packets."""
        self.ignored: collections.Counter[str] = collections.Counter()
        """Datagrams that belong to no session or were left unanswered by a fault, by reason."""

    def received(self, data: bytes, address: Address, now: float) -> None:
        """One datagram. Nothing in it can raise."""
        ssrc = rtp.read_discovery_request(data)
        if ssrc is not None:
            self._discover(ssrc, address, now)
        elif len(data) in _KEEPALIVE_BYTES:
            self.ignored["keepalive"] += 1
            if self._settings.keepalive_echo:
                self.sendto(data, address)
        elif not rtp.is_media(data):
            self.ignored["not_media"] += 1
        else:
            self._media(data, now)

    def _lost(self, session: Session, now: float) -> bool:
        loss = self.losses.get((session.grant.guild_id, session.user_id))
        return loss is not None and loss.hits(now)

    def _discover(self, ssrc: int, address: Address, now: float) -> None:
        found = self._find(ssrc)
        if found is None:
            self.ignored["discovery_of_nobody"] += 1
            return
        session, _ = found
        if self._lost(session, now):
            return
        fault = self._take_fault("drop_discovery", session)
        if fault is not None:
            session.unanswered_discoveries += faults.integer(fault, "n", 3)
        if session.unanswered_discoveries > 0:
            session.unanswered_discoveries -= 1
            self.ignored["discovery"] += 1
            return
        if self._take_fault("forge_discovery", session) is not None:
            lie = rtp.discovery_reply(ssrc, "192.0.2.66", 6666)
            self._forge(lie, address)
            for junk in _damaged(lie, rtp.discovery_reply(ssrc ^ 1, "192.0.2.66", 6666)):
                self.sendto(junk, address)
        session.address = address
        reply = rtp.discovery_reply(ssrc, *address)
        if self._settings.discovery_delay_s:
            self._delayed.append((now + self._settings.discovery_delay_s, reply, address))
        else:
            self.sendto(reply, address)

    def tick(self, now: float) -> None:
        """Send what was held back."""
        due = [entry for entry in self._delayed if entry[0] <= now]
        self._delayed = [entry for entry in self._delayed if entry[0] > now]
        for _, data, address in due:
            self.sendto(data, address)

    def _media(self, data: bytes, now: float) -> None:
        found = self._find(rtp.ssrc_of(data))
        if found is None:
            self.ignored["unknown_ssrc"] += 1
            return
        session, room = found
        if self._lost(session, now):
            return
        session.packets_in += 1
        if session.opener is None:
            session.bad["no_session_description"] += 1
            return
        if session.speaking is None:
            session.bad["never_said_speaking"] += 1
            return
        try:
            packet = rtp.open_packet(data, session.opener)
        except rtp.BadPacket as error:
            session.bad[str(error)] += 1
            return
        self._relay(packet, session, room, now)

    def relay(self, packet: rtp.Packet, now: float) -> None:
        """Pass on what a virtual member handed over in clear, without a socket in between."""
        found = self._find(packet.ssrc)
        if found is not None:
            session, room = found
            session.packets_in += 1
            self._relay(packet, session, room, now)

    def _relay(self, packet: rtp.Packet, session: Session, room: Room, now: float) -> None:
        session.relayed += 1
        every = self._settings.report_packets
        if every and session.relayed % every == 0 and session.sealer is not None and session.address is not None:
            self.sendto(rtp.receiver_report(session.ssrc, packet.sequence, session.sealer), session.address)
        offset = self.offsets.get(packet.ssrc)
        if offset:
            packet = dataclasses.replace(packet, sequence=(packet.sequence + offset) & 0xFFFF)
        for other in room.others(session):
            self._pass_on(packet, other, now)

    def _pass_on(self, packet: rtp.Packet, receiver: Session, now: float) -> None:
        if receiver.sealer is None or receiver.address is None or self._lost(receiver, now):
            return
        payload = packet.payload
        key = (receiver.grant.guild_id, receiver.user_id)
        if self.corrupt.get(key, 0) > 0 and payload != SILENCE and len(payload) > 20:
            self.corrupt[key] -= 1
            payload = bytes([payload[0] ^ 1]) + payload[1:]
        extension = self._extension() if self._dice.random() < self._settings.extension_share else b""
        padding = self._dice.randrange(1, 16) if self._dice.random() < self._settings.padding_share else 0
        sealed = rtp.seal(
            dataclasses.replace(packet, payload=payload, extension=extension, padding=padding), receiver.sealer
        )
        receiver.packets_out += 1
        self.sendto(sealed, receiver.address)

    def _extension(self) -> bytes:
        """Eight bytes as Discord's: audio level (id 1, one byte), send time (id 3, three bytes), two of filling."""
        return b"\x10" + self._dice.randbytes(1) + b"\x32" + self._dice.randbytes(3) + bytes(2)

    def begin(self, session: Session, streams: range, now: float) -> None:
        """Send a session's client a packet of each stream, once it can have heard of them, and not all at once."""
        if session.address is None or session.sealer is None:
            return
        for number, ssrc in enumerate(streams):
            sealed = rtp.seal(rtp.Packet(ssrc, 1, 960, SILENCE), session.sealer)
            self._delayed.append((now + 0.2 + number / 4000, sealed, session.address))

    def pretend(self, session: Session, count: int) -> None:
        """Send a session's client packets of the others' streams, none of which they have encrypted.

        In turn: without any key, as somebody on the way can; with the transport's key alone, as the voice server can;
        the same with padding, which makes them as long as if they were encrypted.
        """
        found = self._find(session.ssrc)
        if session.address is None or session.sealer is None or found is None:
            return
        for other in found[1].others(session):
            for number in range(count):
                padding = 15 if number % 3 == 2 else 0
                packet = rtp.Packet(other.ssrc, 30_000 + number, 960 * number, FORGED, padding=padding)
                sealed = rtp.seal(packet, session.sealer)
                keyless = sealed[:12] + FORGED + bytes(20)
                self.sendto(sealed if number % 3 else keyless, session.address)

    def malform(self, session: Session, count: int, seed: int) -> None:
        """Send a session's client datagrams that are wrong in every way a parser may trip over."""
        if session.address is None or session.sealer is None:
            return
        dice = random.Random(seed)  # noqa: S311
        found = self._find(session.ssrc)
        known = [other.ssrc for other in found[1].others(session)] if found is not None else []
        good = rtp.Packet(next(iter(known), session.ssrc + 1), 1, 960, dice.randbytes(60), extension=bytes(8))
        for number in range(count):
            sealed = rtp.seal(good, session.sealer)
            kinds = (
                dice.randbytes(dice.randrange(0, 200)),
                sealed[: dice.randrange(0, len(sealed))],
                sealed[:20] + bytes([sealed[20] ^ 255]) + sealed[21:],
                b"\x81\xc9" + dice.randbytes(30),
                b"\x9f" + sealed[1:],
                sealed[:14] + b"\xff\xff" + sealed[16:],
                rtp.seal(dataclasses.replace(good, payload=b"", padding=255), session.sealer),
                session.sealer.seal(b"\xa0\x78" + sealed[2:12], b"\xff"),
            )
            self.sendto(kinds[number % len(kinds)], session.address)


def _damaged(reply: bytes, foreign: bytes) -> tuple[bytes, ...]:
    """A discovery reply with each of its parts wrong in turn: size, type, length, stream, address, port."""
    endless, nameless = b"9" * 64, b"\xff" + bytes(63)
    return (
        reply[:-1],
        reply + b"\0",
        b"\0\1" + reply[2:],
        reply[:2] + b"\0\x45" + reply[4:],
        foreign,
        reply[:8] + endless + reply[-2:],
        reply[:8] + nameless + reply[-2:],
        reply[:-2] + b"\0\0",
    )
