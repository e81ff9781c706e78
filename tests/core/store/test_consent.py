from __future__ import annotations

from pathlib import Path

import pytest

from roost.consent import AGREE_ID, REFUSE_ID, USUAL, StoredConsent, Terms, agree_id, agreed_terms, digest
from roost.store import open_store

pytestmark = pytest.mark.unit


async def test_nobody_is_heard_before_they_agree(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        consent = await StoredConsent.load(store, "opt-in")
        changes: list[tuple[int, int]] = []
        unsubscribe = consent.subscribe(lambda guild, user: changes.append((guild, user)))
        assert not consent.allows(1, 2)
        await consent.agree(1, 2)
        assert consent.allows(1, 2)
        assert not consent.allows(9, 2), "an agreement counts in its own guild alone"
        await consent.opt_out(1, 2)
        assert not consent.allows(1, 2)
        unsubscribe()
        await consent.agree(1, 2)
        assert changes == [(1, 2), (1, 2)]
        assert (await StoredConsent.load(store, "notice")).allows(1, 3)


async def test_a_refusal_counts_before_it_is_stored(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        consent = await StoredConsent.load(store, "notice")
        heard: list[bool] = []
        consent.subscribe(lambda guild, user: heard.append(consent.allows(guild, user)))
        await consent.opt_out(1, 2)
        assert heard == [False]


WIDE = Terms(30, digest(["speech.example.com"]), digest(["5"]))


@pytest.mark.parametrize(
    ("agreed", "needed", "covered"),
    [
        (USUAL, USUAL, True),
        (USUAL, Terms(0), True),
        (USUAL, Terms(8), False),
        (USUAL, Terms(services=digest(["a"])), False),
        (USUAL, Terms(places=digest(["5"])), False),
        (WIDE, USUAL, True),
        (WIDE, WIDE, True),
        (WIDE, Terms(30, digest(["speech.example.com", "other.example.com"])), False),
        (WIDE, Terms(30, "", digest(["6"])), False),
        (Terms(30), Terms(31), False),
    ],
)
def test_an_agreement_covers_what_is_no_wider(agreed: Terms, needed: Terms, covered: bool) -> None:
    assert agreed.covers(needed) is covered


def test_a_button_agrees_to_the_terms_of_its_notice() -> None:
    assert agreed_terms(agree_id(WIDE)) == WIDE
    assert len(agree_id(Terms(3650, digest("a"), digest("b")))) <= 100, "Discord takes no longer custom_id"
    assert agreed_terms(AGREE_ID) == agreed_terms(f"{AGREE_ID}:nonsense") == USUAL
    assert agreed_terms(REFUSE_ID) is None
    assert agreed_terms("roost:consent:agreement") is None


async def test_the_terms_of_an_agreement_last_until_a_refusal(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        consent = await StoredConsent.load(store, "opt-in")
        assert consent.agreed_to(1, 2) is None
        await consent.agree(1, 2, WIDE)
        await consent.agree(1, 2, USUAL)
        await consent.agree(3, 2)
        assert consent.terms_of(2)["1"]["kept_days"] == 30
    async with open_store(tmp_path) as store:
        consent = await StoredConsent.load(store, "opt-in")
        assert consent.agreed_to(1, 2) == WIDE, "an agreement to less takes none to more back"
        assert consent.agreed_to(3, 2) == USUAL
        await consent.opt_out(1, 2)
        assert consent.agreed_to(1, 2) is None
        await consent.agree(1, 2)
        assert consent.agreed_to(1, 2) == USUAL
        await consent.agree(1, 2, WIDE)
        await consent.forget(2)
        assert await store.consent_terms() == {}
