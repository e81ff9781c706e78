"""The plugin with a real worker process (scripted engine), the real dispatcher, and a session that a test controls."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import hikari
import psutil
import pytest
from stt_house import ADA, BEN, GUILD, ME, TEXT, VOICE, House, houses, lines_of
from stt_rig import packets_of

from roost.audio import CallStatus, Unshown, VoiceSession
from roost.config import build
from roost.context import Unasked
from roost.errors import ClosedError, ConfigError, ResourceError, RoostError, StoreError
from roost.hooks import hookimpl
from roost.speech import Transcript
from roost_stt.config import SttConfig
from roost_stt.engine import SpeechWorker
from roost_stt.refusals import Refusal
from roost_stt.supervision import State, Trouble

pytestmark = pytest.mark.e2e


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    async with houses() as build_house:
        yield build_house


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0880")


async def start(house: House, user: int = ADA, channel: int = TEXT) -> str:
    return await house.plugin.start_transcribing(GUILD, user, channel, False)


async def test_start_speak_caption_stop(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello <@1>"])
    with pytest.raises(RoostError, match="/voice join"):
        await start(house)
    await house.open()
    assert house.workers() == []
    with pytest.raises(RoostError, match="Only people in <#20>"):
        await start(house, user=99)
    assert await start(house) == "Transcribing <#20> into <#30>."
    assert await start(house) == "I am already transcribing <#20> into <#30>."
    assert len(house.workers()) == 1
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    channel, text, options = house.messages[0]
    assert (channel, text) == (TEXT, "**Ada\\***: hello \\<\\@1\\>")
    assert options["mentions_everyone"] is options["user_mentions"] is options["role_mentions"] is False
    assert options["flags"] == hikari.MessageFlag.SUPPRESS_EMBEDS
    assert "1 caption so far. The speech engine is ready" in house.status
    await house.until(lambda: "Heard: nobody" not in house.status)
    next(iter(house.plugin._running.values())).forget(ADA)
    assert "Heard: nobody" in house.status
    assert await house.plugin.stop_transcribing(GUILD, ADA, False) == "Transcription has stopped."
    assert house.session.sinks == []
    assert await house.plugin.stop_transcribing(GUILD, ADA, False) == "Nothing is being transcribed here."


async def test_outside_voice_nothing_is_to_be_stopped_and_nobody_is_told_to_join(make: Any) -> None:
    house: House = await make(script=[])
    with pytest.raises(ResourceError, match=r"^Nothing is being transcribed here\.$"):
        house.plugin.check(GUILD, ADA, False, stop=True)
    with pytest.raises(ResourceError, match="Use `/voice join` first"):
        house.plugin.check(GUILD, ADA, False, stop=False)


async def test_closing_posts_what_was_said_last(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["last words"])
    await house.open()
    await start(house)
    house.session.say(packets[:60])  # in mid-speech
    await house.close()
    assert house.texts == ["**Ada\\***: last words"]
    assert house.session.sinks == []


async def test_stopping_takes_nothing_more_and_closing_still_drains(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["before"])
    await house.open()
    await start(house)
    house.session.say(packets[:60])
    await house.plugin.on_stopping(cast(Any, house.bot), asyncio.get_running_loop().time() + 0.2)
    assert house.session.sinks == []
    assert len(house.workers()) == 1
    with pytest.raises(RoostError, match="shutting down"):
        await start(house)
    await house.close()
    assert house.texts == ["**Ada\\***: before"]
    await house.unload()
    assert house.workers() == []


async def test_unloading_ends_the_worker_whatever_it_does(make: Any, packets: list[bytes]) -> None:
    house: House = await make()
    await house.open()
    await start(house)
    house.session.say(packets)
    (pid,) = house.workers()
    os.kill(pid, signal.SIGSTOP)
    began = asyncio.get_running_loop().time()
    await house.plugin.on_unload(house.ctx, "disable")
    await house.plugin.on_unload(house.ctx, "disable")
    assert asyncio.get_running_loop().time() - began < 1.0
    assert not psutil.pid_exists(pid)


async def test_a_reload_in_the_middle_of_a_call_goes_on(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["again"])
    await house.open()
    await start(house)
    await house.unload("reload")
    assert house.session.sinks == []
    await house.load()
    await house.open()  # the host replays it
    await house.until(lambda: bool(house.session.sinks))
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    assert house.texts == ["**Ada\\***: again"]


async def test_other_plugins_may_change_and_drop(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["a secret", "a word"])
    house.dispatcher.manager.register(house.guest, "guest")
    await house.open()
    await start(house)
    house.session.say(packets)
    await house.until(lambda: house.plugin._worker.stats()["utterances"] == 1)  # type: ignore[union-attr]
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    assert house.texts == ["**Ada\\***: A WORD"]
    await house.until(lambda: bool(house.guest.ready))
    assert [each.text for each in house.guest.ready] == ["A WORD"]


async def test_plugin_that_comes_in_mid_call_is_named_before_it_gets_words(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["word {count}"])
    await house.open()
    await start(house)
    assert house.session.facts.text_plugins == ()
    house.session.say(packets)
    house.dispatcher.manager.register(house.guest, "guest")
    await house.plugin.plugin_loaded("guest")
    await house.until(lambda: house.session.facts.text_plugins == ("guest",) and bool(house.session.sinks))
    assert house.guest.ready == [], "what was said before was not told to be for it"
    house.session.say(packets)
    await house.until(lambda: [each.text for each in house.guest.ready] == ["WORD 2"])
    facts = house.session.facts
    house.dispatcher.manager.unregister(name="guest")
    await house.plugin.plugin_switched("guest", GUILD, False)
    await house.until(lambda: bool(house.session.sinks))
    assert house.session.facts is facts, "no notice tells that fewer read"


async def test_withdrawn_consent_reaches_every_queue(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["said by {user}"])
    await house.open()
    await start(house)
    house.session.say(packets[:60], ADA)
    house.session.say(packets[:60], BEN)
    for sink in house.session.sinks:
        sink.purge(ADA)
    await house.close()
    assert house.texts == ["**Ben**: said by 8"]


@pytest.mark.parametrize("detached", [False, True])
async def test_who_is_forgotten_where_nobody_has_to_agree_is_dropped_from_every_stage(
    make: Any, packets: list[bytes], detached: bool
) -> None:
    """Whatever the database does: nothing but the change of consent is heard of here."""
    house: House = await make(script=["said by {user}"])
    await house.open()
    await start(house)
    house.session.say(packets[:60], ADA)
    house.session.say(packets[:60], BEN)
    ending = asyncio.ensure_future(house.plugin.stop_transcribing(GUILD, BEN, False) if detached else house.close())
    await asyncio.sleep(0)
    house.forget_decision(ADA)
    await ending
    assert house.texts == ["**Ben**: said by 8"]


@pytest.mark.parametrize("how", ["stop", "close"])
async def test_consent_withdrawn_during_the_drain_or_after_leaving_counts(
    make: Any, packets: list[bytes], how: str
) -> None:
    house: House = await make(script=["said by {user}"])
    await house.open()
    await start(house)
    house.session.say(packets[:60], ADA)
    house.session.say(packets[:60], BEN)
    house.session.members = frozenset({BEN})
    ending = asyncio.ensure_future(
        house.plugin.stop_transcribing(GUILD, BEN, False) if how == "stop" else house.close()
    )
    await asyncio.sleep(0)  # the drain has begun; on stop the sink is detached
    house.opt_out(ADA)
    await ending
    assert house.texts == ["**Ben**: said by 8"]


async def test_consent_withdrawn_while_another_plugin_thinks_counts(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["said by {user}"])
    thinking = asyncio.Event()

    class Slow:
        @hookimpl
        async def transcript_process(self, session: VoiceSession, draft: Transcript) -> None:
            if draft.user_id == ADA:
                thinking.set()
                await asyncio.sleep(3600)

    house.dispatcher.manager.register(Slow(), "guest")
    await house.open()
    await start(house)
    house.session.say(packets, ADA)
    async with asyncio.timeout(10):
        await thinking.wait()
    house.opt_out(ADA)
    # The plugin is not waited for: its call is cancelled.
    house.session.say(packets[:60], BEN)
    await house.close()
    assert house.texts == ["**Ben**: said by 8"]


async def test_start_says_what_keeps_it_from_working(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["x"])
    await house.open()
    house.overwrites[ME] = hikari.PermissionOverwrite(
        id=ME, type=hikari.PermissionOverwriteType.MEMBER, deny=hikari.Permissions.SEND_MESSAGES
    )
    with pytest.raises(RoostError, match="Give me Send Messages there"):
        await start(house)
    assert house.session.sinks == []
    house.overwrites.clear()
    house.session.notice_works = False
    with pytest.raises(RoostError, match="could not post the notice"):
        await start(house)
    assert "Discord did not take the notice. I keep trying" in house.status
    house.session.notice_works = True
    assert "The notice stands now." in await start(house)
    assert house.session.facts.channel_id == TEXT


async def test_the_status_counts_this_transcription_alone(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["x"])
    await house.open()
    await start(house)
    house.session.say(packets)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    await start(house)
    assert "0 captions so far" in house.status
    assert "Heard: nobody." in house.status


async def test_a_move_by_a_moderator_ends_it_and_one_by_request_does_not(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["before"])
    await house.open()
    await start(house)
    await house.move(21, by_request=True)
    await house.until(lambda: bool(house.session.sinks))
    house.session.say(packets[:60])
    await house.move(22, by_request=False)
    assert house.session.sinks == []
    await house.until(lambda: house.status == "Nothing is being transcribed here.")
    told = "\n".join(house.texts)
    assert "I was moved to another channel" in told
    assert "before" in told


async def test_a_check_that_is_loaded_anew_is_not_told_as_a_failure(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["word {count}"])
    house.dispatcher.manager.register(house.guest, "guest")
    hooks = frozenset({"transcript_process"})
    await house.open()
    await start(house)
    house.dispatcher.hold("guest", hooks, Unasked.LOADING)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts_dropped == 1)
    house.dispatcher.release("guest")
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    assert house.texts == ["**Ada\\***: WORD 2"]
    house.dispatcher.hold("guest", hooks, Unasked.MISSING)
    house.session.say(packets)
    await house.until(lambda: any("which checks it, failed" in text for text in house.texts))
    assert house.plugin._running[GUILD].transcripts_dropped == 2


async def test_captions_go_on_after_a_plugin_cancelled_the_task_that_called_it(make: Any, packets: list[bytes]) -> None:
    class Cancels:
        cancelled = 0

        @hookimpl
        async def transcript_process(self, session: VoiceSession, draft: Transcript) -> None:
            if not self.cancelled:
                self.cancelled += 1
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(1)

    house: House = await make(script=["word {count}"])
    guest = Cancels()
    house.dispatcher.manager.register(guest, "guest")
    await house.open()
    await start(house)
    house.session.say(packets)
    await house.until(lambda: guest.cancelled == 1)
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    assert house.texts == ["**Ada\\***: word 2"]


async def test_a_crash_is_told_once_and_the_words_come(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["here"])
    await house.open()
    await start(house)
    house.session.say(packets[:60])
    worker = house.plugin._worker
    assert worker is not None
    for _ in range(2):
        (pid,) = house.workers()
        os.kill(pid, signal.SIGKILL)
        await house.until(lambda before=pid: worker.pid not in (None, before) and worker.state.value == "ready")
    assert await house.plugin.stop_transcribing(GUILD, ADA, False) == "Transcription has stopped."
    assert sum("starting again" in text for text in house.texts) == 1
    assert "**Ada\\***: here" in "\n".join(house.texts)


async def test_the_worker_ends_when_idle_and_comes_back(make: Any, packets: list[bytes]) -> None:
    house: House = await make(idle_s=0.1, script=["x"])
    await house.open()
    await start(house)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    await house.until(lambda: house.workers() == [])
    await start(house)
    assert len(house.workers()) == 1


async def test_settings_are_checked(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"stt\.device"):
        build(SttConfig, {"device": "tpu"}, "stt")
    house: House = await make(engine="nonesuch")
    await house.open()
    with pytest.raises(ConfigError, match="no plugin provides the engine nonesuch"):
        await start(house)


async def test_what_becomes_text_after_the_deadline_is_stored_and_not_posted(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["too late"])
    await house.open()
    await start(house)
    transcription = house.plugin._running[GUILD]
    (worker,) = house.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        house.session.say(packets[:60])
        deadline = asyncio.get_running_loop().time() + 0.3
        await house.plugin.voice_session_closing(cast(Any, house.session), "leave", deadline)
    finally:
        os.kill(worker, signal.SIGCONT)
    async with asyncio.timeout(10):
        while not (lines := await lines_of(house.plugin.book, transcription.keeper.key)):
            await asyncio.sleep(0.02)
    assert [line.text for line in lines] == ["too late"]
    await asyncio.sleep(0.2)  # a caption would be there by now
    assert house.texts == []
    await house.close()


async def test_that_a_line_failed_does_not_hide_that_the_engine_did(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await start(house)

    async def broken(*_: object) -> str:
        raise RuntimeError

    monkeypatch.setattr(house.plugin.book, "add", broken)
    house.session.say(packets)
    await house.until(lambda: any("something went wrong in me" in text for text in house.texts))
    transcription = house.plugin._running[GUILD]
    assert not transcription.was_told(Trouble.FAILED.value)


async def test_members_read_why_their_words_become_no_text(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    assert await house.plugin.call_status(GUILD, ADA) is None
    await start(house)
    assert await house.plugin.call_status(GUILD, ADA) == CallStatus(VOICE)
    monkeypatch.setattr(SpeechWorker, "is_muted", lambda _worker, _guild, user: user == ADA)
    assert await house.plugin.call_status(GUILD, ADA) == CallStatus(VOICE, unshown=Unshown.MUTED)
    assert await house.plugin.call_status(GUILD, BEN) == CallStatus(VOICE)
    monkeypatch.setattr(SpeechWorker, "state", State.FAILED)
    assert await house.plugin.call_status(GUILD, BEN) == CallStatus(VOICE, unshown=Unshown.FAILED)


async def test_captions_that_move_as_the_call_ends_leave_no_open_transcript(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await start(house)
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    house.plugin._running[GUILD].captioner.refusal = Refusal.GONE
    house.session.closed = True
    with pytest.raises(ClosedError):
        await start(house, channel=TEXT + 1)
    await house.plugin.voice_session_closed(cast(VoiceSession, house.session), "leave", cast(Any, None))
    assert await house.plugin.book.end_interrupted() == []


async def test_captions_go_where_a_notice_stands_that_was_refused_at_first(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await start(house)
    house.gone.add(TEXT)
    house.session.notice_works = False
    with pytest.raises(ResourceError, match="could not post the notice"):
        await start(house, channel=VOICE)
    # It stands after another try, and the old channel can be written again.
    house.session.notice_works = True
    house.gone.clear()
    house.session.say(packets)
    await house.until(lambda: any("hello" in text for text in house.texts))
    assert [channel for channel, text, _ in house.messages if "hello" in text] == [VOICE]


async def test_a_start_that_is_overtaken_while_the_notice_is_posted_says_by_what(make: Any) -> None:
    house: House = await make(script=[])
    await house.open()
    plugin = house.plugin

    async def change() -> None:
        plugin._running[GUILD].stop_intake()

    overtaken: list[tuple[Callable[[], Any], str]] = [
        (change, "is just changing"),
        (lambda: plugin.pause_transcribing(GUILD, ADA, False, paused=True), "is paused"),
        (lambda: plugin.stop_transcribing(GUILD, ADA, False), "has ended"),
    ]
    for overtake, said in overtaken:

        async def capturing(overtake: Callable[[], Any] = overtake) -> bool:
            await overtake()
            return False

        house.session.capturing = capturing  # type: ignore[method-assign]
        with pytest.raises(ResourceError, match=said):
            await start(house)
        await plugin.stop_transcribing(GUILD, ADA, False)


async def spoken(house: House, packets: list[bytes]) -> None:
    """A transcription runs and has a line."""
    await house.open()
    await start(house)
    house.session.say(packets)
    await house.until(lambda: any("hello" in text for text in house.texts))


async def active(house: House) -> Any:
    """What a reload goes on with."""
    return await house.ctx.settings.get(GUILD, "active")


async def test_a_reload_does_not_go_on_after_a_stop_in_the_middle_of_a_move(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await spoken(house, packets)
    keeper = house.plugin._running[GUILD].keeper
    close, closing, may_close = keeper.close, asyncio.Event(), asyncio.Event()

    async def close_slowly() -> None:
        closing.set()
        await may_close.wait()
        await close()

    keeper.close = close_slowly  # type: ignore[method-assign]
    await house.move(21, by_request=True)
    async with asyncio.timeout(5):
        await closing.wait()
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    may_close.set()
    async with asyncio.timeout(5):
        while (await house.plugin.book.newest(GUILD, lambda _head: True))[0][0].ended_at is None:
            await asyncio.sleep(0.01)
    # What the move stored last comes after that.
    await asyncio.sleep(0.1)
    assert await active(house) is None


async def test_nothing_goes_on_while_a_stopped_transcription_ends(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await spoken(house, packets)
    assert await active(house) is not None
    draining, may_end = asyncio.Event(), asyncio.Event()
    worker = house.plugin._worker
    assert worker is not None

    async def drain(guild_id: int, deadline: float) -> bool:
        draining.set()
        return await may_end.wait()

    worker.drain = drain  # type: ignore[method-assign]
    stopping = asyncio.ensure_future(house.plugin.stop_transcribing(GUILD, ADA, False))
    async with asyncio.timeout(5):
        await draining.wait()
        while await active(house) is not None:
            await asyncio.sleep(0.01)
    plugin, ending = house.plugin, "is ending"
    with pytest.raises(ResourceError, match=ending):
        plugin.check(GUILD, ADA, False, stop=False)
    for asked in (
        start(house),
        plugin.pause_transcribing(GUILD, ADA, False, paused=True),
        plugin.pause_transcribing(GUILD, ADA, False, paused=False),
    ):
        with pytest.raises(ResourceError, match=ending):
            await asked
    assert ending in house.status
    may_end.set()
    assert await stopping == "Transcription has stopped."
    assert (await start(house)).startswith("Transcribing")


async def test_a_store_that_fails_at_the_end_keeps_neither_worker_nor_transcript(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost_stt.transcripts.AGAIN_S", (0.1,))
    house: House = await make(script=["hello"], idle_s=0)
    await spoken(house, packets)
    put, failures = house.plugin.book._put, iter(range(2))

    async def fails(*args: Any) -> None:
        if next(failures, None) is not None:
            raise StoreError("busy", retryable=True)
        await put(*args)

    monkeypatch.setattr(house.plugin.book, "_put", fails)
    assert await house.plugin.stop_transcribing(GUILD, ADA, False) == "Transcription has stopped."
    await house.until(lambda: not house.workers())
    async with asyncio.timeout(5):
        while (await house.plugin.book.newest(GUILD, lambda _head: True))[0][0].ended_at is None:
            await asyncio.sleep(0.01)


async def test_a_transcript_that_could_not_go_on_after_a_reload_has_ended(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await spoken(house, packets)
    await house.unload("reload")
    await house.load()
    house.session.closed = True
    resume, resumed = house.plugin.book.resume, asyncio.Event()

    async def tell(key: str) -> Any:
        try:
            return await resume(key)
        finally:
            resumed.set()

    house.plugin.book.resume = tell  # type: ignore[method-assign]
    await house.open()
    async with asyncio.timeout(5):
        await resumed.wait()
        while (await house.plugin.book.newest(GUILD, lambda _head: True))[0][0].ended_at is None:
            await asyncio.sleep(0.01)
    assert house.plugin._running == {}
