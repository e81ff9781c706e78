"""``/bot gpu``: what the owners of the bot can ask of the card."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import lightbulb

from roost.deferral import defer_for
from roost.errors import RoostError

if TYPE_CHECKING:
    from roost_stt.plugin import SttPlugin


def gpu_loader(plugin: SttPlugin) -> lightbulb.Loader:
    """The loader with what goes into ``/bot``."""
    group = lightbulb.Group("bot", "For the owners of this bot")
    gpu = group.subgroup("gpu", "The graphics card that speech-to-text uses")

    @gpu.register
    class Status(lightbulb.SlashCommand, name="status", description="Who uses how much of the card"):
        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, plugin.gpu_status)

    @gpu.register
    class Release(lightbulb.SlashCommand, name="release", description="End the speech worker and give the card back"):
        force = lightbulb.boolean("force", "End transcriptions that are going on", default=False)

        @lightbulb.invoke
        async def invoke(self, ctx: lightbulb.Context) -> None:
            await _answer(ctx, partial(plugin.release_gpu, force=self.force))

    loader = lightbulb.Loader()
    loader.command(group)
    return loader


async def _answer(ctx: lightbulb.Context, make: Callable[[], Awaitable[str]]) -> None:
    try:
        text = await defer_for(ctx, make)
    except RoostError as error:
        text = str(error)
    await ctx.respond(text, ephemeral=True, mentions_everyone=False, user_mentions=False, role_mentions=False)
