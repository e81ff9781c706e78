"""What a configuration model says about its settings: keys, types in words, secrets, and what a server may change.

Everything that people see of the configuration comes from here: the messages about mistakes, ``roost config schema``,
and the command ``/config``.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from roost.errors import ConfigError

SECRET_WORDS = ("token", "secret", "password", "url", "key")
REDACTED = "<redacted>"
GUILD = "guild"
SECRET = "secret"  # noqa: S105 - the name of a mark, not a secret
NONE_WORDS = ("none", "null")
_LISTS = (list, tuple, set, frozenset)


def guild_setting(default: Any = ..., **options: Any) -> Any:
    """A pydantic ``Field`` that those who manage a server may change for their server, with ``/config``.

    The plugin reads it with ``ctx.config_for(guild_id)``; the hook ``config_changed`` tells of changes. Mark only what
    is harmless in anybody's hands: no path, address or limit of the whole bot.

    Args:
        default: The default value; none makes the setting required.
        options: Of ``pydantic.Field``.
    """
    extra = dict(options.pop("json_schema_extra", None) or {})
    return Field(default, json_schema_extra={**extra, GUILD: True}, **options)


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a model.

    Attributes:
        key: Dotted, without the section.
        field: pydantic's view of it.
        guild: A server may have its own value.
        secret: Its value is never shown.
    """

    key: str
    field: FieldInfo
    guild: bool
    secret: bool

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))

    @property
    def description(self) -> str:
        return self.field.description or ""

    @property
    def expected(self) -> str:
        return expected(self.field)

    @property
    def choices(self) -> tuple[str, ...]:
        """What it can be, where that is a handful."""
        return _choices(self.field.annotation)

    def of(self, model: BaseModel) -> Any:
        """Its value in an instance."""
        value: Any = model
        for part in self.path:
            value = getattr(value, part)
        return value

    def text(self, model: BaseModel) -> str:
        """Its value as somebody would type it; secrets too."""
        return as_text(self.of(model))


def settings_of(model: type[BaseModel], prefix: str = "", *, guild: bool = False) -> Iterator[Setting]:
    """Every setting of a model, those of inner models with dotted keys."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}
        here = guild or bool(extra.get(GUILD))
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings_of(inner, f"{prefix}{name}.", guild=here)
            continue
        secret = bool(extra.get(SECRET)) or is_secret(name) or _holds(inner, SecretStr) or _holds(inner, SecretBytes)
        yield Setting(f"{prefix}{name}", field, here, secret)


def is_secret(name: str) -> bool:
    """Whether a key of that name is not to be shown."""
    return any(word in name.lower() for word in SECRET_WORDS)


def _holds(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_holds(each, kind) for each in typing.get_args(annotation))


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _choices(annotation: Any) -> tuple[str, ...]:
    found: list[str] = []
    for option in _options(annotation):
        if typing.get_origin(option) is Literal:
            found += [str(each) for each in typing.get_args(option)]
        elif option is bool:
            found += ["true", "false"]
        elif isinstance(option, type) and issubclass(option, enum.Enum):
            found += [str(each.value) for each in option]
        elif option is not types.NoneType:
            return ()
    return tuple(found)


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    types.NoneType: "none",
    SecretStr: "text",
    Any: "anything",
}


def expected(field: FieldInfo) -> str:
    """The type of a setting in words: ``a whole number, at least 1, at most 64``."""
    parts = [_type(field.annotation)]
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "a multiple of"}
    sizes = {"min_length": "at least", "max_length": "at most"}
    for limit in field.metadata:
        parts += [f"{said} {getattr(limit, name)}" for name, said in words.items() if hasattr(limit, name)]
        parts += [f"{said} {getattr(limit, name)} long" for name, said in sizes.items() if hasattr(limit, name)]
    return ", ".join(parts)


def _type(annotation: Any) -> str:
    choices = _choices(annotation)
    if choices and annotation is not bool and types.NoneType not in _options(annotation):
        return f"one of {', '.join(choices)}"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if len(_options(annotation)) > 1:
        return " or ".join(_type(each) for each in _options(annotation))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in _LISTS:
        of = next((each for each in inner if each is not Ellipsis), Any)
        return f"a list of {_type(of).removeprefix('a ')}"
    if origin is dict or annotation is dict:
        return "a table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a table"
    return _WORDS.get(annotation) or str(getattr(annotation, "__name__", annotation))


# From text and back -------------------------------------------------------------------------------------------------


def from_text(value: Any, annotation: Any) -> Any:
    """Turn a string from the environment, a flag or a form into what pydantic cannot make of one itself."""
    if not isinstance(value, str):
        return value
    options = _options(annotation)
    if types.NoneType in options and value.strip().lower() in NONE_WORDS:
        return None
    if any(typing.get_origin(option) is dict for option in options) and value.lstrip().startswith("{"):
        return _json(value)
    if not any(typing.get_origin(option) in _LISTS for option in options):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def as_text(value: Any) -> str:
    """The inverse of `from_text`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, list | tuple | set | frozenset):
        items = [as_text(each) for each in value]
        plain = items and not any("," in each or each != each.strip() or each.startswith("[") for each in items)
        return ", ".join(items) if plain else json.dumps(items)
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    return str(value)


def prepared(model: type[BaseModel], raw: Mapping[str, Any]) -> dict[str, Any]:
    """A table in which strings are lists, tables and None where the model wants these."""
    found: dict[str, Any] = {}
    for key, value in raw.items():
        field = model.model_fields.get(key)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, Mapping):
            found[key] = prepared(inner, value)
        else:
            found[key] = from_text(value, inner)
    return found


def put(table: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in tables in tables; what is in the way and no table gives way."""
    for part in path[:-1]:
        inner = table.get(part)
        table[part] = dict(inner) if isinstance(inner, Mapping) else {}
        table = table[part]
    table[path[-1]] = value


OfferedBy = Callable[[str], Collection[str]]
"""The other plugins that implement a hook."""


def unmet(model: BaseModel, section: str, offered_by: OfferedBy) -> list[ConfigError]:
    """Settings that name something no plugin provides, by the settings' own method ``unmet`` where they have it.

    ``unmet(offered_by)`` returns pairs of a setting and what is wrong with it, for settings that name something another
    plugin may provide through a hook.
    """
    ask = getattr(model, "unmet", None)
    return [ConfigError(wrong, key=f"{section}.{key}") for key, wrong in ask(offered_by)] if callable(ask) else []


# Mistakes -----------------------------------------------------------------------------------------------------------


def mistakes(error: ValidationError, section: str, model: type[BaseModel]) -> list[ConfigError]:
    """Everything that is wrong with a table: key, expected type and value, secrets redacted."""
    secrets = {setting.path for setting in settings_of(model) if setting.secret}
    return [_mistake(each, section, model, secrets) for each in error.errors(include_url=False)]


def unusable_values(built: BaseModel, section: str) -> list[ConfigError]:
    """The settings whose values fit their types and that nothing can work with: no finite number, or a NUL character.

    No clock, timestamp or counter takes an infinite number, and no path, address or database takes a NUL.
    """
    found = []
    for setting in settings_of(type(built)):
        if (what := _unusable(setting.of(built))) is not None:
            key = ".".join(filter(None, (section, *setting.path)))
            found.append(ConfigError(f"{what} (expected: {setting.expected})", key=key))
    return found


def _unusable(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, but it is {value}"
    if isinstance(value, str | Path) and "\0" in str(value):
        return "must not contain a NUL character"
    if isinstance(value, Mapping):
        return next(filter(None, map(_unusable, (*value.keys(), *value.values()))), None)
    if isinstance(value, tuple | list | set | frozenset):
        return next(filter(None, map(_unusable, value)), None)
    return None


_SAYS_MORE = frozenset({"assertion_error", "missing", "string_pattern_mismatch", "value_error"})
"""Kinds of mistakes whose message tells more than the type of the setting does."""


def _mistake(each: Any, section: str, model: type[BaseModel], secrets: set[tuple[str, ...]]) -> ConfigError:
    path = [str(part) for part in each["loc"]]
    key = ".".join([section, *path]) if section else ".".join(path)
    if each["type"] == "extra_forbidden":
        known = ", ".join(sorted(_fields_at(model, path[:-1])))
        if path[-1] == "token" and section == "discord":
            wrong = "the token is kept out of the configuration; set ROOST_TOKEN, or ROOST_TOKEN_FILE to a private file"
            return ConfigError(wrong, key=key)
        return ConfigError(f"there is no such setting (there is: {known})", key=key)
    field = _field_at(model, path)
    hint = f" (expected: {expected(field)})" if field is not None else ""
    said = str(each["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    said = said if said.startswith("I ") else said[:1].lower() + said[1:]
    said = said.removesuffix(".")
    if field is not None and path[-1] in _fields_at(model, path[:-1]) and each["type"] not in _SAYS_MORE:
        said, hint = f"must be {expected(field)}", ""
    if each["type"] == "missing":
        return ConfigError(f"it must be set{hint}", key=key)
    value = each.get("input")
    hidden = any(is_secret(part) for part in path) or any(tuple(path[: len(one)]) == one for one in secrets)
    if hidden:
        for shown in {str(value), repr(value)} - {""}:
            said = said.replace(shown, REDACTED)
        return ConfigError(f"{said}, but it is {REDACTED}{hint}", key=key)
    if isinstance(value, Mapping | BaseModel):
        # The whole table: each value in it is in the file to be seen, and some are secret.
        return ConfigError(f"{said}{hint}", key=key)
    shown = repr(value)
    return ConfigError(f"{said}, but it is {shown if len(shown) <= 200 else shown[:200] + ' …'}{hint}", key=key)


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _field_at(model: type[BaseModel], path: Sequence[str]) -> FieldInfo | None:
    """The field at a path; that of the list or union for a path into one."""
    field: FieldInfo | None = None
    for part in path:
        if part not in model.model_fields:
            break
        field = model.model_fields[part]
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return field
