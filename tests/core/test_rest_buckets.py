"""`roost.rest_buckets`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from hikari.impl import buckets
from hikari.internal import routes

from roost.rest_buckets import learn_apart

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def hikaris_own() -> Iterator[None]:
    """Undo what the test does to hikari."""
    before = buckets._create_unknown_hash
    yield
    buckets._create_unknown_hash = before


async def test_first_requests_to_different_places_do_not_wait_for_each_other() -> None:
    learn_apart()
    manager = buckets.RESTBucketManager(10.0)
    manager.start()
    try:
        for route, places in (
            (routes.PATCH_INTERACTION_RESPONSE, [{"webhook": 1, "token": token} for token in ("a", "b", "c")]),
            (routes.POST_CHANNEL_MESSAGES, [{"channel": channel} for channel in (1, 2, 3)]),
            (routes.GET_MY_GUILD_VOICE_STATE, [{"guild": guild} for guild in (1, 2, 3)]),
        ):
            one, two, three = (route.compile(**place) for place in places)
            async with asyncio.timeout(1), manager.acquire_bucket(one, "x"), manager.acquire_bucket(two, "x"):
                manager.update_rate_limits(two, "x", route.path_template, 0, 1, 10**10, 600.0)
            async with asyncio.timeout(1), manager.acquire_bucket(three, "x"):
                pass
    finally:
        await manager.close()


async def test_requests_to_one_place_still_wait_for_the_first_answer() -> None:
    learn_apart()
    manager = buckets.RESTBucketManager(10.0)
    manager.start()
    try:
        route = routes.PATCH_INTERACTION_RESPONSE.compile(webhook=1, token="a")
        async with manager.acquire_bucket(route, "x"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), manager.acquire_bucket(route, "x"):
                    pass
    finally:
        await manager.close()


def test_a_hikari_that_changed_is_left_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def other(compiled: object) -> str:
        return "x"

    monkeypatch.setattr(buckets, "_create_unknown_hash", other)
    with caplog.at_level(logging.WARNING, "roost.rest"):
        learn_apart()
    assert buckets._create_unknown_hash is other
    assert "one after the other" in caplog.text


def test_a_second_call_changes_nothing() -> None:
    learn_apart()
    once = buckets._create_unknown_hash
    learn_apart()
    assert buckets._create_unknown_hash is once
