"""Where somebody's captions stand is known, and they are taken out of messages without harm to others' captions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import hikari
import pytest

from roost.errors import StoreCause, StoreError
from roost.scopes import Scope
from roost.store import DocumentCollection, Store, open_store
from roost.store.documents import QUERY_LIMIT
from roost_stt import posted
from roost_stt.pages import Cut, Page
from roost_stt.posted import Deleted, NotedCut, Posted, PostedCaptions, words

pytestmark = pytest.mark.unit

GUILD, CHANNEL = 1, 2
ADA, BEN, CAI, DAN = 11, 12, 13, 14


class Channel:
    """Stands for `hikari.api.RESTClient` with the messages of one channel."""

    def __init__(self, messages: dict[int, str]) -> None:
        self.messages = messages
        self.errors: dict[int, Exception] = {}
        self.hangs: set[int] = set()

    async def fetch_message(self, _channel: int, message: int) -> Any:
        if message in self.hangs:
            await asyncio.Event().wait()
        if message in self.errors:
            raise self.errors[message]
        if message not in self.messages:
            raise hikari.NotFoundError("", cast("Any", {}), "", code=10008, message="Unknown Message")
        return SimpleNamespace(content=self.messages[message])

    async def edit_message(self, _channel: int, message: int, text: str, **_options: Any) -> None:
        self.messages[message] = text

    async def delete_message(self, _channel: int, message: int) -> None:
        del self.messages[message]


def refusal(kind: type[hikari.ClientHTTPResponseError]) -> Exception:
    return kind("", cast("Any", {}), "", code=50013, message="no")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def captions(store: Store) -> PostedCaptions:
    return PostedCaptions(store.of_plugin("stt"))


async def take_out(captions: PostedCaptions, channel: Channel, user_id: int) -> Deleted:
    return await captions.delete(cast("hikari.api.RESTClient", channel), await captions.of(user_id))


async def test_others_captions_stay_also_when_one_after_the_other_is_forgotten(captions: PostedCaptions) -> None:
    channel = Channel({5: "**Ada**: a\n**Ben**: b\n**Roost**: x\n**Ada**: c\n**Cai**: d", 6: "**Ada**: alone"})
    captions.note(GUILD, (CHANNEL, 5), (ADA, BEN, 0, ADA, CAI))
    captions.note(GUILD, (CHANNEL, 6), (ADA,))
    assert (await take_out(captions, channel, ADA)).gone == 2
    assert channel.messages == {5: "**Ben**: b\n**Roost**: x\n**Cai**: d"}
    assert (await take_out(captions, channel, CAI)).gone == 1
    assert channel.messages == {5: "**Ben**: b\n**Roost**: x"}
    assert (await take_out(captions, channel, BEN)).gone == 1
    assert channel.messages == {5: "**Roost**: x"}


async def forget(captions: PostedCaptions, store: Store, user_id: int) -> list[Posted]:
    """As a deletion of personal data does: the list first, then every row."""
    found = await captions.of(user_id)
    await store.of_plugin("stt").forget_user(user_id)
    return found


async def test_lines_that_are_not_as_they_were_noted_stay(captions: PostedCaptions) -> None:
    channel = Channel({5: "**Ada**: a\n**Ben**: b\n**Ben**: not noted"})
    captions.note(GUILD, (CHANNEL, 5), (ADA, BEN))
    result = await take_out(captions, channel, ADA)
    assert (result.gone, result.unclear) == (0, 1)
    assert channel.messages == {5: "**Ada**: a\n**Ben**: b\n**Ben**: not noted"}
    assert "1 message could not be changed, because I cannot tell" in words(result)


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ((BEN,), "**Ben**: b"),
        ((BEN, CAI, DAN), "**Ben**: b\n**Cai**: c\n**Dan**: d"),
        ((BEN, 0, CAI), "**Ben**: b\n**Roost**: x\n**Cai**: c"),
    ],
)
async def test_a_message_rewritten_without_the_member_stays_as_it_is(
    captions: PostedCaptions, store: Store, now: tuple[int, ...], text: str
) -> None:
    captions.note(GUILD, (CHANNEL, 5), (ADA, BEN, ADA))
    found = await forget(captions, store, ADA)
    captions.note(GUILD, (CHANNEL, 5), now)
    channel = Channel({5: text})
    assert (await captions.delete(cast("hikari.api.RESTClient", channel), found)).gone == 1
    assert channel.messages == {5: text}
    assert [each.message_id for each in await captions.of(BEN)] == [5]


@pytest.mark.parametrize("lately", [True, False], ids=["in-memory", "after-a-restart"])
async def test_no_other_members_line_is_ever_taken(
    captions: PostedCaptions, store: Store, monkeypatch: pytest.MonkeyPatch, *, lately: bool
) -> None:
    """Ada and Ben ask at the same time, for every order of three lines; or only the rows of the messages are left."""
    if not lately:
        monkeypatch.setattr(posted, "REMEMBERED", 0)
    orders = [each for length in (1, 2, 3) for each in itertools.product((ADA, BEN, CAI, 0), repeat=length)]
    lines = [[f"{place} by {speaker}" for place, speaker in enumerate(each)] for each in orders]
    channel = Channel({message: "\n".join(each) for message, each in enumerate(lines)})
    for message, speakers in enumerate(orders):
        captions.note(GUILD, (CHANNEL, message), speakers)
    wanted = [await forget(captions, store, ADA), await forget(captions, store, BEN)]
    for found in wanted:
        await captions.delete(cast("hikari.api.RESTClient", channel), found)
    of_cai = {each.message_id: each for each in await captions.of(CAI)}
    for message, speakers in enumerate(orders):
        others = [line for line in lines[message] if not line.endswith((f"by {ADA}", f"by {BEN}"))]
        left = channel.messages[message].split("\n") if message in channel.messages else []
        assert [line for line in left if line in others] == others, speakers
        assert not any(line.endswith(f"by {ADA}") for line in left), speakers
        if lately:
            assert left == others, speakers
        if CAI in speakers:
            noted = of_cai[message]
            assert noted.count == len(left), speakers
            assert [left[place].endswith(f"by {CAI}") for place in noted.lines] == [True] * speakers.count(CAI)


async def test_a_failed_deletion_of_a_row_is_repeated(
    captions: PostedCaptions, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions.note(GUILD, (CHANNEL, 5), (ADA, BEN))
    await captions.flush()
    captions.note(GUILD, (CHANNEL, 5), (BEN,))
    with monkeypatch.context() as broken:

        async def fail(*_: object) -> bool:
            raise StoreError("x", cause=StoreCause.BUSY)

        broken.setattr(DocumentCollection, "delete", fail)
        with pytest.raises(StoreError):
            await captions.flush()
    await captions.flush()
    assert await captions.of(ADA) == []
    assert [each.lines for each in await captions.of(BEN)] == [(0,)]


async def test_more_messages_than_a_query_gives_are_all_deleted(captions: PostedCaptions, store: Store) -> None:
    many = QUERY_LIMIT + 3
    rows = [(f"{each:020d}-{ADA}", {"channel": CHANNEL, "lines": [0], "count": 1}, GUILD, ADA) for each in range(many)]
    await store.of_plugin("stt").collection("posted").put_many(rows)
    channel = Channel({each: "**Ada**: a" for each in range(many)})
    found = await forget(captions, store, ADA)
    assert [each.message_id for each in found] == list(reversed(range(many)))
    assert (await captions.delete(cast("hikari.api.RESTClient", channel), found)).gone == many
    assert channel.messages == {}


async def test_what_was_not_deleted_in_time_is_offered_again(
    captions: PostedCaptions, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(dict.fromkeys((5, 6), "**Ada**: a"))
    captions.note(GUILD, (CHANNEL, 5), (ADA,))
    captions.note(GUILD, (CHANNEL, 6), (ADA,))
    found = await forget(captions, store, ADA)
    channel.errors = {6: OSError()}
    channel.hangs = {5}
    monkeypatch.setattr(posted, "DELETING_S", 0.05)
    result = await captions.delete(cast("hikari.api.RESTClient", channel), found)
    assert (result.gone, result.left, result.late) == (0, 1, 1)
    assert "1 message could not be changed in time: use `/privacy forget-me` again" in words(result)
    channel.errors, channel.hangs = {}, set()
    again = await forget(captions, store, ADA)
    assert again == found
    assert (await captions.delete(cast("hikari.api.RESTClient", channel), again)).gone == 2
    assert channel.messages == {}
    assert await captions.of(ADA) == []


async def test_captions_whose_deletion_was_offered_are_known_until_they_are_deleted(
    captions: PostedCaptions, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posted, "MOST_LEFT", 1)
    channel = Channel({5: "**Ada**: a"})
    captions.note(GUILD, (CHANNEL, 5), (ADA,))
    found = await forget(captions, store, ADA)
    captions.offered(BEN, found)
    captions.offered(ADA, found)
    assert await captions.of(BEN) == []
    assert await captions.of(ADA) == found
    assert (await captions.delete(cast("hikari.api.RESTClient", channel), found)).gone == 1
    assert await captions.of(ADA) == []


async def test_notes_for_a_store_that_is_away_are_bounded(
    captions: PostedCaptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(posted, "MOST_PENDING", 3)
    for message in range(1, 8):
        captions.note(GUILD, (CHANNEL, message), (ADA,))
    assert [each.message_id for each in await captions.of(ADA)] == [7, 6, 5]
    assert len([each for each in caplog.messages if "the oldest are lost" in each]) == 1


async def test_what_grows_or_loses_lines_is_noted_as_it_stands(captions: PostedCaptions) -> None:
    captions.note(GUILD, (CHANNEL, 5), (ADA,))
    assert [each.lines for each in await captions.of(ADA)] == [(0,)]
    captions.note(GUILD, (CHANNEL, 5), (ADA, BEN, ADA))
    captions.note(GUILD, (CHANNEL, 5), (BEN,))
    assert await captions.of(ADA) == []
    assert [each.lines for each in await captions.of(BEN)] == [(0,)]
    captions.note(GUILD, (CHANNEL, 5), ())
    assert await captions.of(BEN) == []


async def test_what_cannot_be_deleted_is_said(captions: PostedCaptions) -> None:
    channel = Channel(dict.fromkeys((5, 6, 7), "**Ada**: a"))
    channel.errors = {6: refusal(hikari.ForbiddenError), 7: OSError()}
    for message in (4, 5, 6, 7):
        captions.note(GUILD, (CHANNEL, message), (ADA,))
    result = await take_out(captions, channel, ADA)
    assert (result.gone, result.forbidden, result.left) == (2, 1, 1), "one is gone already"
    said = words(result)
    assert said.startswith("Your captions are gone from 2 messages.")
    assert "1 message could not be changed, because I may not" in said
    assert "1 message could not be changed, because Discord" in said


async def test_they_are_known_for_a_while_only(captions: PostedCaptions, monkeypatch: pytest.MonkeyPatch) -> None:
    captions.note(GUILD, (CHANNEL, 5), (ADA,))
    await captions.flush()
    await captions.sweep()
    assert len(await captions.of(ADA)) == 1
    monkeypatch.setattr(posted, "KEPT_DAYS", 0)
    await captions.sweep()
    assert await captions.of(ADA) == []


@pytest.mark.parametrize(
    ("pieces", "standing", "cut"),
    [
        ([ADA], (ADA,), None),
        ([ADA], (ADA, BEN), Cut(2, (1,))),
        ([ADA], (BEN, ADA, ADA), Cut(3, (0, 2))),
        ([], (BEN,), Cut(1, (0,))),
        ([], None, Cut()),
        ([ADA], None, None),
        ([ADA, ADA], (ADA,), None),
    ],
)
def test_what_has_to_go_from_a_message_is_told_without_its_words(
    pieces: list[int], standing: tuple[int, ...] | None, cut: Cut | None
) -> None:
    assert Page((CHANNEL, 5), [(each, "words") for each in pieces], standing=standing).cut == cut


def test_all_of_a_message_has_to_go_where_nobody_knows_which_lines_stand_in_it() -> None:
    page = Page((CHANNEL, 5), [(ADA, "words"), (BEN, "words")])
    page.lose(CAI)
    assert page.cut is None
    page.lose(BEN)
    assert page.cut == Cut()


@pytest.mark.parametrize(
    ("text", "cut", "left"),
    [
        ("a\nb\nc", Cut(3, (1,)), "a\nc"),
        ("a\nc", Cut(3, (1,)), "a\nc"),
        ("a\nb\nc\nd", Cut(3, (1,)), None),
        ("a\nb", Cut(2, (0, 1)), None),
        ("a\nb", Cut(), None),
    ],
    ids=["others-stay", "done-already", "other-lines", "all-lines", "unknown"],
)
async def test_next_process_takes_out_what_an_earlier_one_noted(
    store: Store, captions: PostedCaptions, text: str, cut: Cut, left: str | None
) -> None:
    channel = Channel({5: text})
    captions.note(GUILD, (CHANNEL, 5), (ADA, BEN, CAI))
    captions.note_cut(GUILD, (CHANNEL, 5), cut)
    assert not captions.keeps_cut((CHANNEL, 5))
    await captions.flush()
    assert captions.keeps_cut((CHANNEL, 5))
    following = PostedCaptions(store.of_plugin("stt"))
    (noted,) = await following.earlier_cuts()
    assert noted == NotedCut(GUILD, (CHANNEL, 5), cut)
    await following.take_out(cast("hikari.api.RESTClient", channel), noted)
    assert channel.messages == ({5: left} if left is not None else {})
    places = [each.lines for each in await following.of(CAI)]
    assert places == ([(1,)] if left is not None else [])
    following.note_cut(GUILD, noted.message, None)
    await following.flush()
    assert await PostedCaptions(store.of_plugin("stt")).earlier_cuts() == []


async def test_what_has_to_go_is_noted_for_so_many_messages_and_so_long(
    store: Store, captions: PostedCaptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(posted, "MOST_CUTS", 2)
    for message in (5, 6, 7):
        captions.note_cut(GUILD, (CHANNEL, message), Cut())
    assert "the next start misses one" in caplog.text
    captions.note_cut(GUILD, (CHANNEL, 5), None)
    captions.note_cut(GUILD, (CHANNEL, 8), None)
    await captions.flush()
    assert [each.message[1] for each in await captions.earlier_cuts()] == [6]
    monkeypatch.setattr(posted, "KEPT_DAYS", -1)
    await captions.sweep()
    assert "1 message" in caplog.text
    assert await captions.earlier_cuts() == []


async def test_what_is_done_is_not_said_to_stay(
    captions: PostedCaptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(posted, "KEPT_DAYS", -1)
    captions.note_cut(GUILD, (CHANNEL, 5), Cut())
    await captions.flush()
    captions.note_cut(GUILD, (CHANNEL, 5), None)
    await captions.sweep()
    assert "withdrawn words" not in caplog.text
    captions.note_cut(GUILD, (CHANNEL, 6), Cut())
    await captions.flush()
    await captions.sweep()
    assert "not taken out of 1 message within" in caplog.text
    assert not captions.keeps_cut((CHANNEL, 6)), "the next start does not know of it"


async def test_what_cannot_be_stored_keeps_nothing_that_is_too_old(
    captions: PostedCaptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions.note(GUILD, (CHANNEL, 5), (ADA,))
    await captions.flush()

    async def fails(_documents: Any) -> None:
        raise TypeError("of its own")

    monkeypatch.setattr(captions._kept, "put_many", fails)
    monkeypatch.setattr(posted, "KEPT_DAYS", -1)
    captions.note(GUILD, (CHANNEL, 6), (ADA,))
    with pytest.raises(TypeError, match="of its own"):
        await captions.sweep()
    assert [key async for key in _keys(captions)] == []


async def test_what_was_given_up_makes_room(
    captions: PostedCaptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(posted, "MOST_CUTS", 2)
    for message in (5, 6):
        captions.note_cut(GUILD, (CHANNEL, message), Cut())
    captions.gave_up(GUILD, (CHANNEL, 6))
    captions.note_cut(GUILD, (CHANNEL, 7), Cut())
    await captions.flush()
    assert [each.message[1] for each in await captions.earlier_cuts()] == [5, 7]
    assert "misses one" not in caplog.text
    captions.note_cut(GUILD, (CHANNEL, 8), Cut())
    assert "misses one" in caplog.text


async def test_what_is_noted_is_stored_whatever_fails_and_whoever_cancels(
    captions: PostedCaptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message that fails for a reason of its own holds up no other, and is tried again."""
    monkeypatch.setattr(posted, "AGAIN_S", 0.01)
    put_many, bad = captions._kept.put_many, iter([TypeError("of its own"), StoreError("busy", retryable=True)])

    async def fails(documents: Any) -> None:
        if "0005" in documents[0][0] and (error := next(bad, None)) is not None:
            raise error
        await put_many(documents)

    monkeypatch.setattr(captions._kept, "put_many", fails)
    captions.note(GUILD, (CHANNEL, 5), (ADA,))
    captions.note(GUILD, (CHANNEL, 6), (ADA,))
    with pytest.raises(TypeError):
        await captions.flush()
    assert [key async for key in _keys(captions)] == [6]
    async with contextlib.aclosing(Scope("test")) as scope, asyncio.timeout(5):
        scope.keep(captions.run, "posted")
        while len([key async for key in _keys(captions)]) < 2:
            await asyncio.sleep(0.01)
        for task in scope.tasks:
            task.cancel()
        captions.note(GUILD, (CHANNEL, 7), (ADA,))
        while len([key async for key in _keys(captions)]) < 3:
            await asyncio.sleep(0.01)


async def _keys(captions: PostedCaptions) -> AsyncIterator[int]:
    async for each in captions._kept.scan():
        yield int(each.key.partition("-")[0])
