"""Which language and which words an utterance is decoded with, and what is stored about that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from stt_house import ADA, BEN, GUILD, TEXT, VOICE, House, houses, lines_of
from stt_rig import packets_of

from roost.config import build
from roost.errors import ConfigError, UsageError
from roost.schema import settings_of
from roost_stt.config import SttConfig
from roost_stt.exports import export
from roost_stt.languages import LANGUAGES, language_code, suggestions
from roost_stt.protocol.wishes import Wish, Wishes


@pytest.mark.unit
def test_languages_by_code_and_by_name() -> None:
    assert language_code(" German ") == language_code("DE") == "de"
    assert language_code("auto") == "auto"
    with pytest.raises(UsageError, match="do not know"):
        language_code("klingon")
    assert next(suggestions("ger")) == ("German (de)", "de")
    assert len(list(suggestions(""))) == 25
    assert all(len(code) in (2, 3) and name[0].isupper() for code, name in LANGUAGES.items())


@pytest.mark.unit
def test_the_models_languages_are_ours() -> None:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    assert set(LANGUAGES) == set(_LANGUAGE_CODES)


@pytest.mark.unit
def test_a_persons_language_counts_before_the_servers() -> None:
    wishes = Wishes()
    wishes.put(Wish(GUILD, 0, "de", ("Roost",), True))
    wishes.put(Wish(0, ADA, "fr"))
    wishes = _through_the_pipe(wishes)
    assert [wishes.language_of(*who) for who in ((GUILD, ADA), (2, ADA), (GUILD, BEN), (2, BEN))] == [
        "fr",
        "fr",
        "de",
        None,
    ]
    assert wishes.of_guild(GUILD) == Wish(GUILD, 0, "de", ("Roost",), True)
    assert not Wish(GUILD, partials=True).empty
    assert Wish.of(Wish(GUILD, partials=True).fields()).partials
    wishes.put(Wish(0, ADA))
    wishes.put(Wish(GUILD))
    assert list(wishes) == []


def _through_the_pipe(wishes: Wishes) -> Wishes:
    arrived = Wishes()
    for wish in wishes:
        arrived.put(Wish.of(json.loads(json.dumps(wish.fields()))))
    return arrived


@pytest.mark.unit
def test_settings_of_servers_are_checked() -> None:
    keys = {setting.key for setting in settings_of(SttConfig) if setting.guild}
    assert keys == {
        "retention_days",
        "language",
        "hints",
        "word_timestamps",
        "silence_minutes",
        "max_hours",
        "captions.mode",
        "captions.partials",
        "captions.where",
    }
    assert build(SttConfig, {"language": "German", "hints": "Roost, perch"}, "stt").hints == ("Roost", "perch")
    for wrong in ({"language": "klingon"}, {"hints": ["x" * 41]}, {"hints": ["x"] * 51}, {"max_hours": 0}):
        with pytest.raises(ConfigError):
            build(SttConfig, wrong, "stt")


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    async with houses() as build_house:
        yield build_house


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return packets_of("lv_0880")


async def heard(house: House, packets: list[bytes], user: int = ADA) -> str:
    before = len(house.messages)
    house.session.say(packets, user)
    await house.until(lambda: len(house.messages) > before)
    return house.texts[-1].partition(": ")[2]


@pytest.mark.e2e
async def test_language_and_hints_reach_the_engine_and_survive_its_crash(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["{language} {hints}"], language="de", hints=["Roost", "perch"])
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    assert await heard(house, packets) == "de Roost perch"
    assert "French" in await house.plugin.choose_language(ADA, "fr")
    assert await heard(house, packets) == "fr Roost perch"
    assert await heard(house, packets, BEN) == "de Roost perch"
    worker = house.plugin._worker
    assert worker is not None
    (pid,) = house.workers()
    import os
    import signal

    os.kill(pid, signal.SIGKILL)
    await house.until(lambda: worker.pid not in (None, pid) and worker.state.value == "ready")
    await house.until(lambda: "starting again" in house.texts[-1])
    assert await heard(house, packets) == "fr Roost perch"
    # What a server changes counts at once.
    old, house.config = house.config, build(SttConfig, {"engine": "scripted", "language": "it"}, "stt")
    await house.plugin.config_changed(house.ctx, GUILD, old, house.config)
    assert await heard(house, packets, BEN) == "it none"
    assert await house.plugin.user_data_export(ADA)
    await house.plugin.user_data_delete(ADA, "user request")
    assert await house.plugin.user_data_export(ADA) is None
    assert await heard(house, packets) == "it none"
    await house.plugin.stop_transcribing(GUILD, ADA, False)


@pytest.mark.e2e
async def test_the_language_asked_for_with_the_start(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["{language}"], language="de")
    await house.open()
    assert "Language: Welsh." in await house.plugin.start_transcribing(GUILD, ADA, TEXT, False, "cy")
    assert await heard(house, packets) == "cy"
    await house.unload("reload")
    await house.load()
    await house.open()
    await house.until(lambda: bool(house.session.sinks))
    assert await heard(house, packets) == "cy"
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False, "auto")
    assert await heard(house, packets) == "auto"


@pytest.mark.e2e
async def test_a_choice_is_kept_and_belongs_to_its_user(make: Any) -> None:
    house: House = await make()
    assert "has set, or guessed" in await house.plugin.choose_language(ADA, None)
    await house.plugin.choose_language(ADA, "de")
    await house.unload("reload")
    await house.load()
    assert "German" in await house.plugin.choose_language(ADA, None)
    assert await house.plugin.user_data_export(ADA) == {"languages": {str(ADA): {"language": "de"}}}
    await house.plugin.user_data_delete(ADA, "user request")
    assert await house.plugin.user_data_export(ADA) is None
    assert "guessed" in await house.plugin.choose_language(ADA, None)
    await house.plugin.choose_language(ADA, "de")
    assert "guessed" in await house.plugin.choose_language(ADA, "auto")
    assert await house.plugin.user_data_export(ADA) is None


@pytest.mark.e2e
async def test_a_model_that_knows_english_alone_says_so(make: Any, packets: list[bytes]) -> None:
    house: House = await make(engine="faster-whisper", model="tiny.en", language="de")
    await house.open()
    answer = await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    assert "English" not in answer
    house.session.say(packets)
    await house.until(lambda: len(house.messages) == 2, 30)
    assert sum("understands English alone" in text for text in house.texts) == 1
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    assert "understands English alone" in await house.plugin.start_transcribing(GUILD, ADA, TEXT, False, "fr")
    assert "understands English alone" in await house.plugin.choose_language(ADA, "cy")


@pytest.mark.e2e
async def test_words_are_stored_with_their_times_when_a_server_wants_them(make: Any, packets: list[bytes]) -> None:
    house: House = await make(script=["three little words"], word_timestamps=True)
    await house.open()
    await house.plugin.start_transcribing(GUILD, ADA, TEXT, False)
    await heard(house, packets)
    await house.plugin.stop_transcribing(GUILD, ADA, False)
    ((head, _),) = await house.plugin.book.newest(GUILD, lambda _head: True)
    found = await house.plugin.book.find(GUILD, head.id)
    assert found is not None
    (line,) = await lines_of(house.plugin.book, found[0])
    assert [word for _, _, word in line.words] == ["three", "little", "words"]
    assert line.words[0][0] == 0.0
    assert [start for start, _, _ in line.words] == sorted(start for start, _, _ in line.words)
    told = json.loads(export(head, [line], "json"))
    assert told["lines"][0]["words"][1][2] == "little"
    assert told["voice_channel_id"] == str(VOICE)
