"""Everything the bot of the demo may say besides captions; anything else fails the demo."""

from __future__ import annotations

import re

JOINED = r"Joined #{channel}\."
MOVED = r"Moved to #{channel}\."
TRANSCRIBING = r"Transcribing #{channel} into #{text}\."
STOPPED = r"Transcription has stopped\."
AGREED = r"You agreed: Roost may hear and transcribe you in this server\. .*\nYou are heard in #{channel} now\."
_ALSO = (
    r"I am listening in #\S+\. .*",
    r"- (What you say becomes|The text is|Your voice|If you cannot see) .*",
    r"I was interrupted .* What was said until then is kept: .*",
)
_NAME = r"\S+"
_CAPTION = re.compile(r"\*\*(?P<name>.+?)\*\*: (?P<text>.*)")
_LINES = tuple(
    re.compile(pattern.format(channel=_NAME, text=_NAME))
    for pattern in (JOINED, MOVED, TRANSCRIBING, STOPPED, *(each.replace("{", "{{") for each in _ALSO))
)


def caption(line: str) -> tuple[str, str] | None:
    """The speaker and the words of a caption; None for any other line."""
    found = _CAPTION.fullmatch(line)
    return (found["name"], found["text"]) if found is not None else None


def is_answer(said: list[str], pattern: str, **names: str) -> bool:
    """Whether the bot gave one answer and it is the expected one.

    Args:
        said: The texts of its replies.
        pattern: One of this module.
        names: Of the channels that the pattern mentions.
    """
    wanted = pattern.format(**{key: re.escape(name) for key, name in names.items()})
    return len(said) == 1 and re.fullmatch(wanted, said[0]) is not None


def is_message(line: str, members: frozenset[str]) -> bool:
    """Whether the bot may write this line into the channel: a caption of a member, or words of the demo's course."""
    spoken = caption(line)
    if spoken is not None:
        return spoken[0] in members
    return any(pattern.fullmatch(line) for pattern in _LINES)
