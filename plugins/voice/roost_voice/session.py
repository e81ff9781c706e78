"""One logical stay in voice: what consumers attach to, and the gate that every frame passes.

A frame reaches a sink only while capture is on (the notice stands) and its speaker may be heard; everything else is
dropped here, before any sink or hook, and counted. A member may be heard if

- consent and every plugin allow it, and
- they agreed to terms that cover what the consumers do now; or, in the mode ``notice``, they were in the channel when
  a notice that tells it was posted, can see every channel where it stands, and nobody reads along who may not be there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from roost.audio import (
    UNSAID,
    AudioFrame,
    FrameSink,
    LinkStats,
    NotHeard,
    NoticeFacts,
    SessionStats,
    Unheard,
    Use,
    VoiceLink,
)
from roost.consent import Terms, digest
from roost.context import Unasked
from roost.errors import ClosedError, UsageError
from roost.errortext import repr_of
from roost.scopes import Kept, Scope
from roost.strays import taming
from roost_voice.moves import Wish

if TYPE_CHECKING:
    from roost.consent import Consent
    from roost.context import HookCaller

_log = logging.getLogger("roost.voice.session")

PostNotice = Callable[["Session", Sequence[int]], Awaitable[Collection[int]]]
"""Posts the notice in each of these channels; returns those that took it."""

DEAFNESS_S = 10.0
"""At most one word about being deafened, or not any more, in so many seconds."""

LATE_NOTICE_S = 10.0
"""At most one notice for members who came later in so many seconds; who needs it is not heard before it stands."""
LEVELS_NOTICE_S = 600.0
"""For so long after a measurement its notice covers others, so that nobody can fill the chat with notices."""
LATE_RETRIES = 5
"""Refusals by Discord after which the time between two such notices, which doubles with each, grows no more."""
GUARD_AGAIN_S = 30.0
"""After a plugin failed to decide about a member, it is asked about them again."""
TOLD_AFTER = 2
"""Failures of the notice for everybody after which people are told that nobody is heard, once; after a move, one."""

MAX_REMEMBERED = 4096
"""Users that a session remembers as informed by the notice, and users whose refused frames it counts separately."""

CAPTURE_OFF = "off"
CAPTURE_NOTICE = "notice"
CAPTURE_ON = "on"
CAPTURE_FAILED = "failed"


BROKEN = (Unasked.STOPPED, Unasked.MISSING, Unasked.FAILED)
"""Why a plugin that decides who is heard says nothing, in cases that do not mend themselves at once."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Ear:
    """A sink, and what becomes of the sound there."""

    sink: FrameSink
    facts: frozenset[NoticeFacts]
    plugins: frozenset[str] = frozenset()
    """Whose it is."""


class Session:
    """Implements `roost.audio.VoiceSession`. Made, moved and closed by the guild's actor alone.

    Args:
        wish: Where the session begins and who asked for it.
        can_see: Whether a member can see a channel; by (channel id, user id).
        scope: Owns the task that posts the notice.
        now: Event loop time.
        on_speaking: Called with (user id, on) when someone starts or stops.
        say_deafness: Tells people that `deafened` has changed.
        say_no_notice: Tells people that nobody is heard because the notice fails again and again.
        say_no_guard: Tells people that members are not heard because a plugin that decides about it does not work;
            called with its name.
    """

    def __init__(
        self,
        guild_id: int,
        wish: Wish,
        *,
        consent: Consent,
        hooks: HookCaller,
        post_notice: PostNotice,
        can_see: Callable[[int, int], bool],
        scope: Scope,
        now: float,
        state_of: Callable[[], str],
        on_speaking: Callable[[int, bool], None],
        say_deafness: Callable[[Session], Awaitable[None]] | None = None,
        say_no_notice: Callable[[Session], Coroutine[Any, Any, None]] | None = None,
        say_no_guard: Callable[[Session, str], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.guild_id = guild_id
        self.started_by = wish.user_id
        self.text_channel_id = wish.text_channel_id
        self.opened_at = now
        self.capture_state = CAPTURE_OFF
        """``off`` (nobody listens), ``notice`` (being posted), ``on``, or ``failed`` (no notice, so no capture).

        ``failed`` lasts until a notice stands, also while it is tried again.
        """
        self.dave_state = "none"
        self.deafened = False
        """By a moderator, so that Discord sends no voices."""
        self._channel_id = wish.channel_id
        self._generation = 0
        self._consent = consent
        self._hooks = hooks
        self._post_notice = post_notice
        self._can_see = can_see
        self._scope = scope
        self._state_of = state_of
        self._on_speaking = on_speaking
        self._link: VoiceLink | None = None
        self._past = LinkStats()
        self._members: dict[int, bool] = {}
        self._ears: tuple[_Ear, ...] = ()
        self._sinks: tuple[FrameSink, ...] = ()
        """Those of the ears."""
        self._hook_ear: _Ear | None = None
        self._allowed: set[int] = set()
        self._delivered_of: set[int] = set()
        """Members whose sound the sinks have received since they were purged of it."""
        self._denied: dict[int, NotHeard] = {}
        """Members whom consent or a plugin forbids to hear, as far as was asked."""
        self._ask_guard_at: dict[int, float] = {}
        """Of those about whom a plugin failed to decide: when it is asked again."""
        self._asked_of = hooks.generation
        """The set of plugins that `_allowed`, `_denied` and `_uncovered` are answers of."""
        self._uncovered: dict[int, NotHeard] = {}
        """Members whom no notice and no agreement covers, as far as was asked."""
        self._notice: asyncio.Task[None] | None = None
        self._taken: set[int] = set()
        """Channels that took that notice for everybody."""
        self._failures = 0
        """Notices that Discord has refused since the last one that stands."""
        self._moved = False
        """The notice has not stood since the bot was moved to another channel."""
        self._arrived = asyncio.Event()
        """Cleared while the bot is on its way to another channel, in which a notice is posted once the link is live;
        nobody waits for that once there is nothing to be heard."""
        self._arrived.set()
        self._retry: Kept | None = None
        self._say_no_notice = say_no_notice
        self._failure: asyncio.Task[None] | None = None
        """Tells people of the failures."""
        self._say_no_guard = say_no_guard
        self._asked: list[str] = []
        """Plugins that have yet to decide whether this session, which is open, may be; one again if asked again."""
        self._guards_told: dict[str, asyncio.Task[None]] = {}
        """By plugin that decides who is heard and does not work: what tells people, once."""
        self._notices = 0
        """Number of the notice that stands or is being posted."""
        self._receivers_told: dict[str, frozenset[str]] = {}
        """By their digest: who receives the sound, as notices of this session told."""
        self._facts_told: frozenset[NoticeFacts] = frozenset()
        """What the notice tells that stands or is being posted; less what nobody does any more."""
        self._rests_until: float | None = None
        """Until when the notice of an earlier measurement covers another one; None: no such notice stands."""
        self._shown: set[int] = set()
        """Members who were in the channel when that notice was posted there, and could see it."""
        self._here: set[int] = set()
        """Members for whom the notice that is being posted counts once it stands."""
        self._forgotten: set[int] = set()
        """Members who asked to be forgotten after a notice was posted in their presence. No other one is posted for
        them alone, so nobody can fill the chat with notices."""
        self._gone: set[int] = set()
        """Channels that were deleted after that notice was posted there."""
        self._ending = False
        self._late_at = float("-inf")
        self._late: Kept | None = None
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
        self._take_up_plugins()
        if self.capture_state != CAPTURE_ON:
            return frozenset()
        return frozenset(user_id for user_id in self.humans if self._may_hear(user_id))

    @property
    def facts(self) -> frozenset[NoticeFacts]:
        """What all consumers together do with what they hear."""
        return frozenset().union(*(ear.facts for ear in self._ears))

    @property
    def places(self) -> tuple[int, ...]:
        """Channels where the notice has to stand: those of the text, and last the voice channel's own chat."""
        texts = {each.channel_id for each in self.facts} - {0, self._channel_id}
        return (*sorted(texts), self._channel_id)

    @property
    def terms(self) -> Terms:
        """What an agreement to the notice covers."""
        return self.terms_for(sees_all=False)

    def terms_for(self, *, sees_all: bool) -> Terms:
        """What an agreement has to cover; where it goes counts for members who do not see every channel of the notice.

        It counts for everybody once others can read along.
        """
        facts, onlookers = self.facts, self._has_onlookers
        places = [*map(str, self.places), *(["onlookers"] if onlookers else [])]
        return Terms(
            max((each.kept_days for each in facts), default=0),
            digest(self._receivers),
            digest(places) if onlookers or not sees_all else "",
        )

    @property
    def _receivers(self) -> frozenset[str]:
        """Services and plugins that the sound goes to."""
        facts = self.facts
        # With the blank, no name of a host looks like this.
        plugins = (f"plugin {each.plugin}" for each in facts if each.use is Use.PLUGIN)
        return frozenset((*(each.sends_to for each in facts), *plugins))

    @property
    def _has_onlookers(self) -> bool:
        """Whether people who may not be in the channel can read what becomes of the sound."""
        return any(each.onlookers for each in self.facts)

    def attach(self, sink: FrameSink, *, facts: NoticeFacts = UNSAID) -> Callable[[], None]:
        """Start delivering consented frames; see `roost.audio.VoiceSession.attach`."""
        if self.closed:
            raise ClosedError("the voice session has ended")
        plugins = self._hooks.owners_of(sink, sys._getframe(1), facts.plugin)
        if not plugins:
            raise UsageError("the plugin whose sink this is cannot be found: attach it from the plugin's own code")
        for plugin in plugins:
            if not self._hooks.reaches(plugin, self.guild_id):
                raise ClosedError(f"the plugin {plugin} is off in this server, so it hears nobody")
        ear = _Ear(sink, self._told_of(plugins, facts), plugins)
        if facts.channel_id:
            self.text_channel_id = facts.channel_id
        self._listen((*self._ears, ear))

        def detach() -> None:
            if ear in self._ears:
                self._listen(tuple(other for other in self._ears if other is not ear))

        return detach

    def _told_of(self, plugins: frozenset[str], facts: NoticeFacts) -> frozenset[NoticeFacts]:
        """What the notice tells of a sink of these plugins. Those that do not come with the bot are always named."""
        named = {each for each in plugins if not self._hooks.comes_along(each)}
        if not named and (facts.use is not Use.PLUGIN or facts.plugin):
            return frozenset({facts})
        return frozenset(dataclasses.replace(facts, use=Use.PLUGIN, plugin=each) for each in named or plugins)

    def detach_all_of(self, plugin: str) -> None:
        """A plugin is unloaded, or off here: it hears nobody until it attaches anew."""
        left = tuple(ear for ear in self._ears if plugin not in ear.plugins)
        if len(left) < len(self._ears):
            self._listen(left)

    async def capturing(self) -> bool:
        """Wait until the notice stands or has failed; see `roost.audio.VoiceSession.capturing`.

        Another one may take the place of the notice that is waited for, when facts or the channel change meanwhile.
        """
        self._seek_capture()
        while not (self.closed or self._ending):
            if self._notice is not None:
                await asyncio.wait({self._notice})
            elif self._ears and not self._arrived.is_set():
                await self._arrived.wait()
            else:
                break
        return self.capture_state == CAPTURE_ON

    def revoke(self, user_id: int) -> None:
        """Stop delivering this user's frames and have every sink purge them."""
        self._allowed.discard(user_id)
        self._denied[user_id] = NotHeard(Unheard.FORBIDDEN)
        self._purge(user_id)

    def _purge(self, user_id: int) -> None:
        self._delivered_of.discard(user_id)
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
        self._take_up_plugins()
        if user_id in self._allowed:
            return True
        if self.capture_state == CAPTURE_OFF:
            return False
        if self.capture_state != CAPTURE_ON or not self._may_hear(user_id):
            self._count_refused(user_id)
            return False
        self._allowed.add(user_id)
        self._delivered_of.add(user_id)
        if len(self._delivered_of) > MAX_REMEMBERED:
            self._delivered_of &= self.humans
        return True

    def _take_up_plugins(self) -> None:
        """Ask anew about everybody if plugins came, went or stopped since the last time."""
        if self._asked_of != self._hooks.generation:
            if self._hook_ear is not None:
                # A further plugin may listen, which the notice does not tell of.
                self.attach_hooks()
            self.ask_again()

    def _count_refused(self, user_id: int) -> None:
        """Count a frame under its speaker; under 0 for those not in the channel, and for the earliest of very many."""
        refused = self._refused
        refused[user_id if user_id in self._members else 0] += 1
        if len(refused) > MAX_REMEMBERED:
            first = next(each for each in refused if each)
            refused[0] += refused.pop(first)

    def _may_hear(self, user_id: int) -> bool:
        return self._members.get(user_id) is False and self._obstacle(user_id) is None

    def _obstacle(self, user_id: int) -> NotHeard | None:
        """What keeps a member of the channel from being heard while capture is on; None: nothing.

        Asks the store, every plugin and the notice; the answer is remembered until something of it changes.
        """
        found = self._refused_by(user_id) or self._uncovered.get(user_id)
        if found is None and (found := self._gap(user_id)) is not None:
            self._uncovered[user_id] = found
        return found

    def _refused_by(self, user_id: int) -> NotHeard | None:
        """`_refusal`, remembered; a failure of a plugin is no answer, so it is not remembered for good."""
        found = self._denied.get(user_id)
        if found is not None and found.why is Unheard.GUARD_FAILS:
            if asyncio.get_running_loop().time() < self._ask_guard_at.get(user_id, 0.0):
                return found
            self._drop_answers(user_id)
            found = None
        if found is None and (found := self._refusal(user_id)) is not None:
            self._deny(user_id, found)
        return found

    def _deny(self, user_id: int, why: NotHeard) -> None:
        """Remember why a member is refused."""
        self._denied[user_id] = why
        if why.why is Unheard.GUARD_FAILS:
            self._ask_guard_at[user_id] = asyncio.get_running_loop().time() + GUARD_AGAIN_S

    def _refusal(self, user_id: int) -> NotHeard | None:
        """Who forbids to hear a member: they themselves, or a plugin; None: nobody."""
        if self._consent.decision(self.guild_id, user_id) is False:
            return NotHeard(Unheard.REFUSED)
        if not self._consent.allows(self.guild_id, user_id):
            return NotHeard(Unheard.UNDECIDED)
        if self._asked:
            return NotHeard(Unheard.GUARD_LOADS, self._asked[0])
        refusal = self._hooks.refusal_sync("voice_consent", guild_id=self.guild_id, session=self, user_id=user_id)
        if refusal is None:
            return None
        if refusal.unasked is None:
            return NotHeard(Unheard.FORBIDDEN, refusal.plugin, refusal.reason)
        if refusal.unasked not in BROKEN:
            return NotHeard(Unheard.GUARD_LOADS, refusal.plugin)
        self._tell_no_guard(refusal.plugin)
        return NotHeard(Unheard.GUARD_FAILS, refusal.plugin)

    def _gap(self, user_id: int) -> NotHeard | None:
        """What an agreement or a notice lacks for a member to be heard; None: nothing."""
        sees_all = self._sees_all(user_id)
        if self._has_agreed(user_id, sees_all):
            return None
        told = sees_all and user_id in self._shown and not self._has_onlookers
        if told and self._consent.mode(self.guild_id) == "notice":
            return None
        if self._consent.agreed_to(self.guild_id, user_id) is not None:
            return NotHeard(Unheard.ASKED_MORE)
        if not sees_all:
            return NotHeard(Unheard.UNSEEN)
        if self._has_onlookers:
            return NotHeard(Unheard.ONLOOKERS)
        return NotHeard(Unheard.FORGOTTEN if user_id in self._forgotten else Unheard.UNTOLD)

    def _tell_no_guard(self, plugin: str) -> None:
        if self._say_no_guard is None or self.closed or self._ending or plugin in self._guards_told:
            return
        self._guards_told[plugin] = self._scope.spawn(self._say_no_guard(self, plugin), f"no guard {self.id[:8]}")

    def _sees_all(self, user_id: int) -> bool:
        """Whether a member sees where the text goes, and the notice where they are.

        Nobody reads along in a channel that is gone.
        """
        texts = (place for place in self.places[:-1] if place not in self._gone)
        room = user_id in self._shown or self._can_see(self._channel_id, user_id)
        return room and all(self._can_see(place, user_id) for place in texts)

    def _has_agreed(self, user_id: int, sees_all: bool) -> bool:
        """Whether a member has agreed to all that the consumers do, where the text goes."""
        agreed = self._consent.agreed_to(self.guild_id, user_id)
        if agreed is None:
            return False
        needed = self.terms_for(sees_all=sees_all)
        if self._receivers <= self._receivers_told.get(agreed.services, frozenset()):
            # They agreed to these and to others that are gone.
            agreed = dataclasses.replace(agreed, services=needed.services)
        return agreed.covers(needed)

    def unheard(self, user_id: int) -> NotHeard | None:
        """Why somebody in the channel is not heard now; None: they are."""
        self._take_up_plugins()
        found = None
        if user_id not in self._allowed:
            # First what they, or others, would have to change about them.
            found = self._refused_by(user_id)
        if found is None and (not self._ears or self._ending or self.closed):
            found = NotHeard(Unheard.IDLE)
        if found is None and self.capture_state != CAPTURE_ON:
            failed = self.capture_state == CAPTURE_FAILED
            found = NotHeard(Unheard.NOTICE_FAILS if failed else Unheard.NOTICE_COMING)
        if found is None and user_id not in self._allowed:
            found = self._obstacle(user_id)
        if found is None and self.deafened:
            found = NotHeard(Unheard.DEAF)
        return found

    def consent_changed(self, user_id: int) -> None:
        """Ask anew before the next frame of this user; purge what is queued if they may no longer be heard.

        A member without a decision was forgotten; see `forget`.
        """
        if self._consent.decision(self.guild_id, user_id) is None:
            self.forget(user_id)
        else:
            self._ask_anew(user_id)
            self._seek_late()

    def forget(self, user_id: int) -> None:
        """Purge what is queued of somebody who asked to be forgotten.

        In the mode ``notice`` they are heard again after a new notice; one that is on its way does not count, and none
        is posted for them alone if there was one for them before.
        """
        for informed in (self._shown, self._here):
            if user_id in informed:
                informed.discard(user_id)
                self._forgotten.add(user_id)
        if len(self._forgotten) > MAX_REMEMBERED:
            self._forgotten &= self.humans
        if not self._ask_anew(user_id) and self._consent.decision(self.guild_id, user_id) is None:
            # Where nobody has to agree they are not refused, so nothing else purges them.
            self._purge(user_id)
        self._seek_late()

    def _ask_anew(self, user_id: int) -> bool:
        """Drop the answers about a user, and revoke them if they may not be heard; whether that was done."""
        self._drop_answers(user_id)
        # Members who have left the channel may still have words in the sinks.
        if self._consent.allows(self.guild_id, user_id) and user_id not in self._members:
            return False
        refusal = self._refusal(user_id)
        if refusal is None:
            return False
        self._deny(user_id, refusal)
        self._purge(user_id)
        return True

    def _drop_answers(self, user_id: int) -> None:
        self._allowed.discard(user_id)
        self._denied.pop(user_id, None)
        self._ask_guard_at.pop(user_id, None)
        self._uncovered.pop(user_id, None)

    def ask_again(self) -> None:
        """Ask anew about everybody: permissions changed, or a plugin that decides who is heard came or went."""
        self._asked_of = self._hooks.generation
        self._allowed.clear()
        self._denied.clear()
        self._ask_guard_at.clear()
        self._uncovered.clear()
        # Of the others there is nothing to purge.
        for user_id in tuple(self._delivered_of):
            self._ask_anew(user_id)
        self._seek_late()

    def channel_is_gone(self, channel_id: int) -> None:
        """A channel or thread was deleted."""
        if channel_id in self.places:
            self._gone.add(channel_id)

    def _guarded(self, function: Callable[[int], None], user_id: int) -> None:
        try:
            with taming():
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

    def _listen(self, ears: tuple[_Ear, ...]) -> None:
        """Deliver to these from now on. What the notice does not tell of them needs a new one before any frame."""
        self._ears = ears
        self._sinks = tuple(ear.sink for ear in ears)
        facts = self.facts
        if not ears and self.capture_state == CAPTURE_ON and _are_levels(self._facts_told):
            self._rest()
            return
        if ears and self._wake(facts):
            return
        # What has ended is told again when it begins again.
        self._facts_told &= facts
        untold = facts - self._facts_told
        if self._facts_told and _are_levels(untold):
            self._facts_told |= untold
        elif untold or not ears:
            self._drop_notice()
        if not ears:
            self._arrived.set()
        self._uncovered.clear()
        self._seek_capture()

    def _rest(self) -> None:
        """Hear nobody after a measurement; its notice covers the next one."""
        self._allowed.clear()
        self.capture_state = CAPTURE_OFF
        self._rests_until = asyncio.get_running_loop().time() + LEVELS_NOTICE_S

    def _wake(self, facts: frozenset[NoticeFacts]) -> bool:
        """Hear people again if the notice of an earlier measurement covers what is done now; return whether it does."""
        if self._rests_until is None:
            return False
        if not _are_levels(facts) or asyncio.get_running_loop().time() > self._rests_until:
            self._drop_notice()
            return False
        self._rests_until = None
        self.capture_state = CAPTURE_ON
        self._uncovered.clear()
        self._seek_late()
        self._tell_deafness()
        return True

    def _seek_capture(self) -> None:
        """Post the notice if somebody listens and it does not stand yet; capture is on once it does."""
        if self.closed or self._ending or not self._ears or self._notice is not None:
            return
        if self.capture_state == CAPTURE_ON:
            return
        self._drop_retry()
        if not self._failures:
            self.capture_state = CAPTURE_NOTICE
        self._facts_told = self.facts
        self._receivers_told[digest(self._receivers)] = self._receivers
        self._notice = self._scope.spawn(self._post(), f"notice {self.id[:8]}")
        self._notice.add_done_callback(self._notice_over)

    async def _post(self) -> None:
        here = self._here = set(self.humans)
        # Not again where a try before this one worked.
        self._taken |= await self._post_in([place for place in self.places if place not in self._taken])
        stands = self._taken.issuperset(self.places)
        self._notice = None
        if self.closed or self._ending:
            return
        if not stands:
            self._notice_failed()
            return
        self.capture_state, self._failures = CAPTURE_ON, 0
        self._moved = False
        self._inform(here)
        self._seek_late()
        self._tell_deafness()

    def _notice_over(self, task: asyncio.Task[None]) -> None:
        """A notice that something else than this session has cancelled has failed."""
        if self._notice is task:
            self._notice = None
            if not (self.closed or self._ending or self._scope.closed):
                self._notice_failed()

    def _notice_failed(self) -> None:
        self.capture_state = CAPTURE_FAILED
        self._failures += 1
        self._retry = self._scope.keep(self._post_again, f"notice again {self.id[:8]}")
        if self._failures == (1 if self._moved else TOLD_AFTER) and self._say_no_notice is not None:
            self._failure = self._scope.spawn(self._say_no_notice(self), f"no notice {self.id[:8]}")

    async def _post_again(self) -> None:
        """Try a notice that failed once more after a while; `capturing` does so at once."""
        await asyncio.sleep(LATE_NOTICE_S * 2 ** min(self._failures - 1, LATE_RETRIES))
        self._retry = None
        self._seek_capture()

    def _drop_retry(self) -> None:
        if self._retry is not None:
            self._retry.end()
            self._retry = None

    async def _post_in(self, places: Sequence[int]) -> frozenset[int]:
        try:
            return frozenset(await self._post_notice(self, places))
        except Exception as error:  # noqa: BLE001 - whatever went wrong: no notice, no capture
            _log.warning("guild %d: the notice could not be posted: %s", self.guild_id, error)
            return frozenset()

    def _inform(self, user_ids: Iterable[int]) -> None:
        """The notice was posted while these were here. Moderators move members in who cannot see its channel."""
        self._shown.update(user_id for user_id in user_ids if self._can_see(self._channel_id, user_id))
        if len(self._shown) > MAX_REMEMBERED:
            self._shown &= self.humans
        self._forgotten -= self._shown
        for user_id in self._shown & self._uncovered.keys():
            del self._uncovered[user_id]

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
        """Other consumers or another channel: nobody is heard before a new notice stands."""
        self._allowed.clear()
        self._uncovered.clear()
        self._shown.clear()
        self._forgotten.clear()
        self._gone.clear()
        self._facts_told = frozenset()
        self._rests_until = None
        self._notices += 1
        self._failures = 0
        self._taken.clear()
        self._drop_retry()
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None
        self.capture_state = CAPTURE_OFF

    def attach_hooks(self) -> None:
        """(Re)make the host's own ear, after a plugin came or went: none without an implementer."""
        names = () if self.closed else self._hooks.implementers("voice_audio_frame", self.guild_id)
        facts = frozenset(NoticeFacts(plugin=name) for name in names)
        before = self._hook_ear
        if facts == (before.facts if before is not None else frozenset()):
            return
        self._hook_ear = _Ear(self._hooks.frame_sink(self.guild_id, self), facts) if facts else None
        others = tuple(ear for ear in self._ears if ear is not before)
        self._listen(others if self._hook_ear is None else (*others, self._hook_ear))

    # Of the actor ---------------------------------------------------------------------------------------------------

    def asks(self, plugin: str) -> None:
        """A plugin that came late decides about this session: nobody is heard until `is_allowed_by` says so."""
        self._asked.append(plugin)
        self._allowed.clear()
        self._denied.clear()

    def is_allowed_by(self, plugin: str) -> None:
        """A plugin has nothing against this session, or has no say any more."""
        if plugin in self._asked:
            self._asked.remove(plugin)
            self._denied.clear()

    def begin_link(self, generation: int, channel_id: int, members: Iterable[tuple[int, bool]]) -> None:
        """A link is about to be opened. A new channel means new ears: its own notice before any capture."""
        self._generation = generation
        if channel_id != self._channel_id:
            self._moved = True
            self._channel_id = channel_id
            self._denied.clear()
            self._drop_notice()
            self._arrived.clear()
        self._members = dict(members)
        self._here.intersection_update(self._members)
        self._uncovered.clear()
        self._seek_late()

    def link_is(self, link: VoiceLink) -> None:
        self._link = link

    def link_live(self) -> None:
        """The link is live: whoever listens may be served."""
        self._seek_capture()
        self._arrived.set()

    def link_ended(self, link: VoiceLink) -> None:
        if self._link is link:
            self._link = None
        self._past = _added(self._past, link.stats())

    def member_is(self, user_id: int, is_bot: bool) -> bool:
        """Note somebody in the channel; True when they are new."""
        new = user_id not in self._members
        self._members[user_id] = is_bot
        if new:
            self._seek_late()
        return new

    def _uninformed(self) -> bool:
        """Whether a notice is due: for somebody here whom neither an agreement nor a notice covers, and who may agree.

        Members who refused know of it, those who were forgotten read it in a reply, and those who cannot see it there
        would learn nothing.
        """
        return any(
            self._consent.decision(self.guild_id, user_id) is not False
            and self._can_see(self._channel_id, user_id)
            and not self._has_agreed(user_id, self._sees_all(user_id))
            for user_id in self.humans - self._shown - self._forgotten
        )

    def _seek_late(self) -> None:
        """Post the notice once more if members came after it who need it."""
        if self.capture_state == CAPTURE_ON and (self._late is None or self._late.done()) and self._uninformed():
            self._late = self._scope.keep(self._post_late, f"late notice {self.id[:8]}")

    async def _post_late(self) -> None:
        """In the voice channel's chat, where they are; those who come together share one."""
        loop = asyncio.get_running_loop()
        failures = 0
        while self.capture_state == CAPTURE_ON and self._uninformed():
            pause_s = LATE_NOTICE_S * 2**failures
            if loop.time() < self._late_at + pause_s:
                await asyncio.sleep(self._late_at + pause_s - loop.time())
                continue
            self._late_at = loop.time()
            here, number = set(self.humans), self._notices
            self._here = here
            room = self._channel_id
            stands = room in await self._post_in((room,))
            failures = 0 if stands else min(failures + 1, LATE_RETRIES)
            if stands and number == self._notices:
                self._inform(here)

    def member_left(self, user_id: int) -> bool:
        """Note that somebody is gone; True when they were here."""
        self._drop_answers(user_id)
        self._here.discard(user_id)
        return self._members.pop(user_id, None) is not None

    def close(self, now: float) -> None:
        """Deliver nothing any more. Idempotent."""
        if self.closed:
            return
        self._closed_after_s = now - self.opened_at
        self.capture_state = CAPTURE_OFF
        self._arrived.set()
        self._ears = ()
        self._sinks = ()
        self._hook_ear = None
        self._allowed.clear()
        self._link = None
        self._drop_retry()
        if self._late is not None:
            self._late.end()
        for task in (self._deafness, self._failure, *self._guards_told.values()):
            if task is not None:
                task.cancel()
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None

    def stop_capture(self) -> None:
        """The end has begun: hear nobody any more, keep what is queued."""
        self._ending = True
        self._rests_until = None
        self._allowed.clear()
        self._drop_retry()
        self.capture_state = CAPTURE_OFF
        self._arrived.set()

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


def _are_levels(facts: Iterable[NoticeFacts]) -> bool:
    """Whether nothing but loudness is measured."""
    return all(each.use is Use.LEVELS for each in facts)


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
        tells_dave=link.tells_dave,
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
