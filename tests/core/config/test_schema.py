"""What is said about settings: mistakes, types in words, secrets, text and back."""

from __future__ import annotations

import enum
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from roost import cli
from roost.config import Section, build, guild_setting, load
from roost.errors import ConfigError
from roost.schema import as_text, from_text, settings_of

pytestmark = pytest.mark.unit


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(Section):
    deep: int = Field(1, ge=1, le=9)
    passwords: tuple[str, ...] = ()


class Model(Section):
    number: int = guild_setting(1, ge=1, lt=64, description="How many.")
    half: float | None = None
    on: bool = guild_setting(True)
    words: tuple[str, ...] = guild_setting(())
    mode: Literal["a", "b"] = guild_setting("a")
    colour: Colour = Colour.RED
    table: dict[str, int] = Field({})
    name: str = guild_setting("x", min_length=1, max_length=5)
    place: Path | None = None
    api_token: str = guild_setting("t", description="For the other side.")
    hidden: SecretStr = SecretStr("s")
    inner: Inner = Inner()

    @field_validator("api_token")
    @classmethod
    def _long(cls, value: str) -> str:
        if value == "hunter2":
            raise ValueError(f"{value} is well known")
        return value


def test_settings_know_their_type_in_words() -> None:
    found = {each.key: each for each in settings_of(Model)}
    assert {key: each.expected for key, each in found.items()} == {
        "number": "a whole number, at least 1, less than 64",
        "half": "a number or none",
        "on": "true or false",
        "words": "a list of text",
        "mode": "one of a, b",
        "colour": "one of red, blue",
        "table": "a table",
        "name": "text, at least 1 long, at most 5 long",
        "place": "a path or none",
        "api_token": "text",
        "hidden": "text",
        "inner.deep": "a whole number, at least 1, at most 9",
        "inner.passwords": "a list of text",
    }
    assert {key for key, each in found.items() if each.guild} == {"number", "on", "words", "mode", "name", "api_token"}
    assert {key for key, each in found.items() if each.secret} == {"api_token", "hidden", "inner.passwords"}
    assert found["on"].choices == ("true", "false")
    assert found["mode"].choices == ("a", "b")
    assert found["number"].choices == ()


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("number", 5, "5"),
        ("half", None, "none"),
        ("half", 0.5, "0.5"),
        ("on", False, "false"),
        ("words", ("a", "b c"), "a, b c"),
        ("words", (), "[]"),
        ("words", ("a,b",), '["a,b"]'),
        ("words", (" x",), '[" x"]'),
        ("words", ("[",), '["["]'),
        ("mode", "b", "b"),
        ("colour", Colour.BLUE, "blue"),
        ("table", {"a": 1}, '{"a": 1}'),
    ],
)
def test_text_and_back(field: str, value: Any, text: str) -> None:
    assert as_text(value) == text
    raw = from_text(text, Model.model_fields[field].annotation)
    assert getattr(Model.model_validate({field: raw}), field) == value


def refused(raw: dict[str, Any], model: type[BaseModel] = Model) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(model, raw, "some")
    return [str(each) for each in (caught.value, *caught.value.more)]


def test_every_mistake_is_named_with_key_type_and_value() -> None:
    assert refused({"number": "many", "inner": {"deep": "10"}, "nope": 1}) == [
        "some.number: must be a whole number, at least 1, less than 64, but it is 'many'",
        "some.inner.deep: must be a whole number, at least 1, at most 9, but it is '10'",
        "some.nope: there is no such setting (there is: api_token, colour, half, hidden, inner, mode, name, number, "
        "on, place, table, words)",
    ]


def test_no_secret_is_in_any_message() -> None:
    class Whole(Section):
        api_token: str = ""
        keys: dict[str, int] = Field({})

        @model_validator(mode="after")
        def _never(self) -> Whole:
            raise ValueError("these do not go together")

    for raw in (
        {"api_token": "hunter2"},
        {"api_token": ["hunter2"]},
        {"hidden": {"x": "hunter2"}},
        {"inner": {"passwords": [{"x": "hunter2"}]}},
        {"inner": {"passwords": "[hunter2", "deep": "x"}},
    ):
        said = "\n".join(refused(raw))
        assert "hunter2" not in said
        assert "must be " in said or "(expected: " in said
    for raw in ({"api_token": "hunter2"}, {"keys": {"a": "hunter2"}}):
        assert "hunter2" not in "\n".join(refused(raw, Whole))
    assert refused({"api_token": "hunter2"}, Whole) == ["some: these do not go together"]


def test_environment_and_flags_reach_inner_tables(tmp_path: Path) -> None:
    file = tmp_path / "roost.toml"
    file.write_text("[some.inner]\ndeep = 2\npasswords = ['a']\n[some]\nnumber = 3\n")
    config = load(
        path=file,
        environ={"ROOST_SOME__INNER__DEEP": "3", "ROOST_SOME__INNER__PASSWORDS": "b, c"},
        sets=["some.inner.deep=4"],
        data_dir=tmp_path / "data",
    )
    model = config.plugin("some", Model)
    assert (model.inner.deep, model.inner.passwords, model.number) == (4, ("b", "c"), 3)
    assert config.plugin("some", Model, {"inner.deep": 5, "number": 6}).inner == Inner(deep=5, passwords=("b", "c"))


PLUGIN = """
from pydantic import BaseModel, Field
from roost import Meta, hookimpl
from roost.config import guild_setting

class Settings(BaseModel):
    volume: int = guild_setting(5, ge=0, le=11, description="How loud.")
    api_token: str = Field("x", min_length=3)

@hookimpl
def plugin_meta(): return Meta("loud")
@hookimpl
def register_config(): return Settings
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "drop"
    folder.mkdir(mode=0o755)
    (folder / "loud.py").write_text(PLUGIN)
    return ["--plugins-dir", str(folder), "--data-dir", str(tmp_path / "data"), "--set", "plugins.deny=voice,stt"]


def test_config_check_names_all_of_it(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "check", *arguments]) == 0
    (tmp_path / "roost.toml").write_text(
        '[log]\nlevel = "LOUD"\nformat = "x"\n[store]\nurl = 5\n[what]\na = 1\n[who]\n'
        '[loud]\nvolume = 12\napi_token = "h2"\n'
    )
    capsys.readouterr()
    assert cli.main(["config", "check", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "store.url", "log.level", "log.format", "what", "who", "loud.volume", "loud.api_token"
    ]  # fmt: skip
    assert lines[5].endswith("must be a whole number, at least 0, at most 11, but it is 12")
    assert "h2" not in lines[6]
    assert lines[6].endswith("must be text, at least 3 long, but it is <redacted>")


def test_config_check_names_what_only_a_start_would_refuse(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = (
        "discord.intents=GUILDS,GUILD_MEMBER",
        "store.url=postgresql://a:secret@127.0.0.1/x?foo=1",
        "plugins.deny=lound",
    )
    assert cli.main(["config", "check", *arguments, *(f"--set={each}" for each in wrong)]) == 2
    said = capsys.readouterr().err
    assert "discord.intents: GUILD_MEMBER is not one of Discord's intents (near it: GUILD_MEMBERS" in said
    assert "store.url: the URL has the option foo" in said
    assert "plugins.deny: there is no plugin called lound (near it: loud" in said
    assert "secret" not in said


def test_config_schema_prints_everything_or_one_table(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "schema", *arguments]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert {"store", "log", "plugins", "loud"} <= set(whole["properties"])
    loud = whole["$defs"][whole["properties"]["loud"]["$ref"].rpartition("/")[2]]
    assert loud["properties"]["volume"] == {
        "default": 5, "description": "How loud.", "guild": True, "maximum": 11, "minimum": 0, "title": "Volume",
        "type": "integer",
    }  # fmt: skip
    assert cli.main(["config", "schema", "loud", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["properties"] == loud["properties"]
    assert cli.main(["config", "schema", "nobody", *arguments]) == 2
    assert "nothing called nobody has settings (there is: commands, consent" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"roost {version('roost')}\n"


def test_a_token_in_the_configuration_is_told_where_it_belongs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "roost.toml"
    file.write_text('[discord]\ntoken = "abc.def.ghi"\n[strat]\nwait_s = 1\n')
    assert cli.main(["config", "check", "--config", str(file), "--data-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "discord.token: the token is kept out of the configuration; set ROOST_TOKEN, or ROOST_TOKEN_FILE" in said
    assert "abc.def.ghi" not in said
    assert "strat: there is no table or plugin of that name (there is: commands, consent" in said


def test_config_check_names_an_allowed_plugin_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOST_PLUGINS", "voice,vioce")
    assert cli.main(["config", "check", "--data-dir", str(tmp_path)]) == 2
    assert "plugins.allow: there is no plugin called vioce (found: stt, voice)" in capsys.readouterr().err
    monkeypatch.setenv("ROOST_PLUGINS", "")
    assert cli.main(["config", "check", "--data-dir", str(tmp_path)]) == 0
