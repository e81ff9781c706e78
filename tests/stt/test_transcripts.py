"""Transcripts that are kept: on disk before they are posted, found by who may read them, gone when they should be."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import srt
import webvtt
from stt_house import ADA, BEN, GUILD, TEXT, VOICE, House, houses, lines_of
from stt_rig import packets_of

from roost.audio import VoiceSession
from roost.config import build
from roost.errors import ResourceError, StoreError
from roost.hooks import hookimpl
from roost.scopes import Scope
from roost.speech import Transcript
from roost.store import DocumentCollection, open_store
from roost_stt import transcripts
from roost_stt.config import SttConfig
from roost_stt.exports import FORMATS, Head, StoredLine, export
from roost_stt.transcripts import DAY_S, TranscriptBook

HEAD = Head("abc234", GUILD, VOICE, TEXT, 1_800_000_000.0, 1_800_000_600.0, ADA)
SAID = [
    StoredLine(BEN, "Ben", "and I at the same time", 1_800_000_001.5, 1_800_000_004.0, "en", 0.8),
    StoredLine(
        ADA, "Ada *<b>*\n-->", "one --> two\n\n3\n00:00:01,000 & <i>", 1_800_000_001.0, 1_800_000_003.25, "en", 0.9
    ),
    StoredLine(ADA, "\u202e", "@everyone [x](http://y)", 1_800_003_700.0, 1_800_003_700.0),
]


@pytest.mark.unit
def test_srt_is_what_a_strict_parser_takes() -> None:
    cues = list(srt.parse(export(HEAD, SAID, "srt"), ignore_errors=False))
    assert [cue.index for cue in cues] == [1, 2, 3]
    assert [cue.start.total_seconds() for cue in cues] == [1.0, 1.5, 3700.0]
    assert all(cue.end > cue.start for cue in cues)
    assert cues[0].content == "Ada *<b>* ->: one -> two 3 00:00:01,000 & <i>"
    assert cues[2].content.startswith("Someone: ")


@pytest.mark.unit
def test_vtt_is_what_a_strict_parser_takes() -> None:
    text = export(HEAD, SAID, "vtt")
    cues = webvtt.from_buffer(io.StringIO(text)).captions
    assert [cue.start for cue in cues] == ["00:00:01.000", "00:00:01.500", "01:01:40.000"]
    assert cues[1].voice == "Ben"
    assert cues[1].text == "and I at the same time"
    assert "<v Ada *&lt;b&gt;* --&gt;>one --&gt; two 3 00:00:01,000 &amp; &lt;i&gt;" in text


@pytest.mark.unit
def test_json_names_everything_with_ids_as_text() -> None:
    found = json.loads(export(HEAD, SAID, "json"))
    assert found["version"] == 1
    assert found["guild_id"] == str(GUILD)
    first = found["lines"][0]
    assert first["text"] == SAID[1].text
    assert (first["user_id"], first["language"], first["confidence"]) == (str(ADA), "en", 0.9)
    assert first["started_at"] < first["ended_at"]


@pytest.mark.unit
def test_to_read_nothing_formats_or_breaks_a_line() -> None:
    assert export(HEAD, SAID, "txt").splitlines()[1:] == [
        "[08:00:01] Ben: and I at the same time",
        "[09:01:40] Someone: @everyone [x](http://y)",
    ]
    shown = export(HEAD, SAID, "md").splitlines()
    assert shown[0] == "# Transcript abc234, 2027-01-15 08:00 UTC"
    assert len(shown) == 5
    assert "\\[x\\]\\(http\\:\\/\\/y\\)" in shown[4]


@pytest.mark.unit
@pytest.mark.parametrize("kind", FORMATS)
def test_one_without_lines_is_a_file_all_the_same(kind: str) -> None:
    text = export(HEAD, [], kind)
    if kind == "srt":
        assert list(srt.parse(text)) == []
    if kind == "vtt":
        assert webvtt.from_buffer(io.StringIO(text)).captions == []
    if kind == "json":
        assert json.loads(text)["lines"] == []


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[TranscriptBook]:
    async with open_store(tmp_path) as store:
        yield TranscriptBook(store.of_plugin("stt"), {GUILD: 7, 2: 0}.__getitem__)


def line(user: int = ADA, text: str = "hello", at: float = 100.0) -> Transcript:
    return Transcript(1, GUILD, user, text, at, at + 1.0, "en", 0.5)


@pytest.mark.sim
async def test_a_record_is_made_with_its_first_line(book: TranscriptBook) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    assert await book.newest(GUILD, lambda _head: True) == []
    await keeper.keep(line(at=102.0, text="second"), "Ada")
    await keeper.keep(line(BEN, "first", 101.0), "Ben")
    ((head, count),) = await book.newest(GUILD, lambda _head: True)
    assert (head.id, head.ended_at, head.started_by, count) == (keeper.head.id, None, ADA, 2)
    found = await book.find(GUILD, head.id)
    assert found is not None
    assert [each.text for each in await lines_of(book, found[0])] == ["first", "second"]
    assert await book.find(2, head.id) is None
    assert await book.newest(GUILD, lambda _head: False) == []
    await keeper.close()
    ((head, _),) = await book.newest(GUILD, lambda _head: True)
    assert head.ended_at == pytest.approx(time.time(), abs=5)


@pytest.mark.sim
async def test_a_transcript_in_which_nobodys_words_are_left_is_gone(book: TranscriptBook) -> None:
    ended, shared, going_on = (book.begin(GUILD, VOICE, TEXT, BEN) for _ in range(3))
    for keeper in (ended, shared, going_on):
        await keeper.keep(line(ADA), "Ada")
    await shared.keep(line(BEN), "Ben")
    await ended.close()
    await shared.close()
    await book.forget(ADA)
    assert [head.id for head, _ in await book.newest(GUILD, lambda _head: True)] == [shared.head.id]
    assert await book.find(GUILD, ended.head.id) is None
    await going_on.keep(line(ADA), "Ada")
    assert len(await book.newest(GUILD, lambda _head: True)) == 2
    await book.forget(ADA)
    await going_on.keep(line(BEN), "Ben", lambda: False)
    await going_on.close()
    assert await book.find(GUILD, going_on.head.id) is None


@pytest.mark.sim
@pytest.mark.parametrize("refuses", [BEN, None], ids=["withdrawn", "heard"])
async def test_withdrawn_line_that_the_store_keeps_is_deleted_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: int | None
) -> None:
    async def fails(_key: str) -> bool:
        raise StoreError("database is locked")

    async with open_store(tmp_path) as store:
        plugin_store = store.of_plugin("stt")
        book = TranscriptBook(plugin_store, lambda _guild: 7)
        keeper = book.begin(GUILD, VOICE, TEXT, ADA)
        await keeper.keep(line(BEN, "posted before", 105.0), "Ben")
        monkeypatch.setattr(book._lines, "delete", fails)
        await keeper.keep(line(BEN, "withdrawn", 101.0), "Ben", lambda: False)
        with pytest.raises(StoreError):
            await keeper.keep(line(ADA, "after it", 110.0), "Ada")
        await keeper.close()
        following = TranscriptBook(plugin_store, lambda _guild: 7)
        assert len(await following.end_interrupted(lambda _guild, user: user != refuses)) == 1
        texts = [each.text for each in await lines_of(following, keeper.key)]
    assert texts == (["posted before"] if refuses else ["withdrawn", "posted before"])


@pytest.mark.sim
async def test_line_on_its_way_is_gone_when_its_speaker_is_forgotten(
    book: TranscriptBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, arrived, goes_on = book._lines.put, asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any, **fields: Any) -> None:
        arrived.set()
        await goes_on.wait()
        await put(*args, **fields)

    async def fails(_key: str) -> bool:
        raise StoreError("database is locked")

    monkeypatch.setattr(book._lines, "put", slowly)
    monkeypatch.setattr(book._lines, "delete", fails)
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    keeping = asyncio.create_task(keeper.keep(line(BEN, "withdrawn"), "Ben", lambda: False))
    await arrived.wait()
    forgetting = asyncio.create_task(book.forget(BEN))
    await asyncio.sleep(0.1)
    goes_on.set()
    await asyncio.gather(keeping, forgetting)
    assert await lines_of(book, keeper.key) == []


@pytest.mark.sim
async def test_a_transcript_is_gone_with_its_last_line_that_is_withdrawn_late(
    book: TranscriptBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    put = book._lines.put

    async def ends_meanwhile(*arguments: Any, **more: Any) -> None:
        await put(*arguments, **more)
        await keeper.close()

    monkeypatch.setattr(book._lines, "put", ends_meanwhile)
    await keeper.keep(line(), "Ada", lambda: False)
    assert await book.find(GUILD, keeper.head.id) is None


@pytest.mark.sim
async def test_a_transcript_without_words_that_a_crash_left_open_is_gone(book: TranscriptBook) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, BEN)
    await keeper.keep(line(), "Ada")
    await book.forget(ADA)
    assert await book.find(GUILD, keeper.head.id) is not None
    assert await book.end_interrupted() == [], "there is nothing to tell of"
    assert await book.find(GUILD, keeper.head.id) is None


@pytest.mark.sim
async def test_where_none_are_kept_none_are(book: TranscriptBook) -> None:
    keeper = book.begin(2, VOICE, TEXT, ADA)
    await keeper.keep(line(), "Ada")
    await keeper.close()
    assert await book.newest(2, lambda _head: True) == []


@pytest.mark.sim
async def test_what_a_crash_left_open_ends_with_its_last_line(book: TranscriptBook) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    await keeper.keep(line(at=500.0), "Ada")
    (ended,) = await book.end_interrupted()
    assert ended.ended_at == 501.0
    assert await book.end_interrupted() == []
    again = await book.resume(keeper.key)
    assert again is not None
    assert again.key == keeper.key
    await again.keep(line(at=600.0), "Ada")
    ((head, count),) = await book.newest(GUILD, lambda _head: True)
    assert (head.ended_at, count) == (None, 2)


@pytest.mark.sim
async def test_the_sweep_takes_what_is_over_its_time_and_nothing_else(book: TranscriptBook) -> None:
    old, new, live = (book.begin(GUILD, VOICE, TEXT, ADA) for _ in range(3))
    for keeper in (old, new, live):
        await keeper.keep(line(), "Ada")
    now = time.time()
    await book.end(old.key, now - 7 * DAY_S - 1)
    await book.end(new.key, now - 7 * DAY_S + 60)
    assert await book.sweep(now) == 1
    assert {head.id for head, _ in await book.newest(GUILD, lambda _head: True)} == {new.head.id, live.head.id}
    assert await lines_of(book, old.key) == []


@pytest.mark.sim
async def test_nothing_is_kept_longer_than_its_speakers_were_told(tmp_path: Path) -> None:
    days = {GUILD: 7}
    async with open_store(tmp_path) as store:
        book = TranscriptBook(store.of_plugin("stt"), lambda guild: days[guild])
        told_7 = book.begin(GUILD, VOICE, TEXT, ADA)
        await told_7.keep(line(), "Ada")
        await told_7.close()
        days[GUILD] = 0
        told_0 = book.begin(GUILD, VOICE, TEXT, ADA)
        days[GUILD] = 30
        assert await book.resume(told_7.key) is None, "what is said now is kept for longer"
        await told_0.keep(line(), "Ada")
        now = time.time()
        assert await book.sweep(now + 7 * DAY_S - 60) == 0
        assert await book.sweep(now + 7 * DAY_S + 60) == 1
        told_30 = book.begin(GUILD, VOICE, TEXT, ADA)
        await told_30.keep(line(), "Ada")
        await told_30.close()
        days[GUILD] = 1
        assert await book.sweep(now + DAY_S + 60) == 1, "a shorter setting counts for all"


@pytest.mark.sim
async def test_a_person_can_see_and_delete_all_that_is_about_them(book: TranscriptBook) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    await keeper.keep(line(ADA, "mine"), "Ada")
    await keeper.keep(line(BEN, "his"), "Ben")
    told = await book.about(ADA)
    assert [each["text"] for each in told["lines"].values()] == ["mine"]
    assert [each["id"] for each in told["begun"].values()] == [keeper.head.id]
    assert "begun" not in await book.about(BEN)
    await book.forget(ADA)
    assert await book.about(ADA) == {}
    ((head, count),) = await book.newest(GUILD, lambda _head: True)
    assert (head.started_by, count) == (0, 1)


@pytest.mark.sim
async def test_who_began_a_transcription_is_not_written_after_they_are_forgotten(book: TranscriptBook) -> None:
    keeper, resumed = book.begin(GUILD, VOICE, TEXT, ADA), book.begin(GUILD, VOICE, TEXT, ADA)
    await resumed.keep(line(BEN), "Ben")
    again = await book.resume(resumed.key)
    assert again is not None
    await book.forget(ADA)
    await keeper.keep(line(BEN), "Ben")
    assert (keeper.head.started_by, again.head.started_by) == (0, 0), "for the transcripts that follow too"
    assert [head.started_by for head, _ in await book.newest(GUILD, lambda _head: True)] == [0, 0]


@pytest.mark.sim
async def test_who_began_a_record_that_is_just_being_made_is_forgotten(
    book: TranscriptBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    put, forgetting = DocumentCollection.put, list[asyncio.Task[None]]()

    async def meanwhile(self: DocumentCollection, *args: Any, **options: Any) -> None:
        if not forgetting:
            forgetting.append(asyncio.create_task(book.forget(ADA)))
            await asyncio.wait(forgetting, timeout=0.3)
        await put(self, *args, **options)

    monkeypatch.setattr(DocumentCollection, "put", meanwhile)
    await keeper.keep(line(BEN), "Ben")
    await forgetting[0]
    assert [head.started_by for head, _ in await book.newest(GUILD, lambda _head: True)] == [0]


@pytest.mark.sim
async def test_a_transcription_that_ends_while_somebody_is_forgotten_has_ended(
    book: TranscriptBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    await keeper.keep(line(BEN), "Ben")
    put, ending = DocumentCollection.put, list[asyncio.Task[None]]()

    async def meanwhile(self: DocumentCollection, *args: Any, **options: Any) -> None:
        if not ending:
            ending.append(asyncio.create_task(keeper.close()))
            await asyncio.wait(ending, timeout=0.3)
        await put(self, *args, **options)

    monkeypatch.setattr(DocumentCollection, "put", meanwhile)
    await book.forget(ADA)
    await ending[0]
    ((head, _),) = await book.newest(GUILD, lambda _head: True)
    assert (head.started_by, head.ended_at is not None) == (0, True)


@pytest.mark.sim
async def test_a_transcription_that_ends_while_its_record_is_made_has_ended(
    book: TranscriptBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = book.begin(GUILD, VOICE, TEXT, ADA)
    put, ended = DocumentCollection.put, False

    async def meanwhile(self: DocumentCollection, *args: Any, **options: Any) -> None:
        nonlocal ended
        await put(self, *args, **options)
        if not ended:
            ended = True
            await keeper.close()

    monkeypatch.setattr(DocumentCollection, "put", meanwhile)
    await keeper.keep(line(), "Ada")
    ((head, _),) = await book.newest(GUILD, lambda _head: True)
    assert head.ended_at is not None


# In the plugin --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    async with houses() as build_house:
        yield build_house


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0880")


async def stored(house: House) -> list[StoredLine]:
    book = house.plugin.book
    records = [await book.find(GUILD, head.id) for head, _ in await book.newest(GUILD, lambda _head: True)]
    return [line for found in records if found is not None for line in await lines_of(book, found[0])]


@pytest.mark.e2e
async def test_a_line_is_on_disk_before_it_is_posted(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    at_posting: list[list[StoredLine]] = []
    post = house.bot.rest.create_message

    async def looks_first(channel: int, text: str, **options: Any) -> None:
        at_posting.append(await stored(house))
        await post(channel, text, **options)

    house.bot.rest.create_message = looks_first
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    ((first,),) = at_posting
    # What the other plugins made of it is what is kept.
    assert (first.user_id, first.name, first.text) == (
        ADA,
        "Ada*",
        house.guest.ready[0].text if house.guest.ready else "hello",
    )
    assert first.ended_at > first.started_at
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    ((head, count),) = await house.plugin.book.newest(GUILD, lambda _head: True)
    assert (head.started_by, count, head.ended_at is not None) == (ADA, 1, True)


@pytest.mark.e2e
async def test_consent_taken_back_while_a_line_is_stored_takes_the_line_back(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    add, gone = house.plugin.book.add, asyncio.Event()

    async def adds_slowly(record: str, words: Transcript, name: str, is_wanted: Callable[[], bool]) -> None:
        def is_wanted_now() -> bool:
            house.opt_out(ADA)
            gone.set()
            return is_wanted()

        await add(record, words, name, is_wanted_now)

    house.plugin.book.add = adds_slowly  # type: ignore[method-assign]
    house.session.say(packets)
    async with asyncio.timeout(10):
        await gone.wait()
    await house.close()
    assert house.texts == []
    assert await stored(house) == []


@pytest.mark.e2e
async def test_a_store_that_refuses_is_told_once_and_captions_go_on(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)

    async def refuses(*_arguments: Any) -> str:
        raise ResourceError("the disk is full")

    house.plugin.book.add = refuses  # type: ignore[method-assign]
    house.session.say(packets)
    await house.until(lambda: len(house.texts) >= 2)
    await house.close()
    assert sum("could not be stored" in text for text in house.texts) == 1
    assert any("Ada" in text for text in house.texts)


@pytest.mark.e2e
async def test_a_reload_goes_on_in_the_same_transcript(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: len(house.texts) == 1)
    await house.unload("reload")
    await house.load()
    await house.open()
    await house.until(lambda: bool(house.session.sinks))
    house.session.say(packets)
    await house.until(lambda: len(house.texts) == 2)
    ((head, count),) = await house.plugin.book.newest(GUILD, lambda _head: True)
    assert (head.ended_at, count) == (None, 2)


class Changes:
    """A plugin that changes some fields of each line."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    @hookimpl
    async def transcript_process(self, session: VoiceSession, draft: Transcript) -> Transcript:
        return dataclasses.replace(draft, **self.fields)


@pytest.mark.e2e
@pytest.mark.parametrize("fields", [{"user_id": 0}, {"user_id": BEN}, {"guild_id": GUILD + 1}])
async def test_a_line_that_a_plugin_gives_to_somebody_else_is_dropped(
    make: Any, packets: list[bytes], fields: dict[str, int]
) -> None:
    house: House = await make(script=["hello"])
    house.dispatcher.manager.register(Changes(**fields), "guest")
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: any("which checks it, failed" in text for text in house.texts))
    assert await stored(house) == []
    assert not any("hello" in text for text in house.texts)
    assert house.dispatcher.failures["guest", "transcript_process"] == 1


@pytest.mark.e2e
@pytest.mark.parametrize("changed", [True, False])
async def test_the_times_of_words_are_kept_only_with_the_text_they_belong_to(
    make: Any, packets: list[bytes], *, changed: bool
) -> None:
    house: House = await make(script=["my card number"], word_timestamps=True)
    house.dispatcher.manager.register(Changes(text="my ...") if changed else Changes(), "guest")
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: len(house.texts) == 1)
    (line,) = await stored(house)
    assert [word for _start, _end, word in line.words] == ([] if changed else ["my", "card", "number"])


@pytest.mark.e2e
async def test_captions_that_a_forgotten_member_left_are_offered_again(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: len(house.texts) == 1)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    first = await house.plugin.user_data_leftover(ADA)
    assert first is not None
    await house.plugin.user_data_delete(ADA, "forget-me")
    again = await house.plugin.user_data_leftover(ADA)
    assert again is not None
    assert again.what == first.what == "your captions in 1 message at Discord"


@pytest.mark.e2e
async def test_a_line_that_is_late_for_a_longer_time_of_keeping_is_not_kept(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost_stt.plugin.STOP_DRAIN_S", 0.5)
    thinking, has_thought = asyncio.Event(), asyncio.Event()

    class Slow:
        @hookimpl
        async def transcript_process(self, session: VoiceSession, draft: Transcript) -> None:
            thinking.set()
            await has_thought.wait()

    house: House = await make(script=["hello"], retention_days=7)
    house.dispatcher.manager.register(Slow(), "guest")
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    async with asyncio.timeout(10):
        await thinking.wait()
    old, house.config = house.config, build(SttConfig, {"engine": "scripted", "retention_days": 30}, "stt")
    await house.plugin.config_changed(house.ctx, GUILD, old, house.config)
    await house.until(lambda: bool(house.session.sinks))
    has_thought.set()
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert await stored(house) == []
    assert not any("hello" in text for text in house.texts)
    assert any("did not become text in time" in text for text in house.texts)


@pytest.mark.e2e
async def test_nobody_is_heard_again_in_the_middle_of_a_change(make: Any) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    await house.plugin.pause_transcribing(GUILD, ADA, False, paused=True)
    async with house.plugin._running[GUILD].changing:
        going_on = asyncio.create_task(house.plugin.pause_transcribing(GUILD, ADA, False, paused=False))
        await asyncio.sleep(0.05)
        assert house.session.sinks == []
    await going_on
    assert len(house.session.sinks) == 1


@pytest.mark.e2e
async def test_the_job_that_deletes_runs_with_the_plugin(make: Any) -> None:
    house: House = await make(script=["hello"], retention_days=2)
    book = house.plugin.book
    kept = []
    for days in (1.5, 2.5):
        keeper = book.begin(GUILD, VOICE, TEXT, ADA)
        await keeper.keep(line(), "Ada")
        await book.end(keeper.key, time.time() - days * DAY_S)
        kept.append(keeper)
    await house.unload("reload")
    await house.load()
    async with asyncio.timeout(10):
        while len(found := await house.plugin.book.newest(GUILD, lambda _head: True)) > 1:
            await asyncio.sleep(0.01)
    assert [head.id for head, _ in found] == [kept[0].head.id]
    assert await lines_of(house.plugin.book, kept[1].key) == []


@pytest.mark.e2e
async def test_who_is_forgotten_while_a_transcription_starts_did_not_begin_it(
    make: Any, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    check = house.plugin.check_channel

    async def forgotten_meanwhile(guild_id: int, channel_id: int, manages: bool) -> str:
        await house.plugin.user_data_delete(ADA, "user request")
        return await check(guild_id, channel_id, manages)

    monkeypatch.setattr(house.plugin, "check_channel", forgotten_meanwhile)
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: bool(house.messages))
    ((head, _),) = await house.plugin.book.newest(GUILD, lambda _head: True)
    assert head.started_by == 0


@pytest.mark.e2e
async def test_forgetting_a_speaker_in_mid_session_takes_what_is_queued_too(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: len(house.texts) == 1)
    assert await house.plugin.user_data_export(ADA) is not None
    await house.plugin.user_data_delete(ADA, "user request")
    assert await house.plugin.user_data_export(ADA) is None
    assert await stored(house) == []


@pytest.mark.e2e
@pytest.mark.parametrize("error", [StoreError("busy", retryable=True), TypeError("of its own"), None])
async def test_withdrawn_line_that_the_store_keeps_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Also if it fails in another way, or a plugin cancels every task (None)."""
    monkeypatch.setattr(transcripts, "AGAIN_S", (0.01,))
    async with open_store(tmp_path) as store, contextlib.aclosing(Scope("test")) as scope:
        book = TranscriptBook(store.of_plugin("stt"), lambda _guild: 7)
        scope.keep(book.catch_up_forever, "drop")
        keeper = book.begin(GUILD, VOICE, TEXT, ADA)
        delete, failures = book._lines.delete, iter(range(3))

        async def fails(key: str) -> bool:
            match next(failures, None):
                case 0:
                    raise StoreError("busy", retryable=True)
                case 1 if error is not None:
                    raise error
                case 1:
                    for task in scope.tasks:
                        task.cancel()
                    await asyncio.sleep(5)
            return await delete(key)

        monkeypatch.setattr(book._lines, "delete", fails)
        await keeper.keep(Transcript(1, GUILD, ADA, "words", 1.0, 2.0), "Ada", lambda: False)
        assert len(await lines_of(book, keeper.key)) == 1
        async with asyncio.timeout(5):
            while await lines_of(book, keeper.key):
                await asyncio.sleep(0.01)


@pytest.mark.e2e
@pytest.mark.parametrize("what", ["the end", "a withdrawn line"])
async def test_what_must_be_stored_is_stored_though_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """As by a plugin that cancels every task."""
    monkeypatch.setattr(transcripts, "AGAIN_S", (0.01,))
    async with open_store(tmp_path) as store, contextlib.aclosing(Scope("test")) as scope:
        book = TranscriptBook(store.of_plugin("stt"), lambda _guild: 7)
        keeper = book.begin(GUILD, VOICE, TEXT, ADA)
        await keeper.keep(Transcript(1, GUILD, ADA, "words", 1.0, 2.0), "Ada")
        entered = asyncio.Event()

        async def hangs(*_arguments: Any, **_options: Any) -> None:
            entered.set()
            await asyncio.Event().wait()

        withdrawn = Transcript(2, GUILD, ADA, "withdrawn", 2.0, 3.0)
        work = keeper.close() if what == "the end" else keeper.keep(withdrawn, "Ada", lambda: False)
        with monkeypatch.context() as patched:
            patched.setattr(book, "_change" if what == "the end" else "_erase", hangs)
            task = asyncio.create_task(work)
            await entered.wait()
            task.cancel()
            await asyncio.wait({task})
        scope.keep(book.catch_up_forever, "unstored")
        async with asyncio.timeout(5):
            if what == "the end":
                while (await book.find(GUILD, keeper.head.id) or ("", keeper.head))[1].ended_at is None:
                    await asyncio.sleep(0.01)
            while len(await lines_of(book, keeper.key)) != 1:
                await asyncio.sleep(0.01)


@pytest.mark.e2e
async def test_transcript_ends_though_the_end_of_its_session_is_cancelled(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house: House = await make(script=[])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    transcription = house.plugin._running[GUILD]
    entered = asyncio.Event()

    async def hangs() -> None:
        entered.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(transcription, "close", hangs)
        task = asyncio.create_task(house.close())
        await entered.wait()
        task.cancel()
        await asyncio.wait({task})
    assert transcription.keeper.head.ended_at is not None
    await transcription.close()
