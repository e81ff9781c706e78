"""Names, descriptions and replies in the user's language, then the guild's, then English."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from roost.i18n import Texts, counted
from roost.testing import RoostBot, running_bot

GERMAN = """
[commands.hello]
name = "hallo"
description = "Sag hallo"
options.who.name = "wer"
options.who.description = "Wen?"
[replies]
greeting = "Hallo, {name}!"
attack = "{name.__class__}"
"""
PLUGIN = """
from roost import CommandContext, Plugin, Texts
__roost_plugin__ = plugin = Plugin("hello")
texts = Texts.beside(__file__)

@plugin.command("hello", "Say hello")
async def hello(ctx: CommandContext, who: str = "you") -> None:
    greeting = texts(ctx, "greeting", "Hello, {name}!", name=who)
    await ctx.respond(greeting + " " + texts(ctx, "only-english", "How are you?"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "drop"
    (made / "locales").mkdir(parents=True)
    (made / "hello.py").write_text(PLUGIN)
    (made / "locales" / "de.toml").write_text(GERMAN)
    (made / "locales" / "fr.toml").write_text('[replies]\ngreeting = "Bonjour, {name} !"\n')
    (made / "locales" / "en-GB.toml").write_text('[replies]\ngreeting = "Good day, {name}."\n')
    return made


@pytest.mark.unit
@pytest.mark.parametrize(
    ("user", "guild", "said"),
    [
        ("de", "en-US", "Hallo, Ada!"),
        ("de", "fr", "Hallo, Ada!"),
        ("fr", "de", "Bonjour, Ada !"),
        ("ja", "de", "Hallo, Ada!"),
        ("ja", "ko", "Hello, Ada!"),
        ("en-US", "de", "Hello, Ada!"),
        ("en-GB", "de", "Good day, Ada."),
    ],
)
def test_the_users_language_then_the_guilds_then_english(folder: Path, user: str, guild: str, said: str) -> None:
    class Reader:
        locale = user
        guild_locale = guild

    texts = Texts(folder / "locales")
    assert texts(Reader(), "greeting", "Hello, {name}!", name="Ada") == said
    assert texts(Reader(), "missing", "Only {name}", name="English") == "Only English"
    assert set(texts.languages) == {"de", "en-GB", "fr"}


@pytest.mark.unit
def test_a_catalogue_cannot_look_into_the_values(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = Texts(folder / "locales")
    assert texts("de", "attack", "Hello, {name}!", name="Ada") == "Hello, Ada!"
    assert "the reply attack cannot be filled in" in caplog.text
    assert texts("de", "greeting", "Hello, {name}!", name="{name}") == "Hallo, {name}!"


@pytest.mark.unit
def test_a_broken_catalogue_is_left_out_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "locales" / "de.toml").write_text("[replies\n")
    assert Texts(folder / "locales")("de", "greeting", "Hello!") == "Hello!"
    assert "de.toml is left out" in caplog.text
    assert Texts.beside(None)("de", "x", "Hello!") == "Hello!"


@pytest.mark.sim
async def test_discord_is_told_the_translations_and_replies_follow(folder: Path, tmp_path: Path) -> None:
    async with running_bot(folder / "hello.py", data_dir=tmp_path / "data") as bot:
        (command,) = [each for each in bot.commands() if each["name"] == "hello"]
        assert command["name_localizations"] == {"de": "hallo"}
        assert command["description_localizations"] == {"de": "Sag hallo"}
        assert command["description"] == "Say hello"
        (option,) = command["options"]
        assert option["name_localizations"] == {"de": "wer"}
        assert option["description_localizations"] == {"de": "Wen?"}
        assert (await bot.slash("/hello", who="Ben", locale="de")).content == "Hallo, Ben! How are you?"
        assert (await bot.slash("/hello", who="Ben", locale="ja", guild_locale="fr")).content.startswith(
            "Bonjour, Ben !"
        )
        assert (await bot.slash("/hello", who="Ben")).content == "Hello, Ben! How are you?"


@pytest.mark.sim
async def test_a_translation_that_discord_would_refuse_costs_nothing_else(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "locales" / "de.toml").write_text(
        f'[commands.hello]\nname = "Hallo Welt"\ndescription = "{"x" * 101}"\noptions.who.name = 3\n'
    )
    with caplog.at_level(logging.ERROR):
        async with running_bot(folder / "hello.py", data_dir=tmp_path / "data") as bot:
            (command,) = [each for each in bot.commands() if each["name"] == "hello"]
            assert not command["name_localizations"]
            assert not command["description_localizations"]
            assert (await bot.slash("/hello", locale="de")).content.startswith("Hello, you!")
    assert "the de name of /hello is left out: 'Hallo Welt'" in caplog.text


@pytest.mark.sim
async def test_the_cores_own_replies_are_german_for_germans(roost_bot: RoostBot) -> None:
    (privacy,) = [each for each in roost_bot.commands() if each["name"] == "privacy"]
    assert privacy["name_localizations"] == {"de": "privatsphäre"}
    names = {each["name"]: each["name_localizations"]["de"] for each in privacy["options"]}
    assert names["opt-out"] == "ablehnen"
    status = (await roost_bot.slash("/privacy status", locale="de")).content
    assert status.startswith("Du hast dich nicht entschieden.")
    assert (await roost_bot.slash("/privacy status")).content.startswith("You have not decided.")
    assert (await roost_bot.slash("/privacy opt-out", locale="de")).content.startswith("Du wirst nicht gehört")


@pytest.mark.unit
def test_numbers_come_with_their_noun() -> None:
    assert [counted(count, "line") for count in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]
    assert counted(1, "caption is", "captions are") == "1 caption is"
    assert counted(3, "caption is", "captions are") == "3 captions are"
