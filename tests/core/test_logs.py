from __future__ import annotations

import io
import json
import logging

import pytest

from roost.logs import redact, set_up_logging

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
    ],
)
def test_secrets_are_kept_out(text: str) -> None:
    assert "CANARY" not in redact(text)
    assert TOKEN not in redact(text)


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
