"""Row 276: what Discord says of a reply that it took cannot be read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import hikari
import lightbulb
import pytest
from fault_report import Fault

from roost import Meta, PluginContext, hookimpl
from roost.confirming import Confirmations, Outcome
from roost.testing import RoostBot, running_bot

GARBLED = {"status": 200, "body": [], "taken": True}
COMPLAINT = "does not answer as it should"


class Breaker:
    """Asks before it breaks an egg, and cleans up later."""

    def __init__(self) -> None:
        self.clean = asyncio.Event()

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("breaker")

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.confirmations = Confirmations("breaker:confirm", spawn=ctx.task)
        ctx.listen(hikari.InteractionCreateEvent, self.confirmations.on_interaction)

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        loader, breaker = lightbulb.Loader(), self

        @loader.command
        class Ask(lightbulb.SlashCommand, name="ask", description="Ask"):
            @lightbulb.invoke
            async def invoke(self, ctx: lightbulb.Context) -> None:
                await breaker.confirmations.ask(ctx, "It breaks.", "Break", breaker.breaks)

        @loader.command
        class Cook(lightbulb.SlashCommand, name="cook", description="Cook"):
            @lightbulb.invoke
            async def invoke(self, ctx: lightbulb.Context) -> None:
                await ctx.defer()
                await ctx.respond("soft")

        return [loader]

    async def breaks(self, _interaction: hikari.ComponentInteraction) -> Outcome:
        async def later() -> str:
            self.clean.set()
            return "broken, and clean again"

        return Outcome("broken", later=later)


async def garble(bot: RoostBot, method: str, path: str) -> None:
    await bot.control.fault("rest_error", method=method, path_prefix=path, **GARBLED)


async def texts(bot: RoostBot) -> list[str]:
    """Every text that anybody was shown."""
    log = await bot.control.log()
    return [str(each["content"]) for each in log if each["kind"] in ("message", "message_edit")]


@pytest.mark.sim
@pytest.mark.fault(276)
async def test_a_reply_that_was_taken_counts_as_given(tmp_path: Path, fault: Fault) -> None:
    breaker = Breaker()
    async with running_bot(breaker, data_dir=tmp_path, guilds=1) as bot:
        # The question itself.
        await garble(bot, "POST", "/interactions/")
        with fault.clock(scaled=False):
            (asked,) = await bot.replies("/ask")
        assert asked.buttons == ("Break", "Cancel")
        # The deferral after the press.
        await garble(bot, "POST", "/interactions/")
        await bot.press(asked, "Break")
        await until_shown(bot, "broken, and clean again")
        # The text after it.
        breaker.clean.clear()
        asked = await bot.slash("/ask")
        await garble(bot, "PATCH", "/webhooks/")
        await bot.press(asked, "Break")
        async with asyncio.timeout(5):
            await breaker.clean.wait()
        # The end of a command that ends something, and a decision.
        await garble(bot, "POST", "/interactions/")
        assert "You agreed" in (await bot.slash("/privacy opt-in")).content
        await garble(bot, "POST", "/webhooks/")
        assert "soft" in (await bot.slash("/cook")).content
        await bot.slash("/privacy status")
        assert not any(COMPLAINT in each for each in await texts(bot))


@pytest.mark.sim
@pytest.mark.fault(276)
async def test_a_reply_that_was_refused_is_given_again(tmp_path: Path, fault: Fault) -> None:
    refused: dict[str, Any] = {"status": 400, "body": []}
    async with running_bot(data_dir=tmp_path, guilds=1) as bot:
        await bot.control.fault("rest_error", method="POST", path_prefix="/interactions/", **refused)
        with fault.clock(scaled=False):
            assert COMPLAINT in (await bot.slash("/privacy status")).content


async def until_shown(bot: RoostBot, text: str) -> None:
    async with asyncio.timeout(5):
        while text not in await texts(bot):
            await asyncio.sleep(0.02)
