"""Counts how often members come into voice channels, server by server, and forgets what is old."""

import asyncio
import time

import hikari
import lightbulb

from roost import Hooks, Meta, PluginContext, hookimpl

KEPT_S = 30 * 24 * 3600


class Visits(Hooks):
    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("visits", version="1.0", description="Counts visits of voice channels")

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        visits = self
        group = lightbulb.Group("visits", "How often members come into voice channels")

        @group.register
        class Count(lightbulb.SlashCommand, name="count", description="How often somebody came"):
            member = lightbulb.user("member", "Who")

            @lightbulb.invoke
            async def invoke(self, ctx: lightbulb.Context) -> None:
                count = await visits.documents.get(key_of(ctx.guild_id, self.member.id), 0)
                await ctx.respond(f"{self.member.display_name} came {count} times.")

        loader = lightbulb.Loader()
        loader.command(group)
        return [loader]

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.documents = ctx.store.collection("visits")
        self.counting = asyncio.Lock()
        ctx.listen(hikari.VoiceStateUpdateEvent, self.voice_changed)  # needs the intent GUILD_VOICE_STATES
        ctx.keep(self.forget_the_old, "forget the old")

    async def voice_changed(self, event: hikari.VoiceStateUpdateEvent) -> None:
        before = event.old_state.channel_id if event.old_state is not None else None
        if event.state.channel_id is None or before is not None:
            return
        guild_id, user_id = event.guild_id, event.state.user_id
        key = key_of(guild_id, user_id)
        async with self.counting:
            count = await self.documents.get(key, 0) + 1
            # With the member's id, `/privacy my-data` and `/privacy forget-me` reach it.
            await self.documents.put(key, count, guild_id=int(guild_id), user_id=int(user_id))

    async def forget_the_old(self) -> None:
        while True:
            async for each in self.documents.scan():
                if each.changed_at < time.time() - KEPT_S:
                    await self.documents.delete(each.key)
            await asyncio.sleep(3600)


def key_of(guild_id: int | None, user_id: int) -> str:
    return f"{guild_id}/{user_id}"
