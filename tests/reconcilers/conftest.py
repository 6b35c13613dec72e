"""One small world for the tests of this room."""

from collections.abc import Sequence

import pytest

from tests.support.planning import (
    GIB,
    NODE,
    NOW_MS,
    RECIPES,
    CountingIds,
    plant,
    stored_deployment,
)
from tramontane.domain.deployment import Deployment
from tramontane.domain.event import Event
from tramontane.domain.fleet import Device
from tramontane.domain.replica import Replica
from tramontane.domain.resources import Resources
from tramontane.domain.routing import RouteTable
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.reconcilers.routes import RouteReconciler
from tramontane.runtime.clock import ManualClock
from tramontane.store import deployments, events, replicas, routes
from tramontane.store.db import Database


class Small:
    """A cluster of two nodes, one with two devices, and the reconcilers that watch it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.clock = ManualClock(NOW_MS)
        self.ids = CountingIds()
        devices = (Device(0, "gpu", GIB), Device(1, "gpu", GIB))
        gpu = Resources(NODE.cpu_millicores, NODE.memory_bytes, 2)
        self.driver = FakeDriver(
            self.clock, [FakeNode("a", NODE), FakeNode("b", gpu, devices)], name="process"
        )
        self.told: list[str] = []
        plant(db)
        self.reconciler = self.new_reconciler()
        self.routes = RouteReconciler(db, self.clock, "00")

    def new_reconciler(self) -> ReplicaReconciler:
        """Return what a restarted control plane would have."""
        return ReplicaReconciler(
            self.db,
            {"local": self.driver},
            RECIPES,
            self.clock,
            self.ids,
            report=self.told.append,
        )

    def want(self, deployment: Deployment | None = None) -> Deployment:
        made = deployment or stored_deployment()
        self.db.write(lambda tx: deployments.insert(tx, made))
        return made

    def change(self, seen: Deployment, new: Deployment) -> Deployment:
        return self.db.write(lambda tx: deployments.update(tx, seen, new))

    def passes(self, count: int = 1, *, step_ms: int = 1_000) -> None:
        for _ in range(count):
            self.reconciler.step()
            self.routes.step()
            self.clock.advance(step_ms)

    def deployment(self, deployment_id: str) -> Deployment:
        with self.db.read() as tx:
            found = deployments.get_for(tx, None, deployment_id)
        assert found is not None
        return found

    def replicas(self, deployment_id: str) -> list[Replica]:
        with self.db.read() as tx:
            return replicas.list_of(tx, deployment_id)

    def statuses(self, deployment_id: str) -> list[str]:
        return [str(replica.status) for replica in self.replicas(deployment_id)]

    def story(self, subject_id: str) -> Sequence[Event]:
        with self.db.read() as tx:
            return events.story(tx, subject_id, None, limit=100)

    def table(self) -> RouteTable:
        with self.db.read() as tx:
            found = routes.current(tx)
        assert found is not None
        return found


class CountingDatabase(Database):
    """Counts write transactions."""

    writes = 0

    def write(self, fn):
        self.writes += 1
        return super().write(fn)


@pytest.fixture
def small(sqlite_database: Database) -> Small:
    return Small(sqlite_database)


@pytest.fixture
def small_on_both(database: Database) -> Small:
    """The same on SQLite and on PostgreSQL."""
    return Small(database)
