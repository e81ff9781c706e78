"""Who is suspected of a worker's death, and what follows."""

from __future__ import annotations

import pytest

from roost_stt.accounts import Accounts
from roost_stt.engine import spent_of
from roost_stt.supervision import Cause
from roost_stt.suspects import (
    DEATHS_OF_GUILD,
    DEATHS_OF_OWNER,
    DEATHS_OF_SPEAKER,
    EVERYBODY,
    FORGIVEN_S,
    Party,
    Suspects,
)

pytestmark = pytest.mark.unit

ADA, BEN, ZOE = (1, 7), (1, 8), (2, 9)
NOW = 1000.0


def test_of_a_batch_only_the_utterance_that_kills_again_is_given_up() -> None:
    suspects = Suspects()
    first = suspects.died(Cause.CRASHED, {ADA: 10, BEN: 20, ZOE: 30}, None, NOW)
    assert (first.utterances, first.muted, first.parties) == ({}, (), {ADA, BEN, ZOE})
    suspects.cleared(ADA)
    second = suspects.died(Cause.CRASHED, {BEN: 20}, None, NOW)
    assert (second.utterances, second.parties) == ({BEN: 20}, {BEN})
    assert suspects.died(Cause.CRASHED, {ADA: 40}, None, NOW).utterances == {}


def test_another_kind_of_death_is_no_repetition() -> None:
    suspects = Suspects()
    assert suspects.died(Cause.HUNG, {ADA: 10}, None, NOW).utterances == {}
    assert suspects.died(Cause.CRASHED, {ADA: 10}, None, NOW).utterances == {}
    assert suspects.died(Cause.HUNG, {ADA: 10}, None, NOW).utterances == {ADA: 10}


def test_suspected_audio_is_tried_alone_and_then_dropped() -> None:
    suspects = Suspects()
    first = suspects.died(Cause.CRASHED, {ADA: 10}, (BEN, 15), NOW)
    assert (first.audio, first.isolate, first.muted) == (None, 15, ())
    second = suspects.died(Cause.CRASHED, {}, (BEN, 15), NOW)
    assert (second.audio, second.isolate) == ((BEN, 15), 0)
    # Whoever was in the engine then is not held responsible.
    assert suspects.died(Cause.CRASHED, {ADA: 30}, None, NOW).muted == ()


def test_a_silent_worker_is_on_the_account_of_its_audio_alone() -> None:
    suspects = Suspects()
    verdict = suspects.died(Cause.SILENT, {ADA: 10}, (ZOE, 15), NOW)
    assert (verdict.parties, verdict.isolate) == ({ZOE}, 15)
    assert suspects.died(Cause.HUNG, {ADA: 10}, (ZOE, 15), NOW).parties == {ADA}
    assert suspects.died(Cause.NOBODY, {ADA: 10}, (ZOE, 15), NOW).parties == frozenset()


def kill(suspects: Suspects, *speakers: tuple[int, int], now: float = NOW) -> list[tuple[tuple[int, int], ...]]:
    """One death of an utterance of each speaker; return who was muted by each."""
    return [suspects.died(Cause.CRASHED, {key: index}, None, now).muted for index, key in enumerate(speakers)]


def test_three_deaths_mute_a_speaker_in_every_server() -> None:
    suspects = Suspects()
    assert kill(suspects, BEN, (2, BEN[1]), BEN) == [(), (), (BEN,)]
    assert suspects.muted(*BEN, NOW) == BEN[1]
    assert suspects.muted(3, BEN[1], NOW) == BEN[1]
    assert suspects.muted(*ADA, NOW) is None


def test_a_new_session_forgives_a_death_only_when_it_is_old() -> None:
    suspects = Suspects()
    kill(suspects, *[BEN] * DEATHS_OF_SPEAKER)
    suspects.session_over(1, NOW + 1)
    assert suspects.muted(*BEN, NOW + FORGIVEN_S - 1) == BEN[1]
    assert suspects.muted(*BEN, NOW + FORGIVEN_S) is None
    assert kill(suspects, BEN, now=NOW + FORGIVEN_S) == [()]


def test_a_death_counts_until_the_session_ends_however_long_it_is() -> None:
    suspects = Suspects()
    kill(suspects, *[BEN] * DEATHS_OF_SPEAKER)
    assert suspects.muted(*BEN, NOW + 8 * FORGIVEN_S) == BEN[1]
    suspects.session_over(1, NOW + 8 * FORGIVEN_S)
    assert suspects.muted(*BEN, NOW + 8 * FORGIVEN_S) is None


def test_sessions_without_end_add_up_to_few_deaths_an_hour() -> None:
    suspects = Suspects(owner_of=lambda _guild_id: 5)
    deaths, now = 0, NOW
    while now < NOW + 3 * FORGIVEN_S:
        guild_id, user_id = 1 + deaths % 4, 100 + deaths
        if suspects.muted(guild_id, user_id, now) is None:
            kill(suspects, (guild_id, user_id), now=now)
            deaths += 1
        suspects.session_over(guild_id, now)
        now += 20.0
    assert deaths == 3 * DEATHS_OF_OWNER


def owner_5_of_the_first_ten(guild_id: int) -> int:
    return 5 if guild_id < 10 else guild_id


def test_one_server_is_muted_when_many_of_its_members_kill_and_no_other_of_its_owner() -> None:
    suspects = Suspects(owner_5_of_the_first_ten)
    muted: list[tuple[tuple[int, int], ...]] = []
    for user in range(100, 150):
        if suspects.muted(1, user, NOW) is None:
            muted += kill(suspects, (1, user))
    assert muted == [()] * (DEATHS_OF_GUILD - 1) + [((1, EVERYBODY),)]
    assert suspects.muted(1, 7, NOW) == EVERYBODY
    assert suspects.muted(2, 7, NOW) is None


def test_all_servers_of_one_owner_are_muted_when_members_of_several_kill() -> None:
    suspects = Suspects(owner_5_of_the_first_ten)
    for user in range(100, 100 + DEATHS_OF_OWNER):
        assert suspects.muted(4, 7, NOW) is None
        muted = kill(suspects, (user % 3, user))
    assert muted == [((123 % 3, EVERYBODY),)]
    assert suspects.muted(1, 7, NOW) == suspects.muted(4, 7, NOW) == EVERYBODY
    assert suspects.muted(12, 7, NOW) is None


def test_a_muted_speaker_is_told_of_once_in_each_session() -> None:
    muted: list[tuple[int, int]] = []
    accounts = Accounts(
        lambda _text: None, lambda *_trouble: None, lambda _part: None, lambda *whom: muted.append(whom)
    )
    for index in range(DEATHS_OF_SPEAKER):
        accounts.started({"speakers": [[*BEN, index]]})
        accounts.after_death(Cause.CRASHED, now=NOW)
    assert accounts.refuses(*BEN, NOW)
    assert muted == [BEN]
    accounts.over(1, NOW)
    assert all(accounts.refuses(*BEN, NOW) for _ in range(3))
    assert not accounts.refuses(*ADA, NOW)
    assert muted == [BEN, BEN]


@pytest.mark.parametrize(
    ("deaths", "spent"),
    [
        ([], 0),
        ([set(), set()], 2),
        ([{(1, 7)}] * 50, 1),
        ([{(1, 7)}, {(1, 8)}], 1),
        ([{(1, 7)}, {(2, 7)}, {(3, 7)}], 1),
        ([{(1, 7)}, {(2, 8)}, {(1, 7), (2, 8), (3, 9)}], 2),
        ([{(1, 7), (2, 8), (3, 9)}], 1),
        ([{(1, 7), (2, 8)}, {(3, 9)}, set(), {(3, 9)}], 3),
    ],
)
def test_one_owner_or_speaker_uses_up_one_of_the_crash_budget(deaths: list[set[Party]], spent: int) -> None:
    assert spent_of(frozenset(each) for each in deaths) == spent


def test_a_draft_excuses_one_death_and_not_the_next() -> None:
    muted: list[tuple[int, int]] = []
    accounts = Accounts(
        lambda _text: None, lambda *_trouble: None, lambda _part: None, lambda *whom: muted.append(whom)
    )
    accounts.started({"speakers": [[*BEN, 10]], "draft": True})
    assert accounts.after_death(Cause.CRASHED, (ZOE, 15), now=NOW).audio is None
    # The next processes die before the engine starts on anything.
    assert accounts.after_death(Cause.CRASHED, (ZOE, 15), now=NOW).isolate == 15
    assert accounts.after_death(Cause.CRASHED, (ZOE, 15), now=NOW).audio == (ZOE, 15)
    assert muted == []


def test_the_rest_from_drafts_grows_with_each_death_of_one() -> None:
    accounts = Accounts(lambda _text: None, lambda *_trouble: None, lambda _part: None, lambda *_whom: None)
    rests = []
    for _ in range(9):
        accounts.started({"speakers": [[*BEN, 10]], "draft": True})
        accounts.after_death(Cause.CRASHED, now=NOW)
        accounts.after_death(Cause.CRASHED, now=NOW)  # of something else
        rests.append(accounts.draft_rest_s(60.0))
    assert rests[:4] == [60.0, 120.0, 240.0, 480.0]
    assert rests[-1] == rests[-2] == 3840.0
