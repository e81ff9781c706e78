"""How the simulated REST API refuses, and reads what it is given."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from roost.sim.messages import File
from roost.sim.world import Bot, World

MAX_FILE_BYTES = 10 << 20
"""Discord's limit for one file in a server without boosts."""


class Problem(Exception):
    """A refusal: HTTP status, Discord's JSON error code, its message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> web.Response:
        return web.json_response({"message": str(self), "code": self.code}, status=self.status)


def invalid(why: str) -> Problem:
    return Problem(400, 50035, f"Invalid Form Body: {why}")


def asking_bot(world: World, request: web.Request) -> Bot:
    """The bot that makes a request.

    Raises:
        Problem: Its token is nobody's (401).
    """
    bot = world.bot_by_authorization(request.headers.get("Authorization"))
    if bot is None:
        raise Problem(401, 0, "401: Unauthorized")
    return bot


async def read_body(request: web.Request) -> tuple[dict[str, Any], list[File]]:
    """The JSON object and the files of a request."""
    if request.content_type != "multipart/form-data":
        return _object(await request.text() or "{}"), []
    body: dict[str, Any] = {}
    files = []
    for name, part in (await request.post()).items():
        if isinstance(part, web.FileField):
            data = part.file.read()
            if len(data) > MAX_FILE_BYTES:
                raise Problem(413, 40005, "Request entity too large")
            if name != "payload_json":
                files.append(File(part.filename, part.content_type, data))
        else:  # Bytes where the part says it is JSON, text where it says nothing.
            data = part.encode() if isinstance(part, str) else bytes(part)
        if name == "payload_json":
            body = _object(data.decode())
    return body, files


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise Problem(400, 50109, "The request body contains invalid JSON.") from None
    if not isinstance(value, dict):
        raise invalid("an object was expected")
    return value
