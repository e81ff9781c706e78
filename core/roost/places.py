"""Where work was asked for: in a guild, in one person's direct messages, or nowhere in particular.

A failure counts against a plugin in its place alone. The place of a hook, listener or command is known when it is
called; what these start (tasks of the plugin) inherits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import hikari

Place = int
"""A guild's id, or minus a person's id for their direct messages."""

_GUILDS = frozenset({"GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"})
"""Raw events whose payload is a guild."""

current: ContextVar[Place | None] = ContextVar("roost_place", default=None)
"""The place of the work at hand; None is the whole bot."""


def place_of(guild_id: int | None, user_id: int | None) -> Place | None:
    """The guild, or without one the person's direct messages."""
    if guild_id is not None:
        return int(guild_id)
    return -int(user_id) if user_id is not None else None


def guild_in(place: Place | None) -> int | None:
    """The guild of a place; None when it is none."""
    return place if place is not None and place > 0 else None


def place_of_event(event: Any) -> Place | None:
    """The guild that an event belongs to, its own or that of the one thing it is about; else the person it is from."""
    if isinstance(event, hikari.ExceptionEvent):
        return place_of_event(event.failed_event)
    if isinstance(event, hikari.ShardPayloadEvent):
        return _place_of_payload(event.name, event.payload)
    fields = (field.name.lstrip("_") for field in getattr(type(event), "__attrs_attrs__", ()))
    holders = [event, *(getattr(event, name, None) for name in ("interaction", "message", *fields))]
    for holder in holders:
        guild_id = getattr(holder, "guild_id", None)
        if guild_id is not None:
            return int(guild_id)
    if isinstance(event, hikari.InteractionCreateEvent):
        return place_of(None, event.interaction.user.id) if hasattr(event.interaction, "user") else None
    if isinstance(event, hikari.MessageEvent | hikari.ReactionEvent | hikari.TypingEvent):
        author = getattr(event, "author_id", None) or getattr(event, "user_id", None)
        return place_of(None, author)
    return None


def _place_of_payload(name: str, payload: Any) -> Place | None:
    if not isinstance(payload, Mapping):
        return None
    guild_id = _number(payload.get("id" if name in _GUILDS else "guild_id"))
    if guild_id is not None:
        return guild_id
    for person in (payload.get("author"), payload.get("user"), {"id": payload.get("user_id")}):
        user_id = _number(person.get("id")) if isinstance(person, Mapping) else None
        if user_id is not None:
            return -user_id
    return None


def _number(raw: Any) -> int | None:
    """An id as Discord sends it; None for anything else."""
    return int(raw) if isinstance(raw, int) or (isinstance(raw, str) and raw.isdecimal() and len(raw) <= 20) else None
