from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from roost.logs import redact, set_up_logging
from roost.testing import running_bot

pytestmark = pytest.mark.unit

TOKEN = "OTAwMDAwMDAwMDAwMDAwMDAx.AAAAAA.abcdefghijklmnopqrstuvwxyz0"


@pytest.mark.parametrize(
    "text",
    [
        f"Bot {TOKEN}",
        "https://discord.com/api/webhooks/123/CANARY-abc_def",
        '{"secret_key": [1, 2, 3, "CANARY"], "x": 1}',
        "{'session_id': 'CANARY', 'y': 2}",
        "token=CANARY, next",
        "KeyError: 'wku5Tt5q-8FB7plwH63pdu8U7Bkuh0NJzwh_CANARY33gaaT3gr3lXpPHI7MLhvf7Qf'",
        "KeyError: 'aW50ZXJhY3Rpb246MTIzNDU2Nzg5MDEyMzQ1Njc4OTA6CANARY'",
    ],
)
def test_secrets_are_kept_out(text: str) -> None:
    assert "CANARY" not in redact(text)
    assert TOKEN not in redact(text)


def test_what_is_long_and_no_secret_stays() -> None:
    digest = "d" * 63 + "1"
    text = f"the model {digest} of test_a_very_long_name_that_somebody_gave_to_a_test_of_theirs_for_no_reason"
    assert redact(text) == text


@pytest.mark.parametrize("style", ["text", "json"])
def test_each_record_is_one_clean_line(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    before = root.level
    stream = io.StringIO()
    try:
        set_up_logging("INFO", style, stream)
        logging.getLogger("roost.test").info("token: %s", TOKEN, extra={"guild": 7})
    finally:
        root.setLevel(before)
    line = stream.getvalue()
    assert TOKEN not in line
    assert line.count("\n") == 1
    if style == "json":
        assert json.loads(line)["guild"] == 7


@pytest.mark.sim
async def test_no_level_of_the_log_holds_what_members_write(tmp_path: Path, roost_bot_log: io.StringIO) -> None:
    """hikari dumps every payload at a level below DEBUG."""
    async with running_bot(data_dir=tmp_path) as bot:
        await bot.write("CANARY written")
        reply = await bot.slash("/plugins info", member="Mod", plugin="CANARY typed")
        assert "CANARY typed" in reply.content
    log = roost_bot_log.getvalue()
    assert "DEBUG" in log
    assert "CANARY" not in log


@pytest.fixture
def roost_bot_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log of a bot whose loggers are all turned down as far as they go."""
    root, stream = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    names = ("", "hikari", "hikari.rest", "hikari.gateway", "hikari.event_manager", "hikari.bot")
    before = {name: logging.getLogger(name).level for name in names}
    set_up_logging("DEBUG", "text", stream)
    for name in names:
        logging.getLogger(name).setLevel(1)
    yield stream
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)
