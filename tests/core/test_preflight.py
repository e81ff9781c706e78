"""Waiting for Discord: how long, and who does not wait."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import hikari
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hikari.impl import ProxySettings

from roost import preflight
from roost.config import CoreConfig, DiscordConfig, StartConfig
from roost.errors import ConfigError, ResourceError
from roost.preflight import Preflight

pytestmark = pytest.mark.unit

WAIT_S = 0.4


class Discord:
    """Stands in for Discord: out of reach for a number of questions."""

    def __init__(self) -> None:
        self.out_of_reach = 0
        self.asked = 0
        self.error: Exception = OSError("no network")

    async def answer(self, _client: Any) -> str:
        self.asked += 1
        if self.out_of_reach:
            self.out_of_reach -= 1
            raise self.error
        return "yes"


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Preflight:
    monkeypatch.setattr(preflight, "FIRST_PAUSE_S", 0.05)
    return Preflight("token", CoreConfig(start=StartConfig(wait_s=WAIT_S)), ProxySettings())


async def test_wait_begins_anew_after_discord_was_reached(questions: Preflight) -> None:
    discord = Discord()
    assert await questions.ask(discord.answer) == "yes"
    await asyncio.sleep(2 * WAIT_S)
    discord.out_of_reach = 2
    assert await questions.ask(discord.answer) == "yes"


async def test_questions_in_one_outage_share_the_wait(questions: Preflight) -> None:
    discord = Discord()
    discord.out_of_reach = 1000
    with pytest.raises(ResourceError):
        await questions.ask(discord.answer)
    asked = discord.asked
    assert asked > 1
    with pytest.raises(ResourceError):
        await questions.ask(discord.answer)
    assert discord.asked == asked + 1


async def test_question_of_a_running_bot_does_not_wait(questions: Preflight) -> None:
    discord = Discord()
    discord.out_of_reach = 1
    with pytest.raises(ResourceError):
        await questions.ask(discord.answer, waits=False)
    assert discord.asked == 1


@pytest.mark.parametrize("error", [AssertionError(), hikari.HTTPError("no JSON")], ids=repr)
async def test_rubbish_from_discords_own_address_is_waited_for(questions: Preflight, error: Exception) -> None:
    discord = Discord()
    discord.out_of_reach, discord.error = 2, error
    assert await questions.ask(discord.answer) == "yes"


@pytest.mark.parametrize("error", [AssertionError(), hikari.HTTPError("no JSON")], ids=repr)
async def test_rubbish_from_an_address_that_was_set_names_the_setting(error: Exception) -> None:
    config = CoreConfig(discord=DiscordConfig(rest_url="http://127.0.0.1:9/api/v10"), start=StartConfig(wait_s=WAIT_S))
    discord = Discord()
    discord.out_of_reach, discord.error = 1, error
    with pytest.raises(ConfigError, match="is not Discord"):
        await Preflight("token", config, ProxySettings()).ask(discord.answer)


LIMIT = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1}
GATEWAYS = {
    "no shards": json.dumps({"url": "wss://gateway", "shards": 0, "session_start_limit": LIMIT}),
    "fewer than none": json.dumps({"url": "wss://gateway", "shards": -1, "session_start_limit": LIMIT}),
    "a wait without end": json.dumps(
        {"url": "wss://gateway", "shards": 1, "session_start_limit": {**LIMIT, "reset_after": 10**30}}
    ),
    "nesting without end": "[" * 100_000,
    "a number without end": '{"shards": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("kind", GATEWAYS)
async def test_gateway_that_makes_no_sense_is_not_discords(kind: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=GATEWAYS[kind], content_type="application/json")

    app = web.Application()
    app.router.add_get("/gateway/bot", answer)
    async with TestServer(app) as server:
        config = CoreConfig(discord=DiscordConfig(rest_url=str(server.make_url(""))), start=StartConfig(wait_s=WAIT_S))
        with pytest.raises(ConfigError, match="is not Discord"):
            await Preflight("token", config, ProxySettings()).ask(preflight.fetch_gateway)
