"""How what is being said stands below what was said, and how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import draft_engine
import pytest
from stt_house import ADA, BEN, GUILD, TEXT, House, houses
from stt_rig import packets_of
from test_captions import Channel, soon

from roost.audio import SILENCE_FRAME, VoiceSession
from roost.hooks import hookimpl
from roost.scopes import Scope
from roost.speech import EngineSpec, Transcript
from roost_stt.captioner import Captioner, ChannelRate
from roost_stt.captions import MESSAGE_LIMIT, Line
from roost_stt.pages import Wanted, always
from roost_stt.recalls import Recaller

FAREWELL = [SILENCE_FRAME] * 5


class Desk:
    """A captioner of one growing message, and what it shows."""

    def __init__(self, scope: Scope, edit_every_s: float = 0.0) -> None:
        self.channel = Channel()
        self.mode = "edited"
        self.refused: set[int] = set()
        self.captioner = Captioner(
            self.channel,
            ChannelRate(count=100),
            recaller=Recaller(print, begin=lambda work: asyncio.ensure_future(work())),
            may_show=lambda user_id: user_id not in self.refused,
            edited=lambda: self.mode == "edited",
            edit_every_s=edit_every_s,
        )
        scope.spawn(self.captioner.run(), "captions")

    def begin(self, user: int, text: str, mark: int = 1) -> None:
        self.captioner.show_partial(Line(f"U{user}", f"{text} …", user), mark)

    def final(self, user: int, text: str, mark: int = 1) -> None:
        self.captioner.end_partial(user, mark)
        self.captioner.add(Line(f"U{user}", text, user))

    async def idle(self) -> list[str]:
        async with asyncio.timeout(5):
            await self.captioner._idle.wait()
        return self.channel.messages


@pytest.fixture
async def scope() -> AsyncIterator[Scope]:
    async with contextlib.aclosing(Scope("test")) as made:
        yield made


@pytest.mark.unit
async def test_it_stands_last_and_the_final_takes_its_place(scope: Scope) -> None:
    desk = Desk(scope)
    desk.begin(1, "one")
    assert await desk.idle() == ["**U1**: one …"]
    assert desk.captioner.captions == 0
    desk.begin(1, "one two")
    desk.final(2, "done")
    assert await desk.idle() == ["**U2**: done\n**U1**: one two …"]
    desk.final(1, "one two three")
    assert await desk.idle() == ["**U2**: done\n**U1**: one two three"]
    assert (desk.captioner.captions, desk.captioner.posted) == (2, 1)


@pytest.mark.unit
async def test_nothing_came_of_it(scope: Scope) -> None:
    desk = Desk(scope)
    desk.begin(1, "hm")
    await desk.idle()
    desk.captioner.end_partial(1, 0)  # an utterance before
    assert await desk.idle() == ["**U1**: hm …"]
    desk.captioner.end_partial(1, 1)
    assert await desk.idle() == []
    desk.final(1, "words", 2)
    assert await desk.idle() == ["**U1**: words"]


@pytest.mark.unit
async def test_edits_are_not_oftener_for_it_and_the_final_comes_with_the_next(scope: Scope) -> None:
    desk = Desk(scope, edit_every_s=0.2)
    for number in range(30):
        desk.begin(1, " ".join(str(each) for each in range(number + 1)))
        await asyncio.sleep(0.03)
    desk.final(1, "all of it")
    assert await desk.idle() == ["**U1**: all of it"]
    gaps = [later - sooner for sooner, later in itertools.pairwise(desk.channel.edited_at)]
    assert all(gap >= 0.19 for gap in gaps)
    assert 2 <= desk.captioner.edits <= 7


@pytest.mark.unit
async def test_neither_pings_nor_formats(scope: Scope) -> None:
    desk = Desk(scope)
    desk.begin(1, "@everyone <@123> **x**")
    assert await desk.idle() == ["**U1**: \\@everyone \\<\\@123\\> \\*\\*x\\*\\* …"]


@pytest.mark.unit
async def test_it_gives_way_where_there_is_no_room(scope: Scope) -> None:
    desk = Desk(scope)
    desk.final(1, "x" * 1900)
    await desk.idle()
    desk.begin(2, "y" * 120)
    assert (await desk.idle())[0].endswith("x")
    desk.begin(2, "y" * 20)
    assert (await desk.idle())[0].endswith("y …")
    desk.final(1, "z" * 70, 2)  # fits only without it
    assert (await desk.idle())[0].endswith("z")
    desk.final(3, "w" * 200)
    first, second = await desk.idle()
    assert "y" not in first
    assert second == "**U3**: " + "w" * 200 + "\n**U2**: " + "y" * 20 + " …"
    desk.begin(4, "v" * 3000)  # longer than any message
    assert len(await desk.idle()) == 2
    assert all(len(text) <= MESSAGE_LIMIT for text in desk.channel.messages)


@pytest.mark.unit
async def test_it_moves_to_the_next_message_with_the_words(scope: Scope) -> None:
    desk = Desk(scope)
    desk.final(1, "x" * 1900)
    desk.begin(2, "half")
    assert (await desk.idle())[0].endswith("half …")
    desk.final(3, "w" * 200)
    first, second = await desk.idle()
    assert first.endswith("x")
    assert second == "**U3**: " + "w" * 200 + "\n**U2**: half …"


@pytest.mark.unit
@pytest.mark.parametrize("moment", ["stands", "on its way", "told to nobody"])
async def test_it_goes_with_the_consent_at_once(scope: Scope, moment: str) -> None:
    desk = Desk(scope, edit_every_s=60.0)
    if moment != "stands":
        desk.channel.gate = asyncio.Event()
    desk.begin(1, "mine")
    desk.begin(2, "theirs")
    if moment == "stands":
        assert await desk.idle() == ["**U1**: mine …\n**U2**: theirs …"]
    else:
        async with asyncio.timeout(2):
            await desk.channel.arrived.wait()
    if moment == "told to nobody":
        desk.refused.add(1)
    else:
        desk.captioner.forget(1)
    if desk.channel.gate is not None:
        desk.channel.gate.set()
    assert await desk.idle() == ["**U2**: theirs …"]
    assert desk.captioner.recalled == 1


@pytest.mark.unit
async def test_a_flush_leaves_only_what_is_final(scope: Scope) -> None:
    desk = Desk(scope, edit_every_s=60.0)
    desk.final(2, "done")
    desk.begin(1, "never")
    assert await desk.idle() == ["**U2**: done\n**U1**: never …"]
    assert await desk.captioner.flush(soon(2))
    assert desk.channel.messages == ["**U2**: done"]


@pytest.mark.unit
async def test_at_the_end_it_goes_at_once(scope: Scope) -> None:
    desk = Desk(scope, edit_every_s=60.0)
    desk.channel.gate = asyncio.Event()
    desk.begin(1, "never")
    async with asyncio.timeout(2):
        await desk.channel.arrived.wait()
    desk.captioner.end_partials(at_once=True)
    desk.channel.gate.set()
    assert await desk.idle() == []


@pytest.mark.unit
async def test_it_goes_when_the_mode_changes(scope: Scope) -> None:
    desk = Desk(scope, edit_every_s=60.0)
    desk.begin(1, "half")
    await desk.idle()
    desk.mode = "messages"
    desk.final(2, "whole")
    assert await desk.idle() == ["**U2**: whole"]
    desk.begin(1, "half again")
    assert await desk.idle() == ["**U2**: whole"]


@pytest.mark.unit
async def test_a_page_that_refuses_it_once_does_not_keep_it(scope: Scope) -> None:
    desk = Desk(scope)
    desk.final(2, "done")
    desk.begin(1, "half")
    await desk.idle()
    edit, refusals = desk.channel.edit, iter([True])

    async def refuses_once(message: int, text: str, wanted: Wanted = always) -> None:
        desk.channel.refuse = next(refusals, False)
        try:
            await edit(message, text, wanted)
        finally:
            desk.channel.refuse = False

    desk.channel.edit = refuses_once  # type: ignore[method-assign]
    desk.final(1, "half and whole")
    assert await desk.idle() == ["**U2**: done", "**U1**: half and whole"]


@pytest.mark.unit
async def test_a_channel_that_refuses_it_is_not_asked_for_ever(scope: Scope) -> None:
    desk = Desk(scope)
    desk.channel.refuse = True
    desk.begin(1, "half")
    await desk.idle()
    assert desk.captioner.failed == 0  # which counts captions
    desk.channel.refuse = False
    desk.begin(1, "half more")
    assert await desk.idle() == ["**U1**: half more …"]


# ---- with the plugin and a real worker


class Provider:
    """A plugin with an engine of its own, and one that sees what others get."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.ready: list[str] = []

    @hookimpl
    def stt_engine(self, name: str) -> EngineSpec | None:
        return self.spec if name == "drafting" else None

    @hookimpl
    async def transcript_ready(self, session: VoiceSession, transcript: Transcript) -> None:
        self.ready.append(transcript.text)


class Censor(Provider):
    """One that changes what is shown, too."""

    @hookimpl
    async def transcript_process(self, session: VoiceSession, draft: Transcript) -> Transcript | None:
        return dataclasses.replace(draft, text="beep")


class Stage:
    """A house that is being transcribed into one message, with partials."""

    def __init__(self, house: House, provider: Provider) -> None:
        self.house = house
        self.provider = provider
        self.seen: list[str] = []
        """Every text that stood in the channel."""
        self.at: list[float] = []
        for call in ("create_message", "edit_message", "delete_message"):
            self._watch(call)

    def _watch(self, call: str) -> None:
        original = getattr(self.house.bot.rest, call)

        async def watched(*args: Any, **options: Any) -> Any:
            answer = await original(*args, **options)
            self.seen.append("\n".join(text for text in self.house.texts if text))
            self.at.append(asyncio.get_running_loop().time())
            return answer

        setattr(self.house.bot.rest, call, watched)

    def set_captions(self, **changes: Any) -> None:
        old = self.house.config
        captions = old.captions.model_copy(update=changes)
        self.house.config = old.model_copy(update={"captions": captions})

    async def talk(self, user: int = ADA, end: Sequence[bytes] = FAREWELL) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, packet in enumerate([*packets_of("lv_0920"), *end]):
            self.house.session.say([packet], user)
            await asyncio.sleep(max(0.0, begin + number * 0.02 - loop.time()))

    async def until_shown(self, words: str = "…") -> None:
        await self.house.until(lambda: any(words in text for text in self.house.texts))

    @property
    def now(self) -> str:
        return "\n".join(text for text in self.house.texts if text)


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Awaitable[Stage]]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    async with houses() as build_house:

        async def build(delay_s: float = 0.0, made_by: type[Provider] = Provider, **captions: Any) -> Stage:
            captions = {"mode": "edited", "partials": True, **captions}
            house = await build_house(engine="drafting", captions=captions)
            provider = made_by(draft_engine.spec(tmp_path, delay_s=delay_s))
            house.dispatcher.manager.register(provider, "guest")
            made = Stage(house, provider)
            await house.open()
            await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
            return made

        yield build


@contextlib.asynccontextmanager
async def talking(stage: Stage, user: int = ADA) -> AsyncIterator[asyncio.Task[None]]:
    """Somebody talks, and stops at the end of the block if they have not yet."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stage.talk(user))
        yield task
        task.cancel()


@pytest.mark.e2e
async def test_words_stand_there_while_they_are_said(stage: Callable[..., Awaitable[Stage]]) -> None:
    made = await stage()
    async with talking(made) as said:
        await made.until_shown()
        assert not said.done()
        assert made.now.startswith("**Ada\\***: w0 ")
        assert made.provider.ready == []
        ((_, count),) = await made.house.plugin.book.newest(GUILD, lambda _head: True) or [(None, 0)]
        assert count == 0
        await said
    await made.house.until(lambda: bool(made.provider.ready) and "…" not in made.now)
    assert made.now == f"**Ada\\***: {made.provider.ready[0]}"
    assert not any("…" in text for text in made.provider.ready)
    assert all(later - sooner >= 1.9 for sooner, later in itertools.pairwise(made.at))
    ((_, count),) = await made.house.plugin.book.newest(GUILD, lambda _head: True)
    assert count == len(made.provider.ready)


@pytest.mark.e2e
async def test_without_the_setting_there_are_none(stage: Callable[..., Awaitable[Stage]], tmp_path: Path) -> None:
    made = await stage(partials=False)
    await made.talk()
    await made.house.until(lambda: bool(made.provider.ready) and bool(made.now))
    assert not any("…" in text for text in made.seen)
    assert not any(call["draft"] for call in draft_engine.calls(tmp_path))


@pytest.mark.e2e
async def test_what_a_plugin_would_change_is_not_shown_before(stage: Callable[..., Awaitable[Stage]]) -> None:
    made = await stage(made_by=Censor)
    await made.talk()
    await made.house.until(lambda: bool(made.now))
    assert set(made.seen) == {"**Ada\\***: beep"}


@pytest.mark.e2e
async def test_no_consent_no_beginning(stage: Callable[..., Awaitable[Stage]]) -> None:
    made = await stage()
    async with talking(made):
        await made.until_shown()
        made.house.opt_out(ADA)
    await made.house.until(lambda: made.now == "")
    await made.talk(BEN)
    await made.house.until(lambda: "**Ben**" in made.now and "…" not in made.now)
    assert "Ada" not in made.now
    await made.house.close()
    assert "Ada" not in made.now


@pytest.mark.e2e
@pytest.mark.parametrize("order", ["stop", "close", "switch", "pause"])
async def test_nothing_unfinished_is_left(stage: Callable[..., Awaitable[Stage]], order: str) -> None:
    made = await stage(delay_s=0.2)
    async with talking(made):
        await made.until_shown()
        if order == "stop":
            await made.house.plugin.stop_transcribing(GUILD, ADA, False)
        elif order == "close":
            await made.house.close()
        elif order == "pause":
            await made.house.plugin.pause_transcribing(GUILD, ADA, False, paused=True)
        else:
            old = made.house.config
            made.set_captions(mode="messages")
            await made.house.plugin.config_changed(made.house.ctx, GUILD, old, made.house.config)
        if order in ("stop", "close"):
            assert "…" not in made.now
    await made.house.until(lambda: bool(made.provider.ready) and made.provider.ready[0] in made.now)
    assert "…" not in made.now
    assert made.now.count("Ada") == 1


@pytest.mark.e2e
async def test_what_comes_too_late_does_not_stand_half(stage: Callable[..., Awaitable[Stage]]) -> None:
    made = await stage(delay_s=1.5)
    async with talking(made):
        await made.until_shown()
        await made.house.close(0.5)
        assert "…" not in made.now
    assert made.provider.ready == []
