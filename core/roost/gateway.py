"""The main gateway through hikari, held to a promise: nothing that Discord sends ends the bot.

hikari 2.6 ends a shard, and with it the bot, for a message that it cannot read, for a first message that is no HELLO
and for most close codes; it waits without end for a READY that does not come; it begins sessions as fast as Discord
ends them. `Shard` translates all of that into a lost connection, which hikari mends by itself, and asks before each
new session. What it overrides is private to hikari 2.6 (`MADE_FOR`); shards of any other version are used unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
import types
import urllib.parse
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import hikari
import hikari.impl.shard
from hikari.api.shard import GatewayCompression
from hikari.impl.gateway_bot import GatewayBot
from hikari.impl.shard import GatewayShardImpl

from roost.blocking import BlockedError
from roost.errortext import is_error, own, repr_of
from roost.scopes import outlive_cancellation

_log = logging.getLogger("roost.gateway")

MADE_FOR = "2.6."
"""Version of hikari whose private parts this module overrides."""
PAUSE_S = 2.0
"""Seconds between two attempts to reach the gateway."""
TRIES = 5
"""Attempts to reach the address for resuming before the address for new sessions is used."""
HANDSHAKE_S = 60.0
"""From the open connection to READY or RESUMED."""
LARGEST_MESSAGE = 64 << 20
"""Bytes of one message, inflated. The largest of Discord's, a GUILD_CREATE, has a few million."""
UNREADABLE = 3
"""Connections in a row that may end at the same unreadable event. Then a new session begins: a resume repeats it."""
HEARTBEATS_S = (0.1, 3600.0)
"""Shortest and longest heartbeat interval, in seconds, that a HELLO may name."""
BEAT_GAP_S = 1.0
"""Between two heartbeats, however often Discord asks for one."""
OTHERS_WINDOW_S = 60.0
OTHERS_PER_WINDOW = 12
"""Commands of a shard in `OTHERS_WINDOW_S` that are neither its connection's nor a voice state: requests for members,
presences. hikari sends 117 in all, in the order of their arrival; voice has 100 of them (`roost_voice.op4`)."""
URGENT_PER_WINDOW = 15
"""The same, with requests for the members of a server that somebody waits for (`Shard.hurry_members`)."""
FINAL = frozenset(
    {
        hikari.ShardCloseCode.AUTHENTICATION_FAILED,
        hikari.ShardCloseCode.INVALID_SHARD,
        hikari.ShardCloseCode.SHARDING_REQUIRED,
        hikari.ShardCloseCode.INVALID_VERSION,
        hikari.ShardCloseCode.INVALID_INTENT,
        hikari.ShardCloseCode.DISALLOWED_INTENT,
    }
)
"""Close codes after which Discord documents that nobody may reconnect: the operator has to change something."""
ABNORMAL = 1006
_IDENTIFY, _DISPATCH, _MEMBERS = 2, 0, 8
_UNPACED = frozenset({1, _IDENTIFY, 4, 6})
"""Ops that wait for nothing but Discord's own limit: heartbeat, identify, voice state, resume."""

CloseCheck = Callable[[types.FrameType], bool]
"""Called with the frame of a call of ``bot.close()``; whether it may close the bot."""
Turn = Callable[[int], AbstractAsyncContextManager[Callable[[], None]]]
"""Entered before a shard begins a session, which may take long. Yields what is called when IDENTIFY is sent."""

_reading: contextvars.ContextVar[str] = contextvars.ContextVar("reading", default="")
"""Name of the event that hikari is decoding."""


class UnreadableError(hikari.GatewayConnectionError):
    """Discord sent something that cannot be read; hikari treats it as a lost connection.

    Args:
        reason: What was sent.
        noted: The shard knows of it.
    """

    def __init__(self, reason: str, *, noted: bool = False) -> None:
        super().__init__(reason)
        self.noted = noted


class _Inflator:
    """A zlib stream with bounded output: a few compressed kilobytes can inflate to gigabytes."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def decompress(self, data: bytes) -> bytes:
        """Inflate one message.

        Raises:
            UnreadableError: It is damaged or too large.
        """
        try:
            inflated = self._stream.decompress(data, LARGEST_MESSAGE)
        except zlib.error as error:
            raise UnreadableError(f"damaged compression ({error})") from None
        if self._stream.unconsumed_tail:
            raise UnreadableError(f"a message of more than {LARGEST_MESSAGE >> 20} MiB")
        return inflated


class _Transport(hikari.impl.shard._GatewayZlibStreamTransport):
    """hikari's transport with a bounded inflator, and messages that are checked for their outline."""

    __slots__ = ("ended_session", "greeted")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._inflator = _Inflator()  # type: ignore[assignment]
        self.greeted = False
        self.ended_session = False
        """Discord answered a close frame that ends the session, and with it the bot's voice states."""

    async def receive_json(self) -> Any:
        payload = self._loads(await self._receive_and_check())
        _check(payload, first=not self.greeted)
        self.greeted = True
        return payload

    async def send_close(self, *, code: int, message: bytes) -> None:
        ends_session = code == hikari.ShardCloseCode.GOING_AWAY and not self._ws.closed
        if ends_session:
            # aiohttp takes a cancelled receive for the end of the connection, and would not wait for the answer.
            self._ws._close_code = None
        await super().send_close(code=code, message=message)
        self.ended_session = ends_session and self.answered_close

    @property
    def answered_close(self) -> bool:
        """Whether the other side answered the close frame that was sent."""
        return self._ws.close_code not in (None, ABNORMAL)


def _check(payload: Any, *, first: bool) -> None:
    """Refuse a message of a shape that hikari would misread.

    Raises:
        UnreadableError: The message has another shape.
    """
    if not isinstance(payload, dict):
        raise UnreadableError(f"a message that is {type(payload).__name__} and no object")
    op, data = payload.get("op"), payload.get("d")
    if type(op) is not int:
        raise UnreadableError("a message without a number for its op")
    if op == _DISPATCH and not (isinstance(payload.get("t"), str) and type(payload.get("s")) is int and "d" in payload):
        raise UnreadableError("an event without its name, its number or its data")
    if first and op == hikari.impl.shard._HELLO:
        interval_ms = data.get("heartbeat_interval") if isinstance(data, dict) else None
        least_s, most_s = HEARTBEATS_S
        if not isinstance(interval_ms, int | float) or not least_s <= interval_ms / 1000 <= most_s:
            raise UnreadableError("a HELLO without a usable heartbeat interval")


class _Events:
    """hikari's event manager for one shard; decodes a READY once before hikari acts on it."""

    def __init__(self, manager: Any, factory: Any) -> None:
        self._manager = manager
        self._factory = factory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def consume_raw_event(self, name: str, shard: Shard, payload: Any) -> None:
        if name == "READY":
            try:
                self._factory.deserialize_ready_event(shard, payload)
            except Exception as error:  # noqa: BLE001 - hikari would take a LookupError for an unknown event
                raise UnreadableError(f"a READY that cannot be read: {_brief(error)}") from None
            shard.session_began()
        _reading.set(name)
        self._manager.consume_raw_event(name, shard, payload)
        if name == "GUILD_MEMBERS_CHUNK":
            shard.members_came(payload)


class Others:
    """Order and pace of a shard's commands that are neither its connection's nor voice's."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int | None, asyncio.Future[None]]] = []
        """The server whose members are asked for, if any, and the turn that is waited for."""
        self._sent: deque[float] = deque()
        self._urgent: set[int] = set()

    def put(self, guild_id: int | None) -> asyncio.Future[None]:
        """Queue a command; the future is done when it may be sent."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((guild_id, turn))
        return turn

    def hurry(self, guild_id: int) -> bool:
        """Send a waiting request for the members of this server before others; whether there is one."""
        waits = any(each == guild_id for each, _turn in self._waiting)
        if waits:
            self._urgent.add(guild_id)
        return waits

    def drop(self) -> None:
        """End the wait of all commands: the session that they were for is over, and a new one asks anew."""
        waiting, self._waiting = self._waiting, []
        self._urgent.clear()
        for _guild_id, turn in waiting:
            if not turn.done():
                turn.set_exception(hikari.ComponentStateConflictError("the session with Discord is over"))

    def go(self, now: float) -> float | None:
        """Let those go who may; returns when to call it again, or None while nobody waits."""
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        while self._sent and self._sent[0] <= now - OTHERS_WINDOW_S:
            self._sent.popleft()
        while self._waiting:
            entry = min(self._waiting, key=lambda each: each[0] not in self._urgent)
            guild_id, turn = entry
            urgent = guild_id in self._urgent
            most = URGENT_PER_WINDOW if urgent else OTHERS_PER_WINDOW
            if len(self._sent) >= most:
                return self._sent[len(self._sent) - most] + OTHERS_WINDOW_S
            self._waiting.remove(entry)
            self._sent.append(now)
            if guild_id is not None:
                self._urgent.discard(guild_id)
            turn.set_result(None)
        return None


class Shard(GatewayShardImpl):
    """A shard that reconnects after everything but its owner's close and the final close codes.

    Args:
        turn: Entered before each new session.
    """

    __slots__ = (
        "_beat_at",
        "_beat_gap_s",
        "_connecting_since",
        "_lifetime",
        "_listings",
        "_main",
        "_note_identify",
        "_others",
        "_others_timer",
        "_owner_ends",
        "_session_known",
        "_transport",
        "_turn",
        "_unreadable",
        "_waits_for_turn",
        "said_goodbye",
    )

    def __init__(self, *, turn: Turn, **options: Any) -> None:
        super().__init__(**options, compression=GatewayCompression.TRANSPORT_ZLIB_STREAM)
        self._event_manager: Any = _Events(self._event_manager, self._event_factory)
        self._turn = turn
        self._note_identify: Callable[[], None] | None = None
        self._main: asyncio.Task[None] | None = None
        self._owner_ends = False
        self._transport: Any = None
        self._lifetime: set[asyncio.Task[None]] = set()
        self._session_known = False
        self._unreadable: tuple[int | None, int] = (None, 0)
        self._connecting_since: float | None = None
        self._waits_for_turn = False
        self._beat_at: float | None = None
        self._beat_gap_s = BEAT_GAP_S
        self._others = Others()
        self._listings: dict[tuple[int, str | None], set[int]] = {}
        """Requests for all members of a server, by server and nonce, with the parts of their answer that came."""
        self._others_timer: asyncio.TimerHandle | None = None
        self.said_goodbye = False

    @property
    def at_discord(self) -> bool:
        """Whether Discord may still hold a session of this shard, with its voice states."""
        return self._session_id is not None and not self.said_goodbye

    def is_overdue(self, limit_s: float) -> bool:
        """Whether it has tried to connect for longer than this. The wait for its turn does not count."""
        since = self._connecting_since
        return not self._waits_for_turn and since is not None and _now() - since > limit_s

    def session_began(self) -> None:
        """A READY that can be read was received."""
        self._session_known = True
        if not _is_gateway(self._resume_gateway_url):
            _log.warning("shard %d: Discord names no usable address for resuming; the first one is used", self.id)
            self._resume_gateway_url = None

    async def close(self) -> None:
        transport = self._ws
        self._owner_ends = True
        self._others.drop()
        self._pace()
        try:
            await super().close()
        finally:
            self.said_goodbye = isinstance(transport, _Transport) and transport.answered_close

    def expect_end(self) -> None:
        """From now on a cancellation is its owner's, and ends it."""
        self._owner_ends = True

    async def abandon(self) -> None:
        """End a shard whose start was cancelled; hikari would leave it running."""
        if self._main is not None and not self._main.done():
            self._is_closing = self._owner_ends = True
            self._main.cancel()
            await asyncio.wait({self._main})

    async def _keep_alive(self) -> None:
        """Run hikari's loop, and restart it when it ends without having been asked to by the shard's owner."""
        self._main = asyncio.current_task()
        self._owner_ends = False
        pause_s = 0.0
        while True:
            try:
                if pause_s:
                    await asyncio.sleep(pause_s)
                await super()._keep_alive()
            except hikari.GatewayServerClosedConnectionError:
                raise  # A final one: `_translated` lets no other pass.
            except asyncio.CancelledError:
                if self._owner_ends:
                    raise
                self._outlive()
            except Exception as error:  # noqa: BLE001 - logged; the shard must go on
                _log.error("shard %d: its connection failed: %s", self.id, _brief(error))
            else:
                if self._owner_ends:
                    return
                self._outlive()
            pause_s = PAUSE_S

    def _outlive(self) -> None:
        _log.error("shard %d: its connection was ended by a cancellation that nobody asked for", self.id)
        self._is_closing = False
        outlive_cancellation()
        if isinstance(self._transport, _Transport) and self._transport.ended_session:
            # hikari has closed the connection as if for ever: there is nothing left to resume.
            self._seq = self._session_id = self._resume_gateway_url = None

    async def _connect(self) -> tuple[asyncio.Task[None], ...]:
        await self._end_lifetime()
        tries = 0
        while True:
            try:
                if self._seq is not None:
                    return await self._try_connect()
                return await self._begin_session()
            except hikari.GatewayConnectionError as error:
                if self._ws is not None:
                    raise  # Discord was reached: hikari's own pauses, which grow, are for that.
                tries += 1
                _log.warning("Discord's gateway cannot be reached: %s", error.reason)
                if tries % TRIES == 0:
                    self._resume_gateway_url = None
            await asyncio.sleep(PAUSE_S)

    async def _begin_session(self) -> tuple[asyncio.Task[None], ...]:
        began = _now()
        self._waits_for_turn = True
        try:
            async with self._turn(self.id) as self._note_identify:
                self._waits_for_turn = False
                if self._connecting_since is not None:
                    self._connecting_since += _now() - began
                return await self._try_connect()
        finally:
            self._waits_for_turn = False
            self._note_identify = None

    async def _try_connect(self) -> tuple[asyncio.Task[None], ...]:
        if self._connecting_since is None:
            self._connecting_since = _now()
        connected = False
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                with self._translated():
                    tasks = await super()._connect()
            connected = True
            self._transport = self._ws
        except TimeoutError:
            raise hikari.GatewayConnectionError(f"no READY within {HANDSHAKE_S:.0f} s") from None
        finally:
            if not connected:
                await self._end_lifetime()
        if self.is_connected:
            self._connecting_since = None
        return tasks

    async def _send_json(self, data: Any, *, priority: bool = False) -> None:
        if data["op"] == _IDENTIFY:
            self._session_known = False
            self._others.drop()
            self._listings.clear()
            if self._note_identify is not None:
                self._note_identify()
        if data["op"] not in _UNPACED:
            if data["op"] == _MEMBERS and not data["d"].get("query") and not data["d"].get("user_ids"):
                self._listings[int(data["d"]["guild_id"]), data["d"].get("nonce")] = set()
            # hikari sends in the order of arrival: a bot in many servers would ask for their members for minutes, and
            # leave no voice channel meanwhile.
            turn = self._others.put(int(data["d"]["guild_id"]) if data["op"] == _MEMBERS else None)
            self._pace()
            await turn
        await super()._send_json(data, priority=priority)

    def is_listing(self, guild_id: int) -> bool:
        """Whether Discord still owes a part of the list of a server's members."""
        return any(each == guild_id for each, _nonce in self._listings)

    def members_came(self, payload: Any) -> None:
        """Note a part of the answer to a request for members."""
        with contextlib.suppress(ValueError, TypeError, KeyError):  # hikari drops and logs what cannot be read
            request = int(payload["guild_id"]), payload.get("nonce")
            if (came := self._listings.get(request)) is not None:
                came.add(int(payload["chunk_index"]))
                if len(came) >= int(payload["chunk_count"]):
                    del self._listings[request]

    def hurry_members(self, guild_id: int) -> None:
        """Ask for the members of a server before those of others, if they are still to be asked for."""
        if self._others.hurry(guild_id):
            self._pace()

    def _pace(self) -> None:
        """Send what may be sent, now and whenever more may."""
        if self._others_timer is not None:
            self._others_timer.cancel()
            self._others_timer = None
        now = _now()
        again_at = self._others.go(now) if self.is_connected else now + PAUSE_S
        if again_at is not None and not self._owner_ends:
            self._others_timer = asyncio.get_running_loop().call_at(max(again_at, now + 0.01), self._pace)

    async def _poll_events(self) -> None:
        self._join_lifetime()
        with self._translated():
            await super()._poll_events()

    async def _heartbeat(self, heartbeat_interval: float) -> None:
        self._join_lifetime()
        self._beat_at, self._beat_gap_s = None, min(BEAT_GAP_S, heartbeat_interval / 2)
        with self._translated():
            await super()._heartbeat(heartbeat_interval)

    async def _send_heartbeat(self) -> None:
        """Discord may ask for heartbeats as often as it likes; each one uses up what the shard may send."""
        if self._beat_at is not None and _now() - self._beat_at < self._beat_gap_s:
            return
        self._beat_at = _now()
        await super()._send_heartbeat()

    def _join_lifetime(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lifetime.add(task)

    async def _end_lifetime(self) -> None:
        """End the tasks of the previous connection; hikari leaves those of a failed handshake running."""
        tasks, self._lifetime = self._lifetime, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate every unexpected error into a lost connection; only a final close code ends the shard."""
        try:
            yield
        except hikari.GatewayServerClosedConnectionError as error:
            if error.can_reconnect or error.code in FINAL:
                raise
            reason = f"Discord closed the connection: {error.reason} ({error.code})"
            raise hikari.GatewayConnectionError(reason) from None
        except UnreadableError as error:
            if error.noted:
                raise
            self._note_unreadable()
            raise UnreadableError(f"Discord sent {error.reason}", noted=True) from None
        except (hikari.GatewayConnectionError, ConnectionResetError):
            raise
        except hikari.GatewayTransportError as error:
            self._note_unreadable()
            raise UnreadableError(f"Discord sent {error.reason}", noted=True) from None
        except Exception as error:  # noqa: BLE001 - translated; its place is logged
            self._note_unreadable()
            raise UnreadableError(f"what Discord sent cannot be read: {_brief(error)}", noted=True) from None

    def _note_unreadable(self) -> None:
        """Drop a session without a READY, and one that repeats the same unreadable event."""
        seq, times = self._unreadable
        times = times + 1 if seq == self._seq else 1
        self._unreadable = (self._seq, times)
        if not self._session_known or times >= UNREADABLE:
            self._seq = self._session_id = self._resume_gateway_url = None
            self._unreadable = (None, 0)


class Bot(GatewayBot):
    """hikari's bot with shards of this module.

    Args:
        turn: Entered before a shard begins a session.
        may_close: Asked at each `close`; where it refuses, the call does nothing.
    """

    def __init__(self, token: str, *, turn: Turn, may_close: CloseCheck = lambda _caller: True, **options: Any) -> None:
        super().__init__(token, **options)
        # hikari's shards look the class up by this name.
        hikari.impl.shard._GatewayZlibStreamTransport = _Transport  # type: ignore[misc]
        self._turn = turn
        self._may_close = may_close
        self._made: dict[int, Shard] = {}

    @property
    def made_shards(self) -> tuple[Shard, ...]:
        """Every shard that was begun, those that are not connected yet included."""
        return tuple(self._made.values())

    async def close(self) -> None:
        if self._may_close(sys._getframe(1)):
            await super().close()

    async def _start_one_shard(
        self,
        *,
        activity: hikari.Activity | None,
        afk: bool,
        idle_since: Any,
        status: hikari.Status,
        large_threshold: int,
        shard_id: int,
        shard_count: int,
        url: str,
    ) -> None:
        """hikari's, with another class, which a cancelled start does not leave running."""
        shard = self._made[shard_id] = Shard(
            turn=self._turn,
            http_settings=self._http_settings,
            proxy_settings=self._proxy_settings,
            event_manager=self._event_manager,
            event_factory=self._event_factory,
            intents=self._intents,
            capabilities=self._capabilities,
            dumps=self._dumps,
            loads=self._loads,
            initial_activity=activity,
            initial_is_afk=afk,
            initial_idle_since=idle_since,
            initial_status=status,
            large_threshold=large_threshold,
            shard_id=shard_id,
            shard_count=shard_count,
            token=self._token,
            url=url,
        )
        try:
            await shard.start()
        except BaseException:
            await shard.abandon()
            raise
        self._shards[shard_id] = shard


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_gateway(url: Any) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        return False


def _brief(error: BaseException) -> str:
    """An error's kind and place; its text may quote what was sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({trace.tb_frame.f_code.co_name}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}{where}"


def on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler: log what nobody handled, the error of a task that nobody awaited above all.

    For an event that hikari could not decode this is one line. asyncio's own handler would print the event whole, with
    members' words and tokens of interactions.
    """
    error = context.get("exception")
    if error is not None and is_error(error, BlockedError) and error.plugin is not None:
        return  # the plugin host says so, with the plugin's name
    if "payload" in context:
        _log.error(
            "dropped the event %s of Discord, which cannot be read: %s",
            _reading.get() or "?",
            _brief(error) if isinstance(error, BaseException) else context.get("message"),
        )
        return
    concerned = ", ".join(
        f"{name} {repr_of(value)}" for name, value in context.items() if name not in ("message", "exception")
    )
    trace = (type(error), error, own(error, "__traceback__")) if error is not None else None
    _log.error("%s (%s)", context.get("message"), concerned, exc_info=trace)
