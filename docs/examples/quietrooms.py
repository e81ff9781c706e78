"""Lets the bot hear nobody in voice channels whose name begins with "quiet"."""

from roost import Deny, Hooks, Meta, PluginContext, VoiceSession, hookimpl


class QuietRooms(Hooks):
    """A guard: it decides who is heard."""

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("quietrooms", version="1.0", requires=("voice",))

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.cache = ctx.bot.cache

    @hookimpl
    def voice_consent(self, session: VoiceSession, user_id: int) -> Deny | None:
        room = self.cache.get_guild_channel(session.channel_id)
        if room is None or room.name is None:
            return Deny("I do not know this channel yet.")
        return Deny("This is a quiet room.") if room.name.startswith("quiet") else None
