"""The control API: what it answers, and how it refuses."""

from __future__ import annotations

import json
import time
from typing import Any

import hikari
import pytest

from roost.errors import ClosedError, ResourceError
from roost.sim import ControlClient, ControlError, SimSettings, SimulatedDiscord

pytestmark = pytest.mark.sim


async def post(bench: Any, path: str, data: Any) -> tuple[int, dict[str, Any]]:
    raw = data if isinstance(data, (str, bytes)) else json.dumps(data)
    async with bench.http.post(
        bench.sim.control_url + path, data=raw, headers={"Content-Type": "application/json"}
    ) as answer:
        return answer.status, await answer.json()


async def test_the_card_names_all_that_is_needed(bench: Any) -> None:
    card = await bench.control.card()
    assert set(card) >= {"rest_url", "gateway_url", "control_url", "ca_file", "bots", "guilds"}
    assert len(card["bots"]) == 2
    assert {"token", "application_id", "user_id"} <= set(card["bots"][0])
    nest, second = card["guilds"]
    assert nest["name"] == "Roost Nest"
    assert len(nest["voice_channels"]) >= 3
    assert len(nest["text_channels"]) >= 2
    assert [member["name"] for member in nest["members"]] == ["Mod", "Ada", "Ben", "Cleo"]
    assert second["voice_channels"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/slash", "{", "not JSON"),
        ("/slash", b"\xff\xfe", "not JSON"),
        ("/slash", '{"a": ' + "[" * 100_000, "not JSON"),
        ("/slash", [], "must be a JSON object"),
        ("/slash", {}, "channel_id is missing"),
        ("/slash", {"channel_id": "x", "member_id": "1"}, "wrong form"),
        ("/slash", {"channel_id": "5", "member_id": "1"}, "there is no channel 5"),
        ("/slash", {"channel_id": "TEXT", "member_id": "5"}, "there is no member 5"),
        ("/slash", {"channel_id": "TEXT", "member_id": "ADA", "command": "/no"}, "there is no command /no"),
        ("/slash", {"channel_id": "TEXT", "member_id": "ADA", "command": "/no", "bot": 7}, "there is no bot 7"),
        ("/press", {"message_id": "5", "member_id": "ADA", "custom_id": "x"}, "there is no message 5"),
        ("/voice", {"channel_id": "TEXT", "member_id": "ADA"}, "is not a voice channel"),
        ("/voice", {"channel_id": "VOICE", "member_id": "BOT"}, "own gateway connection"),
        ("/voice", {"member_id": "ADA"}, "channel_id is missing"),
        (
            "/slash",
            {"channel_id": "TEXT", "member_id": "ADA", "command": "/nest"},
            "/nest needs a subcommand: egg, twig",
        ),
        (
            "/slash",
            {"channel_id": "TEXT", "member_id": "ADA", "command": "/nest egg", "options": {"size": "x"}},
            "there is no option 'size'; the command has none",
        ),
        ("/slash", {"channel_id": "TEXT", "member_id": "ADA", "command": "/nest twig"}, "needs a subcommand: dry"),
        (
            "/slash",
            {"channel_id": "TEXT", "member_id": "ADA", "command": "/nest egg", "wait_s": -1},
            "wait_s is between",
        ),
        (
            "/slash",
            {"channel_id": "TEXT", "member_id": "ADA", "command": "/nest egg", "wait_s": 61},
            "wait_s is between",
        ),
        ("/press", {"message_id": "5", "member_id": "ADA", "wait_s": "NaN"}, "wait_s is between 0 and 60"),
        ("/kick", {"member_id": "BOT"}, "is not in voice"),
        ("/kick", {"member_id": "ADA"}, "is not in voice"),
        ("/permissions", {"member_id": "ADA", "allow": "CONNECT"}, "allow is a list of permission names"),
        ("/permissions", {"member_id": "ADA", "deny": {"CONNECT": 1}}, "deny is a list of permission names"),
        ("/move", {"member_id": "BOT", "channel_id": "VOICE"}, "is not in voice"),
        ("/speak", {"member_id": "ADA", "wav": "***"}, "not base64"),
        ("/permissions", {"member_id": "ADA", "allow": ["FLY"]}, "there is no permission 'FLY'"),
        ("/fault", {"name": "no_such"}, "there is no fault 'no_such'; there is: "),
        ("/fault", {"name": "drop_op4", "times": 0}, "times must be from 1 to"),
        ("/gateway", {"action": "explode"}, "there is no action 'explode'"),
        ("/server", {}, "not in voice"),
        ("/member", {"member_id": "BOT", "remove": True}, "guild_delete"),
        ("/role", {"role_id": "5", "member_id": "ADA"}, "there is no role 5"),
        ("/permissions", {"role_id": "5", "allow": []}, "there is no role 5"),
        ("/nothing", {}, "there is no POST /control/nothing"),
    ],
)
async def test_mistakes_are_one_clear_line(bench: Any, path: str, body: Any, says: str) -> None:
    parts = [
        {"name": "egg", "type": 1},
        {"name": "twig", "type": 2, "options": [{"name": "dry", "type": 1}]},
    ]
    bench.sim.commands[bench.bot.application_id, bench.guild.id] = [{"id": "1", "name": "nest", "options": parts}]
    names = {"TEXT": bench.text, "VOICE": bench.voice[0], "ADA": bench.ada, "BOT": bench.bot_id}
    if isinstance(body, dict):
        body = {key: str(names.get(value, value)) if isinstance(value, str) else value for key, value in body.items()}
    status, answer = await post(bench, path, body)
    assert 400 <= status < 500
    assert says in answer["error"]
    assert "\n" not in answer["error"]


async def test_faults_are_listed_used_up_and_disarmed(bench: Any) -> None:
    listed = await bench.control.faults()
    assert {"drop_op4", "rest_error", "gateway_drop", "mute_hello"} <= set(listed["known"])
    assert (listed["handled_by"]["drop_op4"], listed["handled_by"]["mute_hello"]) == ("core", "voice")
    first = await bench.control.fault("drop_op4", guild_id=bench.guild.id, times=2)
    second = await bench.control.fault("mute_hello", reason="x")
    armed = (await bench.control.faults())["armed"]
    assert [(each["id"], each["name"], each["times"]) for each in armed] == [
        (first, "drop_op4", 2),
        (second, "mute_hello", 1),
    ]
    assert bench.part.host.take_fault("mute_hello", None) == {"reason": "x"}
    assert bench.part.host.take_fault("mute_hello", None) is None
    await bench.control.disarm(first)
    assert (await bench.control.faults())["armed"] == []
    with pytest.raises(ControlError, match="no such fault"):
        await bench.control.disarm(first)


async def test_the_log_has_what_happened_and_no_secret(bench: Any) -> None:
    started = time.monotonic()
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, bench.voice[0])
    server = await gateway.event("VOICE_SERVER_UPDATE")
    await bench.rest("POST", f"/channels/{bench.text}/messages", {"content": "hi"})
    await bench.rest("GET", "/users/@me", token="a-wrong-token")
    await gateway.socket.close(code=1000)
    await bench.until_in(None)
    entries = await bench.control.log()
    kinds = [entry["kind"] for entry in entries]
    for kind in ("gateway_connect", "gateway_identify", "op4", "vsu", "vsrvu", "message", "gateway_close", "sessions"):
        assert kind in kinds, kind
    times = [entry["t"] for entry in entries]
    assert times == sorted(times)
    assert started < times[0] <= times[-1] < time.monotonic()
    text = json.dumps(entries)
    for secret in (bench.bot.token, server["token"], gateway.session_id, "a-wrong-token"):
        assert secret not in text
    assert await bench.control.log(since=times[-1]) == []
    assert [entry["t"] for entry in await bench.control.log(since=times[-3])] == times[-2:]


async def test_the_log_hides_interaction_tokens(bench: Any) -> None:
    interaction = bench.sim.book.interact(2, bench.bot, bench.guild.id, bench.text, bench.ada)
    await bench.rest("POST", f"/interactions/{interaction.id}/{interaction.token}/callback", {"type": 5})
    await bench.rest("PATCH", f"/webhooks/{bench.bot.application_id}/{interaction.token}/messages/@original", {})
    entries = json.dumps(await bench.control.log())
    assert "/webhooks/" in entries
    assert interaction.token not in entries


async def test_state_of_nothing_and_of_something(bench: Any) -> None:
    state = await bench.control.state()
    assert state["voice_sessions"] == []
    assert state["max_sessions_per_guild"] == 0
    assert state["connections"] == {"gateway": 0, "voice_ws": 0, "udp": 0}
    assert state["commands"] == {}
    gateway = await bench.ready()
    await gateway.op4(bench.guild.id, bench.voice[0])
    await gateway.settled()
    state = await bench.control.state()
    assert state["connections"]["gateway"] == 1
    assert state["voice_states"] == [
        {"guild_id": str(bench.guild.id), "channel_id": str(bench.voice[0]), "user_id": str(bench.bot_id)}
    ]
    assert [each["connected"] for each in state["gateway_sessions"]] == [True]


async def test_both_bots_commands_are_there(bench: Any) -> None:
    guild = bench.guild.id
    ours = [{"name": name, "type": 1, "description": "x"} for name in ("voice", "ping")]
    for number, commands in ((0, ours), (1, ours[1:])):
        application = bench.sim.world.bots[number].application_id
        path = f"/applications/{application}/guilds/{guild}/commands"
        assert (await bench.rest("PUT", path, commands, bot=number))[0] == 200
    state = await bench.control.state()
    assert state["commands"] == {str(guild): ["voice", "ping"]}
    first, second = (str(bot.application_id) for bot in bench.sim.world.bots)
    assert state["commands_by_bot"] == {first: {str(guild): ["voice", "ping"]}, second: {str(guild): ["ping"]}}


async def test_the_log_has_edits_by_components_and_deleted_replies(bench: Any) -> None:
    async def answer(interaction: Any, kind: int, content: str) -> None:
        body = {"type": kind, "data": {"content": content}}
        status, _ = await bench.rest("POST", f"/interactions/{interaction.id}/{interaction.token}/callback", body)
        assert status == 204

    typed = bench.sim.book.interact(2, bench.bot, bench.guild.id, bench.text, bench.ada)
    await answer(typed, 4, "press me")
    pressed = bench.sim.book.interact(3, bench.bot, bench.guild.id, bench.text, bench.ada)
    pressed.source = typed.original
    await answer(pressed, 7, "pressed")
    await bench.rest("DELETE", f"/webhooks/{bench.bot.application_id}/{typed.token}/messages/@original")
    said = [each for each in await bench.control.log() if each["kind"].startswith("message")]
    assert [(each["kind"], each.get("content")) for each in said] == [
        ("message", "press me"),
        ("message_edit", "pressed"),
        ("message_delete", None),
    ]
    assert len({each["message_id"] for each in said}) == 1


async def test_without_its_voice_part_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost.sim.server._installed_part", lambda: None)
    async with SimulatedDiscord(SimSettings()) as sim, ControlClient(sim.control_url) as control:
        assert (await control.state())["voice_available"] is False
        assert (await control.card())["ca_file"] is None
        member = int((await control.card())["guilds"][0]["members"][1]["id"])
        with pytest.raises(ControlError, match="without its voice part"):
            await control.speak(member_id=member, recording="x")


async def test_members_come_go_speak_and_write(bench: Any, wav: str) -> None:
    dora = await bench.control.add_member("Dora")
    await bench.control.voice(member_id=dora, channel_id=bench.voice[0])
    spoken = await bench.control.speak(member_id=dora, wav=wav)
    assert spoken == {"started_at": 1.0, "ended_at": 2.0, "frames": 50, "bytes": 4}
    assert [each["name"] for each in await bench.control.recordings()] == ["one"]
    await bench.control.say("hello", member_id=dora, channel_id=bench.text)
    assert [each["content"] for each in await bench.control.messages(channel_id=bench.text)] == ["hello"]
    await bench.control.remove_member(dora)
    assert dora not in bench.guild.voice_states
    with pytest.raises(ControlError, match="no member"):
        await bench.control.say("gone", member_id=dora, channel_id=bench.text)


async def test_who_may_not_enter_stays_out(bench: Any) -> None:
    await bench.control.permissions(member_id=bench.ada, channel_id=bench.voice[0], deny=["CONNECT"])
    with pytest.raises(ControlError, match="may not enter channel perch"):
        await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    assert not bench.guild.voice_states


async def test_roles_overwrites_and_timeouts_decide_what_members_may_do(bench: Any) -> None:
    gateway = await bench.ready()
    channel, connect = bench.guild.channels[bench.voice[0]], int(hikari.Permissions.CONNECT)

    def may_connect() -> bool:
        return bool(bench.guild.permissions(bench.ada, channel) & connect)

    role = (await bench.control.role(name="guests", booster=True))["id"]
    made = (await gateway.event("GUILD_ROLE_CREATE"))["role"]
    assert (made["id"], made["managed"], made["tags"]) == (role, True, {"premium_subscriber": None})
    await bench.control.permissions(role_id=bench.guild.id, channel_id=channel.id, deny=["CONNECT"])
    assert not may_connect()
    shown = (await gateway.event("CHANNEL_UPDATE"))["permission_overwrites"]
    assert shown == [{"id": str(bench.guild.id), "type": 0, "allow": "0", "deny": str(connect)}]
    await bench.control.role(role_id=role, member_id=str(bench.ada))
    await bench.control.permissions(role_id=int(role), channel_id=channel.id, allow=["CONNECT"])
    assert may_connect()
    await bench.control.time_out(bench.ada, 60)
    assert not may_connect()
    await bench.control.time_out(bench.ada, 0)
    assert may_connect()
    await bench.control.role(role_id=role, member_id=str(bench.ada), remove=True)
    assert not may_connect()
    await bench.control.permissions(role_id=int(role), allow=["ADMINISTRATOR"])
    await gateway.event("GUILD_ROLE_UPDATE")
    await bench.control.role(role_id=role, member_id=str(bench.ada))
    assert may_connect()
    await bench.control.role(role_id=role, delete=True)
    assert (await gateway.event("GUILD_ROLE_DELETE"))["role_id"] == role
    assert not may_connect()


async def test_a_private_thread_is_told_to_the_bots(bench: Any) -> None:
    gateway = await bench.ready()
    thread = await bench.control.private_thread("aside", channel_id=bench.text)
    told = await gateway.event("THREAD_CREATE")
    assert (told["id"], told["type"], told["parent_id"]) == (str(thread), 12, str(bench.text))
    with pytest.raises(ControlError, match="is not a text channel"):
        await bench.control.private_thread("aside", channel_id=bench.voice[0])


async def test_a_member_whose_client_fails_is_not_in_voice(bench: Any) -> None:
    bench.part.refuse_members = True
    with pytest.raises(ControlError, match="/voice: 500"):
        await bench.control.voice(member_id=bench.ada, channel_id=bench.voice[0])
    assert not bench.guild.voice_states


async def test_a_new_channel_is_told_to_the_bots(bench: Any) -> None:
    gateway = await bench.ready()
    made = await bench.control.channel(guild_id=str(bench.guild.id), name="new", type="voice", user_limit=3)
    channel = await gateway.event("CHANNEL_CREATE")
    assert (channel["id"], channel["name"], channel["user_limit"]) == (made["id"], "new", 3)
    await gateway.op4(bench.guild.id, int(made["id"]))
    await gateway.event("VOICE_SERVER_UPDATE")


async def test_the_client_says_when_it_is_closed_and_when_the_simulator_is_gone() -> None:
    async with SimulatedDiscord(SimSettings()) as sim:
        url = sim.control_url
    client = ControlClient(url)
    with pytest.raises(ClosedError):
        await client.state()
    async with client:
        with pytest.raises(ResourceError, match="is gone"):
            await client.state()


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Host": "evil.example:80"}, 403, "Host header"),
        ({"Host": "127.0.0.1.evil.example"}, 403, "Host header"),
        ({"Origin": "http://evil.example"}, 403, "the web page http://evil.example"),
        ({"Origin": "null"}, 403, "the web page null"),
        ({"Content-Type": "text/plain"}, 415, "application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        ({"Content-Type": ""}, 415, "application/json"),
        ({"Content-Type": "application/json; charset=nonsense"}, 400, "the charset nonsense is not known"),
    ],
)
async def test_what_a_web_page_can_send_is_refused(bench: Any, headers: dict[str, str], status: int, says: str) -> None:
    """A page in the browser of the same machine reaches loopback; its requests carry one of these."""
    sent = {"Content-Type": "application/json", **headers}
    body = json.dumps({"name": "deny_identify"})
    async with bench.http.post(f"{bench.sim.control_url}/fault", data=body, headers=sent) as answer:
        assert answer.status == status
        assert says in (await answer.json())["error"]
    if status == 403:
        async with bench.http.get(f"{bench.sim.control_url}/card", headers=headers) as answer:
            assert answer.status == status
            assert "token" not in await answer.text()
        async with bench.http.options(f"{bench.sim.control_url}/fault", headers=headers) as answer:
            assert answer.status == status
            assert not [name for name in answer.headers if name.startswith("Access-Control")]
    assert (await bench.control.faults())["armed"] == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8000"])
async def test_a_name_of_this_machine_is_taken(bench: Any, host: str) -> None:
    async with bench.http.get(f"{bench.sim.control_url}/card", headers={"Host": host}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"name": "delay_op4", "params": {"delay_s": -1}}', "delay_s must be from 0 to 600, not -1"),
        ('{"name": "delay_op4", "params": {"delay_s": NaN}}', "NaN is not a number"),
        ('{"name": "delay_op4", "params": {"delay_s": 1e999}}', "1e999 is not a number"),
        ('{"name": "delay_op4", "params": {"delay_s": 1e300}}', "delay_s must be from 0 to 600, not 1e+300"),
        ('{"name": "delay_op4", "params": {"delay_s": "soon"}}', "delay_s must be a number, not 'soon'"),
        ('{"name": "delay_op4", "params": {"delay_s": null}}', "delay_s must be a number, not 'None'"),
        ('{"name": "delay_op4", "params": {"delay_s": true}}', "delay_s must be a number, not 'True'"),
        ('{"name": "delay_op4", "params": {"delay": 1}}', "no parameter 'delay'; it takes delay_s"),
        ('{"name": "drop_op4", "params": {"delay_s": 1}}', "no parameter 'delay_s'; it takes no parameters"),
        ('{"name": "drop_op4", "params": [1]}', "params must be an object"),
        ('{"name": "drop_op4", "times": 0}', "times must be from 1"),
        ('{"name": "drop_op4", "times": 1.5}', "times must be a whole number"),
        ('{"name": "drop_op4", "times": 1e300}', "times must be a whole number"),
        ('{"name": "drop_op4", "guild_id": "5"}', "there is no guild 5"),
        ('{"name": "gateway_drop", "params": {"code": 99}}', "code must be from 1000 to 4999, not 99"),
        ('{"name": "rest_error", "params": {"status": -1}}', "status must be from 200 to 599"),
        ('{"name": "gateway_frame", "params": {"kind": "x"}}', "kind must be one of beat, huge,"),
        ('{"name": "damaged_hello", "params": {"kind": "x"}}', "kind must be one of interval_huge, "),
        ('{"name": "bad_entries", "params": {"user_id": "x"}}', "user_id must be a whole number"),
        ('{"name": "damaged_ready", "params": {"without": [1]}}', "without must be a list of texts"),
    ],
)
async def test_an_absurd_fault_is_refused(bench: Any, body: str, says: str) -> None:
    status, answer = await post(bench, "/fault", body)
    assert status == 400
    assert says in answer["error"]
    assert (await bench.control.faults())["armed"] == []
