"""Rows 270 and 271: every command is answered or deferred in time, whatever the store, a plugin or the engine does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fault_report import Fault
from test_last_word import locked

from roost import deferral
from roost.hooks import Deny, Meta, hookimpl
from roost.store import database
from roost.store.database import Database
from roost.testing.kit import RoostBot, running_bot
from roost_stt import checks, commands
from roost_stt.worker_owner import WorkerOwner

SLOW_GUARD_S = 1.2
"""Of three plugins in turn this is too much."""
SETTINGS = {"stt.engine": "scripted", "stt.script": "words"}


class Slow:
    """Decides about every command, and takes its time."""

    delay_s = 0.0

    def __init__(self, name: str) -> None:
        self._name = name

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta(self._name)

    @hookimpl
    async def command_check(self, ctx: Any) -> Deny | None:
        await asyncio.sleep(self.delay_s)
        return None


def typed(bot: RoostBot) -> dict[str, list[dict[str, Any]]]:
    """Options for every command that needs some, or takes another way with them."""
    rule = {"command": "voice join", "who": str(bot.member("Ben"))}
    return {
        "bot gpu release": [{"force": False}],
        "config access add": [rule | {"action": "deny"}],
        "config access remove": [rule],
        "config edit": [{"plugin": "stt"}],
        "config set": [{"plugin": "stt", "key": "hints", "value": "owl"}],
        "config reset": [{"plugin": "stt", "key": "hints"}],
        "transcribe language": [{}, {"language": "german"}],
        "transcript show": [{"transcript": "none"}],
        "transcript export": [{"transcript": "none"}],
        "transcript delete": [{"transcript": "none"}],
        "plugins info": [{"plugin": "stt"}],
        "plugins why": [{"plugin": "stt"}],
        "plugins enable": [{"plugin": "slow-a"}],
        "plugins disable": [{"plugin": "slow-a"}],
        "bot plugins load": [{"plugin": "slow-a"}],
        "bot plugins unload": [{"plugin": "none"}],
        "bot plugins reload": [{"plugin": "none"}],
        "bot plugins unquarantine": [{"plugin": "none"}],
    }


LAST = ("voice leave", "bot shutdown", "bot plugins load", "plugins disable", "voice test")
"""Not used here: they would end what the others are about, or only wait."""


def leaves(commands: list[dict[str, Any]], above: str = "") -> list[str]:
    """The paths of all commands."""
    found: list[str] = []
    for each in commands:
        inner = [option for option in each.get("options") or [] if option["type"] in (1, 2)]
        path = f"{above}{each['name']}"
        found += leaves(inner, f"{path} ") if inner else [path]
    return found


@pytest.mark.sim
@pytest.mark.fault(270)
async def test_every_command_is_answered_or_deferred_in_time(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 3500)
    guards = [Slow(f"slow-{letter}") for letter in "abc"]
    async with running_bot(*guards, data_dir=tmp_path, installed=("voice", "stt"), settings=SETTINGS, guilds=1) as bot:
        mod, general = bot.member("Mod"), bot.channel("general").id
        await bot.join_voice("Mod")
        assert "Joined" in (await bot.slash("/voice join", member="Mod", wait_s=15)).content
        options = typed(bot)
        used = [
            (f"/{path}", each)
            for path in leaves(bot.commands())
            if path not in LAST
            for each in options.get(path, [{}])
        ]
        monkeypatch.setattr(Slow, "delay_s", SLOW_GUARD_S)
        before = len(await bot.control.log())
        with locked(tmp_path):
            for command, each in used:
                await bot.control.slash(member_id=mod, channel_id=general, command=command, options=each, wait_s=0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(4.0):
                    while len(answers := await first_answers(bot, before)) < len(used):
                        await asyncio.sleep(0.05)
        unanswered = Counter(command for command, _ in used) - Counter(command for command, _ in answers)
        assert not unanswered
        for _, after_s in answers:
            fault.note(after_s, scaled=False)


async def first_answers(bot: RoostBot, since: int) -> list[tuple[str, float]]:
    """The commands that have their first answer, with the seconds that it took."""
    log = (await bot.control.log())[since:]
    asked = {each["interaction_id"]: each["command"] for each in log if each["kind"] == "slash"}
    return [(asked[each["interaction_id"]], each["after_s"]) for each in log if each["kind"] == "interaction_answer"]


@pytest.mark.sim
@pytest.mark.fault(271)
async def test_a_start_that_takes_long_says_what_it_waits_for(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PATIENCE_S", 0.2)
    monkeypatch.setattr(deferral, "LATE_S", 0.1)
    loaded, counted, wider = asyncio.Event(), asyncio.Event(), checks.is_wider
    ready = WorkerOwner.ready

    async def slow_ready(owner: WorkerOwner) -> Any:
        await loaded.wait()
        return await ready(owner)

    async def slow_count(*arguments: Any) -> bool:
        await counted.wait()
        return await wider(*arguments)

    monkeypatch.setattr(WorkerOwner, "ready", slow_ready)
    monkeypatch.setattr(checks, "is_wider", slow_count)
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=SETTINGS, guilds=1) as bot:
        await bot.join_voice("Ada")
        await bot.slash("/voice join", wait_s=15)
        # Who sees the answer is not known while members are asked, so it is deferred meanwhile.
        await bot.control.permissions(
            member_id=bot.member("Cleo"), channel_id=bot.channel("perch").id, deny=["CONNECT"]
        )
        before = len(await bot.control.log())
        asking = asyncio.ensure_future(bot.replies("/transcribe start", wait_s=10))
        async with asyncio.timeout(5):
            while not await first_answers(bot, before):
                await asyncio.sleep(0.02)
        counted.set()
        (refusal,) = await asking
        assert "only those who manage the server" in refusal.content
        assert refusal.ephemeral
        with fault.clock(scaled=False):
            waits = await bot.slash("/transcribe start", channel="perch", wait_s=10)
        assert "not ready yet" in waits.content
        loaded.set()
        async with asyncio.timeout(10):
            while not any(each.startswith("Transcribing") for each in await bot.messages("perch")):
                await asyncio.sleep(0.02)
        assert not any("not ready yet" in each for each in await bot.messages("perch"))


class Hangs:
    """No hook of it comes to an end."""

    def __init__(self, name: str) -> None:
        self._name = name

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta(self._name, errors_of=("*",))

    @hookimpl
    async def command_check(self, ctx: Any) -> Deny | None:
        return await self._hang()

    @hookimpl
    async def call_status(self, guild_id: int, user_id: int) -> None:
        await self._hang()

    @hookimpl
    async def handle_error(self, error: BaseException) -> None:
        await self._hang()

    async def _hang(self) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)


@pytest.mark.sim
@pytest.mark.fault(320)
async def test_commands_are_answered_while_all_hooks_hang(tmp_path: Path, fault: Fault) -> None:
    guards = [Hangs(f"hangs-{letter}") for letter in "ab"]
    async with running_bot(*guards, data_dir=tmp_path, installed=("voice",), settings={}, guilds=1) as bot:
        with fault.clock(scaled=False):
            status, refused = await asyncio.gather(bot.slash("/privacy status"), bot.slash("/voice status"))
        assert "You have not decided" in status.content
        assert "failed in its check" in refused.content


@pytest.mark.sim
@pytest.mark.fault(321)
async def test_members_read_that_a_database_which_does_not_answer_is_waited_for(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferral, "SLOW_S", 0.5)
    answers, connected = asyncio.Event(), Database._connected
    answers.set()

    @contextlib.asynccontextmanager
    async def slowly(self: Database, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        await answers.wait()
        async with connected(self, *arguments, **options) as connection:
            yield connection

    monkeypatch.setattr(Database, "_connected", slowly)
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=SETTINGS, guilds=1) as bot:
        rule = {"command": "voice join", "who": str(bot.member("Ben")), "action": "deny"}
        used: dict[str, dict[str, Any]] = {
            "/privacy my-data": {},
            "/config set": {"plugin": "stt", "key": "hints", "value": "owl"},
            "/config reset": {"plugin": "stt", "key": "hints"},
            "/config access add": rule,
            "/plugins disable": {"plugin": "stt"},
            "/transcribe language": {"language": "german"},
            "/transcript list": {},
            "/transcript export": {"transcript": "none"},
        }
        answers.clear()
        asked = {
            command: asyncio.ensure_future(bot.replies(command, member="Mod", wait_s=10, **options))
            for command, options in used.items()
        }
        with fault.clock(scaled=False):
            said = {command: (await replies)[0].content for command, replies in asked.items()}
        answers.set()
        assert {command for command, text in said.items() if "takes longer than usual" in text} == set(used)
