"""All guilds' voice: the one door to joining, leaving and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

import hikari

from roost.audience import can_see
from roost.audio import CallStatus, JoinRequest, Timing, VoiceDriver
from roost.errors import BusyError, ClosedError
from roost.hooks import Deny
from roost.scopes import Kept, Scope
from roost_voice import moves
from roost_voice.actor.linking import NO_ANSWER
from roost_voice.config import VoiceConfig
from roost_voice.guild import REST_S, UNKNOWN_VOICE_STATE, ActorHost, GuildActor, Outcome
from roost_voice.hearing import Hearing, hear
from roost_voice.journal import Journal
from roost_voice.limits import JoinLimits, Limits
from roost_voice.metrics import VoiceMetrics
from roost_voice.moves import Told, Wish
from roost_voice.notice import notice_poster, say_deafness, say_no_guard, say_no_notice, say_why
from roost_voice.op4 import ROOM, Op4Sender
from roost_voice.permissions import what_keeps_me_out
from roost_voice.reaper import Reaper
from roost_voice.session import PostNotice, Session

if TYPE_CHECKING:
    from roost.context import PluginContext

_log = logging.getLogger("roost.voice")

AGAIN_S = 1.0
"""Between two leaves of a guild."""
ANSWER_S = 120.0
"""A backstop: every state of an actor has a deadline of its own, so its answer comes long before."""

STOPPING = "the bot is shutting down"
NO_JOURNAL = (
    "I cannot note that I join, because my disk is full or cannot be written, so I stay out. Tell the owner of this bot"
)

FOREIGN = (
    "other software that runs this bot is in a voice channel here, and I would take its place. Ask a moderator to "
    "disconnect it first"
)


@dataclasses.dataclass(frozen=True, slots=True)
class JoinResult:
    """What became of a join: `told` with the channel and the words for a refusal; the session when there is one."""

    told: Told
    channel_id: int
    reason: str = ""
    session: Session | None = None


class SessionManager:
    """Owns every guild's actor. Made in ``on_load``; `aclose` ends all.

    Args:
        ctx: The voice plugin's context.
        driver: Opens links.
        post_notice: Posts the notice of a session; by default through the bot's REST client.
    """

    def __init__(
        self, ctx: PluginContext, config: VoiceConfig, driver: VoiceDriver, *, post_notice: PostNotice | None = None
    ) -> None:
        self._hooks = ctx.hooks
        self._bot = ctx.bot
        self._actors: dict[int, GuildActor] = {}
        self._tasks: dict[GuildActor, asyncio.Task[None]] = {}
        self._scope = Scope("voice")
        self._shard_count = 1
        self._ready_at: dict[int, float] = {}
        self._idle: Kept | None = None
        self._stopping = False
        self._testing: set[int] = set()
        self._config = config
        timing = Timing() if config.timing_scale == 1.0 else Timing().scaled(config.timing_scale)
        self.op4 = Op4Sender(timing, self._scope, self.shard_of, self._op4_sent)
        newcomers = max(config.joins_per_shard, ROOM[moves.Priority.JOIN].of(timing.op4_per_window))
        self._limits = JoinLimits(
            Limits(config.joins_per_user, config.joins_per_guild, config.joins_per_shard, newcomers),
            timing.op4_window_s,
        )
        metrics = VoiceMetrics(ctx.metrics, self.states, lambda: len(self.sessions))
        self.reaper = Reaper(
            ctx.data_dir, ctx.instance_id, exclusive=config.exclusive, late_answer_s=timing.late_answer_s
        )
        self._host = ActorHost(
            timing=timing,
            config=config,
            config_for=lambda guild_id: cast(VoiceConfig, ctx.config_for(guild_id)),
            driver=driver,
            rest=ctx.bot.rest,
            op4=self.op4,
            journal=Journal(ctx.data_dir, ctx.instance_id),
            reaper=self.reaper,
            consent=ctx.consent,
            hooks=ctx.hooks,
            post_notice=post_notice or notice_poster(ctx.bot.rest, ctx.consent),
            can_see=lambda guild_id, channel_id, user_id: can_see(ctx.bot.cache, guild_id, channel_id, user_id),
            mark_stop=ctx.mark_stop,
            members_of=self._members_of,
            is_stage=self._is_stage,
            retired=self._retired,
            ends_actors=lambda: self._scope.closed,
            say_why=self._say_why,
            say_deafness=lambda session: say_deafness(ctx.bot.rest, session),
            say_no_notice=lambda session: say_no_notice(ctx.bot.rest, session),
            say_no_guard=lambda session, plugin: say_no_guard(ctx.bot.rest, session, plugin),
            sessions_changed=self._sessions_changed,
            since_ready_s=self._since_ready_s,
            barred=self._barred,
            metrics=metrics,
        )
        self.reaper.start()

    # Commands -------------------------------------------------------------------------------------------------------

    async def join(self, request: JoinRequest, *, may_move_others: bool = False) -> JoinResult:
        """Enter a channel, or move there; returns when the session is open or the wish has failed.

        Cancelling the call takes the wish back, unless others share it; nothing is left at Discord.

        Args:
            may_move_others: The requester has Move Members.
        """
        if self.is_stopping():
            return JoinResult(Told.FAILED, 0, STOPPING)
        # As with consent: who cannot be asked has not said yes.
        for answer in await self._hooks.call_strict("voice_join_check", guild_id=request.guild_id, request=request):
            if isinstance(answer, Deny):
                return JoinResult(Told.REFUSED, request.channel_id, answer.reason)
        if not self._config.exclusive and await self._is_foreign_there(request.guild_id):
            return JoinResult(Told.REFUSED, request.channel_id, FOREIGN)
        if self.is_stopping():
            return JoinResult(Told.FAILED, 0, STOPPING)
        # From here to the mailbox nothing is awaited: the guild's slot is taken in one go.
        actor = self._actor(request.guild_id)
        wish = Wish(request.channel_id, request.user_id, request.text_channel_id)
        may_move = may_move_others or self._may_move(actor.session, request)
        if not self._config.exclusive and not self._can_note(request):
            return JoinResult(Told.FAILED, request.channel_id, NO_JOURNAL)
        if actor.would_act(request.channel_id, may_move=may_move) and (refused := self._over_limit(request)):
            return JoinResult(Told.REFUSED, request.channel_id, refused)
        try:
            ticket, future = actor.want(wish, may_move=may_move)
        except BusyError as error:
            return JoinResult(Told.FAILED, request.channel_id, str(error))
        outcome = await self._answer(actor, ticket, future)
        session = actor.session if actor.opened else None
        reason = outcome.reason
        if reason == NO_ANSWER:
            # Discord says nothing to a join it does not let happen; what it may mean can have changed since the asking.
            reason = what_keeps_me_out(self._bot, request.guild_id, request.channel_id) or reason
        return JoinResult(outcome.told, outcome.channel_id or request.channel_id, reason, session)

    async def _is_foreign_there(self, guild_id: int) -> bool:
        """Whether Discord shows the bot in voice though this process is not: a join would end that session."""
        state = self._bot.cache.get_voice_state(guild_id, self._host.user_id)
        if state is None or state.channel_id is None or self._holds(guild_id):
            return False
        # What the cache shows may have ended without an event.
        try:
            async with asyncio.timeout(REST_S):
                state = await self._bot.rest.fetch_my_voice_state(guild_id)
            there = state.channel_id is not None
        except hikari.NotFoundError as error:
            there = error.code != UNKNOWN_VOICE_STATE
        except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything; the cache says "there"
            _log.info("guild %d: REST did not say where I am: %s", guild_id, type(error).__name__)
            there = True
        return there and not self._holds(guild_id)

    def _holds(self, guild_id: int) -> bool:
        """Whether the guild's actor wants or holds something."""
        actor = self._actors.get(guild_id)
        return actor is not None and not actor.at_rest

    def _can_note(self, request: JoinRequest) -> bool:
        """Whether the journal takes another guild: without it the next process could not tell a ghost from the
        session of other software that shares the token."""
        try:
            self._host.journal.check(request.guild_id, request.channel_id)
        except OSError as error:
            _log.error("guild %d: no join, because the voice journal cannot be written: %s", request.guild_id, error)
            return False
        return True

    def join_limit(self, request: JoinRequest, *, may_move_others: bool = False) -> JoinResult | None:
        """The refusal that `join` would answer now because of a join limit; None for no refusal. Counts nothing."""
        actor = self._actors.get(request.guild_id)
        may_move = may_move_others or self._may_move(actor.session if actor else None, request)
        if actor is not None and not actor.would_act(request.channel_id, may_move=may_move):
            return None
        now = asyncio.get_running_loop().time()
        refused = self._limits.look(request.user_id, request.guild_id, self.shard_of(request.guild_id), now)
        return JoinResult(Told.REFUSED, request.channel_id, refused.words) if refused is not None else None

    def _over_limit(self, request: JoinRequest) -> str:
        """Why a join has to wait, in words for the member; empty when it need not."""
        now = asyncio.get_running_loop().time()
        refused = self._limits.take(request.user_id, request.guild_id, self.shard_of(request.guild_id), now)
        return refused.words if refused is not None else ""

    async def leave(self, guild_id: int, reason: str, *, user_id: int = 0, tell: bool = False) -> JoinResult:
        """Leave voice in a guild; returns when Discord confirmed it or the retries go on without us.

        Args:
            guild_id: Where.
            reason: Why, in words for members.
            user_id: Who asks; 0 for nobody.
            tell: Nobody asked for it: say the reason in the session's channel.
        """
        actor = self._actors.get(guild_id)
        if actor is None:
            return JoinResult(Told.NOT_IN_VOICE, 0)
        channel_id = actor.session.channel_id if actor.session else 0
        try:
            ticket, future = actor.unwant(reason, user_id, tell=tell)
        except BusyError as error:
            return JoinResult(Told.FAILED, channel_id, str(error))
        outcome = await self._answer(actor, ticket, future)
        return JoinResult(outcome.told, channel_id, outcome.reason)

    async def test(self, guild_id: int, seconds: float) -> Hearing:
        """Listen in a guild for some seconds and measure; see `roost_voice.hearing.hear`.

        Raises:
            BusyError: A test is going on there.
            ClosedError: There is no session, or it ended.
        """
        session = self.session(guild_id)
        if session is None or self._stopping:
            raise ClosedError("I am in no voice channel.")
        if guild_id in self._testing:
            raise BusyError("A test is going on already.")
        self._testing.add(guild_id)
        try:
            task = self._scope.spawn(
                hear(session, seconds),
                f"test {guild_id}",
                awaited=True,
            )
            try:
                await asyncio.wait({task})
            finally:
                task.cancel()
            if task.cancelled() or (session.closed and task.exception() is None):
                raise ClosedError("Voice ended before the test did.")
            return task.result()
        finally:
            self._testing.discard(guild_id)

    async def _answer(self, actor: GuildActor, ticket: int, future: asyncio.Future[Outcome]) -> Outcome:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await future
        except TimeoutError:
            actor.abandon(ticket)
            return Outcome(Told.FAILED, 0, "voice did not answer; try again")
        except asyncio.CancelledError:
            actor.abandon(ticket)
            raise

    @staticmethod
    def _may_move(session: Session | None, request: JoinRequest) -> bool:
        if session is None or session.closed:
            return True
        return session.started_by == request.user_id or not session.humans - {request.user_id}

    @property
    def sessions(self) -> dict[int, Session]:
        """Open sessions by guild."""
        return {
            guild_id: actor.session
            for guild_id, actor in self._actors.items()
            if actor.session is not None and actor.opened
        }

    def session(self, guild_id: int) -> Session | None:
        return self.sessions.get(guild_id)

    def call_status(self, guild_id: int, user_id: int) -> CallStatus | None:
        """Whether a member is heard in the call that they are in; None: they are in none."""
        session = self.session(guild_id)
        if session is None or user_id not in session.humans:
            return None
        return CallStatus(session.channel_id, session.unheard(user_id))

    def state(self, guild_id: int) -> moves.State:
        actor = self._actors.get(guild_id)
        return actor.state if actor else moves.State.IDLE

    def states(self) -> dict[str, int]:
        """How many guilds are in which state."""
        counts: dict[str, int] = {}
        for actor in self._actors.values():
            counts[actor.state.value] = counts.get(actor.state.value, 0) + 1
        return counts

    def is_stopping(self) -> bool:
        """No more requests are taken."""
        return self._stopping

    # What Discord says ----------------------------------------------------------------------------------------------

    def user_is(self, user_id: int) -> None:
        """Who we are at Discord."""
        self._host.user_id = user_id

    def ready(self, shard: hikari.api.GatewayShard, user_id: int) -> None:
        """A shard has a new session."""
        self._host.user_id = user_id
        self._shard_count = shard.shard_count
        self._ready_at[shard.id] = asyncio.get_running_loop().time()
        self.tell_shard(shard.id, moves.GatewayReady())
        self.op4.connected(shard)

    def resumed(self, shard: hikari.api.GatewayShard) -> None:
        self.tell_shard(shard.id, moves.GatewayResumed())
        self.op4.connected(shard)

    def tell_shard(self, shard_id: int, event: moves.Input) -> None:
        for guild_id, actor in list(self._actors.items()):
            if self.shard_of(guild_id) == shard_id:
                actor.tell(event)

    def tell(self, guild_id: int, event: moves.Input) -> None:
        """Pass an event to the guild's actor; one is made only for a voice state that nobody here expected."""
        actor = self._actors.get(guild_id)
        if actor is None:
            match event:
                case moves.OwnState() | moves.GuildHere(channel_id=int()):
                    if self._stopping:
                        return
                    actor = self._actor(guild_id)
                case moves.GuildHere():
                    self.reaper.settled(guild_id)
                    return
                case _:
                    return
        if isinstance(event, moves.OwnState) and not actor.at_rest:
            self.reaper.answered(guild_id)
        actor.tell(event)

    def member(self, guild_id: int, user_id: int, channel_id: int | None, member: hikari.Member | None) -> None:
        """Another user's voice state changed; Discord may leave the member out."""
        if (actor := self._actors.get(guild_id)) is not None:
            actor.member(user_id, channel_id, self._is_bot(guild_id, user_id, member))

    def deafened(self, guild_id: int, on: bool) -> None:
        """Whether a moderator has deafened us."""
        if (actor := self._actors.get(guild_id)) is not None:
            actor.deafened(on)

    def consent_changed(self, guild_id: int, user_id: int) -> None:
        actor = self._actors.get(guild_id)
        if actor is not None and actor.session is not None:
            actor.session.consent_changed(user_id)

    def permissions_changed(self, guild_id: int, *, gone: int = 0) -> None:
        """Who can see which channel may have changed.

        Args:
            gone: A channel or thread that was deleted.
        """
        actor = self._actors.get(guild_id)
        if actor is not None and actor.session is not None:
            actor.session.channel_is_gone(gone)
            actor.session.ask_again()

    def member_changed(self, guild_id: int, user_id: int) -> None:
        """A member's roles may have changed, and with them what they can see."""
        actor = self._actors.get(guild_id)
        if actor is not None and actor.session is not None and user_id in actor.session.members:
            actor.session.ask_again()

    def forget(self, user_id: int) -> None:
        """Somebody asked to be forgotten."""
        for session in self.sessions.values():
            session.forget(user_id)

    def shard_of(self, guild_id: int) -> int:
        return hikari.snowflakes.calculate_shard_id(self._shard_count, guild_id)

    @property
    def user_id(self) -> int:
        return self._host.user_id

    # Plugins --------------------------------------------------------------------------------------------------------

    def plugin_loaded(self, name: str) -> None:
        """Replay the open sessions to a plugin that came late."""
        replay = self._takes_part(name)
        for actor in list(self._actors.values()):
            if actor.session is not None and actor.opened:
                actor.session.attach_hooks()
                actor.session.ask_again()
                if replay:
                    actor.replay_opened(name)

    def reconfigured(self, guild_id: int) -> None:
        """A guild changed its configuration."""
        if (actor := self._actors.get(guild_id)) is not None:
            actor.reconfigured()

    def plugin_switched(self, name: str, guild_id: int | None, enabled: bool) -> None:
        """Replay the open session to a plugin that was switched on in its guild; stop frames for one switched off."""
        replay = enabled and self._takes_part(name)
        for actor in list(self._actors.values()):
            if actor.session is None or guild_id not in (None, actor.guild_id):
                continue
            if not enabled:
                actor.session.detach_all_of(name)
            if actor.opened:
                actor.session.attach_hooks()
                actor.session.ask_again()
                if replay:
                    actor.replay_opened(name)

    def _takes_part(self, name: str) -> bool:
        """Whether a plugin implements a hook of the beginning of a session."""
        return any(name in self._hooks.implementers(hook) for hook in ("voice_session_opening", "voice_session_opened"))

    async def plugin_unloading(self, name: str, reason: str, deadline: float) -> None:
        """A plugin is going, the sessions stay: it drains them as if they ended."""
        if name not in self._hooks.implementers("voice_session_closing"):
            return
        await asyncio.gather(
            *(
                self._hooks.call_plugin(
                    name,
                    "voice_session_closing",
                    guild_id=session.guild_id,
                    session=session,
                    reason=reason,
                    deadline=deadline,
                )
                for session in self.sessions.values()
            )
        )

    def plugin_unloaded(self, name: str) -> None:
        for session in self.sessions.values():
            session.detach_all_of(name)
            session.attach_hooks()
            session.ask_again()

    # The end --------------------------------------------------------------------------------------------------------

    async def stop_all(self, reason: str, deadline: float) -> list[int]:
        """End every session, all at once, until `deadline` (event loop time); take no more requests.

        Returns:
            Guilds that did not end in time.
        """
        self._stopping = True
        self._host.stop_deadline = deadline
        for actor in list(self._actors.values()):
            actor.stop(reason)
        tasks = set(self._tasks.values())
        if tasks:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(tasks, timeout=left_s)
        return sorted(self._actors)

    async def aclose(self) -> list[str]:
        """End all tasks; what Discord has not confirmed stays in the journal. Idempotent.

        Returns:
            Names of tasks that ignored their cancellation.
        """
        self._stopping = True
        return await self._scope.aclose()

    async def leave_for_good(self, deadline: float) -> list[int]:
        """After `aclose`: send the leaves again that Discord has not confirmed, for nobody will later.

        Args:
            deadline: Of the event loop's clock.

        Returns:
            Guilds in which Discord shows the bot still at the deadline.
        """
        claimed = list(self._host.journal.claims)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while left := self._shown(claimed):
                    for guild_id in left:
                        with contextlib.suppress(hikari.ComponentStateConflictError, hikari.GatewayError, OSError):
                            await self._bot.update_voice_state(guild_id, None)
                    await asyncio.sleep(AGAIN_S)
        left = self._shown(claimed)
        for guild_id in set(claimed) - set(left):
            with contextlib.suppress(OSError):  # then the next process finds that there is nothing to end
                self._host.journal.remove(guild_id)
        return left

    def _shown(self, guild_ids: Iterable[int]) -> list[int]:
        """Those of some guilds in which Discord shows the bot in voice."""
        return [guild_id for guild_id in guild_ids if self._is_shown(guild_id)]

    def _is_shown(self, guild_id: int) -> bool:
        state = self._bot.cache.get_voice_state(guild_id, self._host.user_id)
        return state is not None and state.channel_id is not None

    # Own bookkeeping ------------------------------------------------------------------------------------------------

    def _actor(self, guild_id: int) -> GuildActor:
        actor = self._actors.get(guild_id)
        if actor is None:
            actor = self._actors[guild_id] = GuildActor(guild_id, self._host)
            self._tasks[actor] = self._scope.spawn(actor.run(), f"guild {guild_id}")
        return actor

    def _retired(self, actor: GuildActor) -> None:
        self.op4.release(actor.guild_id)
        self._tasks.pop(actor, None)
        if self._actors.get(actor.guild_id) is actor:
            del self._actors[actor.guild_id]

    def _say_why(self, session: Session, reason: str) -> None:
        if not self._stopping:
            self._scope.spawn(say_why(self._bot.rest, session, reason), f"farewell {session.guild_id}")

    def _op4_sent(self, guild_id: int, sent: moves.Op4Sent) -> None:
        if sent.channel_id is not None:
            self.reaper.asked(guild_id, sent.channel_id, asyncio.get_running_loop().time())
        if (actor := self._actors.get(guild_id)) is not None:
            actor.tell(sent)

    def _members_of(self, guild_id: int, channel_id: int) -> Iterable[tuple[int, bool]]:
        states = self._bot.cache.get_voice_states_view_for_channel(guild_id, channel_id)
        for user_id, state in states.items():
            if user_id != self._host.user_id:
                yield int(user_id), self._is_bot(guild_id, int(user_id), state.member)

    def _is_bot(self, guild_id: int, user_id: int, member: hikari.Member | None) -> bool:
        """Whether a user in voice is known to be a bot. An unknown user counts as a human."""
        known = member or self._bot.cache.get_member(guild_id, user_id) or self._bot.cache.get_user(user_id)
        return known is not None and known.is_bot

    def _is_stage(self, channel_id: int) -> bool:
        return isinstance(self._bot.cache.get_guild_channel(channel_id), hikari.GuildStageChannel)

    def _barred(self, guild_id: int, channel_id: int) -> str:
        if self._bot.cache.get_available_guild(guild_id) is None:
            return ""
        return what_keeps_me_out(self._bot, guild_id, channel_id) or ""

    def _since_ready_s(self, guild_id: int) -> float:
        now = asyncio.get_running_loop().time()
        return now - self._ready_at.get(self.shard_of(guild_id), now)

    def _sessions_changed(self) -> None:
        if self.sessions or self._stopping:
            if self._idle is not None:
                self._idle.end()
                self._idle = None
        elif self._idle is None or self._idle.done():
            self._idle = self._scope.keep(self._announce_idle, "idle")

    async def _announce_idle(self) -> None:
        await asyncio.sleep(self._config.idle_s)
        await self._hooks.call("voice_idle", seconds=self._config.idle_s)


def on_consent(manager: SessionManager) -> Callable[[int, int], None]:
    """The callback for ``ctx.consent.subscribe``."""

    def changed(guild_id: int, user_id: int) -> None:
        with contextlib.suppress(RuntimeError):
            manager.consent_changed(guild_id, user_id)

    return changed
