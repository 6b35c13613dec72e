"""The responses reconciler: silence, age and size."""

from dataclasses import replace

from tests.store.test_responses import get, make, put
from tramontane.domain.responses.stored import SILENCE_MS_MAX, ResponseStatus
from tramontane.reconcilers.responses import DAY_MS, ResponsesReconciler
from tramontane.runtime.clock import ManualClock
from tramontane.store.db import Database


def test_a_silent_gateways_responses_fail_and_others_go_on(database: Database) -> None:
    clock = ManualClock()
    now_ms = clock.now_ms()
    lost = make("a", status=ResponseStatus.IN_PROGRESS, seen_at_ms=now_ms, created_at_ms=now_ms)
    alive = replace(lost, id="resp_" + "b" * 20, seen_at_ms=now_ms + SILENCE_MS_MAX)
    put(database, lost, alive)
    reconciler = ResponsesReconciler(database, clock, keep_days=1)
    assert not reconciler.step()
    clock.advance(SILENCE_MS_MAX + 1)
    assert reconciler.step()
    found = get(database, lost)
    assert found is not None
    assert found.status is ResponseStatus.FAILED
    assert get(database, alive) == alive
    assert not reconciler.step()


def test_after_its_own_absence_it_listens_first(database: Database) -> None:
    clock = ManualClock()
    silent = make(status=ResponseStatus.QUEUED, created_at_ms=clock.now_ms())
    put(database, silent)
    reconciler = ResponsesReconciler(database, clock, keep_days=1)
    assert not reconciler.step()
    assert get(database, silent) == silent
    clock.advance(SILENCE_MS_MAX + 1)
    assert reconciler.step()


def test_what_was_kept_long_enough_is_deleted(database: Database) -> None:
    clock = ManualClock()
    old = make(created_at_ms=clock.now_ms())
    new = make("b", created_at_ms=clock.now_ms() + DAY_MS)
    put(database, old, new)
    clock.advance(DAY_MS + 1)
    reconciler = ResponsesReconciler(database, clock, keep_days=1)
    assert reconciler.step()
    assert get(database, old) is None
    assert get(database, new) == new
    assert not reconciler.step()


def test_a_project_keeps_its_newest(database: Database) -> None:
    clock = ManualClock()
    first = make(created_at_ms=clock.now_ms())
    second = make("b", created_at_ms=clock.now_ms() + 1)
    put(database, first, second)
    most = second.size_bytes
    reconciler = ResponsesReconciler(database, clock, keep_days=1, project_bytes_max=most)
    assert reconciler.step()
    assert get(database, first) is None
    assert get(database, second) == second
