"""Who may use which command: a guild's rules, and what they say about a member. Pure; nothing is looked up here.

A rule allows or denies a command to a role or to one member. Its path is that of a command (``voice join``), of a group
(``voice``: everything in it) or ``*``. Which rule decides:

1. The rule with the longest path that fits the command.
2. Among those with the same path, the one about the member, before any about their roles.
3. Among those about roles, the one about the member's highest role. @everyone is the lowest.

Where no rule fits, Discord's own permissions of the command have decided already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

EVERYTHING = "*"
ROLE, USER = "role", "user"
ALWAYS = ("privacy",)
"""What nobody can be kept from: to say that they do not want to be heard, and to see what is held about them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        path: A command's path without the slash, a group's, or ``*``.
        kind: ``role`` or ``user``.
        subject_id: Of the role or the user; the guild's own id is @everyone.
        allowed: Whether it allows or denies.
    """

    path: str
    kind: str
    subject_id: int
    allowed: bool

    def fits(self, command: str) -> bool:
        return self.path in (EVERYTHING, command) or command.startswith(self.path + " ")

    @property
    def length(self) -> int:
        """Of its path in words; longer decides."""
        return 0 if self.path == EVERYTHING else len(self.path.split(" "))

    def named(self, subject: str) -> str:
        """In words: ``deny /voice join to the role Guests``."""
        what = "every command" if self.path == EVERYTHING else f"/{self.path}"
        whom = f"the role {subject}" if self.kind == ROLE else f"the member {subject}"
        return f"{'allow' if self.allowed else 'deny'} {what} to {whom}"


def decide(rules: Iterable[Rule], command: str, user_id: int, roles: Sequence[int]) -> Rule | None:
    """The rule that decides, or None where none fits.

    Args:
        rules: Of the guild.
        command: Such as ``voice join``.
        user_id: Of the member.
        roles: The member's, the highest first, @everyone last.
    """
    if command.split(" ", 1)[0] in ALWAYS:
        return None
    rank = {role: place for place, role in enumerate(roles)}

    def order(rule: Rule) -> tuple[int, int]:
        return (-rule.length, -1 if rule.kind == USER else rank[rule.subject_id])

    fitting = [
        rule
        for rule in rules
        if rule.fits(command) and (rule.subject_id == user_id if rule.kind == USER else rule.subject_id in rank)
    ]
    return min(fitting, key=order, default=None)
