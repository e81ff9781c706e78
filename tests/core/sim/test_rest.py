"""The simulated REST API, asked without a library."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.sim

COMMAND = {"name": "ping", "description": "Answers.", "type": 1}


async def test_tokens_have_the_shape_of_discords(bench: Any) -> None:
    for bot in bench.sim.world.bots:
        head, _, rest = bot.token.partition(".")
        assert int(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))) == bot.user.id
        assert rest.count(".") == 1


@pytest.mark.parametrize("token", ["", "nonsense", "OTAw.AAAA.BBBB"])
async def test_a_wrong_token_is_refused(bench: Any, token: str) -> None:
    for path in ("/gateway/bot", "/users/@me", "/applications/@me", f"/guilds/{bench.guild.id}"):
        assert await bench.rest("GET", path, token=token or " ") == (401, {"message": "401: Unauthorized", "code": 0})
    async with bench.http.get(bench.sim.rest_url + "/users/@me", headers={"Authorization": bench.bot.token}) as answer:
        assert answer.status == 401


@pytest.mark.parametrize(
    "path", ["/users/@me", "/oauth2/applications/@me", "/applications/@me", "/users/@me/guilds", "/gateway"]
)
async def test_what_everybody_may_ask(bench: Any, path: str) -> None:
    assert (await bench.rest("GET", path))[0] == 200


async def test_a_guild_and_what_is_in_it(bench: Any) -> None:
    base = f"/guilds/{bench.guild.id}"
    assert (await bench.rest("GET", base))[1]["owner_id"] == str(bench.mod)
    assert len((await bench.rest("GET", base + "/channels"))[1]) == len(bench.guild.channels)
    assert (await bench.rest("GET", base + "/roles"))[1][0]["name"] == "@everyone"
    members = (await bench.rest("GET", base + "/members?limit=1000"))[1]
    assert {each["user"]["global_name"] for each in members} >= {"Mod", "Ada", "Ben", "Cleo", "Roost", "Other"}
    assert len((await bench.rest("GET", base + f"/members?limit=2&after={bench.mod}"))[1]) == 2
    assert (await bench.rest("GET", base + f"/members/{bench.ada}"))[1]["user"]["global_name"] == "Ada"
    assert (await bench.rest("GET", base + "/members/5")) == (404, {"message": "Unknown Member", "code": 10007})
    assert (await bench.rest("GET", "/guilds/5")) == (404, {"message": "Unknown Guild", "code": 10004})
    assert (await bench.rest("GET", "/guilds/x"))[0] == 400
    assert (await bench.rest("GET", "/nowhere")) == (404, {"message": "404: Not Found", "code": 0})
    assert (await bench.rest("PUT", "/users/@me"))[0] == 405


class TestRateLimits:
    async def test_five_messages_in_five_seconds(self, bench: Any) -> None:
        path = f"/channels/{bench.text}/messages"
        for n in range(5):
            status, _, headers = await bench.rest_full("POST", path, {"content": str(n)})
            assert status == 200
            assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("5", str(4 - n))
        status, answer, headers = await bench.rest_full("POST", path, {"content": "too much"})
        assert status == 429
        assert 0 < answer["retry_after"] <= 5.0
        assert answer["global"] is False
        assert float(headers["Retry-After"]) == pytest.approx(answer["retry_after"], abs=0.01)
        other = next(each.id for each in bench.guild.of_type(0) if each.id != bench.text)
        assert (await bench.rest("POST", f"/channels/{other}/messages", {"content": "elsewhere"}))[0] == 200
        assert (await bench.rest("POST", path, {"content": "the other bot"}, bot=1))[0] == 200
        assert len(bench.sim.book.in_channel(bench.text)) == 6

    async def test_fifty_requests_a_second(self, bench: Any) -> None:
        paths = ["/users/@me", "/gateway/bot", "/applications/@me"]
        answers = await asyncio.gather(*(bench.rest_full("GET", paths[n % 3]) for n in range(60)))
        refused = [(answer, headers) for status, answer, headers in answers if status == 429]
        assert 0 < len(refused) <= 10
        assert all(answer["global"] and headers["X-RateLimit-Global"] == "true" for answer, headers in refused)


class TestMessages:
    async def test_write_read_edit_delete(self, bench: Any) -> None:
        gateway = await bench.ready()
        path = f"/channels/{bench.text}/messages"
        _, first = await bench.rest("POST", path, {"content": "one", "nonce": "7"})
        assert first["nonce"] == "7"
        _, second = await bench.rest("POST", path, {"content": "two", "message_reference": {"message_id": first["id"]}})
        assert (second["type"], second["message_reference"]["message_id"]) == (19, first["id"])
        assert [each["content"] for each in (await bench.rest("GET", path))[1]] == ["two", "one"]
        status, edited = await bench.rest("PATCH", f"{path}/{first['id']}", {"content": "uno"})
        assert (status, edited["content"], bool(edited["edited_timestamp"])) == (200, "uno", True)
        assert (await bench.rest("GET", f"{path}/{first['id']}"))[1]["content"] == "uno"
        assert (await bench.rest("DELETE", f"{path}/{second['id']}"))[0] == 204
        assert (await bench.rest("GET", f"{path}/{second['id']}"))[1]["code"] == 10008
        names = await gateway.names()
        assert names == ["MESSAGE_CREATE", "MESSAGE_CREATE", "MESSAGE_UPDATE", "MESSAGE_DELETE"]
        seen = await bench.control.messages(channel_id=bench.text)
        assert [(each["content"], each["edits"]) for each in seen] == [("uno", 1)]
        assert seen[0]["at"] > seen[0]["created_at"]

    async def test_what_is_refused(self, bench: Any) -> None:
        path = f"/channels/{bench.text}/messages"
        assert (await bench.rest("POST", path, {}))[1]["code"] == 50006
        assert (await bench.rest("POST", path, {"content": "x" * 2001}))[1]["code"] == 50035
        assert (await bench.rest("POST", "/channels/5/messages", {"content": "x"}))[1]["code"] == 10003
        unknown = {"content": "x", "message_reference": {"message_id": "5"}}
        assert (await bench.rest("POST", path, unknown))[1]["code"] == 50035
        assert bench.sim.book.in_channel(bench.text) == []

    async def test_what_belongs_to_others(self, bench: Any) -> None:
        path = f"/channels/{bench.text}/messages"
        _, message = await bench.rest("POST", path, {"content": "mine"}, bot=1)
        assert (await bench.rest("PATCH", f"{path}/{message['id']}", {"content": "yours"}))[1]["code"] == 50005
        assert (await bench.rest("DELETE", f"{path}/{message['id']}"))[1]["code"] == 50013
        await bench.control.permissions(member_id=bench.bot_id, channel_id=bench.text, allow=["MANAGE_MESSAGES"])
        assert (await bench.rest("DELETE", f"{path}/{message['id']}"))[0] == 204

    async def test_missing_permissions(self, bench: Any) -> None:
        path = f"/channels/{bench.text}/messages"
        await bench.control.permissions(member_id=bench.bot_id, channel_id=bench.text, deny=["SEND_MESSAGES"])
        assert (await bench.rest("POST", path, {"content": "x"})) == (
            403,
            {"message": "Missing Permissions", "code": 50013},
        )
        assert (await bench.rest("POST", f"/channels/{bench.text}/typing"))[1]["code"] == 50013
        assert (await bench.rest("POST", path, {"content": "x"}, bot=1))[0] == 200
        await bench.control.permissions(member_id=bench.bot_id, channel_id=bench.text, deny=["VIEW_CHANNEL"])
        assert (await bench.rest("GET", path)) == (403, {"message": "Missing Access", "code": 50001})
        allow = ["VIEW_CHANNEL", "SEND_MESSAGES"]
        await bench.control.permissions(member_id=bench.bot_id, channel_id=bench.text, allow=allow)
        assert (await bench.rest("POST", path, {"content": "x"}))[0] == 200
        assert (await bench.rest("POST", f"/channels/{bench.text}/typing"))[0] == 204

    async def test_files(self, bench: Any) -> None:
        form = aiohttp.FormData()
        form.add_field("payload_json", json.dumps({"content": "here"}), content_type="application/json")
        form.add_field("files[0]", b"line one\n", filename="transcript.txt", content_type="text/plain")
        headers = {"Authorization": f"Bot {bench.bot.token}"}
        url = f"{bench.sim.rest_url}/channels/{bench.text}/messages"
        async with bench.http.post(url, data=form, headers=headers) as response:
            assert response.status == 200
            attachment = (await response.json())["attachments"][0]
        assert (attachment["filename"], attachment["size"]) == ("transcript.txt", 9)
        seen = (await bench.control.messages(channel_id=bench.text))[0]
        assert base64.b64decode(seen["files"][0]["data"]) == b"line one\n"

    async def test_reactions(self, bench: Any) -> None:
        _, message = await bench.rest("POST", f"/channels/{bench.text}/messages", {"content": "x"})
        path = f"/channels/{bench.text}/messages/{message['id']}/reactions/%F0%9F%91%8D/@me"
        assert (await bench.rest("PUT", path))[0] == 204
        assert (await bench.rest("DELETE", path))[0] == 204
        assert [(entry["emoji"], entry["added"]) for entry in bench.logged("reaction")] == [("👍", True), ("👍", False)]


class TestCommands:
    def path(self, bench: Any, guild: bool = True) -> str:
        base = f"/applications/{bench.bot.application_id}"
        return f"{base}/guilds/{bench.guild.id}/commands" if guild else f"{base}/commands"

    @pytest.mark.parametrize("guild", [True, False])
    async def test_put_get_post_patch_delete(self, bench: Any, guild: bool) -> None:
        path = self.path(bench, guild)
        status, put = await bench.rest("PUT", path, [COMMAND])
        assert (status, put[0]["name"], put[0].get("guild_id")) == (
            200,
            "ping",
            str(bench.guild.id) if guild else None,
        )
        _, again = await bench.rest("PUT", path, [COMMAND, COMMAND | {"name": "pong"}])
        assert again[0]["id"] == put[0]["id"]
        status, posted = await bench.rest("POST", path, COMMAND | {"name": "pang"})
        assert status == 201
        assert (await bench.rest("POST", path, COMMAND | {"name": "pang"}))[0] == 200
        _, edited = await bench.rest("PATCH", f"{path}/{posted['id']}", {"description": "Says more."})
        assert (edited["description"], edited["id"]) == ("Says more.", posted["id"])
        assert (await bench.rest("GET", f"{path}/{posted['id']}"))[1]["description"] == "Says more."
        assert (await bench.rest("DELETE", f"{path}/{posted['id']}"))[0] == 204
        assert (await bench.rest("DELETE", f"{path}/{posted['id']}"))[1]["code"] == 10063
        assert [each["name"] for each in (await bench.rest("GET", path))[1]] == ["ping", "pong"]
        key = str(bench.guild.id) if guild else "global"
        assert (await bench.control.state())["commands"] == {key: ["ping", "pong"]}

    async def test_what_is_refused(self, bench: Any) -> None:
        status, answer = await bench.rest("PUT", self.path(bench), [COMMAND | {"name": "Ping"}])
        assert (status, answer["code"]) == (400, 50035)
        assert "'Ping'" in answer["message"]
        assert (await bench.rest("GET", self.path(bench)))[1] == []
        assert (await bench.rest("PUT", self.path(bench), {}))[0] == 400
        assert (await bench.rest("PUT", self.path(bench), [COMMAND], bot=1))[1]["code"] == 20012
        nowhere = f"/applications/{bench.bot.application_id}/guilds/5/commands"
        assert (await bench.rest("PUT", nowhere, [COMMAND]))[1]["code"] == 50001


class TestVoiceStates:
    async def test_not_in_voice(self, bench: Any) -> None:
        path = f"/guilds/{bench.guild.id}/voice-states/@me"
        assert await bench.rest("GET", path) == (404, {"message": "Unknown Voice State", "code": 10065})
        assert (await bench.rest("PATCH", path, {}))[1]["code"] == 10065

    async def test_in_voice(self, bench: Any) -> None:
        gateway = await bench.ready()
        await gateway.op4(bench.guild.id, bench.voice[1])
        session_id = (await gateway.event("VOICE_STATE_UPDATE"))["session_id"]
        _, state = await bench.rest("GET", f"/guilds/{bench.guild.id}/voice-states/@me")
        assert (state["channel_id"], state["session_id"]) == (str(bench.voice[1]), session_id)
        assert (await bench.rest("GET", f"/guilds/{bench.guild.id}/voice-states/{bench.bot_id}", bot=1))[0] == 200

    async def test_moving_needs_the_permission(self, bench: Any) -> None:
        gateway = await bench.ready()
        await gateway.op4(bench.guild.id, bench.voice[0])
        await gateway.event("VOICE_SERVER_UPDATE")
        path = f"/guilds/{bench.guild.id}/members/{bench.bot_id}"
        assert (await bench.rest("PATCH", path, {"channel_id": None}))[1]["code"] == 50013
        assert bench.channel_of_bot() == bench.voice[0]
        await bench.control.permissions(member_id=bench.bot_id, allow=["MOVE_MEMBERS"])
        assert (await bench.rest("PATCH", path, {"channel_id": str(bench.voice[1])}))[0] == 200
        assert bench.channel_of_bot() == bench.voice[1]
        assert (await bench.rest("PATCH", path, {"channel_id": str(bench.text)}))[1]["code"] == 10003
        assert (await bench.rest("PATCH", path, {"channel_id": None}))[0] == 200
        assert bench.channel_of_bot() is None
        assert (await bench.rest("PATCH", path, {"channel_id": None}))[1]["code"] == 40032

    async def test_members_are_moved_too(self, bench: Any) -> None:
        await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
        await bench.control.permissions(member_id=bench.bot_id, allow=["MOVE_MEMBERS"])
        path = f"/guilds/{bench.guild.id}/members/{bench.ada}"
        assert (await bench.rest("PATCH", path, {"channel_id": str(bench.voice[1])}))[0] == 200
        assert bench.part.members == [(bench.ada, bench.voice[0]), (bench.ada, None), (bench.ada, bench.voice[1])]


async def test_armed_errors(bench: Any) -> None:
    await bench.control.fault("rest_error", method="GET", path_prefix="/users/@me", status=503, times=2)
    assert (await bench.rest("GET", "/gateway/bot"))[0] == 200
    statuses = [(await bench.rest("GET", "/users/@me"))[0] for _ in range(3)]
    assert statuses == [503, 503, 200]
    assert [entry["status"] for entry in bench.logged("rest") if entry["path"] == "/users/@me"] == statuses
