"""One voice connection."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from songbird import _songbird
from songbird._hub import LoopHub, ask
from songbird._listening import CLOSE_S, Listener, Listeners
from songbird.config import Config, NativeSettings
from songbird.errors import (
    ConnectError,
    ConsumedSourceError,
    EndpointError,
    NotConnectedError,
    SourceError,
    UseAsyncConstructorError,
)
from songbird.events import Event
from songbird.tracks import Source, Track, TrackHandle

_ENDPOINT = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_MAKING = object()


class Driver:
    """Songbird's driver. Made by `Driver.create`; belongs to the asyncio loop it is made in.

    It holds nothing before its first `connect` or `play`, and nothing again after `leave`: no thread, no socket, no
    task. It can then be used anew; its settings, mute and listeners stay.
    """

    def __init__(self, config: Config | None = None, *, _token: object = None) -> None:
        if _token is not _MAKING:
            raise UseAsyncConstructorError("a driver is made by: await Driver.create()")
        self._config = config or Config()
        self._listeners = Listeners()
        self._link: _songbird.Link | None = None
        self._hub: LoopHub | None = None
        self._id = 0
        self._muted = False
        self._bitrate: int | None = None
        self._connected = False

    @staticmethod
    async def create(config: Config | None = None) -> Driver:
        """A driver that is connected to nothing yet."""
        if config is not None:
            config.check()
        return Driver(config, _token=_MAKING)

    # -- the connection -----------------------------------------------------------------------------------------------

    async def connect(  # noqa: PLR0917 - songbird-py's
        self,
        token: str,
        endpoint: str,
        session_id: str,
        guild_id: int,
        channel_id: int,
        user_id: int,
    ) -> None:
        """Connect to a voice server; a connection that stands is left first, so that there are never two.

        Args:
            token: Of VOICE_SERVER_UPDATE.
            endpoint: Of VOICE_SERVER_UPDATE: ``host`` or ``host:port``.
            session_id: Of the bot's own voice state.
            guild_id: The guild.
            channel_id: The voice channel.
            user_id: The bot.

        Raises:
            EndpointError: That is no address.
            ConnectError: With Discord's close code and reason, where it gave one. The driver is left.
        """
        check_endpoint(endpoint)
        for name, value in (("guild_id", guild_id), ("channel_id", channel_id), ("user_id", user_id)):
            if not 0 < int(value) < 2**64:
                raise ValueError(f"{name} is no id: {value!r}")
        for name, text in (("token", token), ("session_id", session_id)):
            if not text:
                raise ValueError(f"{name} is empty")
        if self._connected:
            await self.leave()
        hub, link = self.open()

        def start(op: int) -> None:
            link.connect(op, token, endpoint, session_id, int(guild_id), int(channel_id), int(user_id))

        self._connected = True
        deadline = self._config.longest_connect_s()
        try:
            await ask(hub, start, deadline)
        except TimeoutError:
            await self.leave()
            raise ConnectError("timed_out", None, f"no connection within {deadline} s") from None
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Disconnect, end what plays, and give back every thread and socket. Listeners stay, their timers end."""
        self._connected = False
        self._listeners.detach()
        link, self._link = self._link, None
        hub, self._hub = self._hub, None
        try:
            if link is not None:
                # The end has begun when this returns: who gives up waiting keeps no thread.
                here = LoopHub.of_this_loop()
                await ask(here, lambda op: link.close(here.native, op), CLOSE_S)
        finally:
            if hub is not None:
                hub.unregister(self._id)
            await self._listeners.end_tasks()

    async def __aenter__(self) -> Driver:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    @property
    def is_open(self) -> bool:
        """Whether the driver holds threads and sockets."""
        return self._link is not None

    # -- what is sent -------------------------------------------------------------------------------------------------

    async def mute(self) -> None:
        """Send silence instead of what plays; the tracks go on."""
        self._mute(True)

    async def unmute(self) -> None:
        self._mute(False)

    async def is_muted(self) -> bool:
        return self._muted

    async def is_mute(self) -> bool:
        """Songbird's own name for `is_muted`."""
        return self._muted

    async def play_source(self, source: Source) -> TrackHandle:
        """Play beside what plays already."""
        return self._play(Track(source), only=False)

    async def play_only_source(self, source: Source) -> TrackHandle:
        """Play instead of everything that plays."""
        return self._play(Track(source), only=True)

    async def play(self, track: Track) -> TrackHandle:
        """Play a track beside what plays already."""
        return self._play(track, only=False)

    async def play_only(self, track: Track) -> TrackHandle:
        """Play a track instead of everything that plays."""
        return self._play(track, only=True)

    async def stop(self) -> None:
        """End all tracks."""
        if self._link is not None:
            self._link.stop()

    async def set_bitrate(self, bitrate: int) -> None:
        """Bits a second, 500 to 512,000."""
        if not 500 <= bitrate <= 512_000:
            raise ValueError("a bitrate is 500 to 512000 bits a second")
        self._set_bitrate(bitrate)

    async def set_bitrate_to_max(self) -> None:
        self._set_bitrate(-1)

    async def set_bitrate_to_auto(self) -> None:
        self._set_bitrate(0)

    def send_opus(self, opus: bytes) -> bool:
        """Queue one 20 ms Opus frame, to be sent as it is.

        Songbird takes one each 20 ms; it marks the end of a run with five frames of silence. Frames pass unchanged
        while nothing else plays. Before the end-to-end encryption stands, Songbird sends them without it.

        Returns:
            False when a second of sound waits already: the frame was not taken.

        Raises:
            ValueError: The frame is empty or longer than a packet may be.
            NotConnectedError: The driver was left.
        """
        if not 0 < len(opus) <= 1275:
            raise ValueError("an Opus frame has 1 to 1275 bytes")
        if self._link is None:
            raise NotConnectedError("not connected")
        return self._link.send_opus(opus)

    def opus_stats(self) -> tuple[int, int]:
        """Frames of `send_opus` that wait, and those that Songbird took since the driver was opened."""
        return (0, 0) if self._link is None else self._link.opus_stats()

    def ticks(self) -> int:
        """How often the receiving half has been round, 50 times a second, since the first call; 0 once it was left.

        It stands still once that half has died.
        """
        return 0 if self._link is None else self._link.ticks()

    # -- settings and events ------------------------------------------------------------------------------------------

    async def set_config(self, config: Config) -> None:
        """Take new settings; those of the connection hold from the next one on."""
        config.check()
        self._config = dataclasses.replace(config)
        if self._link is not None:
            self._link.set_config(NativeSettings.of(self._config))

    async def get_config(self) -> Config:
        """A copy."""
        return dataclasses.replace(self._config)

    @property
    def on_packets(self) -> Callable[[list[_songbird.OpusPacket]], None] | None:
        """Called with everything that arrived in a tick. Cheaper than `Event.VoicePacket`, and one only."""
        return self._listeners.on_packets

    @on_packets.setter
    def on_packets(self, call: Callable[[list[_songbird.OpusPacket]], None] | None) -> None:
        self._listeners.on_packets = call

    async def add_event(self, event: Event, call: Listener) -> None:
        """Call back when something happens; `call` is a function or a coroutine function.

        Events of tracks give ``list[TrackState]``, timers nothing, `Event.VoicePacket` a ``list[OpusPacket]``, the
        others one object of `songbird.events`. Coroutines of the driver's listeners end with `leave`.
        """
        self._listeners.add(event, call)

    async def remove_all_events(self) -> None:
        """Forget every listener, also those of tracks."""
        self._listeners.clear()

    # -- inside -------------------------------------------------------------------------------------------------------

    def open(self) -> tuple[LoopHub, _songbird.Link]:
        """Open the driver without connecting it, for Songbird's own parts; `connect` and `play` do it by themselves.

        Returns:
            The queue of this loop, and the driver's native half.
        """
        if self._link is None or self._hub is None:
            hub = LoopHub.of_this_loop()
            self._id = hub.register(self._listeners)
            try:
                link = _songbird.Link(hub.native, self._id, NativeSettings.of(self._config))
            except BaseException:
                hub.unregister(self._id)
                raise
            self._hub, self._link = hub, link
            if self._muted:
                link.mute(True)
            if self._bitrate is not None:
                link.set_bitrate(self._bitrate)
            self._listeners.attach(link)
        return self._hub, self._link

    def _mute(self, muted: bool) -> None:
        self._muted = muted
        if self._link is not None:
            self._link.mute(muted)

    def _set_bitrate(self, bits: int) -> None:
        self._bitrate = bits
        if self._link is not None:
            self._link.set_bitrate(bits)

    def _play(self, track: Track, *, only: bool) -> TrackHandle:
        if not isinstance(track, Track) or not isinstance(track.source, Source):
            raise TypeError("a Track holds a Source; play_source takes a Source")
        _, link = self.open()
        try:
            native = link.play(
                track.source.native, only=only, paused=track.paused, volume=track.volume, loops=track.loops
            )
        except ValueError as error:
            raise SourceError(str(error)) from error
        if native is None:
            raise ConsumedSourceError(f"{track.source!r} was played before; make another")
        return TrackHandle(self._listeners, native)

    def __repr__(self) -> str:
        return f"<Driver {'connected' if self._connected else 'open' if self._link else 'closed'}>"


def check_endpoint(endpoint: str) -> None:
    """Raise EndpointError for anything but ``host`` or ``host:port``."""
    match = _ENDPOINT.fullmatch(endpoint) if isinstance(endpoint, str) else None
    if match is None or (match[1] is not None and not 0 < int(match[1]) < 65_536):
        raise EndpointError(f"no address of a voice server: {endpoint!r} (host or host:port, nothing else)")


__all__ = ["Driver", "check_endpoint"]
