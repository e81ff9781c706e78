"""``roost doctor``: every failure has a line that says the fix, and names the right thing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from roost import cli
from roost.config import load
from roost.dev import doctor
from roost.dev.doctor import Finding, examine
from roost.sim import SimulatedDiscord

pytestmark = pytest.mark.sim

SETS = ["plugins.deny=voice,stt"]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


async def found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sim: SimulatedDiscord, *sets: str
) -> dict[str, Finding]:
    monkeypatch.setenv("ROOST_TOKEN", sim.world.bots[0].token)
    sets = (*SETS, f"discord.rest_url={sim.rest_url}", *sets)
    findings = await asyncio.to_thread(examine, lambda: load(environ={}, sets=sets, data_dir=tmp_path))
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
        seen = by_name(await asyncio.to_thread(examine, lambda: load(environ={}, sets=sets, data_dir=tmp_path)))
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


def test_a_wrong_configuration_is_the_only_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--data-dir", str(tmp_path), "--set", "log.level=LOUD"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL configuration: log.level: " in printed
    assert "fix: correct it; roost config check names every mistake" in printed


def test_a_mistyped_model_is_a_setting_to_correct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json", "--data-dir", str(tmp_path), "--set", "stt.model=tiny.em"]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    for name in ("model", "plugin stt"):
        assert "there is no speech model of that name (near it: tiny.en, tiny)" in rows[name]["detail"]
        assert rows[name]["fix"] == "correct that setting; roost config check names every mistake"
