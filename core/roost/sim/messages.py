"""Messages and interactions: what members see, and what they press. Pure but for the futures of waiting members."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import secrets
import time
from typing import Any

from roost.sim.world import Bot, Snowflakes

EPHEMERAL = 64
KEPT_MESSAGES = 5000
KEPT_INTERACTIONS = 2000


@dataclasses.dataclass
class Message:
    """One message.

    Attributes:
        at: Monotonic time of its arrival; of its last edit once it was edited.
        seen_by: The one member who sees it when it is ephemeral.
    """

    id: int
    channel_id: int
    guild_id: int
    author: dict[str, Any]
    body: dict[str, Any]
    at: float
    application_id: int | None = None
    interaction_token: str | None = dataclasses.field(default=None, repr=False)
    edits: int = 0
    created_at: float = 0.0

    @property
    def ephemeral(self) -> bool:
        return bool(int(self.body.get("flags") or 0) & EPHEMERAL)

    def discord(self) -> dict[str, Any]:
        """As the REST API gives it."""
        data: dict[str, Any] = {
            "id": str(self.id),
            "channel_id": str(self.channel_id),
            "author": self.author,
            "content": self.body.get("content") or "",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "edited_timestamp": "2026-01-01T00:00:01+00:00" if self.edits else None,
            "tts": False,
            "mention_everyone": False,
            "mentions": [],
            "mention_roles": [],
            "attachments": [],
            "embeds": self.body.get("embeds") or [],
            "pinned": False,
            "type": 0,
            "flags": int(self.body.get("flags") or 0),
            "components": self.body.get("components") or [],
        }
        if self.application_id is not None:
            data |= {"application_id": str(self.application_id)}
        return data

    def seen(self) -> dict[str, Any]:
        """As the control API gives it."""
        return {
            "id": str(self.id),
            "channel_id": str(self.channel_id),
            "author_id": self.author["id"],
            "content": self.body.get("content") or "",
            "ephemeral": self.ephemeral,
            "components": self.body.get("components") or [],
            "embeds": self.body.get("embeds") or [],
            "allowed_mentions": self.body.get("allowed_mentions"),
            "at": self.at,
            "created_at": self.created_at,
            "edits": self.edits,
        }


@dataclasses.dataclass
class Interaction:
    """One interaction and the replies to it."""

    id: int
    token: str = dataclasses.field(repr=False)
    kind: int
    bot: Bot
    guild_id: int
    channel_id: int
    member_id: int
    acknowledged: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    answered: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set once there is a reply that is not just "thinking"."""
    deferred: bool = False
    replies: list[Message] = dataclasses.field(default_factory=list)
    choices: list[Any] = dataclasses.field(default_factory=list)
    modal: dict[str, Any] | None = None
    source: Message | None = None


class MessageBook:
    """All messages and interactions, bounded."""

    def __init__(self, snowflake: Snowflakes) -> None:
        self._snowflake = snowflake
        self.messages: dict[int, Message] = {}
        self.interactions: dict[str, Interaction] = {}

    def post(
        self, channel_id: int, guild_id: int, author: dict[str, Any], body: dict[str, Any], **fields: Any
    ) -> Message:
        now = time.monotonic()
        _number(body)
        message = Message(self._snowflake(), channel_id, guild_id, author, body, now, created_at=now, **fields)
        self.messages[message.id] = message
        while len(self.messages) > KEPT_MESSAGES:
            del self.messages[next(iter(self.messages))]
        return message

    def edit(self, message: Message, body: dict[str, Any]) -> None:
        kept: dict[str, Any] = {
            key: body[key] for key in ("content", "embeds", "components", "flags", "allowed_mentions") if key in body
        }
        _number(kept)
        flags = int(message.body.get("flags") or 0)
        message.body = message.body | kept
        if "flags" in kept:
            message.body["flags"] = int(kept["flags"] or 0) | (flags & EPHEMERAL)
        message.edits += 1
        message.at = time.monotonic()

    def interact(self, kind: int, bot: Bot, guild_id: int, channel_id: int, member_id: int) -> Interaction:
        interaction = Interaction(
            self._snowflake(), secrets.token_urlsafe(48), kind, bot, guild_id, channel_id, member_id
        )
        self.interactions[interaction.token] = interaction
        while len(self.interactions) > KEPT_INTERACTIONS:
            del self.interactions[next(iter(self.interactions))]
        return interaction

    def in_channel(self, channel_id: int) -> list[Message]:
        """What everybody in a channel sees, oldest first."""
        return [each for each in self.messages.values() if each.channel_id == channel_id and not each.ephemeral]


def _number(body: dict[str, Any]) -> None:
    """Give every component without one its id, as Discord does: counting from 1 within the message."""
    numbers = itertools.count(1)
    queue = list(body.get("components") or [])
    while queue:
        component = queue.pop(0)
        component.setdefault("id", next(numbers))
        queue += component.get("components") or []
        if component.get("accessory"):
            queue.append(component["accessory"])
