"""A database that lacks refusals which were made with the data folder: nobody who refused is heard again."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from pg_server import Server
from sqlalchemy.engine import make_url
from test_consent import in_file, on_disk, opened, until

from roost import consent as consent_module
from roost import store as store_module
from roost.consent import Mode, StoredConsent, open_consent
from roost.errors import StoreError
from roost.store import open_store
from roost.store.database import FILE_NAME, open_database
from roost.store.decisions import Key, Record, Stamp
from roost.store.withdrawals import FORMER_BYTES, NAME, SLOT_BYTES, WithdrawalFile, encode, open_withdrawals

pytestmark = pytest.mark.unit

ADA, BEN, CLEO, DAN = (1, 2), (1, 3), (1, 4), (1, 5)
ANEW = "are asked anew"

Copy = Callable[[str | None], str]


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Copy:
    """Copies a database, as a backup does, and returns the URL of the copy."""

    def copied(url: str | None) -> str:
        if url is None:
            return f"sqlite:///{shutil.copy(tmp_path / FILE_NAME, tmp_path / 'copy.sqlite3')}"
        server: Server = request.getfixturevalue("postgres")
        name = f"{make_url(url).database}_copy"
        server.sql(f"CREATE DATABASE {name} TEMPLATE {make_url(url).database}")
        return server.url(name)

    return copied


async def decided(consent: StoredConsent, **words: bool) -> None:
    keys = {"ada": ADA, "ben": BEN, "cleo": CLEO, "dan": DAN}
    for name, word in words.items():
        await (consent.agree if word else consent.opt_out)(*keys[name])
    await until(lambda: not consent.unstored)


def held(consent: StoredConsent) -> dict[Key, bool | None]:
    return {key: consent.decision(*key) for key in (ADA, BEN, CLEO, DAN)}


@pytest.mark.parametrize("how", ["refuses", "is forgotten"])
async def test_restored_copy_has_refusals_alone_and_members_are_asked_once(
    tmp_path: Path, url: str | None, copy: Copy, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, url) as (consent, _):
        await decided(consent, ada=True, ben=True, cleo=False)
    older = copy(url)
    async with opened(tmp_path, url) as (consent, _):
        await (consent.forget(ADA[1]) if how == "is forgotten" else consent.opt_out(*ADA))
        await until(lambda: not consent.unstored)
    assert ANEW not in caplog.text
    async with opened(tmp_path, older) as (consent, _):
        assert f"lacks refusals that were made with the data folder {tmp_path}" in caplog.text
        assert held(consent) == {ADA: None, BEN: None, CLEO: False, DAN: None}
        await decided(consent, ben=True)
    caplog.clear()
    async with opened(tmp_path, older) as (consent, _):
        assert held(consent) == {ADA: None, BEN: True, CLEO: False, DAN: None}
    assert ANEW not in caplog.text


async def test_refusal_that_another_database_took_is_missing_in_the_first(
    tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, url) as (consent, store):
        await decided(consent, ada=True, ben=True)

        async def away(_decisions: object, _stamp: object) -> None:
            raise StoreError("away")

        monkeypatch.setattr(store, "set_consents", away)
        await consent.opt_out(*ADA)
    assert in_file(tmp_path) == {ADA: False}
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'other.sqlite3'}") as (consent, _):
        await until(lambda: not consent.unstored)
    assert in_file(tmp_path) == {}
    async with opened(tmp_path, url) as (consent, _):
        assert held(consent) == {ADA: None, BEN: None, CLEO: None, DAN: None}
    assert await on_disk(tmp_path, url) == {}


@pytest.mark.parametrize("away", [False, True])
async def test_user_who_was_forgotten_in_one_copy_does_not_count_as_agreed_in_another(
    tmp_path: Path, copy: Copy, away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent_module, "DRAINED_S", 0.1)
    async with opened(tmp_path) as (consent, _):
        await decided(consent, cleo=False)
    other = copy(None)
    async with opened(tmp_path) as (consent, _):
        await decided(consent, ada=True, ben=True)
    async with opened(tmp_path, other) as (consent, store):

        async def fails(_decisions: object, _stamp: object) -> None:
            raise StoreError("away")

        if away:
            monkeypatch.setattr(store, "set_consents", fails)
        with pytest.raises(StoreError) if away else contextlib.nullcontext():
            await consent.forget(ADA[1])
    async with opened(tmp_path) as (consent, _):
        # While the forgetting is in the local file alone, nobody else has to be asked anew.
        assert held(consent) == {ADA: None, BEN: True if away else None, CLEO: False, DAN: None}
    assert await on_disk(tmp_path) == ({BEN: "", CLEO: False} if away else {CLEO: False})


async def test_newer_database_that_is_put_back_is_still_good(tmp_path: Path, copy: Copy) -> None:
    async with opened(tmp_path) as (consent, _):
        await decided(consent, ada=True, ben=True)
    older = copy(None)
    async with opened(tmp_path) as (consent, _):
        await decided(consent, ada=False)
    for url in (older, None):
        async with opened(tmp_path, url) as (consent, _):
            assert consent.decision(*BEN) == (None if url else True)
    async with opened(tmp_path, older) as (consent, _):
        await decided(consent, dan=False)
    async with opened(tmp_path) as (consent, _):
        assert held(consent) == {ADA: False, BEN: None, CLEO: None, DAN: None}


async def test_copy_that_lacks_agreements_alone_is_good(tmp_path: Path, copy: Copy) -> None:
    async with opened(tmp_path) as (consent, _):
        await decided(consent, ada=True, cleo=False)
    older = copy(None)
    async with opened(tmp_path) as (consent, _):
        await decided(consent, ben=True)
    async with opened(tmp_path, older) as (consent, _):
        assert held(consent) == {ADA: True, BEN: None, CLEO: False, DAN: None}


async def test_new_folder_trusts_the_database(tmp_path: Path, url: str | None) -> None:
    database = url or f"sqlite:///{tmp_path / FILE_NAME}"
    async with opened(tmp_path, database) as (consent, _):
        await decided(consent, ada=True, ben=False)
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        for _ in range(2):
            async with opened(folder, database) as (consent, _store):
                assert held(consent)[ADA] is True
                await decided(consent, cleo=False)
    async with opened(tmp_path, database) as (consent, _):
        assert held(consent) == {ADA: True, BEN: False, CLEO: False, DAN: None}


async def test_folder_that_knows_one_database_does_not_trust_another(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = f"sqlite:///{elsewhere / FILE_NAME}"
    for folder, url in ((tmp_path, None), (elsewhere, other)):
        async with opened(folder, url) as (consent, _):
            await decided(consent, ada=True, ben=False)
    async with opened(tmp_path, other) as (consent, _):
        assert held(consent) == {ADA: None, BEN: False, CLEO: None, DAN: None}


@pytest.mark.parametrize("with_record", [False, True])
async def test_existing_installation_asks_nobody_anew(
    tmp_path: Path, url: str | None, with_record: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, url) as (consent, _):
        await decided(consent, ada=True, ben=True, cleo=False)
    async with open_database(tmp_path, url) as database, database.write() as connection:
        await connection.execute(sa.text("DROP TABLE roost_folders"))
    record = encode(Record(9, BEN, False)) if with_record else b""
    (tmp_path / NAME).write_bytes((bytes(SLOT_BYTES) + record).ljust(FORMER_BYTES, b"\0"))
    for _ in range(2):
        async with opened(tmp_path, url) as (consent, _):
            assert held(consent) == {ADA: True, BEN: not with_record, CLEO: False, DAN: None}
            await until(lambda: not consent.unstored)
    assert ANEW not in caplog.text


async def test_older_copy_in_mode_notice_hears_nobody_before_they_agree_until_the_operator_says_so(
    tmp_path: Path, copy: Copy, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, mode="notice") as (consent, _):
        await decided(consent, ada=True)
    older = copy(None)
    async with opened(tmp_path, mode="notice") as (consent, _):
        await decided(consent, ben=False)
    for _ in range(2):
        async with opened(tmp_path, older, mode="notice") as (consent, _):
            assert consent.mode(1) == "opt-in"
            assert not any(consent.allows(*key) for key in (BEN, CLEO, DAN))
            await decided(consent, ada=True)
        assert "stop the bot and delete the file" in caplog.text
    async with opened(tmp_path, mode="notice") as (consent, _):
        assert consent.mode(1) == "notice", "the newer database is put back"
    (tmp_path / NAME).unlink()
    async with opened(tmp_path, older, mode="notice") as (consent, _):
        assert consent.mode(1) == "notice"


@pytest.mark.parametrize("mode", ["opt-in", "notice"])
async def test_refusal_that_is_forgotten_stays_while_the_mode_only_counts_as_opt_in(tmp_path: Path, mode: Mode) -> None:
    async with open_store(tmp_path) as store:
        file = open_withdrawals(tmp_path)
        file.remember(Stamp(file.stamp.folder, 5))
        file.close()
        async with open_consent(store, mode, tmp_path) as consent:
            await consent.opt_out(*ADA)
            assert await consent.forget(ADA[1]) == (() if mode == "opt-in" else (1,))


async def test_stop_before_the_folder_remembers_the_last_refusal_asks_nobody_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as (consent, _):
        await decided(consent, ada=True, cleo=False)
    with monkeypatch.context() as patch:

        def full(_file: WithdrawalFile, _stamp: Stamp) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(WithdrawalFile, "remember", full)
        async with opened(tmp_path) as (consent, _):
            await decided(consent, ben=False)
        assert "cannot note what the database has" in caplog.text
    async with opened(tmp_path) as (consent, _):
        assert held(consent) == {ADA: True, BEN: False, CLEO: False, DAN: None}
    assert ANEW not in caplog.text


@pytest.mark.parametrize("damage", ["zeros", "a byte of each stamp", "one stamp"])
async def test_file_without_its_stamp_is_damaged_and_mended(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as (consent, _):
        await decided(consent, ada=True, ben=True, cleo=False)
    content = bytearray((tmp_path / NAME).read_bytes())
    if damage == "zeros":
        content = bytearray(len(content))
    content[SLOT_BYTES + 9] ^= 1
    if damage == "a byte of each stamp":
        content[SLOT_BYTES * 2 + 9] ^= 1
    (tmp_path / NAME).write_bytes(content)
    lost = damage != "one stamp"
    async with opened(tmp_path) as (consent, _):
        assert held(consent) == {ADA: None if lost else True, BEN: None if lost else True, CLEO: False, DAN: None}
        assert (ANEW in caplog.text) is lost
        await decided(consent, ben=True)
    caplog.clear()
    async with opened(tmp_path) as (consent, _):
        assert held(consent)[BEN] is True
    assert caplog.text == ""


async def test_oldest_folders_are_forgotten(tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MOST_FOLDERS", 2)
    async with open_store(tmp_path, url) as store:
        for number in range(4):
            await store.note_folder(Stamp(f"{number:032x}", 7))
        assert [(await store.seen(f"{number:032x}")).number for number in range(4)] == [0, 0, 7, 7]
