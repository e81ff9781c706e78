"""The gate that every frame passes, without a network."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import types
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from context import MemoryConsent, SinkRecorder, eventually

from roost.audio import AudioFrame, LinkStats, NotHeard, NoticeFacts, Unheard, Use
from roost.blocking import working
from roost.consent import USUAL
from roost.context import Unasked
from roost.dispatch import Dispatcher
from roost.errors import ClosedError, RoostError, UsageError
from roost.hooks import Deny, hookimpl
from roost.scopes import Scope
from roost_voice import session as session_module
from roost_voice.moves import Wish
from roost_voice.notice import EARLIER, notice_words
from roost_voice.session import Session, SessionEvents

pytestmark = pytest.mark.unit

GUILD, CHANNEL, OTHER = 1, 2, 3
ALICE, BOB, ROBOT = 11, 12, 13


def frame(user_id: int) -> AudioFrame:
    return AudioFrame(GUILD, user_id, ssrc=user_id, rtp_timestamp=0, opus=b"x")


class Bench:
    def __init__(self, scope: Scope, mode: str = "opt-in") -> None:
        self.scope = scope
        self.consent = MemoryConsent(mode)
        self.hooks = Dispatcher(
            lambda: ["plugin"],
            lambda plugin, _guild: plugin not in self.off,
            name_of=self.owns,
            comes_along=lambda plugin: plugin == "stt",
        )
        self.off: set[str] = set()
        """Plugins that are switched off."""
        self.owners = {__name__: "stt"}
        """By module: the plugin that it belongs to."""
        self.hooks.manager.register(object(), "stt")
        self.notices: list[int] = []
        """Voice channels that a notice was posted for."""
        self.posted_in: list[tuple[int, ...]] = []
        self.unseen: set[tuple[int, int]] = set()
        """Channels, and the members who cannot see them."""
        self.notice_stands = True
        self.refusing: set[int] = set()
        """Channels that take no notice."""
        self.told: list[str] = []
        """States of the capture in which people were told that the notice fails."""
        self.no_guards: list[str] = []
        """Plugins that decide who is heard and of which people were told that they do not work."""
        self.may_post = asyncio.Event()
        self.may_post.set()
        self.session = Session(
            GUILD,
            Wish(CHANNEL, ALICE, 5),
            consent=self.consent,
            hooks=self.hooks,
            post_notice=self.post,
            can_see=lambda channel_id, user_id: (channel_id, user_id) not in self.unseen,
            scope=scope,
            now=0.0,
            state_of=lambda: "live",
            on_speaking=lambda _user, _on: None,
            say_no_notice=self.tell,
            say_no_guard=self.tell_no_guard,
        )
        self.session.begin_link(1, CHANNEL, [(ALICE, False), (BOB, False), (ROBOT, True)])

    def owns(self, module: str) -> str | None:
        return self.owners.get(module)

    async def post(self, session: Session, places: Sequence[int]) -> Sequence[int]:
        await self.may_post.wait()
        self.notices.append(session.channel_id)
        self.posted_in.append(tuple(places))
        return [place for place in places if place not in self.refusing] if self.notice_stands else []

    async def agrees(self, user_id: int) -> None:
        """A member presses Agree under the notice."""
        await self.consent.agree(GUILD, user_id, self.session.terms)
        self.session.consent_changed(user_id)

    async def tell(self, session: Session) -> None:
        self.told.append(session.capture_state)

    async def tell_no_guard(self, _session: Session, plugin: str) -> None:
        self.no_guards.append(plugin)

    def let_one_through(self) -> None:
        """Have Discord take the notice that waits for `may_post`, and no later one."""
        self.may_post.set()
        self.may_post.clear()

    def hears(self, user_id: int, sink: SinkRecorder) -> bool:
        before = len(sink.frames)
        self.session.on_frame(frame(user_id))
        return len(sink.frames) > before


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    scope = Scope("test")
    yield Bench(scope)
    await scope.aclose()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_listener_no_notice_no_capture(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))
    bench.session.link_live()
    bench.session.attach_hooks()
    bench.session.on_frame(frame(ALICE))
    await settle()
    assert bench.notices == []
    assert bench.session.capture_state == "off"
    stats = bench.session.stats()
    assert (stats.frames_received, stats.frames_delivered, stats.frames_refused) == (1, 0, 0)


async def test_nothing_is_heard_before_the_notice_stands(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))
    bench.may_post.clear()
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    assert bench.session.capture_state == "notice"
    await settle()
    assert not bench.hears(ALICE, sink)
    bench.may_post.set()
    await settle()
    assert bench.session.capture_state == "on"
    assert bench.hears(ALICE, sink)
    assert bench.session.stats().refused_by_user == {ALICE: 1}


async def test_a_failed_notice_means_no_capture(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))
    bench.notice_stands = False
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    assert bench.session.capture_state == "failed"
    assert not bench.hears(ALICE, sink)


async def test_the_notice_stands_where_the_words_go_and_is_tried_again(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    assert await bench.session.capturing()
    assert bench.hears(ALICE, sink)
    bench.notice_stands = False
    bench.session.attach(SinkRecorder(), facts=NoticeFacts(Use.TEXT, channel_id=6))
    assert not bench.hears(ALICE, sink)
    assert not await bench.session.capturing()
    bench.notice_stands = True
    assert await bench.session.capturing()
    assert bench.session.text_channel_id == 6
    assert bench.hears(ALICE, sink)


async def test_a_notice_that_fails_in_mid_call_is_tried_again_with_growing_pauses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.02)
    loop = asyncio.get_running_loop()
    bench.consent.agreed.add((GUILD, ALICE))
    bench.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    bench.notice_stands = False
    bench.session.attach(SinkRecorder(), facts=NoticeFacts(Use.TEXT, channel_id=8))
    assert not await bench.session.capturing()
    assert bench.told == []
    began = loop.time()
    await eventually(lambda: len(bench.notices) >= 5)
    assert loop.time() - began >= 0.02 + 0.04 + 0.08
    assert bench.session.capture_state == "failed"
    assert bench.told == ["failed"], "said once, and not before the second failure"
    bench.notice_stands = True
    await eventually(lambda: bench.session.capture_state == "on")
    assert bench.hears(ALICE, sink)
    count = len(bench.notices)
    await asyncio.sleep(0.1)
    assert len(bench.notices) == count, "it stands"


async def test_a_notice_that_is_tried_again_is_failed_until_it_stands(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands go by the state: "already transcribing" would be wrong."""
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.02)
    bench.notice_stands = False
    bench.session.attach(SinkRecorder(), facts=FACTS)
    assert not await bench.session.capturing()
    bench.may_post.clear()
    await eventually(lambda: bench.session._notice is not None)
    assert bench.session.capture_state == "failed"
    bench.notice_stands = True
    asked = asyncio.create_task(bench.session.capturing())
    await settle()
    bench.may_post.set()
    assert await asked
    assert len(bench.notices) == 2, "who asks meanwhile waits for the one on its way"


async def test_capturing_waits_for_the_notice_that_takes_another_ones_place(bench: Bench) -> None:
    bench.may_post.clear()
    bench.session.attach(SinkRecorder(), facts=FACTS)
    asked = asyncio.create_task(bench.session.capturing())
    await settle()
    bench.session.attach(SinkRecorder(), facts=NoticeFacts(Use.TEXT, channel_id=8))
    await settle()
    bench.session.begin_link(2, OTHER, [(ALICE, False)])
    await settle()
    assert not asked.done(), "the notice is posted when the link to the other channel is live"
    bench.session.link_live()
    await settle()
    assert not asked.done()
    bench.may_post.set()
    assert await asked
    assert bench.notices == [OTHER]


async def test_a_notice_that_something_else_cancels_has_failed(bench: Bench) -> None:
    bench.may_post.clear()
    bench.session.attach(SinkRecorder(), facts=FACTS)
    asked = asyncio.create_task(bench.session.capturing())
    await settle()
    for task in bench.scope.tasks:
        task.cancel()
    assert not await asyncio.wait_for(asked, 1.0)
    assert bench.session.capture_state == "failed"
    bench.may_post.set()
    assert await asyncio.wait_for(bench.session.capturing(), 1.0)
    assert bench.notices == [CHANNEL]


@pytest.mark.parametrize("how", ["detach", "close", "stop_capture"])
async def test_capturing_waits_for_no_notice_once_nobody_is_to_be_heard(bench: Bench, how: str) -> None:
    detach = bench.session.attach(SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    bench.session.begin_link(2, OTHER, [(ALICE, False)])
    asked = asyncio.create_task(bench.session.capturing())
    await settle()
    assert not asked.done()
    {"detach": detach, "close": lambda: bench.session.close(9.0), "stop_capture": bench.session.stop_capture}[how]()
    assert not await asyncio.wait_for(asked, 1.0)


async def test_notice_is_tried_again_whoever_cancels_that(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.02)
    bench.notice_stands = False
    bench.session.attach(SinkRecorder(), facts=FACTS)

    async def cancelled() -> None:
        await settle()
        for task in bench.scope.tasks:
            task.cancel()

    async with asyncio.timeout(2):
        await cancelled()
        bench.notice_stands = True
        while bench.session.capture_state != "on":
            await asyncio.sleep(0.005)
        bench.session.member_is(21, False)
        await settle()
        bench.session.member_is(22, False)
        await cancelled()
        while len(bench.notices) < 4:
            await asyncio.sleep(0.005)
    bench.session.close(9.0)
    await settle()
    assert bench.scope.task_names == []


async def test_a_notice_is_tried_again_only_where_it_does_not_stand(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.02)
    bench.refusing.add(CHANNEL)
    bench.session.attach(SinkRecorder(), facts=FACTS)
    assert not await bench.session.capturing()
    await eventually(lambda: len(bench.notices) == 3)
    bench.refusing.clear()
    await eventually(lambda: bench.session.capture_state == "on")
    assert bench.posted_in == [(6, CHANNEL), (CHANNEL,), (CHANNEL,), (CHANNEL,)], "no heap of notices where it stands"
    bench.session.attach(SinkRecorder(), facts=NoticeFacts(Use.TEXT, channel_id=6))
    assert await bench.session.capturing()
    assert bench.posted_in[-1] == (6, CHANNEL), "another notice stands everywhere"


@pytest.mark.parametrize("how", ["detach", "close", "stop_capture"])
async def test_a_failed_notice_is_not_tried_again_once_nobody_is_to_be_heard(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.02)
    bench.notice_stands = False
    detach = bench.session.attach(SinkRecorder(), facts=FACTS)
    assert not await bench.session.capturing()
    if how == "detach":
        detach()
    elif how == "close":
        bench.session.close(9.0)
    else:
        bench.session.stop_capture()
    count = len(bench.notices)
    await asyncio.sleep(0.1)
    assert len(bench.notices) == count
    assert bench.told == []


async def test_a_notice_that_stands_after_the_end_has_begun_lets_nobody_be_heard(noticed: Bench) -> None:
    noticed.may_post.clear()
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    await settle()
    noticed.session.stop_capture()
    noticed.may_post.set()
    await settle()
    assert len(noticed.notices) == 1
    assert not noticed.hears(ALICE, sink)


async def test_a_newcomer_sees_the_notice_once_and_not_more_than_one_in_a_while(bench: Bench) -> None:
    bench.session.attach(SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    bench.consent.agreed.add((GUILD, 21))
    for user_id, bot in ((21, False), (22, True), (ALICE, False)):
        bench.session.member_is(user_id, bot)
    await settle()
    assert len(bench.notices) == 1
    bench.session.member_is(23, False)
    await settle()
    assert len(bench.notices) == 2
    bench.session.member_left(23)
    for user_id in (23, 24, 25):
        bench.session.member_is(user_id, False)
    await settle()
    assert len(bench.notices) == 2
    bench.session.close(9.0)


async def test_consent_is_asked_once_and_followed_at_once(bench: Bench) -> None:
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    assert not bench.hears(ALICE, sink)
    bench.consent.agreed.add((GUILD, ALICE))
    bench.session.consent_changed(ALICE)
    assert bench.hears(ALICE, sink)
    assert bench.session.heard == {ALICE}
    bench.consent.agreed.clear()
    bench.session.consent_changed(ALICE)
    assert sink.purged == [ALICE]
    assert not bench.hears(ALICE, sink)


async def test_refusing_after_leaving_purges_what_the_sinks_hold(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    assert bench.hears(ALICE, sink)
    bench.session.member_left(ALICE)
    bench.consent.agreed.clear()
    bench.session.consent_changed(ALICE)
    assert sink.purged == [ALICE]


async def test_bots_and_strangers_are_never_heard(bench: Bench) -> None:
    bench.consent.agreed |= {(GUILD, ROBOT), (GUILD, 99)}
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    assert not bench.hears(ROBOT, sink)
    assert not bench.hears(99, sink)


@pytest.mark.parametrize("raises", [False, True])
async def test_a_plugin_can_only_forbid(bench: Bench, raises: bool) -> None:
    class Strict:
        @hookimpl
        def voice_consent(self, session: object, user_id: int) -> Deny | None:
            if raises:
                raise RuntimeError("broken")
            return Deny("no") if user_id == BOB else None

    bench.hooks.manager.register(Strict(), "plugin")
    bench.consent.agreed |= {(GUILD, ALICE), (GUILD, BOB)}
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    assert bench.hears(ALICE, sink) is not raises
    assert not bench.hears(BOB, sink)


async def test_guard_that_comes_in_mid_call_is_asked_before_the_next_frame(bench: Bench) -> None:
    class Strict:
        @hookimpl
        def voice_consent(self, user_id: int) -> Deny | None:
            return Deny("no") if user_id == BOB else None

    bench.consent.agreed |= {(GUILD, ALICE), (GUILD, BOB)}
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    assert bench.hears(BOB, sink)
    bench.hooks.manager.register(Strict(), "plugin")
    bench.hooks.changed()
    assert bench.hears(ALICE, sink)
    assert sink.purged == [BOB]
    assert not bench.hears(BOB, sink)


async def test_a_new_channel_needs_its_own_notice(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    bench.session.begin_link(2, OTHER, [(ALICE, False)])
    assert not bench.hears(ALICE, sink)
    bench.session.link_live()
    await settle()
    assert bench.notices == [CHANNEL, OTHER]
    assert bench.hears(ALICE, sink)
    bench.session.begin_link(3, OTHER, [(ALICE, False)])
    assert bench.hears(ALICE, sink)


async def test_hook_frames_only_with_an_implementer(bench: Bench) -> None:
    heard: list[int] = []

    class Listener:
        @hookimpl
        def voice_audio_frame(self, frame: AudioFrame) -> None:
            heard.append(frame.user_id)

    bench.hooks.manager.register(Listener(), "plugin")
    bench.session.attach_hooks()
    await settle()
    await bench.agrees(ALICE)
    bench.session.on_frame(frame(ALICE))
    bench.session.on_frame(frame(BOB))
    assert heard == [ALICE]
    bench.hooks.manager.unregister(name="plugin")
    bench.session.attach_hooks()
    assert bench.session.capture_state == "off"


async def test_a_raising_sink_harms_nobody(bench: Bench) -> None:
    class Broken(SinkRecorder):
        def write(self, frame: AudioFrame) -> None:
            raise RuntimeError("broken")

    bench.consent.agreed.add((GUILD, ALICE))
    sink = SinkRecorder()
    bench.session.attach(Broken(), facts=FACTS)
    bench.session.attach(sink, facts=FACTS)
    await settle()
    assert bench.hears(ALICE, sink)


async def test_a_stale_link_says_nothing(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    await settle()
    old, new = SessionEvents(bench.session, 1), SessionEvents(bench.session, 2)
    bench.session.begin_link(2, CHANNEL, [(ALICE, False)])
    old.frame(frame(ALICE))
    assert sink.frames == []
    new.frame(frame(ALICE))
    assert len(sink.frames) == 1


async def test_counters_add_up_over_links(bench: Bench) -> None:
    class Link:
        def __init__(self, stats: LinkStats) -> None:
            self._stats = stats

        def stats(self) -> LinkStats:
            return self._stats

    first = Link(LinkStats(packets_in=3, frames_out=2, dropped={"late": 1}, dave_epochs=1, mode="a"))
    second = Link(LinkStats(packets_in=5, frames_out=5, dave_epochs=2, mode="b"))
    bench.session.link_is(first)  # type: ignore[arg-type]
    bench.session.link_ended(first)  # type: ignore[arg-type]
    bench.session.link_is(second)  # type: ignore[arg-type]
    link = bench.session.stats().link
    assert (link.packets_in, link.frames_out, link.dropped, link.dave_epochs, link.mode) == (8, 7, {"late": 1}, 3, "b")


async def test_closed_is_closed(bench: Bench) -> None:
    sink = SinkRecorder()
    detach = bench.session.attach(sink, facts=FACTS)
    bench.session.close(9.0)
    bench.session.close(99.0)
    detach()
    assert bench.session.state == "closed"
    assert bench.session.stats().duration_s == 9.0
    with pytest.raises(ClosedError):
        bench.session.attach(sink, facts=FACTS)


class Guard:
    """Decides who is heard."""

    def __init__(self) -> None:
        self.denies: set[int] = set()

    @hookimpl
    def voice_consent(self, user_id: int) -> Deny | None:
        return Deny("no") if user_id in self.denies else None


async def test_everybody_is_asked_about_anew_when_a_guard_comes_or_recovers(bench: Bench) -> None:
    bench.consent.agreed |= {(GUILD, ALICE), (GUILD, BOB)}
    sink = SinkRecorder()
    bench.session.attach(sink, facts=FACTS)
    assert await bench.session.capturing()
    assert bench.hears(ALICE, sink)
    guard = Guard()
    guard.denies.add(ALICE)
    bench.hooks.manager.register(guard, "plugin")
    bench.session.ask_again()
    assert not bench.hears(ALICE, sink)
    assert ALICE in sink.purged
    # While it is stopped nobody new is heard; once it works again, everybody whom it allows.
    bench.hooks.mute("plugin", True)
    assert not bench.hears(BOB, sink)
    bench.hooks.mute("plugin", False)
    guard.denies.clear()
    bench.session.ask_again()
    assert bench.hears(ALICE, sink)
    assert bench.hears(BOB, sink)


async def test_asking_again_purges_those_alone_who_were_heard(bench: Bench) -> None:
    """Discord tells of many changes; each purge goes through every stage of every consumer."""
    many = range(100, 150)
    bench.session.begin_link(1, CHANNEL, [(each, False) for each in many])
    bench.consent.agreed |= {(GUILD, 100), (GUILD, 101), (GUILD, 102)}
    guard = Guard()
    bench.hooks.manager.register(guard, "plugin")
    bench.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    for user_id in many:
        bench.hears(user_id, sink)
    for _ in range(10):
        bench.session.ask_again()
    assert sink.purged == []
    guard.denies |= set(many)
    bench.session.member_left(102)
    for _ in range(10):
        bench.session.ask_again()
    assert sorted(sink.purged) == [100, 101], "once each"
    guard.denies.clear()
    bench.session.ask_again()
    assert bench.hears(100, sink), "and who may be heard again is"


async def test_a_guard_that_comes_with_a_new_notice_purges_who_was_heard_before(bench: Bench) -> None:
    class Both(Guard):
        @hookimpl
        def voice_audio_frame(self, frame: AudioFrame) -> None: ...

    bench.consent.agreed.add((GUILD, ALICE))
    bench.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    assert bench.hears(ALICE, sink)
    both = Both()
    both.denies.add(ALICE)
    bench.hooks.manager.register(both, "plugin")
    bench.session.attach_hooks()
    bench.session.ask_again()
    assert sink.purged == [ALICE]


async def test_members_who_come_and_go_leave_little_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_REMEMBERED", 8)
    bench.session.attach(SinkRecorder(), facts=FACTS)
    await settle()
    for user_id in range(1000, 1100):
        bench.session.member_is(user_id, False)
        bench.session.on_frame(frame(user_id))
        bench.session.on_frame(frame(user_id))
        bench.session.member_left(user_id)
    stats = bench.session.stats()
    assert stats.frames_refused == 200
    assert len(stats.refused_by_user) <= 9
    assert stats.refused_by_user[1099] == 2
    assert len(bench.session._shown) <= 8
    assert bench.session.members == {ALICE, BOB, ROBOT}


SENT = NoticeFacts(use=Use.TEXT, channel_id=CHANNEL, sends_to="speech.example")
FACTS = NoticeFacts(Use.TEXT, channel_id=6, shown=True, kept_days=7)


@pytest.fixture
async def noticed() -> AsyncIterator[Bench]:
    """A bench where everybody is heard who does not refuse, and whom a notice was shown."""
    scope = Scope("test")
    yield Bench(scope, "notice")
    await scope.aclose()


async def test_notice_stands_in_every_channel_that_matters(bench: Bench) -> None:
    bench.session.attach(SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    bench.session.member_is(21, False)
    await settle()
    assert bench.posted_in == [(6, CHANNEL), (CHANNEL,)], "latecomers are told where they are"


@pytest.mark.parametrize("remains", [False, True])
async def test_a_start_after_a_stop_tells_everybody_anew(noticed: Bench, remains: bool) -> None:
    if remains:
        noticed.session.attach(SinkRecorder(), facts=NoticeFacts(plugin="other"))
    for count in (1, 2):
        detach = noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
        assert not noticed.hears(ALICE, sink)
        assert await noticed.session.capturing()
        assert noticed.hears(ALICE, sink)
        assert len(noticed.notices) == count
        detach()
    assert noticed.session.capture_state == ("on" if remains else "off")


async def test_only_who_was_there_when_the_notice_was_posted_is_heard(
    noticed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.05)
    noticed.may_post.clear()
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    await settle()
    noticed.session.member_is(21, False)
    noticed.may_post.set()
    assert await noticed.session.capturing()
    assert noticed.hears(ALICE, sink)
    await eventually(lambda: noticed.hears(21, sink))
    assert len(noticed.notices) == 2, "they came while the first was being posted"
    noticed.notice_stands = False
    for user_id in (22, 23):
        noticed.session.member_is(user_id, False)
    await eventually(lambda: len(noticed.notices) == 3)
    assert not noticed.hears(22, sink)
    noticed.notice_stands = True
    await eventually(lambda: noticed.hears(22, sink))
    assert noticed.hears(23, sink)
    assert len(noticed.notices) == 4, "those who come together share a notice"
    await noticed.consent.opt_out(GUILD, 24)
    noticed.session.member_is(24, False)
    await settle()
    assert len(noticed.notices) == 4, "who refused needs none"
    assert not noticed.hears(24, sink)


async def test_members_who_came_while_the_link_was_down_are_told(noticed: Bench) -> None:
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    noticed.session.begin_link(2, CHANNEL, [(ALICE, False), (21, False)])
    assert noticed.hears(ALICE, sink)
    assert not noticed.hears(21, sink)
    await settle()
    assert noticed.hears(21, sink)


async def test_an_agreement_to_two_plugins_covers_one_of_them(bench: Bench) -> None:
    detach = bench.session.attach(first := SinkRecorder(), facts=NoticeFacts(plugin="first"))
    bench.session.attach(second := SinkRecorder(), facts=NoticeFacts(plugin="second"))
    assert await bench.session.capturing()
    await bench.agrees(ALICE)
    assert bench.hears(ALICE, first)
    detach()
    bench.session.ask_again()
    assert bench.hears(ALICE, second), "she agreed to this one too"
    await settle()
    assert len(bench.notices) == 1
    bench.session.attach(SinkRecorder(), facts=NoticeFacts(plugin="third"))
    assert await bench.session.capturing()
    assert not bench.hears(ALICE, second)
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.ASKED_MORE)


async def test_who_is_forgotten_needs_another_notice_or_agrees(noticed: Bench) -> None:
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    for member in (ALICE, BOB):
        noticed.session.forget(member)
        noticed.session.member_left(member)
        noticed.session.member_is(member, False)
        await settle()
        assert not noticed.hears(member, sink)
        assert noticed.session.unheard(member) == NotHeard(Unheard.FORGOTTEN)
    assert len(noticed.notices) == 1, "members could fill the chat with notices"
    await noticed.agrees(BOB)
    assert noticed.hears(BOB, sink)
    noticed.session.member_is(21, False)
    await settle()
    assert len(noticed.notices) == 2
    assert noticed.hears(21, sink)
    assert noticed.hears(ALICE, sink), "the notice for others was posted while she was there"


async def test_who_was_forgotten_before_they_came_is_told_once(noticed: Bench) -> None:
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    noticed.session.forget(21)
    noticed.session.member_is(21, False)
    await settle()
    assert len(noticed.notices) == 2
    assert noticed.hears(21, sink)


async def test_a_forgotten_member_is_purged_although_nobody_has_to_agree(noticed: Bench) -> None:
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    noticed.session.attach(other := SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    assert noticed.hears(ALICE, sink)
    noticed.session.consent_changed(ALICE)
    assert (sink.purged, other.purged) == ([ALICE], [ALICE]), "what she said before becomes no text"
    noticed.session.member_left(BOB)
    noticed.session.forget(BOB)
    assert (sink.purged, other.purged) == ([ALICE, BOB], [ALICE, BOB]), "whoever has left may have words there"
    await settle()
    assert not noticed.hears(ALICE, sink)
    await noticed.agrees(ALICE)
    assert noticed.hears(ALICE, sink)


@pytest.mark.parametrize("how", ["forget", "consent_changed"])
async def test_a_notice_on_its_way_does_not_count_for_who_is_forgotten_meanwhile(noticed: Bench, how: str) -> None:
    noticed.may_post.clear()
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    await settle()
    getattr(noticed.session, how)(ALICE)
    noticed.let_one_through()
    await settle()
    assert noticed.hears(BOB, sink)
    assert not noticed.hears(ALICE, sink)
    noticed.may_post.set()
    await settle()
    assert len(noticed.notices) == 1
    await noticed.agrees(ALICE)
    assert noticed.hears(ALICE, sink)


async def test_a_late_notice_on_its_way_does_not_count_for_who_is_forgotten_meanwhile(
    noticed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.05)
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    noticed.may_post.clear()
    noticed.session.member_is(21, False)
    await settle()
    noticed.session.forget(21)
    noticed.may_post.set()
    await settle()
    assert len(noticed.notices) == 2
    assert not noticed.hears(21, sink)
    await asyncio.sleep(0.1)
    assert len(noticed.notices) == 2
    noticed.session.member_is(22, False)
    await eventually(lambda: noticed.hears(21, sink))
    assert len(noticed.notices) == 3


@pytest.mark.parametrize("late", [False, True], ids=["the first notice", "a late one"])
@pytest.mark.parametrize("unnoticed", [False, True], ids=["seen to leave", "gone while the link was down"])
async def test_a_notice_on_its_way_does_not_count_for_who_leaves_meanwhile(
    noticed: Bench, monkeypatch: pytest.MonkeyPatch, late: bool, unnoticed: bool
) -> None:
    monkeypatch.setattr(session_module, "LATE_NOTICE_S", 0.05)
    session, member = noticed.session, 21 if late else ALICE
    if late:
        session.attach(sink := SinkRecorder(), facts=FACTS)
        assert await session.capturing()
    noticed.may_post.clear()
    if late:
        session.member_is(member, False)
    else:
        session.attach(sink := SinkRecorder(), facts=FACTS)
    await settle()
    if unnoticed:
        session.begin_link(2, CHANNEL, [(BOB, False)])
    else:
        session.member_left(member)
    noticed.may_post.set()
    await settle()
    posted = len(noticed.notices)
    session.member_is(member, False)
    assert not noticed.hears(member, sink), "it was posted without them"
    await eventually(lambda: noticed.hears(member, sink))
    assert len(noticed.notices) == posted + 1


async def test_a_deleted_channel_hides_nothing_before_the_next_notice(noticed: Bench) -> None:
    detach = noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    noticed.unseen.add((6, ALICE))
    noticed.session.channel_is_gone(6)
    noticed.session.ask_again()
    assert noticed.hears(ALICE, sink)
    detach()
    noticed.session.attach(sink, facts=FACTS)
    assert await noticed.session.capturing()
    assert not noticed.hears(ALICE, sink)


@pytest.mark.parametrize("mode", ["opt-in", "notice"])
@pytest.mark.parametrize("unseen", [6, CHANNEL])
async def test_who_cannot_see_the_notice_agrees_to_this_one(mode: str, unseen: int) -> None:
    scope = Scope("test")
    bench = Bench(scope, mode)
    await bench.consent.agree(GUILD, ALICE)
    await bench.consent.agree(GUILD, BOB)
    bench.unseen.add((unseen, ALICE))
    bench.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    assert not bench.hears(ALICE, sink)
    assert bench.hears(BOB, sink)
    await bench.consent.agree(GUILD, ALICE, bench.session.terms)
    bench.session.consent_changed(ALICE)
    assert bench.hears(ALICE, sink)
    bench.unseen.add((unseen, BOB))
    bench.session.ask_again()
    assert bench.hears(BOB, sink) is (unseen == CHANNEL), "where he is he saw it"
    await settle()
    assert len(bench.notices) == 1, "another notice would tell nobody more"
    assert sink.purged == [], "what was said while they saw it is not taken back"
    await scope.aclose()


@pytest.mark.parametrize("mode", ["opt-in", "notice"])
async def test_where_others_read_along_members_agree_to_that(mode: str) -> None:
    scope = Scope("test")
    bench = Bench(scope, mode)
    await bench.consent.agree(GUILD, ALICE)
    detach = bench.session.attach(SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    detach()
    bench.session.attach(sink := SinkRecorder(), facts=dataclasses.replace(FACTS, onlookers=True))
    assert await bench.session.capturing()
    assert bench.notices == [CHANNEL, CHANNEL]
    assert not bench.hears(ALICE, sink), "what she agreed to named no others"
    assert not bench.hears(BOB, sink), "the notice alone is not enough"
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.ASKED_MORE)
    assert bench.session.unheard(BOB) == NotHeard(Unheard.UNDECIDED if mode == "opt-in" else Unheard.ONLOOKERS)
    assert "heard only after you press **Agree**" in notice_words(bench.session, opt_in=False)
    await bench.agrees(BOB)
    assert bench.hears(BOB, sink)
    await scope.aclose()


@pytest.mark.parametrize(
    ("wider", "asked"),
    [
        (NoticeFacts(Use.TEXT, channel_id=6, shown=True, kept_days=3), False),
        (NoticeFacts(Use.TEXT, channel_id=6, kept_days=7), False),
        (NoticeFacts(Use.TEXT, channel_id=8, shown=True, kept_days=7), False),
        (NoticeFacts(Use.TEXT, channel_id=6, shown=True, kept_days=8), True),
        (NoticeFacts(Use.TEXT, channel_id=6, shown=True, kept_days=7, onlookers=True), True),
        (NoticeFacts(Use.TEXT, channel_id=6, shown=True, kept_days=7, sends_to="speech.example.com"), True),
        (NoticeFacts(plugin="recorder"), True),
        (NoticeFacts(), True),
        (NoticeFacts(Use.LEVELS), False),
    ],
)
async def test_other_facts_are_told_and_wider_ones_asked_for(bench: Bench, wider: NoticeFacts, asked: bool) -> None:
    await bench.consent.agree(GUILD, ALICE)
    detach = bench.session.attach(SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    detach()
    bench.session.attach(sink := SinkRecorder(), facts=wider)
    assert not bench.hears(ALICE, sink)
    assert await bench.session.capturing()
    assert len(bench.notices) == 2
    assert bench.hears(ALICE, sink) is not asked
    await bench.consent.agree(GUILD, ALICE, bench.session.terms)
    bench.session.consent_changed(ALICE)
    assert bench.hears(ALICE, sink)


async def test_each_plugin_that_listens_is_told_of(bench: Bench) -> None:
    bench.consent.agreed.add((GUILD, ALICE))

    class Listener:
        @hookimpl
        def voice_audio_frame(self, frame: AudioFrame) -> None: ...

    for count, name in enumerate(("one", "two"), 1):
        bench.hooks.manager.register(Listener(), name)
        bench.session.attach_hooks()
        assert await bench.session.capturing()
        assert len(bench.notices) == count
        assert NoticeFacts(plugin=name) in bench.session.facts
    bench.hooks.manager.unregister(name="one")
    bench.session.attach_hooks()
    assert bench.session.capture_state == "on", "one that is gone needs no notice"
    assert bench.session.facts == {NoticeFacts(plugin="two")}


async def test_an_agreement_to_captions_is_none_to_a_plugin_that_receives_the_voice(bench: Bench) -> None:
    await bench.consent.agree(GUILD, ALICE)
    bench.session.attach(captions := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    assert bench.hears(ALICE, captions)
    detach = bench.session.attach(recorder := SinkRecorder(), facts=NoticeFacts(plugin="recorder"))
    assert await bench.session.capturing()
    assert not bench.hears(ALICE, recorder)
    assert EARLIER in notice_words(bench.session, opt_in=True)
    await bench.agrees(ALICE)
    assert bench.hears(ALICE, recorder)
    detach()
    assert bench.hears(ALICE, captions), "less than that needs no further word"
    bench.session.attach(recorder, facts=NoticeFacts(plugin="recorder"))
    assert await bench.session.capturing()
    assert bench.hears(ALICE, recorder), "nor does what she has agreed to"


async def test_a_further_plugin_gets_no_frame_before_it_is_told_of_and_agreed_to(bench: Bench) -> None:
    heard: list[str] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self._name = name

        @hookimpl
        def voice_audio_frame(self, frame: AudioFrame) -> None:
            heard.append(self._name)

    bench.hooks.manager.register(Listener("one"), "one")
    bench.session.attach_hooks()
    assert await bench.session.capturing()
    await bench.agrees(ALICE)
    bench.session.on_frame(frame(ALICE))
    bench.hooks.manager.register(Listener("two"), "two")
    bench.hooks.changed()
    bench.session.on_frame(frame(ALICE))
    assert heard == ["one"]
    assert await bench.session.capturing()
    assert len(bench.notices) == 2
    bench.session.on_frame(frame(ALICE))
    assert heard == ["one"], "she agreed to one plugin"
    await bench.agrees(ALICE)
    bench.session.on_frame(frame(ALICE))
    assert sorted(heard) == ["one", "one", "two"]


async def test_a_measurement_is_covered_by_a_notice_of_more(bench: Bench) -> None:
    detach = bench.session.attach(SinkRecorder(), facts=NoticeFacts(Use.LEVELS))
    assert await bench.session.capturing()
    bench.session.attach(SinkRecorder(), facts=FACTS)
    assert bench.session.capture_state == "notice"
    assert await bench.session.capturing()
    detach()
    bench.session.attach(SinkRecorder(), facts=NoticeFacts(Use.LEVELS))
    assert bench.session.capture_state == "on"
    assert len(bench.notices) == 2


async def test_measurements_in_a_row_share_a_notice(noticed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session, levels = noticed.session, NoticeFacts(Use.LEVELS)
    session.attach(SinkRecorder(), facts=levels)()
    assert session.capture_state == "off", "no notice stood yet"

    async def measures(user_id: int) -> bool:
        detach = session.attach(sink := SinkRecorder(), facts=levels)
        assert await asyncio.wait_for(session.capturing(), 1.0)
        heard = noticed.hears(user_id, sink)
        detach()
        assert not noticed.hears(user_id, sink)
        return heard

    assert await measures(ALICE)
    session.member_is(21, False)
    noticed.may_post.clear()
    assert await measures(BOB)
    assert not await measures(21), "they came after the notice"
    assert len(noticed.notices) == 1
    noticed.may_post.set()
    detach = session.attach(SinkRecorder(), facts=FACTS)
    assert await session.capturing()
    assert noticed.posted_in[-1] == (6, CHANNEL), "one that tells of a measurement tells of nothing else"
    detach()
    count = len(noticed.notices)
    assert await measures(ALICE)
    assert len(noticed.notices) == count + 1
    monkeypatch.setattr(session_module, "LEVELS_NOTICE_S", -1.0)
    assert await measures(ALICE)
    assert len(noticed.notices) == count + 1
    assert await measures(ALICE)
    assert len(noticed.notices) == count + 2, "that was too long ago"
    monkeypatch.undo()
    assert await measures(ALICE)
    session.stop_capture()
    session.attach(SinkRecorder(), facts=levels)
    assert session.capture_state == "off", "the end has begun"


async def test_nobody_is_heard_again_once_the_end_has_begun(noticed: Bench) -> None:
    noticed.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    noticed.session.stop_capture()
    assert not await noticed.session.capturing()
    noticed.session.attach(SinkRecorder(), facts=NoticeFacts(plugin="late"))
    await settle()
    assert not noticed.hears(ALICE, sink)


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        (FACTS, ["captions in <#6>", "stored until 7 days", "stays on the bot's machine", "cannot see <#6>"]),
        (NoticeFacts(Use.TEXT, channel_id=6, kept_days=1), ["no captions are posted", "until 1 day after"]),
        (NoticeFacts(Use.TEXT, channel_id=6, shown=True), ["The text is not stored."]),
        (NoticeFacts(Use.TEXT, channel_id=6, shown=True, onlookers=True), ["may not join <#2> can read", "to less"]),
        (NoticeFacts(Use.TEXT, channel_id=6, sends_to="a.example"), ["sent to the service `a.example`", "to less"]),
        (NoticeFacts(Use.TEXT, channel_id=6, text_plugins=("a", "b")), ["plugins `a`, `b` receive the text"]),
        (NoticeFacts(Use.TEXT, channel_id=6, text_plugins=("a",)), ["plugin `a` receives the text"]),
        (NoticeFacts(Use.LEVELS), ["how loud you are"]),
        (NoticeFacts(), ["The plugin `stt` receives your voice"]),
        (NoticeFacts(plugin="tape", kept_days=2, sends_to="b.example"), ["`tape`", "for 2 days", "`b.example`"]),
    ],
)
async def test_the_notice_says_what_becomes_of_the_sound(bench: Bench, facts: NoticeFacts, lines: list[str]) -> None:
    bench.session.attach(SinkRecorder(), facts=facts)
    text = notice_words(bench.session, opt_in=True)
    assert text.startswith(f"I am listening in <#{CHANNEL}>. Only members who agree are heard")
    for line in lines:
        assert line in text
    assert "Press **Don't**" in notice_words(bench.session, opt_in=False)


class Tape(SinkRecorder):
    """A sink in the code of a plugin."""

    __module__ = "tape.sinks"


def by_class() -> Any:
    return Tape()


def by_functions() -> Any:
    sink, code = SinkRecorder(), {"__name__": "tape.sinks"}
    exec("def write(frame): pass\ndef purge(user_id): pass", code)
    return types.SimpleNamespace(write=functools.partial(code["write"]), purge=sink.purge)


async def attached(bench: Bench, sink: Any, **given: Any) -> BaseException | None:
    """Attach a sink by a callback that no plugin's code calls, and say what that raised."""
    raised: list[BaseException] = []

    def attach() -> None:
        try:
            bench.session.attach(sink, **given)
        except RoostError as error:
            raised.append(error)

    bench.owners.pop(__name__)
    bench.owners["tape.sinks"] = "tape"
    for name in ("tape", "other"):
        if not bench.hooks.manager.has_plugin(name):
            bench.hooks.manager.register(object(), name)
    asyncio.get_running_loop().call_soon(attach)
    await settle()
    bench.owners[__name__] = "stt"
    return raised[0] if raised else None


@pytest.mark.parametrize("sink", [by_class, by_functions])
@pytest.mark.parametrize(
    "said", [NoticeFacts(), NoticeFacts(plugin="other"), NoticeFacts(Use.TEXT, kept_days=3), NoticeFacts(Use.LEVELS)]
)
async def test_a_sink_is_of_the_plugin_whose_code_it_is(
    bench: Bench, sink: Callable[[], Any], said: NoticeFacts
) -> None:
    assert await attached(bench, sink(), facts=said) is None
    assert bench.session.facts == {dataclasses.replace(said, use=Use.PLUGIN, plugin="tape")}
    assert not USUAL.covers(bench.session.terms), "who agreed before is asked anew"
    bench.session.detach_all_of("tape")
    assert not bench.session.facts
    bench.off.add("tape")
    assert isinstance(await attached(bench, sink()), ClosedError)


async def test_a_sink_in_code_of_nobody_is_of_whom_the_work_was_started_for(bench: Bench) -> None:
    token = working.set("tape")
    assert await attached(bench, SinkRecorder(), facts=NoticeFacts(plugin="other")) is None
    working.reset(token)
    assert bench.session.facts == {NoticeFacts(plugin="tape")}
    bench.session.detach_all_of("tape")
    assert await attached(bench, SinkRecorder(), facts=NoticeFacts(Use.LEVELS, "other")) is None
    assert bench.session.facts == {NoticeFacts(plugin="other")}


@pytest.mark.parametrize("said", [NoticeFacts(), NoticeFacts(Use.LEVELS, "stt")])
@pytest.mark.parametrize("work_of", [None, "stt"])
async def test_a_sink_of_nobody_that_is_known_is_refused(bench: Bench, said: NoticeFacts, work_of: str | None) -> None:
    token = working.set(work_of)
    raised = await attached(bench, SinkRecorder(), facts=said)
    working.reset(token)
    assert isinstance(raised, UsageError)
    assert "attach it from the plugin's own code" in str(raised)
    assert not bench.session.facts


async def test_a_sink_that_another_plugin_attaches_is_of_both(bench: Bench) -> None:
    bench.owners[__name__] = "other"
    for name in ("tape", "other"):
        bench.hooks.manager.register(object(), name)
    bench.owners["tape.sinks"] = "tape"
    bench.session.attach(Tape())
    text = notice_words(bench.session, opt_in=True)
    assert "`other` receives your voice" in text
    assert "`tape` receives your voice" in text
    bench.session.detach_all_of("tape")
    assert not bench.session.facts


async def test_the_notice_names_a_plugin_beside_what_it_says_of_itself(bench: Bench) -> None:
    assert await attached(bench, Tape(), facts=NoticeFacts(Use.TEXT, channel_id=6, shown=True, onlookers=True)) is None
    text = notice_words(bench.session, opt_in=True)
    for line in ("`tape` receives your voice", "captions in <#6>", "may not join <#2> can read"):
        assert line in text


async def test_the_notice_does_not_promise_for_a_plugin_that_gets_the_sound(bench: Bench) -> None:
    bench.session.attach(SinkRecorder(), facts=FACTS)
    assert "- Your voice stays on the bot's machine" in notice_words(bench.session, opt_in=True)
    bench.session.attach(SinkRecorder(), facts=NoticeFacts(plugin="tape"))
    text = notice_words(bench.session, opt_in=True)
    assert "- Apart from that, your voice stays on the bot's machine" in text
    assert "- Your voice stays" not in text


class Rules:
    """A plugin that decides who is heard."""

    def __init__(self) -> None:
        self.answer: Deny | Exception | None = None
        self.asked = 0

    @hookimpl
    def voice_consent(self, user_id: int) -> Deny | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_why_somebody_is_not_heard_by_their_own_word(bench: Bench) -> None:
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.UNDECIDED)
    await bench.consent.opt_out(GUILD, ALICE)
    bench.session.consent_changed(ALICE)
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.REFUSED)
    await bench.consent.agree(GUILD, ALICE)
    bench.session.consent_changed(ALICE)
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.IDLE)


async def test_why_somebody_is_not_heard_by_the_notice(bench: Bench) -> None:
    await bench.consent.agree(GUILD, ALICE)
    bench.notice_stands = False
    bench.may_post.clear()
    bench.session.attach(sink := SinkRecorder(), facts=SENT)
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.NOTICE_COMING)
    bench.may_post.set()
    await settle()
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.NOTICE_FAILS)
    bench.notice_stands = True
    assert await bench.session.capturing()
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.ASKED_MORE)
    await bench.agrees(ALICE)
    assert bench.session.unheard(ALICE) is None
    assert bench.hears(ALICE, sink)
    assert bench.session.unheard(ALICE) is None
    bench.session.deafened_is(True)
    assert bench.session.unheard(ALICE) == NotHeard(Unheard.DEAF)


async def test_why_somebody_is_not_heard_where_nobody_has_to_agree(noticed: Bench) -> None:
    noticed.unseen.add((6, BOB))
    noticed.session.attach(SinkRecorder(), facts=FACTS)
    assert await noticed.session.capturing()
    assert noticed.session.unheard(ALICE) is None
    assert noticed.session.unheard(BOB) == NotHeard(Unheard.UNSEEN)
    noticed.may_post.clear()
    noticed.session.member_is(21, False)
    assert noticed.session.unheard(21) == NotHeard(Unheard.UNTOLD)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Deny("Not today."), NotHeard(Unheard.FORBIDDEN, "plugin", "Not today.")),
        (KeyError("the list"), NotHeard(Unheard.GUARD_FAILS, "plugin")),
    ],
)
async def test_why_somebody_is_not_heard_by_a_plugin(bench: Bench, answer: Deny | Exception, why: NotHeard) -> None:
    await bench.consent.agree(GUILD, ALICE)
    await bench.consent.agree(GUILD, BOB)
    rules = Rules()
    rules.answer = answer
    bench.hooks.manager.register(rules, "plugin")
    assert bench.session.unheard(ALICE) == why, "also while nobody listens"
    bench.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    rules.answer = None
    assert not bench.hears(ALICE, sink)
    assert bench.session.unheard(ALICE) == why, "what it said when it was asked is what counts"
    assert bench.hears(BOB, sink)
    assert bench.session.unheard(BOB) is None
    assert rules.asked == 2
    await settle()
    assert bench.no_guards == (["plugin"] if why.why is Unheard.GUARD_FAILS else [])


async def test_a_plugin_that_failed_once_is_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "GUARD_AGAIN_S", 0.05)
    await bench.consent.agree(GUILD, ALICE)
    rules = Rules()
    rules.answer = KeyError("the list")
    bench.hooks.manager.register(rules, "plugin")
    bench.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    assert not bench.hears(ALICE, sink)
    rules.answer = None
    assert not bench.hears(ALICE, sink)
    await eventually(lambda: bench.hears(ALICE, sink))
    assert rules.asked == 2
    assert bench.session.unheard(ALICE) is None


@pytest.mark.parametrize("why", Unasked)
async def test_people_are_told_once_of_a_plugin_that_decides_and_does_not_work(bench: Bench, why: Unasked) -> None:
    await bench.consent.agree(GUILD, ALICE)
    await bench.consent.agree(GUILD, BOB)
    bench.hooks.hold("gate", frozenset({"voice_consent"}), why)
    bench.session.attach(sink := SinkRecorder(), facts=FACTS)
    assert await bench.session.capturing()
    for member in (ALICE, BOB, ALICE):
        assert not bench.hears(member, sink)
    await settle()
    loads = why is Unasked.LOADING
    assert bench.no_guards == ([] if loads else ["gate"])
    assert bench.session.unheard(BOB) == NotHeard(Unheard.GUARD_LOADS if loads else Unheard.GUARD_FAILS, "gate")
    bench.hooks.release("gate")
    assert bench.session.unheard(BOB) is None
