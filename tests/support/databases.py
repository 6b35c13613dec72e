"""Fixtures: a migrated database, fresh for each test, on SQLite and on PostgreSQL.

`database` runs a test twice, once on each; `sqlite_database` is for rooms that only need a store.
Migrating takes a moment, so it is done once: a SQLite test gets a copy of the file, a PostgreSQL
test gets the same database, emptied (ten times as fast as a new one).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.postgres import PostgresServer, running_postgres
from tramontane.store.db import Database
from tramontane.store.migrations.schema import metadata

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_shared_url(postgres_server: PostgresServer) -> str:
    """The URL of a migrated database that each test empties before it begins."""
    postgres_server.create("shared")
    migrate(postgres_server.url("shared"))
    return postgres_server.url("shared")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy."""
    path = tmp_path_factory.mktemp("template") / "tramontane.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a fresh migrated SQLite database."""
    path = tmp_path / "tramontane.sqlite"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh migrated database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    url: str = request.getfixturevalue("postgres_shared_url")
    _empty(url)
    return url


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh migrated database, on SQLite and on PostgreSQL."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    """A fresh migrated SQLite database."""
    database = Database(sqlite_url)
    yield database
    database.close()


def migrate(url: str) -> None:
    """Bring the database at ``url`` to the newest tables."""
    database = Database(url)
    try:
        database.migrate()
    finally:
        database.close()


def _empty(url: str) -> None:
    """Delete every row; fail when a test before left a transaction open."""
    with psycopg.connect(url, options="-c lock_timeout=5000") as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(f'DELETE FROM "{table.name}"')
