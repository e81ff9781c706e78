from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import Field

from roost.config import Section, bot_id, load, read_token
from roost.errors import ConfigError

pytestmark = pytest.mark.unit

TOKEN = "OTAwMDAwMDAwMDAwMDAwMDAx.AAAAAA.abcdefghijklmnopqrstuvwxyz0"


class Voice(Section):
    driver: str = "native"
    allowed_hosts: tuple[str, ...] = ("*.discord.media",)
    ca_file: Path | None = None
    limit: int = Field(5, ge=1)
    api_token: int = 0


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "roost.toml"
    file.write_text('[voice]\ndriver = "file"\nlimit = 2\nallowed_hosts = ["one"]\n[log]\nlevel = "ERROR"\n')
    env = {"ROOST_VOICE__DRIVER": "env", "ROOST_VOICE__LIMIT": "3", "ROOST_VOICE__ALLOWED_HOSTS": "a, b"}
    config = load(path=file, environ=env, sets=["voice.driver=flag"], data_dir=tmp_path / "data")
    voice = config.plugin("voice", Voice)
    assert (voice.driver, voice.limit, voice.allowed_hosts) == ("flag", 3, ("a", "b"))
    assert config.core.log.level == "ERROR"
    assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("mode", "sets", "said"),
    [
        (0o755, [], ""),
        (0o775, [], "run: chmod g-w {folder}, or set store.group_writable = true if that is meant"),
        (0o2775, ["store.group_writable=true"], ""),
        (0o757, ["store.group_writable=true"], "run: chmod o-w {folder}, or name another with --data-dir"),
    ],
)
def test_the_mode_of_an_existing_data_folder_is_left_alone(
    mode: int, sets: list[str], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    if said:
        with pytest.raises(ConfigError, match=said.format(folder=folder)):
            load(environ={}, sets=sets, data_dir=folder)
    else:
        load(environ={}, sets=sets, data_dir=folder)
    assert stat.S_IMODE(folder.stat().st_mode) == mode


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/api/v10",
        "discord.com",
        "http://",
        "http://host:99999/api",
        "hello world",
        "http://[::1/api",
        "http://h/x y",
        "",
    ],
)
def test_a_rubbish_address_of_discord_says_what_a_right_one_is(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"discord\.rest_url: .*write https://HOST/api/v10"):
        load(environ={}, sets=[f"discord.rest_url={url}"], data_dir=tmp_path / "data")


def test_a_token_file_with_a_byte_order_mark_says_so(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("\ufefftoken", encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=f"{file} begins with a byte order mark of UTF-8"):
        read_token({}, file)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["voice.limit=many"], "voice.limit: must be a whole number"),
        (["voice.limit=0"], "voice.limit: must be a whole number, at least 1, but it is '0'"),
        (["voice.lmit=1"], "voice.lmit: there is no such setting (there is: allowed_hosts"),
        (["voice.api_token=hunter2"], "<redacted>"),
    ],
)
def test_a_bad_value_names_key_type_and_value(tmp_path: Path, sets: list[str], said: str) -> None:
    config = load(environ={}, sets=sets, data_dir=tmp_path)
    with pytest.raises(ConfigError) as caught:
        config.plugin("voice", Voice)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = = 1", "not valid TOML"), ("voice = 1", "must be a table"), ("[log]\nlevel = 'LOUD'", "log.level")],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "roost.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(path=file, environ={}, data_dir=tmp_path / "data")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml"):
        load(path=tmp_path / "nowhere.toml", environ={}, data_dir=tmp_path)


def test_a_flag_without_a_value_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load(environ={}, sets=["voice"], data_dir=tmp_path)


def test_empty_allow_list_loads_no_plugin(tmp_path: Path) -> None:
    assert load(environ={"ROOST_PLUGINS": ""}, data_dir=tmp_path).core.plugins.allow == ()


def test_the_token_comes_from_environment_or_private_file(tmp_path: Path) -> None:
    assert read_token({"ROOST_TOKEN": TOKEN}) == TOKEN
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    assert read_token({"ROOST_TOKEN_FILE": str(file)}) == TOKEN
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token({"ROOST_TOKEN_FILE": str(file)})


@pytest.mark.parametrize("token", ["", "abc", "a.b", "Bot " + TOKEN, "not-base64!.AAAAAA.x", "aGVsbG8.AAAAAA.x"])
def test_a_malformed_token_is_refused_and_never_shown(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_token({"ROOST_TOKEN": token})
    assert not token or token not in str(caught.value)


def test_a_token_begins_with_its_bot() -> None:
    assert bot_id(TOKEN) == 900000000000000001


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ROOST_LOG_LEVEL", "ROOST_LOG_LEVEL is no setting; write ROOST_LOG__LEVEL"),
        ("ROOST___X", "ROOST___X is no setting; write ROOST_SECTION__KEY"),
    ],
)
def test_a_misspelt_variable_is_not_passed_over(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        load(environ={name: "DEBUG"}, data_dir=tmp_path / "data")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    load(environ={"ROOST_HOUSE": "1", "ROOSTER": "2", "ROOST_STT_SOMETHING": "3"}, data_dir=tmp_path / "data")


def test_paths_do_not_follow_the_folder_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins").mkdir()
    config = load(environ={}, sets=["plugins.dir=plugins"], data_dir=Path("data"))
    monkeypatch.chdir("/")
    assert config.data_dir == tmp_path / "data"
    assert config.core.plugins.dir == tmp_path / "plugins"


@pytest.mark.parametrize("kind", ["folder", "dangling link", "absent"])
@pytest.mark.parametrize("what", ["token file", "configuration"])
def test_something_in_a_files_place_is_named_with_the_remedy(what: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    if kind == "folder":
        file.mkdir()
    elif kind == "dangling link":
        file.symlink_to("/nowhere/at/all")
    remedy = {
        "folder": f"Is a directory; move the folder {file} away",
        "dangling link": f"No such file or directory; {file} is a link to /nowhere/at/all: remove the link, or make "
        "what it leads to",
        "absent": "No such file or directory; check the path",
    }[kind]
    with pytest.raises(ConfigError) as caught:
        if what == "token file":
            read_token({}, file)
        else:
            load(path=file, environ={}, data_dir=tmp_path / "data")
    assert str(caught.value) == f"cannot read {'the token file ' if what == 'token file' else ''}{file}: {remedy}"


class Limits(Section):
    wait_s: float = Field(5.0, gt=0)
    place: str = "here"
    folders: tuple[Path, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wait_s = inf", r"limits\.wait_s: must be a finite number, but it is inf \(expected: a number, more than 0"),
        ('place = "a\\u0000b"', r"limits\.place: must not contain a NUL character"),
        ('folders = ["a\\u0000b"]', r"limits\.folders: must not contain a NUL character"),
        ("shares = {a = nan}", r"limits\.shares: must be a finite number, but it is nan"),
    ],
)
def test_a_value_that_nothing_can_work_with_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "roost.toml"
    file.write_text(f"[limits]\n{text}\n")
    config = load(path=file, environ={}, data_dir=tmp_path / "data")
    with pytest.raises(ConfigError, match=said):
        config.plugin("limits", Limits)


@pytest.mark.parametrize(
    "setting",
    [
        "plugins.quarantine_retry_s=inf",
        "plugins.quarantine_retry_s=1e300",
        "plugins.quarantine_window_s=inf",
        "plugins.dir=a\0b",
        "plugins.load_timeout_s=inf",
        "start.timeout_s=inf",
        "start.wait_s=1e300",
    ],
)
def test_no_time_of_the_core_is_endless(setting: str, tmp_path: Path) -> None:
    """A pause until the end of time is no timestamp that Discord, or Python, can make."""
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        load(environ={}, sets=[setting], data_dir=tmp_path)
