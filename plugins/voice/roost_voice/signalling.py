"""hikari's gateway events, turned into what the actors are told. Concrete event types only.

hikari's own voice component is never used: a listener on its base event breaks its close, and it loses kicks and moves.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import hikari

from roost_voice import moves

if TYPE_CHECKING:
    from roost.context import PluginContext
    from roost_voice.sessions import SessionManager

_log = logging.getLogger("roost.voice")


class Signalling:
    """Permanent listeners, until the plugin is unloaded. None of them awaits: order is kept.

    They also listen while the plugin is paused, quarantined or switched off: moves are followed, sessions can end, and
    the ghost of a process that was killed is ended in a server that switched voice off.
    """

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    def listen(self, ctx: PluginContext) -> None:
        ctx.listen(hikari.VoiceStateUpdateEvent, self.on_voice_state, always=True)
        ctx.listen(hikari.VoiceServerUpdateEvent, self.on_voice_server, always=True)
        ctx.listen(hikari.ShardReadyEvent, self.on_ready, always=True)
        ctx.listen(hikari.ShardResumedEvent, self.on_resumed, always=True)
        ctx.listen(hikari.ShardDisconnectedEvent, self.on_disconnected, always=True)
        ctx.listen(hikari.GuildAvailableEvent, self.on_guild_available, always=True)
        ctx.listen(hikari.GuildLeaveEvent, self.on_guild_leave, always=True)
        ctx.listen(hikari.GuildChannelDeleteEvent, self.on_channel_delete, always=True)
        ctx.listen(hikari.GuildThreadDeleteEvent, self.on_thread_delete, always=True)
        for changed in (hikari.GuildChannelUpdateEvent, hikari.RoleUpdateEvent, hikari.RoleDeleteEvent):
            ctx.listen(changed, self.on_permissions, always=True)
        if ctx.bot.intents & hikari.Intents.GUILD_MEMBERS:
            ctx.listen(hikari.MemberUpdateEvent, self.on_member, always=True)

    def catch_up(self, bot: hikari.GatewayBot) -> None:
        """Learn what the events before us said: the plugin may be loaded into a bot that has long been running."""
        me = bot.get_me()
        if me is None:
            return
        self._manager.user_is(int(me.id))
        for shard in bot.shards.values():
            if shard.is_connected:
                self._manager.ready(shard, int(me.id))
        for guild_id in bot.cache.get_guilds_view():
            self.catch_up_in(bot, int(guild_id))

    def catch_up_in(self, bot: hikari.GatewayBot, guild_id: int) -> None:
        """Learn what the events of one guild said."""
        me = bot.get_me()
        if me is None:
            return
        state = bot.cache.get_voice_state(guild_id, me.id)
        channel_id = int(state.channel_id) if state is not None and state.channel_id is not None else None
        session_id = state.session_id if state is not None and _is_text(state.session_id) else None
        self._manager.tell(guild_id, moves.GuildHere(channel_id, session_id))

    async def on_voice_state(self, event: hikari.VoiceStateUpdateEvent) -> None:
        state = event.state
        guild_id = int(state.guild_id)
        channel_id = int(state.channel_id) if state.channel_id is not None else None
        if state.user_id != self._manager.user_id:
            self._manager.member(guild_id, int(state.user_id), channel_id, state.member)
        elif not _is_text(state.session_id):
            _log.warning("guild %d: left out a voice state of ours without a session", guild_id)
        elif channel_id is None:
            self._manager.tell(guild_id, moves.OwnNull(state.session_id))
        else:
            self._manager.deafened(guild_id, state.is_guild_deafened)
            self._manager.tell(guild_id, moves.OwnState(channel_id, state.session_id))

    async def on_voice_server(self, event: hikari.VoiceServerUpdateEvent) -> None:
        # Not `event.endpoint`: it comes with a scheme glued in front.
        if event.raw_endpoint is None:
            self._manager.tell(int(event.guild_id), moves.ServerNull())
        elif not (_is_text(event.token) and isinstance(event.raw_endpoint, str)):
            _log.warning("guild %d: left out a voice server that cannot be read", event.guild_id)
        else:
            self._manager.tell(int(event.guild_id), moves.Server(event.token, event.raw_endpoint))

    async def on_ready(self, event: hikari.ShardReadyEvent) -> None:
        # `bot.shards` is still empty now: the event's own shard is what can be sent through.
        self._manager.ready(event.shard, int(event.my_user.id))

    async def on_resumed(self, event: hikari.ShardResumedEvent) -> None:
        self._manager.resumed(event.shard)

    async def on_disconnected(self, event: hikari.ShardDisconnectedEvent) -> None:
        self._manager.tell_shard(event.shard.id, moves.GatewayDown())

    async def on_guild_available(self, event: hikari.GuildAvailableEvent) -> None:
        state = event.voice_states.get(hikari.Snowflake(self._manager.user_id))
        channel_id = int(state.channel_id) if state is not None and state.channel_id is not None else None
        session_id = state.session_id if state is not None and _is_text(state.session_id) else None
        if state is not None:
            self._manager.deafened(int(event.guild_id), state.is_guild_deafened)
        self._manager.tell(int(event.guild_id), moves.GuildHere(channel_id, session_id))

    async def on_guild_leave(self, event: hikari.GuildLeaveEvent) -> None:
        self._manager.tell(int(event.guild_id), moves.GuildGone())

    async def on_channel_delete(self, event: hikari.GuildChannelDeleteEvent) -> None:
        self._manager.tell(int(event.guild_id), moves.ChannelGone(int(event.channel_id)))
        self._manager.permissions_changed(int(event.guild_id), gone=int(event.channel_id))

    async def on_thread_delete(self, event: hikari.GuildThreadDeleteEvent) -> None:
        self._manager.permissions_changed(int(event.guild_id), gone=int(event.thread_id))

    async def on_permissions(self, event: hikari.GuildEvent) -> None:
        self._manager.permissions_changed(int(event.guild_id))

    async def on_member(self, event: hikari.MemberUpdateEvent) -> None:
        self._manager.member_changed(int(event.guild_id), int(event.user_id))


def _is_text(value: object) -> bool:
    """Whether a field is what Discord promises; hikari passes on whatever comes."""
    return isinstance(value, str) and value != ""
