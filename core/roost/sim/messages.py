"""Messages and interactions: what members see, and what they press. Pure but for the futures of waiting members."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
import secrets
import time
from typing import Any

from roost.sim.validate import walk
from roost.sim.world import Bot, Snowflakes

EPHEMERAL = 64
LOADING = 128
KEPT_MESSAGES = 5000
KEPT_INTERACTIONS = 2000
NONCE_S = 180.0
"""How long a nonce is unique where that is asked for. Discord says "the past few minutes"."""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """What came with a message."""

    name: str
    content_type: str
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass
class Message:
    """One message.

    Attributes:
        at: Monotonic time of its arrival; of its last edit once it was edited.
        edits: How often it was edited, the text of a deferred reply not counted.
        seen_by: The one member who sees it when it is ephemeral.
        loading: It is a deferred reply that has no text yet.
        reference: The message it answers.
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
    seen_by: int | None = None
    loading: bool = False
    reference: int | None = None
    files: list[File] = dataclasses.field(default_factory=list)

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
            "attachments": [
                {
                    "id": str(self.id + n),
                    "filename": file.name,
                    "size": len(file.data),
                    "content_type": file.content_type,
                    "url": f"http://127.0.0.1/attachments/{self.id}/{file.name}",
                    "proxy_url": f"http://127.0.0.1/attachments/{self.id}/{file.name}",
                }
                for n, file in enumerate(self.files)
            ],
            "embeds": self.body.get("embeds") or [],
            "pinned": False,
            "type": 0 if self.reference is None else 19,
            "flags": int(self.body.get("flags") or 0) | (LOADING if self.loading else 0),
            "components": self.body.get("components") or [],
        }
        if self.application_id is not None:
            data |= {"application_id": str(self.application_id), "webhook_id": str(self.application_id)}
        if self.reference is not None:
            data["message_reference"] = {"message_id": str(self.reference), "channel_id": str(self.channel_id)}
        if self.body.get("nonce") is not None:
            data["nonce"] = self.body["nonce"]
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
            "files": [
                {
                    "name": file.name,
                    "content_type": file.content_type,
                    "data": base64.b64encode(file.data).decode(),
                }
                for file in self.files
            ],
            "reference": self.reference and str(self.reference),
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
    replies: list[Message] = dataclasses.field(default_factory=list)
    choices: list[Any] = dataclasses.field(default_factory=list)
    modal: dict[str, Any] | None = None
    source: Message | None = None
    """The message whose button was pressed."""
    original: Message | None = None
    """What ``@original`` names: the first reply, or the source where that was updated."""
    created_at: float = 0.0


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
        message = Message(self._snowflake(), channel_id, guild_id, author, dict(body), now, created_at=now, **fields)
        self.messages[message.id] = message
        while len(self.messages) > KEPT_MESSAGES:
            del self.messages[next(iter(self.messages))]
        return message

    def with_nonce(self, author_id: str, body: dict[str, Any]) -> Message | None:
        """An author's message of the last minutes with the nonce of a new one that may not be posted twice."""
        nonce, now = body.get("nonce"), time.monotonic()
        if nonce is None or not body.get("enforce_nonce"):
            return None
        for message in reversed(self.messages.values()):
            if now - message.created_at > NONCE_S:
                return None
            if message.author["id"] == author_id and message.body.get("nonce") == nonce:
                return message
        return None

    def edit(self, message: Message, body: dict[str, Any], files: list[File] | None = None) -> None:
        """Change a message, or give a deferred reply its text."""
        kept: dict[str, Any] = {
            key: body[key] for key in ("content", "embeds", "components", "flags", "allowed_mentions") if key in body
        }
        _number(kept)
        flags = int(message.body.get("flags") or 0)
        message.body = message.body | kept
        if "flags" in kept:  # who sees a message never changes
            message.body["flags"] = (int(kept["flags"] or 0) & ~EPHEMERAL) | (flags & EPHEMERAL)
        if files:
            message.files = files
        message.edits += not message.loading
        message.loading = False
        message.at = time.monotonic()

    def interact(self, kind: int, bot: Bot, guild_id: int, channel_id: int, member_id: int) -> Interaction:
        token = secrets.token_urlsafe(48)
        interaction = Interaction(self._snowflake(), token, kind, bot, guild_id, channel_id, member_id)
        interaction.created_at = time.monotonic()
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
    for component in walk(body.get("components") or []):
        component.setdefault("id", next(numbers))
