"""Voice links on the Rust library Songbird.

What Songbird does not tell, nobody here makes up: the state of the end-to-end encryption, who joins, packets that it
drops by itself, and calls that lose their encryption. ``docs/drivers.md`` has the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable

import songbird
from roost.audio import (
    AudioFrame,
    Credentials,
    DriverSettings,
    LinkClosed,
    LinkEnd,
    LinkEvents,
    LinkStats,
    Retry,
    Timing,
)
from roost.errors import ConfigError, VoiceError
from roost.opus_packet import packet_samples
from roost.scopes import Scope
from roost_voice.protocol.address import check_address
from roost_voice.protocol.close_codes import policy
from roost_voice.protocol.jitter import SequenceTracker

_log = logging.getLogger("roost.voice.songbird")

_UNUSABLE = {
    "encryption mode": "Discord's voice server offers no encryption mode that we know.",
    "key of wrong length": "Discord's session description cannot be used: its key has a wrong length.",
}
"""What Songbird says of a server that it cannot talk to, and what people are told; another try would end the same."""
_FAILURES = {
    "io": "Discord's voice server could not be reached.",
    "udp": "The system refused a UDP socket for voice.",
    "timed_out": "Discord's voice server did not answer in time; is outgoing UDP blocked?",
}
"""By the kind of a failure."""
_NOBODY = "Connection refused"
_SILENCE = b"\xf8\xff\xfe"
"""Discord's clients send it unencrypted, also where all else is encrypted end to end."""
PANIC_LOOK_S = 0.5
"""From a fault in Songbird to the look which link it was in: each that lives gives 25 signs of life."""


class SongbirdLink:
    """See `roost.audio.VoiceLink`. Opened and closed by `SongbirdDriver.open`."""

    def __init__(
        self,
        driver: songbird.Driver,
        cred: Credentials,
        events: LinkEvents,
        mode: str,
        timing: Timing,
        *,
        on_panic: Callable[[songbird.Panic], None],
    ) -> None:
        self._driver = driver
        self.panicked = on_panic
        """Called for a fault in Songbird: nobody knows in which link."""
        self._cred = cred
        self._events = events
        self._mode = mode
        self._timing = timing
        self._ended: asyncio.Future[LinkEnd] = asyncio.get_running_loop().create_future()
        self._streams: dict[int, tuple[int, SequenceTracker]] = {}
        """By ssrc: the speaker, and the order of their packets."""
        self._reconnects: deque[float] = deque(maxlen=timing.reconnect_limit)
        self._dropped: Counter[str] = Counter()
        self._packets = self._frames = self._lost = self._resumes = self._refused = self._taken = 0

    def __repr__(self) -> str:
        return f"<SongbirdLink guild={self._cred.guild_id} {'ended' if self._ended.done() else 'live'}>"

    # -- VoiceLink ------------------------------------------------------------------------------------------------

    def send_opus(self, opus: bytes) -> None:
        """Queue one 20 ms frame; dropped and counted when a second of audio waits already."""
        try:
            taken = not self._ended.done() and self._driver.send_opus(opus)
        except (songbird.NotConnectedError, ValueError, RuntimeError):
            taken = False
        self._refused += not taken

    def set_speaking(self, on: bool) -> None:
        """Nothing to do: Songbird says so itself, and marks the end of a run of frames with silence."""

    async def update(self, cred: Credentials) -> bool:
        """True only for the credentials in use."""
        return cred == self._cred and not self._ended.done()

    def stats(self) -> LinkStats:
        """Counters since the link opened, as far as Songbird lets them be known."""
        if self._driver.is_open:
            self._taken = self._driver.opus_stats()[1]
        return LinkStats(
            packets_in=self._packets,
            frames_out=self._frames,
            dropped=dict(self._dropped),
            lost=self._lost,
            packets_sent=self._taken,
            tells_dave=False,
            resumes=self._resumes,
            mode=self._mode,
            send_dropped=self._refused,
        )

    async def wait_closed(self) -> LinkEnd:
        """Wait, without limit, until the link has ended by itself or was closed by its owner."""
        return await asyncio.shield(self._ended)

    # -- what Songbird tells ------------------------------------------------------------------------------------------

    def packets(self, packets: list[songbird.OpusPacket]) -> None:
        """What arrived in a tick."""
        for packet in packets:
            self._packets += 1
            if packet.user_id is None:
                self._dropped["unknown_ssrc"] += 1
            else:
                self._take(packet, packet.user_id)

    def _take(self, packet: songbird.OpusPacket, user_id: int) -> None:
        """Pass on a packet of somebody known, unless it is late or no Opus."""
        speaker, tracker = self._streams.get(packet.ssrc, (None, None))
        if tracker is None or speaker != user_id:
            # A packet that comes early passes at once: those before it, if they still come, are late.
            tracker = SequenceTracker(hold_s=0.0)
            self._streams[packet.ssrc] = user_id, tracker
        opus = bytes(packet.opus)
        if not packet.encrypted and not self._cred.stage and opus != _SILENCE:
            # Before its number counts: Songbird passes on what anybody may have sent.
            self._dropped["unencrypted"] += 1
            return
        lost_before = tracker.lost
        refusal = tracker.refusal(packet.sequence)
        if refusal is not None:
            if not tracker.restarts(packet.sequence):
                self._dropped[refusal] += 1
                return
            tracker.restart(packet.sequence)
        samples = packet_samples(opus)
        if not samples:
            self._dropped["opus"] += 1
        content = (packet.timestamp, samples, opus) if samples else None
        for timestamp, frame, lost in (*tracker.accept(packet.sequence, content, 0.0), *tracker.expire(0.0)):
            self._frames += 1
            self._events.frame(AudioFrame(self._cred.guild_id, user_id, packet.ssrc, timestamp, frame, lost))
        self._lost += tracker.lost - lost_before

    def spoke(self, speaking: songbird.Speaking) -> None:
        if speaking.user_id is not None:
            self._events.speaking(speaking.user_id, bool(speaking.speaking & songbird.SpeakingState.Microphone))

    def left(self, gone: songbird.ClientDisconnect) -> None:
        for ssrc in [ssrc for ssrc, (user_id, _) in self._streams.items() if user_id == gone.user_id]:
            del self._streams[ssrc]
        self._events.member_left(gone.user_id)

    def reconnected(self, _: songbird.ConnectData) -> None:
        """The connection broke and Songbird mended it, by a resume or by identifying anew: it does not say which."""
        self._resumes += 1
        now = asyncio.get_running_loop().time()
        self._reconnects.append(now)
        many = len(self._reconnects) == self._timing.reconnect_limit
        often = many and now - self._reconnects[0] < self._timing.reconnect_window_s
        if often:
            self.end(LinkEnd(None, "The voice connection broke off again and again.", Retry.RESUME_FAILED))
        else:
            self._events.state("live")

    def disconnected(self, data: songbird.DisconnectData) -> None:
        if data.kind is not songbird.DisconnectKind.Connect:
            decision = policy(data.code)
            again = data.kind is songbird.DisconnectKind.Reconnect
            self.end(decision.end_after_resume(data.code) if again or decision.resume else decision.end(data.code))

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def ticks(self) -> int:
        """See `songbird.Driver.ticks`."""
        return self._driver.ticks()

    def died(self, panic: songbird.Panic) -> None:
        """A fault in Songbird was in this link, or nobody knows in which: it may be deaf from now on."""
        _log.error("guild %d: Songbird failed at %s, so the link is opened anew", self._cred.guild_id, panic.place)
        self.end(LinkEnd(None, "The voice library failed, so the connection is made anew.", Retry.REJOIN))

    def end(self, end: LinkEnd) -> None:
        """The link is over; the first cause counts."""
        if not self._ended.done():
            self._ended.set_result(end)
            self._events.state("ended")


class SongbirdDriver:
    """Opens links over Songbird. Threads live while links do, and with the last link they end.

    Args:
        settings: What the owner asks of every driver.

    Raises:
        ConfigError: The authority's file cannot be read.
    """

    name = "songbird"

    def __init__(self, settings: DriverSettings) -> None:
        self.settings = settings
        if settings.ca_file is not None:
            try:
                songbird.trust(settings.ca_file)
            except (OSError, ValueError) as error:
                raise ConfigError(str(error), key="voice.ca_file") from None
        timing = settings.timing
        # Songbird tries at least twice; both tries together have the time of one.
        self._config = songbird.Config(
            decode_mode=songbird.DecodeMode.Decrypt,
            driver_timeout=timing.connecting_s * 0.45,
            retry_strategy=songbird.Strategy.every(timing.ws_retry_s),
            retry_limit=1,
        )
        self._closing = Scope("voice.songbird.closing")
        self._links: set[SongbirdLink] = set()
        """Those that were opened."""
        self._opening: set[SongbirdLink] = set()
        self._panic_noted = False

    @contextlib.asynccontextmanager
    async def open(self, cred: Credentials, events: LinkEvents) -> AsyncIterator[SongbirdLink]:
        """See `roost.audio.VoiceDriver.open`."""
        address = check_address(cred.server_address, self.settings.allowed_hosts)
        driver = await songbird.Driver.create(dataclasses.replace(self._config))
        mode = self._config.crypto_mode.value
        link = SongbirdLink(driver, cred, events, mode, self.settings.timing, on_panic=self._panicked)
        driver.on_packets = link.packets
        for event, listener in (
            (songbird.Event.SpeakingStateUpdate, link.spoke),
            (songbird.Event.ClientDisconnect, link.left),
            (songbird.Event.DriverReconnect, link.reconnected),
            (songbird.Event.DriverDisconnect, link.disconnected),
            (songbird.Event.DriverPanic, link.panicked),
        ):
            await driver.add_event(event, listener)
        try:
            self._opening.add(link)
            events.state("connecting")
            try:
                await driver.connect(cred.token, address, cred.session_id, cred.guild_id, cred.channel_id, cred.user_id)
            except songbird.ConnectError as error:
                _log.info("guild %d: no voice connection: %s", cred.guild_id, error)
                raise _failed(error) from LinkClosed(_end_of(error))
            self._opening.discard(link)
            self._links.add(link)
            events.state("live")
            yield link
        finally:
            self._links.discard(link)
            try:
                await self._close(driver, link)
            finally:
                self._opening.discard(link)

    def _panicked(self, panic: songbird.Panic) -> None:
        """A task of Songbird died of a fault: every link is told at once, and one of them is concerned."""
        if self._panic_noted:
            return
        self._panic_noted = True
        loop = asyncio.get_running_loop()
        loop.call_soon(self._next_panic)
        before = {link: link.ticks() for link in self._links if not link.has_ended}
        loop.call_later(PANIC_LOOK_S, self._look_for_the_dead, panic, before, frozenset(self._opening))

    def _next_panic(self) -> None:
        self._panic_noted = False

    def _look_for_the_dead(
        self, panic: songbird.Panic, before: dict[SongbirdLink, int], opening: frozenset[SongbirdLink]
    ) -> None:
        """End the link whose receiving half died, or all where none did and no connect failed either.

        One server whose voice server or network provokes faults must not end the calls of others.
        """
        living = {link: ticks for link, ticks in before.items() if not link.has_ended}
        dead = [link for link, ticks in living.items() if link.ticks() == ticks]
        if not dead and opening & self._opening:
            # Songbird takes seconds to give up a connect that a fault has ended.
            asyncio.get_running_loop().call_later(PANIC_LOOK_S, self._look_for_the_dead, panic, before, opening)
            return
        if not dead and (len(living) < len(before) or any(link.has_ended for link in opening)):
            return  # it ended by itself
        for link in dead or living:
            link.died(panic)

    async def _close(self, driver: songbird.Driver, link: SongbirdLink) -> None:
        """Leave to the end, whatever cancels us meanwhile; `leave` bounds itself."""
        closing = self._closing.spawn(driver.leave(), "link")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait({closing})
            raise
        finally:
            link.end(LinkEnd(None, "The voice link was closed.", Retry.STOP))


def _end_of(error: songbird.ConnectError) -> LinkEnd:
    if error.kind == "untrusted":
        return LinkEnd(None, "The voice server's TLS certificate could not be verified.", Retry.STOP)
    if error.code is not None:
        return policy(error.code).end(error.code)
    for words, reason in _UNUSABLE.items():
        if words in error.reason:
            return LinkEnd(None, reason, Retry.STOP)
    kind = "timed_out" if error.kind == "udp" and _NOBODY in error.reason else error.kind
    return LinkEnd(None, _FAILURES.get(kind, f"The voice connection could not be made: {error.reason}."), Retry.REJOIN)


def _failed(error: songbird.ConnectError) -> VoiceError:
    end = _end_of(error)
    return VoiceError(end.reason, retryable=end.retry is not Retry.STOP, retry_after_s=end.cooldown_s or None)
