"""Why the database failed: busy, or not to be used before somebody acts."""

from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy as sa

from roost.errors import ResourceError, StoreCause, StoreError
from roost.store.database import translated

pytestmark = pytest.mark.unit


def of_sqlite(code: int) -> Exception:
    cause = sqlite3.OperationalError("said so")
    cause.sqlite_errorcode = code
    return sa.exc.OperationalError("INSERT", {}, cause)


def of_postgresql(state: str) -> Exception:
    asyncpg = pytest.importorskip("asyncpg")
    cause = asyncpg.PostgresError("said so")
    cause.sqlstate = state
    return sa.exc.DBAPIError("INSERT", {}, cause)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (sqlite3.SQLITE_BUSY, StoreCause.BUSY),
        (sqlite3.SQLITE_LOCKED, StoreCause.BUSY),
        (sqlite3.SQLITE_FULL, StoreCause.UNUSABLE),
        (sqlite3.SQLITE_IOERR_WRITE, StoreCause.UNUSABLE),
        (sqlite3.SQLITE_READONLY, StoreCause.UNUSABLE),
        (sqlite3.SQLITE_CORRUPT, StoreCause.UNUSABLE),
    ],
)
def test_result_code_of_sqlite_is_a_cause(code: int, cause: StoreCause) -> None:
    with pytest.raises(StoreError) as caught, translated():
        raise of_sqlite(code)
    assert caught.value.cause is cause


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("53100", StoreCause.UNUSABLE),
        ("58030", StoreCause.UNUSABLE),
        ("XX001", StoreCause.UNUSABLE),
        ("25006", StoreCause.UNUSABLE),
        ("28P01", StoreCause.UNUSABLE),
        ("42501", StoreCause.UNUSABLE),
        ("42P01", StoreCause.UNUSABLE),
        ("3D000", StoreCause.GONE),
        ("53300", StoreCause.BUSY),
        ("57P01", StoreCause.BUSY),
        ("40P01", StoreCause.BUSY),
        ("55P03", StoreCause.BUSY),
    ],
)
def test_state_of_postgresql_is_a_cause(state: str, cause: StoreCause) -> None:
    with pytest.raises(StoreError) as caught, translated():
        raise of_postgresql(state)
    assert caught.value.cause is cause


def test_what_was_asked_wrongly_is_no_failure_of_the_database() -> None:
    with pytest.raises(ResourceError) as caught, translated():
        raise of_postgresql("23505")
    assert not isinstance(caught.value, StoreError)
