"""Songbird as hikari's voice connection.

voice = await Voicebox.connect(bot, guild_id, channel_id)
await voice.play_source(Source.file("song.ogg"))
await voice.disconnect()
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import hikari
from hikari.api import VoiceComponent, VoiceConnection

from songbird.config import Config
from songbird.driver import Driver
from songbird.errors import SongbirdError
from songbird.events import DisconnectData, Event
from songbird.tracks import Source, Track, TrackHandle

LEAVE_S = 5.0
"""Bound of the farewell to Discord's gateway."""


class Voicebox(VoiceConnection):
    """A voice connection of a hikari bot. Made by `connect`; ended by `disconnect`, by the bot's end, or by Discord.

    It follows Discord to another voice server. A lost connection that Songbird cannot restore disconnects it.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        channel_id: hikari.Snowflake,
        guild_id: hikari.Snowflake,
        shard_id: int,
        user_id: hikari.Snowflake,
        session_id: str,
        token: str,
        endpoint: str,
        owner: VoiceComponent,
        on_close: Callable[[Any], Awaitable[None]],
    ) -> None:
        self.driver = driver
        self._channel_id = channel_id
        self._guild_id = guild_id
        self._shard_id = shard_id
        self._user_id = user_id
        self._session_id = session_id
        self._server = (token, endpoint)
        self._owner = owner
        self._on_close = on_close
        self._alive = True
        self._ended = asyncio.Event()
        self._moving = asyncio.Lock()

    @classmethod
    async def connect(
        cls,
        client: hikari.GatewayBotAware,
        guild_id: hikari.Snowflakeish,
        channel_id: hikari.Snowflakeish,
        *,
        config: Config | None = None,
        deaf: bool = False,
        mute: bool = False,
    ) -> Voicebox:
        """Join a channel, and return once voice is connected.

        Raises:
            hikari.VoiceError: Discord did not answer, or the bot is in voice in that guild already.
            songbird.ConnectError: The voice server refused. The bot has left the channel again.
        """
        config = config or Config()
        timeout: Any = config.gateway_timeout
        return await client.voice.connect_to(
            hikari.Snowflake(guild_id),
            hikari.Snowflake(channel_id),
            voice_connection_type=cls,
            deaf=deaf,
            mute=mute,
            timeout=timeout,
            config=config,
        )

    @classmethod
    async def initialize(  # noqa: PLR0917 - hikari's
        cls,
        channel_id: hikari.Snowflake,
        endpoint: str,
        guild_id: hikari.Snowflake,
        on_close: Callable[[Any], Awaitable[None]],
        owner: VoiceComponent,
        session_id: str,
        shard_id: int,
        token: str,
        user_id: hikari.Snowflake,
        **kwargs: Any,
    ) -> Voicebox:
        """Called by hikari."""
        driver = await Driver.create(kwargs.get("config"))
        endpoint = endpoint.removeprefix("wss://")
        box = cls(
            driver,
            channel_id=channel_id,
            guild_id=guild_id,
            shard_id=shard_id,
            user_id=user_id,
            session_id=session_id,
            token=token,
            endpoint=endpoint,
            owner=owner,
            on_close=on_close,
        )
        await box._connect()
        await driver.add_event(Event.DriverDisconnect, box._lost)
        return box

    @property
    def channel_id(self) -> hikari.Snowflake:
        return self._channel_id

    @property
    def guild_id(self) -> hikari.Snowflake:
        return self._guild_id

    @property
    def is_alive(self) -> bool:
        return self._alive

    @property
    def shard_id(self) -> int:
        return self._shard_id

    @property
    def owner(self) -> VoiceComponent:
        return self._owner

    async def disconnect(self) -> None:
        """Leave the channel; nothing of the connection is left. May be called again."""
        if not self._alive:
            return
        self._alive = False
        try:
            await self.driver.leave()
        finally:
            self._ended.set()
            async with asyncio.timeout(LEAVE_S):
                await self._on_close(self)

    async def leave(self) -> None:
        """The same as `disconnect`."""
        await self.disconnect()

    async def join(self) -> None:
        """Wait until the connection has ended."""
        await self._ended.wait()

    async def notify(self, event: hikari.VoiceEvent) -> None:
        """Called by hikari: the bot was moved, put out, or given another server."""
        if not self._alive:
            return
        if isinstance(event, hikari.VoiceStateUpdateEvent) and event.state.user_id == self._user_id:
            if event.state.channel_id is None:
                await self.disconnect()
                return
            self._channel_id, self._session_id = event.state.channel_id, event.state.session_id
        elif isinstance(event, hikari.VoiceServerUpdateEvent):
            if event.endpoint is None:
                # The server is gone; its successor is announced by another event.
                await self.driver.leave()
                return
            self._server = (event.token, event.endpoint.removeprefix("wss://"))
            try:
                await self._connect()
            except SongbirdError:
                await self.disconnect()

    async def mute(self) -> None:
        await self.driver.mute()

    async def unmute(self) -> None:
        await self.driver.unmute()

    async def is_muted(self) -> bool:
        return await self.driver.is_muted()

    async def play_source(self, source: Source) -> TrackHandle:
        return await self.driver.play_source(source)

    async def play_only_source(self, source: Source) -> TrackHandle:
        return await self.driver.play_only_source(source)

    async def play(self, track: Track) -> TrackHandle:
        return await self.driver.play(track)

    async def play_only(self, track: Track) -> TrackHandle:
        return await self.driver.play_only(track)

    async def set_bitrate(self, bitrate: int) -> None:
        await self.driver.set_bitrate(bitrate)

    async def set_bitrate_to_max(self) -> None:
        await self.driver.set_bitrate_to_max()

    async def set_bitrate_to_auto(self) -> None:
        await self.driver.set_bitrate_to_auto()

    async def stop(self) -> None:
        await self.driver.stop()

    async def set_config(self, config: Config) -> None:
        await self.driver.set_config(config)

    async def get_config(self) -> Config:
        return await self.driver.get_config()

    async def add_event(self, event: Event, call: Callable[..., Any]) -> None:
        await self.driver.add_event(event, call)

    async def _connect(self) -> None:
        async with self._moving:
            token, endpoint = self._server
            await self.driver.connect(
                token, endpoint, self._session_id, self._guild_id, self._channel_id, self._user_id
            )

    async def _lost(self, data: DisconnectData) -> None:
        # 4014: moved or put out; Discord's gateway says which. Anything else will not come back.
        if data.code not in (4014, 4022) and self._alive and not self._moving.locked():
            await self.disconnect()
