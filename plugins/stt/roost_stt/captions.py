"""Captions: what a transcript looks like in a text channel. Pure; `roost_stt.captioner` posts them.

Text from people's mouths and names from their profiles are both hostile input here: nothing they contain may ping,
link, format or reorder anything.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Sequence

MESSAGE_LIMIT = 2000
"""Discord's, in characters; counted here in UTF-16 units, which is never less."""
NAME_LIMIT = 32
MAX_COMBINING = 2
_SPECIAL = re.compile(r"([\\*_~`|<>@#\[\]()])")
_WORD_LIMIT = 400


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One utterance to be shown; `own` are the bot's own words, whose formatting and links count."""

    name: str
    text: str = dataclasses.field(repr=False)
    user_id: int = 0
    own: bool = False


def clean(text: str) -> str:
    """Drop what cannot be seen or reorders what can, and stacked accents; every run of white space becomes a blank."""
    out: list[str] = []
    combining = 0
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        blank = char.isspace() or category in ("Zl", "Zp")
        if not blank and (category in ("Cc", "Cf", "Cs", "Co", "Cn") or char in _INVISIBLE):
            continue
        combining = combining + 1 if category in ("Mn", "Me") else 0
        if combining <= MAX_COMBINING:
            out.append(" " if blank else char)
    return " ".join("".join(out).split())


_INVISIBLE = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f\ufe0e\ufe0f")
"""Letters and marks that show nothing, although their categories say otherwise."""


def escape(text: str) -> str:
    """Make Discord show a cleaned text as it is: no formatting, mention, link, invite, timestamp or emoji code."""
    text = _SPECIAL.sub(r"\\\1", text)
    # A link needs "://" and an invite "discord.gg/": a backslash before the slash is shown as the slash alone.
    text = text.replace("/", "\\/")
    return re.sub(r":(?=\S)", r"\\:", text)


def display_name(name: str) -> str:
    """A profile's name, made safe; never empty."""
    return escape(clean(name)[:NAME_LIMIT].strip()) or "Someone"


def units_of(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def render(lines: Sequence[Line], limit: int = MESSAGE_LIMIT) -> list[str]:
    """Lines as messages: ``**Name**: words``, one line each, packed into as few messages as fit.

    A line over the limit goes on in the next message under its name. No escape sequence is ever cut in two.
    """
    return [text_of(message) for message in pack(lines, limit)]


Message = list[tuple[int, str]]
"""Pieces of one message, each a line with the user who said it."""


def text_of(message: Message) -> str:
    return "\n".join(piece for _, piece in message)


def pack(lines: Sequence[Line], limit: int = MESSAGE_LIMIT) -> list[Message]:
    """Lines as pieces, in as few messages as they fit into."""
    return fill(
        [
            (line.user_id, piece)
            for line in lines
            for piece in _pieces(f"**{display_name(line.name)}**:", clean(line.text), limit, own=line.own)
        ],
        limit,
    )


def fill(pieces: Message, limit: int = MESSAGE_LIMIT) -> list[Message]:
    """Pieces in as few messages as they fit into, in their order."""
    messages: list[Message] = []
    while pieces:
        first, pieces = fit(pieces, limit)
        if not first:
            first, pieces = pieces[:1], pieces[1:]
        messages.append(first)
    return messages


def fit(pieces: Message, limit: int) -> tuple[Message, Message]:
    """As many pieces as fit into a text of so many units, and the rest."""
    units = -1
    for count, (_, piece) in enumerate(pieces):
        units += units_of(piece) + 1
        if units > limit:
            return pieces[:count], pieces[count:]
    return pieces, []


def _pieces(head: str, text: str, limit: int, *, own: bool = False) -> list[str]:
    pieces: list[str] = []
    current = head
    for word in text.split(" "):
        for part in [word[i : i + _WORD_LIMIT] for i in range(0, len(word), _WORD_LIMIT)]:
            safe = part if own else escape(part)
            if units_of(current) + 1 + units_of(safe) > limit:
                pieces.append(current)
                current = head
            current = f"{current} {safe}"
    if current != head:
        pieces.append(current)
    return pieces
