"""How hikari asks Discord: limits learnt for each place by itself, growing pauses, and answers sent twice.

Also requests that are not wanted any more when their turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import inspect
import logging
import math
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any

import hikari
from hikari.impl import buckets, rate_limits
from hikari.impl import rest as hikari_rest
from hikari.internal import routes

from roost.errors import ResourceError
from roost.unreadable import was_carried_out

_log = logging.getLogger("roost.rest")

DEFAULT_PAUSE_S = 1.0
"""After a 429 that does not say in numbers how long."""
FIRST_PAUSE_S = 0.5
"""The least pause after the second 429 in a row of one request; it doubles with each more."""
MOST_PAUSE_S = 30.0
MOST_REFUSALS = 10
"""How many 429s in a row one request takes before it fails."""

LEAST_WINDOW_S = 0.001
MOST_WINDOW_S = 3600.0
"""The shortest and the longest window of a limit that is believed."""
MOST_CLOCK_ERROR_S = 5.0
"""How far this machine's clock may be from Discord's before a window's end is counted from the answer's arrival."""

ALREADY_ANSWERED = 40060
"""Discord's code for a first answer to an interaction that has one."""

_repeats: ContextVar[list[float] | None] = ContextVar("roost_repeats", default=None)
"""The pauses before each repetition of the first answer that is being sent."""


class NotSentError(ResourceError):
    """A request was not wanted any more when its turn came.

    Attributes:
        perhaps_done: It was sent before, and may have been carried out.
    """

    def __init__(self, *, perhaps_done: bool) -> None:
        super().__init__("the request was not wanted any more when its turn came")
        self.perhaps_done = perhaps_done


class _Gate:
    """Asks whether a request is wanted whenever its turn comes to be sent."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._sent = False

    @contextlib.asynccontextmanager
    async def behind(self, turn: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        async with turn:
            if not self._wanted():
                raise NotSentError(perhaps_done=self._sent)
            self._sent = True
            yield


_gate: ContextVar[_Gate | None] = ContextVar("roost_gate", default=None)
"""Of the request that is being made."""


@contextlib.contextmanager
def sent_only_if(wanted: Callable[[], bool]) -> Iterator[None]:
    """Have the one request in this block ask whether it is wanted each time that it is about to be sent.

    It may wait for Discord's limits before that, and is sent again after an error, for many seconds.

    Raises:
        NotSentError: From the request: it was not wanted.
    """
    mark = _gate.set(_Gate(wanted))
    try:
        yield
    finally:
        _gate.reset(mark)


def ask_before_sending() -> None:
    """Have hikari heed `sent_only_if`. Where its insides have changed, everything stays as it is."""
    manager = buckets.RESTBucketManager
    original: Any = getattr(manager, "acquire_bucket", None)
    if getattr(original, "asks", False):
        return
    if original is None or list(inspect.signature(original).parameters) != ["self", "compiled_route", "authentication"]:
        _log.warning("this version of hikari sends what is not wanted any more when its turn comes")
        return

    def acquire_bucket(
        self: Any, compiled_route: routes.CompiledRoute, authentication: str | None
    ) -> AbstractAsyncContextManager[None]:
        turn: AbstractAsyncContextManager[None] = original(self, compiled_route, authentication)
        gate = _gate.get()
        return turn if gate is None else gate.behind(turn)

    acquire_bucket.asks = True  # type: ignore[attr-defined]
    setattr(manager, "acquire_bucket", acquire_bucket)  # noqa: B010 - mypy holds it for final


def new_nonce() -> str:
    """A nonce for one message: Discord posts it once, even if hikari sends it again after a lost confirmation."""
    return secrets.token_hex(12)


def learn_apart() -> None:
    """Have the first requests to different channels, servers and interactions not wait for each other.

    Discord limits a route for each of its major parameters (a channel, a server, or a webhook with its token)
    separately. Until hikari knows the limit it sends one request at a time, which is right, but it keeps one such
    queue for the whole route. What waits there is then counted against the limit that the first answer brings, of one
    interaction: of 50 replies to 50 interactions that one allows 5 in 2 s, the rest go out one by one, seconds apart.

    With this the queue belongs to the route and its major parameters. Where hikari's insides have changed, everything
    stays as it is.
    """
    original = getattr(buckets, "_create_unknown_hash", None)
    if getattr(original, "learns_apart", False):
        return
    known = (
        original is not None
        and list(inspect.signature(original).parameters) == ["route", "authentication_hash"]
        and hasattr(routes.CompiledRoute, "major_param_hash")
    )
    if not known:
        _log.warning("this version of hikari sends the first replies to several interactions one after the other")
        return

    def create_unknown_hash(route: routes.CompiledRoute, authentication_hash: str) -> str:
        shared: str = original(route, authentication_hash)  # type: ignore[misc]
        return f"{shared}{routes.HASH_SEPARATOR}{route.major_param_hash}"

    create_unknown_hash.learns_apart = True  # type: ignore[attr-defined]
    buckets._create_unknown_hash = create_unknown_hash


def check_windows() -> None:
    """Have hikari keep only windows that it can count with.

    hikari takes what an answer's headers say of a limit as it is. A window of 0 s, which Discord names when the window
    ends within the millisecond, then ends every later request of that place with a ZeroDivisionError; one without an
    end, or an end by a clock that differs from this machine's, holds them up for as long. Where hikari's insides have
    changed, everything stays as it is.
    """
    manager = buckets.RESTBucketManager
    original: Any = getattr(manager, "update_rate_limits", None)
    if getattr(original, "checks_windows", False):
        return
    if original is None or list(inspect.signature(original).parameters) != [
        "self",
        "compiled_route",
        "authentication",
        "bucket_header",
        "remaining_header",
        "limit_header",
        "reset_at",
        "reset_after",
    ]:
        _log.warning("this version of hikari believes whatever an answer says of its limit")
        return

    def update_rate_limits(  # noqa: PLR0917 - hikari gives them by place
        self: Any,
        compiled_route: routes.CompiledRoute,
        authentication: str | None,
        bucket_header: str,
        remaining_header: int,
        limit_header: int,
        reset_at: float,
        reset_after: float,
    ) -> None:
        if not math.isfinite(reset_after) or limit_header < 1 or remaining_header > limit_header:
            _log.warning("%s: Discord's answer names a limit that makes no sense; it is ignored", compiled_route.route)
            return
        window_s = min(max(reset_after, LEAST_WINDOW_S), MOST_WINDOW_S)
        ends = time.time() + window_s
        if abs(reset_at - ends) < MOST_CLOCK_ERROR_S:
            ends = reset_at
        original(
            self, compiled_route, authentication, bucket_header, max(remaining_header, 0), limit_header, ends, window_s
        )

    update_rate_limits.checks_windows = True  # type: ignore[attr-defined]
    setattr(manager, "update_rate_limits", update_rate_limits)  # noqa: B010 - mypy holds it for final
    _check_pauses_of_all(manager)


def _check_pauses_of_all(manager: type[buckets.RESTBucketManager]) -> None:
    """Have a limit on all requests at once end within an hour: nothing else ends it before the next start."""
    throttle: Any = getattr(manager, "throttle", None)
    if throttle is None or list(inspect.signature(throttle).parameters) != ["self", "retry_after"]:
        _log.warning("this version of hikari believes any limit on all requests")
        return

    def throttle_all(self: Any, retry_after: float) -> None:
        throttle(self, min(retry_after, MOST_WINDOW_S) if retry_after > 0 else DEFAULT_PAUSE_S)

    setattr(manager, "throttle", throttle_all)  # noqa: B010 - mypy holds it for final


def pause_after_refusals() -> None:
    """Have a request that Discord answers with 429 again and again wait longer each time, and fail in the end.

    hikari waits for as long as the answer says and tries again without a limit. An answer that says nothing, or less
    than nothing, makes that a loop of hundreds of requests a second, which Discord counts towards a ban of the
    machine's address. One that says it in no number ends the request with an error, as if Discord had carried it out.
    Where hikari's insides have changed, everything stays as it is.
    """
    client = hikari_rest.RESTClientImpl
    original: Any = getattr(client, "_parse_ratelimits", None)
    if getattr(original, "pauses", False):
        return
    if original is None or list(inspect.signature(original).parameters) != [
        "self",
        "compiled_route",
        "authentication",
        "response",
    ]:
        _log.warning("this version of hikari repeats requests that Discord limits without a pause of its own")
        return
    refused: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()

    async def parse_ratelimits(
        self: Any, compiled_route: routes.CompiledRoute, authentication: str | None, response: Any
    ) -> float | None:
        asked_s: float | None
        try:
            asked_s = await original(self, compiled_route, authentication, response)
        except (AssertionError, OverflowError, RecursionError, TypeError, ValueError) as error:
            _log.warning("%s: an answer's limit cannot be read (%s)", compiled_route.route, type(error).__name__)
            # What Discord has carried out is not repeated because of it.
            asked_s = DEFAULT_PAUSE_S if response.status == http.HTTPStatus.TOO_MANY_REQUESTS else None
        task = asyncio.current_task()
        assert task is not None
        if asked_s is None:
            refused.pop(task, None)
            return None
        count = refused[task] = refused.get(task, 0) + 1
        least_s = min(FIRST_PAUSE_S * 2 ** (count - 2), MOST_PAUSE_S) if count > 1 else 0.0
        pause_s = max(asked_s, least_s) if math.isfinite(asked_s) else least_s
        if count < MOST_REFUSALS:
            return pause_s
        del refused[task]
        _log.warning("%s was limited %d times in a row and is given up", compiled_route.route, count)
        raise hikari.RateLimitTooLongError(
            route=compiled_route,
            is_global=False,
            retry_after=pause_s,
            max_retry_after=MOST_PAUSE_S,
            reset_at=time.time() + pause_s,
            limit=None,
            period=None,
        )

    parse_ratelimits.pauses = True  # type: ignore[attr-defined]
    setattr(client, "_parse_ratelimits", parse_ratelimits)  # noqa: B010 - mypy holds it for final


def believe_first_answers() -> None:
    """Have a first answer to an interaction count as given when Discord took it, whatever became of its confirmation.

    hikari sends a request again after a broken connection or a 5xx. If Discord had taken the first one, it refuses the
    second one with code 40060, and the command ends there: its member sees "thinking" for good. A 40060 to an answer
    that was sent once is still an error, for then other software with the same token has answered. A confirmation that
    cannot be read ends no command either. Where hikari's insides have changed, everything stays as it is.
    """
    client, pauses = hikari_rest.RESTClientImpl, rate_limits.ExponentialBackOff
    request: Any = getattr(client, "_request", None)
    following: Any = getattr(pauses, "__next__", None)
    if getattr(request, "believes", False):
        return
    known = (
        request is not None
        and following is not None
        and {"self", "compiled_route", "auth"} <= set(inspect.signature(request).parameters)
        and list(inspect.signature(following).parameters) == ["self"]
    )
    if not known:
        _log.warning("this version of hikari ends a command whose first answer is confirmed late")
        return

    def noted(self: Any) -> float:
        pause_s: float = following(self)
        repeats = _repeats.get()
        if repeats is not None:
            repeats.append(pause_s)
        return pause_s

    async def believing(self: Any, compiled_route: routes.CompiledRoute, **options: Any) -> Any:
        if compiled_route.route is not routes.POST_INTERACTION_RESPONSE:
            return await request(self, compiled_route, **options)
        repeats: list[float] = []
        mark = _repeats.set(repeats)
        try:
            confirmation = await request(self, compiled_route, **options)
            if confirmation is not None:
                self._entity_factory.deserialize_interaction_callback_response(confirmation)
            return confirmation
        except hikari.BadRequestError as error:
            if error.code != ALREADY_ANSWERED or not repeats:
                raise
            _log.info("Discord took the first answer to an interaction, though its confirmation was lost")
        except Exception as error:
            if not was_carried_out(error):
                raise
            _log.info("Discord took the first answer to an interaction, though its confirmation cannot be read")
        finally:
            _repeats.reset(mark)
        # The confirmation would have said of what kind the interaction was; nothing here reads that.
        interaction_id = compiled_route.compiled_path.split("/")[2]
        return {"interaction": {"id": interaction_id, "type": int(hikari.InteractionType.APPLICATION_COMMAND)}}

    believing.believes = True  # type: ignore[attr-defined]
    setattr(client, "_request", believing)  # noqa: B010 - mypy holds it for final
    setattr(pauses, "__next__", noted)  # noqa: B010 - mypy holds it for final
