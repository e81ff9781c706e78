from __future__ import annotations

from pathlib import Path

import pytest

from roost.consent import StoredConsent
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
