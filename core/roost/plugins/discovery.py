"""Finding plugins: installed ones by their entry points, and files in the operator's drop-in folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from roost.blocking import OPENING_LIMIT_S
from roost.config import core_sections
from roost.dispatch import Dispatcher
from roost.entrypoints import installed_points, name_of, remedy, version_of
from roost.errors import ConfigError
from roost.errortext import error_line, repr_of
from roost.file_errors import explain
from roost.hooks import NO_VERSION
from roost.plugins.declared import IncompatibleError
from roost.plugins.importing import DROP_INS, check_hooks, import_waiting
from roost.plugins.records import Origin, PluginRecord, State, describe
from roost.schema import unmet
from roost.strays import taming

if TYPE_CHECKING:
    from pydantic import BaseModel

    from roost.config import Config

GROUP = "roost.plugins"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_INSTALLED_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "a plugin's name is 1 to 64 of a-z, 0-9, _ and -, a letter first"
_log = logging.getLogger("roost.plugins")
RESERVED = frozenset({"core", *core_sections()})
"""Names that are the core's: the owner of its commands, and its tables in the configuration."""
_CODE = frozenset({".py", ".so", ".toml"})
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def discover(config: Config) -> dict[str, PluginRecord]:
    """Every plugin by name, none imported; denied and unavailable ones and namesakes say why.

    Raises:
        ConfigError: The drop-in folder cannot be read, or others may write to it.
    """
    settings = config.core.plugins
    records: dict[str, PluginRecord] = {}
    for record in (*_installed(), *_dropped_in(config)):
        if record.name not in records:
            records[record.name] = record
            continue
        first = records[record.name]
        both = f"two plugins are called {record.name}: {_from(first)} and {_from(record)}; remove or deny one"
        first.state, first.detail, first.namesake = State.FAILED, both, True
        first.doubles += (record.origin,)
    for name in settings.deny:
        if name not in records and (near := get_close_matches(name, records)):
            _log.warning("plugins.deny names %s, and there is no such plugin; near it: %s", name, ", ".join(near))
    for record in records.values():
        if (settings.allow is not None and record.name not in settings.allow) or record.name in settings.deny:
            record.state, record.detail = State.DISABLED, "the configuration does not allow it"
        elif record.name in RESERVED:
            record.state, record.namesake = State.FAILED, True
            record.detail = f"no plugin can be called {record.name}: that is a name of the core; give it another"
    return records


def _from(record: PluginRecord) -> str:
    return f"{record.source} ({record.origin.file or record.origin.module})"


def _installed() -> Iterator[PluginRecord]:
    for point in installed_points(GROUP):
        dist = point.dist
        assert dist is not None
        source = name_of(dist)
        target = point.pattern.fullmatch(point.value)
        record = PluginRecord(
            point.name,
            source,
            version_of(dist),
            Origin(target["module"], target["attr"] or None) if target else Origin(point.value),
        )
        try:
            missing = _missing(dist, point.name)
        except Exception as error:  # noqa: BLE001 - what a damaged file makes the libraries raise is nowhere written
            missing = []
            record.state = State.FAILED
            record.detail = (
                f"the metadata of the distribution {source} is damaged ({error_line(error)}); {remedy(dist)}"
            )
        if not _INSTALLED_NAME.fullmatch(point.name):
            record.state = State.FAILED
            record.detail = f"the distribution {source} calls it {repr_of(point.name)}; {NAME_RULE}"
        elif target is None:
            record.state = State.FAILED
            what = f"the entry point {repr_of(point.value)} of the distribution {source} is not module:attribute"
            record.detail = f"{what}; {remedy(dist)}"
        elif missing:
            record.state = State.UNAVAILABLE
            record.detail = f"needs {', '.join(missing)}; run: pip install '{source}[{point.name}]'"
        yield record


def _dropped_in(config: Config) -> Iterator[PluginRecord]:
    folder = config.core.plugins.dir
    if folder is None:
        return
    folder = folder.expanduser().absolute()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot read the folder {folder}: {explain(error, folder)}", key="plugins.dir") from None
    if not config.core.plugins.allow_writable_dir:
        refuse_writable(folder)
    for entry in entries:
        file = entry / "__init__.py" if entry.is_dir() else entry
        name = entry.stem if entry.suffix == ".py" and entry.is_file() else entry.name
        if file.suffix != ".py" or not file.is_file() or name.startswith(("_", ".")):
            continue
        if not _NAME.fullmatch(name):
            _log.warning("%s is left out: %s", entry, NAME_RULE)
            continue
        if not config.core.plugins.allow_writable_dir:
            refuse_writable(entry)
            for inner in sorted(entry.rglob("*")) if entry.is_dir() else ():
                if "__pycache__" not in inner.parts and (inner.is_dir() or inner.suffix in _CODE):
                    refuse_writable(inner)
        yield PluginRecord(name, str(folder), NO_VERSION, Origin(f"{DROP_INS}.{name}", file=str(file)))


def refuse_writable(path: Path) -> None:
    """What others can write to, they can run as the bot.

    Raises:
        ConfigError: Says how to mend it.
    """
    status = path.stat()
    if status.st_mode & _OTHERS_WRITE or status.st_uid not in (0, os.getuid()):
        raise ConfigError(
            f"{path} can be written to by other users, who could run code as the bot; run: chmod go-w {path} "
            "(or set plugins.allow_writable_dir = true)",
            key="plugins.dir",
        )


def _missing(dist: importlib.metadata.Distribution, extra: str) -> list[str]:
    """Packages of an extra that are not installed."""
    missing = []
    environment: Mapping[str, str] = {"extra": extra}
    for line in dist.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate(dict(environment)):
            continue
        if requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
    return missing


def inspect_plugins(
    config: Config, *, validate: bool = False, models: dict[str, type[BaseModel]] | None = None
) -> list[dict[str, Any]]:
    """What ``roost plugins`` shows: every plugin found, imported for its meta and hooks but not opened.

    Args:
        validate: Also check each plugin's table against its model; a misfit makes its state ``failed``, and the row
            gets every mistake under ``problems``.
        models: Gets the model of each plugin's settings.

    Raises:
        ConfigError: A table of the configuration belongs to no plugin (not when validating).
    """
    # What a plugin prints while it is imported must not get into what a program reads from standard output.
    dispatcher = Dispatcher(list, lambda _plugin, _guild: True)
    with contextlib.redirect_stdout(sys.stderr), dispatcher.guard.watching():
        return _inspected(dispatcher, config, validate, models)


def _inspected(
    dispatcher: Dispatcher, config: Config, validate: bool, models: dict[str, type[BaseModel]] | None
) -> list[dict[str, Any]]:
    records = discover(config)
    if not validate:
        refuse_unknown_tables(config, records)
    rows = []
    made: dict[str, BaseModel] = {}
    for record in records.values():
        hooks: tuple[str, ...] = ()
        problems: list[str] = []
        wrong_setting = False
        if record.state is State.FOUND:
            try:
                code = import_waiting(record, config.core.plugins.load_timeout_s)
                record.meta = code.meta
                check_hooks(record, code.instance)
                dispatcher.manager.register(code.instance, record.name)
                callers = dispatcher.manager.get_hookcallers(code.instance) or []
                hooks = tuple(sorted(caller.name for caller in callers))
                if (validate or models is not None) and "register_config" in hooks:
                    with dispatcher.guard.inside(OPENING_LIMIT_S), taming():
                        model = code.instance.register_config()
                        if models is not None:
                            models[record.name] = model
                        if validate:
                            made[record.name] = config.plugin(record.name, model)
            except IncompatibleError as error:
                record.state, record.detail = State.INCOMPATIBLE, error.detail
                record.version = error.version or record.version
            except Exception as error:  # noqa: BLE001 - a broken plugin is a row, not an end
                record.state, record.detail = State.FAILED, describe(error)
                problems = [record.detail, *(str(each) for each in getattr(error, "more", ()))]
                wrong_setting = isinstance(error, ConfigError)
        more = {"problems": problems or [record.detail], "wrong_setting": wrong_setting} if validate else {}
        rows.append(record.summary(hooks) | more)
    for row in rows:
        name = str(row["name"])
        if name in made and row["state"] == State.FOUND.value:
            errors: list[Exception] = []
            try:
                with dispatcher.guard.inside(OPENING_LIMIT_S), taming():
                    errors += unmet(made[name], name, partial(others_with, dispatcher, name))
            except Exception as error:  # noqa: BLE001 - a broken plugin is a row, not an end
                errors.append(error)
            if errors:
                told = [str(each) if isinstance(each, ConfigError) else describe(each) for each in errors]
                row.update(state=State.FAILED.value, detail=told[0], problems=told)
                row["wrong_setting"] = isinstance(errors[0], ConfigError)
    return sorted(rows, key=lambda row: str(row["name"]))


def others_with(dispatcher: Dispatcher, name: str, hook: str) -> frozenset[str]:
    """The plugins that implement a hook, one of them excepted."""
    return dispatcher.having(hook) - {name}


def refuse_unknown_tables(config: Config, records: Mapping[str, PluginRecord]) -> None:
    """Raises ConfigError for a table of the configuration that belongs to nobody."""
    unknown = [table for table in config.plugin_tables if table not in records]
    known = ", ".join(sorted([*core_sections(), *records]))
    errors = [
        ConfigError(f"there is no table or plugin of that name (there is: {known})", key=name) for name in unknown
    ]
    if errors:
        errors[0].more = tuple(errors[1:])
        raise errors[0]
