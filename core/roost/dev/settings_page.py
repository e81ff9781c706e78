"""``roost config check`` and ``roost config schema``: every mistake at once, and what there is to set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import hikari
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import models_json_schema

from roost.config import core_sections
from roost.errors import ConfigError, UsageError
from roost.plugins import State, discover, inspect_plugins, refuse_unknown_tables
from roost.store import check_url

if TYPE_CHECKING:
    from roost.config import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def problems(config: Config, errors: list[ConfigError]) -> list[str]:
    """Every mistake in a configuration, one line each.

    Args:
        config: As `roost.config.examine` gives it.
        errors: What that found already.
    """
    found = [str(error) for error in (*errors, *unfit(config))]
    try:
        records = discover(config)
        known = ", ".join(sorted(records)) or "none"
        found += [
            f"plugins.deny: there is no plugin called {name} (near it: {', '.join(near)})"
            for name in config.core.plugins.deny
            if name not in records and (near := get_close_matches(name, records))
        ]
        found += [
            f"plugins.allow: there is no plugin called {name} (found: {known})"
            for name in config.core.plugins.allow or ()
            if name not in records
        ]
        refuse_unknown_tables(config, records)
        rows = inspect_plugins(config, validate=True)
    except ConfigError as error:
        found += [str(each) for each in (error, *error.more)]
        rows = inspect_plugins(config, validate=True) if error.key != "plugins.dir" else []
    for row in rows:
        if row["state"] == State.FAILED.value:
            found += row["problems"]
    return found


def unfit(config: Config) -> Iterator[ConfigError]:
    """Values that fit their types and that the start refuses."""
    for name in config.core.discord.intents:
        if name.upper() not in hikari.Intents.__members__:
            near = get_close_matches(name.upper(), hikari.Intents.__members__)
            hint = f" (near it: {', '.join(near)})" if near else ""
            yield ConfigError(f"{name} is not one of Discord's intents{hint}", key="discord.intents")
    try:
        check_url(config.data_dir, config.core.store.url)
    except ConfigError as error:
        yield error


def schema(config: Config, plugin: str | None = None) -> dict[str, Any]:
    """The JSON schema of the whole configuration file, or of one table of it.

    Settings that ``/config`` can change for a server have ``"guild": true``.

    Raises:
        UsageError: There is no such table.
    """
    models: dict[str, type[BaseModel]] = dict(core_sections())
    of_plugins: dict[str, type[BaseModel]] = {}
    inspect_plugins(config, models=of_plugins)
    models.update(of_plugins)
    if plugin is not None:
        if plugin not in models:
            raise UsageError(f"nothing called {plugin} has settings (there is: {', '.join(sorted(models))})")
        return {"$schema": DIALECT, **models[plugin].model_json_schema()}
    return {
        "$schema": DIALECT,
        "title": "roost.toml",
        "type": "object",
        "additionalProperties": False,
        **_tables(models),
    }


def _tables(models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    known = {name: model for name, model in models.items() if _has_schema(model)}
    references, definitions = models_json_schema([(model, "validation") for model in known.values()])
    properties: dict[str, Any] = {
        name: references[known[name], "validation"] if name in known else {"type": "object"} for name in models
    }
    return {"properties": properties, **definitions}


def _has_schema(model: type[BaseModel]) -> bool:
    try:
        model.model_json_schema()
    except PydanticInvalidForJsonSchema:
        return False
    return True
