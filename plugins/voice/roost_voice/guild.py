"""The driver around one guild's `ActorCore`: one task, one bounded mailbox, and whatever the core decides.

Everything the actor starts (the link, hook calls, questions to REST) lives in its own scope and answers through the
mailbox. The actor retires when nothing is wanted, held or running.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import hikari

from roost.audio import Credentials, LinkClosed, LinkEnd, Timing, VoiceDriver
from roost.errors import BusyError, VoiceError
from roost.errortext import class_name, text_of
from roost.hooks import Deny
from roost.scopes import Scope, outlive_cancellation
from roost_voice import moves
from roost_voice.actor import ActorCore
from roost_voice.metrics import VoiceMetrics, cause_of
from roost_voice.moves import Presence, State, Told, Wish
from roost_voice.reaper import Verdict
from roost_voice.session import PostNotice, Session, SessionEvents

if TYPE_CHECKING:
    from roost.consent import Consent
    from roost.context import HookCaller
    from roost_voice.config import VoiceConfig
    from roost_voice.journal import Journal
    from roost_voice.op4 import Op4Sender
    from roost_voice.reaper import Reaper

_log = logging.getLogger("roost.voice")

MAILBOX = 256
LEAVES = 64
"""Places that joins do not fill, so that a leave is taken however many wait for a join."""
ANNOUNCEMENTS = 256
UNKNOWN_VOICE_STATE = 10065
REST_S = 5.0
DRAIN_GRACE_S = 0.3


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a join or leave."""

    told: Told
    channel_id: int
    reason: str = ""


@dataclasses.dataclass
class ActorHost:
    """What every guild's actor works with; made by the session manager."""

    timing: Timing
    config: VoiceConfig
    config_for: Callable[[int], VoiceConfig]
    """The configuration in a guild."""
    driver: VoiceDriver
    rest: hikari.api.RESTClient
    op4: Op4Sender
    journal: Journal
    reaper: Reaper
    consent: Consent
    hooks: HookCaller
    post_notice: PostNotice
    can_see: Callable[[int, int, int], bool]
    """Whether a member can see a channel; by (guild id, channel id, user id)."""
    mark_stop: Callable[[str, int | None], None]
    members_of: Callable[[int, int], Iterable[tuple[int, bool]]]
    """(guild id, channel id) to (user id, is a bot) of everybody there but us."""
    is_stage: Callable[[int], bool]
    """Whether a channel is known to be a stage."""
    retired: Callable[[GuildActor], None]
    ends_actors: Callable[[], bool]
    """Whether the actors' owner ends them: any other cancellation is foreign."""
    say_why: Callable[[Session, str], None]
    """Tell people that a session ended that nobody here asked to end, and why."""
    say_deafness: Callable[[Session], Awaitable[None]]
    say_no_notice: Callable[[Session], Coroutine[Any, Any, None]]
    say_no_guard: Callable[[Session, str], Coroutine[Any, Any, None]]
    sessions_changed: Callable[[], None]
    since_ready_s: Callable[[int], float]
    barred: Callable[[int, int], str]
    """(guild id, channel id) to what keeps us out of the channel, in words for members; empty if nothing known."""
    metrics: VoiceMetrics
    user_id: int = 0
    stop_deadline: float | None = None


class GuildActor:
    """One guild's voice. Made by the manager, which runs `run` in its scope."""

    def __init__(self, guild_id: int, host: ActorHost) -> None:
        self.guild_id = guild_id
        self.session: Session | None = None
        self.dropped = 0
        """Events that did not fit into the mailbox."""
        self._host = host
        self._core = self._new_core()
        self._scope = Scope(f"voice:{guild_id}", self._task_failed)
        self._mail: deque[moves.Input] = deque()
        self._wake = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._next_ticket = 0
        self._links: dict[int, asyncio.Task[None]] = {}
        self._opening: asyncio.Task[None] | None = None
        self._announcements: deque[tuple[str, dict[str, Any]]] = deque()
        self._announcer: asyncio.Task[None] | None = None
        self._alone_since: float | None = None
        self._running = True
        self._deafened = False
        self._to_tell = False
        self._asked = False
        self._counted = False
        """The open session stands in the metrics."""
        """The session is known to people, and its end not yet."""

    def _new_core(self) -> ActorCore:
        config = self._host.config
        return ActorCore(
            self.guild_id,
            self._host.timing,
            drain_s=config.drain_s + DRAIN_GRACE_S,
            follow_moves=self._host.config_for(self.guild_id).follow_moves,
            exclusive=config.exclusive,
        )

    def reconfigured(self) -> None:
        """The guild's configuration changed: it counts from now on, for a session that stands too."""
        self._core.follow_moves = self._host.config_for(self.guild_id).follow_moves
        self._wake.set()

    @property
    def state(self) -> moves.State:
        return self._core.state

    @property
    def at_rest(self) -> bool:
        """Nothing is wanted or held, so that a voice state of ours is nobody's."""
        return self._core.state in (moves.State.IDLE, moves.State.FAILED)

    @property
    def opened(self) -> bool:
        """The session was announced to the plugins and has not ended."""
        return self._core.stage is moves.Stage.OPEN

    def would_act(self, channel_id: int, *, may_move: bool) -> bool:
        """Whether a wish for the channel would send a voice request: not if it shares the session or is refused."""
        wish = self._core.wish
        for event in reversed(self._mail):
            if isinstance(event, moves.Want | moves.Unwant | moves.Stop):
                wish = event.wish if isinstance(event, moves.Want) else None
                break
        if wish is None:
            return self._core.state is not State.FAILED
        return wish.channel_id != channel_id and (may_move or not self.opened)

    # Called from outside, synchronously -----------------------------------------------------------------------------

    def want(self, wish: Wish, *, may_move: bool) -> tuple[int, asyncio.Future[Outcome]]:
        """Wish to be in a channel.

        Raises:
            BusyError: The mailbox is full.
        """
        return self._ask(lambda ticket: moves.Want(ticket, wish, may_move), MAILBOX)

    def unwant(self, reason: str, user_id: int = 0, *, tell: bool = False) -> tuple[int, asyncio.Future[Outcome]]:
        """Wish to be nowhere.

        Args:
            reason: Why, in words for members.
            user_id: Who asks; 0 for nobody.
            tell: No reply will say why, so the session's channel is told.

        Raises:
            BusyError: The mailbox is full.
        """
        asked = self._ask(lambda ticket: moves.Unwant(ticket, reason, user_id), MAILBOX + LEAVES)
        self._to_tell = self._to_tell and tell
        self._asked = not tell
        return asked

    def abandon(self, ticket: int) -> None:
        """The waiter of a ticket is gone, and has not heard the answer even if it was given in this moment."""
        self._waiting.pop(ticket, None)
        self._post(moves.Abandon(ticket))

    def stop(self, reason: str) -> None:
        self._post(moves.Stop(reason))

    def tell(self, event: moves.Input) -> None:
        """Pass on what Discord said. Dropped and counted when the mailbox is full."""
        if len(self._mail) >= MAILBOX:
            self.dropped += 1
            _log.error("guild %d: mailbox full, %s dropped", self.guild_id, type(event).__name__)
            return
        self._post(event)

    def member(self, user_id: int, channel_id: int | None, is_bot: bool) -> None:
        """Somebody else's voice state changed."""
        session = self.session
        if session is None or session.closed:
            return
        if channel_id == session.channel_id:
            if session.member_is(user_id, is_bot):
                self.announce("voice_member_joined", user_id=user_id)
        elif session.member_left(user_id):
            # Their last words stay in the sinks: leaving takes no consent back.
            self.announce("voice_member_left", user_id=user_id)
        self._watch_company()

    def deafened(self, on: bool) -> None:
        """Whether a moderator has deafened us."""
        self._deafened = on
        if self.session is not None and not self.session.closed:
            self.session.deafened_is(on)

    def replay_opened(self, plugin: str) -> None:
        """Have a plugin that came late decide about the session that is open, and tell it of the session."""
        if self.session is not None and self.opened:
            if plugin in self._host.hooks.implementers("voice_session_opening", self.guild_id):
                self.session.asks(plugin)
            self._announce_call("opened", plugin=plugin, session=self.session)

    def _ask(self, make: Callable[[int], moves.Input], room: int) -> tuple[int, asyncio.Future[Outcome]]:
        if len(self._mail) >= room or len(self._waiting) >= room:
            raise BusyError("too many voice requests in this server at once; try again in a few seconds")
        self._next_ticket += 1
        ticket = self._next_ticket
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        self._post(make(ticket))
        return ticket, future

    def _post(self, event: moves.Input) -> None:
        self._mail.append(event)
        self._wake.set()

    # The task -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until retired. Ends everything it started, also when cancelled by its owner."""
        try:
            while True:
                try:
                    event = await self._next()
                    if event is None:
                        break
                    self._step(event)
                except asyncio.CancelledError:
                    if self._host.ends_actors():
                        raise
                    outlive_cancellation()
                    _log.error("guild %d: the voice actor was cancelled by something else; it leaves", self.guild_id)
                    await self._start_over()
                except Exception:  # noqa: BLE001 - a bug must not leave a session standing
                    _log.exception("guild %d: the voice actor failed and starts over", self.guild_id)
                    await self._start_over()
        finally:
            self._running = False
            self._host.retired(self)
            await self._scope.aclose(self._host.timing.close_local_s)
            self._fail_waiters("voice was unloaded")
            if self.session is not None:
                self.session.close(asyncio.get_running_loop().time())

    async def _next(self) -> moves.Input | None:
        """The next input; None when the actor has nothing left to do (checked without a task switch in between)."""
        loop = asyncio.get_running_loop()
        while True:
            if self._mail:
                return self._mail.popleft()
            if self._core.at_rest and not self._scope.task_names:
                return None
            deadlines = [at for at in (self._core.deadline, self._alone_at()) if at is not None]
            now = loop.time()
            if self._core.deadline is not None and self._core.deadline <= now:
                return moves.Tick()
            alone_at = self._alone_at()
            if alone_at is not None and alone_at <= now:
                self._alone_since = None
                self._asked = True
                return moves.Unwant(0, "everybody left the channel")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadlines) if deadlines else None):
                    await self._wake.wait()

    def _step(self, event: moves.Input) -> None:
        before = self._core.state
        for action in self._core.handle(event, asyncio.get_running_loop().time()):
            self._do(action)
        if self._core.state is not before:
            _log.debug(
                "guild %d, generation %d: %s -> %s on %s",
                self.guild_id,
                self._core.gen,
                before.value,
                self._core.state.value,
                type(event).__name__,
            )
            if self._core.state is State.ORPHAN:
                self._host.metrics.orphans.inc()
            self._watch_company()

    async def _start_over(self) -> None:
        """After a bug: drop what is held and let the orphan ladder clean up at Discord's end."""
        channel_id = self._core.server_channel or (self.session.channel_id if self.session else 0)
        maybe_in = self._core.maybe_in
        old_scope, self._scope = self._scope, Scope(f"voice:{self.guild_id}", self._task_failed)
        await old_scope.aclose(self._host.timing.close_local_s)
        self._links.clear()
        self._announcer = None
        self._fail_waiters("something went wrong in voice; try again")
        was_told = self.session is not None and not self.session.closed
        self._core = self._new_core()
        if was_told:
            self._closed(moves.Closed("an internal error"))
        if maybe_in and channel_id:
            self._post(moves.Reap(channel_id, ""))

    def _fail_waiters(self, reason: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_result(Outcome(Told.FAILED, 0, reason))
        self._waiting.clear()

    def _spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._scope.spawn(coro, name)
        task.add_done_callback(lambda _task: self._wake.set())
        return task

    def _task_failed(self, name: str, error: BaseException) -> None:
        _log.error("guild %d: %s failed", self.guild_id, name, exc_info=error)

    # Carrying out ---------------------------------------------------------------------------------------------------

    def _do(self, action: moves.Action) -> None:
        match action:
            case moves.SendOp4():
                self._host.op4.put(self.guild_id, action)
            case moves.DropOp4():
                self._host.op4.drop(self.guild_id)
            case moves.JournalWrite():
                self._journal(lambda: self._host.journal.write(self.guild_id, action.channel_id, action.session_id))
            case moves.JournalRemove():
                self._journal(lambda: self._host.journal.remove(self.guild_id))
                self._host.reaper.settled(self.guild_id)
            case moves.OpenLink():
                self._open_link(action)
            case moves.CloseLink():
                if (task := self._links.get(action.gen)) is not None:
                    task.cancel()
            case moves.AskRest():
                self._spawn(self._ask_rest(action), f"ask {action.ask}")
            case moves.Tell():
                future = self._waiting.pop(action.ticket, None)
                if future is not None and not future.done():
                    future.set_result(Outcome(action.told, action.channel_id, action.reason))
            case moves.StartOpening():
                self._opening = self._spawn(self._open_hooks(action.serial), "opening")
            case moves.CancelOpening():
                if self._opening is not None:
                    self._opening.cancel()
            case moves.Opened():
                self._opened()
            case moves.Moved():
                assert self.session is not None
                self.session.link_live()
                report = _report("session_moved", self.session)
                _log.info("guild %d: moved to channel %d", self.guild_id, action.new, extra=report)
                self.announce("voice_session_moved", old=action.old, new=action.new, by_request=action.by_request)
            case moves.Interrupted():
                self.announce("voice_session_interrupted", reason=action.reason)
            case moves.Restored():
                self.announce("voice_session_restored", reason=action.reason)
            case moves.Drain():
                self._spawn(self._drain(action), "drain")
            case moves.Disconnected():
                if self.session is not None:
                    self._host.mark_stop("disconnected" if action.confirmed else "unconfirmed", self.guild_id)
            case moves.Closed():
                self._closed(action)
            case moves.Stray():
                self._stray(action)
            case moves.Reaped():
                self._reaped(action)

    def _journal(self, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as error:
            _log.error(
                "guild %d: the voice journal could not be written: %s; free some space in the data folder. Should this "
                "process be killed now, the next one finds what is left over in voice only with voice.exclusive",
                self.guild_id,
                error,
            )

    def _open_link(self, action: moves.OpenLink) -> None:
        session = self.session
        if session is None or session.closed:
            session = self.session = Session(
                self.guild_id,
                action.wish,
                consent=self._host.consent,
                hooks=self._host.hooks,
                post_notice=self._host.post_notice,
                can_see=lambda channel_id, user_id: self._host.can_see(self.guild_id, channel_id, user_id),
                scope=self._scope,
                now=asyncio.get_running_loop().time(),
                state_of=lambda: self._core.state.value,
                on_speaking=self._speaking,
                say_deafness=self._host.say_deafness,
                say_no_notice=self._host.say_no_notice,
                say_no_guard=self._host.say_no_guard,
            )
            session.deafened_is(self._deafened)
        session.begin_link(action.gen, action.channel_id, self._host.members_of(self.guild_id, action.channel_id))
        cred = Credentials(
            guild_id=self.guild_id,
            channel_id=action.channel_id,
            user_id=self._host.user_id,
            session_id=action.session_id,
            token=action.token,
            server_address=action.address,
            stage=self._host.is_stage(action.channel_id),
        )
        self._links[action.gen] = self._spawn(self._run_link(cred, session, action.gen), f"link {action.gen}")

    async def _run_link(self, cred: Credentials, session: Session, gen: int) -> None:
        end: LinkEnd | None = None
        detail = ""
        try:
            async with self._host.driver.open(cred, SessionEvents(session, gen)) as link:
                session.link_is(link)
                self._post(moves.LinkLive(gen))
                try:
                    end = await link.wait_closed()
                finally:
                    session.link_ended(link)
        except VoiceError as error:
            end = error.__cause__.end if isinstance(error.__cause__, LinkClosed) else None
            detail = text_of(error)
        except Exception as error:  # noqa: BLE001 - a driver may be anybody's
            _log.exception("guild %d: the voice driver failed", self.guild_id)
            detail = f"the voice driver failed ({class_name(error)})"
        finally:
            self._links.pop(gen, None)
            self._post(moves.LinkGone(gen, end, detail, self._host.barred(self.guild_id, cred.channel_id)))

    async def _ask_rest(self, action: moves.AskRest) -> None:
        presence, channel_id, session_id = Presence.UNKNOWN, None, None
        try:
            async with asyncio.timeout(REST_S):
                if action.kick:
                    with contextlib.suppress(hikari.HTTPError):
                        await self._host.rest.edit_member(self.guild_id, self._host.user_id, voice_channel=None)
                state = await self._host.rest.fetch_my_voice_state(self.guild_id)
            if state.channel_id is None:
                presence = Presence.OUT
            else:
                presence, channel_id = Presence.IN, int(state.channel_id)
                session_id = state.session_id if isinstance(state.session_id, str) else None
        except hikari.NotFoundError as error:
            if error.code == UNKNOWN_VOICE_STATE:
                presence = Presence.OUT
        except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything; unknown, never "nobody"
            _log.info("guild %d: REST did not say where I am: %s", self.guild_id, type(error).__name__)
        self._post(moves.RestAnswer(action.ask, presence, channel_id, session_id))

    # Hooks ----------------------------------------------------------------------------------------------------------

    async def _open_hooks(self, serial: int) -> None:
        session = self.session
        assert session is not None
        denied: str | None = None
        await self._announced()
        hooks, hook = self._host.hooks, "voice_session_opening"
        asked = set(hooks.implementers(hook, self.guild_id))
        for answer in await hooks.call_strict(hook, guild_id=self.guild_id, session=session):
            if isinstance(answer, Deny):
                denied = answer.reason
                break
        # Plugins that came meanwhile are asked too.
        while denied is None and (late := set(hooks.implementers(hook, self.guild_id)) - asked):
            plugin = late.pop()
            asked.add(plugin)
            refused = await hooks.ask_strict(plugin, hook, guild_id=self.guild_id, session=session)
            denied = refused.reason if refused is not None else None
        self._post(moves.OpeningDone(serial, denied))

    def _opened(self) -> None:
        session = self.session
        assert session is not None
        _log.info("guild %d: in voice, channel %d", self.guild_id, session.channel_id)
        self._to_tell = True
        self._host.metrics.opened.inc()
        self._counted = True
        session.link_live()
        session.attach_hooks()
        self.announce("voice_session_opened")
        self._host.sessions_changed()
        self._watch_company()

    async def _drain(self, action: moves.Drain) -> None:
        session = self.session
        assert session is not None
        host = self._host
        loop = asyncio.get_running_loop()
        deadline = loop.time() + host.config.drain_s
        if host.stop_deadline is not None:
            deadline = min(deadline, host.stop_deadline - 0.5)
        host.mark_stop("closing", self.guild_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._announced()
                await host.hooks.call(
                    "voice_session_closing",
                    guild_id=self.guild_id,
                    session=session,
                    reason=action.reason,
                    deadline=deadline,
                )
        session.stop_capture()
        host.mark_stop("drained", self.guild_id)
        self._post(moves.Drained(action.serial))

    def _closed(self, action: moves.Closed) -> None:
        session = self.session
        if session is None:
            return
        session.close(asyncio.get_running_loop().time())
        self._alone_since = None
        if self._counted:
            self._counted = False
            stopping = self._host.stop_deadline is not None
            cause = cause_of(action.reason, asked=self._asked, stopping=stopping)
            self._host.metrics.closed.labels(cause).inc()
            self._host.metrics.resumes.inc(session.stats().link.resumes)
        self._asked = False
        _log.info("guild %d: voice ended: %s", self.guild_id, action.reason, extra=_report("session_closed", session))
        if self._to_tell:
            self._to_tell = False
            self._host.say_why(session, action.reason)
        self._announce_call("closed", session=session, reason=action.reason)
        self._host.sessions_changed()

    def announce(self, hook: str, **arguments: Any) -> None:
        """Call a hook of the open session, after all earlier announcements of this guild."""
        if self.session is None or not self.opened:
            return
        if not self._host.hooks.implementers(hook, self.guild_id):
            return
        self._announce_call(hook, session=self.session, **arguments)

    def _announce_call(self, hook: str, **arguments: Any) -> None:
        if len(self._announcements) >= ANNOUNCEMENTS:
            speaking = next((entry for entry in self._announcements if entry[0] == "voice_speaking"), None)
            if speaking is None:
                _log.error("guild %d: too many announcements, %s is not made", self.guild_id, hook)
                return
            self._announcements.remove(speaking)
        self._announcements.append((hook, arguments))
        if self._announcer is None or self._announcer.done():
            self._announcer = self._spawn(self._announce(), "announcer")

    async def _announce(self) -> None:
        hooks = self._host.hooks
        while self._announcements:
            hook, arguments = self._announcements.popleft()
            if hook == "opened":
                await self._replay(**arguments)
            elif hook == "closed":
                session: Session = arguments["session"]
                await hooks.call(
                    "voice_session_closed",
                    guild_id=self.guild_id,
                    session=session,
                    reason=arguments["reason"],
                    stats=session.stats(),
                )
                self._host.mark_stop("closed", self.guild_id)
            else:
                await hooks.call(hook, guild_id=self.guild_id, **arguments)

    async def _replay(self, plugin: str, session: Session) -> None:
        """Put the open session before a plugin that came late; its refusal ends the session."""
        hooks = self._host.hooks
        denied = await hooks.ask_strict(plugin, "voice_session_opening", guild_id=self.guild_id, session=session)
        if denied is None:
            session.is_allowed_by(plugin)
            await hooks.call_plugin(plugin, "voice_session_opened", guild_id=self.guild_id, session=session)
        elif self.opened and self.session is session:
            self._asked = False
            self._post(moves.Unwant(0, denied.reason))

    async def _announced(self) -> None:
        """Wait until everything announced so far has been heard."""
        if self._announcer is not None and not self._announcer.done():
            await asyncio.wait({self._announcer})

    def _speaking(self, user_id: int, on: bool) -> None:
        self.announce("voice_speaking", user_id=user_id, speaking=on)

    # Company, strays and ghosts -------------------------------------------------------------------------------------

    def _watch_company(self) -> None:
        alone = self.opened and self.session is not None and not self.session.humans
        if not alone:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = asyncio.get_running_loop().time()
            self._wake.set()

    def _alone_at(self) -> float | None:
        limit_s = self._host.config_for(self.guild_id).alone_leave_s
        if self._alone_since is None or not limit_s or self._core.state is not moves.State.LIVE:
            return None
        return self._alone_since + limit_s

    def _stray(self, action: moves.Stray) -> None:
        now = asyncio.get_running_loop().time()
        verdict = self._host.reaper.judge(self.guild_id, action.channel_id, action.session_id, now)
        if verdict is Verdict.GHOST:
            _log.warning("guild %d: a ghost of mine stands in channel %d", self.guild_id, action.channel_id)
            self._post(moves.Reap(action.channel_id, action.session_id))
        else:
            _log.info("guild %d: a voice state of mine is left alone: %s", self.guild_id, verdict.value)

    def _reaped(self, action: moves.Reaped) -> None:
        self._host.op4.release(self.guild_id)
        self._host.metrics.reaped.labels("gone" if action.confirmed else "given_up").inc()
        facts = {
            "event": "ghost_reaped" if action.confirmed else "ghost_given_up",
            "guild_id": self.guild_id,
            "channel_id": action.channel_id,
            "took_s": round(action.seconds, 3),
            "since_ready_s": round(self._host.since_ready_s(self.guild_id), 3),
        }
        if action.confirmed:
            self._host.reaper.settled(self.guild_id)
            _log.info(
                "ghost reaped in guild %d, %.3f s after READY", self.guild_id, facts["since_ready_s"], extra=facts
            )
        else:
            _log.error("the ghost in guild %d could not be removed", self.guild_id, extra=facts)


def _report(event: str, session: Session) -> dict[str, Any]:
    """A session's figures so far, for the log; programs find them by ``event``."""
    return {
        "event": event,
        "guild": str(session.guild_id),
        "session": session.id,
        "stats": dataclasses.asdict(session.stats()),
    }
