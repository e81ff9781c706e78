"""Counts the words that members say in voice; /words tells."""

from collections import Counter

from roost import CommandContext, Plugin, Transcript

__roost_plugin__ = plugin = Plugin("wordcount", requires=("stt",))
words: Counter[int] = Counter()


@plugin.hook
async def transcript_ready(transcript: Transcript) -> None:
    words[transcript.user_id] += len(transcript.text.split())


@plugin.command("words", "How many words have you said?")
async def count(ctx: CommandContext) -> None:
    await ctx.respond(f"You said {words[ctx.user.id]} words.")
