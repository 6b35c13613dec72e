"""The metering reconciler: every event is in the totals once, before and after it is rolled up."""

import random

from tests.reconcilers.conftest import CountingDatabase
from tests.sim.gateways import SimGateway
from tests.support.planning import NOW_MS
from tramontane.domain.routing import Route, RouteReplica
from tramontane.domain.usage import UsageEvent
from tramontane.reconcilers.metering import MeteringReconciler
from tramontane.runtime.clock import ManualClock
from tramontane.store import usage
from tramontane.store.db import Database

EVER_MS = 1 << 60
ROUTE = Route("prj", "chat", "dep", "chat", "tiny", 1, NOW_MS, (RouteReplica("rep", "a:1", "s"),))


def events_of(count: int) -> list[UsageEvent]:
    gateway = SimGateway(1, random.Random(1))
    for _ in range(count):
        gateway.events.append(gateway._event(ROUTE, NOW_MS))
    return gateway.events


def counted(db: Database) -> int:
    with db.read() as tx:
        sums = usage.totals(tx, None, from_ms=0, to_ms=EVER_MS, group_by=())
    return sum(total.requests for total in sums)


def test_batches_are_rolled_up_until_none_is_left(database: Database) -> None:
    events = events_of(25)
    reconciler = MeteringReconciler(database, ManualClock(), 10)
    database.write(lambda tx: usage.accept(tx, events, NOW_MS))
    assert counted(database) == 25
    assert [reconciler.step() for _ in range(4)] == [True, True, False, False]
    assert counted(database) == 25
    with database.read() as tx:
        assert usage.unrolled(tx, 1) == []
    database.write(lambda tx: usage.accept(tx, events, NOW_MS))
    assert reconciler.step() is False
    assert counted(database) == 25


def test_without_events_nothing_is_written(sqlite_url: str) -> None:
    db = CountingDatabase(sqlite_url)
    try:
        reconciler = MeteringReconciler(db, ManualClock())
        assert reconciler.step() is False
        assert db.writes == 0
    finally:
        db.close()
