from __future__ import annotations

from pathlib import Path

import pytest

from roost.consent import StoredConsent
from roost.errors import ConfigError
from roost.store import open_store

pytestmark = pytest.mark.unit


async def test_settings_enablement_and_consent_survive_reopening(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.set_setting("stt", 1, "language", {"code": "de"})
        await store.set_setting("stt", None, "language", "en")
        await store.set_setting("stt", 1, "language", {"code": "fr"})
        await store.set_enabled("stt", 1, False)
        await store.set_consent(1, 2, True)
    async with open_store(tmp_path) as store:
        assert await store.get_setting("stt", 1, "language") == {"code": "fr"}
        assert await store.get_setting("stt", None, "language") == "en"
        assert await store.get_setting("stt", 2, "language", "none") == "none"
        assert await store.enablement() == {("stt", 1): False}
        assert await store.consents() == {(1, 2): True}


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


async def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "roost.sqlite3").write_bytes(b"this is not a database, however long one looks at it" * 40)
    with pytest.raises(ConfigError, match=r"store.url: cannot open the database"):
        async with open_store(tmp_path):
            raise AssertionError("it opened")
