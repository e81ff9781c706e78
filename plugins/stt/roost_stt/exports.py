"""A transcript as a file. Pure: lines in, text out, in formats that strict parsers take."""

from __future__ import annotations

import dataclasses
import datetime
import html
import json
from collections.abc import Callable, Mapping, Sequence

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
        text_channel_id: Where the captions went; who may read there may read the transcript.
        started_at: Wall clock, seconds since 1970.
        ended_at: None while it goes on.
        started_by: User id of who asked for it; 0 if that is forgotten.
    """

    id: str
    guild_id: int
    voice_channel_id: int
    text_channel_id: int
    started_at: float
    ended_at: float | None = None
    started_by: int = 0


def export(head: Head, lines: Sequence[StoredLine], kind: str) -> str:
    """The whole file, ended by a newline.

    Args:
        head: Of the transcript.
        lines: In any order; they come out by the time they began.
        kind: A key of `FORMATS`.
    """
    return FORMATS[kind](head, sorted(lines, key=lambda line: (line.started_at, line.ended_at)))


def _txt(head: Head, lines: Sequence[StoredLine]) -> str:
    return "".join(f"[{_clock(line.started_at)}] {_name(line)}: {clean(line.text)}\n" for line in lines)


def _srt(head: Head, lines: Sequence[StoredLine]) -> str:
    cues = []
    for number, line in enumerate(lines, 1):
        begin, end = _span(head, line)
        text = f"{_name(line)}: {clean(line.text)}".replace("-->", "->")
        cues.append(f"{number}\n{_stamp(begin, ',')} --> {_stamp(end, ',')}\n{text}\n")
    return "\n".join(cues)


def _vtt(head: Head, lines: Sequence[StoredLine]) -> str:
    cues = ["WEBVTT\n"]
    for line in lines:
        begin, end = _span(head, line)
        name, text = html.escape(_name(line), quote=False), html.escape(clean(line.text), quote=False)
        cues.append(f"{_stamp(begin, '.')} --> {_stamp(end, '.')}\n<v {name}>{text}\n")
    return "\n".join(cues)


def _md(head: Head, lines: Sequence[StoredLine]) -> str:
    day = datetime.datetime.fromtimestamp(head.started_at, datetime.UTC)
    said = "".join(
        f"- `{_clock(line.started_at)}` **{escape(_name(line))}**: {escape(clean(line.text))}\n" for line in lines
    )
    return f"# Transcript {head.id}, {day:%Y-%m-%d %H:%M} UTC\n\n{said}"


def _json(head: Head, lines: Sequence[StoredLine]) -> str:
    ids = ("guild_id", "voice_channel_id", "text_channel_id", "started_by", "user_id")
    entries = [_with_text_ids(dataclasses.asdict(line), ids) for line in lines]
    return (
        json.dumps({"version": 1, **_with_text_ids(dataclasses.asdict(head), ids), "lines": entries}, indent=1) + "\n"
    )


FORMATS: Mapping[str, Callable[[Head, Sequence[StoredLine]], str]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "md": _md,
    "json": _json,
}


def _with_text_ids(entry: dict[str, object], ids: Sequence[str]) -> dict[str, object]:
    """JSON readers of many languages round numbers of this size."""
    return {key: str(value) if key in ids else value for key, value in entry.items()}


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
