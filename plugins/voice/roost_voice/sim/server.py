"""The simulated voice gateway, version 8, without its sockets. Pure: time comes in, frames go out through pipes."""

from __future__ import annotations

import collections
import json
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from roost.sim.voice_part import SimHost
from roost_voice.sim import faults, mls, nonsense, rtp
from roost_voice.sim.delivery import OP_ANNOUNCE_COMMIT, OP_WELCOME, DeliveryService
from roost_voice.sim.late import LateMessages
from roost_voice.sim.media import Loss, MediaRelay, Sendto
from roost_voice.sim.session import NUMBERED_SINCE, Grant, Pipe, Room, Session, json_frame
from roost_voice.sim.settings import VoiceSettings

_MAX_GRANTS = 10_000
_RESUMABLE = frozenset({1000, 1001, 1006, 4000, 4013, 4015})
"""Close codes after which the server still knows the session, when it is the server that closes."""
_ENDING = frozenset({1000, 1001})
"""Close codes with which a client ends its session for good."""
_IGNORED_OPS = frozenset({12, 14, 15, 16, 18, 20})


class Refused(Exception):
    """The client's message earns it a close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _integer(value: Any, low: int = 0, high: int = 2**32 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError("not a number in range")
    return value


def _snowflake(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return _integer(value, 0, 2**64 - 1)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    return value


class VoiceServer:
    """All voice channels of the simulated Discord.

    Args:
        settings: See `VoiceSettings`.
        host: The simulated Discord: its log, its counts of sessions, its armed faults.
        forge: Sends a datagram from a foreign socket.
    """

    def __init__(self, settings: VoiceSettings, host: SimHost, forge: Sendto) -> None:
        self._settings = settings
        self._host = host
        self._grants: collections.OrderedDict[str, Grant] = collections.OrderedDict()
        self._rooms: dict[tuple[int, int], Room] = {}
        self._sessions: dict[tuple[int, int], Session] = {}
        self._by_ssrc: dict[int, Session] = {}
        self._pipes: dict[int, Pipe] = {}
        self._waiting_faults: list[faults.ActiveFault] = []
        self._late: dict[Session, LateMessages] = {}
        self._next_ssrc = 1000
        self.udp_address = (settings.host, 0)
        """Told in op 2; set by whoever owns the socket."""
        self.udp_relay: tuple[str, int] | None = None
        """Told to bots in its place: what leads there."""
        self.media = MediaRelay(settings, self._find, self._take_for, forge)

    # Tickets

    def grant(self, guild_id: int, channel_id: int, user_id: int, session_id: str, *, virtual: bool) -> Grant:
        """Hand out a ticket; the user's earlier ones in this guild become void."""
        self._void(guild_id, user_id)
        grant = Grant(secrets.token_hex(16), guild_id, channel_id, user_id, session_id, virtual)
        self._grants[grant.token] = grant
        while len(self._grants) > _MAX_GRANTS:
            self._grants.popitem(last=False)
        return grant

    def _void(self, guild_id: int, user_id: int) -> None:
        for grant in self._grants.values():
            if (grant.guild_id, grant.user_id) == (guild_id, user_id):
                grant.void = True

    def end(self, guild_id: int, user_id: int, code: int, now: float) -> None:
        """The voice state ended or moved: void the ticket, forget the session, close its websocket with `code`."""
        self._void(guild_id, user_id)
        session = self._sessions.get((guild_id, user_id))
        if session is not None:
            self._end_session(session, code, now)

    def session(self, guild_id: int, user_id: int) -> Session | None:
        return self._sessions.get((guild_id, user_id))

    def room(self, guild_id: int, channel_id: int) -> Room | None:
        return self._rooms.get((guild_id, channel_id))

    # Websockets

    def opened(self, pipe: Pipe, now: float) -> None:
        """A websocket was accepted."""
        self._pipes[pipe.id] = pipe
        pipe.last_heartbeat = now
        self._host.log("voice", event="connect", connection_id=pipe.id, virtual=pipe.virtual)
        if not pipe.virtual and self._take_any("mute_hello") is not None:
            return
        interval_ms: Any = round(self._settings.heartbeat_interval_s * 1000)
        odd = None if pipe.virtual else self._take_any("odd_hello")
        if odd is not None:
            interval_ms = odd.get("interval", 1)
        pipe.send(json_frame(8, {"v": pipe.version, "heartbeat_interval": interval_ms}))

    def received(self, pipe: Pipe, raw: str | bytes, now: float) -> None:
        """One message of a client. Whatever it holds, the worst that happens is a close code."""
        try:
            if isinstance(raw, bytes):
                self._binary(pipe, raw, now)
            else:
                self._json(pipe, raw, now)
        except Refused as refusal:
            self._refuse(pipe, refusal.code, str(refusal), now)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            code = 4020 if pipe.session is not None else 4002
            self._refuse(pipe, code, f"{type(error).__name__}: malformed message", now)

    def closed(self, pipe: Pipe, code: int | None, now: float) -> None:
        """The websocket is gone; `code` is the client's, or None when it sent none."""
        self._pipes.pop(pipe.id, None)
        session = pipe.session
        if session is None:
            self._host.log("voice", event="close", connection_id=pipe.id, code=code, by="client")
            return
        if code in _ENDING or session.grant.virtual:
            self._detach(session, code, by="client")
            self._forget(session, now)
        else:
            self._detach(session, code, by="client")
            session.lost_at = now

    def tick(self, now: float) -> None:
        """Deadlines and faults; call it every `VoiceSettings.tick_s`."""
        limit_s = self._settings.heartbeat_interval_s * self._settings.heartbeat_limit
        for pipe in list(self._pipes.values()):
            if now - pipe.last_heartbeat > limit_s:
                self._refuse(pipe, 4009, "no heartbeat", now)
        for session in list(self._sessions.values()):
            if session.lost_at is not None and now - session.lost_at > self._settings.resume_window_s:
                self._forget(session, now)
        self.media.tick(now)
        for room in list(self._rooms.values()):
            room.delivery.tick(now)
            self._flush(room, now)
        for session, late in self._late.items():
            for op, payload in late.due(now):
                session.send(op, payload)
        guilds = {guild for (guild, _), session in self._sessions.items() if not session.grant.virtual}
        self._waiting_faults += faults.take_active(self._host, sorted(guilds))
        self._waiting_faults = [fault for fault in self._waiting_faults if not self._strike(fault, now)]

    def state(self) -> dict[str, Any]:
        sessions = []
        for session in self._sessions.values():
            room = self._rooms[session.grant.guild_id, session.grant.channel_id]
            sessions.append({**session.state(), "dave": room.dave_state(session.user_id)})
        return {
            "voice_sessions": sessions,
            "voice_ws": len(self._pipes),
            "voice_ws_virtual": sum(pipe.virtual for pipe in self._pipes.values()),
            "udp": sum(session.address is not None for session in self._sessions.values()),
            "udp_virtual": sum(
                session.address is not None and session.grant.virtual for session in self._sessions.values()
            ),
            "datagrams_ignored": dict(self.media.ignored),
        }

    # Messages

    def _json(self, pipe: Pipe, raw: str, now: float) -> None:
        try:
            message = _mapping(json.loads(raw))
            op = _integer(message["op"])
        except (ValueError, KeyError, RecursionError) as error:
            raise Refused(4002, "not a voice gateway message") from error
        payload = message.get("d")
        if op == 3:
            self._heartbeat(pipe, {"t": payload} if pipe.version < NUMBERED_SINCE else _mapping(payload), now)
        elif op == 0:
            self._identify(pipe, _mapping(payload), now)
        elif op == 7:
            self._resume(pipe, _mapping(payload), now)
        elif pipe.session is None:
            raise Refused(4003, "not identified")
        elif op == 1:
            self._select(pipe.session, _mapping(payload), now)
        elif op == 5:
            self._speaking(pipe.session, _mapping(payload))
        elif op in (23, 31):
            session, room = pipe.session, self._room_of(pipe.session)
            number = _integer(_mapping(payload)["transition_id"], 0, 0xFFFF)
            self._expect_dave(session, room)
            if op == 23:
                room.delivery.transition_ready(session.user_id, number)
            else:
                room.delivery.invalid(session.user_id, number)
            self._flush(room, now)
        elif op not in _IGNORED_OPS:
            raise Refused(4001, f"unknown op {op}")

    def _binary(self, pipe: Pipe, raw: bytes, now: float) -> None:
        if pipe.session is None:
            raise Refused(4003, "not identified")
        if not raw or raw[0] not in (26, 28):
            raise Refused(4001, "unknown binary op")
        session, room = pipe.session, self._room_of(pipe.session)
        self._expect_dave(session, room)
        try:
            if raw[0] == 26:
                room.delivery.key_package(session.user_id, raw[1:])
            else:
                room.delivery.commit(session.user_id, raw[1:], now)
        except mls.WireError as error:
            raise Refused(4020, f"op {raw[0]}: {error}") from error
        finally:
            self._flush(room, now)

    def _expect_dave(self, session: Session, room: Room) -> None:
        if session.user_id not in room.delivery.members:
            raise Refused(4020, "before the session description")

    def _heartbeat(self, pipe: Pipe, payload: Mapping[str, Any], now: float) -> None:
        nonce = payload["t"]
        if isinstance(nonce, bool) or not isinstance(nonce, int | float | str):
            raise ValueError("bad nonce")
        pipe.last_heartbeat = now
        session = pipe.session
        if session is not None:
            session.heartbeats += 1
            seq_ack = payload.get("seq_ack")
            session.seq_ack = -1 if seq_ack is None else _integer(seq_ack, -1, 0xFFFF)
            if self._take_for("wrong_heartbeat_nonce", session) is not None:
                nonce = nonce + 1 if isinstance(nonce, int | float) else nonce + "x"
        pipe.send(json_frame(6, nonce if pipe.version < NUMBERED_SINCE else {"t": nonce}))

    def _identify(self, pipe: Pipe, payload: Mapping[str, Any], now: float) -> None:
        if pipe.session is not None:
            raise Refused(4005, "already identified")
        guild_id, user_id = _snowflake(payload["server_id"]), _snowflake(payload["user_id"])
        session_id, token = _string(payload["session_id"]), _string(payload["token"])
        max_dave = _integer(payload.get("max_dave_protocol_version") or 0, 0, 0xFFFF)
        grant = self._grants.get(token)
        if grant is None or (grant.guild_id, grant.user_id) != (guild_id, user_id):
            raise Refused(4004, "wrong token")
        if grant.void or grant.session_id != session_id:
            raise Refused(4006, "the session is no longer valid")
        if not grant.virtual:
            fault = self._host.take_fault("refuse_identify", guild_id)
            if fault is not None:
                raise Refused(faults.integer(fault, "code", 4006), "fault")
        stage = self._host.is_stage(grant.channel_id)
        if max_dave < 1 and self._settings.require_dave and not stage:
            raise Refused(4017, "DAVE is required")
        old = self._sessions.get((guild_id, user_id))
        if old is not None:
            self._end_session(old, 4006, now)
        self._next_ssrc += 1
        session = Session(
            grant,
            pipe,
            self._next_ssrc,
            max_dave,
            replay_messages=self._settings.replay_messages,
            first_seq=self._settings.first_seq,
        )
        pipe.session = session
        room = self._rooms.get((guild_id, grant.channel_id))
        if room is None:
            room = self._rooms[guild_id, grant.channel_id] = Room(
                guild_id,
                grant.channel_id,
                DeliveryService(
                    grant.channel_id,
                    transition_timeout_s=self._settings.transition_timeout_s,
                    first_transition_zero=self._settings.first_transition_zero,
                    version=0 if stage else 1,
                ),
                stage=stage,
            )
        room.sessions[user_id] = self._sessions[guild_id, user_id] = self._by_ssrc[session.ssrc] = session
        self._log(session, "identify", channel_id=str(grant.channel_id))
        self._host.voice_identified(guild_id, user_id, pipe.id)
        self._greet(session, room)

    def _greet(self, session: Session, room: Room) -> None:
        if self._take_for("mute_ready", session) is None:
            modes = list(self._settings.modes)
            if self._take_for("no_common_mode", session) is not None:
                modes = ["aead_nobody_knows_rtpsize"]
            host, port = self.udp_address if session.grant.virtual else self.udp_relay or self.udp_address
            odd = self._take_for("odd_ready", session)
            if odd is not None:
                host, port = odd.get("ip", "169.254.169.254"), odd.get("port", port)
            session.send(2, {"ssrc": session.ssrc, "ip": host, "port": port, "modes": modes, "experiments": []})
        others = room.others(session)
        if others:
            session.send(11, {"user_ids": [str(other.user_id) for other in others]})
        for other in others:
            other.send(11, {"user_ids": [str(session.user_id)]})
            if other.speaking is not None:
                self._tell_speaking(other, session)

    def _resume(self, pipe: Pipe, payload: Mapping[str, Any], now: float) -> None:
        if pipe.session is not None:
            raise Refused(4005, "already identified")
        guild_id = _snowflake(payload["server_id"])
        session_id, token = _string(payload["session_id"]), _string(payload["token"])
        seq_ack = payload.get("seq_ack")
        seq_ack = -1 if seq_ack is None else _integer(seq_ack, -1, 0xFFFF)
        grant = self._grants.get(token)
        session = None if grant is None else self._sessions.get((grant.guild_id, grant.user_id))
        if session is None or session.grant is not grant:
            raise Refused(4006, "nothing to resume")
        if grant.void or (grant.guild_id, grant.session_id) != (guild_id, session_id):
            raise Refused(4006, "the session is no longer valid")
        fault = self._take_for("refuse_resume", session)
        if fault is not None:
            self._forget(session, now)
            raise Refused(faults.integer(fault, "code", 4006), "fault")
        if self._take_for("mute_resume", session) is not None:
            return
        frames = session.missed(seq_ack) if pipe.version >= NUMBERED_SINCE else []
        if frames is None:
            self._end_session(session, 4006, now)
            raise Refused(4006, "a missed message has left the buffer")
        if session.pipe is not None:  # half-open: the client gave it up before we noticed
            old = session.pipe
            self._detach(session, None, by="server")
            old.reset()
        session.pipe, session.lost_at, pipe.session = pipe, None, session
        self._log(session, "resume", seq_ack=seq_ack, replayed=len(frames))
        self._host.voice_identified(guild_id, session.user_id, pipe.id)
        session.send(9, None)
        for frame in frames:
            pipe.send(frame)

    def _select(self, session: Session, payload: Mapping[str, Any], now: float) -> None:
        if payload["protocol"] != "udp":
            raise Refused(4012, "unknown protocol")
        data = _mapping(payload["data"])
        host, port, mode = _string(data["address"]), _integer(data["port"], 0, 0xFFFF), _string(data["mode"])
        if mode not in self._settings.modes:
            raise Refused(4016, "unknown encryption mode")
        if session.address is None and host.startswith("127.") and port:
            session.address = (host, port)
        key = secrets.token_bytes(rtp.KEY_BYTES)
        session.mode = mode
        session.opener, session.sealer = rtp.Cipher(mode, key), rtp.Cipher(mode, key)
        room = self._room_of(session)
        self._log(session, "select", mode=mode, address=f"{host}:{port}")
        known = session.user_id in room.delivery.members
        if not known:
            self._settle_version(room, now, session.max_dave)
        if self._take_for("mute_session_description", session) is None:
            shown = key[:-1] if self._take_for("bad_key_length", session) is not None else key
            session.send(
                4,
                {
                    "mode": mode,
                    "secret_key": list(shown),
                    "audio_codec": "opus",
                    "video_codec": "H264",
                    "media_session_id": secrets.token_hex(16),
                    "dave_protocol_version": room.delivery.version,
                },
            )
        if not known:
            room.delivery.join(session.user_id)
        self._flush(room, now)

    def _speaking(self, session: Session, payload: Mapping[str, Any]) -> None:
        session.speaking = _integer(payload["speaking"], 0, 0xFF)
        self._log(session, "speaking", speaking=session.speaking)
        for other in self._room_of(session).others(session):
            self._tell_speaking(session, other)

    def _tell_speaking(self, about: Session, to: Session) -> None:
        to.send(5, {"user_id": str(about.user_id), "ssrc": about.ssrc, "speaking": about.speaking})

    # Sessions

    def _room_of(self, session: Session) -> Room:
        return self._rooms[session.grant.guild_id, session.grant.channel_id]

    def _find(self, ssrc: int) -> tuple[Session, Room] | None:
        session = self._by_ssrc.get(ssrc)
        return None if session is None else (session, self._room_of(session))

    def _log(self, session: Session, event: str, **fields: Any) -> None:
        pipe_id = session.pipe.id if session.pipe is not None else None
        guild_id, user_id = str(session.grant.guild_id), str(session.user_id)
        self._host.log("voice", event=event, guild_id=guild_id, user_id=user_id, connection_id=pipe_id, **fields)

    def _refuse(self, pipe: Pipe, code: int, reason: str, now: float) -> None:
        session = pipe.session
        if session is not None:
            self._end_session(session, code, now, reason=reason)
            return
        self._host.log("voice", event="close", connection_id=pipe.id, code=code, by="server", reason=reason)
        self._pipes.pop(pipe.id, None)
        pipe.close(code)

    def _detach(self, session: Session, code: int | None, *, by: str, reason: str = "") -> Pipe | None:
        """Take the websocket from a session and tell the host; the socket itself stays open."""
        pipe = session.pipe
        if pipe is None:
            return None
        extra = {"reason": reason} if reason else {}
        self._log(session, "close", code=code, by=by, **extra)
        session.pipe, pipe.session = None, None
        self._pipes.pop(pipe.id, None)
        self._host.voice_closed(session.grant.guild_id, session.user_id, pipe.id, code)
        return pipe

    def _end_session(self, session: Session, code: int, now: float, *, reason: str = "") -> None:
        pipe = self._detach(session, code, by="server", reason=reason)
        if pipe is not None:
            pipe.close(code)
        self._forget(session, now)

    def _forget(self, session: Session, now: float) -> None:
        grant = session.grant
        if self._sessions.get((grant.guild_id, grant.user_id)) is not session:
            return
        room = self._room_of(session)
        del self._sessions[grant.guild_id, grant.user_id], self._by_ssrc[session.ssrc], room.sessions[grant.user_id]
        self.media.losses.pop((grant.guild_id, grant.user_id), None)
        self.media.corrupt.pop((grant.guild_id, grant.user_id), None)
        self.media.offsets.pop(session.ssrc, None)
        self._late.pop(session, None)
        self._log(session, "gone")
        if not room.sessions:
            del self._rooms[grant.guild_id, grant.channel_id]
            return
        for other in room.sessions.values():
            other.send(13, {"user_id": str(grant.user_id)})
        room.delivery.leave(grant.user_id)
        self._settle_version(room, now)
        self._flush(room, now)

    # DAVE

    def _settle_version(self, room: Room, now: float, newcomer: int | None = None) -> None:
        """Version 1 while everybody can, else 0 (only where DAVE is not required)."""
        if self._settings.require_dave or room.stage:
            return
        members = [room.sessions[user].max_dave for user in room.delivery.members if user in room.sessions]
        if newcomer is not None:
            members.append(newcomer)
        if members and min(members) < 1:
            room.delivery.downgrade(now)
        else:
            room.delivery.upgrade()

    def _flush(self, room: Room, now: float) -> None:
        outgoing, room.delivery.outbox = room.delivery.outbox, []
        for message in outgoing:
            session = room.sessions.get(message.user_id)
            if session is None:
                continue
            payload = message.payload
            fault = {OP_ANNOUNCE_COMMIT: "flip_commit", OP_WELCOME: "flip_welcome"}.get(message.op)
            if fault is not None and isinstance(payload, bytes) and self._take_for(fault, session) is not None:
                payload = payload[:-1] + bytes([payload[-1] ^ 1])
            late = self._late.get(session)
            if late is None or not late.hold((message.op, payload), now):
                session.send(message.op, payload)
        events, room.delivery.trace = room.delivery.trace, []
        for event in events:
            kind = event.pop("event")
            where = {"guild_id": str(room.guild_id), "channel_id": str(room.channel_id)}
            if "user_id" in event:
                event["user_id"] = str(event["user_id"])
            if "users" in event:
                event["users"] = [str(user) for user in event["users"]]
            self._host.log("voice", event=f"dave_{kind}", **where, **event)

    # Faults

    def _take_for(self, name: str, session: Session) -> dict[str, Any] | None:
        if session.grant.virtual:
            return None
        params = self._host.take_fault(name, session.grant.guild_id)
        return None if params is None else dict(params)

    def _take_any(self, name: str) -> Mapping[str, Any] | None:
        """For a connection that has not said yet which guild it is for."""
        guilds = {grant.guild_id for grant in self._grants.values() if not grant.void and not grant.virtual}
        for guild_id in sorted(guilds):
            params = self._host.take_fault(name, guild_id)
            if params is not None:
                return params
        return self._host.take_fault(name, None)

    def _targets(self, fault: faults.ActiveFault) -> list[Session]:
        if fault.user_id is not None:
            session = self._sessions.get((fault.guild_id, fault.user_id))
            found = [session] if session is not None else []
        else:
            found = [
                session
                for (guild_id, _), session in self._sessions.items()
                if guild_id == fault.guild_id and not session.grant.virtual
            ]
        return [session for session in found if session.pipe is not None and session.described]

    def _strike(self, fault: faults.ActiveFault, now: float) -> bool:
        """Let an active fault happen; False while nobody it concerns is there."""
        targets = self._targets(fault)
        if not targets:
            return False
        self._host.log("voice", event="fault", name=fault.name, guild_id=str(fault.guild_id))
        if fault.name == "downgrade_dave":
            room = self._room_of(targets[0])
            room.delivery.downgrade(now)
            self._flush(room, now)
            return True
        act: Callable[[faults.ActiveFault, Session, float], None] = getattr(self, f"_fault_{fault.name}")
        for session in targets:
            act(fault, session, now)
        return True

    def _fault_close(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        code = fault.integer("code", 4015)
        if fault.params.get("resumable", code in _RESUMABLE):
            pipe = self._detach(session, code, by="server", reason="fault")
            session.lost_at = now
            if pipe is not None:
                pipe.close(code)
        else:
            self._end_session(session, code, now, reason="fault")

    def _fault_blackhole_ws(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        if session.pipe is not None:
            session.pipe.blackhole()

    def _fault_reset_tcp(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        pipe = self._detach(session, None, by="server", reason="fault")
        session.lost_at = now
        if pipe is not None:
            pipe.reset()

    def _key(self, session: Session) -> tuple[int, int]:
        return session.grant.guild_id, session.user_id

    def _fault_udp_loss(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        seconds = fault.integer("seconds", 0)
        dice = random.Random(fault.integer("seed", 1))  # noqa: S311
        share = fault.integer("percent", 10) / 100
        self.media.losses[self._key(session)] = Loss(share, now + seconds if seconds else None, dice)

    def _fault_malformed_rtp(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        self.media.malform(session, min(fault.integer("count", 20), 10_000), fault.integer("seed", 1))

    def _fault_forged_media(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        self.media.pretend(session, fault.integer("count", 30))

    def _fault_malformed_messages(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        if session.pipe is not None:
            count = min(fault.integer("count", 20), 900)
            for message in nonsense.messages(count, fault.integer("seed", 1), session.last_seq):
                session.pipe.send(message)

    def _fault_garbled_frame(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        if session.pipe is not None:
            session.pipe.garble()

    def _fault_corrupt_media(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        self.media.corrupt[self._key(session)] = fault.integer("frames", 36)

    def _fault_new_streams(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        first = fault.integer("first", 1_000_000)
        streams = range(first, first + min(fault.integer("count", 100), 900))
        for ssrc in streams:
            session.send(5, {"speaking": 1, "delay": 0, "ssrc": ssrc, "user_id": str(10**17 + ssrc)})
        self.media.begin(session, streams, now)

    def _fault_renumber(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        offsets = self.media.offsets
        offsets[session.ssrc] = offsets.get(session.ssrc, 0) + fault.integer("by", -1400)

    def _fault_second_client(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        member, ssrc = str(fault.integer("member", 0)), fault.integer("ssrc", 500_000)
        session.send(11, {"user_ids": [member]})
        session.send(12, {"user_id": member, "audio_ssrc": ssrc, "video_ssrc": 0, "rtx_ssrc": 0})
        session.send(5, {"user_id": member, "ssrc": ssrc, "speaking": 1})
        session.send(13, {"user_id": member})

    def _fault_unknown_transition(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        session.send(22, {"transition_id": fault.integer("transition_id", 54_321)})

    def _fault_late_dave(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        delay_s = fault.integer("delay_ms", 1000) / 1000
        self._late[session] = LateMessages(fault.integer("op", 0), fault.integer("n", 1), delay_s)

    def _fault_repeat_messages(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        session.repeat(fault.integer("count", 5))

    def _fault_repeat_invalid_epoch(self, fault: faults.ActiveFault, session: Session, now: float) -> None:
        session.send(24, {"protocol_version": 1, "epoch": 1})
