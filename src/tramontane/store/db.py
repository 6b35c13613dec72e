"""The database and its one concurrency model: consistent reads, short guarded writes.

SQLite: WAL, writes begin IMMEDIATE. PostgreSQL: writes are SERIALIZABLE and run again when the
database says that they crossed another one; reads are REPEATABLE READ, READ ONLY, one snapshot
that never has to be run again. No outside call belongs inside a transaction.
"""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Engine,
    Executable,
    Row,
    Select,
    Table,
    create_engine,
    event,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, QueuePool

from tramontane.store.errors import (
    NameTakenError,
    NewerSchemaError,
    StaleError,
    StoreUnavailableError,
    UnreadableValueError,
)
from tramontane.store.migrations import revisions

__all__ = [
    "LIMITS",
    "AnyRow",
    "Database",
    "Limits",
    "NameTakenError",
    "NewerSchemaError",
    "StaleError",
    "StoreUnavailableError",
    "Transaction",
    "UnreadableValueError",
]

T = TypeVar("T")

AnyRow = Row[*tuple[Any, ...]]  # its columns are known by name, not by type

# Six processes that did nothing but write one row: on PostgreSQL no write needed more than 12
# attempts, on SQLite none waited longer than 2.5 s for its turn.
WRITE_ATTEMPTS_MAX: Final = 40
BACKOFF_FIRST_S: Final = 0.002  # about one write transaction
BACKOFF_MAX_S: Final = 0.25
WAL_WAIT_S: Final = 10.0  # for the other openers of a new file; each holds it for milliseconds
WAL_PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the database is waited for, and how many connections it is asked for.

    A write gives up ``write_give_up_ms`` after it first asked, plus at most one
    ``busy_timeout_ms``: the wait of one attempt for a lock that another process holds. An idle
    connection costs memory on both sides (up to 2 MB of SQLite's cache, 5 MB in a PostgreSQL
    backend), so few are kept and the others come and go with the load.
    """

    busy_timeout_ms: int = 5_000
    write_give_up_ms: int = 10_000
    statement_timeout_ms: int = 30_000
    connect_timeout_s: int = 5
    connections_kept: int = 2
    connections_max: int = 10
    connection_wait_ms: int = 10_000


LIMITS: Final = Limits()
# A migration may rewrite a large table; others that want to migrate wait a minute for it.
_MIGRATION_LIMITS: Final = Limits(busy_timeout_ms=60_000, statement_timeout_ms=0)

# Primary result codes, https://www.sqlite.org/rescode.html
_SQLITE_BUSY: Final = frozenset({5, 6})  # BUSY LOCKED
# PERM NOMEM READONLY IOERR CORRUPT FULL CANTOPEN PROTOCOL NOTADB
_SQLITE_UNAVAILABLE: Final = frozenset({3, 7, 8, 10, 11, 13, 14, 15, 26})
# SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_CROSSED: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
# Classes: connection, authorization, no such database, resources, intervention, system; and the
# codes read-only server and lock timeout.
_POSTGRESQL_UNAVAILABLE: Final = ("08", "28", "3D", "53", "57", "58", "25006", "55P03")
_DATABASE_ERRORS: Final = (DBAPIError, PoolTimeoutError, sqlite3.Error)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction; every store function takes it first. It ends with its block."""

    connection: Connection

    def execute(
        self, statement: Executable, values: Mapping[str, Any] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run ``statement``, with ``values`` for its named parameters."""
        return self.connection.execute(statement, values)

    def insert_each(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run an INSERT for each of ``rows`` and return how many rows it inserted in all."""
        counted = {"preserve_rowcount": True}
        return self.connection.execute(statement, rows, execution_options=counted).rowcount

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
    down, full, damaged or locked beyond the limits.
    """

    def __init__(self, url: str, limits: Limits = LIMITS) -> None:
        self._url = _checked_url(url)
        self._limits = limits
        self._is_postgresql = self._url.get_backend_name() == "postgresql"
        self._engine = _engine(
            self._url,
            limits,
            poolclass=QueuePool,
            pool_size=limits.connections_kept,
            max_overflow=limits.connections_max - limits.connections_kept,
            pool_timeout=limits.connection_wait_ms / 1000,
            pool_use_lifo=True,
            pool_pre_ping=self._is_postgresql,
        )
        if self._is_postgresql:
            self._reading = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self._writing = self._engine.execution_options(isolation_level="SERIALIZABLE")
        else:
            self._reading = self._engine.execution_options(sqlite_begin=_SQLITE_READ)
            self._writing = self._engine.execution_options(sqlite_begin=_SQLITE_WRITE)
        # SQLite has one writer at a time, and its waiters poll. Our own threads queue here
        # instead, which cut the longest wait of six of them from 1.4 s to 0.4 s.
        self._turn = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def read(self) -> Generator[Transaction]:
        """Open a read transaction: one consistent snapshot until the block ends."""
        try:
            with self._reading.begin() as connection:
                yield Transaction(connection)
        except _DATABASE_ERRORS as error:
            _raise_if_outage(error)
            raise

    def write(self, fn: Callable[[Transaction], T]) -> T:
        """Run ``fn`` in a write transaction, commit, and return what it returned.

        ``fn`` is run again when the database reports that it crossed another write, so it must
        have no effect outside the transaction. An exception from it rolls back and propagates.
        """
        give_up_at = time.monotonic() + self._limits.write_give_up_ms / 1000
        for attempt in range(1, WRITE_ATTEMPTS_MAX + 1):
            try:
                with self._own_turn(), self._writing.begin() as connection:
                    return fn(Transaction(connection))
            except _DATABASE_ERRORS as error:
                is_last = attempt == WRITE_ATTEMPTS_MAX or time.monotonic() > give_up_at
                if is_last or not _is_crossed(error):
                    _raise_if_outage(error)
                    raise
            time.sleep(_backoff_s(attempt))
        raise AssertionError("the last attempt returns or raises")

    def ping(self) -> None:
        """Return if the database answers."""
        with self.read() as tx:
            tx.connection.exec_driver_sql("SELECT 1").scalar_one()

    def migrate(self) -> None:
        """Bring the tables to this version, if they are older; all or nothing.

        `NewerSchemaError` when they are newer: then nothing is changed. Several processes may
        call this at the same time.
        """
        if not self._is_postgresql:
            _create_private_file(self._url)
        with self.read() as tx:
            if revisions.is_current(tx.connection):
                return
        engine = _engine(self._url, _MIGRATION_LIMITS, poolclass=NullPool)
        # PostgreSQL's migrations see what was committed while they waited for their turn.
        options = {"isolation_level": "READ COMMITTED"} if self._is_postgresql else {}
        try:
            migrating = engine.execution_options(sqlite_begin=_SQLITE_MIGRATE, **options)
            with migrating.begin() as connection:
                revisions.bring_to_head(connection)
        except _DATABASE_ERRORS as error:
            _raise_if_outage(error)
            raise
        finally:
            engine.dispose()

    def close(self) -> None:
        """Close the idle connections; a later call opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _own_turn(self) -> Generator[None]:
        """Hold this process's turn to write to SQLite; refuse a write inside a write."""
        assert not getattr(self._thread, "is_writing", False), (  # a bug of ours
            "a write inside a write: hand the open transaction on instead"
        )
        self._thread.is_writing = True
        try:
            if self._is_postgresql:
                yield
                return
            if not self._turn.acquire(timeout=self._limits.write_give_up_ms / 1000):
                msg = "the database was too busy: a write waited too long for its turn; try later"
                raise StoreUnavailableError(msg)
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._thread.is_writing = False


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


def _engine(url: URL, limits: Limits, **options: Any) -> Engine:
    if url.get_backend_name() == "postgresql":
        settings = {
            "statement_timeout": limits.statement_timeout_ms,
            "lock_timeout": limits.busy_timeout_ms,
            "idle_in_transaction_session_timeout": limits.statement_timeout_ms,
        }
        arguments: dict[str, Any] = {
            "connect_timeout": limits.connect_timeout_s,
            "application_name": "tramontane",
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        }
        return create_engine(url, connect_args=arguments, hide_parameters=True, **options)
    arguments = {"timeout": limits.busy_timeout_ms / 1000, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments, hide_parameters=True, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    _enter_wal(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to its write-ahead log, unless it is there.

    The first switch of a new file needs it alone, and SQLite does not wait for that by itself:
    when several processes open a new file at once, all but one are told that it is locked.
    """
    deadline_s = time.monotonic() + WAL_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            if _sqlite_code(error) not in _SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(WAL_PAUSE_S)
        else:
            return


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


def _backoff_s(attempt: int) -> float:
    """Return a random wait that doubles in the mean: writers that crossed must part."""
    longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**attempt)
    return random.uniform(0, longest)  # noqa: S311 - nothing secret depends on it


def _is_crossed(error: Exception) -> bool:
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        return _sqlite_code(cause) in _SQLITE_BUSY
    return getattr(cause, "sqlstate", None) in _POSTGRESQL_CROSSED


def _raise_if_outage(error: Exception) -> None:
    """Raise `StoreUnavailableError` if ``error`` reports an outage; otherwise it is a bug."""
    if isinstance(error, PoolTimeoutError):
        msg = "every database connection stayed busy for too long; try later"
        raise StoreUnavailableError(msg) from error
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        is_outage = _sqlite_code(cause) in _SQLITE_UNAVAILABLE | _SQLITE_BUSY
    else:
        state = getattr(cause, "sqlstate", None)
        if state is None:  # the server did not say anything: no connection, or a broken one
            is_outage = type(cause).__name__ == "OperationalError"
        else:
            is_outage = state in _POSTGRESQL_CROSSED or state.startswith(_POSTGRESQL_UNAVAILABLE)
    if is_outage:
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise StoreUnavailableError(f"the database is not available: {lines[0]}") from error


def _cause(error: Exception) -> BaseException:
    """Return the driver's own error; `_prepare_sqlite` raises it bare."""
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def _sqlite_code(error: sqlite3.Error) -> int:
    """Return the primary result code, which is the low byte of an extended one."""
    return getattr(error, "sqlite_errorcode", 1) & 0xFF
