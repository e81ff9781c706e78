"""Consent over a real store that is slow, locked or fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from table_locks import locked

from roost import consent as consent_module
from roost.consent import (
    AGREE_ID,
    REFUSE_ID,
    USUAL,
    Mode,
    StoredConsent,
    Terms,
    agree_id,
    agreed_terms,
    digest,
    open_consent,
)
from roost.errors import ResourceError, StoreCause, StoreError
from roost.store import Store, database, open_store
from roost.store.decisions import Key
from roost.store.withdrawals import open_withdrawals
from roost.strays import host_task

pytestmark = pytest.mark.unit

SOON_S = 1.0


@asynccontextmanager
async def opened(
    folder: Path, url: str | None = None, mode: Mode = "opt-in"
) -> AsyncIterator[tuple[StoredConsent, Store]]:
    async with open_store(folder, url) as store, open_consent(store, mode, folder) as consent:
        yield consent, store


async def on_disk(folder: Path, url: str | None = None) -> dict[Key, str | bool]:
    async with open_store(folder, url) as store:
        return await store.consents()


def in_file(folder: Path) -> dict[Key, bool | None]:
    """What a start would find in the local file now."""
    file = open_withdrawals(folder)
    try:
        return {record.key: record.word for record in file.records()}
    finally:
        file.close()


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.005)


async def test_nobody_is_heard_before_they_agree(tmp_path: Path) -> None:
    async with opened(tmp_path) as (consent, _):
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
    async with opened(tmp_path, mode="notice") as (consent, _):
        assert consent.allows(1, 3)


async def test_a_refusal_counts_before_it_is_stored(tmp_path: Path) -> None:
    async with opened(tmp_path, mode="notice") as (consent, _):
        heard: list[bool] = []
        consent.subscribe(lambda guild, user: heard.append(consent.allows(guild, user)))
        await consent.opt_out(1, 2)
        assert heard == [False]


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), None])
async def test_subscriber_that_raises_or_cancels_its_caller_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException | None
) -> None:
    asyncio.get_running_loop().set_task_factory(host_task)

    def raises(_guild: int, _user: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if error is not None:
            raise error
        task.cancel()

    async with opened(tmp_path, mode="notice") as (consent, _):
        heard: list[bool] = []
        consent.subscribe(raises)
        consent.subscribe(lambda guild, user: heard.append(consent.allows(guild, user)))
        await asyncio.create_task(consent.opt_out(1, 2))
        assert heard == [False]
        assert "a change of consent was not taken up" in caplog.text
    assert await on_disk(tmp_path) == {(1, 2): False}


@pytest.mark.parametrize("words", [(True, False), (False, True), (True, False, True, False), (False, True, False)])
@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.02])
async def test_last_of_several_decisions_counts_in_memory_and_on_disk(
    tmp_path: Path, words: tuple[bool, ...], pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (consent, store):
        write = store.set_consents

        async def slow(decisions: Any, stamp: Any) -> None:
            await asyncio.sleep(0.01)
            await write(decisions, stamp)
            await asyncio.sleep(0.01)

        monkeypatch.setattr(store, "set_consents", slow)
        said = []
        for word in words:
            said.append(asyncio.ensure_future(consent.agree(1, 2) if word else consent.opt_out(1, 2)))
            await asyncio.sleep(pause_s)
        await asyncio.gather(*said)
        assert consent.decision(1, 2) is words[-1]
    assert await on_disk(tmp_path) == {(1, 2): "" if words[-1] else False}
    assert in_file(tmp_path) == {}


async def test_refusal_is_kept_while_the_store_is_locked_and_written_when_it_is_free(
    tmp_path: Path, url: str | None
) -> None:
    async with opened(tmp_path, url) as (consent, _):
        await consent.agree(1, 2)
        async with locked(tmp_path, url, "roost_consent"):
            began = time.monotonic()
            await consent.opt_out(1, 2)
            assert time.monotonic() - began < SOON_S
            assert in_file(tmp_path) == {(1, 2): False}
        await until(lambda: in_file(tmp_path) == {})
        assert not consent.allows(1, 2)
    assert await on_disk(tmp_path, url) == {(1, 2): False}


async def test_next_start_finds_a_refusal_that_the_store_never_got(
    tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    async with AsyncExitStack() as stack:
        consent, store = await stack.enter_async_context(opened(tmp_path, url))
        await consent.agree(1, 2)
        await consent.agree(1, 3)

        async def away(_decisions: Any, _stamp: Any) -> None:
            raise StoreError("away")

        monkeypatch.setattr(store, "set_consents", away)
        await consent.opt_out(1, 2)
    assert await on_disk(tmp_path, url) == {(1, 2): "", (1, 3): ""}
    async with opened(tmp_path, url) as (consent, _):
        assert not consent.allows(1, 2), "before the store has it"
        assert consent.allows(1, 3)
        await until(lambda: in_file(tmp_path) == {})
    assert await on_disk(tmp_path, url) == {(1, 2): False, (1, 3): ""}


async def test_agreement_that_cannot_be_stored_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    async with opened(tmp_path) as (consent, _):
        await consent.opt_out(1, 2)
        await until(lambda: not consent.unstored)
        async with locked(tmp_path, None, "roost_consent"):
            for user in (2, 3):
                with pytest.raises(StoreError) as caught:
                    await consent.agree(1, user)
                assert caught.value.cause is StoreCause.BUSY
                assert not consent.allows(1, user)
    assert await on_disk(tmp_path) == {(1, 2): False}


@pytest.mark.parametrize("committed", [True, False])
async def test_agreement_whose_commit_failed_is_withdrawn(
    tmp_path: Path, url: str | None, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, url) as (consent, store):
        write, fail = store.set_consents, [True]

        async def commit(decisions: Any, stamp: Any) -> None:
            if not fail:
                return await write(decisions, stamp)
            fail.clear()
            if committed:
                await write(decisions, stamp)
            error = StoreError("the connection was lost")
            error.perhaps_done = True
            raise error

        monkeypatch.setattr(store, "set_consents", commit)
        with pytest.raises(StoreError):
            await consent.agree(1, 2)
        assert not consent.allows(1, 2)
        assert in_file(tmp_path) == {(1, 2): None}, "a start now would not believe the store"
        await until(lambda: in_file(tmp_path) == {})
    assert await on_disk(tmp_path, url) == {}


async def test_agreement_does_not_wait_for_the_store_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent_module, "STORED_S", 0.1)
    async with opened(tmp_path) as (consent, store):
        write, free = store.set_consents, asyncio.Event()

        async def hang(decisions: Any, stamp: Any) -> None:
            await free.wait()
            await write(decisions, stamp)

        monkeypatch.setattr(store, "set_consents", hang)
        with pytest.raises(ResourceError):
            await consent.agree(1, 2)
        assert in_file(tmp_path) == {(1, 2): None}
        free.set()
        await until(lambda: in_file(tmp_path) == {})
        assert not consent.allows(1, 2)
    assert await on_disk(tmp_path) == {}


async def test_refusal_that_nothing_takes_counts_and_is_said_to_be_at_risk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent_module, "STORED_S", 0.2)
    monkeypatch.setattr(consent_module, "VOIDED_S", 0.1)
    async with opened(tmp_path, mode="notice") as (consent, _):
        (tmp_path / "withdrawals.bin").rename(tmp_path / "away")
        async with locked(tmp_path, None, "roost_consent"):
            with pytest.raises(ResourceError):
                await consent.opt_out(1, 2)
            assert not consent.allows(1, 2)
            assert "was removed or replaced" in consent.trouble()
        await until(lambda: not consent.unstored)
    assert await on_disk(tmp_path) == {(1, 2): False}


async def test_decisions_that_come_together_share_transactions(tmp_path: Path, url: str | None) -> None:
    async with opened(tmp_path, url) as (consent, store):
        sizes: list[int] = []
        write = store.set_consents

        async def counted(decisions: Any, stamp: Any) -> None:
            sizes.append(len(decisions))
            await write(decisions, stamp)

        store.set_consents = counted  # type: ignore[method-assign]
        await asyncio.gather(*(consent.agree(1, user) for user in range(300)))
        await asyncio.gather(*(consent.opt_out(1, user) for user in range(300)))
        await until(lambda: not consent.unstored)
        assert sum(sizes) == 600
        assert len(sizes) <= 4, sizes
    assert await on_disk(tmp_path, url) == {(1, user): False for user in range(300)}


@pytest.mark.parametrize("mode", ["opt-in", "notice"])
async def test_forgetting_while_the_store_is_away_counts_after_the_next_start(
    tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    async with AsyncExitStack() as stack:
        consent, store = await stack.enter_async_context(opened(tmp_path, mode=mode))
        await consent.agree(1, 2)
        await consent.opt_out(3, 2)

        async def away(_decisions: Any, _stamp: Any) -> None:
            raise StoreError("away")

        monkeypatch.setattr(store, "set_consents", away)
        with pytest.raises(StoreError):
            await consent.forget(2)
        assert consent.decisions_of(2) == ({} if mode == "opt-in" else {"3": "refused"})
    async with opened(tmp_path, mode=mode) as (consent, _):
        assert consent.decision(1, 2) is None
        assert consent.decisions_of(2) == ({} if mode == "opt-in" else {"3": "refused"})
        assert await consent.forget(2) == (() if mode == "opt-in" else (3,))
    assert await on_disk(tmp_path) == ({} if mode == "opt-in" else {(3, 2): False})
    assert in_file(tmp_path) == {}


async def test_start_that_may_have_lost_refusals_asks_everybody_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, mode="notice") as (consent, _):
        await consent.agree(1, 2)
        await consent.opt_out(1, 3)
    with (tmp_path / "withdrawals.bin").open("r+b") as file:
        file.write(b"x")
    async with opened(tmp_path, mode="notice") as (consent, _):
        assert "stop the bot and delete the file" in caplog.text
        assert consent.mode(1) == "opt-in"
        assert [consent.allows(1, user) for user in (2, 3, 4)] == [False, False, False]
        await consent.agree(1, 4)
        assert consent.allows(1, 4)


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
    async with opened(tmp_path) as (consent, _):
        assert consent.agreed_to(1, 2) is None
        await consent.agree(1, 2, WIDE)
        await consent.agree(1, 2, USUAL)
        await consent.agree(3, 2)
        assert consent.terms_of(2)["1"]["kept_days"] == 30
    async with opened(tmp_path) as (consent, store):
        assert consent.agreed_to(1, 2) == WIDE, "an agreement to less takes none to more back"
        assert consent.agreed_to(3, 2) == USUAL
        await consent.opt_out(1, 2)
        assert consent.agreed_to(1, 2) is None
        await consent.agree(1, 2)
        assert consent.agreed_to(1, 2) == USUAL
        await consent.agree(1, 2, WIDE)
        await consent.forget(2)
        assert await store.consents() == {}
