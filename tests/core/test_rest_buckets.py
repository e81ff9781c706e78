"""`roost.rest_buckets`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import hikari
import pytest
from aiohttp import web
from hikari.impl import buckets, rate_limits
from hikari.impl import rest as hikari_rest
from hikari.internal import routes

from roost import rest_buckets
from roost.rest_buckets import (
    NotSentError,
    ask_before_sending,
    believe_first_answers,
    check_windows,
    learn_apart,
    pause_after_refusals,
    sent_only_if,
)

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def hikaris_own() -> Iterator[None]:
    """Undo what the test does to hikari."""
    before = buckets._create_unknown_hash, hikari_rest.RESTClientImpl._parse_ratelimits
    updates, throttle = buckets.RESTBucketManager.update_rate_limits, buckets.RESTBucketManager.throttle
    request, pause = hikari_rest.RESTClientImpl._request, rate_limits.ExponentialBackOff.__next__
    acquire = buckets.RESTBucketManager.acquire_bucket
    yield
    setattr(buckets.RESTBucketManager, "acquire_bucket", acquire)  # noqa: B010 - mypy holds it for final
    buckets._create_unknown_hash, hikari_rest.RESTClientImpl._parse_ratelimits = before
    setattr(buckets.RESTBucketManager, "update_rate_limits", updates)  # noqa: B010 - mypy holds it for final
    setattr(buckets.RESTBucketManager, "throttle", throttle)  # noqa: B010 - mypy holds it for final
    setattr(hikari_rest.RESTClientImpl, "_request", request)  # noqa: B010 - mypy holds it for final
    setattr(rate_limits.ExponentialBackOff, "__next__", pause)  # noqa: B010 - mypy holds it for final


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


async def test_a_request_asks_at_its_turn_whether_it_is_wanted() -> None:
    ask_before_sending()
    manager = buckets.RESTBucketManager(10.0)
    manager.start()
    route, is_wanted = routes.POST_CHANNEL_MESSAGES.compile(channel=1), [True]
    try:
        with sent_only_if(lambda: is_wanted[0]):
            async with asyncio.timeout(1), manager.acquire_bucket(route, "x"):
                is_wanted[0] = False
            # As hikari does after an error: the first try may have been carried out.
            with pytest.raises(NotSentError) as again:
                await manager.acquire_bucket(route, "x").__aenter__()
        with sent_only_if(lambda: False), pytest.raises(NotSentError) as first:
            await manager.acquire_bucket(route, "x").__aenter__()
        # What is not sent keeps its turn from nobody.
        async with asyncio.timeout(1), manager.acquire_bucket(route, "x"):
            pass
    finally:
        await manager.close()
    assert (again.value.perhaps_done, first.value.perhaps_done) == (True, False)


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
        headers: Of each answer that is no 429.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.body: object = {}
        self.refusals = 10**9
        self.headers: dict[str, str] = {}

    async def answer(self, _request: web.Request) -> web.Response:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self.refusals:
            return web.json_response(self.body, status=429)
        return web.json_response(
            [{"id": "1", "name": "a", "vip": False, "optimal": True, "deprecated": False, "custom": False}],
            headers=self.headers,
        )


class Short(rate_limits.ExponentialBackOff):
    """Pauses of milliseconds."""

    def __next__(self) -> float:
        return super().__next__() / 1000


@contextlib.asynccontextmanager
async def served(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[hikari.api.RESTClient]:
    """A client of a server that answers every request so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    rest = hikari.RESTApp(url=f"http://127.0.0.1:{port}")
    await rest.start()
    try:
        async with rest.acquire("x", hikari.TokenType.BOT) as client:
            yield client
    finally:
        await rest.close()
        await runner.cleanup()


@pytest.fixture(name="limiting")
async def limiting_server() -> AsyncIterator[tuple[Limiting, hikari.api.RESTClient]]:
    server = Limiting()
    async with served(server.answer) as client:
        yield server, client


def limit_headers(
    limit: object, remaining: object, reset_after: object, *, clock_error_s: float = 0.0
) -> dict[str, str]:
    return {
        "X-RateLimit-Bucket": "some",
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": f"{time.time() + clock_error_s:.3f}",
        "X-RateLimit-Reset-After": str(reset_after),
    }


@pytest.mark.parametrize(
    "headers",
    [
        limit_headers(5, 4, "0.000"),
        limit_headers(5, 4, "-1"),
        limit_headers(5, 0, "nan"),
        limit_headers(5, 0, "inf"),
        limit_headers(0, 0, "60"),
        limit_headers(-3, 0, "60"),
        limit_headers(3, 5, "60"),
        limit_headers(1, 0, "0.01", clock_error_s=1e9),
        limit_headers(1, 0, "0.01", clock_error_s=-1e9),
    ],
    ids=["no window", "before now", "no number", "endless", "no limit", "negative", "more left", "ahead", "behind"],
)
async def test_requests_go_on_whatever_an_answer_says_of_its_limit(
    limiting: tuple[Limiting, hikari.api.RESTClient], headers: dict[str, str]
) -> None:
    server, client = limiting
    server.refusals, server.headers = 0, headers
    check_windows()
    async with asyncio.timeout(2):
        for _ in range(6):
            assert await client.fetch_voice_regions()


async def test_a_limit_that_makes_sense_is_kept(limiting: tuple[Limiting, hikari.api.RESTClient]) -> None:
    server, client = limiting
    server.refusals, server.headers = 0, limit_headers(1, 0, "30", clock_error_s=30)
    check_windows()
    await client.fetch_voice_regions()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.fetch_voice_regions()


async def test_no_limit_lasts_longer_than_an_hour(limiting: tuple[Limiting, hikari.api.RESTClient]) -> None:
    server, client = limiting
    server.refusals, server.headers = 0, limit_headers(1, 0, "1e300", clock_error_s=1e300)
    check_windows()
    await client.fetch_voice_regions()
    with pytest.raises(hikari.RateLimitTooLongError) as error:
        await client.fetch_voice_regions()
    assert error.value.retry_after < 3601


@pytest.mark.parametrize(
    "body",
    [
        {"retry_after": -1},
        {"retry_after": 0},
        {"retry_after": 0.0, "global": True},
        {"retry_after": "soon"},
        {"retry_after": 10**400},
        ["soon"],
    ],
    ids=["less than nothing", "nothing", "global", "text", "more than a float", "no object"],
)
async def test_refusals_without_a_usable_pause_are_no_hot_loop(
    limiting: tuple[Limiting, hikari.api.RESTClient], body: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = limiting
    server.body = body
    monkeypatch.setattr(rest_buckets, "DEFAULT_PAUSE_S", 0.2)
    pause_after_refusals()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.4):
            await client.fetch_channel(1)
    assert 2 <= len(server.times) <= 4


@pytest.mark.parametrize("retry_after", ["1e9", "Infinity", "NaN", "-5"])
async def test_a_limit_on_all_requests_ends_within_an_hour(
    limiting: tuple[Limiting, hikari.api.RESTClient], retry_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = limiting
    server.body, server.refusals = {"retry_after": float(retry_after), "global": True}, 0
    server.headers = limit_headers(50, 49, "10")
    monkeypatch.setattr(rest_buckets, "MOST_WINDOW_S", 0.1)
    monkeypatch.setattr(rest_buckets, "DEFAULT_PAUSE_S", 0.1)
    check_windows()
    await client.delete_message(1, 2)  # hikari heeds it in places whose own limit it knows
    server.refusals = 2
    async with asyncio.timeout(2):
        for _ in range(2):
            await client.delete_message(1, 2)


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


class Answering:
    """A server that refuses first answers to interactions as answered already; the first one with a 503 if told to."""

    def __init__(self) -> None:
        self.fails_first = False
        self.asked = 0

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.fails_first and self.asked == 1:
            return web.json_response({}, status=503)
        return web.json_response({"message": "already acknowledged", "code": 40060}, status=400)


@pytest.mark.parametrize("lost", [True, False], ids=["confirmation lost", "somebody else answered"])
async def test_only_an_answer_that_was_sent_twice_counts_as_given(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    believe_first_answers()
    believe_first_answers()  # a second call changes nothing
    monkeypatch.setattr(hikari_rest.rate_limits, "ExponentialBackOff", Short)
    server = Answering()
    server.fails_first = lost
    async with served(server.answer) as client:
        if lost:
            given = await client.create_interaction_response(5, "token", hikari.ResponseType.DEFERRED_MESSAGE_CREATE)
            assert (given.interaction.id, server.asked) == (5, 2)
            return
        with pytest.raises(hikari.BadRequestError):
            await client.create_interaction_response(5, "token", hikari.ResponseType.DEFERRED_MESSAGE_CREATE)
