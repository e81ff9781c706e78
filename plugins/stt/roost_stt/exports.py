"""A transcript as a file. Pure: lines in, text out line by line, in formats that strict parsers take."""

from __future__ import annotations

import dataclasses
import datetime
import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from roost_stt.captions import clean, escape

MIN_CUE_S = 0.001
"""Subtitles whose end is not after their start are refused by parsers."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoredLine:
    """One utterance as it was stored.

    Attributes:
        user_id: Who said it.
        name: Their display name at that moment, as their profile had it.
        text: What was understood.
        started_at: Wall clock, seconds since 1970.
        ended_at: Wall clock.
        language: ISO 639-1 code, if known.
        confidence: 0 to 1.
        words: Of each its start and end in seconds from `started_at`, and its text; where the server wants them.
    """

    user_id: int
    name: str
    text: str = dataclasses.field(repr=False)
    started_at: float
    ended_at: float
    language: str | None = None
    confidence: float = 0.0
    words: Sequence[tuple[float, float, str]] = dataclasses.field(default=(), repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """What a transcript is of.

    Attributes:
        id: For people to name it by.
        guild_id: The server.
        voice_channel_id: Which channel was heard.
        text_channel_id: Where the captions went.
        started_at: Wall clock, seconds since 1970.
        ended_at: None while it goes on.
        started_by: User id of who asked for it; 0 if that is forgotten.
        kept_days: Days after its end for which its speakers were told that it is kept; None: they were not told.
    """

    id: str
    guild_id: int
    voice_channel_id: int
    text_channel_id: int
    started_at: float
    ended_at: float | None = None
    started_by: int = 0
    kept_days: int | None = None


class Writer(Protocol):
    """One format: an export is `begin`, each line in its order, `end`."""

    def begin(self) -> str: ...

    def line(self, line: StoredLine) -> str: ...

    def end(self) -> str: ...


def export(head: Head, lines: Sequence[StoredLine], kind: str) -> str:
    """The whole file, ended by a newline.

    Args:
        head: Of the transcript.
        lines: In any order; they come out by the time they began.
        kind: A key of `FORMATS`.
    """
    writer = FORMATS[kind](head)
    in_order = sorted(lines, key=lambda line: (line.started_at, line.ended_at))
    return "".join((writer.begin(), *(writer.line(line) for line in in_order), writer.end()))


class _Txt:
    def __init__(self, head: Head) -> None:
        self._head = head

    def begin(self) -> str:
        return ""

    def line(self, line: StoredLine) -> str:
        return f"[{_clock(line.started_at)}] {_name(line)}: {clean(line.text)}\n"

    def end(self) -> str:
        return ""


class _Md(_Txt):
    def begin(self) -> str:
        day = datetime.datetime.fromtimestamp(self._head.started_at, datetime.UTC)
        return f"# Transcript {self._head.id}, {day:%Y-%m-%d %H:%M} UTC\n\n"

    def line(self, line: StoredLine) -> str:
        return f"- `{_clock(line.started_at)}` **{escape(_name(line))}**: {escape(clean(line.text))}\n"


class _Srt:
    def __init__(self, head: Head) -> None:
        self._head = head
        self._count = 0

    def begin(self) -> str:
        return ""

    def line(self, line: StoredLine) -> str:
        begin, end = _span(self._head, line)
        text = f"{_name(line)}: {clean(line.text)}".replace("-->", "->")
        self._count += 1
        blank = "\n" if self._count > 1 else ""
        return f"{blank}{self._count}\n{_stamp(begin, ',')} --> {_stamp(end, ',')}\n{text}\n"

    def end(self) -> str:
        return ""


class _Vtt:
    def __init__(self, head: Head) -> None:
        self._head = head

    def begin(self) -> str:
        return "WEBVTT\n"

    def line(self, line: StoredLine) -> str:
        begin, end = _span(self._head, line)
        name, text = html.escape(_name(line), quote=False), html.escape(clean(line.text), quote=False)
        return f"\n{_stamp(begin, '.')} --> {_stamp(end, '.')}\n<v {name}>{text}\n"

    def end(self) -> str:
        return ""


class _Json:
    def __init__(self, head: Head) -> None:
        self._head = head
        self._count = 0

    def begin(self) -> str:
        known = {"version": 1, **_with_text_ids(dataclasses.asdict(self._head))}
        return json.dumps(known, indent=1).removesuffix("\n}") + ',\n "lines": ['

    def line(self, line: StoredLine) -> str:
        self._count += 1
        comma = "," if self._count > 1 else ""
        # Field by field: copying each line deeply would take most of the time.
        entry = {field.name: getattr(line, field.name) for field in dataclasses.fields(line)}
        return f"{comma}\n  {json.dumps(_with_text_ids(entry))}"

    def end(self) -> str:
        return "\n ]\n}\n" if self._count else "]\n}\n"


FORMATS: Mapping[str, Callable[[Head], Writer]] = {"txt": _Txt, "srt": _Srt, "vtt": _Vtt, "md": _Md, "json": _Json}
_IDS = frozenset({"guild_id", "voice_channel_id", "text_channel_id", "started_by", "user_id"})


def _with_text_ids(entry: dict[str, object]) -> dict[str, object]:
    """JSON readers of many languages round numbers of this size."""
    return {key: str(value) if key in _IDS else value for key, value in entry.items()}


def _name(line: StoredLine) -> str:
    return clean(line.name) or "Someone"


def _clock(at: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%H:%M:%S}"


def _span(head: Head, line: StoredLine) -> tuple[float, float]:
    """Seconds from the transcript's beginning; the end is after the start."""
    begin = max(0.0, line.started_at - head.started_at)
    return begin, max(begin + MIN_CUE_S, line.ended_at - head.started_at)


def _stamp(seconds: float, point: str) -> str:
    millis = round(seconds * 1000)
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{millis // 1000:02}{point}{millis % 1000:03}"
