"""The core's own tables, and the one table that each plugin has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

IDENTIFIER_CHARS = 40
"""Longest name made from a plugin's; PostgreSQL cuts identifiers at 63 bytes, and names of indexes go beyond this."""

TEXT_KEY = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
"""Sorted by code point in every database."""

settings = sa.Table(
    "roost_settings",
    metadata,
    sa.Column("plugin", sa.String(64), primary_key=True),
    sa.Column("guild_id", sa.BigInteger, primary_key=True, comment="0 for the whole bot"),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

enablement = sa.Table(
    "roost_enablement",
    metadata,
    sa.Column("plugin", sa.String(64), primary_key=True),
    sa.Column("guild_id", sa.BigInteger, primary_key=True),
    sa.Column("enabled", sa.Boolean, nullable=False),
)

consent = sa.Table(
    "roost_consent",
    metadata,
    sa.Column("guild_id", sa.BigInteger, primary_key=True),
    sa.Column("user_id", sa.BigInteger, primary_key=True),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("decided_at", sa.Float, nullable=False),
)

consent_terms = sa.Table(
    "roost_consent_terms",
    metadata,
    sa.Column("guild_id", sa.BigInteger, primary_key=True),
    sa.Column("user_id", sa.BigInteger, primary_key=True),
    sa.Column("terms", sa.Text, nullable=False, comment="roost.consent.Terms.token; no row for the usual ones"),
)

folders = sa.Table(
    "roost_folders",
    metadata,
    sa.Column("folder", sa.String(32), primary_key=True, comment="roost.store.decisions.Stamp"),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False, comment="no refusal is missing here"),
    sa.Column("noted_at", sa.Float, nullable=False, comment="seconds since 1970"),
)

guild_config = sa.Table(
    "roost_guild_config",
    metadata,
    sa.Column("plugin", sa.String(64), primary_key=True),
    sa.Column("guild_id", sa.BigInteger, primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True, comment="dotted, without the plugin"),
    sa.Column("value", sa.Text, nullable=False, comment="JSON"),
)

access = sa.Table(
    "roost_access",
    metadata,
    sa.Column("guild_id", sa.BigInteger, primary_key=True),
    sa.Column("path", sa.String(128), primary_key=True, comment="of the command; * for all"),
    sa.Column("kind", sa.String(8), primary_key=True, comment="role or user"),
    sa.Column("subject_id", sa.BigInteger, primary_key=True),
    sa.Column("allowed", sa.Boolean, nullable=False),
)

versions = sa.Table(
    "roost_data_versions",
    metadata,
    sa.Column("plugin", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)

deletions = sa.Table(
    "roost_deletions",
    metadata,
    sa.Column("holder", sa.String(64), primary_key=True, comment="the plugin's table, there or not"),
    sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("asked_at", sa.Float, nullable=False, comment="seconds since 1970"),
)

traces = sa.Table(
    "roost_traces",
    metadata,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False, comment="1: there is one row"),
    sa.Column("wanted", sa.Boolean, nullable=False, comment="traces of deleted rows are to be removed"),
)

owner = sa.Table(
    "roost_owner",
    metadata,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False, comment="1: there is one row"),
    sa.Column("bot_id", sa.BigInteger, nullable=False),
    sa.Column("application_id", sa.BigInteger, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
)

holder = sa.Table(
    "roost_holder",
    metadata,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False, comment="1: there is one row"),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("since_s", sa.Float, nullable=False, comment="seconds since 1970"),
    sa.Column("bot_id", sa.BigInteger, nullable=False),
)


PREFIX = "plugin_"
"""Of the tables of plugins; nothing else in the database begins so."""

INDEXES = {"guild": ("collection", "guild_id", "key"), "user": ("user_id", "collection")}
"""What each plugin's table is indexed by."""

_PLAIN = re.compile(r"[a-z0-9_-]*")


def documents_table(plugin: str) -> sa.Table:
    """The table that holds all collections of a plugin, in a metadata of its own."""
    return table_called(table_name(plugin))


def table_called(name: str) -> sa.Table:
    """A plugin's table by its name. Names of its indexes and constraints are no other plugin's table or index."""
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("collection", sa.String(64)),
        sa.Column("key", TEXT_KEY),
        sa.Column("guild_id", sa.BigInteger),
        sa.Column("user_id", sa.BigInteger),
        sa.Column("value", sa.Text, nullable=False, comment="JSON"),
        sa.Column("changed_at", sa.Float, nullable=False, comment="seconds since 1970"),
        sa.PrimaryKeyConstraint("collection", "key", name=primary_key_name(name)),
        *(sa.Index(index_name(name, what), *columns) for what, columns in INDEXES.items()),
    )


def by_collection(rows: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The values of documents, by collection and key. Blocks."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row.collection, {})[row.key] = json.loads(row.value)
    return found


def index_name(table: str, what: str) -> str:
    """Name of an index. Tables and indexes share their names, so it must not begin like a table."""
    return f"ix_{table}_{what}"


def primary_key_name(table: str) -> str:
    return f"pk_{table}"


def table_name(plugin: str) -> str:
    """``plugin_<name>``, a name that no other plugin has, whatever they are called.

    SQLite does not tell upper case from lower case, and PostgreSQL cuts long names, so both are told apart by a digest
    after a ``~``, which no plugin's name has.
    """
    if _PLAIN.fullmatch(plugin) and len(PREFIX + plugin) <= IDENTIFIER_CHARS:
        return PREFIX + plugin
    digest = hashlib.sha256(plugin.encode()).hexdigest()[:16]
    return f"{(PREFIX + plugin.lower())[: IDENTIFIER_CHARS - 17]}~{digest}"


def former_table_name(plugin: str) -> str:
    """What `table_name` was until version 2 of the naming; the same for all but long and mixed-case names."""
    name = PREFIX + plugin
    if len(name) <= IDENTIFIER_CHARS:
        return name
    return f"{name[: IDENTIFIER_CHARS - 9]}_{hashlib.sha256(plugin.encode()).hexdigest()[:8]}"
