"""Checks of what hooks answer. A wrong answer is a failure of its plugin and is never passed on."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import lightbulb
from pydantic import BaseModel

from roost.audio import CallStatus
from roost.errors import UsageError
from roost.errortext import class_name, repr_of
from roost.hooks import INFO, Deny, Leftover, Report
from roost.speech import EngineSpec, Transcript

REASON_CHARS = 500
"""The longest reason of a refusal that is shown; a longer one is cut."""
_FACTORY = re.compile(r"[\w.]+:[\w.]+")


class WrongAnswerError(UsageError):
    """A hook answered something that its specification does not allow."""


def checked(hook: str, function: Callable[..., Any], answer: Any) -> Any:
    """A hook's answer if it is of the right kind, reasons of refusals cut to `REASON_CHARS`.

    Raises:
        WrongAnswerError: It is not; names the function, the answer and what it must be.
    """
    if answer is None or hook not in _WANTED:
        return answer
    fits, wanted = _WANTED[hook]
    if not fits(answer):
        # What members said stays out of the error.
        given = f"a {class_name(answer)}" if INFO[hook].private else repr_of(answer)
        raise WrongAnswerError(f"it answered {given} ({_place(function)}), and must answer {wanted} or None")
    if isinstance(answer, Deny):
        # A subclass of str may overwrite anything; a copy does not.
        reason = str.__str__(answer.reason)
        return Deny(reason if len(reason) <= REASON_CHARS else reason[: REASON_CHARS - 1] + "…")
    return list(answer) if hook == "register_loaders" else answer


def _is_model(answer: Any) -> bool:
    return isinstance(answer, type) and issubclass(answer, BaseModel)


def _are_loaders(answer: Any) -> bool:
    return isinstance(answer, list | tuple | set | frozenset) and all(
        isinstance(each, lightbulb.Loader) for each in answer
    )


def _is_denial(answer: Any) -> bool:
    return isinstance(answer, Deny) and isinstance(answer.reason, str) and bool(str.strip(answer.reason))


def _is_leftover(answer: Any) -> bool:
    return isinstance(answer, Leftover) and isinstance(answer.what, str) and callable(answer.delete)


def _is_report(answer: Any) -> bool:
    return isinstance(answer, Report) and isinstance(answer.ok, bool) and isinstance(answer.detail, str)


def _is_driver(answer: Any) -> bool:
    return not isinstance(answer, type) and callable(getattr(answer, "open", None))


def _is_engine(answer: Any) -> bool:
    if not (
        isinstance(answer, EngineSpec)
        and isinstance(answer.factory, str)
        and _FACTORY.fullmatch(answer.factory)
        and isinstance(answer.config, Mapping)
        and isinstance(answer.needs_gpu, bool)
        and isinstance(answer.smaller, tuple | list)
    ):
        return False
    try:
        json.dumps(dict(answer.config), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return all(isinstance(each, EngineSpec) and _is_engine(each) for each in answer.smaller)


def _is_transcript(answer: Any) -> bool:
    return (
        isinstance(answer, Transcript)
        and isinstance(answer.text, str)
        and all(isinstance(each, int) for each in (answer.utterance_id, answer.guild_id, answer.user_id))
        and all(isinstance(each, int | float) for each in (answer.started_at, answer.ended_at))
    )


_DENIAL = (_is_denial, "a Deny with a reason")
_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "register_config": (_is_model, "a pydantic model's class"),
    "register_loaders": (_are_loaders, "a list of lightbulb.Loader"),
    "command_check": _DENIAL,
    "voice_join_check": _DENIAL,
    "voice_session_opening": _DENIAL,
    "voice_consent": _DENIAL,
    "handle_error": (lambda answer: isinstance(answer, bool), "True, False"),
    "health": (_is_report, "a Report"),
    "diagnostics": (lambda answer: isinstance(answer, Mapping), "a mapping"),
    "user_data_export": (lambda answer: isinstance(answer, Mapping), "a mapping"),
    "user_data_leftover": (_is_leftover, "a Leftover"),
    "call_status": (lambda answer: isinstance(answer, CallStatus), "a CallStatus"),
    "voice_driver": (_is_driver, "a VoiceDriver"),
    "stt_engine": (_is_engine, "an EngineSpec whose factory is module:callable and whose config is JSON"),
    "transcript_process": (_is_transcript, "a Transcript"),
}
"""By hook: the check of its answer, and the right answer in words. Answers of other hooks are not used."""


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else "unknown place"
