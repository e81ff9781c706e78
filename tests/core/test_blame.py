"""Whose failure an error is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import hikari
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from roost.blocking import BlockedError, Guard
from roost.dispatch import where
from roost.errors import ResourceError, StoreCause, StoreError
from roost.plugins.blame import EXCUSES, Blame, blame
from roost.store import documents
from roost.strays import StrayError

pytestmark = pytest.mark.unit


def answered(kind: type[Any], code: int = 0, status: int | None = None) -> hikari.HTTPResponseError:
    arguments: list[Any] = ["https://discord", *([status] if status is not None else []), {}, b""]
    error: hikari.HTTPResponseError = kind(*arguments, message="no", code=code)
    return error


def after(cause: BaseException) -> Exception:
    error = RuntimeError("could not post")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (answered(hikari.NotFoundError, 10062), Blame.TOO_LATE),
        (answered(hikari.BadRequestError, 40060), Blame.TOO_LATE),
        (answered(hikari.NotFoundError, 10003), Blame.REFUSED),
        (answered(hikari.ForbiddenError, 50013), Blame.REFUSED),
        (answered(hikari.UnauthorizedError, 50027), Blame.REFUSED),
        (answered(hikari.BadRequestError, 40032), Blame.REFUSED),
        (answered(hikari.BadRequestError, 30013), Blame.REFUSED),
        (answered(hikari.BadRequestError, 50035), Blame.PLUGIN),
        (answered(hikari.ClientHTTPResponseError, status=429), Blame.DISCORD),
        (answered(hikari.ClientHTTPResponseError, status=405), Blame.PLUGIN),
        (answered(hikari.ClientHTTPResponseError, status=413), Blame.PLUGIN),
        (answered(hikari.ClientHTTPResponseError, status=408), Blame.DISCORD),
        (answered(hikari.ClientHTTPResponseError, status=418), Blame.DISCORD),
        (answered(hikari.InternalServerError, status=503), Blame.DISCORD),
        (hikari.HTTPError("connection refused"), Blame.DISCORD),
        (StoreError("the database failed: database is locked"), Blame.STORE),
        (StoreError("the database cannot be written", cause=StoreCause.UNUSABLE), Blame.STORE_UNUSABLE),
        (ResourceError("the card is gone"), Blame.PLUGIN),
        (StrayError(SystemExit(3)), Blame.PLUGIN),
        (after(answered(hikari.ForbiddenError)), Blame.REFUSED),
        (after(KeyError("x")), Blame.PLUGIN),
        (ExceptionGroup("two", [hikari.HTTPError("no"), hikari.HTTPError("no")]), Blame.DISCORD),
        (ExceptionGroup("two", [hikari.HTTPError("no"), KeyError("x")]), Blame.PLUGIN),
        (BlockedError(), Blame.PLUGIN),
        (KeyError("x"), Blame.PLUGIN),
    ],
    ids=lambda value: value.name if isinstance(value, Blame) else type(value).__name__,
)
def test_an_error_is_blamed_on(error: Exception, whose: Blame) -> None:
    assert blame(error) is whose


@pytest.mark.parametrize("answer", ["[" * 100_000, "9" * 5000, "{"], ids=["nesting", "digits", "torn"])
async def test_an_answer_that_json_cannot_read_is_discords(answer: str) -> None:
    async def respond(_request: web.Request) -> web.Response:
        return web.Response(text=answer, content_type="application/json")

    app = web.Application()
    app.router.add_get("/users/@me", respond)
    async with TestServer(app) as server:
        rest = hikari.RESTApp(url=str(server.make_url("")))
        await rest.start()
        try:
            async with rest.acquire("token", hikari.TokenType.BOT) as client:
                with pytest.raises((RecursionError, ValueError)) as caught:
                    await client.fetch_my_user()
        finally:
            await rest.close()
    assert blame(caught.value) is Blame.DISCORD


def test_every_verdict_but_the_plugins_has_an_excuse() -> None:
    assert {each for each in Blame if not EXCUSES[each]} == {Blame.PLUGIN}


async def test_a_deadline_that_passes_while_discord_is_waited_for_is_discords() -> None:
    rest = hikari.RESTApp(url="http://127.0.0.1:9")
    await rest.start()
    try:
        async with rest.acquire("token", hikari.TokenType.BOT) as client:
            with pytest.raises(TimeoutError) as caught:  # nobody listens there: hikari tries again for seconds
                async with asyncio.timeout(0.3):
                    await client.fetch_my_user()
    finally:
        await rest.close()
    assert blame(caught.value) is Blame.DISCORD
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    assert blame(caught.value) is Blame.PLUGIN


async def outlasts() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)


@pytest.mark.parametrize(
    ("file", "whose"), [(__file__, Blame.PLUGIN), (documents.__file__, Blame.STORE)], ids=["a plugin", "the store"]
)
async def test_hook_that_is_left_behind_is_blamed_by_what_it_waits_for(file: str, whose: Blame) -> None:
    """The store lets no statement be interrupted, so a hook that waits for it outlasts its cancellation."""
    made: dict[str, Any] = {"outlasts": outlasts}
    exec(compile("async def hook(): await outlasts()", file, "exec"), made)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.01):
            await Guard().stepped(made["hook"]())
    assert blame(caught.value) is whose
    assert where(caught.value).startswith(f"{__file__}:")


async def test_hook_without_lines_is_left_behind_too() -> None:
    async def hook() -> None:
        await outlasts()

    hook.__code__ = hook.__code__.replace(co_linetable=b"")
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.01):
            await Guard().stepped(hook())
    assert blame(caught.value) is Blame.PLUGIN
