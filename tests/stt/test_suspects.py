"""Who is suspected of a worker's death, and what follows."""

from __future__ import annotations

import pytest

from roost_stt.accounts import Accounts
from roost_stt.engine import spent_of
from roost_stt.supervision import Cause
from roost_stt.suspects import DEATHS_OF_GUILD, DEATHS_OF_SPEAKER, EVERYBODY, Suspects

pytestmark = pytest.mark.unit

ADA, BEN, ZOE = (1, 7), (1, 8), (2, 9)


def test_of_a_batch_only_the_utterance_that_kills_again_is_given_up() -> None:
    suspects = Suspects()
    first = suspects.died(Cause.CRASHED, {ADA: 10, BEN: 20, ZOE: 30}, None)
    assert (first.utterances, first.muted, first.guilds) == ({}, (), {1, 2})
    suspects.cleared(ADA)
    second = suspects.died(Cause.CRASHED, {BEN: 20}, None)
    assert (second.utterances, second.guilds) == ({BEN: 20}, {1})
    assert suspects.died(Cause.CRASHED, {ADA: 40}, None).utterances == {}


def test_another_kind_of_death_is_no_repetition() -> None:
    suspects = Suspects()
    assert suspects.died(Cause.HUNG, {ADA: 10}, None).utterances == {}
    assert suspects.died(Cause.CRASHED, {ADA: 10}, None).utterances == {}
    assert suspects.died(Cause.HUNG, {ADA: 10}, None).utterances == {ADA: 10}


def test_suspected_audio_is_tried_alone_and_then_dropped() -> None:
    suspects = Suspects()
    first = suspects.died(Cause.CRASHED, {ADA: 10}, (BEN, 15))
    assert (first.audio, first.isolate, first.muted) == (None, 15, ())
    second = suspects.died(Cause.CRASHED, {}, (BEN, 15))
    assert (second.audio, second.isolate) == ((BEN, 15), 0)
    # Whoever was in the engine then is not held responsible.
    assert suspects.died(Cause.CRASHED, {ADA: 30}, None).muted == ()


def test_a_silent_worker_is_on_the_account_of_its_audio_alone() -> None:
    suspects = Suspects()
    verdict = suspects.died(Cause.SILENT, {ADA: 10}, (ZOE, 15))
    assert (verdict.guilds, verdict.isolate) == ({2}, 15)
    assert suspects.died(Cause.HUNG, {ADA: 10}, (ZOE, 15)).guilds == {1}
    assert suspects.died(Cause.NOBODY, {ADA: 10}, (ZOE, 15)).guilds == frozenset()


def test_one_speaker_is_muted_until_the_session_ends() -> None:
    suspects = Suspects()
    muted = [suspects.died(Cause.CRASHED, {BEN: index}, None).muted for index in range(DEATHS_OF_SPEAKER)]
    assert muted == [(), (), (BEN,)]
    assert suspects.is_muted(*BEN)
    assert not suspects.is_muted(*ADA)
    suspects.session_over(1)
    assert not suspects.is_muted(*BEN)


def test_one_server_is_muted_when_many_of_its_members_kill() -> None:
    suspects = Suspects()
    for user in range(100, 100 + DEATHS_OF_GUILD):
        assert not suspects.is_muted(1, 7)
        suspects.died(Cause.CRASHED, {(1, user): 1}, None)
    assert suspects.is_muted(1, EVERYBODY)
    assert suspects.is_muted(1, 7)
    assert not suspects.is_muted(2, 7)


@pytest.mark.parametrize(
    ("deaths", "spent"),
    [
        ([], 0),
        ([set(), set()], 2),
        ([{1}] * 50, 1),
        ([{1}, {2}, {1, 2, 3}], 2),
        ([{1, 2, 3}], 1),
        ([{1, 2}, {3}, set(), {3}], 3),
    ],
)
def test_one_server_uses_up_one_of_the_crash_budget(deaths: list[set[int]], spent: int) -> None:
    assert spent_of(frozenset(each) for each in deaths) == spent


def test_a_draft_excuses_one_death_and_not_the_next() -> None:
    muted: list[tuple[int, int]] = []
    accounts = Accounts(
        lambda _text: None, lambda *_trouble: None, lambda _part: None, lambda *whom: muted.append(whom)
    )
    accounts.started({"speakers": [[*BEN, 10]], "draft": True})
    assert accounts.after_death(Cause.CRASHED, (ZOE, 15)).audio is None
    # The next processes die before the engine starts on anything.
    assert accounts.after_death(Cause.CRASHED, (ZOE, 15)).isolate == 15
    assert accounts.after_death(Cause.CRASHED, (ZOE, 15)).audio == (ZOE, 15)
    assert muted == []


def test_the_rest_from_drafts_grows_with_each_death_of_one() -> None:
    accounts = Accounts(lambda _text: None, lambda *_trouble: None, lambda _part: None, lambda *_whom: None)
    rests = []
    for _ in range(9):
        accounts.started({"speakers": [[*BEN, 10]], "draft": True})
        accounts.after_death(Cause.CRASHED)
        accounts.after_death(Cause.CRASHED)  # of something else
        rests.append(accounts.draft_rest_s(60.0))
    assert rests[:4] == [60.0, 120.0, 240.0, 480.0]
    assert rests[-1] == rests[-2] == 3840.0
