"""``/config`` at the simulated Discord: what a server sets for itself, checked, kept, and told to the plugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_rig import Live, log_of, running

from roost.sim.client import ControlError

pytestmark = pytest.mark.sim
Drop = Callable[..., Path]

LOUD = """
from pydantic import BaseModel, ConfigDict, Field
from roost.config import guild_setting

class Inner(BaseModel):
    depth: int = guild_setting(1, ge=1, le=9)
    width: int = 1

class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    volume: int = guild_setting(5, ge=0, le=11, description="How loud.")
    mode: str = Field("dark")
    fast: bool = guild_setting(False, description="Whether it hurries.")
    words: tuple[str, ...] = guild_setting(("a", "b"))
    api_token: str = guild_setting("", max_length=9)
    inner: Inner = Inner()
    last: str = guild_setting("", description="On the second page.")

CTX = []
@hookimpl
def register_config(): return Settings
@hookimpl
async def on_load(ctx): CTX[:] = [ctx]
@hookimpl
async def config_changed(ctx, guild_id, old, new):
    assert ctx.config_for(guild_id) == new
    if new.volume == 11: raise RuntimeError("too loud")
    log.append((int(guild_id), old.volume, new.volume, new.words))
"""


def config(live: Live, guild: int = 0) -> Any:
    context = live.host.records["loud"].context
    assert context is not None
    return context.config_for(live.guilds[guild])


async def test_a_server_sets_shows_and_resets_its_own_values(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("loud", LOUD, says="hi")
    async with running(tmp_path, card, "loud.volume=4") as live:
        here, there = live.guilds
        show = await live.slash("/config show", plugin="loud")
        assert "- `volume` = `4` (the bot's): How loud." in show
        assert "- `words` = `a, b` (the bot's)" in show
        assert "`inner.depth` = `1`" in show
        assert "mode" not in show
        assert "width" not in show
        since = await live.now()
        assert (
            await live.slash("/config set", plugin="loud", key="volume", value="7") == "`loud.volume` is `7` here now."
        )
        assert await live.slash("/config set", plugin="loud", key="words", value="x, y") == (
            "`loud.words` is `x, y` here now."
        )
        await live.slash("/config set", plugin="loud", key="inner.depth", value="3")
        assert await live.puts(since) == [], "nothing was reloaded"
        assert log_of("loud") == [(here, 4, 7, ("a", "b")), (here, 7, 7, ("x", "y")), (here, 7, 7, ("x", "y"))]
        assert (config(live).volume, config(live).inner.depth, config(live).inner.width) == (7, 3, 1)
        assert (config(live, 1).volume, config(live, 1).words) == (4, ("a", "b"))
        assert "- `volume` = `7` (set here)" in await live.slash("/config show")
        assert "- `volume` = `4` (the bot's)" in await live.slash("/config show", guild=1)

    async with running(tmp_path, card, "loud.volume=2") as live:
        assert (config(live).volume, config(live, 1).volume) == (7, 2)
        log_of("loud").clear()
        await live.host.reload("loud")
        assert config(live).volume == 7
        assert await live.slash("/config reset", plugin="loud", key="volume") == (
            "`loud.volume` is `2` here now, as everywhere."
        )
        assert log_of("loud") == [(here, 7, 2, ("x", "y"))]
        await live.slash("/config set", plugin="loud", guild=1, key="fast", value="yes")
        await live.slash("/config reset", plugin="loud")
        assert config(live) == live.host.records["loud"].context.config  # type: ignore[union-attr]
        assert config(live, 1).fast
        assert there == live.guilds[1]


@pytest.mark.parametrize(
    ("plugin", "key", "value", "said"),
    [
        ("loud", "volume", "12", "must be a whole number, at least 0, at most 11, but it is '12'"),
        ("loud", "volume", "loud", "but it is 'loud'"),
        ("loud", "mode", "x", "loud.mode: a server cannot set that (it can set: volume, fast, words"),
        ("loud", "nothing", "x", "a server cannot set that"),
        ("quiet", "volume", "1", "quiet** has nothing that a server can set"),
        (
            "nobody",
            "volume",
            "1",
            "There is no plugin called nobody. Plugins in which a server can set something: loud",
        ),
        ("loud", "api_token", "0123456789", "redacted"),
    ],
)
async def test_wrong_input_is_refused_with_the_reason(
    tmp_path: Path, drop: Drop, card: dict[str, Any], plugin: str, key: str, value: str, said: str
) -> None:
    drop("loud", LOUD)
    drop("quiet")
    async with running(tmp_path, card) as live:
        answer = await live.slash("/config set", plugin=plugin, key=key, value=value)
        assert said in answer
        assert "0123456789" not in answer
        assert log_of("loud") == []
        assert config(live) is live.host.records["loud"].context.config  # type: ignore[union-attr]


async def test_secrets_are_never_shown(
    tmp_path: Path, drop: Drop, card: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    drop("loud", LOUD)
    with caplog.at_level(logging.DEBUG, "roost"):
        async with running(tmp_path, card) as live:
            assert "`api_token` = `(not set)`" in await live.slash("/config show")
            assert await live.slash("/config set", plugin="loud", key="api_token", value="hunter2") == (
                "`loud.api_token` is `(set, not shown)` here now."
            )
            assert config(live).api_token == "hunter2"
            assert "hunter2" not in await live.slash("/config show")
            form = await edit(live)
            assert "hunter2" not in str(form)
    assert "hunter2" not in caplog.text


async def edit(live: Live, member: int = 0, **options: Any) -> dict[str, Any]:
    answer = await live.control.slash(
        member_id=live.members[member], channel_id=live.texts[0], command="/config edit",
        options={"plugin": "loud", **options},
    )  # fmt: skip
    form: dict[str, Any] = answer["modal"]
    return form


async def send(live: Live, form: dict[str, Any], member: int = 0, **values: str) -> str:
    inputs = [part for row in form["components"] for part in row["components"]]
    texts = {part["custom_id"]: part.get("value") or "" for part in inputs}
    assert set(values) <= set(texts)
    answer = await live.control.modal(
        member_id=live.members[member], channel_id=live.texts[0], custom_id=form["custom_id"], values=texts | values
    )
    return str(answer["replies"][-1]["content"])


async def test_a_form_of_five_fields(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("loud", LOUD)
    async with running(tmp_path, card) as live:
        form = await edit(live)
        inputs = [part for row in form["components"] for part in row["components"]]
        assert [part["custom_id"] for part in inputs] == ["volume", "fast", "words", "api_token", "inner.depth"]
        assert inputs[0]["value"] == "5"
        assert inputs[0]["placeholder"] == "How loud. (a whole number, at least 0, at most 11)"
        assert await send(live, form) == "Nothing was changed."
        answer = await send(live, await edit(live), volume="6", words="")
        assert answer == "`loud.volume` is `6` here now."
        answer = await send(live, await edit(live), volume="99", fast="true")
        assert answer.startswith("Nothing was changed:\n- ")
        assert "at most 11" in answer
        assert (config(live).volume, config(live).fast) == (6, False)
        assert await send(live, await edit(live), volume="") == "`loud.volume` is `5` here now, as everywhere."
        second = await edit(live, page=2)
        assert [part["custom_id"] for row in second["components"] for part in row["components"]] == ["last"]
        assert await send(live, second, last="x") == "`loud.last` is `x` here now."
        assert "has 2 pages of settings, not 3" in await live.slash("/config edit", plugin="loud", page=3)
        assert "too old" in await send(live, second, last="y"), "a form is sent once"
        assert "too old" in await send(live, await edit(live), member=1, volume="9"), "and by whom it was shown"
        assert config(live).volume == 5


async def test_a_form_changes_nothing_for_a_member_who_has_lost_the_right(
    tmp_path: Path, drop: Drop, card: dict[str, Any]
) -> None:
    drop("loud", LOUD)
    async with running(tmp_path, card) as live:
        right = {"member_id": live.members[1], "guild_id": live.guilds[0]}
        await live.control.permissions(**right, allow=["MANAGE_GUILD"])
        first, second = await edit(live, member=1), await edit(live, member=1)
        await live.control.permissions(**right, deny=["MANAGE_GUILD"])
        assert "do not manage this server any more" in await send(live, first, member=1, volume="9")
        await live.control.permissions(**right, allow=["MANAGE_GUILD"])
        await live.slash("/config access add", command="config edit", action="deny", who=str(live.members[1]))
        assert "You may not use /config edit here." in await send(live, second, member=1, volume="9")
        assert config(live).volume == 5
        await live.slash("/config access remove", command="config edit", who=str(live.members[1]))
        assert await send(live, await edit(live, member=1), member=1, volume="9") == "`loud.volume` is `9` here now."


async def test_what_is_typed_is_completed(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("loud", LOUD)
    drop("quiet")
    async with running(tmp_path, card) as live:

        async def complete(focused: str, **options: str) -> list[str]:
            found = await live.control.autocomplete(
                member_id=live.members[0], channel_id=live.texts[0], command="/config set", options=options,
                focused=focused,
            )  # fmt: skip
            return [str(each["value"]) for each in found]

        assert await complete("plugin", plugin="") == ["loud"]
        assert await complete("key", plugin="loud", key="wo") == ["words"]
        assert await complete("key", plugin="nobody", key="") == []
        assert await complete("value", plugin="loud", key="fast", value="") == ["true", "false"]
        assert await complete("value", plugin="loud", key="volume", value="") == []


async def test_a_plugin_that_fails_to_take_it_over_is_said_to(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("loud", LOUD)
    async with running(tmp_path, card) as live:
        answer = await live.slash("/config set", plugin="loud", key="volume", value="11")
        assert answer.splitlines()[0] == "`loud.volume` is `11` here now."
        assert "failed to take that over" in answer
        assert config(live).volume == 11
        await live.slash("/plugins disable", plugin="loud")
        answer = await live.slash("/config set", plugin="loud", key="volume", value="3")
        assert "off in this server" in answer
        assert log_of("loud") == []
        await live.slash("/plugins enable", plugin="loud")
        assert config(live).volume == 3


async def test_a_value_that_a_new_version_does_not_take_is_left_out(
    tmp_path: Path, drop: Drop, card: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    file = drop("loud", LOUD)
    async with running(tmp_path, card) as live:
        await live.slash("/config set", plugin="loud", key="volume", value="9")
        await live.slash("/config set", plugin="loud", key="fast", value="true")
        file.write_text(file.read_text().replace("le=11", "le=8"))
        await live.host.reload("loud")
        assert (config(live).volume, config(live).fast) == (5, True)
        assert "its own value is left out: loud.volume: must be a whole number" in caplog.text
        assert await live.slash("/config set", plugin="loud", key="words", value="z") == "`loud.words` is `z` here now."


async def test_only_those_who_manage_the_server(tmp_path: Path, drop: Drop, card: dict[str, Any]) -> None:
    drop("loud", LOUD)
    async with running(tmp_path, card) as live:
        with pytest.raises(ControlError, match="may not use /config"):
            await live.slash("/config show", member=3)


async def test_where_a_server_wants_the_bot_to_stay_it_stays_after_a_restart(
    tmp_path: Path, card: dict[str, Any]
) -> None:
    ca = [f"voice.ca_file={card['ca_file']}", "voice.allowed_hosts=localhost,127.0.0.1", "voice.alone_leave_s=0.2"]
    async with running(tmp_path, card, *ca, deny="stt") as live:
        answer = await live.slash("/config set", plugin="voice", key="alone_leave_s", value="0")
        assert answer == "`voice.alone_leave_s` is `0.0` here now."
    async with running(tmp_path, card, *ca, deny="stt") as live:
        await live.control.voice(member_id=live.members[1], channel_id=live.voices[0][0])
        await live.slash("/voice join", member=1)
        await live.control.voice(member_id=live.members[1], channel_id=None, guild_id=live.guilds[0])
        await asyncio.sleep(1.0)
        assert (await live.control.state())["voice_sessions"]
        await live.slash("/config reset", plugin="voice", key="alone_leave_s")
        async with asyncio.timeout(10):
            while (await live.control.state())["voice_sessions"]:
                await asyncio.sleep(0.05)


async def test_voice_takes_over_what_a_server_sets(tmp_path: Path, card: dict[str, Any]) -> None:
    ca = [f"voice.ca_file={card['ca_file']}", "voice.allowed_hosts=localhost,127.0.0.1", "voice.alone_leave_s=600"]
    async with running(tmp_path, card, "consent.mode=notice", *ca, deny="stt") as live:
        await live.control.voice(member_id=live.members[1], channel_id=live.voices[0][0])
        await live.slash("/voice join", member=1)
        await live.control.voice(member_id=live.members[1], channel_id=None, guild_id=live.guilds[0])
        show = await live.slash("/config show", plugin="voice")
        assert "`alone_leave_s` = `600.0`" in show
        assert "ca_file" not in show
        answer = await live.slash("/config set", plugin="voice", key="alone_leave_s", value="0.2")
        assert answer == "`voice.alone_leave_s` is `0.2` here now."
        async with asyncio.timeout(10):
            while (await live.control.state())["voice_sessions"]:
                await asyncio.sleep(0.05)
