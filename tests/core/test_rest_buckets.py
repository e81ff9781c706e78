"""`roost.rest_buckets`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import hikari
import pytest
from aiohttp import web
from hikari.impl import buckets
from hikari.impl import rest as hikari_rest
from hikari.internal import routes

from roost import rest_buckets
from roost.rest_buckets import learn_apart, pause_after_refusals

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def hikaris_own() -> Iterator[None]:
    """Undo what the test does to hikari."""
    before = buckets._create_unknown_hash, hikari_rest.RESTClientImpl._parse_ratelimits
    yield
    buckets._create_unknown_hash, hikari_rest.RESTClientImpl._parse_ratelimits = before


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


class Limiting:
    """A server that answers the first requests with 429.

    Attributes:
        times: When each request came, in the loop's seconds.
        body: Of each 429.
        refusals: How many requests it refuses.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.body: dict[str, object] = {}
        self.refusals = 10**9

    async def answer(self, _request: web.Request) -> web.Response:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self.refusals:
            return web.json_response(self.body, status=429)
        return web.json_response(
            [{"id": "1", "name": "a", "vip": False, "optimal": True, "deprecated": False, "custom": False}]
        )


@pytest.fixture(name="limiting")
async def limiting_server() -> AsyncIterator[tuple[Limiting, hikari.api.RESTClient]]:
    server = Limiting()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    rest = hikari.RESTApp(url=f"http://127.0.0.1:{port}")
    await rest.start()
    try:
        async with rest.acquire("x", hikari.TokenType.BOT) as client:
            yield server, client
    finally:
        await rest.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    "body",
    [{"retry_after": -1}, {"retry_after": 0}, {"retry_after": 0.0, "global": True}],
    ids=["less than nothing", "nothing", "global"],
)
async def test_refusals_without_a_usable_pause_are_no_hot_loop(
    limiting: tuple[Limiting, hikari.api.RESTClient], body: dict[str, object]
) -> None:
    server, client = limiting
    server.body = body
    pause_after_refusals()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.4):
            await client.fetch_channel(1)
    assert 2 <= len(server.times) <= 4


async def test_a_request_that_is_refused_again_and_again_fails(
    limiting: tuple[Limiting, hikari.api.RESTClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = limiting
    server.body = {"retry_after": 0.01}
    monkeypatch.setattr(rest_buckets, "FIRST_PAUSE_S", 0.001)
    pause_after_refusals()
    with pytest.raises(hikari.RateLimitTooLongError):
        await client.fetch_channel(1)
    assert len(server.times) == rest_buckets.MOST_REFUSALS


async def test_a_request_that_is_taken_after_refusals_goes_through(
    limiting: tuple[Limiting, hikari.api.RESTClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = limiting
    server.body, server.refusals = {"retry_after": 0.01}, rest_buckets.MOST_REFUSALS - 1
    monkeypatch.setattr(rest_buckets, "FIRST_PAUSE_S", 0.001)
    pause_after_refusals()
    assert (await client.fetch_voice_regions())[0].id == "1"


def test_a_rest_client_that_changed_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def other(self: object) -> None: ...

    monkeypatch.setattr(hikari_rest.RESTClientImpl, "_parse_ratelimits", other)
    with caplog.at_level(logging.WARNING, "roost.rest"):
        pause_after_refusals()
    assert hikari_rest.RESTClientImpl._parse_ratelimits is other
    assert "without a pause" in caplog.text
