"""What is said before it is finished: in the worker's queue, and from the real process."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from pathlib import Path

import draft_engine
import pytest
from draft_engine import calls
from stt_rig import Build, Rig, packets_of

from roost.audio import SILENCE_FRAME
from roost.speech import Transcript
from roost_stt.partials import OpenPartials, Partial
from roost_stt.protocol.agreement import words_of
from roost_stt.protocol.segmenter import Cut, Segment
from roost_stt.protocol.wishes import Wish
from roost_stt.supervision import State, Trouble
from roost_stt.worker.backlog import MAX_DRAFTS, Backlog
from roost_stt.worker.drafts import EVERY_MS, Drafts
from roost_stt.worker.utterances import Key, Spoken

ADA: Key = (1, 7)
BEN: Key = (1, 8)
FAREWELL = [SILENCE_FRAME] * 5


def segment(mark: int, cut: Cut = Cut.GAP) -> Segment:
    return Segment(bytes(32_000), mark, mark + 50, 0.0, 1.0, 900, cut)


def spoken(key: Key, mark: int = 1, cut: Cut = Cut.GAP) -> Spoken:
    return Spoken(*key, segment(mark, cut))


class Desk:
    """A backlog, the drafts offered to it, and what was told."""

    def __init__(self, every_ms: int = EVERY_MS) -> None:
        self.drained: list[int] = []
        self.backlog = Backlog(lambda _lost: None, self.drained.append)
        self.told: list[tuple[Key, int, str]] = []
        self.wanted = True
        self.drafts = Drafts(
            lambda _guild: self.wanted, self.backlog, lambda *what: self.told.append(what), every_ms=every_ms
        )

    def hear(self, key: Key, mark: int | None, speech_ms: int, *ended: Segment) -> None:
        self.drafts.look(key, mark, speech_ms, lambda: segment(mark or 0, Cut.NONE), ended)

    def draft(self, key: Key, mark: int, speech_ms: int, text: str) -> None:
        """All the way: heard, offered, taken, understood."""
        self.hear(key, mark, speech_ms)
        batch = self.backlog.take(8)
        assert batch.is_draft
        self.drafts.heard(batch.items[0], text)
        self.backlog.done()


@pytest.mark.unit
def test_drafts_come_last_and_one_at_a_time() -> None:
    backlog = Desk().backlog
    for key in (ADA, BEN):
        backlog.draft(spoken(key))
    assert [(item.user_id, batch.is_draft) for batch in (backlog.take(8),) for item in batch.items] == [(7, True)]
    backlog.put(spoken((1, 9)))
    batch = backlog.take(8)
    assert (len(batch.items), batch.is_draft) == (1, False)
    assert backlog.stats()["partials_shed"] == 1  # Ben's, which had waited


@pytest.mark.unit
def test_nothing_is_drafted_while_a_final_waits() -> None:
    backlog = Desk().backlog
    backlog.put(spoken(ADA))
    backlog.draft(spoken(BEN))
    assert not backlog.take(8).is_draft
    stats = backlog.stats()
    assert (stats["partials_shed"], stats["drafts"]) == (1, 0)


@pytest.mark.unit
def test_a_newer_draft_takes_the_place_of_the_one_before() -> None:
    backlog = Desk().backlog
    for mark in range(3):
        backlog.draft(spoken(ADA, mark))
    for user in range(100, 100 + MAX_DRAFTS):
        backlog.draft(spoken((1, user)))
    taken = [backlog.take(8).items[0] for _ in range(MAX_DRAFTS)]
    assert taken[0].segment.first_mark == 2
    assert backlog.stats()["partials_shed"] == 2 + 1


@pytest.mark.unit
def test_a_drain_does_not_wait_for_a_draft() -> None:
    desk = Desk()
    desk.backlog.draft(spoken(ADA))
    assert desk.backlog.take(8).is_draft
    desk.backlog.drain(1, 5)
    assert desk.drained == [5]


@pytest.mark.unit
def test_after_a_draft_the_engine_rests_but_not_from_finals() -> None:
    backlog = Desk().backlog
    backlog.rest_drafts(60.0)
    backlog.draft(spoken(ADA))
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(backlog.take(8).is_draft))
    thread.start()
    thread.join(0.1)
    assert taken == []
    backlog.put(spoken(BEN))
    thread.join(5)
    assert taken == [False]


@pytest.mark.unit
def test_every_so_much_speech_a_draft_and_none_in_silence() -> None:
    desk = Desk(700)
    for speech_ms in range(0, 3000, 32):
        desk.hear(ADA, 1, speech_ms)
        desk.hear(ADA, 1, speech_ms)  # silence: no more speech than before
    assert desk.backlog.stats()["partials_shed"] == 3  # of four, each in place of the one before


@pytest.mark.unit
@pytest.mark.parametrize("becomes", ["a final", "noise", "the next utterance", "unwanted", "forgotten"])
def test_an_utterance_that_is_over_gets_no_more_words(becomes: str) -> None:
    desk = Desk()
    desk.draft(ADA, 1, 700, "one two")
    desk.draft(ADA, 1, 1400, "one two three")
    assert desk.told == [(ADA, 1, "one two")]
    desk.hear(ADA, 1, 2100)
    running = desk.backlog.take(8).items[0]
    desk.hear(ADA, 1, 2800)  # one waits, too
    if becomes == "a final":
        desk.hear(ADA, None, 0, segment(1))
    elif becomes == "noise":
        desk.hear(ADA, None, 0)
    elif becomes == "the next utterance":
        desk.hear(ADA, 60, 32, segment(1, Cut.LENGTH))
    elif becomes == "unwanted":
        desk.wanted = False
        desk.hear(ADA, 1, 2832)
    else:
        desk.drafts.forget(ADA)
    desk.drafts.heard(running, "one two three four")
    if becomes == "the next utterance":  # whose first draft says nothing yet
        desk.drafts.heard(spoken(ADA, 60), "one two three four")
    void = becomes in ("noise", "unwanted")
    assert desk.told[1:] == ([(ADA, 1, "")] if void else [])
    desk.backlog.put(spoken(BEN))
    assert not desk.backlog.take(8).is_draft
    assert desk.backlog.stats()["partials_shed"] == 0


@pytest.mark.unit
def test_every_partial_told_ends() -> None:
    told: list[Partial] = []
    partials = OpenPartials(told.append)
    for mark in (1, 60):
        partials.take(Partial(1, 7, mark, "x"))
    partials.over(ADA, 50)  # what was lost began before
    partials.final(ADA, 1)
    assert len(told) == 2
    partials.over(ADA, 70)
    assert told[2:] == [Partial(1, 7, 60, "")]
    partials.take(Partial(1, 8, 80, "y"))
    partials.final(BEN, 80)
    partials.take(Partial(2, 7, 90, "z"))
    partials.all_over()
    partials.all_over()
    assert told[4:] == [Partial(2, 7, 90, "z"), Partial(2, 7, 90, "")]


# ---- the real process


@pytest.fixture(autouse=True)
def draft_engine_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0920")


def check_partials(made: Rig, user: int = 7) -> None:
    """Those of an utterance grow, and none comes after its transcript."""
    shown: dict[int, str] = {}
    over: set[int] = set()
    for event in made.events:
        if event.user_id != user:
            continue
        if isinstance(event, Transcript):
            over.add(event.utterance_id)
        else:
            assert event.text
            assert event.mark not in over
            assert event.text.startswith(shown.get(event.mark, ""))
            shown[event.mark] = event.text


@pytest.mark.e2e
async def test_words_are_shown_before_the_utterance_ends(rig: Build, packets: list[bytes], tmp_path: Path) -> None:
    made = await rig(draft_engine.spec(tmp_path))
    made.worker.wish(Wish(1, partials=True))
    said = asyncio.create_task(made.say(packets + FAREWELL, real_time=True))
    await made.until_partial()
    assert not said.done()
    assert not made.transcripts
    await said
    await made.until(1)
    check_partials(made)
    first = made.transcripts[0]
    last = [each for each in made.partials if each.mark == first.utterance_id][-1]
    assert first.text.startswith(last.text)
    assert len(made.partials) >= 2
    assert all(call["users"] == [7] for call in calls(tmp_path) if call["draft"])
    assert made.worker.stats()["utterances"] == len(made.transcripts)


@pytest.mark.e2e
async def test_who_does_not_want_them_pays_nothing(rig: Build, packets: list[bytes], tmp_path: Path) -> None:
    made = await rig(draft_engine.spec(tmp_path))
    made.worker.wish(Wish(1, partials=True))
    await asyncio.gather(
        made.say(packets[:150], user=7, real_time=True), made.say(packets[:150], user=8, guild=2, real_time=True)
    )
    assert await made.drain(1)
    assert await made.drain(2)
    assert {user for call in calls(tmp_path) if call["draft"] for user in call["users"]} == {7}
    assert {each.guild_id for each in made.partials} == {1}
    assert {each.user_id for each in made.transcripts} == {7, 8}


@pytest.mark.e2e
async def test_finals_go_first(rig: Build, packets: list[bytes], tmp_path: Path) -> None:
    made = await rig(draft_engine.spec(tmp_path, delay_s=0.4))
    made.worker.wish(Wish(1, partials=True))
    talker = asyncio.create_task(made.say(packets, real_time=True))
    await made.until_partial()
    for user in range(20, 30):
        await made.say(packets[:60], user=user, guild=2)
    assert await made.drain(2)
    assert not talker.done()
    asked = calls(tmp_path)
    finals = [number for number, call in enumerate(asked) if not call["draft"]]
    # From the first on there is no draft until the last: all had been put before it was done.
    assert finals == list(range(finals[0], finals[0] + len(finals)))
    assert {user for number in finals for user in asked[number]["users"]} == set(range(20, 30))
    await talker
    assert await made.drain(1)
    assert made.worker.stats()["worker"]["partials_shed"] >= 1
    check_partials(made)


@pytest.mark.e2e
@pytest.mark.parametrize("moment", ["shown", "in the engine"])
async def test_purged_in_the_middle(rig: Build, packets: list[bytes], tmp_path: Path, moment: str) -> None:
    made = await rig(draft_engine.spec(tmp_path, delay_s=0.3))
    made.worker.wish(Wish(1, partials=True))
    said = asyncio.create_task(made.say(packets, real_time=True))
    if moment == "shown":
        await made.until_partial()
    else:
        async with asyncio.timeout(10):
            while len(calls(tmp_path)) < 2:  # which would be the first to be shown
                await asyncio.sleep(0.01)
    said.cancel()
    await asyncio.gather(said, return_exceptions=True)
    made.worker.purge(1, 7)
    known = len(made.partials)
    assert [each.text for each in made.partials[known - 1 :]] == ([""] if moment == "shown" else [])
    assert await made.worker.purged(asyncio.get_running_loop().time() + 5)
    await made.say(packets[:60], user=8)
    await made.until(1)
    assert {each.user_id for each in made.transcripts} == {8}
    assert [each for each in made.partials[known:] if each.user_id == 7] == []


@pytest.mark.e2e
async def test_a_draft_that_kills_the_worker_is_on_nobodys_account(
    rig: Build, packets: list[bytes], tmp_path: Path
) -> None:
    made = await rig(draft_engine.spec(tmp_path, draft="crash"), backoff_s=(0.0,))
    made.worker.wish(Wish(1, partials=True))
    await made.say(packets + FAREWELL, real_time=True)
    await made.until(1)
    assert made.worker.state is State.READY
    assert [what for what, *_ in made.troubles] == [Trouble.CRASHED]
    assert made.worker.stats()["blamed"] == {}
    # The new one leaves drafts alone for a while, or it would go on dying.
    assert sum(call["draft"] for call in calls(tmp_path)) == 1
    assert made.worker.stats()["utterances_lost"] == 0


@pytest.mark.e2e
async def test_words_shown_are_void_when_the_worker_dies(rig: Build, packets: list[bytes], tmp_path: Path) -> None:
    made = await rig(draft_engine.spec(tmp_path), backoff_s=(0.0,))
    made.worker.wish(Wish(1, partials=True))
    said = asyncio.create_task(made.say(packets + FAREWELL, real_time=True))
    await made.until_partial()
    assert made.worker._process is not None
    made.worker._process.kill()
    await said
    await made.until(1)
    # Nobody drafts what is heard again: its transcript comes soon enough.
    assert [bool(each.text) for each in made.partials] == [True] * (len(made.partials) - 1) + [False]


@pytest.mark.e2e
async def test_an_engine_that_cannot_draft_loses_nothing(rig: Build, packets: list[bytes], tmp_path: Path) -> None:
    made = await rig(draft_engine.spec(tmp_path, draft="fail"))
    made.worker.wish(Wish(1, partials=True))
    await made.say(packets + FAREWELL, real_time=True)
    await made.until(1)
    assert made.partials == []
    assert made.troubles == []
    assert sum(call["draft"] for call in calls(tmp_path)) <= 2  # it is not asked again for a while


@pytest.mark.e2e
async def test_a_drain_in_the_middle_of_a_draft(rig: Build, packets: list[bytes], tmp_path: Path) -> None:
    made = await rig(draft_engine.spec(tmp_path, delay_s=0.5))
    made.worker.wish(Wish(1, partials=True))
    said = asyncio.create_task(made.say(packets, real_time=True))
    async with asyncio.timeout(10):
        while not calls(tmp_path):
            await asyncio.sleep(0.01)
    said.cancel()
    await asyncio.gather(said, return_exceptions=True)
    assert await made.drain(1, 5.0)
    assert len(made.transcripts) == 1
    assert made.partials == []
    assert [call["draft"] for call in calls(tmp_path)] == [True, False]


@pytest.mark.e2e
async def test_a_wish_changed_in_the_middle(rig: Build, packets: list[bytes], tmp_path: Path) -> None:
    made = await rig(draft_engine.spec(tmp_path))
    made.worker.wish(Wish(1, partials=True))
    said = asyncio.create_task(made.say(packets + FAREWELL, real_time=True))
    await made.until_partial()
    made.worker.wish(Wish(1))
    async with asyncio.timeout(5):
        while made.partials[-1].text:
            made.changed.clear()
            await made.changed.wait()
    known = len(made.partials)
    await said
    await made.until(1)
    assert len(made.partials) == known


@pytest.mark.e2e
async def test_whisper_shows_the_words_as_they_are_said(rig: Build, tmp_path: Path) -> None:
    made = await rig(draft_engine.recorded(tmp_path))
    made.worker.wish(Wish(1, partials=True))
    said = asyncio.create_task(made.say(packets_of("jfk") + FAREWELL, real_time=True))
    await made.until_partial()
    assert not said.done()
    assert not made.transcripts
    await said
    assert await made.drain()
    assert "your country" in made.text()
    check_partials(made)
    assert len(made.partials) >= 2
    drafts = [call for call in calls(tmp_path) if call["draft"]]
    for partial in made.partials:
        texts = [plain(call["texts"][0]) for call in drafts if call["ids"] == [partial.mark]]
        shown = plain(partial.text)
        assert any(one[: len(shown)] == shown == other[: len(shown)] for one, other in itertools.pairwise(texts))


def plain(text: str) -> list[str]:
    return [word for word, _ in words_of(text)]
