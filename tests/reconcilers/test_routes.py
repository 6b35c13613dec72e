"""The routes reconciler: publishes what changed, and nothing else."""

from dataclasses import replace
from itertools import pairwise

from tests.reconcilers.conftest import CountingDatabase, Small
from tests.support.planning import NOW_MS, PROJECT, stored_deployment, typed_id
from tramontane.domain import ids
from tramontane.domain.tenancy import ApiKey, Role
from tramontane.reconcilers.routes import RouteReconciler
from tramontane.store import routes, tenancy
from tramontane.store.db import Database


def key_of(number: int, **fields: object) -> ApiKey:
    key = ApiKey(
        typed_id(ids.API_KEY, number), PROJECT.id, "k", Role.MEMBER, f"hash-{number}", "…", NOW_MS
    )
    return replace(key, **fields)


def test_a_revision_is_published_for_each_change_only(small_on_both: Small) -> None:
    small = small_on_both
    reconciler = RouteReconciler(small.db, small.clock, "00", lambda: "dep_probe")
    reconciler.step()
    tables = [small.table()]
    assert tables[0].probe_deployment_id == "dep_probe"
    small.want(stored_deployment())
    for _ in range(6):
        small.reconciler.step()
        for _ in range(2):
            reconciler.step()
            tables.append(small.table())
        small.clock.advance(1_000)
    for before, after in pairwise(tables):
        is_changed = replace(after, revision=before.revision) != before
        assert after.revision == before.revision + is_changed
    assert 3 <= tables[-1].revision <= 6  # empty, waiting in a few steps, ready


def test_keys_are_known_while_they_can_be_used(small: Small) -> None:
    small.routes.step()
    key, short = key_of(1), key_of(2, expires_at_ms=NOW_MS + 5_000)

    def insert(tx: object) -> None:
        tenancy.insert_api_key(tx, key)
        tenancy.insert_api_key(tx, short)

    small.db.write(insert)
    small.routes.step()
    assert set(small.table().keys) == {"hash-1", "hash-2"}
    small.clock.advance(5_000)
    small.routes.step()
    assert set(small.table().keys) == {"hash-1"}
    small.db.write(lambda tx: tenancy.update_api_key(tx, key, replace(key, revoked_at_ms=NOW_MS)))
    small.routes.step()
    assert small.table().keys == {}


def test_at_rest_nothing_is_written(sqlite_url: str) -> None:
    db = CountingDatabase(sqlite_url)
    try:
        small = Small(db)
        small.want(stored_deployment())
        small.passes(6)
        writes = db.writes
        for _ in range(5):
            small.routes.step()
        assert db.writes == writes
    finally:
        db.close()


def test_a_slow_reconciler_publishes_nothing_old(sqlite_url: str) -> None:
    """It reads, another one publishes news, then it writes: what it writes is the news."""

    class Slow(CountingDatabase):
        def write(self, fn):
            if self.writes == 0:
                self.writes += 1
                other.want(stored_deployment())
                RouteReconciler(other.db, other.clock, "00").step()
            return super().write(fn)

    first = Database(sqlite_url)
    other = Small(first)
    slow = Slow(sqlite_url)
    try:
        RouteReconciler(slow, other.clock, "00").step()
        with first.read() as tx:
            table = routes.current(tx)
        assert table is not None
        assert len(table.routes) == 1
        assert table.revision == 1
    finally:
        slow.close()
        first.close()
