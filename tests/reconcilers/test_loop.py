"""A loop: passes when woken and at intervals, one holder at a time, whatever a pass raises."""

import logging
import threading
import time
from collections.abc import Callable

import pytest

from tests.reconcilers.conftest import CountingDatabase
from tramontane.reconcilers.loop import BUSY_INTERVAL_S, LEASE_MS, PROLONG_MS, Loop
from tramontane.runtime.clock import ManualClock
from tramontane.store import leases
from tramontane.store.db import Database, StoreUnavailableError

FOR_EVER_S = 3_600.0
WAIT_S = 5.0


class Passes:
    """Counts passes, and lets a test wait for them."""

    def __init__(self, action: Callable[[], bool] = lambda: False) -> None:
        self.count = 0
        self._action = action
        self._changed = threading.Condition()

    def __call__(self) -> bool:
        with self._changed:
            self.count += 1
            self._changed.notify_all()
        return self._action()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count >= count, WAIT_S)


def loop_of(db: Database, passes: Passes, clock: ManualClock, holder: str = "me") -> Loop:
    return Loop("test", passes, FOR_EVER_S, db=db, clock=clock, holder=holder)


def test_it_passes_at_once_and_when_woken(sqlite_database: Database) -> None:
    passes = Passes()
    loop = loop_of(sqlite_database, passes, ManualClock())
    loop.start()
    passes.wait_for(1)
    loop.wake()
    passes.wait_for(2)
    loop.stop()
    assert passes.count == 2


def test_it_comes_back_soon_while_something_is_under_way(sqlite_database: Database) -> None:
    passes = Passes(lambda: passes.count < 3)
    loop = loop_of(sqlite_database, passes, ManualClock())
    began = time.monotonic()
    loop.start()
    passes.wait_for(3)
    loop.stop()
    assert passes.count == 3
    assert time.monotonic() - began < 10 * BUSY_INTERVAL_S


def test_what_a_pass_raises_is_logged_and_the_next_one_follows(
    sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        raise StoreUnavailableError("disk full") if passes.count == 1 else ValueError("bug")

    passes = Passes(fail)
    loop = loop_of(sqlite_database, passes, ManualClock())
    with caplog.at_level(logging.WARNING):
        assert loop.run_once() is False
        assert loop.run_once() is False
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "disk full" in caplog.text
    assert "bug" in caplog.text


def test_one_holder_at_a_time_and_another_takes_over(database: Database) -> None:
    clock = ManualClock()
    mine, other = Passes(), Passes()
    first = loop_of(database, mine, clock, "first")
    second = loop_of(database, other, clock, "second")
    first.run_once()
    second.run_once()
    assert (mine.count, other.count) == (1, 0)
    clock.advance(LEASE_MS)  # the first one fell silent
    second.run_once()
    first.run_once()
    assert (mine.count, other.count) == (1, 1)
    second.stop()  # gives the lease up
    first.run_once()
    assert (mine.count, other.count) == (2, 1)
    first.stop()


def test_the_lease_is_prolonged_now_and_then_and_not_in_each_pass(sqlite_url: str) -> None:
    db = CountingDatabase(sqlite_url)
    try:
        clock = ManualClock()
        loop = loop_of(db, Passes(), clock)
        for _ in range(20):
            loop.run_once()
            clock.advance(1_000)
        assert db.writes == 20_000 // PROLONG_MS
        loop.stop()
    finally:
        db.close()


def test_a_lost_lease_is_noticed(sqlite_database: Database) -> None:
    clock = ManualClock()
    passes = Passes()
    loop = loop_of(sqlite_database, passes, clock)
    loop.run_once()
    clock.advance(LEASE_MS)
    now_ms = clock.now_ms()
    taken = sqlite_database.write(
        lambda tx: leases.acquire(tx, "reconciler/test", "thief", now_ms, LEASE_MS)
    )
    assert taken
    loop.run_once()
    assert passes.count == 1
