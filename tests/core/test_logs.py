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
