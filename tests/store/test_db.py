import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from tests.store import samples, workers
from tests.store.samples import PROJECT
from tramontane.store import tenancy
from tramontane.store.db import Database, Limits, StoreUnavailableError

IMPATIENT = Limits(busy_timeout_ms=50, write_give_up_ms=100, connection_wait_ms=100)


@pytest.fixture
def impatient(database: Database, database_url: str) -> Iterator[Database]:
    """A populated database that waits for nothing."""
    samples.populate(database)
    impatient = Database(database_url, IMPATIENT)
    yield impatient
    impatient.close()


def number_of(database: Database) -> int:
    with database.read() as tx:
        project = tenancy.get_project(tx, PROJECT)
        assert project is not None
        return project.archived_at_ms or 0


@contextmanager
def locked_by_another(url: str) -> Iterator[None]:
    """Hold what a writer needs, from a connection of another program."""
    if url.startswith("sqlite"):
        raw = sqlite3.connect(str(make_url(url).database), isolation_level=None)
        raw.execute("BEGIN IMMEDIATE")
    else:
        raw = psycopg.connect(url)
        raw.execute("LOCK TABLE projects IN EXCLUSIVE MODE")
    yield
    raw.execute("ROLLBACK")
    raw.close()


@pytest.mark.parametrize(
    "url",
    ["", "tramontane.sqlite", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d", "a:b:c"],
)
def test_a_url_that_is_no_database_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match="expected sqlite:///FILE or postgresql://") as raised:
        Database(url)
    assert "secret" not in str(raised.value)


def test_opening_touches_nothing(tmp_path):
    Database(f"sqlite:///{tmp_path / 'x.sqlite'}").close()
    Database("postgresql://nobody@127.0.0.1:1/nothing").close()
    assert list(tmp_path.iterdir()) == []


def test_the_files_are_their_owners_alone(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    before = os.umask(0)
    try:
        database.migrate()
        with database.read() as tx:
            tenancy.list_projects(tx)
            names = {path.name for path in tmp_path.iterdir()}
            modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
        database.close()
    assert names == {"x.sqlite", "x.sqlite-wal", "x.sqlite-shm"}
    assert modes == {0o600}


def test_sqlite_is_set_up_to_keep_what_it_committed(sqlite_database):
    with sqlite_database.read() as tx:
        told = {
            name: tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5_000}
    assert told == expected


def test_a_read_is_one_snapshot(database):
    samples.populate(database)
    with database.read() as tx:
        before = tenancy.list_projects(tx)
        writer = threading.Thread(target=database.write, args=(workers.add_one,))
        writer.start()
        writer.join()
        assert tenancy.list_projects(tx) == before
    assert number_of(database) == 1


def test_a_write_inside_a_read_is_refused(database):
    with (
        pytest.raises(StoreUnavailableError, match=r"(?i)read-?only"),
        database.read() as tx,
    ):
        tenancy.insert_organization(tx, samples.organization(1))
    database.write(lambda tx: tenancy.insert_organization(tx, samples.organization(1)))


def test_a_write_inside_a_write_is_a_bug(database):
    def write(_tx):
        database.write(workers.add_one)

    with pytest.raises(AssertionError, match="hand the open transaction on"):
        database.write(write)
    database.write(lambda tx: tenancy.insert_organization(tx, samples.organization(1)))


def test_an_exception_rolls_back_and_propagates(database):
    def write(tx):
        tenancy.insert_organization(tx, samples.organization(1))
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        database.write(write)
    with database.read() as tx:
        assert tenancy.list_organizations(tx) == []


def test_a_wrong_statement_is_a_bug_not_an_outage(database):
    with pytest.raises(Exception, match="no_such_table") as raised, database.read() as tx:
        tx.execute(text("SELECT * FROM no_such_table"))
    assert not isinstance(raised.value, StoreUnavailableError)
    with pytest.raises(Exception, match="no_such_table") as raised:
        database.write(lambda tx: tx.execute(text("DELETE FROM no_such_table")))
    assert not isinstance(raised.value, StoreUnavailableError)


def test_a_write_that_crossed_another_is_run_again(database):
    """PostgreSQL lets both begin and refuses the later commit; SQLite makes the other wait."""
    samples.populate(database)
    other = threading.Thread(target=database.write, args=(workers.add_one,))
    runs = []

    def write(tx):
        runs.append(1)
        tenancy.get_project(tx, PROJECT)  # from here on, PostgreSQL's snapshot stands
        if len(runs) == 1:
            other.start()
            other.join(0.3)
        return workers.add_one(tx)

    database.write(write)
    other.join()
    assert number_of(database) == 2
    with database.read() as tx:
        assert len(runs) == (2 if tx.is_postgresql else 1)


def test_two_writes_that_read_what_the_other_changes_see_each_other(database):
    """Write skew, which only SERIALIZABLE rules out: both may insert if there are just two."""
    samples.populate(database)

    def insert_third(tx, number: int) -> None:
        count = len(tenancy.list_organizations(tx))
        if number == 11 and other.ident is None:
            other.start()
            other.join(0.3)
        if count == 2:
            tenancy.insert_organization(tx, samples.organization(number))

    other = threading.Thread(target=lambda: database.write(lambda tx: insert_third(tx, 12)))
    database.write(lambda tx: insert_third(tx, 11))
    other.join()
    with database.read() as tx:
        assert len(tenancy.list_organizations(tx)) == 3


def test_waiting_for_a_lock_has_an_end(impatient, database_url):
    runs: list[int] = []

    def write(tx):
        runs.append(1)
        workers.add_one(tx)

    with locked_by_another(database_url):
        with pytest.raises(StoreUnavailableError, match=r"the database is not available: .*lock"):
            impatient.write(write)
        assert number_of(impatient) == 0  # reading goes on
    # SQLite's writers ask for the lock before they read, or they would read in vain.
    assert runs == ([] if database_url.startswith("sqlite") else [1])
    impatient.write(workers.add_one)
    assert number_of(impatient) == 1


def test_a_lock_that_is_given_back_in_time_is_waited_for(database, database_url):
    samples.populate(database)
    writer = threading.Thread(target=database.write, args=(workers.add_one,))
    with locked_by_another(database_url):
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
    writer.join()
    assert number_of(database) == 1


def test_waiting_for_a_connection_has_an_end(database_url):
    limits = Limits(connections_kept=1, connections_max=1, connection_wait_ms=100)
    database = Database(database_url, limits)
    told = "every database connection stayed busy"
    with database.read():
        with pytest.raises(StoreUnavailableError, match=told), database.read():
            pass
        with pytest.raises(StoreUnavailableError, match=told):
            database.write(lambda tx: None)
    database.ping()
    database.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_waiting_for_a_turn_has_an_end(impatient):
    """Another thread of this process that never ends its write holds the others up no longer."""
    begun, end = threading.Event(), threading.Event()

    def hold(_tx):
        begun.set()
        end.wait(10)

    holder = threading.Thread(target=impatient.write, args=(hold,))
    holder.start()
    begun.wait(10)
    with pytest.raises(StoreUnavailableError, match="waited too long for its turn"):
        impatient.write(workers.add_one)
    end.set()
    holder.join()
    impatient.write(workers.add_one)
    assert number_of(impatient) == 1


def test_a_file_that_is_no_database_is_an_outage_and_stays_as_it_is(tmp_path):
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"something else entirely" * 100)
    database = Database(f"sqlite:///{path}")
    for ask in (database.ping, database.migrate, lambda: database.write(workers.add_one)):
        with pytest.raises(StoreUnavailableError, match="file is not a database"):
            ask()
    database.close()
    assert path.read_bytes() == b"something else entirely" * 100


def test_a_folder_that_is_not_there_is_an_outage(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'nowhere' / 'x.sqlite'}")
    with pytest.raises(StoreUnavailableError, match="cannot be opened: No such file"):
        database.migrate()
    with pytest.raises(StoreUnavailableError, match="unable to open database file"):
        database.ping()
    database.close()


def test_a_server_that_is_not_there_is_an_outage():
    database = Database("postgresql://nobody:secret@127.0.0.1:1/nothing")
    for ask in (database.ping, database.migrate, lambda: database.write(workers.add_one)):
        with pytest.raises(StoreUnavailableError, match=r"not available: .*refused") as raised:
            ask()
        assert "secret" not in str(raised.value)
    database.close()


@pytest.mark.slow
def test_a_server_that_lacks_the_database_is_an_outage(postgres_server):
    database = Database(postgres_server.url("nothing"))
    with pytest.raises(StoreUnavailableError, match='"nothing" does not exist'):
        database.ping()
    database.close()


@pytest.mark.slow
def test_a_broken_connection_is_an_outage_once_and_idle_ones_are_replaced(postgres_shared_url):
    database = Database(postgres_shared_url)

    def end_others():
        with psycopg.connect(postgres_shared_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tramontane' AND datname = current_database()"
            )

    database.ping()
    end_others()
    database.ping()  # the idle connection was broken, a new one was opened

    def write(tx):
        tenancy.insert_organization(tx, samples.organization(77))
        end_others()
        tenancy.list_organizations(tx)

    with pytest.raises(StoreUnavailableError, match="not available"):
        database.write(write)
    with database.read() as tx:
        assert tenancy.get_organization(tx, "org-77") is None
    database.close()


def test_ping_answers(database):
    assert database.ping() is None


def test_idle_connections_are_few(database):
    threads = [threading.Thread(target=database.ping) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database._engine.pool.checkedin() <= 2
    assert database._engine.pool.checkedout() == 0


def test_closing_gives_the_files_back(tmp_path, sqlite_url):
    database = Database(sqlite_url)
    database.write(lambda tx: tenancy.insert_organization(tx, samples.organization(1)))
    database.close()
    assert [path.name for path in Path(tmp_path).iterdir()] == ["tramontane.sqlite"]
