"""What cannot be undone is confirmed: by the member who asked, once, within a while, and answered at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import hikari
import lightbulb
import pytest

from roost import Meta, PluginContext, confirming, hookimpl
from roost.confirming import Confirmations, Outcome
from roost.errors import StoreCause, StoreError
from roost.testing import RoostBot, running_bot

pytestmark = pytest.mark.sim


class Breaker:
    """Asks before it breaks an egg; its buttons are there for everybody to see."""

    def __init__(self, *, expires_s: float = 60.0) -> None:
        self.confirmations = Confirmations("breaker:confirm", expires_s=expires_s, spawn=self.spawn)
        self.broken = 0
        self.waits = asyncio.Event()
        self.waits.set()
        self.error: Exception | None = None
        self.later: Callable[[], Awaitable[str]] | None = None

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("breaker")

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.ctx = ctx
        ctx.listen(hikari.InteractionCreateEvent, self.confirmations.on_interaction)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> object:
        return self.ctx.task(work, name)

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        loader, breaker = lightbulb.Loader(), self

        @loader.command
        class Ask(lightbulb.SlashCommand, name="ask", description="Ask"):
            @lightbulb.invoke
            async def invoke(self, ctx: lightbulb.Context) -> None:
                await breaker.confirmations.ask(ctx, "It breaks.", "Break", breaker.breaks)

        @loader.command
        class Show(lightbulb.SlashCommand, name="show", description="Show"):
            @lightbulb.invoke
            async def invoke(self, ctx: lightbulb.Context) -> None:
                row = breaker.confirmations.row(int(ctx.user.id), ("Break", breaker.breaks))
                await ctx.respond("an egg", components=[row])

        return [loader]

    async def breaks(self, interaction: hikari.ComponentInteraction) -> Outcome:
        await self.waits.wait()
        if self.error is not None:
            raise self.error
        self.broken += 1
        return Outcome("broken", later=self.later)


async def test_nothing_is_done_before_the_press_and_then_once(tmp_path: Path) -> None:
    breaker = Breaker()
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        asked = await bot.slash("/ask")
        assert asked.content == "Are you sure? It breaks."
        assert asked.ephemeral
        assert breaker.broken == 0
        breaker.waits.clear()
        first = asyncio.create_task(bot.press(asked, "Break", wait_s=10.0))
        second = asyncio.create_task(bot.press(asked, "Break", wait_s=10.0))
        for _ in range(200):
            answers = [each for each in await bot.control.log() if each["kind"] == "interaction_answer"]
            if len(answers) == 3:
                break
            await asyncio.sleep(0.02)
        assert [each["type"] for each in answers] == [4, 6, 6], "answered before the work is done"
        assert max(each["after_s"] for each in answers) < 1.0
        breaker.waits.set()
        assert (await first).content == "broken"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second, 1.0)
        assert breaker.broken == 1


async def test_who_cancels_keeps_everything(tmp_path: Path) -> None:
    breaker = Breaker()
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        asked = await bot.slash("/ask")
        assert (await bot.press(asked, "Cancel")).content == "Nothing was deleted."
        assert breaker.broken == 0


async def test_another_member_cannot_press(tmp_path: Path) -> None:
    breaker = Breaker()
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        shown = await bot.slash("/show")
        answer = await bot.press(shown, "Break", member="Ben")
        assert answer.content == "Only the member who used the command can answer this."
        assert answer.ephemeral
        assert breaker.broken == 0
        assert (await bot.press(shown, "Break")).content == "broken"


async def test_a_question_expires(tmp_path: Path) -> None:
    breaker = Breaker(expires_s=0.05)
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        asked = await bot.slash("/ask")
        await asyncio.sleep(0.1)
        assert (await bot.press(asked, "Break")).content.startswith("This question has expired")
        assert breaker.broken == 0


async def never() -> str:
    await asyncio.Event().wait()
    return "never"


async def fails() -> str:
    raise RuntimeError("no")


@pytest.mark.parametrize("later", [never, fails])
async def test_work_after_the_answer_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: Callable[[], Awaitable[str]]
) -> None:
    monkeypatch.setattr(confirming, "LATER_S", 0.1)
    breaker = Breaker()
    breaker.later = later
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        asked = await bot.slash("/ask")
        body = {"member_id": str(bot.member("Ada")), "message_id": str(asked.id), "label": "Break", "settle_s": 0.5}
        (reply,) = (await bot.control.call("POST", "/press", body))["replies"]
        assert str(reply["content"]).startswith("Something went wrong, so not all of it may be done.")


async def test_work_after_the_answer_is_done_although_discord_refuses_the_answer(tmp_path: Path) -> None:
    breaker, done = Breaker(), asyncio.Event()

    async def works() -> str:
        done.set()
        return "done"

    breaker.later = works
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        asked = await bot.slash("/ask")
        await bot.control.fault("rest_error", method="PATCH", path_prefix="/webhooks/", status=400)
        body = {"member_id": str(bot.member("Ada")), "message_id": str(asked.id), "label": "Break"}
        await bot.control.call("POST", "/press", body)
        async with asyncio.timeout(5):
            await done.wait()


async def test_work_that_takes_long_is_said_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "SLOW_S", 0.1)
    breaker = Breaker()
    breaker.waits.clear()
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        asked = await bot.slash("/ask")
        slow = await bot.press(asked, "Break", wait_s=10.0)
        assert slow.content.startswith("That is not done yet")
        assert not slow.buttons
        assert breaker.broken == 0
        asyncio.get_running_loop().call_later(0.2, breaker.waits.set)
        body = {"member_id": str(bot.member("Ada")), "message_id": str((await bot.slash("/ask")).id), "label": "Break"}
        (reply,) = (await bot.control.call("POST", "/press", {**body, "settle_s": 0.5}))["replies"]
        assert reply["content"] == "broken"
        assert breaker.broken == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreError("x", cause=StoreCause.BUSY), "My database is busy"),
        (StoreError("x", cause=StoreCause.UNUSABLE), "My database cannot be written"),
        (KeyError("secret"), "Something went wrong"),
    ],
)
async def test_a_failure_is_told(error: Exception, words: str, tmp_path: Path) -> None:
    breaker = Breaker()
    breaker.error = error
    async with running_bot(breaker, data_dir=tmp_path) as bot:
        answer = await bot.press(await bot.slash("/ask"), "Break")
        assert answer.content.startswith(words)
        assert "secret" not in answer.content


async def test_forget_me_is_confirmed(roost_bot: RoostBot) -> None:
    await roost_bot.slash("/privacy opt-in")
    asked = await roost_bot.slash("/privacy forget-me")
    assert asked.ephemeral
    assert (await roost_bot.slash("/privacy status")).content.startswith("You agreed")
    assert "is deleted. That covers the bot itself" in (await roost_bot.press(asked, "Delete")).content
    assert (await roost_bot.slash("/privacy status")).content.startswith("You have not decided")
