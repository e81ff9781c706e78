"""Every test of the store that takes `url` runs on SQLite and on a real PostgreSQL server, started here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pg_server import Server, servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with servers() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Of a fresh database; None is SQLite in the data folder."""
    if request.param == "sqlite":
        return None
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_database())
