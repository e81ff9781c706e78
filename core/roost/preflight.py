"""Requests to Discord before the bot connects, and errors of a start in one line with the remedy."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import aiohttp
import hikari
from hikari.impl import ProxySettings, RESTClientImpl

from roost.config import CoreConfig
from roost.errors import ConfigError, ResourceError

AnswerT = TypeVar("AnswerT")
_log = logging.getLogger("roost.start")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0
REST_URL = "discord.rest_url"
_UNREADABLE = (
    aiohttp.InvalidURL,
    AssertionError,
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What hikari raises for an answer of another shape."""
CERTIFICATE_NOT_YET_VALID = 9
CERTIFICATE_EXPIRED = 10
"""OpenSSL's verification results: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


class Preflight:
    """Questions to Discord while hikari's own client is not up yet.

    Args:
        token: Of the bot.
        config: Address of Discord, and how long a start waits for it.
        proxy: For every request.
    """

    def __init__(self, token: str, config: CoreConfig, proxy: ProxySettings) -> None:
        self._token = token
        self._config = config
        self._proxy = proxy
        self._until_s: float | None = None

    async def ask(self, question: Callable[[RESTClientImpl], Awaitable[AnswerT]], *, waits: bool = True) -> AnswerT:
        """Ask Discord a question; while it cannot be reached, wait and ask again.

        All questions of one outage together wait ``start.wait_s`` at most.

        Args:
            question: Makes the request.
            waits: False asks once.

        Raises:
            ConfigError: The token is refused, or what answers is not Discord.
            ResourceError: Discord was not reached in time.
        """
        if self._until_s is None:
            self._until_s = time.monotonic() + self._config.start.wait_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = await self._once(question)
            except _UNREADABLE:
                failure: Exception = _not_discord("something that is not Discord's")
            except Exception as error:  # noqa: BLE001 - translated and raised again
                failure = start_error(error)
            else:
                self._until_s = None
                return answer
            if isinstance(failure, ConfigError) and failure.key == REST_URL and self._config.discord.rest_url is None:
                # Discord's own address answered: what stands before Discord has a bad moment.
                failure = ResourceError(
                    "what answers at Discord's address is not Discord; see https://discordstatus.com", retryable=True
                )
            left_s = self._until_s - time.monotonic()
            if not (waits and left_s > 0 and isinstance(failure, ResourceError) and failure.retryable):
                raise failure
            _log.warning(
                "waiting for Discord, for %.0f s at most: %s",
                left_s,
                failure,
                extra={"event": "start_waits_for_discord"},
            )
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _once(self, question: Callable[[RESTClientImpl], Awaitable[AnswerT]]) -> AnswerT:
        async with asyncio.timeout(self._config.start.timeout_s):
            rest = hikari.RESTApp(url=self._config.discord.rest_url, proxy_settings=self._proxy, max_retries=0)
            await rest.start()
            try:
                async with rest.acquire(self._token, hikari.TokenType.BOT) as client:
                    return await question(client)
            finally:
                await rest.close()


async def fetch_application(client: hikari.api.RESTClient) -> hikari.Application:
    """The bot's application.

    Raises:
        ValueError: The answer makes no sense.
    """
    application = await client.fetch_application()
    if not int(application.id):
        raise ValueError("an application without an id")
    return application


async def fetch_gateway(client: hikari.api.RESTClient) -> hikari.GatewayBotInfo:
    """Address of the gateway, number of shards and what Discord still allows.

    Raises:
        ValueError: The answer makes no sense.
    """
    info = await client.fetch_gateway_bot_info()
    if info.shard_count < 1:
        raise ValueError("a bot without shards")
    return info


def start_error(error: BaseException | None) -> Exception:
    """Translate an error of hikari into one line with the remedy."""
    if isinstance(error, TimeoutError):
        return ResourceError("Discord did not answer in time; check the network", retryable=True)
    if isinstance(error, hikari.UnauthorizedError):
        return _token_refused()
    if isinstance(error, hikari.GatewayServerClosedConnectionError):
        if error.code == hikari.ShardCloseCode.DISALLOWED_INTENT:
            return ConfigError(
                "Discord refuses a privileged intent; enable it on your application's Bot page or take it out",
                key="discord.intents",
            )
        if error.code == hikari.ShardCloseCode.AUTHENTICATION_FAILED:
            return _token_refused()
        return ResourceError(f"Discord closed the gateway: {error.reason} ({error.code})", retryable=True)
    if isinstance(error, hikari.RateLimitTooLongError):
        return ResourceError("Discord limits this bot's requests; try again later", retryable=True)
    if isinstance(error, hikari.InternalServerError):
        return ResourceError(f"Discord answers {int(error.status)}; see https://discordstatus.com", retryable=True)
    if isinstance(error, hikari.HTTPResponseError):
        return _not_discord(f"{int(error.status)}")
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate_refused(cause)
        if isinstance(cause, aiohttp.ClientHttpProxyError):
            return ResourceError(
                f"the proxy refuses to connect to Discord ({cause.status} {cause.message}); check HTTPS_PROXY, and the "
                "user and password in it",
                retryable=cause.status >= 500,
            )
        if isinstance(cause, aiohttp.ClientProxyConnectionError):
            why = os.strerror(cause.errno) if cause.errno else str(cause.os_error)
            said = f"the proxy {cause.host}:{cause.port} cannot be reached ({why}); check HTTPS_PROXY"
            return ResourceError(said, retryable=True)
    if isinstance(error, hikari.HTTPError) and error.__cause__ is None:
        return _not_discord("something that is not JSON")
    if isinstance(error, aiohttp.ClientPayloadError):
        return ResourceError("Discord's answer broke off; check the network", retryable=True)
    if isinstance(error, hikari.HTTPError | hikari.GatewayConnectionError | OSError):
        return ResourceError(f"Discord cannot be reached: {error}; check the network", retryable=True)
    if isinstance(error, Exception):
        return error
    return ResourceError("the gateway connection ended", retryable=True)


def _token_refused() -> ConfigError:
    return ConfigError("Discord refused the token; reset it on your application's Bot page and set ROOST_TOKEN again")


def _not_discord(answer: str) -> ConfigError:
    return ConfigError(
        f"what answers there is not Discord: it says {answer}; leave it unset for Discord's own address",
        key=REST_URL,
    )


def _certificate_refused(error: ssl.SSLCertVerificationError) -> ResourceError:
    if error.verify_code in (CERTIFICATE_NOT_YET_VALID, CERTIFICATE_EXPIRED):
        now = datetime.datetime.now(datetime.UTC)
        return ResourceError(
            f"Discord's certificate is not valid at this machine's time, {now:%Y-%m-%d %H:%M} UTC; "
            "set the clock (timedatectl set-ntp true)"
        )
    return ResourceError(
        f"the certificate that answers for Discord is not trusted ({error.verify_message}); something in between "
        "answers, or this machine's certificates are missing (ca-certificates)"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from; for aiohttp's about a certificate, the one within."""
    while error is not None:
        yield error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
        error = error.__cause__
