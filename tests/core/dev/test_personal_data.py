"""``/privacy my-data`` and ``forget-me`` reach the core and every plugin, and name those that do not take part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from roost import Meta, Plugin, hookimpl
from roost.testing import RoostBot, running_bot

pytestmark = pytest.mark.sim


class Keeper:
    """Holds notes about people."""

    def __init__(self) -> None:
        self.notes: dict[int, list[str]] = {}
        self.deleted: list[tuple[int, str]] = []

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("keeper")

    @hookimpl
    async def user_data_export(self, user_id: int) -> Mapping[str, Any] | None:
        return {"notes": self.notes[user_id], "seen": Path("a")} if user_id in self.notes else None

    @hookimpl
    async def user_data_delete(self, user_id: int, reason: str) -> None:
        self.notes.pop(user_id, None)
        self.deleted.append((user_id, reason))


class Broken:
    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("broken")

    @hookimpl
    async def user_data_export(self) -> None:
        raise RuntimeError("no")

    @hookimpl
    async def user_data_delete(self) -> None:
        raise RuntimeError("no")


async def test_my_data_is_one_file_with_everything(tmp_path: Path) -> None:
    keeper = Keeper()
    async with running_bot(keeper, Broken(), Plugin("quiet"), data_dir=tmp_path) as bot:
        ada, ben = bot.member("Ada"), bot.member("Ben")
        keeper.notes = {ada: ["likes owls", "größer"], ben: ["a secret of Ben's"]}
        await bot.slash("/privacy opt-in")
        reply = await bot.slash("/privacy my-data")
        assert reply.ephemeral
        assert "Asked: core, keeper." in reply.content
        assert "quiet" in reply.content
        assert "failed; ask whoever runs this bot: broken" in reply.content
        (file,) = reply.files
        assert file.name == "my-data.json"
        assert json.loads(file.content) == {
            "user_id": str(ada),
            "data": {
                "core": {"consent": {str(bot.guild.id): "agreed"}},
                "keeper": {"notes": ["likes owls", "größer"], "seen": "a"},
            },
            "plugins_without_export": ["quiet"],
            "plugins_that_failed": ["broken"],
        }
        assert b"secret" not in file.content


async def test_forget_me_reaches_every_plugin_and_the_core(tmp_path: Path) -> None:
    keeper = Keeper()
    async with running_bot(keeper, Broken(), Plugin("quiet"), data_dir=tmp_path) as bot:
        ada, ben = bot.member("Ada"), bot.member("Ben")
        keeper.notes = {ada: ["x"], ben: ["y"]}
        await bot.slash("/privacy opt-in")
        await bot.slash("/privacy opt-in", member="Ben")
        reply = await bot.slash("/privacy forget-me")
        assert reply.ephemeral
        assert "is deleted. Asked: core, keeper." in reply.content
        assert "have no deletion: quiet." in reply.content
        assert "failed; ask whoever runs this bot: broken" in reply.content
        assert keeper.deleted == [(ada, "user request")]
        assert keeper.notes == {ben: ["y"]}
        assert (await bot.slash("/privacy status")).content.startswith("You have not decided")
        assert (await bot.slash("/privacy status", member="Ben")).content.startswith("You agreed")
    async with running_bot(keeper, data_dir=tmp_path) as bot:  # It was deleted from the disk too.
        (file,) = (await bot.slash("/privacy my-data")).files
        assert json.loads(file.content)["data"] == {"core": {"consent": {}}}


@pytest.mark.roost(settings={"consent.mode": "notice"})
async def test_who_refuses_is_not_heard_again_because_they_are_forgotten(roost_bot: RoostBot) -> None:
    await roost_bot.slash("/privacy opt-out")
    assert "stays noted in 1 server" in (await roost_bot.slash("/privacy forget-me")).content
    assert (await roost_bot.slash("/privacy status")).content.startswith("You are not heard")


@pytest.mark.roost(installed=("voice",))
async def test_a_live_session_stops_hearing_who_is_forgotten(roost_bot: RoostBot) -> None:
    heard: list[int] = []

    class Sink:
        def write(self, frame: Any) -> None:
            heard.append(frame.user_id)

        def purge(self, user_id: int) -> None: ...

    class Ears:
        @hookimpl
        def voice_audio_frame(self, frame: Any) -> None:
            heard.append(frame.user_id)

    await roost_bot.join_voice("Ada", "perch")
    await roost_bot.slash("/privacy opt-in")
    roost_bot.app.plugins.dispatcher.manager.register(Ears(), "voice-ears")
    roost_bot.app.plugins.dispatcher.changed()
    await roost_bot.slash("/voice join", wait_s=15)
    recording = (await roost_bot.recordings())[0]
    speaking = asyncio.create_task(roost_bot.say(recording))
    async with asyncio.timeout(10):
        while not heard:
            await asyncio.sleep(0.01)
    await roost_bot.slash("/privacy forget-me")
    heard.clear()
    await speaking
    assert heard == []


class Circular:
    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("circular")

    @hookimpl
    async def user_data_export(self) -> dict[str, Any]:
        whole: dict[str, Any] = {"a secret": 1}
        whole["itself"] = whole
        return whole

    @hookimpl
    async def user_data_delete(self) -> None: ...


async def test_what_is_no_json_costs_nobody_the_rest(tmp_path: Path) -> None:
    keeper = Keeper()
    async with running_bot(keeper, Circular(), data_dir=tmp_path) as bot:
        keeper.notes = {bot.member("Ada"): ["likes owls"]}
        reply = await bot.slash("/privacy my-data")
        assert "failed; ask whoever runs this bot: circular" in reply.content
        assert json.loads(reply.files[0].content)["data"]["keeper"]["notes"] == ["likes owls"]


async def test_a_quarantined_plugin_is_not_said_to_hold_nothing(tmp_path: Path) -> None:
    async with running_bot(Keeper(), Circular(), data_dir=tmp_path, settings={"plugins.quarantine_failures": 1}) as bot:
        host = bot.app.plugins
        host.failed("circular", "a test", RuntimeError("no"))
        assert host.records["circular"].state.value == "quarantined"
        for command in ("/privacy my-data", "/privacy forget-me"):
            reply = await bot.slash(command)
            assert "failed; ask whoever runs this bot: circular" in reply.content
