"""One logical stay in voice: what consumers attach to, and the gate that every frame passes.

A frame reaches a sink only while capture is on (the notice stands) and its speaker may be heard; everything else is
dropped here, before any sink or hook, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from roost.audio import AudioFrame, FrameSink, LinkStats, SessionStats, VoiceLink
from roost.errors import ClosedError
from roost.errortext import repr_of
from roost.hooks import Deny
from roost.scopes import Scope
from roost_voice.moves import Wish

if TYPE_CHECKING:
    from roost.consent import Consent
    from roost.context import HookCaller

_log = logging.getLogger("roost.voice.session")

PostNotice = Callable[["Session"], Awaitable[bool]]
"""Posts the notice in the session's text channel; False or a raise means that it does not stand."""

DEAFNESS_S = 10.0
"""At most one word about being deafened, or not any more, in so many seconds."""

LATE_NOTICE_S = 30.0
"""At most one notice for people who came later in so many seconds."""

MAX_REMEMBERED = 4096
"""Users that a session remembers as informed by the notice, and users whose refused frames it counts separately."""

CAPTURE_OFF = "off"
CAPTURE_NOTICE = "notice"
CAPTURE_ON = "on"
CAPTURE_FAILED = "failed"


class Session:
    """Implements `roost.audio.VoiceSession`. Made, moved and closed by the guild's actor alone.

    Args:
        wish: Where the session begins and who asked for it.
        scope: Owns the task that posts the notice.
        now: Event loop time.
        on_speaking: Called with (user id, on) when someone starts or stops.
        say_deafness: Tells people that `deafened` has changed.
    """

    def __init__(
        self,
        guild_id: int,
        wish: Wish,
        *,
        consent: Consent,
        hooks: HookCaller,
        post_notice: PostNotice,
        scope: Scope,
        now: float,
        state_of: Callable[[], str],
        on_speaking: Callable[[int, bool], None],
        say_deafness: Callable[[Session], Awaitable[None]] | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.guild_id = guild_id
        self.started_by = wish.user_id
        self.text_channel_id = wish.text_channel_id
        self.opened_at = now
        self.capture_state = CAPTURE_OFF
        """``off`` (nobody listens), ``notice`` (being posted), ``on``, or ``failed`` (no notice, so no capture)."""
        self.dave_state = "none"
        self.deafened = False
        """By a moderator, so that Discord sends no voices."""
        self._channel_id = wish.channel_id
        self._generation = 0
        self._consent = consent
        self._hooks = hooks
        self._post_notice = post_notice
        self._scope = scope
        self._state_of = state_of
        self._on_speaking = on_speaking
        self._link: VoiceLink | None = None
        self._past = LinkStats()
        self._members: dict[int, bool] = {}
        self._sinks: tuple[FrameSink, ...] = ()
        self._hook_sink: Callable[[], None] | None = None
        self._allowed: set[int] = set()
        self._denied: set[int] = set()
        self._asked_of = hooks.generation
        """The set of plugins that `_allowed` and `_denied` are answers of."""
        self._notice: asyncio.Task[None] | None = None
        self._notice_stands = False
        self._told: set[int] = set()
        self._late_at = float("-inf")
        self._late: asyncio.Task[None] | None = None
        self._say_deafness = say_deafness
        self._deafness_told = False
        self._deafness_at = float("-inf")
        self._deafness: asyncio.Task[None] | None = None
        self._received = 0
        self._delivered = 0
        self._refused: Counter[int] = Counter()
        self._sink_failures = 0
        self._closed_after_s: float | None = None

    # Of the seam ----------------------------------------------------------------------------------------------------

    @property
    def channel_id(self) -> int:
        return self._channel_id

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def state(self) -> str:
        return "closed" if self.closed else self._state_of()

    @property
    def closed(self) -> bool:
        return self._closed_after_s is not None

    @property
    def members(self) -> frozenset[int]:
        return frozenset(self._members)

    @property
    def humans(self) -> frozenset[int]:
        return frozenset(user_id for user_id, bot in self._members.items() if not bot)

    @property
    def heard(self) -> frozenset[int]:
        """Members whose frames would be delivered now."""
        if self.capture_state != CAPTURE_ON:
            return frozenset()
        return frozenset(user_id for user_id in self.humans if self._may_hear(user_id))

    def attach(self, sink: FrameSink, *, notice_channel_id: int = 0) -> Callable[[], None]:
        """Start delivering consented frames; see `roost.audio.VoiceSession.attach`."""
        if self.closed:
            raise ClosedError("the voice session has ended")
        self._sinks = (*self._sinks, sink)
        if notice_channel_id not in (0, self.text_channel_id):
            self.text_channel_id = notice_channel_id
            self._drop_notice()
        self._seek_capture()

        def detach() -> None:
            self._sinks = tuple(other for other in self._sinks if other is not sink)
            if not self._sinks:
                self._capture_off()

        return detach

    async def capturing(self) -> bool:
        """Wait until the notice stands or has failed; see `roost.audio.VoiceSession.capturing`."""
        self._seek_capture()
        if self._notice is not None:
            await asyncio.wait({self._notice})
        return self.capture_state == CAPTURE_ON

    def revoke(self, user_id: int) -> None:
        """Stop delivering this user's frames and have every sink purge them."""
        self._allowed.discard(user_id)
        self._denied.add(user_id)
        for sink in self._sinks:
            self._guarded(sink.purge, user_id)

    def send_opus(self, opus: bytes) -> None:
        if self._link is not None:
            self._link.send_opus(opus)

    def stats(self) -> SessionStats:
        refused = dict(self._refused)
        duration_s = self._closed_after_s
        if duration_s is None:
            duration_s = asyncio.get_running_loop().time() - self.opened_at
        return SessionStats(
            opened_at=self.opened_at,
            duration_s=duration_s,
            generation=self._generation,
            frames_received=self._received,
            frames_delivered=self._delivered,
            frames_refused=sum(refused.values()),
            refused_by_user=refused,
            link=self._link_stats(),
        )

    # The frame path -------------------------------------------------------------------------------------------------

    def wants(self, user_id: int) -> bool:
        """Called by the link for every packet of somebody, before it is decrypted."""
        if self._hears(user_id):
            return True
        self._received += 1
        return False

    def on_frame(self, frame: AudioFrame) -> None:
        """Called by the link for every decrypted frame."""
        self._received += 1
        if not self._hears(frame.user_id):
            return
        self._delivered += 1
        for sink in self._sinks:
            try:
                sink.write(frame)
            except Exception:  # noqa: BLE001 - one sink must not silence the others
                self._sink_failed(sink)

    def _hears(self, user_id: int) -> bool:
        if self._asked_of != self._hooks.generation:
            self.ask_again()
        if user_id in self._allowed:
            return True
        if self.capture_state == CAPTURE_OFF:
            return False
        if user_id in self._denied or self.capture_state != CAPTURE_ON or not self._may_hear(user_id):
            self._count_refused(user_id)
            return False
        self._allowed.add(user_id)
        return True

    def _count_refused(self, user_id: int) -> None:
        """Count a frame under its speaker; under 0 for those not in the channel, and for the earliest of very many."""
        refused = self._refused
        refused[user_id if user_id in self._members else 0] += 1
        if len(refused) > MAX_REMEMBERED:
            first = next(each for each in refused if each)
            refused[0] += refused.pop(first)

    def _may_hear(self, user_id: int) -> bool:
        """Ask the store and every plugin; refusals are remembered until a change of consent."""
        is_bot = self._members.get(user_id)
        if is_bot is None or is_bot:
            return False
        if user_id in self._denied:
            return False
        if not self._consent.allows(self.guild_id, user_id) or any(
            isinstance(answer, Deny)
            for answer in self._hooks.call_sync("voice_consent", guild_id=self.guild_id, session=self, user_id=user_id)
        ):
            self._denied.add(user_id)
            return False
        return True

    def consent_changed(self, user_id: int) -> None:
        """Ask anew before the next frame of this user; purge what is queued if they may no longer be heard."""
        self._denied.discard(user_id)
        self._allowed.discard(user_id)
        if not self._consent.allows(self.guild_id, user_id) or (
            user_id in self._members and not self._may_hear(user_id)
        ):
            # Whoever has left the channel may still have words in the sinks.
            self.revoke(user_id)

    def ask_again(self) -> None:
        """Ask anew about everybody: a plugin that decides who is heard came, went, was switched or stopped."""
        self._asked_of = self._hooks.generation
        for user_id in (*self._allowed, *self._denied):
            self.consent_changed(user_id)

    def _guarded(self, function: Callable[[int], None], user_id: int) -> None:
        try:
            function(user_id)
        except Exception:  # noqa: BLE001 - one sink must not keep the others from purging
            self._sink_failed(function)

    def _sink_failed(self, sink: object) -> None:
        self._sink_failures += 1
        if self._sink_failures in (1, 10, 100, 1000):
            _log.exception(
                "guild %d: a frame sink failed (%d times): %s", self.guild_id, self._sink_failures, repr_of(sink)
            )

    # Capture --------------------------------------------------------------------------------------------------------

    def _seek_capture(self) -> None:
        """Turn capture on if somebody listens and the notice stands; post the notice if it does not yet."""
        if self.closed or not self._sinks or self.capture_state in (CAPTURE_ON, CAPTURE_NOTICE):
            return
        if self._notice_stands:
            self.capture_state = CAPTURE_ON
            self._tell_deafness()
            return
        self.capture_state = CAPTURE_NOTICE
        self._notice = self._scope.spawn(self._post(), f"notice {self.id[:8]}")

    async def _post(self) -> None:
        try:
            stands = await self._post_notice(self)
        except Exception as error:  # noqa: BLE001 - whatever went wrong: no notice, no capture
            _log.warning("guild %d: the notice could not be posted: %s", self.guild_id, error)
            stands = False
        self._notice = None
        if self.closed:
            return
        self._notice_stands = stands
        self._told |= self.humans
        if not self._sinks:
            self.capture_state = CAPTURE_OFF
        else:
            self.capture_state = CAPTURE_ON if stands else CAPTURE_FAILED
            self._tell_deafness()

    def deafened_is(self, on: bool) -> None:
        """A moderator has deafened the bot, or made it hear again: said where its words go, if it is to hear."""
        self.deafened = on
        self._tell_deafness()

    def _tell_deafness(self) -> None:
        if self._say_deafness is None or self.capture_state != CAPTURE_ON or self._deafness_told is self.deafened:
            return
        if self._deafness is None or self._deafness.done():
            self._deafness = self._scope.spawn(self._post_deafness(), f"deafness {self.id[:8]}")

    async def _post_deafness(self) -> None:
        assert self._say_deafness is not None
        loop = asyncio.get_running_loop()
        while self._deafness_told is not self.deafened and self.capture_state == CAPTURE_ON:
            await asyncio.sleep(max(0.0, self._deafness_at + DEAFNESS_S - loop.time()))
            if self._deafness_told is not self.deafened and self.capture_state == CAPTURE_ON:
                self._deafness_at, self._deafness_told = loop.time(), self.deafened
                await self._say_deafness(self)

    def _drop_notice(self) -> None:
        """Other ears or another channel: nobody is heard before a new notice stands."""
        self._allowed.clear()
        self._notice_stands = False
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None
        self.capture_state = CAPTURE_OFF

    def _capture_off(self) -> None:
        self._allowed.clear()
        if self.capture_state != CAPTURE_NOTICE:
            self.capture_state = CAPTURE_OFF

    def attach_hooks(self) -> None:
        """(Re)make the host's own sink, after a plugin came or went: none without an implementer."""
        wanted = bool(self._hooks.implementers("voice_audio_frame", self.guild_id))
        if wanted and self._hook_sink is None and not self.closed:
            self._hook_sink = self.attach(self._hooks.frame_sink(self.guild_id, self))
        elif not wanted and self._hook_sink is not None:
            detach, self._hook_sink = self._hook_sink, None
            detach()

    # Of the actor ---------------------------------------------------------------------------------------------------

    def begin_link(self, generation: int, channel_id: int, members: Iterable[tuple[int, bool]]) -> None:
        """A link is about to be opened. A new channel means new ears: its own notice before any capture."""
        self._generation = generation
        if channel_id != self._channel_id:
            self._channel_id = channel_id
            self._denied.clear()
            self._drop_notice()
        self._members = dict(members)

    def link_is(self, link: VoiceLink) -> None:
        self._link = link

    def link_live(self) -> None:
        """The link is live: whoever listens may be served."""
        self._seek_capture()

    def link_ended(self, link: VoiceLink) -> None:
        if self._link is link:
            self._link = None
        self._past = _added(self._past, link.stats())

    def member_is(self, user_id: int, is_bot: bool) -> bool:
        """Note somebody in the channel; True when they are new."""
        new = user_id not in self._members
        self._members[user_id] = is_bot
        if new and not is_bot:
            self._tell_late(user_id)
        return new

    def _tell_late(self, user_id: int) -> None:
        """Post the notice once more for somebody who came after it and has decided nothing yet."""
        if self.capture_state != CAPTURE_ON or user_id in self._told:
            return
        if self._consent.decision(self.guild_id, user_id) is not None:
            return
        if len(self._told) >= MAX_REMEMBERED:
            self._told.clear()
        self._told.add(user_id)
        if self._late is None or self._late.done():
            self._late = self._scope.spawn(self._post_late(), f"late notice {self.id[:8]}")

    async def _post_late(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._late_at + LATE_NOTICE_S - loop.time()))
        if self.capture_state != CAPTURE_ON:
            return
        self._late_at = loop.time()
        try:
            await self._post_notice(self)
        except Exception as error:  # noqa: BLE001 - the first notice stands; nobody undecided is heard in opt-in mode
            _log.warning("guild %d: the notice for a newcomer could not be posted: %s", self.guild_id, error)

    def member_left(self, user_id: int) -> bool:
        """Note that somebody is gone; True when they were here."""
        self._allowed.discard(user_id)
        self._denied.discard(user_id)
        return self._members.pop(user_id, None) is not None

    def close(self, now: float) -> None:
        """Deliver nothing any more. Idempotent."""
        if self.closed:
            return
        self._closed_after_s = now - self.opened_at
        self.capture_state = CAPTURE_OFF
        self._sinks = ()
        self._hook_sink = None
        self._allowed.clear()
        self._link = None
        for task in (self._late, self._deafness):
            if task is not None:
                task.cancel()
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None

    def stop_capture(self) -> None:
        """The end has begun: hear nobody any more, keep what is queued."""
        self._allowed.clear()
        self.capture_state = CAPTURE_OFF

    def speaking(self, user_id: int, on: bool) -> None:
        if user_id in self._members:
            self._on_speaking(user_id, on)

    def _link_stats(self) -> LinkStats:
        return self._past if self._link is None else _added(self._past, self._link.stats())


class SessionEvents:
    """`roost.audio.LinkEvents` of one link: passes on nothing once its generation is over."""

    def __init__(self, session: Session, generation: int) -> None:
        self._session = session
        self._generation = generation

    def wants(self, user_id: int) -> bool:
        return self._session.generation == self._generation and self._session.wants(user_id)

    def frame(self, frame: AudioFrame) -> None:
        if self._session.generation == self._generation:
            self._session.on_frame(frame)

    def member_joined(self, user_id: int) -> None:
        """The main gateway's voice states are the truth about members."""

    def member_left(self, user_id: int) -> None:
        """The main gateway's voice states are the truth about members."""

    def speaking(self, user_id: int, on: bool) -> None:
        if self._session.generation == self._generation:
            self._session.speaking(user_id, on)

    def dave(self, version: int, epoch: int, state: str) -> None:
        if self._session.generation == self._generation:
            self._session.dave_state = state

    def state(self, name: str) -> None:
        _log.debug("guild %d link %d: %s", self._session.guild_id, self._generation, name)


def _added(past: LinkStats, link: LinkStats) -> LinkStats:
    """Counters of two links after one another; what is no counter is the later one's."""
    dropped = Counter(past.dropped)
    dropped.update(link.dropped)
    violations = Counter(past.violations)
    violations.update(link.violations)
    return LinkStats(
        packets_in=past.packets_in + link.packets_in,
        frames_out=past.frames_out + link.frames_out,
        dropped=dict(dropped),
        lost=past.lost + link.lost,
        packets_sent=past.packets_sent + link.packets_sent,
        dave_version=link.dave_version,
        dave_epoch=link.dave_epoch,
        dave_epochs=past.dave_epochs + link.dave_epochs,
        frames_decrypted=past.frames_decrypted + link.frames_decrypted,
        frames_passed_through=past.frames_passed_through + link.frames_passed_through,
        decrypt_failures=past.decrypt_failures + link.decrypt_failures,
        resumes=past.resumes + link.resumes,
        ping_ms=link.ping_ms,
        mode=link.mode,
        send_dropped=past.send_dropped + link.send_dropped,
        udp_errors=past.udp_errors + link.udp_errors,
        violations=dict(violations),
    )
