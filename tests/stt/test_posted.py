"""Where somebody's captions stand is known, and they are taken out of messages without harm to others' captions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import hikari
import pytest

from roost.store import Store, open_store
from roost_stt import posted
from roost_stt.posted import Deleted, PostedCaptions, words

pytestmark = pytest.mark.unit

GUILD, CHANNEL = 1, 2
ADA, BEN, CAI = 11, 12, 13


class Channel:
    """Stands for `hikari.api.RESTClient` with the messages of one channel."""

    def __init__(self, messages: dict[int, str]) -> None:
        self.messages = messages
        self.errors: dict[int, Exception] = {}

    async def fetch_message(self, _channel: int, message: int) -> Any:
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


async def test_a_message_that_is_not_as_it_was_noted_goes_whole(captions: PostedCaptions) -> None:
    channel = Channel({5: "**Ada**: a\n**Ben**: b\n**Ben**: not noted"})
    captions.note(GUILD, (CHANNEL, 5), (ADA, BEN))
    assert (await take_out(captions, channel, ADA)).gone == 1
    assert channel.messages == {}


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
