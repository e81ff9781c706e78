"""Pauses, silence, the longest session, and who may read along."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import hikari
import pytest
from stt_house import ADA, BEN, GUILD, ME, TEXT, VOICE, House, houses
from stt_rig import packets_of

from roost.audio import SILENCE_FRAME, VoiceSession
from roost.config import build
from roost.errors import RoostError
from roost.hooks import hookimpl
from roost.speech import Transcript
from roost_stt import audience_watch
from roost_stt import plugin as plugin_module
from roost_stt.config import SttConfig
from roost_stt.guard import Finding, Look, duration

OTHER = 21
"""Another voice channel, which everybody can join."""
LOOK = Look(now=100.0, began_s=0.0, heard_s=50.0, silence_s=60.0, cap_s=1000.0, listening=True)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "finding", "wait_s"),
    [
        ({}, Finding.NOTHING, 10.0),
        ({"now": 110.0}, Finding.SILENT, None),
        ({"now": 110.0, "listening": False}, Finding.NOTHING, 60.0),
        ({"now": 110.0, "silence_s": 0.0}, Finding.NOTHING, 60.0),
        ({"now": 990.0, "heard_s": 985.0}, Finding.NOTHING, 10.0),
        ({"now": 1000.0}, Finding.TOO_LONG, None),
        ({"now": 1000.0, "listening": False}, Finding.TOO_LONG, None),
    ],
)
def test_when_there_is_something_to_do(change: dict[str, Any], finding: Finding, wait_s: float | None) -> None:
    look = dataclasses.replace(LOOK, **change)
    assert look.finding() is finding
    if wait_s is not None:
        assert look.wait_s() == wait_s


@pytest.mark.unit
def test_durations_in_words() -> None:
    assert [duration(s) for s in (60, 300, 3600, 5400, 28800)] == [
        "1 minute",
        "5 minutes",
        "1 hour",
        "1.5 hours",
        "8 hours",
    ]


SEE = hikari.Permissions.VIEW_CHANNEL


def overwrite(of: int, *, allow: bool, member: bool = False) -> hikari.PermissionOverwrite:
    kind = hikari.PermissionOverwriteType.MEMBER if member else hikari.PermissionOverwriteType.ROLE
    none = hikari.Permissions.NONE
    return hikari.PermissionOverwrite(
        id=hikari.Snowflake(of), type=kind, allow=SEE if allow else none, deny=none if allow else SEE
    )


HIDDEN = overwrite(GUILD, allow=False)
NO_CONNECT = hikari.PermissionOverwrite(
    id=hikari.Snowflake(GUILD),
    type=hikari.PermissionOverwriteType.ROLE,
    deny=hikari.Permissions.CONNECT,
)


# In the plugin --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    async with houses() as build_house:
        yield build_house


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0880")


async def start(house: House, *, manages: bool = False) -> str:
    await house.open()
    return await house.plugin.start_transcribing(GUILD, ADA, TEXT, manages)


@pytest.mark.e2e
async def test_a_wider_audience_needs_somebody_who_manages_the_server(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    house.voice_overwrites = {GUILD: HIDDEN, ME: overwrite(ME, allow=True, member=True)}
    with pytest.raises(RoostError, match="only those who manage the server"):
        await start(house)
    assert house.session.sinks == []
    assert house.workers() == []
    assert "Mind that <#30> can be read by people who cannot be in <#20>" in await start(house, manages=True)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert await house.plugin.start_transcribing(GUILD, ADA, VOICE, False) == "Transcribing <#20> into <#20>."


@pytest.mark.e2e
async def test_where_no_captions_are_posted_nobody_reads_along(make: Any) -> None:
    stored_only = {"engine": "scripted", "captions": {"where": "none"}}
    house: House = await make(**stored_only)
    kind, connect = hikari.PermissionOverwriteType.MEMBER, hikari.Permissions.CONNECT
    ada = hikari.PermissionOverwrite(id=hikari.Snowflake(ADA), type=kind, allow=connect)
    house.voice_overwrites = {GUILD: NO_CONNECT, ADA: ada}
    assert await start(house) == "Transcribing <#20> into the transcript alone."
    assert not house.session.facts.onlookers
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    await house.change_channel(VOICE)
    assert "pause" not in house.status
    assert "0 lines so far" in house.status
    assert "already" in await start(house)
    assert house.texts == []
    before, house.config = house.config, build(SttConfig, {"engine": "scripted"}, "stt")
    await house.plugin.config_changed(house.ctx, GUILD, before, house.config)
    await house.until(lambda: any("Captions pause" in text for text in house.texts))
    assert "Captions pause" in house.status


@pytest.mark.e2e
async def test_captions_pause_while_somebody_could_read_along(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audience_watch, "TELL_EVERY_S", 0.2)
    house: House = await make(script=["words"])
    await start(house)
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: words" in house.texts)

    house.voice_overwrites = {GUILD: NO_CONNECT}
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: any("Captions pause" in text for text in house.texts))
    assert house.messages[-1][0] == TEXT
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 2)
    assert house.texts.count("**Ada\\***: words") == 1
    with pytest.raises(RoostError, match="only those who manage the server"):
        await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)

    house.voice_overwrites = {}
    await house.change_channel(VOICE)
    await house.until(lambda: house.texts.count("**Ada\\***: words") == 2)
    await house.until(lambda: any("Captions go on" in text for text in house.texts))
    assert "Captions pause" not in house.status


@pytest.mark.e2e
async def test_who_manages_the_server_has_captions_shown_all_the_same(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["{count}"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT, ME: overwrite(ME, allow=True, member=True)}
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 1)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    assert "Mind that <#30> can be read by people" in await house.plugin.start_transcribing(GUILD, BEN, TEXT, True)
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: 2" in house.texts)
    # What was said before she decided was not meant for them.
    assert "**Ada\\***: 1" not in "\n".join(house.texts)
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: 3" in house.texts)
    # A reload keeps to it.
    await house.unload("reload")
    await house.load()
    await house.open()
    await house.until(lambda: house.plugin._running[GUILD].hearing if house.plugin._running else False)
    assert house.plugin._running[GUILD].audience.accepted
    await house.plugin.stop_transcribing(GUILD, ADA, True)


@pytest.mark.e2e
@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
async def test_a_sentence_under_way_is_not_shown_to_those_accepted_after_it(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    house: House = await make(script=["word {seconds}"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT, ME: overwrite(ME, allow=True, member=True)}
    await house.change_channel(VOICE)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    house.session.say(packets[:60])
    if late:
        monkeypatch.setattr(plugin_module, "STOP_DRAIN_S", -1.0)
    assert "Mind that <#30> can be read by people" in await house.plugin.start_transcribing(GUILD, BEN, TEXT, True)
    house.session.say(packets, after=60)
    await house.until(lambda: any("word" in text for text in house.texts))
    await house.plugin.stop_transcribing(GUILD, ADA, True)
    assert sum("word" in text for text in house.texts) == 1
    found = await house.plugin.book.newest(GUILD, lambda head: True)
    assert [count for _, count in found] == ([1] if late else [1, 1])
    assert any("did not become text in time" in text for text in house.texts) is late
    # What was dropped is not the beginning of the next sentence either.
    heard = [float(text.split("word ")[1]) for text in house.texts if "word" in text]
    assert all(seconds <= len(packets) * 0.02 + 0.5 for seconds in heard)


@pytest.mark.e2e
async def test_captions_that_wait_go_to_a_channel_for_the_same_people(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["words"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT}
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 1)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    assert "into <#20>" in await house.plugin.start_transcribing(GUILD, ADA, VOICE, False)
    await house.until(lambda: (VOICE, "**Ada\\***: words") in [(where, text) for where, text, _ in house.messages])


@pytest.mark.e2e
async def test_captions_that_wait_in_a_pause_go_elsewhere_after_it(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["words"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT}
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 1)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    await house.plugin.pause_transcribing(GUILD, ADA, False, paused=True)
    await house.plugin.start_transcribing(GUILD, ADA, VOICE, False)
    assert house.plugin._running[GUILD].shown_in == TEXT, "no notice stands in the other one yet"
    await house.plugin.pause_transcribing(GUILD, ADA, False, paused=False)
    await house.until(lambda: (VOICE, "**Ada\\***: words") in [(where, text) for where, text, _ in house.messages])


@pytest.mark.e2e
async def test_captions_that_wait_do_so_until_the_notice_stands_in_the_new_channel(
    make: Any, packets: list[bytes]
) -> None:
    house: House = await make(script=["words"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT}
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 1)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    house.session.notice_works = False
    with pytest.raises(RoostError, match="could not post the notice in <#20>"):
        await house.plugin.start_transcribing(GUILD, ADA, VOICE, False)
    await house.change_channel(VOICE)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    assert "words" not in "\n".join(house.texts)
    house.session.notice_works = True
    await house.plugin.start_transcribing(GUILD, ADA, VOICE, False)
    await house.until(lambda: (VOICE, "**Ada\\***: words") in [(where, text) for where, text, _ in house.messages])


@pytest.mark.e2e
async def test_who_accepts_others_elsewhere_shows_nothing_in_the_old_channel(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["words"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT, ME: overwrite(ME, allow=True, member=True)}
    await house.change_channel(VOICE)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 1)
    house.session.notice_works = False
    with pytest.raises(RoostError, match="could not post the notice"):
        await house.plugin.start_transcribing(GUILD, BEN, 31, True)
    assert house.session.facts.onlookers
    assert "words" not in "\n".join(house.texts)
    assert (await house.ctx.settings.get(GUILD, "active"))["accepts_wide"], "a reload goes on with it"
    house.session.notice_works = True
    await house.plugin.start_transcribing(GUILD, BEN, 31, True)
    house.session.say(packets)
    await house.until(lambda: (31, "**Ada\\***: words") in [(where, text) for where, text, _ in house.messages])
    assert house.texts.count("**Ada\\***: words") == 1


@pytest.mark.e2e
async def test_reload_does_not_take_over_what_was_accepted_elsewhere(make: Any) -> None:
    house: House = await make(script=[])
    house.voice_overwrites = {GUILD: NO_CONNECT, ME: overwrite(ME, allow=True, member=True)}
    await house.open()
    await house.plugin.start_transcribing(GUILD, BEN, TEXT, True)
    assert house.session.facts.onlookers
    await house.plugin.pause_transcribing(GUILD, BEN, True, paused=True)
    house.gone.add(TEXT)
    assert "is paused" in await house.plugin.start_transcribing(GUILD, ADA, VOICE, False)
    await house.unload("reload")
    await house.load()
    await house.open()
    await house.until(lambda: GUILD in house.plugin._running)
    assert not house.plugin._running[GUILD].audience.accepted


@pytest.mark.e2e
async def test_a_move_by_request_begins_a_new_transcript(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["{count}"])
    await start(house)
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: 1" in house.texts)
    await house.move(OTHER, by_request=True)
    await house.until(lambda: house.plugin._running[GUILD].hearing)
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: 2" in house.texts)
    found = await house.plugin.book.newest(GUILD, lambda head: True)
    assert [(head.voice_channel_id, count) for head, count in found] == [(OTHER, 1), (VOICE, 1)]


async def wait_for_one_held_back(house: House, packets: list[bytes]) -> None:
    """Have one line said in a room that others cannot join any more, and held back."""
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT}
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 1)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)


@pytest.mark.e2e
async def test_words_held_back_in_one_room_are_not_shown_after_a_move_to_another(
    make: Any, packets: list[bytes]
) -> None:
    house: House = await make(script=["word {count}"])
    await wait_for_one_held_back(house, packets)
    await house.move(OTHER, by_request=True)
    await house.until(lambda: house.plugin._running[GUILD].hearing)
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: word 2" in house.texts)
    assert "word 1" not in "\n".join(house.texts)


@pytest.mark.e2e
async def test_words_held_back_stay_so_while_a_drag_ends_the_transcription(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["word {count}"])
    await wait_for_one_held_back(house, packets)
    await house.move(OTHER, by_request=False)
    await house.change_channel(TEXT)
    await house.until(lambda: house.status == "Nothing is being transcribed here.")
    told = "\n".join(house.texts)
    assert "I was moved to another channel" in told
    assert "word" not in told


@pytest.mark.e2e
async def test_a_sentence_under_way_is_stored_for_the_room_it_was_said_in(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["word {count}"])
    await start(house)
    house.session.say(packets[:60])
    await house.move(OTHER, by_request=True)
    await house.until(lambda: house.plugin._running[GUILD].hearing)
    assert house.texts == ["**Ada\\***: word 1"]
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: word 2" in house.texts)
    found = await house.plugin.book.newest(GUILD, lambda head: True)
    assert [(head.voice_channel_id, count) for head, count in found] == [(OTHER, 1), (VOICE, 1)]


@pytest.mark.e2e
async def test_a_line_that_another_plugin_has_when_the_room_changes_is_dropped(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_module, "STOP_DRAIN_S", 0.5)
    house: House = await make(script=["word {count}"])
    thinks = asyncio.Event()

    async def think(session: VoiceSession, draft: Transcript) -> Transcript | None:
        if draft.text == "word 1":
            thinks.set()
            await asyncio.sleep(1.5)
        return draft

    monkeypatch.setattr(house.guest, "transcript_process", hookimpl(think), raising=False)
    house.dispatcher.manager.register(house.guest, "guest")
    await start(house)
    house.session.say(packets)
    await thinks.wait()
    await house.move(OTHER, by_request=True)
    await house.until(lambda: house.plugin._running[GUILD].hearing)
    house.session.say(packets)
    await house.until(lambda: "**Ada\\***: word 2" in house.texts)
    assert "word 1" not in "\n".join(house.texts)
    found = await house.plugin.book.newest(GUILD, lambda head: True)
    assert [(head.voice_channel_id, count) for head, count in found] == [(OTHER, 1)]


@pytest.mark.e2e
async def test_a_start_does_not_answer_for_the_room_that_the_bot_is_moved_to(make: Any) -> None:
    house: House = await make(script=["words"])
    house.voice_overwrites = {GUILD: NO_CONNECT, ME: overwrite(ME, allow=True, member=True)}
    starting = asyncio.create_task(start(house, manages=True))
    await house.until(lambda: bool(house.workers()))
    assert not starting.done()
    await house.move(OTHER, by_request=True)
    with pytest.raises(RoostError, match="just been moved"):
        await starting
    assert house.session.sinks == []


@pytest.mark.e2e
async def test_a_move_during_a_reload_ends_the_transcription(make: Any) -> None:
    house: House = await make(script=["words"])
    await start(house)
    await house.unload("reload")
    house.session.channel_id = OTHER
    await house.load()
    await house.open()
    await house.until(lambda: any("I was moved to another channel" in text for text in house.texts))
    assert house.session.sinks == []
    assert house.status == "Nothing is being transcribed here."


@pytest.mark.e2e
async def test_an_end_is_told_while_captions_pause_and_what_waits_is_not_shown(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["words"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT}
    await house.change_channel(VOICE)
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].audience.wide)
    await house.plugin.voice_session_moved(cast(VoiceSession, house.session), 21, VOICE, False)
    await house.until(lambda: house.status == "Nothing is being transcribed here.")
    told = "\n".join(house.texts)
    assert "I was moved to another channel" in told
    assert "words" not in told


@pytest.mark.e2e
async def test_a_fault_of_the_look_holds_captions_back(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["words"])
    await start(house)
    works, house.bot.cache.get_thread = house.bot.cache.get_thread, None
    house.plugin._running[GUILD].audience.doubt()
    house.session.say(packets)
    await house.until(lambda: house.plugin._running[GUILD].transcripts == 1)
    assert "words" not in "\n".join(house.texts)
    house.bot.cache.get_thread = works
    await house.until(lambda: "**Ada\\***: words" in house.texts)


@pytest.mark.e2e
async def test_a_talkers_name_waits_as_captions_do(make: Any) -> None:
    house: House = await make(script=["words"])
    await start(house)
    house.voice_overwrites = {GUILD: NO_CONNECT}
    await house.change_channel(VOICE)
    house.plugin._muted(GUILD, ADA)
    await house.until(lambda: any("Captions pause" in text for text in house.texts))
    assert "Ada" not in "\n".join(house.texts)
    house.voice_overwrites = {}
    await house.change_channel(VOICE)
    await house.until(lambda: any("failed three times on what Ada" in text for text in house.texts))


@pytest.mark.e2e
async def test_a_channel_that_is_gone_is_told_in_the_voice_chat(make: Any) -> None:
    house: House = await make(script=["words"])
    await start(house)
    house.gone.add(TEXT)
    await house.change_channel(TEXT)
    await house.until(lambda: any(where == VOICE and "is gone" in text for where, text, _ in house.messages))


@pytest.mark.e2e
async def test_the_status_is_for_those_who_can_be_in_the_room(make: Any) -> None:
    house: House = await make(script=["words"])
    await start(house)
    assert "Transcribing <#20>" in house.status
    house.voice_overwrites = {GUILD: NO_CONNECT}
    assert house.status == "I transcribe a voice channel that you cannot join, so I do not say more about it."
    assert "Heard" not in house.plugin.describe(GUILD, None)
    for stop in (True, False):
        with pytest.raises(RoostError, match=r"Only people in the voice channel where I am can"):
            house.plugin.check(GUILD, 99, False, stop=stop)


@pytest.mark.e2e
async def test_moving_to_where_fewer_can_see_ends_it(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["before"])
    assert await start(house) == "Transcribing <#20> into <#30>."
    house.session.say(packets[:60])
    house.voice_overwrites = {GUILD: HIDDEN}
    await house.plugin.voice_session_moved(cast(VoiceSession, house.session), 21, VOICE, True)
    assert house.session.sinks == []
    await house.until(lambda: house.status == "Nothing is being transcribed here.")
    assert "people here who cannot be in <#20>" in "\n".join(house.texts)
    assert "before" in "\n".join(house.texts)


@pytest.mark.e2e
async def test_a_pause_hears_nothing_and_finishes_what_was_said(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["{count}"])
    await start(house)
    house.session.say(packets[:60])
    ask = house.plugin.pause_transcribing
    assert "is paused." in await ask(GUILD, ADA, False, paused=True)
    assert house.session.sinks == []
    await house.until(lambda: house.texts == ["**Ada\\***: 1"])
    assert "paused already" in await ask(GUILD, ADA, False, paused=True)
    with pytest.raises(RoostError, match="/transcribe resume"):
        house.plugin.check(GUILD, ADA, False, stop=False)
    with pytest.raises(RoostError, match="Only people in"):
        await ask(GUILD, 99, False, paused=False)
    assert house.status.startswith("Paused")
    # A reload does not end the pause.
    await house.unload("reload")
    await house.load()
    await house.open()
    await house.until(lambda: house.status.startswith("Paused"))
    assert house.session.sinks == []
    assert "goes on" in await house.plugin.pause_transcribing(GUILD, BEN, False, paused=False)
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2)
    assert "not paused" in await house.plugin.pause_transcribing(GUILD, BEN, False, paused=False)


@pytest.mark.e2e
async def test_silence_without_a_notice_is_not_blamed_on_the_members(make: Any) -> None:
    house: House = await make(script=["hello"], silence_minutes=0.5 / 60)
    await start(house)
    house.session.capture_state = "failed"
    await house.until(lambda: bool(house.messages))
    assert "I have heard nobody for" in house.texts[0]
    assert "Discord does not accept the notice" in house.texts[0]
    assert "only members who agreed" not in house.texts[0]


@pytest.mark.e2e
async def test_silence_is_told_once_and_not_during_a_pause(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"], silence_minutes=0.5 / 60)
    await start(house)
    house.session.say([SILENCE_FRAME])
    await house.until(lambda: bool(house.messages))
    assert "I have heard nobody for" in house.texts[0]
    assert "`/privacy status` says whether you are heard" in house.texts[0]
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert sum("heard nobody" in text for text in house.texts) == 1
    await start(house)
    await house.plugin.pause_transcribing(GUILD, ADA, False, paused=True)
    assert house.plugin._running[GUILD].heard_s > 0
    count = len(house.messages)
    with pytest.raises(TimeoutError):
        await house.until(lambda: len(house.messages) > count, 1.0)


@pytest.mark.e2e
async def test_the_longest_session_ends_with_its_reason(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["last words"], max_hours=1.0 / 3600)
    await start(house)
    house.session.say(packets[:60])
    await house.until(lambda: house.status == "Nothing is being transcribed here.")
    told = "\n".join(house.texts)
    assert "Transcriptions last at most" in told
    assert "last words" in told
    assert house.session.sinks == []
    assert "Transcribing" in await start(house)


@pytest.mark.e2e
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_shorter_limit_counts_at_once(make: Any, cancelled: bool) -> None:
    """And the end comes though a plugin cancels every task meanwhile."""
    house: House = await make(script=[], max_hours=8)
    await start(house)
    before, house.config = house.config, build(SttConfig, {"engine": "scripted", "max_hours": 1e-9}, "stt")
    await house.plugin.config_changed(house.ctx, GUILD, before, house.config)
    if cancelled:
        await house.until(lambda: any("/end:" in name for name in house.scope.task_names))
        for task in house.scope.tasks:
            task.cancel()
    await house.until(lambda: house.status == "Nothing is being transcribed here.", 5.0)
    assert "Transcriptions last at most" in house.texts[0]
