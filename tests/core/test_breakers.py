"""How many failures of a plugin in which place are too many."""

from __future__ import annotations

import pytest

from roost.plugins.quarantine import MOST_PLACES, MOST_RETRY_S, Breakers, Limits, Standing, Verdict

pytestmark = pytest.mark.unit

GUILD = 100


def breakers(owners: dict[int, int] | None = None, *, least: int = 3) -> Breakers:
    return Breakers(Limits(3, 60.0, 300.0, least), (owners or {}).get)


def fail(made: Breakers, place: int | None, now: float = 0.0, times: int = 3) -> Verdict:
    verdict = Verdict.COUNTED
    for _ in range(times):
        verdict = made.add("bad", place, now)
    return verdict


def test_too_many_failures_in_one_guild_pause_the_plugin_there_alone() -> None:
    made = breakers()
    assert fail(made, GUILD, times=2) is Verdict.COUNTED
    assert fail(made, GUILD + 1, times=2) is Verdict.COUNTED
    assert made.add("bad", GUILD, 1.0) is Verdict.PAUSE
    assert made.standing("bad", GUILD) is Standing.OPEN
    assert made.standing("bad", GUILD + 1) is Standing.CLOSED
    assert made.standing("good", GUILD) is Standing.CLOSED
    assert fail(made, GUILD, 2.0, times=9) is Verdict.COUNTED  # what was under way


def test_failures_without_a_place_quarantine_the_plugin() -> None:
    assert fail(breakers(), None) is Verdict.QUARANTINE


def test_old_failures_do_not_count() -> None:
    made = breakers()
    assert [made.add("bad", GUILD, now) for now in (0.0, 40.0, 80.0, 120.0)] == [Verdict.COUNTED] * 4
    assert made.add("bad", GUILD, 139.0) is Verdict.PAUSE


def test_after_a_pause_one_failure_opens_again_for_twice_as_long() -> None:
    made = breakers()
    fail(made, GUILD)
    assert made.retry_s("bad", GUILD) == 300.0
    made.half_open("bad", GUILD, 300.0)
    assert made.standing("bad", GUILD) is Standing.HALF_OPEN
    assert made.add("bad", GUILD, 310.0) is Verdict.PAUSE
    assert made.retry_s("bad", GUILD) == 600.0
    made.half_open("bad", GUILD, 910.0)
    # A window without a failure has closed it.
    assert made.add("bad", GUILD, 971.0) is Verdict.COUNTED
    assert made.standing("bad", GUILD) is Standing.CLOSED
    assert fail(made, GUILD, 972.0, times=2) is Verdict.PAUSE
    assert made.retry_s("bad", GUILD) == 300.0


def test_pauses_do_not_grow_for_ever() -> None:
    made = breakers()
    fail(made, GUILD)
    for number in range(60):
        made.half_open("bad", GUILD, number)
        made.add("bad", GUILD, number)
    assert made.retry_s("bad", GUILD) == MOST_RETRY_S


def test_one_owner_of_sixty_guilds_reaches_nobody_else() -> None:
    owners = {GUILD + number: 1 for number in range(60)} | {900: 2, 901: 3, 902: 4}
    made = breakers(owners)
    for place in owners:
        made.note("bad", place, 0.0)
    assert {fail(made, GUILD + number) for number in range(60)} == {Verdict.PAUSE}


def test_failures_for_most_owners_quarantine_the_plugin() -> None:
    owners = {GUILD + number: number for number in range(7)}
    made = breakers(owners)
    for place in owners:
        made.note("bad", place, 0.0)
    assert [fail(made, place) for place in list(owners)[:4]] == [*[Verdict.PAUSE] * 3, Verdict.QUARANTINE]


def test_guilds_that_were_active_long_ago_do_not_count() -> None:
    owners = {GUILD + number: number for number in range(20)}
    made = breakers(owners)
    for place in owners:
        made.note("bad", place, 0.0)
    verdicts = [fail(made, place, 5000.0) for place in list(owners)[:3]]
    assert verdicts == [Verdict.PAUSE, Verdict.PAUSE, Verdict.QUARANTINE]


def test_people_in_direct_messages_never_quarantine_a_plugin() -> None:
    made = breakers({}, least=1)
    for person in range(1, 50):
        made.note("bad", -person, 0.0)
        assert fail(made, -person) is Verdict.PAUSE


def test_what_is_kept_is_bounded() -> None:
    made = breakers()
    for place in range(1, MOST_PLACES + 500):
        made.note("bad", place, 0.0)
        made.add("bad", place, 0.0)
        if place % 8 == 0:
            made.add("bad", place, 0.0, at_once=True)
    assert MOST_PLACES < made.size() <= 2 * MOST_PLACES + 600
    made.forget("bad")
    assert made.size() == 0
