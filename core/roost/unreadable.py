"""Errors that hikari raises because it cannot read what Discord answered."""

from __future__ import annotations

import json
import traceback

import aiohttp
import hikari
import hikari.internal.net

_REST = hikari.impl.rest.__file__
_HIKARI_REST = frozenset(
    {_REST, hikari.impl.entity_factory.__file__, hikari.internal.net.__file__, hikari.internal.data_binding.__file__}
)
_READERS = ("deserialize_", "_deserialize_")
_REFUSED = "generate_error_response"
"""The function of hikari that reads why Discord refused."""
_READING = frozenset({"_parse_ratelimits", _REFUSED})
"""Functions of hikari that read what Discord answered."""
_REPLIES = frozenset({"create_interaction_response", "edit_interaction_response", "execute_webhook"})
"""Functions of hikari that reply to an interaction."""


def is_unreadable_answer(error: BaseException) -> bool:
    """Whether hikari raised an error because it cannot read what Discord answered.

    hikari lets whatever it meets there escape. What it raises while it writes a request is the plugin's.
    """
    code = [frame.f_code for frame, _line in traceback.walk_tb(error.__traceback__)]
    names = _names(error)
    if not names:
        return False
    if any(name in _READING or name.startswith(_READERS) for name in names):
        return True
    if isinstance(error, aiohttp.ClientError | UnicodeDecodeError) or code[-1].co_filename == json.decoder.__file__:
        return True  # json does not raise its own error alone: nesting and numbers may be too long for it
    return isinstance(error, AssertionError | LookupError) and code[-1].co_filename == _REST


def was_carried_out(error: BaseException) -> bool:
    """Whether Discord carried a request out, and what it answered cannot be read."""
    return is_unreadable_answer(error) and not isinstance(error, aiohttp.ClientError) and _REFUSED not in _names(error)


def is_unread_reply(error: BaseException) -> bool:
    """`was_carried_out`, of a reply to an interaction."""
    return was_carried_out(error) and bool(_names(error) & _REPLIES)


def _names(error: BaseException) -> set[str]:
    """Functions of hikari's that an error went through."""
    code = (frame.f_code for frame, _line in traceback.walk_tb(error.__traceback__))
    return {each.co_name for each in code if each.co_filename in _HIKARI_REST}
