"""Voice states: op 4, moves, kicks, ghosts, and the count of sessions that the promise is measured by.

"A session" is an identified voice-gateway connection not yet closed, or a voice state without one.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import hikari

from roost.sim.connection import GatewaySession
from roost.sim.gateway import Gateway
from roost.sim.state import SimState
from roost.sim.world import SPOKEN, Channel, Guild, Member, VoiceState

CODE_DISCONNECTED = 4014
Key = tuple[int, int]
"""(guild id, user id)."""


@dataclasses.dataclass
class Tally:
    """Sessions of one bot in one guild."""

    connections: set[int] = dataclasses.field(default_factory=set)
    has_state: bool = False
    live: int = 0
    opened: int = 0
    closed: int = 0
    most: int = 0

    def recount(self) -> None:
        now = max(len(self.connections), int(self.has_state))
        self.opened += max(now - self.live, 0)
        self.closed += max(self.live - now, 0)
        self.live = now
        self.most = max(self.most, now)


class Signalling:
    """Owns every voice state of the world and the tallies of the bots."""

    def __init__(self, sim: SimState, gateway: Gateway) -> None:
        self._sim = sim
        self._gateway = gateway
        self.tallies: defaultdict[Key, Tally] = defaultdict(Tally)
        self._voice_ids: dict[str, str] = {}

    # What bots do

    async def op4(self, session: GatewaySession, data: Any) -> None:
        """Join, move, leave or mute, as a bot's gateway session asks for it."""
        sim = self._sim
        guild = sim.world.guilds.get(int(data["guild_id"]))
        user = session.bot.user
        if guild is None or user.id not in guild.members:
            return
        channel_id = int(data["channel_id"]) if data.get("channel_id") else None
        sim.log("op4", guild_id=str(guild.id), user_id=str(user.id), channel_id=channel_id and str(channel_id))
        if sim.faults.take("drop_op4", guild.id) is not None:
            return
        state = guild.voice_states.get(user.id)
        if channel_id is None:
            self._bot_leaves(guild, session, state)
            return
        channel = guild.channels.get(channel_id)
        if channel is None or channel.type not in SPOKEN or not self.may_enter(guild, channel, user.id):
            return
        mute, deaf = bool(data.get("self_mute")), bool(data.get("self_deaf"))
        if state is not None and state.channel_id == channel_id and state.owner == session.id:
            if (state.self_mute, state.self_deaf) != (mute, deaf):
                state.self_mute, state.self_deaf = mute, deaf
                self._announce(guild, state)
            return
        late = sim.faults.take("delay_op4", guild.id)
        if late is not None:
            delay_s = float(late.get("delay_s", 6.0))
            sim.later(delay_s, lambda: self._bot_enters(guild, channel, session, mute, deaf))
            return
        self._bot_enters(guild, channel, session, mute, deaf)

    def may_enter(self, guild: Guild, channel: Channel, user_id: int) -> bool:
        """Whether a join is let in: CONNECT and VIEW_CHANNEL, and room (MOVE_MEMBERS goes in anyhow)."""
        needed = int(hikari.Permissions.CONNECT | hikari.Permissions.VIEW_CHANNEL)
        permissions = guild.permissions(user_id, channel)
        if permissions & needed != needed:
            return False
        others = [each for each in guild.occupants(channel.id) if each != user_id]
        full = bool(channel.user_limit) and len(others) >= channel.user_limit
        return not full or bool(permissions & int(hikari.Permissions.MOVE_MEMBERS))

    def _bot_enters(self, guild: Guild, channel: Channel, session: GatewaySession, mute: bool, deaf: bool) -> None:
        sim, user = self._sim, session.bot.user
        voice_id = self._voice_ids.setdefault(session.id, secrets.token_hex(16))
        state = VoiceState(guild.id, channel.id, user.id, voice_id, session.id, mute, deaf)
        self._place(guild, state)
        actions: list[Callable[[], object]] = []
        if sim.faults.take("stale_vsu_null_first", guild.id) is not None:
            stale = dataclasses.replace(state, session_id=secrets.token_hex(16))
            actions.append(lambda: self._announce(guild, stale, left=True))
        if sim.faults.take("withhold_vsu", guild.id) is None:
            actions.append(lambda: self._announce(guild, state))
        if sim.faults.take("withhold_vsrvu", guild.id) is None:
            fault = sim.faults.take("endpoint_null_first", guild.id)
            if fault is not None:
                actions.append(lambda: self._send_server(guild, session, None, ""))
                delay_s = fault.get("delay_s", 0.2)
                if delay_s is not None:
                    actions.append(lambda: sim.later(float(delay_s), lambda: self._allocate(guild, state, session)))
            else:
                actions.append(lambda: self._allocate(guild, state, session))
        if sim.faults.take("swap_order", guild.id) is not None:
            actions.reverse()
        late = sim.faults.take("delay_op4_events", guild.id)
        if late is not None:
            sim.later(float(late.get("delay_s", 6.0)), lambda: [action() for action in actions])
            return
        for action in actions:
            action()

    def _bot_leaves(self, guild: Guild, session: GatewaySession, state: VoiceState | None) -> None:
        if state is None:
            return
        if state.owner != session.id and self._sim.settings.ghost_null == "ignored":
            self._sim.log("op4_null_ignored", guild_id=str(guild.id), user_id=str(state.user_id))
            return
        self.remove(guild, state.user_id, quiet=self._sim.faults.take("withhold_leave_vsu", guild.id) is not None)

    def _allocate(self, guild: Guild, state: VoiceState, session: GatewaySession) -> None:
        """Hand out a ticket for where the bot is now, if it still is."""
        current = guild.voice_states.get(state.user_id)
        if current is None or self._sim.part is None:
            return
        ticket = self._sim.part.allocate(guild.id, current.channel_id, current.user_id, current.session_id)
        elsewhere = self._sim.faults.take("other_endpoint", guild.id)
        endpoint = ticket.endpoint if elsewhere is None else str(elsewhere.get("endpoint", ""))
        self._send_server(guild, session, endpoint, ticket.token)

    def _send_server(self, guild: Guild, session: GatewaySession, endpoint: str | None, token: str) -> None:
        self._sim.log("vsrvu", guild_id=str(guild.id), user_id=str(session.bot.user.id), endpoint=endpoint)
        if session.wants("VOICE_SERVER_UPDATE", guild.id):
            data = {"guild_id": str(guild.id), "token": token, "endpoint": endpoint}
            session.dispatch("VOICE_SERVER_UPDATE", data)

    # What moderators, REST and members do

    def remove(self, guild: Guild, user_id: int, *, quiet: bool = False, code: int = CODE_DISCONNECTED) -> bool:
        """End a voice state, and its voice connection with `code`; False when there is none. With `quiet` no voice
        state says so."""
        state = guild.voice_states.pop(user_id, None)
        if state is None:
            return False
        self._recount(guild.id, user_id)
        if not quiet:
            self._announce(guild, state, left=True)
        if self._sim.part is not None:
            self._sim.part.end(guild.id, user_id, code)
        return True

    def move(self, guild: Guild, user_id: int, channel: Channel) -> bool:
        """Put a bot that is in voice into another channel, as a moderator does; False when it is not in voice."""
        state = guild.voice_states.get(user_id)
        if state is None:
            return False
        if state.channel_id == channel.id:
            return True
        moved = dataclasses.replace(state, channel_id=channel.id)
        self._place(guild, moved)
        self._announce(guild, moved)
        session = self._gateway.sessions.get(state.owner)
        if session is not None:
            # The close of the old voice connection and the new server do not come at once: a server is sought first.
            self._sim.later(self._sim.settings.move_server_s, lambda: self._after_move(guild, moved, session))
        return True

    def _after_move(self, guild: Guild, moved: VoiceState, session: GatewaySession) -> None:
        if guild.voice_states.get(moved.user_id) is moved:
            self._allocate(guild, moved, session)

    async def drop_channel(self, guild: Guild, channel: Channel) -> None:
        """A channel is deleted: whoever is in it leaves voice, then the channel is gone."""
        for user_id in guild.occupants(channel.id):
            if self._sim.world.is_bot(user_id):
                self.remove(guild, user_id)
            else:
                await self.member(guild, user_id, None)
        del guild.channels[channel.id]
        self._gateway.dispatch("CHANNEL_DELETE", channel.payload(), guild_id=guild.id)

    def new_server(self, guild: Guild, user_id: int, *, null: bool = False) -> bool:
        """A region change: another ticket for the same channel, or with `null` no server at all."""
        state = guild.voice_states.get(user_id)
        session = self._gateway.sessions.get(state.owner) if state else None
        if state is None or session is None:
            return False
        if null:
            self._send_server(guild, session, None, "")
        else:
            self._allocate(guild, state, session)
        return True

    async def member(self, guild: Guild, user_id: int, channel: Channel | None) -> None:
        """A virtual member enters, changes or leaves voice; returns when its client is live."""
        part = self._sim.part
        old = guild.voice_states.get(user_id)
        if old is not None and (channel is None or old.channel_id != channel.id) and part is not None:
            await part.member_leave(guild.id, user_id)
        if channel is None:
            self.remove(guild, user_id)
            return
        if old is not None and old.channel_id == channel.id:
            return
        state = VoiceState(guild.id, channel.id, user_id, secrets.token_hex(16))
        self._place(guild, state)
        self._announce(guild, state)
        if part is not None:
            try:
                await part.member_join(guild.id, channel.id, user_id, state.session_id)
            except BaseException:
                self.remove(guild, user_id)
                raise

    def gateway_session_ended(self, session: GatewaySession) -> None:
        """Its voice states go with it."""
        self._voice_ids.pop(session.id, None)
        for guild in self._sim.world.guilds.values():
            state = guild.voice_states.get(session.bot.user.id)
            if state is not None and state.owner == session.id:
                self.remove(guild, session.bot.user.id)

    # Bookkeeping

    def _place(self, guild: Guild, state: VoiceState) -> None:
        old = guild.voice_states.get(state.user_id)
        guild.voice_states[state.user_id] = state
        self._recount(guild.id, state.user_id)
        if old is not None and self._sim.part is not None and self._sim.world.is_bot(state.user_id):
            self._sim.part.end(guild.id, state.user_id, CODE_DISCONNECTED)

    def _announce(self, guild: Guild, state: VoiceState, *, left: bool = False) -> None:
        member: Member = guild.members[state.user_id]
        channel_id = None if left else str(state.channel_id)
        self._sim.log("vsu", guild_id=str(guild.id), user_id=str(state.user_id), channel_id=channel_id)
        data = state.payload(member, left=left) | {"member": guild.member_payload(state.user_id)}
        if not member.user.bot and self._sim.faults.take("anonymous_voice_state", guild.id) is not None:
            del data["member"]
        self._gateway.dispatch("VOICE_STATE_UPDATE", data, guild_id=guild.id)

    def identified(self, guild_id: int, user_id: int, connection_id: int) -> None:
        if self._sim.world.is_bot(user_id):
            self.tallies[guild_id, user_id].connections.add(connection_id)
            self._recount(guild_id, user_id)

    def closed(self, guild_id: int, user_id: int, connection_id: int) -> None:
        if self._sim.world.is_bot(user_id):
            self.tallies[guild_id, user_id].connections.discard(connection_id)
            self._recount(guild_id, user_id)

    def _recount(self, guild_id: int, user_id: int) -> None:
        if not self._sim.world.is_bot(user_id):
            return
        tally = self.tallies[guild_id, user_id]
        tally.has_state = user_id in self._sim.world.guilds[guild_id].voice_states
        tally.recount()
        self._sim.log("sessions", guild_id=str(guild_id), user_id=str(user_id), live=tally.live, most=tally.most)
