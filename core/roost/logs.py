"""Logging to standard error, as text or as one JSON object a line, with secrets kept out."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import weakref
from typing import Any, TextIO

from roost.errortext import class_name, error_line, text_of, trace_of

_TOKEN = re.compile(r"[A-Za-z0-9_-]{17,}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{20,}")
_INTERACTION = re.compile(r"aW50ZXJhY3Rpb246[A-Za-z0-9+/=_-]{16,}")
"""An interaction's token alone: base64 of ``interaction:...``."""
_BARE = re.compile(r"(?<![A-Za-z0-9_-])(?=[a-z0-9_-]*[A-Z])(?=[A-Z0-9_-]*[a-z])(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{60,}")
"""A token of an interaction or a webhook with nothing around it: long, and of digits and letters of both cases."""
_WEBHOOK = re.compile(r"(/(?:webhooks|interactions)/\d+/)[A-Za-z0-9._-]+")
_FIELD = re.compile(
    r"(?i)([\"']?(?:secret_key|session_id|token)[\"']?\s*[:=]\s*)(\[[^\]]*\]|[\"'][^\"']*[\"']|[^\s,}\]]+)"
)
_log = logging.getLogger("roost.logs")
_handle_or_raise = logging.Handler.handle
_failed: weakref.WeakSet[logging.Handler] = weakref.WeakSet()
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """Replace anything shaped like a token of a bot, interaction, webhook or voice, a secret key or a session id."""
    text = _TOKEN.sub("<token>", text)
    text = _INTERACTION.sub("<token>", text)
    text = _BARE.sub("<token>", text)
    text = _WEBHOOK.sub(r"\1<token>", text)
    return _FIELD.sub(r"\1<redacted>", text)


class _Formatter(logging.Formatter):
    """Tracebacks come out whatever the text of a foreign error does."""

    def formatException(self, exc_info: Any) -> str:
        _kind, error, trace = exc_info
        return trace_of(error, trace).rstrip("\n") if error is not None else super().formatException(exc_info)


class _TextFormatter(_Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "t": time.monotonic(),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD:
                line[key] = redact(value) if isinstance(value, str) else value
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=text_of)


def _handle(self: logging.Handler, record: logging.LogRecord) -> bool | logging.LogRecord:
    """``logging.Handler.handle`` that lets nothing out: what a plugin's handler raises is not the error of who logs."""
    try:
        return _handle_or_raise(self, record)
    except Exception as error:  # noqa: BLE001 - said once for each handler
        if self not in _failed:
            _failed.add(self)
            _log.error(
                "the log handler %s of %s failed: %s", class_name(self), type(self).__module__, error_line(error)
            )
        return False


def set_up_logging(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send every log record of the process to `stream` (standard error)."""
    logging.Handler.handle = _handle  # type: ignore[method-assign, assignment]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    # hikari dumps whole payloads, members' words in them, below DEBUG; whoever turns a logger down gets none of that.
    handler.setLevel(logging.DEBUG)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for noisy in ("aiosqlite", "asyncio", "lightbulb", "linkd"):
        logging.getLogger(noisy).setLevel(max(logging.INFO, root.level))
    for chatty in ("hikari.gateway", "hikari.bot", "hikari.ratelimits", "lightbulb", "hikari.event_manager"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
