"""What errors of hikari's mean for a caption."""

from __future__ import annotations

from typing import Any

import pytest
from hikari.internal import data_binding, net

from roost_stt.boards import refused
from roost_stt.refusals import Refusal

pytestmark = pytest.mark.unit


class Answer:
    """Of Discord."""

    real_url = "http://discord.example/"

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self._body = body

    async def read(self) -> bytes:
        return self._body


async def test_a_refusal_that_cannot_be_read_is_one() -> None:
    """Otherwise words that were withdrawn would count as removed."""
    answer: Any = Answer(403, b"[]")
    with pytest.raises(AssertionError) as caught:
        await net.generate_error_response(answer)
    assert refused("what", caught.value).refusal is Refusal.UNKNOWN


async def test_a_confirmation_that_cannot_be_read_counts_as_one() -> None:
    with pytest.raises(RecursionError) as caught:
        data_binding.default_json_loads(b"[" * 100_000)
    assert refused("what", caught.value).refusal is Refusal.UNREADABLE
