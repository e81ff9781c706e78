"""Nothing the bot sends notifies anybody: as its source says, and as Discord receives it from hostile names."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import roost.commands
import roost_stt
import roost_voice
from roost.testing.kit import RoostBot, running_bot

OFF = {"mentions_everyone", "user_mentions", "role_mentions"}
SENDS = re.compile(r"respond|execute|create_(message|initial_response|interaction_response)|edit_.*(message|response)")
PACKAGES = [Path(str(package.__path__[0])) for package in (roost.commands, roost_voice, roost_stt)]
FILES = [file for package in PACKAGES for file in sorted(package.rglob("*.py")) if "sim" not in file.parts]
NAMES = ["@everyone", "**x**", "<@1>", "\u202egnp.exe", "two\nlines @here", "@everyone <@&2> `x` https://evil.example"]
WORDS = "@everyone ping <@1> <@&2> **bold** discord.gg/x"


def loud_sends(source: str) -> list[int]:
    """Lines of calls that send a message and do not switch every kind of mention off."""
    tree = ast.parse(source)
    constants = {
        target.id: each.value
        for each in tree.body
        if isinstance(each, ast.Assign | ast.AnnAssign)
        for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
        if isinstance(target, ast.Name)
    }
    choices = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.AsyncFunctionDef)
        and any(
            each.annotation and "AutocompleteContext" in ast.unparse(each.annotation) for each in function.args.args
        )
        for node in ast.walk(function)
    }
    found = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or id(call) in choices:
            continue
        if SENDS.fullmatch(call.func.attr) and not off_in(call, constants) >= OFF:
            found.append(call.lineno)
    return found


def off_in(call: ast.Call, constants: dict[str, ast.expr | None]) -> set[str]:
    """Keyword arguments that are False, also through ``**`` of a dict of the module."""
    off = set()
    for keyword in call.keywords:
        value = keyword.value
        if keyword.arg is not None:
            pairs = [(keyword.arg, value)]
        else:
            spread = constants.get(value.id) if isinstance(value, ast.Name) else None
            pairs = (
                [
                    (str(key.value), each)
                    for key, each in zip(spread.keys, spread.values, strict=True)
                    if isinstance(key, ast.Constant)
                ]
                if isinstance(spread, ast.Dict)
                else []
            )
        off |= {name for name, each in pairs if isinstance(each, ast.Constant) and each.value is False}
    return off


@pytest.mark.unit
@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("ctx.respond('x', mentions_everyone=False, user_mentions=False, role_mentions=False)", []),
        ("ctx.respond('x', mentions_everyone=False, user_mentions=True, role_mentions=False)", [1]),
        ("ctx.respond('x', mentions_everyone=False, user_mentions=False)", [1]),
        ("rest.create_message(1, 'x')", [1]),
        ("message.edit_message('x')\nctx.edit_response(1, 'x')\nrest.edit_member(1, 2)", [1, 2]),
        ("Q = {'mentions_everyone': False, 'user_mentions': False, 'role_mentions': False}\nctx.respond('x', **Q)", []),
        ("Q = {'mentions_everyone': False}\ni.create_initial_response(4, 'x', **Q)", [2]),
        ("async def names(ctx: lightbulb.AutocompleteContext[str]): await ctx.respond(['x'])", []),
    ],
)
def test_the_check_itself(source: str, lines: list[int]) -> None:
    assert loud_sends(source) == lines


@pytest.mark.unit
def test_every_send_in_the_source_switches_mentions_off() -> None:
    assert len(FILES) > 20
    assert {str(file): found for file in FILES if (found := loud_sends(file.read_text()))} == {}


async def everybody_uses_everything(bot: RoostBot) -> None:
    people = [await bot.control.add_member(name) for name in NAMES]
    first, *others = people
    await bot.slash("/voice join", member=first)
    for person in people:
        await bot.join_voice(person, "perch")
        await bot.slash("/privacy status", member=person)
        await bot.slash("/privacy opt-in", member=person)
    await bot.slash("/voice join", member=first, wait_s=15)
    await bot.slash("/voice join", member=others[0])
    await bot.slash("/voice join", member="Ada", channel="general")
    await bot.slash("/transcribe status", member=first)
    await bot.slash("/transcribe start", member=first, wait_s=20)
    shortest = min(await bot.control.recordings(), key=lambda each: len(each["text"]))
    await asyncio.gather(*(bot.say(str(shortest["name"]), member=person) for person in people))
    await bot.slash("/voice status", member=first)
    await bot.slash("/transcribe stop", member=first, wait_s=15)
    await bot.slash("/transcribe stop", member=first)
    notice = next(
        each for each in await bot.control.messages(channel_id=bot.channel("general").id) if each["components"]
    )
    for label in ("Don't", "Agree"):
        await bot.press(int(notice["id"]), label, member=others[0])
    for command in ("opt-out", "my-data"):
        await bot.slash(f"/privacy {command}", member=others[0])
    await bot.press(await bot.slash("/privacy forget-me", member=others[0]), "Delete", member=others[0])
    for command in ("info", "why", "enable", "disable"):
        await bot.slash(f"/plugins {command}", member="Mod", plugin="@everyone <@1>")
    await bot.slash("/plugins list", member="Mod")
    await bot.slash("/voice leave", member=first, wait_s=15)
    await bot.slash("/voice leave", member=first)


@pytest.mark.sim
async def test_no_message_may_mention_anybody_on_the_wire(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "stt.engine": "scripted",
        "stt.script": [WORDS],
        "voice.timing_scale": 0.2,
        "voice.drain_s": 0.5,
    }
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings) as bot:
        await everybody_uses_everything(bot)
        ours = [each.seen() for each in bot.discord.book.messages.values() if each.author.get("bot")]
    assert len(ours) > 30
    assert [each for each in ours if each["allowed_mentions"] != {"parse": []}] == []
    captions = [each["content"] for each in ours if "discord.gg" in each["content"]]
    assert captions
    for text in captions:
        assert not re.search(r"(?<!\\)@(everyone|here)|(?<!\\)<@|\u202e|discord\.gg/", text), text
    said = "\n".join(captions)
    for shown in (r"\@everyone", r"\*\*x\*\*", r"\<\@1\>", "gnp.exe", r"two lines \@here"):
        assert f"**{shown}**" in said, said
