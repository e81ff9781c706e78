"""Typed configuration: TOML, overridden by the environment, overridden by flags.

Core sections are models of this module. Every other table of the file belongs to the plugin of that name and is
validated against the model the plugin registers. Environment variables are ``ROOST_<SECTION>__<KEY>`` (a
further ``__`` goes into an inner table), flags are ``--set section.key=value``; lists may be written as ``a,b`` or as
JSON.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import errno
import grp
import os
import re
import stat
import tomllib
import typing
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from roost.errors import ConfigError
from roost.file_errors import explain
from roost.schema import guild_setting, mistakes, prepared, put, unusable_values

__all__ = [
    "Config",
    "CoreConfig",
    "Section",
    "bot_id",
    "build",
    "core_sections",
    "examine",
    "guild_setting",
    "load",
    "read_token",
]

ModelT = TypeVar("ModelT", bound=BaseModel)

_PLAIN_VARIABLES = {
    "ROOST_TOKEN",
    "ROOST_TOKEN_FILE",
    "ROOST_CONFIG",
    "ROOST_DATA_DIR",
    "ROOST_PLUGINS",
    "ROOST_LEASE_DIR",
}


DAY_S = 86_400
YEAR_S = 366 * DAY_S

_ANOTHER = "name another with --data-dir or ROOST_DATA_DIR"
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class Section(BaseModel):
    """The base of every configuration model: unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DiscordConfig(Section):
    """Where Discord is and what is asked of it."""

    rest_url: str | None = Field(
        None, description="Base URL of the REST API, ending in /api/v10. Unset: Discord's own."
    )
    intents: tuple[str, ...] = Field(
        ("GUILDS", "GUILD_VOICE_STATES"), description="Gateway intents, by hikari's names; plugins say what they need."
    )

    @field_validator("rest_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = urllib.parse.urlsplit(value)
            whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            whole = False
        if not whole or re.search(r"\s", value) or url.query or url.fragment:
            raise ValueError(
                "is no address of a REST API; write https://HOST/api/v10, or leave it out for Discord's own"
            )
        return value.rstrip("/")


class StartConfig(Section):
    """Limits on starting."""

    timeout_s: float = Field(
        60.0, gt=0, le=DAY_S, description="Seconds in which each shard must be connected, counted from its turn on."
    )
    wait_s: float = Field(
        300.0,
        ge=0,
        le=YEAR_S,
        description="Seconds that a start waits for Discord while it cannot be reached; 0: not at all.",
    )
    max_identify_per_hour: int = Field(
        20,
        ge=0,
        le=1_000_000,
        description="Sessions (IDENTIFY) of each shard an hour, starts included; one more waits, so that a crash loop "
        "does not cost the token. 0: no limit but Discord's own.",
    )


class StoreConfig(Section):
    """Where settings live."""

    url: str | None = Field(None, description="SQLAlchemy URL of the database. Unset: SQLite in the data folder.")
    group_writable: bool = Field(
        False, description="Use a data folder that its group can write to, such as a Kubernetes volume with fsGroup."
    )
    backup_days: int = Field(
        14, ge=0, le=36_500, description="Days that backups of migrations are kept; deletions delete them sooner."
    )


class ConsentConfig(Section):
    """Who is heard by default."""

    mode: Literal["opt-in", "notice"] = Field("opt-in", description="opt-in: only members who agreed are heard.")


class LogConfig(Section):
    """The log on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"


class MetricsConfig(Section):
    """What the bot counts, for Prometheus."""

    listen: str | None = Field(
        None,
        pattern=r"^.+:[0-9]{1,5}$",
        description="host:port to answer GET /metrics at, such as 127.0.0.1:9464. Unset: nowhere. Keep it private.",
    )


class PluginsConfig(Section):
    """Which plugins are loaded."""

    allow: tuple[str, ...] | None = Field(None, description="Load only these. Unset: every plugin found.")
    deny: tuple[str, ...] = Field((), description="Never load these.")
    required: tuple[str, ...] = Field(
        ("voice", "stt"), description="The bot refuses to start when one of these is found but fails to load."
    )
    dir: Path | None = Field(None, description="Folder of drop-in plugins: files x.py and packages x/.")
    allow_writable_dir: bool = Field(False, description="Load drop-in plugins that other users can write to.")
    load_timeout_s: float = Field(
        30.0, gt=0, le=DAY_S, description="Seconds a plugin may take to be imported and opened."
    )
    quarantine_failures: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="Failures within quarantine_window_s that pause a plugin in a server, or quarantine it outside.",
    )
    quarantine_window_s: float = Field(
        60.0, gt=0, le=DAY_S, description="Seconds over which failures of a plugin are counted."
    )
    quarantine_retry_s: float = Field(
        300.0,
        gt=0,
        le=YEAR_S,
        description="Seconds of a pause in one server. Each that follows at once lasts twice as long, up to 6 hours.",
    )
    quarantine_owners: int = Field(
        3,
        ge=1,
        le=1_000_000,
        description="A plugin paused in servers of this many owners, and of most that used it lately, is quarantined.",
    )

    @field_validator("dir")
    @classmethod
    def _whole_path(cls, value: Path | None) -> Path | None:
        """A plugin may change the folder of the process."""
        return value.expanduser().absolute() if value is not None else None


class CommandsConfig(Section):
    """Slash commands at Discord."""

    remove_foreign: bool = Field(
        False, description="Remove commands of the application that this bot did not register, also global ones."
    )


class CoreConfig(Section):
    """The core's own sections."""

    discord: DiscordConfig = DiscordConfig()
    start: StartConfig = StartConfig()
    store: StoreConfig = StoreConfig()
    consent: ConsentConfig = ConsentConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    plugins: PluginsConfig = PluginsConfig()
    commands: CommandsConfig = CommandsConfig()


class Config:
    """The validated core sections and the raw tables of plugins.

    Attributes:
        core: See `CoreConfig`.
        data_dir: Created by `load` with mode 0700; the mode of one that was there is left alone.
        source: The file read, or None.
    """

    def __init__(self, core: CoreConfig, tables: Mapping[str, Mapping[str, Any]], data_dir: Path, source: Path | None):
        self.core = core
        self._tables = {name: dict(table) for name, table in tables.items()}
        self.data_dir = data_dir
        self.source = source

    @property
    def plugin_tables(self) -> tuple[str, ...]:
        return tuple(sorted(self._tables))

    def plugin(self, name: str, model: type[ModelT], over: Mapping[str, Any] | None = None) -> ModelT:
        """The settings of one plugin.

        Args:
            name: Of the plugin.
            model: Of its settings.
            over: Dotted keys to values that count more than file, environment and flags.

        Raises:
            ConfigError: A value does not fit; names key, expected type and value.
        """
        table = dict(self._tables.get(name, {}))
        for key, value in (over or {}).items():
            put(table, key.split("."), value)
        return build(model, table, name)


def build(model: type[ModelT], raw: Mapping[str, Any], section: str) -> ModelT:
    """Validate a table against a model; strings become lists where the model wants lists.

    Raises:
        ConfigError: Names the first mistake; `ConfigError.more` holds the others.
    """
    try:
        built = model.model_validate(prepared(model, raw))
    except ValidationError as error:
        first, *more = mistakes(error, section, model)
        first.more = tuple(more)
        raise first from None
    if unusable := unusable_values(built, section):
        first, *more = unusable
        first.more = tuple(more)
        raise first
    return built


def load(
    *,
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    data_dir: Path | None = None,
) -> Config:
    """Read the configuration and make the data folder.

    Args:
        path: The TOML file; None looks at ``ROOST_CONFIG`` and then at ``roost.toml`` in the current folder.
        environ: Defaults to the process's.
        sets: ``section.key=value`` from flags; the last wins.
        data_dir: Overrides ``ROOST_DATA_DIR`` and the platform's data folder.

    Raises:
        ConfigError: With the file or key to blame.
    """
    config, errors = examine(path=path, environ=environ, sets=sets, data_dir=data_dir)
    if errors:
        errors[0].more = (*errors[0].more, *errors[1:])
        raise errors[0]
    return config


def examine(
    *,
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    data_dir: Path | None = None,
) -> tuple[Config, list[ConfigError]]:
    """`load` that goes on with the defaults of a section that is wrong, and gives every mistake in the core's sections.

    Raises:
        ConfigError: The file cannot be read, or the data folder cannot be used.
    """
    env = os.environ if environ is None else environ
    file = _find_file(path, env)
    tables = _read_file(file) if file else {}
    for section, key, value in _from_environment(env):
        put(tables.setdefault(section, {}), key.split("__"), value)
    if "ROOST_PLUGINS" in env:
        tables.setdefault("plugins", {})["allow"] = env["ROOST_PLUGINS"]
    for item in sets:
        section, key, value = _parse_set(item)
        put(tables.setdefault(section, {}), key.split("."), value)

    core: dict[str, BaseModel] = {}
    errors: list[ConfigError] = []
    for name, model in core_sections().items():
        try:
            core[name] = build(model, tables.pop(name, {}), name)
        except ConfigError as error:
            errors += [error, *error.more]
            error.more = ()
            core[name] = model()
    whole = CoreConfig(**typing.cast("dict[str, Any]", core))
    given = data_dir or (Path(env["ROOST_DATA_DIR"]) if env.get("ROOST_DATA_DIR") else _default_folder())
    return Config(whole, tables, _usable(given.absolute(), group_writable=whole.store.group_writable), file), errors


def core_sections() -> dict[str, type[BaseModel]]:
    """The models of the core's own tables, by name."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in CoreConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        found[name] = field.annotation
    return found


def _find_file(path: Path | None, env: Mapping[str, str]) -> Path | None:
    if path is None and env.get("ROOST_CONFIG"):
        path = Path(env["ROOST_CONFIG"])
    if path is not None:
        return path
    local = Path("roost.toml")
    return local if local.is_file() else None


def _read_file(file: Path) -> dict[str, dict[str, Any]]:
    try:
        raw = file.read_bytes()
        _refuse_byte_order_mark(raw, file)
        tables = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {explain(error, file)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"must be a table: write [{name}] and put its settings below", key=name)
    return tables


def _from_environment(env: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = []
    for name, value in sorted(env.items()):
        if not name.startswith("ROOST_") or name in _PLAIN_VARIABLES:
            continue
        section, double, key = name.removeprefix("ROOST_").lower().partition("__")
        if not double:
            first, _, rest = section.partition("_")
            if first in CoreConfig.model_fields and rest:
                meant = f"ROOST_{first}__{rest}".upper()
                raise ConfigError(f"{name} is no setting; write {meant}, with two underscores after the section")
            continue
        if not section or not key.strip("_"):
            raise ConfigError(f"{name} is no setting; write ROOST_SECTION__KEY")
        found.append((section, key, value))
    return found


def _parse_set(item: str) -> tuple[str, str, str]:
    name, equals, value = item.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"--set takes section.key=value, not {item!r}")
    return section, key, value


def _refuse_byte_order_mark(raw: bytes, file: Path) -> None:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if raw.startswith(mark):
            raise ConfigError(f"{file} begins with a byte order mark of {encoding}; save it as UTF-8 without BOM")


def _default_folder() -> Path:
    try:
        folder = platformdirs.user_data_path("roost")
    except RuntimeError:  # a user without a name and a home folder, as in many containers
        folder = Path("~")
    if not folder.is_absolute():
        raise ConfigError(
            "there is no home folder to keep data in; name a data folder with --data-dir or ROOST_DATA_DIR, or set HOME"
        )
    return folder


def _usable(folder: Path, *, group_writable: bool) -> Path:
    """Make the data folder, or look at the one that is there; its mode and owner are never changed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise ConfigError(f"cannot use the data folder {folder}: {explain(error, folder)}, or {_ANOTHER}") from None
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH:
        raise ConfigError(
            f"every user of the machine can write to the data folder {folder} (mode {mode:04o}); "
            f"run: chmod o-w {folder}, or {_ANOTHER}"
        )
    if mode & stat.S_IWGRP and not group_writable:
        raise ConfigError(
            f"the group {_group(found.st_gid)} can write to the data folder {folder} (mode {mode:04o}); run: "
            f"chmod g-w {folder}, or set store.group_writable = true if that is meant"
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        closed = OSError(errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES, "")
        raise ConfigError(f"cannot use the data folder {folder}: {explain(closed, folder)}, or {_ANOTHER}")
    return folder


def _group(number: int) -> str:
    """A group's name, or the number of one without a name."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def read_token(environ: Mapping[str, str] | None = None, token_file: Path | None = None) -> str:
    """The bot token, from ``ROOST_TOKEN`` or from a private file, and never from the configuration file.

    Raises:
        ConfigError: There is none, it does not look like a bot token, or its file is readable by others.
    """
    env = os.environ if environ is None else environ
    if token_file is None and env.get("ROOST_TOKEN_FILE"):
        token_file = Path(env["ROOST_TOKEN_FILE"])
    if token_file is not None:
        try:
            mode = stat.S_IMODE(token_file.stat().st_mode)
            raw = token_file.read_bytes()
            _refuse_byte_order_mark(raw, token_file)
            token = raw.decode("utf-8").strip()
        except OSError as error:
            raise ConfigError(f"cannot read the token file {token_file}: {explain(error, token_file)}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"the token file {token_file} is no text; write the bot token into it") from None
        if mode & 0o077:
            raise ConfigError(f"the token file {token_file} is readable by others; run: chmod 600 {token_file}")
    else:
        token = env.get("ROOST_TOKEN", "").strip()
    if not token:
        raise ConfigError("no bot token; set ROOST_TOKEN, or ROOST_TOKEN_FILE to a private file that holds it")
    if bot_id(token) is None:
        raise ConfigError(
            "this is not a bot token (three parts with dots between them, the first made of the bot's user id); "
            "copy it from your application's Bot page, without a 'Bot ' in front"
        )
    return token


def bot_id(token: str) -> int | None:
    """The user id that a bot token begins with, or None if the token is malformed."""
    parts = token.split(".")
    if len(parts) != 3 or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
        return None
    try:
        text = base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return int(text) if text.isdecimal() else None
