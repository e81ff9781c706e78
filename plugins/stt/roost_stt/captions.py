"""Captions: what a transcript looks like in a text channel. Pure; `roost_stt.captioner` posts them.

Text from people's mouths and names from their profiles are both hostile input here: nothing they contain may ping,
link, format or reorder anything.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Sequence

MESSAGE_LIMIT = 2000
"""Discord's, in characters; counted here in UTF-16 units, which is never less."""
NAME_LIMIT = 32
MAX_COMBINING = 2
"""Accents on one letter that are not of its own script."""
MAX_MARKS = 6
"""Marks of its own script on one letter, each once: as many as Burmese and Tibetan need."""
_SPECIAL = re.compile(r"([\\*_~`|<>@#\[\]()])")
_WORD_LIMIT = 400


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One utterance to be shown; `own` are the bot's own words, whose formatting and links count.

    `user_id` is who said it, or whom the bot's words are about; 0: nobody.
    """

    name: str
    text: str = dataclasses.field(repr=False)
    user_id: int = 0
    own: bool = False


def clean(text: str) -> str:
    """Drop characters that cannot be seen or that reorder others, and stacked accents; white space becomes one blank.

    Joiners stay where a script or an emoji needs them, and a letter keeps the marks of its own script.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = unicodedata.normalize("NFC", text)
    flags = {place for found in _TAGGED_FLAG.finditer(text) for place in range(*found.span())}
    out: list[str] = []
    stack = _Stack()
    for place, char in enumerate(text):
        category = unicodedata.category(char)
        if char.isspace() or category in ("Zl", "Zp"):
            out.append(" ")
            stack = _Stack()
        elif place in flags:
            out.append(char)
        elif char in _JOINERS or char in _VARIATIONS:
            following = text[place + 1] if place + 1 < len(text) else ""
            if out and _is_needed(char, out[-1], following):
                out.append(char)
        elif char in _INVISIBLE or (category in ("Cc", "Cf", "Cs", "Co", "Cn") and not _is_newer(char)):
            continue
        elif stack.takes(char, category):
            out.append(char)
    return " ".join("".join(out).split())


class _Stack:
    """The marks on one letter, which may be as many as its script needs and no more."""

    def __init__(self) -> None:
        self._script = ""
        self._marks: list[str] = []
        self._foreign = 0

    def takes(self, char: str, category: str) -> bool:
        """Whether a character stays: a letter begins a new stack, a mark must still have room."""
        if category == "Mc":
            return True
        if category not in ("Mn", "Me"):
            self._script, self._marks, self._foreign = _script(char), [], 0
            return True
        if _script(char) == self._script:
            if char in self._marks or len(self._marks) >= MAX_MARKS:
                return False
        elif self._foreign >= MAX_COMBINING:
            return False
        else:
            self._foreign += 1
        self._marks.append(char)
        return True


@functools.lru_cache(maxsize=4096)
def _script(char: str) -> str:
    """The first word of a character's name, which is its script; shared accents are ``COMBINING``."""
    return unicodedata.name(char, "").partition(" ")[0]


def _is_needed(char: str, before: str, after: str) -> bool:
    """Whether a joiner or a variation selector means something between these two."""
    if char in _VARIATIONS:
        return before in _KEYCAPS or unicodedata.category(before) in ("So", "Sm", "Sk")
    if before in _JOINERS:
        return False
    if _script(before) in _JOINING_SCRIPTS:
        return True
    pictures = before in _VARIATIONS or unicodedata.category(before) in ("So", "Sk") or _is_newer(before)
    return (
        char == _ZWJ and pictures and bool(after) and (unicodedata.category(after) in ("So", "Sm") or _is_newer(after))
    )


def _is_newer(char: str) -> bool:
    """Whether Unicode keeps this place for an emoji or an ideograph that Python's own tables may not have yet."""
    code = ord(char)
    return unicodedata.category(char) == "Cn" and (
        0x1F000 <= code <= 0x1FAFF or (0x20000 <= code <= 0x3FFFD and code & 0xFFFE != 0xFFFE)
    )


_ZWNJ, _ZWJ = "\u200c", "\u200d"
_JOINERS = frozenset((_ZWNJ, _ZWJ))
_VARIATIONS = frozenset("\ufe0e\ufe0f")
_KEYCAPS = frozenset("0123456789#*\u203c\u2049\u3030\u303d")
"""Emoji by a variation selector alone, although they are no symbols."""
_TAGGED_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
"""The flags of England, Scotland and Wales: letters that cannot be seen after a black flag."""
_JOINING_SCRIPTS = frozenset(
    {
        "ARABIC",
        "SYRIAC",
        "NKO",
        "MONGOLIAN",
        "MANDAIC",
        "DEVANAGARI",
        "BENGALI",
        "GURMUKHI",
        "GUJARATI",
        "ORIYA",
        "TAMIL",
        "TELUGU",
        "KANNADA",
        "MALAYALAM",
        "SINHALA",
        "MYANMAR",
        "KHMER",
        "TIBETAN",
        "BALINESE",
        "JAVANESE",
    }
)
"""Scripts that spell with joiners, by the first word of their characters' names."""
_INVISIBLE = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f")
"""Letters and marks that show nothing, although their categories say otherwise."""


def escape(text: str) -> str:
    """Make Discord show a cleaned text as it is: no formatting, mention, link, invite, timestamp or emoji code."""
    text = _SPECIAL.sub(r"\\\1", text)
    # A link needs "://" and an invite "discord.gg/": a backslash before the slash is shown as the slash alone.
    text = text.replace("/", "\\/")
    return re.sub(r":(?=\S)", r"\\:", text)


def display_name(name: str) -> str:
    """A profile's name, made safe; never empty."""
    return escape(_head(clean(name), NAME_LIMIT).strip()) or "Someone"


def unnamed(user_id: int) -> str:
    """A name for a user whose own is not known."""
    return f"User {user_id % 10_000}"


def _head(text: str, limit: int) -> str:
    """At most so many characters from the front of a text, with no letter or emoji cut in two where that can be."""
    if len(text) <= limit:
        return text
    cut = limit
    while cut > limit // 2 and _continues(text, cut):
        cut -= 1
    return text[: cut if cut > limit // 2 else limit]


def _continues(text: str, place: int) -> bool:
    """Whether the character at this place is joined to the one before it."""
    char, before = text[place], text[place - 1]
    if char in _JOINERS or char in _VARIATIONS or before in _JOINERS:
        return True
    return unicodedata.category(char) in ("Mn", "Mc", "Me", "Sk", "Cf") and not char.isascii()


def units_of(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


Message = list[tuple[int, str]]
"""Pieces of one message, each a line with the user who said it."""


def text_of(message: Message) -> str:
    return "\n".join(piece for _, piece in message)


def pack(lines: Sequence[Line], limit: int = MESSAGE_LIMIT) -> list[Message]:
    """Lines as pieces, ``**Name**: words``, in as few messages as they fit into.

    A line over the limit goes on in the next message under its name. No escape sequence is ever cut in two.
    """
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
        for part in _parts(word):
            safe = part if own else escape(part)
            if units_of(current) + 1 + units_of(safe) > limit:
                pieces.append(current)
                current = head
            current = f"{current} {safe}"
    if current != head:
        pieces.append(current)
    return pieces


def _parts(word: str) -> list[str]:
    """A word in parts that fit into any message; most words are one."""
    parts = []
    while len(word) > _WORD_LIMIT:
        first = _head(word, _WORD_LIMIT)
        parts.append(first)
        word = word[len(first) :]
    return [*parts, word]
