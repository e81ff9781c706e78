"""What the bot of the demo may say, and what fails it."""

from __future__ import annotations

import pytest

from roost.demo import expected
from roost.demo.ledger import Ledger

pytestmark = pytest.mark.unit
WENT_WRONG = "Something went wrong. The owner of this bot can see what, in its log."
MEMBERS = frozenset({"Ada", "Ben"})


def test_the_expected_reply_is_one_and_whole() -> None:
    assert expected.is_answer(["Joined #perch."], expected.JOINED, channel="perch")
    assert not expected.is_answer(["Joined #loft."], expected.JOINED, channel="perch")
    assert not expected.is_answer(["Joined #perch. But."], expected.JOINED, channel="perch")
    assert not expected.is_answer(["Joined #perch.", "Joined #perch."], expected.JOINED, channel="perch")
    assert not expected.is_answer([WENT_WRONG], expected.JOINED, channel="perch")
    assert not expected.is_answer([], expected.JOINED, channel="perch")


@pytest.mark.parametrize(
    "line",
    [
        "**Ada**: Something went wrong, she said.",
        "Moved to #loft.",
        "Transcribing #perch into #general.",
        "I am listening in #perch. Only members who agree are heard.",
    ],
)
def test_a_message_that_belongs_to_the_demo(line: str) -> None:
    assert expected.is_message(line, MEMBERS)


@pytest.mark.parametrize(
    "line",
    [
        WENT_WRONG,
        "**Roost**: The speech engine failed and is starting again; captions may come late.",
        "**Cleo**: I never agreed.",
        "",
    ],
)
def test_a_message_that_fails_the_demo(line: str) -> None:
    assert not expected.is_message(line, MEMBERS)


def test_what_was_unexpected_is_a_failure_of_the_run() -> None:
    ledger = Ledger(unexpected=["Ada ran /voice join, and the bot replied: nothing"])
    assert ledger.failures()[0] == "Ada ran /voice join, and the bot replied: nothing"
    assert '"ok": false' in ledger.as_json()
