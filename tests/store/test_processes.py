"""Several processes on one database, and what a killed one leaves behind."""

import random
import sqlite3
import time
from contextlib import ExitStack

import pytest
from sqlalchemy import make_url

from tests.store import samples, workers
from tests.store.samples import PROJECT
from tests.store.workers import received, running
from tramontane.store import events, tenancy, usage
from tramontane.store.db import Database

pytestmark = pytest.mark.slow

PROCESSES = 6
WRITES_EACH = 80


@pytest.fixture(autouse=True)
def _populated(database: Database) -> None:
    samples.populate(database)


def number_of(database: Database) -> int:
    """Return the project's number, once the events agree with it."""
    with database.read() as tx:
        project = tenancy.get_project(tx, PROJECT)
        assert project is not None
        number = project.archived_at_ms or 0
        told = events.story(tx, PROJECT, PROJECT, limit=1_000)
    assert [event.data["number"] for event in told] == list(range(1, number + 1))
    assert project.revision == number + 1
    return number


def test_no_write_of_six_processes_is_lost(database, database_url):
    with ExitStack() as stack:
        arguments = (database_url, WRITES_EACH)
        started = [
            stack.enter_context(running(workers.count_up, *arguments)) for _ in range(PROCESSES)
        ]
        for _, connection in started:
            connection.send("go")
        for _, connection in started:
            assert received(connection) == "done"
    assert number_of(database) == PROCESSES * WRITES_EACH == 480


def test_a_process_killed_before_its_commit_changes_nothing_and_blocks_nobody(
    database, database_url
):
    assert database.write(workers.add_one) == 1
    with running(workers.stop_in_the_middle, database_url) as (process, connection):
        assert received(connection) == process.pid
        assert number_of(database) == 1  # a reader is not held up by the open write
        process.kill()
        process.join(workers.LIMIT_S)
        started = time.monotonic()
        assert database.write(workers.add_one) == 2
        assert time.monotonic() - started < 3
    assert number_of(database) == 2


def test_a_process_killed_at_any_moment_leaves_what_it_committed(database, database_url):
    chance = random.Random(4711)
    committed = 0
    for _ in range(8):
        with running(workers.count_up_and_tell, database_url) as (process, connection):
            committed = received(connection)
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.join(workers.LIMIT_S)
            while connection.poll(0):
                try:
                    committed = connection.recv()
                except EOFError:
                    break
        # The last commit may have happened without having been told.
        assert committed <= number_of(database) <= committed + 1
    assert committed > 8


def test_a_lease_has_one_holder(database, database_url):
    rounds = 40
    with ExitStack() as stack:
        started = [
            stack.enter_context(running(workers.take_lease, database_url, holder, rounds))
            for holder in ("a", "b", "c")
        ]
        for _, connection in started:
            connection.send("go")
        taken = [received(connection) for _, connection in started]
    assert sorted(number for each in taken for number in each) == list(range(rounds))


def test_usage_is_counted_once_while_gateways_repeat_themselves(database, database_url):
    """Three gateways ship the same events in overlapping batches, one process rolls up.

    All the while a reader follows the list to its end and another adds the totals up.
    """
    count = 1_200
    batches = [
        [range(first, min(first + size, count)) for first in range(0, count, step)]
        for size, step in ((100, 50), (70, 70), (40, 30))
    ]
    with ExitStack() as stack:
        ships = [
            stack.enter_context(running(workers.ship_usage, database_url, each)) for each in batches
        ]
        roller = stack.enter_context(running(workers.roll_up_usage, database_url))[1]
        for connection in (*(ship for _, ship in ships), roller):
            connection.send("go")
        followed: list[str] = []
        while any(not connection.poll() for _, connection in ships):
            _follow(database, followed)
        new = [received(connection) for _, connection in ships]
        roller.send("stop")
        rolled = received(roller)
    _follow(database, followed)
    assert sum(new) == count
    assert rolled == count
    assert len(followed) == len(set(followed)) == count
    assert set(followed) == {event.id for event in samples.usage_events(range(count))}
    with database.read() as tx:
        told = usage.totals(tx, PROJECT, from_ms=0, to_ms=2 * samples.NOW_MS, group_by=())
    assert [total.requests for total in told] == [count]


def _follow(database: Database, followed: list[str]) -> None:
    """Read on from the last event seen; the totals of the same moment count as many or more."""
    with database.read() as tx:
        more = True
        while more:
            after = followed[-1] if followed else None
            page, more = usage.list_events(tx, None, after=after, limit=100)
            followed += [event.id for event in page]
        told = usage.totals(tx, None, from_ms=0, to_ms=2 * samples.NOW_MS, group_by=())
    assert sum(total.requests for total in told) == len(followed)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_full_disk_damages_nothing(database, database_url):
    path = make_url(database_url).database
    assert path is not None
    with running(workers.fill_the_disk, database_url, 1_000_000) as (_, connection):
        committed = 0
        while isinstance(said := received(connection), int):
            committed = said
        assert said.startswith("the database is not available: ")
        assert received(connection) == committed  # it still reads
    assert committed > 10
    assert number_of(database) == committed
    assert database.write(workers.add_one) == committed + 1  # there is room again
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()
