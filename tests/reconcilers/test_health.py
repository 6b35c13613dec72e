"""Nodes are drained and resumed as is wanted, what serves there moves, and bad ones are found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.reconcilers.conftest import CountingDatabase, Small
from tests.support.planning import NODE, stored_deployment
from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.upkeep.health import AUTOMATIC
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.drivers.faults import FailStart, Silence
from tramontane.reconcilers.health import HealthReconciler
from tramontane.store import events, fleet
from tramontane.store.db import Database


def health_of(small: Small, failures_max: int = 3) -> HealthReconciler:
    return HealthReconciler(
        small.db, {"local": small.driver}, small.clock, failures_max=failures_max
    )


def node(small: Small, name: str) -> Node:
    with small.db.read() as tx:
        return next(it for it in fleet.list_nodes(tx) if it.name == name)


def wish(small: Small, name: str, **fields: Any) -> None:
    """Record what is wanted of a node, as a service does."""
    small.db.write(lambda tx: fleet.upsert_node(tx, replace(node(small, name), **fields)))


def where(small: Small, wanted: Deployment) -> list[tuple[str, str]]:
    with small.db.read() as tx:
        names = {it.id: it.name for it in fleet.list_nodes(tx)}
    return [(names[r.node_id], str(r.status)) for r in small.replicas(wanted.id)]


def of_small_nodes(small: Small, *names: str, **faults: Any) -> None:
    small.driver = FakeDriver(small.clock, [FakeNode(name, NODE) for name in names], **faults)
    small.reconciler = small.new_reconciler()


def test_a_drained_node_is_left_without_a_moment_below_what_is_wanted(small: Small) -> None:
    health = health_of(small)
    of_small_nodes(small, "a", "b", "c")
    health = health_of(small)
    wanted = small.want(stored_deployment(replicas=2))
    small.passes(6)
    assert where(small, wanted) == [("a", "ready"), ("b", "ready")]
    wish(small, "a", wanted_drain_reason="new disks")
    assert health.carry_out() == 1
    for _ in range(12):
        small.passes(1)
        ready = [it for it in where(small, wanted) if it[1] == "ready"]
        assert len(ready) >= 2
    assert [it for it in where(small, wanted) if it[1] == "ready"] == [
        ("b", "ready"),
        ("c", "ready"),
    ]
    assert (node(small, "a").status, node(small, "a").reason) == (NodeStatus.DRAINED, "new disks")
    assert health.carry_out() == 0
    found = small.deployment(wanted.id)
    assert (found.status, found.reason) == (DeploymentStatus.READY, None)


def test_without_room_it_serves_on_says_so_and_costs_no_write(sqlite_url: str) -> None:
    db = CountingDatabase(sqlite_url)
    try:
        small = Small(db)
        of_small_nodes(small, "a")
        wanted = small.want()
        small.passes(6)
        wish(small, "a", wanted_drain_reason="new disks")
        health = health_of(small)
        health.step()
        small.passes(3)
        assert where(small, wanted) == [("a", "ready")]
        assert "its node a is drained; 1 waiting: needs" in str(small.deployment(wanted.id).reason)
        writes = db.writes
        small.passes(5)
        health.step()
        assert db.writes == writes
    finally:
        db.close()


def test_a_resume_ends_a_drain_whoever_made_it(small: Small) -> None:
    health = health_of(small)
    small.passes(1)
    small.driver.set_drained("a", "by an administrator")
    small.passes(1)
    assert health.carry_out() == 0, "what others drained is theirs"
    assert node(small, "a").status is NodeStatus.DRAINED
    wish(small, "a", is_resume_wanted=True)
    assert health.carry_out() == 1
    small.passes(1)
    assert node(small, "a").status is NodeStatus.READY
    assert not node(small, "a").is_resume_wanted
    assert health.carry_out() == 0


def test_who_resumes_a_node_on_its_cluster_is_not_overruled(small: Small) -> None:
    health = health_of(small)
    small.passes(1)
    wish(small, "a", wanted_drain_reason="new disks")
    health.step()
    small.passes(1)
    assert node(small, "a").status is NodeStatus.DRAINED
    small.driver.set_drained("a", None)
    small.passes(1)
    health.step()
    small.passes(1)
    assert node(small, "a").status is NodeStatus.READY
    assert node(small, "a").wanted_drain_reason is None


def test_a_cluster_that_does_not_answer_is_asked_again(small: Small) -> None:
    class Deaf(FakeDriver):
        deaf = True

        def set_drained(self, node_name: str, reason: str | None) -> None:
            if self.deaf:
                raise DriverUnavailableError("the connection timed out")
            super().set_drained(node_name, reason)

    small.driver = driver = Deaf(small.clock, [FakeNode("a", NODE)])
    small.reconciler = small.new_reconciler()
    health = health_of(small)
    small.passes(1)
    wish(small, "a", wanted_drain_reason="new disks")
    assert health.carry_out() == 1
    driver.deaf = False
    health.step()
    small.passes(1)
    assert node(small, "a").status is NodeStatus.DRAINED
    silent = Silence(driver.elapsed_ms, driver.elapsed_ms + 60_000)
    driver.add_fault(silent)
    small.passes(1)
    assert node(small, "a").status is NodeStatus.UNKNOWN
    assert health.carry_out() == 0, "nothing is asked of a silent cluster"


def fail_on(small: Small, bad: str, good: str) -> Callable[[], None]:
    """Have starts on ``bad`` fail; return what makes one pass and lets the health rec. look."""

    class Bad(FakeDriver):
        def spawn(self, replica_id: str, node_name: str, launch: Any) -> None:
            if node_name == bad:
                self.add_fault(FailStart(self.starts.total() + 1, after_ms=100))
            super().spawn(replica_id, node_name, launch)

    nodes = [FakeNode(name, NODE) for name in (bad, good)]
    small.driver = Bad(small.clock, nodes)
    small.reconciler = small.new_reconciler()
    health = health_of(small)

    def look() -> None:
        small.passes(1, step_ms=2_000)
        health.step()

    return look


def test_a_node_on_which_everything_fails_is_drained_with_the_evidence(small: Small) -> None:
    look = fail_on(small, "a", "b")
    first = small.want(stored_deployment(1))
    second = small.want(stored_deployment(2))
    for _ in range(30):
        look()
    assert where(small, first)[-1] == ("b", "ready")
    assert where(small, second)[-1] == ("b", "ready")
    bad = node(small, "a")
    assert bad.status is NodeStatus.DRAINED
    failed = [r.id for r in (*small.replicas(first.id), *small.replicas(second.id))]
    failed = [i for i in failed if f"{i}: exit code 1" in str(bad.reason)]
    assert len(failed) == 3
    assert str(bad.reason).startswith(AUTOMATIC)
    with small.db.read() as tx:
        (told,) = [it for it in events.last_of(tx, bad.id) if it.kind == "node.drained"]
    assert sorted(map(str, told.data.values())) == sorted(failed)
    for replica in small.replicas(first.id):
        if replica.status is ReplicaStatus.FAILED:
            assert replica.reason is not None


def test_one_broken_deployment_drains_nothing(small: Small) -> None:
    look = fail_on(small, "a", "b")
    small.want(stored_deployment(1))
    for _ in range(40):
        look()
    assert node(small, "a").status is NodeStatus.READY


def test_it_can_be_switched_off(small: Small) -> None:
    fail_on(small, "a", "b")
    off = health_of(small, failures_max=0)
    for number in (1, 2):
        small.want(stored_deployment(number))
    for _ in range(30):
        small.passes(1, step_ms=2_000)
        off.step()
    assert node(small, "a").status is NodeStatus.READY


def test_health_on_both_databases(small_on_both: Small) -> None:
    look = fail_on(small_on_both, "a", "b")
    for number in (1, 2):
        small_on_both.want(stored_deployment(number))
    for _ in range(20):
        look()
    assert node(small_on_both, "a").status is NodeStatus.DRAINED


def test_a_world_of_healthy_nodes_costs_no_write(sqlite_url: str) -> None:
    db: Database = CountingDatabase(sqlite_url)
    try:
        small = Small(db)
        small.want(stored_deployment(replicas=2))
        small.passes(6)
        writes = db.writes
        health_of(small).step()
        assert db.writes == writes
    finally:
        db.close()
