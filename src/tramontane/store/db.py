"""The database and its one concurrency model: consistent reads, short guarded writes.

SQLite: WAL, writes begin IMMEDIATE. PostgreSQL: writes are SERIALIZABLE and run again when the
database says that they crossed another one; reads are REPEATABLE READ, READ ONLY, one snapshot
that never has to be run again. No outside call belongs inside a transaction.
"""

import os
import random
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, CursorResult, Engine, Executable, Row, Select, Table, event
from sqlalchemy import create_engine as sqlalchemy_engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, Pool, QueuePool

from tramontane.store.errors import (
    NameTakenError,
    NewerSchemaError,
    StaleError,
    StoreUnavailableError,
    UnreadableValueError,
)
from tramontane.store.migrations import revisions

__all__ = [
    "AnyRow",
    "Database",
    "NameTakenError",
    "NewerSchemaError",
    "StaleError",
    "StoreUnavailableError",
    "Transaction",
    "UnreadableValueError",
]

T = TypeVar("T")

AnyRow = Row[*tuple[Any, ...]]  # its columns are known by name, not by type

# A write transaction takes milliseconds; who waits longer than this met a stuck process.
BUSY_TIMEOUT_MS: Final = 10_000
# Six processes that did nothing but write one row needed at most a dozen attempts for a write.
WRITE_ATTEMPTS_MAX: Final = 40
BACKOFF_FIRST_S: Final = 0.002  # about one write transaction
BACKOFF_MAX_S: Final = 0.25
# Idle connections cost memory on both sides (about 2 MB in SQLite's cache, 5 MB in a PostgreSQL
# backend), so only two are kept; the rest come and go with the load.
CONNECTIONS_KEPT: Final = 2
CONNECTIONS_MAX: Final = 10
CONNECTION_WAIT_S: Final = 10
CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_MS: Final = 30_000

# Primary result codes, https://www.sqlite.org/rescode.html
_SQLITE_BUSY: Final = frozenset({5, 6})  # BUSY LOCKED
# PERM NOMEM READONLY IOERR CORRUPT FULL CANTOPEN PROTOCOL NOTADB
_SQLITE_UNAVAILABLE: Final = frozenset({3, 7, 8, 10, 11, 13, 14, 15, 26})
# SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_CROSSED: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
# Classes: connection, authorization, no such database, resources, intervention, system; and the
# codes read-only server and lock timeout.
_POSTGRESQL_UNAVAILABLE: Final = ("08", "28", "3D", "53", "57", "58", "25006", "55P03")


@dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction; every store function takes it first. It ends with its block."""

    connection: Connection

    def execute(self, statement: Executable, rows: Any = None) -> CursorResult[*tuple[Any, ...]]:
        """Run ``statement``, once for each of ``rows`` if given."""
        return self.connection.execute(statement, rows)

    def scalar(self, query: Select[*tuple[Any, ...]]) -> Any:
        """Return the first column of the first row, or None."""
        return self.connection.execute(query).scalar()

    def insert(self, table: Table) -> "sqlite.Insert | postgresql.Insert":
        """Return an INSERT of this database's dialect, which can say ON CONFLICT."""
        return postgresql.insert(table) if self.is_postgresql else sqlite.insert(table)

    @property
    def is_postgresql(self) -> bool:
        """Tell whether rows and tables can be locked one by one."""
        return self.connection.dialect.name == "postgresql"


class Database:
    """A database by its URL: ``sqlite:///FILE`` or ``postgresql://…``.

    Opening connects to nothing; a wrong URL is a `ValueError`. All methods may be called from
    several threads. Every method but `close` raises `StoreUnavailableError` when the database is
    down, full, damaged or locked beyond the limits above.
    """

    def __init__(self, url: str) -> None:
        self._url = _checked_url(url)
        engine = _engine(
            self._url,
            QueuePool,
            pool_size=CONNECTIONS_KEPT,
            max_overflow=CONNECTIONS_MAX - CONNECTIONS_KEPT,
            pool_timeout=CONNECTION_WAIT_S,
            pool_use_lifo=True,
            pool_pre_ping=self._url.get_backend_name() == "postgresql",
        )
        self._engine = engine
        if engine.dialect.name == "postgresql":
            self._reading = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self._writing = engine.execution_options(isolation_level="SERIALIZABLE")
        else:
            self._reading = engine.execution_options(sqlite_begin=_SQLITE_READ)
            self._writing = engine.execution_options(sqlite_begin=_SQLITE_WRITE)

    @contextmanager
    def read(self) -> Generator[Transaction]:
        """Open a read transaction: one consistent snapshot until the block ends."""
        try:
            with self._reading.begin() as connection:
                yield Transaction(connection)
        except (DBAPIError, PoolTimeoutError) as error:
            raise _translated(error) from error

    def write(self, fn: Callable[[Transaction], T]) -> T:
        """Run ``fn`` in a write transaction, commit, and return what it returned.

        ``fn`` is run again when the database reports that it crossed another write, so it must
        have no effect outside the transaction. An exception from it rolls back and propagates.
        """
        for attempt in range(WRITE_ATTEMPTS_MAX):
            if attempt:
                time.sleep(_backoff_s(attempt))
            try:
                with self._writing.begin() as connection:
                    return fn(Transaction(connection))
            except DBAPIError as error:
                if not _is_crossed(error):
                    raise _translated(error) from error
            except PoolTimeoutError as error:
                raise _translated(error) from error
        msg = f"the database was too busy: a write was tried {WRITE_ATTEMPTS_MAX} times; try later"
        raise StoreUnavailableError(msg)

    def ping(self) -> None:
        """Return if the database answers."""
        with self.read() as tx:
            tx.connection.exec_driver_sql("SELECT 1").scalar_one()

    def migrate(self) -> None:
        """Bring the tables to this version, if they are older; all or nothing.

        `NewerSchemaError` when they are newer: then nothing is changed. Several processes may
        call this at the same time.
        """
        if self._url.get_backend_name() == "sqlite":
            _create_private_file(self._url)
        with self.read() as tx:
            if revisions.is_current(tx.connection):
                return
        engine = _engine(self._url, NullPool)
        isolation = {"isolation_level": "READ COMMITTED"} if _is_postgresql(engine) else {}
        try:
            migrating = engine.execution_options(sqlite_begin=_SQLITE_MIGRATE, **isolation)
            with migrating.begin() as connection:
                revisions.bring_to_head(connection)
        except DBAPIError as error:
            raise _translated(error) from error
        finally:
            engine.dispose()

    def close(self) -> None:
        """Close the idle connections; a later call opens new ones."""
        self._engine.dispose()


# How a SQLite transaction begins. `query_only` makes a write inside a read fail here as it does
# on PostgreSQL. A migration may rebuild tables, for which foreign keys must be off before it
# begins (https://www.sqlite.org/lang_altertable.html, section 7).
_SQLITE_READ: Final = ("PRAGMA query_only = ON", "BEGIN DEFERRED")
_SQLITE_WRITE: Final = ("PRAGMA query_only = OFF", "BEGIN IMMEDIATE")
_SQLITE_MIGRATE: Final = ("PRAGMA foreign_keys = OFF", "BEGIN IMMEDIATE")


def _checked_url(text: str) -> URL:
    expected = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ValueError(f"the database url cannot be read: {expected}") from error
    if url.drivername in {"sqlite", "sqlite+pysqlite"}:
        if url.database in {None, "", ":memory:"}:
            raise ValueError(f"the database url names no file: {expected}")
        return url
    if url.drivername in {"postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    raise ValueError(f"the database url begins with {url.drivername}: {expected}")


def _engine(url: URL, pool: type[Pool], **options: Any) -> Engine:
    if url.get_backend_name() == "postgresql":
        arguments = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "tramontane",
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS}"
            f" -c lock_timeout={BUSY_TIMEOUT_MS}"
            f" -c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_MS}",
        }
        return sqlalchemy_engine(url, poolclass=pool, connect_args=arguments, **options)
    arguments = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
    engine = sqlalchemy_engine(url, poolclass=pool, connect_args=arguments, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    for statement in connection.get_execution_options()["sqlite_begin"]:
        connection.exec_driver_sql(statement)


def _create_private_file(url: URL) -> None:
    """Create the file for its owner alone; SQLite gives its WAL the same mode."""
    try:
        os.close(os.open(Path(str(url.database)), os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        msg = f"the database file {url.database} cannot be opened: {error.strerror}"
        raise StoreUnavailableError(msg) from error


def _is_postgresql(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"


def _backoff_s(attempt: int) -> float:
    """Return a random wait that doubles in the mean: writers that crossed must part."""
    longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**attempt)
    return random.uniform(0, longest)  # noqa: S311 - nothing secret depends on it


def _is_crossed(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) in _SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) in _POSTGRESQL_CROSSED


def _sqlite_code(error: sqlite3.Error) -> int:
    """Return the primary result code, which is the low byte of an extended one."""
    return getattr(error, "sqlite_errorcode", 1) & 0xFF


def _translated(error: DBAPIError | PoolTimeoutError) -> Exception:
    """Return the outage that ``error`` reports, or ``error`` itself when it reports a bug."""
    if isinstance(error, PoolTimeoutError):
        return StoreUnavailableError(
            f"all {CONNECTIONS_MAX} database connections stayed busy for {CONNECTION_WAIT_S} s;"
            " try later"
        )
    if isinstance(error.orig, sqlite3.Error):
        code = _sqlite_code(error.orig)
        is_outage = code in _SQLITE_UNAVAILABLE or code in _SQLITE_BUSY
    else:
        state = getattr(error.orig, "sqlstate", None)
        is_refused = state is None and type(error.orig).__name__ == "OperationalError"
        is_outage = (
            is_refused
            or error.connection_invalidated
            or (state is not None and state.startswith(_POSTGRESQL_UNAVAILABLE))
            or state in _POSTGRESQL_CROSSED
        )
    if not is_outage:
        return error
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return StoreUnavailableError(f"the database is not available: {lines[0]}")
