"""Where captions stand and in which messages, by what a server set; with a real worker and a session of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import hikari
import pytest
from stt_house import ADA, BEN, GUILD, ME, TEXT, THREAD, House, houses
from stt_rig import packets_of

from roost.config import build
from roost.errors import RoostError
from roost_stt.config import SttConfig

pytestmark = pytest.mark.e2e


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    async with houses() as build_house:
        yield build_house


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0880")


async def begin(house: House) -> None:
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)


async def test_one_message_grows(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["{count}"], captions={"mode": "edited"})
    await begin(house)
    for user in (ADA, BEN):
        house.session.say(packets, user)
        await house.until(lambda user=user: f"{user - ADA + 1}" in "".join(house.texts))
    assert house.texts == ["**Ada\\***: 1\n**Ben**: 2"]
    assert house.edits == 1
    await house.plugin.stop_transcribing(GUILD, ADA, False)


async def test_a_thread_is_made_under_a_first_message(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"], captions={"where": "thread"})
    await begin(house)
    assert house.threads == house.texts == []
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2)
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 3)
    assert house.threads == ["Captions of perch"]
    assert [(channel, text) for channel, text, _ in house.messages] == [
        (TEXT, "Captions of <#20>"),
        (THREAD + 1, "**Ada\\***: hello"),
        (THREAD + 1, "**Ada\\***: hello"),
    ]


@pytest.mark.parametrize("known", [True, False])
async def test_without_a_thread_the_channel_is_told_once(make: Any, packets: list[bytes], known: bool) -> None:
    house: House = await make(script=["hello"], captions={"where": "thread"})
    house.no_threads = True
    if known:
        house.overwrites[ME] = hikari.PermissionOverwrite(
            id=ME, type=hikari.PermissionOverwriteType.MEMBER, deny=hikari.Permissions.CREATE_PUBLIC_THREADS
        )
    await begin(house)
    for count in (2, 3):
        house.session.say(packets)
        await house.until(lambda count=count: len(house.messages) == count)
    assert {channel for channel, _, _ in house.messages} == {TEXT}
    assert "I cannot write captions into a thread here" in house.texts[0]
    assert house.texts[1:] == ["**Ada\\***: hello"] * 2


async def test_a_thread_that_is_gone_is_told_and_nothing_is_lost(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"], captions={"where": "thread"})
    await begin(house)
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2)
    post = house.bot.rest.create_message

    async def refuses_threads(channel: int, text: str, **options: Any) -> Any:
        if channel > THREAD:
            raise hikari.NotFoundError("https://discord.test", {}, b"", "Unknown Channel", 10003)
        return await post(channel, text, **options)

    house.bot.rest.create_message = refuses_threads
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 4)
    assert [channel for channel, _, _ in house.messages] == [TEXT, THREAD + 1, TEXT, TEXT]


async def test_after_a_reload_captions_go_on_in_the_same_thread(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"], captions={"where": "thread"})
    await begin(house)
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2)
    await house.unload("reload")
    await house.load()
    await house.open()
    await house.until(lambda: bool(house.session.sinks))
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 3)
    assert [channel for channel, _, _ in house.messages] == [TEXT, THREAD + 1, THREAD + 1]
    assert len(house.threads) == 1
    # A transcription that begins anew has a thread of its own.
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    house.session.say(packets)
    await house.until(lambda: len(house.threads) == 2)


async def test_captions_that_are_only_stored(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"], captions={"where": "none"})
    await begin(house)
    house.session.say(packets)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert house.texts == []
    ((_, count),) = await house.plugin.book.newest(GUILD, lambda _head: True)
    assert count == 1


@pytest.mark.parametrize("mode", ["messages", "edited"])
async def test_what_was_said_while_no_captions_were_posted_is_not_posted_later(
    make: Any, packets: list[bytes], mode: str
) -> None:
    settings = {"engine": "scripted", "script": ["said by {user}"]}
    house: House = await make(script=settings["script"], captions={"where": "none"})
    await begin(house)
    house.session.say(packets)
    captions = {"where": "channel", "mode": mode, "partials": mode == "edited"}
    old, house.config = house.config, build(SttConfig, {**settings, "captions": captions}, "stt")
    await house.plugin.config_changed(house.ctx, GUILD, old, house.config)
    await house.until(lambda: bool(house.session.sinks))
    house.session.say(packets, BEN)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert house.texts == ["**Ben**: said by 8"]
    ((_, count),) = await house.plugin.book.newest(GUILD, lambda _head: True)
    assert count == 2


async def test_neither_shown_nor_stored_is_refused(make: Any) -> None:
    house: House = await make(captions={"where": "none"}, retention_days=0)
    await house.open()
    with pytest.raises(RoostError, match="nothing to read"):
        house.plugin.check(GUILD, ADA, False, stop=False)


async def test_a_caption_at_discord_already_is_taken_back(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["hello"])
    arrived, answered = asyncio.Event(), asyncio.Event()
    post = house.bot.rest.create_message

    async def answers_late(channel: int, text: str, **options: Any) -> Any:
        message = await post(channel, text, **options)
        arrived.set()
        await answered.wait()
        return message

    house.bot.rest.create_message = answers_late
    await begin(house)
    house.session.say(packets)
    async with asyncio.timeout(10):
        await arrived.wait()
    assert house.texts == ["**Ada\\***: hello"]
    house.opt_out(ADA)
    answered.set()
    await house.close()
    assert house.texts == [""]
