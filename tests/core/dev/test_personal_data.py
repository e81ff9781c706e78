"""``/privacy my-data`` and ``forget-me`` reach the core and every plugin, and name those that do not take part."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from roost import Leftover, Meta, Plugin, PluginContext, hookimpl
from roost.commands import personal_data
from roost.store import database
from roost.testing import Reply, RoostBot, leak_check, running_bot
from roost_voice import session

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


async def forgets(bot: RoostBot, member: str = "Ada", wait_s: float = 5.0) -> Reply:
    """A member has themselves forgotten, and confirms it."""
    asked = await bot.slash("/privacy forget-me", member=member)
    assert asked.ephemeral
    return await bot.press(asked, "Delete", member=member, wait_s=wait_s)


async def test_my_data_is_one_file_with_everything(tmp_path: Path) -> None:
    keeper = Keeper()
    async with running_bot(keeper, Broken(), Plugin("quiet"), data_dir=tmp_path) as bot:
        ada, ben = bot.member("Ada"), bot.member("Ben")
        keeper.notes = {ada: ["likes owls", "größer"], ben: ["a secret of Ben's"]}
        await bot.slash("/privacy opt-in")
        reply = await bot.slash("/privacy my-data")
        assert reply.ephemeral
        assert "It covers the bot itself, keeper." in reply.content
        assert "quiet" in reply.content
        assert "ask whoever runs this bot for the rest: broken" in reply.content
        (file,) = reply.files
        assert file.name == "my-data.json"
        assert json.loads(file.content) == {
            "user_id": str(ada),
            "data": {
                "core": {"consent": {str(bot.guild.id): "agreed"}, "consent_terms": {}},
                "keeper": {"notes": ["likes owls", "größer"], "seen": "a"},
            },
            "plugins_without_export": ["quiet"],
            "plugins_that_failed": ["broken"],
            "plugins_not_loaded": [],
        }
        assert b"secret" not in file.content


class Tally:
    """Stores something about people, and has no export."""

    name = "tally"

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta(self.name)

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.points = ctx.store.collection("points")


class FailingTally(Tally):
    name = "failing"

    @hookimpl
    async def user_data_export(self) -> None:
        raise RuntimeError("no")


@pytest.mark.parametrize("tally", [Tally(), FailingTally()], ids=["without an export", "with one that fails"])
async def test_my_data_has_what_a_plugin_stored_that_exports_nothing(tally: Tally, tmp_path: Path) -> None:
    async with running_bot(tally, data_dir=tmp_path) as bot:
        await tally.points.put("ada", {"points": 3}, user_id=bot.member("Ada"))
        await tally.points.put("ben", {"points": 5}, user_id=bot.member("Ben"))
        reply = await bot.slash("/privacy my-data")
        (file,) = reply.files
    assert json.loads(file.content)["data"][tally.name] == {"points": {"ada": {"points": 3}}}
    assert "so of them the file has only what they stored under your id" in reply.content


async def test_forget_me_reaches_every_plugin_and_the_core(tmp_path: Path) -> None:
    keeper = Keeper()
    async with running_bot(keeper, Broken(), Plugin("quiet"), data_dir=tmp_path) as bot:
        ada, ben = bot.member("Ada"), bot.member("Ben")
        keeper.notes = {ada: ["x"], ben: ["y"]}
        await bot.slash("/privacy opt-in")
        await bot.slash("/privacy opt-in", member="Ben")
        reply = await forgets(bot)
        assert reply.ephemeral
        assert "is deleted. That covers the bot itself, keeper." in reply.content
        assert (
            "have no deletion of their own, so only what they stored under your id is deleted: quiet." in reply.content
        )
        assert "failed; what they stored under your id is deleted, and they are asked" in reply.content
        assert "next loaded: broken." in reply.content
        assert keeper.deleted == [(ada, "user request")]
        assert keeper.notes == {ben: ["y"]}
        assert (await bot.slash("/privacy status")).content.startswith("You have not decided")
        assert (await bot.slash("/privacy status", member="Ben")).content.startswith("You agreed")
    async with running_bot(keeper, data_dir=tmp_path) as bot:  # It was deleted from the disk too.
        (file,) = (await bot.slash("/privacy my-data")).files
        core = json.loads(file.content)["data"]["core"]
        assert core["consent"] == {}
        assert "plugin_broken" not in core["deletions_waiting_for"]
        assert "broken" in core["deletions_waiting_for"]
        assert not {"keeper", "quiet"} & set(core["deletions_waiting_for"])


@pytest.mark.roost(settings={"consent.mode": "notice"})
async def test_who_refuses_is_not_heard_again_because_they_are_forgotten(roost_bot: RoostBot) -> None:
    await roost_bot.slash("/privacy opt-out")
    asked = await roost_bot.slash("/privacy forget-me")
    assert "Your refusal stays in servers that hear everybody who does not refuse (1)" in asked.content
    done = await roost_bot.press(asked, "Delete")
    assert "Your refusal stays in servers that hear everybody who does not refuse (1)" in done.content
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
    roost_bot.app.plugins.dispatcher.manager.register(Ears(), "voice-ears")
    roost_bot.app.plugins.dispatcher.changed()
    await roost_bot.slash("/voice join", wait_s=15)
    perch = roost_bot.channel("perch").id
    async with asyncio.timeout(10):
        while not (notices := await roost_bot.control.messages(channel_id=perch)):
            await asyncio.sleep(0.01)
    await roost_bot.press(int(notices[0]["id"]), "Agree")
    recording = (await roost_bot.recordings())[0]
    speaking = asyncio.create_task(roost_bot.say(recording))
    async with asyncio.timeout(10):
        while not heard:
            await asyncio.sleep(0.01)
    await forgets(roost_bot)
    heard.clear()
    await speaking
    assert heard == []


async def test_in_notice_mode_who_is_forgotten_is_heard_after_a_new_notice_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, also while the database takes nothing and Discord no notice."""
    monkeypatch.setattr(database, "BUSY_MS", 3000)
    monkeypatch.setattr(session, "LATE_NOTICE_S", 0.5)
    settings = {"stt.engine": "scripted", "stt.script": "words", "consent.mode": "notice"}
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings) as bot:

        async def is_heard() -> bool:
            status = (await bot.slash("/voice status")).content.rsplit("Heard: ", 1)[-1]
            return f"<@{bot.member('Ada')}>" in status

        async def becomes(heard: bool, within_s: float) -> None:
            async with asyncio.timeout(within_s):
                while await is_heard() is not heard:
                    await asyncio.sleep(0.05)

        await bot.join_voice("Ada", "perch")
        await bot.slash("/voice join", wait_s=15)
        await bot.slash("/transcribe start", wait_s=20)
        await becomes(True, 5.0)
        path = f"/channels/{bot.channel('perch').id}/messages"
        armed = await bot.control.fault("rest_error", method="POST", path_prefix=path, status=503, times=999)
        asked = await bot.slash("/privacy forget-me")
        other = sqlite3.connect(tmp_path / database.FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            pressed = asyncio.create_task(bot.press(asked, "Delete", wait_s=20))
            await becomes(False, 1.5)
            assert not pressed.done()
        finally:
            other.close()
        said = (await pressed).content
        assert "is deleted" in said
        assert "or when another notice is posted while you are there" in said
        assert "To stay unheard, press **Don't**" in said
        # The notice that Ben needs is the first after that.
        await bot.join_voice("Ben", "perch")
        assert not await is_heard()
        await bot.control.disarm(armed)
        await becomes(True, 10.0)


@pytest.mark.parametrize("left", [False, True], ids=["here", "left"])
async def test_in_notice_mode_words_under_way_of_who_is_forgotten_become_no_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """Also while the database takes nothing, so that no plugin is asked to delete anything yet."""
    monkeypatch.setattr(database, "BUSY_MS", 10_000)
    settings = {
        "stt.engine": "scripted",
        "stt.script": "words",
        "stt.retention_days": "0",
        "consent.mode": "notice",
    }
    async with running_bot(data_dir=tmp_path, installed=("voice", "stt"), settings=settings) as bot:
        for member in ("Ada", "Ben"):
            await bot.join_voice(member, "perch")
        await bot.slash("/voice join", wait_s=15)
        await bot.slash("/transcribe start", wait_s=20)
        # No new notice, which would let her be heard anew.
        path = f"/channels/{bot.channel('perch').id}/messages"
        await bot.control.fault("rest_error", method="POST", path_prefix=path, status=403, times=999)

        async def captions(name: str) -> int:
            return sum(f"**{name}**" in each for each in await bot.messages())

        asked = await bot.slash("/privacy forget-me")
        speaking = [asyncio.create_task(bot.say((await bot.recordings())[0], member=each)) for each in ("Ada", "Ben")]
        async with asyncio.timeout(15):
            while "Ada" not in (await bot.slash("/transcribe status")).content:
                await asyncio.sleep(0.02)
        if left:
            await bot.join_voice("Ada", None)
        other = sqlite3.connect(tmp_path / database.FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        before, others = await captions("Ada"), await captions("Ben")
        try:
            pressed = asyncio.create_task(bot.press(asked, "Delete", wait_s=20))
            async with asyncio.timeout(15):
                while await captions("Ben") == others:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(1.0)
            assert not pressed.done()
            assert await captions("Ada") == before
        finally:
            other.close()
            for each in speaking:
                each.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)
        assert "is deleted" in (await pressed).content


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
        assert "ask whoever runs this bot for the rest: circular" in reply.content
        assert json.loads(reply.files[0].content)["data"]["keeper"]["notes"] == ["likes owls"]


class EndlessExport(dict[str, int]):
    """Its items never end, or its first one never comes."""

    def __init__(self, comes: bool) -> None:
        super().__init__(one=1)
        self._comes = comes

    def items(self) -> Any:
        while True:
            time.sleep(0.001)
            if self._comes:
                yield "one", 1


class Endless:
    comes = True

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("endless")

    @hookimpl
    async def user_data_export(self) -> Mapping[str, Any]:
        return EndlessExport(self.comes)


@pytest.mark.parametrize("comes", [True, False])
async def test_an_export_that_never_ends_costs_nobody_the_rest(
    tmp_path: Path, comes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endless, "comes", comes)
    keeper = Keeper()
    async with running_bot(keeper, Endless(), data_dir=tmp_path) as bot:
        keeper.notes = {bot.member("Ada"): ["likes owls"], bot.member("Ben"): ["likes mice"]}
        replies = await asyncio.gather(
            bot.slash("/privacy my-data", wait_s=15), bot.slash("/privacy my-data", member="Ben", wait_s=15)
        )
        for reply, notes in zip(replies, ("owls", "mice"), strict=True):
            assert "ask whoever runs this bot for the rest: endless" in reply.content
            assert json.loads(reply.files[0].content)["data"]["keeper"]["notes"] == [f"likes {notes}"]
        async with asyncio.timeout(5):
            while any(thread.name == "roost plain JSON" for thread in threading.enumerate()):
                await asyncio.sleep(0.01)


async def test_a_quarantined_plugin_is_not_said_to_hold_nothing(tmp_path: Path) -> None:
    async with running_bot(Keeper(), Circular(), data_dir=tmp_path, settings={"plugins.quarantine_failures": 1}) as bot:
        host = bot.app.plugins
        host.failed("circular", "a test", RuntimeError("no"))
        assert host.records["circular"].state.value == "quarantined"
        reply = await bot.slash("/privacy my-data")
        assert "ask whoever runs this bot for the rest: circular" in reply.content
        assert "next loaded: circular" in (await forgets(bot)).content


class Hoarder:
    """Stores a note about everybody, and knows more about them than the store does."""

    works = True
    poison = 0
    """A user whose data it fails to delete."""

    def __init__(self) -> None:
        self.deleted: list[int] = []
        self.ctx: PluginContext | None = None
        self.news = asyncio.Event()

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("hoarder")

    @hookimpl
    async def on_load(self, ctx: PluginContext) -> None:
        self.ctx = ctx

    @hookimpl
    async def user_data_delete(self, user_id: int) -> None:
        if not self.works or user_id == self.poison:
            raise RuntimeError("no")
        self.deleted.append(user_id)
        self.news.set()

    async def note(self, user_id: int) -> None:
        assert self.ctx is not None
        await self.ctx.store.collection("notes").put(str(user_id), "a note", user_id=user_id)

    async def asked(self) -> list[int]:
        """Whose data it was asked to delete, once it was."""
        async with asyncio.timeout(5):
            await self.news.wait()
        self.news.clear()
        return self.deleted


async def stored(bot: RoostBot, plugin: str) -> set[int]:
    """About whom something is in a plugin's table."""
    people = {bot.member(name) for name in ("Ada", "Ben")}
    store = bot.app.plugins.store.of_plugin(plugin)
    return {user_id for user_id in people if await store.about_user(user_id)}


async def waiting(bot: RoostBot, plugin: str, count: int) -> None:
    """Until so many requests wait for a plugin."""
    async with asyncio.timeout(5):
        while len(await bot.app.plugins.store.deletions.waiting(f"plugin_{plugin}")) != count:
            await asyncio.sleep(0.01)


async def test_a_deletion_that_fails_is_not_taken_for_another_that_goes_on(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Hoarder):
        @hookimpl
        async def user_data_delete(self, user_id: int) -> None:
            if user_id == self.poison:
                raise RuntimeError("no")
            begun.set()
            await go_on.wait()

    hoarder = Slow()
    async with running_bot(hoarder, data_dir=tmp_path) as bot:
        hoarder.poison = bot.member("Ben")
        ada = asyncio.create_task(forgets(bot, wait_s=15))
        async with asyncio.timeout(5):
            await begun.wait()
        assert "hoarder" in (await forgets(bot, member="Ben")).content.partition("failed;")[2]
        go_on.set()
        said = (await ada).content
        assert "That covers the bot itself, hoarder." in said
        assert "failed;" not in said
        await waiting(bot, "hoarder", 1)


async def test_what_is_not_loaded_is_reached_too(tmp_path: Path) -> None:
    hoarder = Hoarder()
    async with running_bot(hoarder, data_dir=tmp_path) as bot:
        ada, ben, host = bot.member("Ada"), bot.member("Ben"), bot.app.plugins
        await hoarder.note(ada)
        await hoarder.note(ben)
        await host.unload("hoarder", "disable")
        told = await bot.slash("/privacy my-data")
        assert "are not loaded, so of them the file has only what they stored under your id: hoarder." in told.content
        held = json.loads(told.files[0].content)["data"]["hoarder"]
        assert str(ada) in json.dumps(held)
        assert str(ben) not in json.dumps(held)
        reply = await forgets(bot)
        assert "are not loaded; what they stored under your id is deleted, and they are asked" in reply.content
        assert "hoarder" in reply.content.rpartition("when they are loaded: ")[2]
        assert await stored(bot, "hoarder") == {ben}
        await host.load("hoarder")
        assert await hoarder.asked() == [ada]
        await waiting(bot, "hoarder", 0)
        await host.reload("hoarder")
        await forgets(bot, member="Ben")
        assert await hoarder.asked() == [ada, ben], "and each only once"
        assert await stored(bot, "hoarder") == {ben}, "who is loaded deletes for itself"


async def test_a_request_outlives_the_bot_and_the_absence_of_the_plugin(tmp_path: Path) -> None:
    hoarder = Hoarder()
    async with running_bot(hoarder, data_dir=tmp_path) as bot:
        await hoarder.note(ada := bot.member("Ada"))
    async with running_bot(data_dir=tmp_path) as bot:
        assert "hoarder" not in bot.app.plugins.records
        assert "hoarder" in (await forgets(bot)).content.rpartition("are loaded: ")[2]
        assert await stored(bot, "hoarder") == set()
    hoarder.works = False
    async with running_bot(hoarder, data_dir=tmp_path) as bot:
        async with asyncio.timeout(5):
            while not bot.app.plugins.dispatcher.failures["hoarder", "user_data_delete"]:
                await asyncio.sleep(0.01)
        await waiting(bot, "hoarder", 1)
    hoarder.works = True
    async with running_bot(hoarder, data_dir=tmp_path) as bot:
        assert await hoarder.asked() == [ada]
        await waiting(bot, "hoarder", 0)


async def test_who_is_called_again_after_a_quarantine_is_asked(tmp_path: Path) -> None:
    hoarder = Hoarder()
    async with running_bot(hoarder, data_dir=tmp_path, settings={"plugins.quarantine_failures": 1}) as bot:
        ada, host = bot.member("Ada"), bot.app.plugins
        await hoarder.note(ada)
        host.failed("hoarder", "a test", RuntimeError("no"))
        await forgets(bot)
        assert await stored(bot, "hoarder") == set()
        assert hoarder.deleted == []
        await host.unquarantine("hoarder")
        assert await hoarder.asked() == [ada]


async def test_what_is_stored_under_an_id_goes_where_there_is_no_deletion(tmp_path: Path) -> None:
    plugin = Plugin("simple")
    async with running_bot(plugin, data_dir=tmp_path) as bot:
        context = bot.app.plugins.records["simple"].context
        assert context is not None
        for name in ("Ada", "Ben"):
            await context.store.collection("notes").put(name, "a note", user_id=bot.member(name))
        await forgets(bot)
        assert await stored(bot, "simple") == {bot.member("Ben")}
        await waiting(bot, "simple", 0)
        await bot.app.plugins.unload("simple", "disable")
        await forgets(bot, member="Ben")
        assert await stored(bot, "simple") == set()
        await bot.app.plugins.load("simple")
        await waiting(bot, "simple", 0)


async def test_a_deletion_that_always_fails_holds_up_no_other(tmp_path: Path) -> None:
    hoarder = Hoarder()
    users = list(range(100, 112))
    async with running_bot(hoarder, data_dir=tmp_path) as bot:
        await bot.app.plugins.unload("hoarder", "disable")
        for user_id in users:
            await bot.app.plugins.store.deletions.ask(user_id, ["plugin_hoarder"])
        hoarder.poison = users[0]
        await bot.app.plugins.load("hoarder")
        await waiting(bot, "hoarder", 1)
        assert sorted(hoarder.deleted) == users[1:]
        # Nor is it forgotten.
        hoarder.poison = 0
        await bot.app.plugins.reload("hoarder")
        await waiting(bot, "hoarder", 0)


class Poster:
    """Has posted something about everybody."""

    def __init__(self, *, works: bool = True) -> None:
        self.deleted: list[int] = []
        self.works = works

    @hookimpl
    def plugin_meta(self) -> Meta:
        return Meta("poster")

    @hookimpl
    async def user_data_leftover(self, user_id: int) -> Leftover:
        async def delete() -> str:
            if not self.works:
                raise RuntimeError("no")
            self.deleted.append(user_id)
            return "The poster is gone."

        return Leftover("a poster", delete)


async def deletes_too(bot: RoostBot, reply: Reply) -> str:
    """Ada has what was left deleted too; gives what she reads in the end."""
    body = {"member_id": str(bot.member("Ada")), "message_id": str(reply.id), "label": "Delete that too"}
    answer = await bot.control.call("POST", "/press", {**body, "settle_s": 0.5})
    return str(answer["replies"][0]["content"])


async def test_what_stays_is_said_and_can_be_deleted(tmp_path: Path) -> None:
    poster = Poster()
    async with running_bot(poster, data_dir=tmp_path) as bot:
        ada, ben = bot.member("Ada"), bot.member("Ben")
        for member, path, action in ((ada, "plugins", "allow"), (ada, "config", "deny"), (ben, "plugins", "allow")):
            rule = {"command": path, "action": action, "who": str(member)}
            await bot.slash("/config access add", member="Mod", options=rule)
        (file,) = (await bot.slash("/privacy my-data")).files
        rules = json.loads(file.content)["data"]["core"]["command_rules"]
        assert [(each["command"], each["allowed"]) for each in rules] == [("config", False), ("plugins", True)]
        reply = await forgets(bot)
        assert "This is still there: 1 rule of servers, by which you may use commands; a poster." in reply.content
        assert "they are the servers': 1." in reply.content
        assert poster.deleted == []
        said = await deletes_too(bot, reply)
        assert said == "1 rule by which you could use commands: deleted.\nThe poster is gone."
        assert poster.deleted == [ada]
        listed = (await bot.slash("/config access list", member="Mod")).content
        assert f"allow /plugins to the member <@{ben}>" in listed
        assert f"deny /config to the member <@{ada}>" in listed
        assert f"allow /plugins to the member <@{ada}>" not in listed


async def test_what_cannot_be_deleted_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_bot(Poster(works=False), data_dir=tmp_path) as bot:
        said = await deletes_too(bot, await forgets(bot))
        assert said == "Not deleted, because something went wrong: a poster."
        assert "was not deleted: RuntimeError (" in caplog.text
        assert "RuntimeError: no" not in caplog.text, "its text may hold what the member said"


async def test_a_plugin_that_cannot_say_what_stays_is_named(tmp_path: Path) -> None:
    class Silent(Poster):
        @hookimpl
        async def user_data_leftover(self, user_id: int) -> Leftover:
            raise RuntimeError("no")

    async with running_bot(Silent(), data_dir=tmp_path) as bot:
        reply = await forgets(bot)
        assert "could not say what of you stays elsewhere, such as messages at Discord: poster." in reply.content


def test_half_a_character_does_not_cost_the_rest_of_an_export() -> None:
    held = {"stt": {"lines": "one \ud800 two"}}
    file = personal_data.as_file(personal_data.Outcome((), (), (), data=held), 1)
    assert json.loads(file)["data"]["stt"]["lines"] == "one ? two"


async def test_a_deletion_that_hangs_is_ended_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(Poster):
        @hookimpl
        def plugin_meta(self) -> Meta:
            return Meta("hangs")

        @hookimpl
        async def user_data_leftover(self, user_id: int) -> Leftover:
            return Leftover("what hangs", asyncio.Event().wait)  # type: ignore[arg-type]

    monkeypatch.setattr(personal_data, "LEFTOVERS_LIMIT_S", 0.1)
    poster = Poster()
    async with running_bot(Hangs(), poster, data_dir=tmp_path) as bot:
        said = await deletes_too(bot, await forgets(bot))
        assert said == "Not deleted in time: what hangs.\nNot deleted in time: a poster."
        assert poster.deleted == []
        again = await forgets(bot)
        assert "what hangs; a poster" in again.content, "it is offered once more"


async def test_a_stop_does_not_wait_for_what_is_still_being_deleted(tmp_path: Path) -> None:
    class Slow(Poster):
        @hookimpl
        async def user_data_leftover(self, user_id: int) -> Leftover:
            return Leftover("a poster", asyncio.Event().wait)  # type: ignore[arg-type]

    async with leak_check():
        async with running_bot(Slow(), data_dir=tmp_path) as bot:
            reply = await forgets(bot)
            assert (await bot.press(reply, "Delete that too")).content.startswith("Being deleted: a poster.")
            began = time.monotonic()
        assert time.monotonic() - began < 5.0
