"""Who may use which command: the decision, in a table, and its enforcement at the simulated Discord."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import hikari
import pytest
from host_rig import Live, running

from roost.access import Rule, decide

Drop = Callable[..., Path]

EVERYONE, GUEST, MEMBER, STAFF = 1, 10, 20, 30
ME, YOU = 100, 200
DENY, ALLOW = False, True


def role(path: str, subject: int, allowed: bool) -> Rule:
    return Rule(path, "role", subject, allowed)


def user(path: str, subject: int, allowed: bool) -> Rule:
    return Rule(path, "user", subject, allowed)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("rules", "command", "roles", "decides"),
    [
        # nothing fits
        ([], "voice join", [EVERYONE], None),
        ([role("voice", STAFF, DENY)], "voice join", [MEMBER, EVERYONE], None),
        ([user("voice", YOU, DENY)], "voice join", [EVERYONE], None),
        ([role("stt", EVERYONE, DENY)], "voice join", [EVERYONE], None),
        ([role("voice", EVERYONE, DENY)], "voices", [EVERYONE], None),
        ([role("voice join", EVERYONE, DENY)], "voice joined", [EVERYONE], None),
        ([role("voice join", EVERYONE, DENY)], "voice", [EVERYONE], None),
        # a path, its group, and everything
        ([role("voice join", EVERYONE, DENY)], "voice join", [EVERYONE], 0),
        ([role("voice", EVERYONE, DENY)], "voice join", [EVERYONE], 0),
        ([role("voice", EVERYONE, DENY)], "voice", [EVERYONE], 0),
        ([role("*", EVERYONE, DENY)], "voice join", [EVERYONE], 0),
        ([role("config", EVERYONE, DENY)], "config access add", [EVERYONE], 0),
        # the longer path decides, whatever it says and whomever it is about
        ([role("voice", EVERYONE, DENY), role("voice join", EVERYONE, ALLOW)], "voice join", [EVERYONE], 1),
        ([role("voice", EVERYONE, ALLOW), role("voice join", EVERYONE, DENY)], "voice join", [EVERYONE], 1),
        ([role("*", EVERYONE, DENY), role("voice", EVERYONE, ALLOW)], "voice join", [EVERYONE], 1),
        ([user("voice", ME, ALLOW), role("voice join", EVERYONE, DENY)], "voice join", [EVERYONE], 1),
        ([role("*", STAFF, ALLOW), role("voice", EVERYONE, DENY)], "voice join", [STAFF, EVERYONE], 1),
        # the member before their roles
        ([user("voice", ME, ALLOW), role("voice", STAFF, DENY)], "voice join", [STAFF, EVERYONE], 0),
        ([user("voice", ME, DENY), role("voice", STAFF, ALLOW)], "voice join", [STAFF, EVERYONE], 0),
        ([user("voice", YOU, DENY), role("voice", STAFF, ALLOW)], "voice join", [STAFF, EVERYONE], 1),
        # the highest role, @everyone last
        ([role("voice", EVERYONE, DENY), role("voice", MEMBER, ALLOW)], "voice join", [MEMBER, EVERYONE], 1),
        ([role("voice", EVERYONE, ALLOW), role("voice", GUEST, DENY)], "voice join", [GUEST, EVERYONE], 1),
        ([role("voice", GUEST, DENY), role("voice", STAFF, ALLOW)], "voice join", [STAFF, GUEST, EVERYONE], 1),
        ([role("voice", GUEST, DENY), role("voice", STAFF, ALLOW)], "voice join", [GUEST, STAFF, EVERYONE], 0),
        # what belongs to every member
        ([role("*", EVERYONE, DENY), user("privacy", ME, DENY)], "privacy opt-out", [EVERYONE], None),
    ],
)
def test_which_rule_decides(rules: list[Rule], command: str, roles: list[int], decides: int | None) -> None:
    wanted = None if decides is None else rules[decides]
    assert decide(rules, command, ME, roles) == wanted
    assert decide(list(reversed(rules)), command, ME, roles) == wanted, "the order of the rules is none of it"


class Server:
    """A server with rules, and its members Mod (the owner), Ada and Ben; Ada and Ben have a role of their own each."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.everyone = live.guilds[0]
        self.ada, self.ben = live.members[1], live.members[2]

    async def roles(self) -> tuple[int, int]:
        """A role for Ada and one for Ben: the simulator makes one where somebody may do more than everybody."""
        found = []
        for member in (self.ada, self.ben):
            await self.live.control.permissions(member_id=member, guild_id=self.everyone, allow=("MANAGE_GUILD",))
            found.append(member + 7)
        async with asyncio.timeout(5):
            while any(self.live.app.plugins.bot.cache.get_role(each) is None for each in found):
                await asyncio.sleep(0.01)
        return found[0], found[1]

    async def no_roles(self) -> None:
        for member in (self.ada, self.ben):
            await self.live.control.permissions(member_id=member, guild_id=self.everyone, deny=("MANAGE_GUILD",))

    async def rule(self, action: str, command: str, who: int) -> str:
        return await self.live.slash("/config access add", command=command, action=action, who=str(who))


@pytest.mark.sim
async def test_a_denial_names_the_rule_and_the_role(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("some", says="hi")
    async with running(tmp_path, card) as live:
        server = Server(live)
        ada, ben = await server.roles()
        assert await live.slash("/config access list") == (
            "There are no rules: Discord's own permissions of each command decide."
        )
        assert await server.rule("deny", "/some", server.everyone) == (
            "The rule “deny /some to the role everyone” counts from now on."
        )
        assert await live.slash("/some", member=1) == (
            "You may not use /some here. The rule “deny /some to the role everyone” decides, and it is about your role "
            "everyone. Whoever manages this server can change that with `/config access`."
        )
        assert await live.slash("/some", member=1, guild=1) == "hi", "a rule counts in its own server alone"
        await server.rule("allow", "some", ada)
        assert await live.slash("/some", member=1) == "hi"
        denied = await live.slash("/some", member=2)
        assert "the role everyone" in denied
        await server.rule("deny", "some", ben)
        denied = await live.slash("/some", member=2)
        assert "“deny /some to the role of Ben”" in denied
        assert "your role of Ben" in denied
        assert await server.rule("allow", "some", server.ben) == (
            f"The rule “allow /some to the member <@{server.ben}>” counts from now on."
        )
        assert await live.slash("/some", member=2) == "hi"
        assert "“allow /some to" in await live.slash("/config access remove", command="some", who=str(server.ben))
        assert "the role of Ben" in await live.slash("/some", member=2)
        assert (await live.slash("/config access list")).splitlines() == [
            "- deny /some to the role everyone",
            "- allow /some to the role of Ada",
            "- deny /some to the role of Ben",
        ]
    async with running(tmp_path, card) as live:
        assert "the role of Ben" in await live.slash("/some", member=2), "rules survive a restart"
        assert await live.slash("/some", member=1) == "hi"
        await Server(live).no_roles()


@pytest.mark.sim
async def test_nobody_is_locked_out_and_privacy_is_everybodys(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("some", says="hi")
    async with running(tmp_path, card) as live:
        server = Server(live)
        await server.roles()
        await server.rule("deny", "*", server.everyone)
        assert "deny every command to the role everyone" in await live.slash("/some")
        assert "deny every command" in await live.slash("/plugins list", member=1)
        assert "deny every command" in await live.slash("/config show", member=1)
        assert "deny every command" in await live.slash("/plugins list"), "a rule counts for the owner too"
        assert "- deny every command" in await live.slash("/config access list"), "but not for what takes it back"
        offered = await live.control.autocomplete(
            member_id=live.members[0], channel_id=live.texts[0], command="/plugins info",
            options={"plugin": "som"}, focused="plugin",
        )  # fmt: skip
        assert offered == [], "nor is anything offered while it is typed"
        await live.answers()
        assert "belongs to every member" in await server.rule("deny", "privacy opt-out", server.everyone)
        assert "There is no command /nothing" in await server.rule("deny", "nothing", server.everyone)
        assert "no such rule" in await live.slash("/config access remove", command="some", who=str(server.everyone))
        await live.slash("/config access remove", command="*", who=str(server.everyone))
        assert await live.slash("/some") == "hi"
        await server.no_roles()


@pytest.mark.sim
async def test_the_paths_of_commands_are_completed(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("some", says="hi")
    async with running(tmp_path, card) as live:

        async def complete(typed: str) -> list[str]:
            found = await live.control.autocomplete(
                member_id=live.members[0], channel_id=live.texts[0], command="/config access add",
                options={"command": typed}, focused="command",
            )  # fmt: skip
            return [str(each["value"]) for each in found]

        assert await complete("some") == ["some"]
        assert await complete("plugins e") == ["plugins enable"]
        assert "bot plugins reload" in await complete("reload")
        assert await complete("privacy") == []
        assert "*" in await complete("")


@pytest.mark.sim
async def test_every_command_of_the_core_says_whom_it_is_for(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    application, token = card["bots"][0]["application_id"], card["bots"][0]["token"]
    url = f"{card['rest_url']}/applications/{application}/guilds/{card['guilds'][0]['id']}/commands"
    headers = {"Authorization": f"Bot {token}"}
    async with running(tmp_path, card), aiohttp.ClientSession(headers=headers) as http, http.get(url) as answer:
        commands = await answer.json()
    assert {each["name"]: int(each["default_member_permissions"] or 0) for each in commands} == {
        "privacy": 0,
        "plugins": int(hikari.Permissions.MANAGE_GUILD),
        "config": int(hikari.Permissions.MANAGE_GUILD),
        "bot": int(hikari.Permissions.ADMINISTRATOR),
    }
