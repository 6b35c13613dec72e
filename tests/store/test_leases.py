from tramontane.store import leases
from tramontane.store.db import Database

TTL_MS = 10_000


def acquire(database: Database, holder: str, now_ms: int, name: str = "replicas") -> bool:
    return database.write(lambda tx: leases.acquire(tx, name, holder, now_ms, TTL_MS))


def test_one_holder_until_it_expires(database):
    assert acquire(database, "a", 0)
    assert not acquire(database, "b", 1)
    assert not acquire(database, "b", TTL_MS - 1)
    assert acquire(database, "b", TTL_MS)
    assert not acquire(database, "a", TTL_MS + 1)


def test_the_holder_prolongs_its_lease(database):
    assert acquire(database, "a", 0)
    assert acquire(database, "a", TTL_MS - 1)
    assert not acquire(database, "b", TTL_MS)
    assert acquire(database, "b", 2 * TTL_MS - 1)


def test_leases_have_nothing_to_do_with_each_other(database):
    assert acquire(database, "a", 0)
    assert acquire(database, "b", 0, name="routes")


def test_only_the_holder_releases(database):
    assert acquire(database, "a", 0)
    database.write(lambda tx: leases.release(tx, "replicas", "b"))
    assert not acquire(database, "b", 1)
    database.write(lambda tx: leases.release(tx, "replicas", "a"))
    assert acquire(database, "b", 2)
