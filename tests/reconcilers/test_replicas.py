"""The replica reconciler: pass by pass, on the real store."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from tests.reconcilers.conftest import CountingDatabase, Small
from tests.support.planning import (
    GIB,
    NODE,
    ORGANIZATION,
    RECIPES,
    launch_of,
    stored_deployment,
)
from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.domain.fleet import ClusterStatus, NodeStatus
from tramontane.domain.launch import LaunchSpec, PriorityClass, Tenancy
from tramontane.domain.observation import ClusterView
from tramontane.domain.planning.calls import ENDED_KEPT
from tramontane.domain.planning.snapshot import from_json
from tramontane.domain.quotas.quota import RackReservation
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.tenancy import Organization
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.drivers.faults import (
    Crash,
    DropCall,
    FailStart,
    LoseNode,
    LoseReply,
    Silence,
)
from tramontane.reconcilers.commit import ENDED_ROWS_KEPT
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.store import deployments, fleet, replicas, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.quotas import reservations

T = TypeVar("T")


def with_need(deployment: Deployment, *, memory_gib: int = 1, devices: int = 0) -> Deployment:
    spec = replace(deployment.spec, memory_bytes=memory_gib * GIB, devices=devices)
    return replace(deployment, spec=spec)


def test_from_wanted_to_ready(small_on_both: Small) -> None:
    small = small_on_both
    wanted = small.want(stored_deployment(replicas=2))
    small.passes(1)
    assert small.statuses(wanted.id) == ["pending", "pending"]
    small.passes(5)
    assert small.statuses(wanted.id) == ["ready", "ready"]
    found = small.deployment(wanted.id)
    assert (found.status, found.ready_replicas) == (DeploymentStatus.READY, 2)
    assert found.observed_generation == 1
    assert 1_000 <= found.start_ms <= 4_000
    (route,) = small.table().routes
    assert len(route.replicas) == 2
    replica = small.replicas(wanted.id)[0]
    kinds = [event.kind for event in small.story(replica.id)]
    assert kinds == ["replica.placed", "replica.starting", "replica.ready"]
    kinds = [event.kind for event in small.story(wanted.id)]
    assert kinds[-1] == "deployment.ready"
    assert set(small.driver.starts.values()) == {1}


def test_a_world_at_rest_costs_no_write(sqlite_url: str) -> None:
    db = CountingDatabase(sqlite_url)
    try:
        small = Small(db)
        wanted = small.want(stored_deployment(replicas=3))
        small.passes(6)
        assert small.statuses(wanted.id) == ["ready"] * 3
        writes = db.writes
        assert small.reconciler.step() is False
        small.passes(5)
        assert db.writes == writes
    finally:
        db.close()


def test_something_under_way_asks_for_the_next_pass_soon(small: Small) -> None:
    small.want()
    assert small.reconciler.step() is True
    small.passes(5)
    assert small.reconciler.step() is False


def test_a_lost_reply_starts_nothing_twice(small: Small) -> None:
    small.driver.add_fault(LoseReply(1))
    wanted = small.want()
    small.passes(6)
    assert small.statuses(wanted.id) == ["ready"]
    assert list(small.driver.starts.values()) == [1]


def test_a_lost_call_is_made_again(small: Small) -> None:
    small.driver.add_fault(DropCall(1))
    wanted = small.want()
    small.passes(1)
    assert not small.driver.starts
    small.passes(6)
    assert small.statuses(wanted.id) == ["ready"]


def test_failed_starts_wait_longer_each_time(small: Small) -> None:
    for start in range(1, 5):
        small.driver.add_fault(FailStart(start, after_ms=100))
    wanted = small.want()
    waits: list[int] = []
    for _ in range(200):
        small.passes(1, step_ms=200)
        found = small.deployment(wanted.id)
        wait_ms = found.retry_at_ms - small.clock.now_ms()
        if found.failures > len(waits):
            waits.append(round(wait_ms / 1_000))
            assert found.reason is not None
            assert "last start failed: exit code 1: out of memory" in found.reason
        if found.status is DeploymentStatus.READY:
            break
    assert waits == [1, 2, 4, 8]
    assert small.deployment(wanted.id).failures == 4
    small.passes(2, step_ms=31_000)
    assert small.deployment(wanted.id).failures == 0


def test_an_engine_that_ends_is_replaced_and_its_reason_kept(small: Small) -> None:
    wanted = small.want()
    small.passes(5)
    (first,) = small.replicas(wanted.id)
    small.driver.crash(first.id, "signal 11\nsegmentation fault")
    small.passes(1)
    assert small.table().routes[0].replicas == ()
    small.passes(6)
    assert small.statuses(wanted.id) == ["failed", "ready"]
    assert small.replicas(wanted.id)[0].reason == "signal 11\nsegmentation fault"


def test_a_rollout_never_serves_with_less(small: Small) -> None:
    seen = small.want(stored_deployment(replicas=2))
    small.passes(6)
    seen = small.deployment(seen.id)
    small.change(seen, replace(seen, generation=2))
    for _ in range(40):
        small.passes(1, step_ms=500)
        assert len(small.table().routes[0].replicas) >= 2
        holding = [r for r in small.replicas(seen.id) if r.holds_capacity]
        assert len(holding) <= 3
    found = small.deployment(seen.id)
    assert found.status is DeploymentStatus.READY
    assert [r.generation for r in small.replicas(seen.id) if r.holds_capacity] == [2, 2]


def test_a_new_generation_that_fails_leaves_the_old_one_serving(small: Small) -> None:
    seen = small.want()
    small.passes(6)
    for start in range(2, 30):
        small.driver.add_fault(FailStart(start))
    seen = small.deployment(seen.id)
    small.change(seen, replace(seen, generation=2))
    for _ in range(30):
        small.passes(1)
        assert len(small.table().routes[0].replicas) == 1
    found = small.deployment(seen.id)
    assert found.status is DeploymentStatus.DEGRADED
    assert found.reason is not None
    assert "1 of them of the previous version" in found.reason


def test_a_silent_cluster_keeps_everything(small: Small) -> None:
    wanted = small.want(stored_deployment(replicas=2))
    small.passes(6)
    elapsed_ms = small.driver.elapsed_ms
    small.driver.add_fault(Silence(elapsed_ms, elapsed_ms + 3_600_000))
    small.passes(20, step_ms=60_000)
    assert small.statuses(wanted.id) == ["unknown", "unknown"]
    assert len(small.table().routes[0].replicas) == 2
    with small.db.read() as tx:
        assert fleet.list_clusters(tx)[0].status is ClusterStatus.UNKNOWN
        assert {node.status for node in fleet.list_nodes(tx)} == {NodeStatus.UNKNOWN}
    small.clock.advance(3_600_000)
    small.passes(1)
    assert small.statuses(wanted.id) == ["ready", "ready"]
    assert len(small.driver.starts) == 2


def test_a_lost_node_is_replaced_and_what_reappears_is_ended(small: Small) -> None:
    wanted = small.want()
    small.passes(5)
    lost = small.driver.processes()[0]
    elapsed_ms = small.driver.elapsed_ms
    small.driver.add_fault(LoseNode(lost.node_name, elapsed_ms, elapsed_ms + 10_000))
    small.passes(5)
    assert small.statuses(wanted.id) == ["failed", "ready"]
    small.clock.advance(10_000)
    small.passes(2)
    assert f"orphan ended: {lost.replica_id}, a process that no replica owns" in small.told
    alive = [p for p in small.driver.processes() if p.ended_at_ms is None]
    assert [process.replica_id for process in alive] == [small.replicas(wanted.id)[1].id]


def test_a_restarted_control_plane_finds_its_engines_again(small: Small) -> None:
    wanted = small.want(stored_deployment(replicas=2))
    small.passes(6)
    assert small.told == []
    small.reconciler = small.new_reconciler()
    small.passes(3)
    assert len(small.told) == 2
    for replica in small.replicas(wanted.id):
        assert [e.kind for e in small.story(replica.id)].count("replica.adopted") == 1
    assert len(small.driver.starts) == 2


def test_a_process_that_nobody_recorded_is_ended(small: Small) -> None:
    stranger = small.ids.new("rep")
    small.want(stored_deployment(replicas=0))
    small.driver.ensure(stranger, "a", launch_of())
    small.passes(2)
    assert small.told == [f"orphan ended: {stranger}, a process that no replica owns"]
    small.passes(2)
    assert small.driver.processes() == ()  # ended, and forgotten


def test_devices_are_never_shared(small_on_both: Small) -> None:
    small = small_on_both
    first = small.want(with_need(stored_deployment(1, replicas=2), devices=1))
    second = small.want(with_need(stored_deployment(2, replicas=1), devices=1))
    small.passes(6)
    held = [r.launch.device_indexes for r in small.replicas(first.id)]
    held += [r.launch.device_indexes for r in small.replicas(second.id)]
    assert sorted(held) == [(0,), (1,)]
    reasons = [small.deployment(d.id).reason for d in (first, second)]
    assert "1 of 2 ready; 1 waiting: needs 1 device more on the best node (b)" in reasons


def test_two_that_want_each_others_place_both_get_one(small: Small) -> None:
    """Both end at once; the older is planned on the younger's device, the younger on its own."""
    younger = small.want(with_need(stored_deployment(2), devices=1))
    small.passes(1)
    older = small.want(with_need(stored_deployment(1), devices=1))
    small.passes(6)
    assert [r.launch.device_indexes for r in small.replicas(younger.id)] == [(0,)]
    small.clock.advance(60_000)
    for replica in (*small.replicas(younger.id), *small.replicas(older.id)):
        small.driver.crash(replica.id)
    small.passes(8)
    assert small.statuses(younger.id) == ["failed", "ready"]
    assert small.statuses(older.id) == ["failed", "ready"]
    assert small.replicas(older.id)[1].launch.device_indexes == (0,)


class Interleaved(Database):
    """Lets another control plane make whole passes before a write of this one."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.between: Callable[[], None] | None = None

    def write(self, fn: Callable[[Transaction], T]) -> T:
        between, self.between = self.between, None
        if between is not None:
            between()
        return super().write(fn)


@pytest.mark.parametrize("devices", [0, 1])
def test_two_planners_never_place_twice(database_url: str, devices: int) -> None:
    db = Interleaved(database_url)
    other = Database(database_url)
    try:
        small = Small(db)
        small.passes(1)  # the fleet is recorded
        wanted = small.want(with_need(stored_deployment(replicas=2), devices=devices))
        rival = ReplicaReconciler(other, {"local": small.driver}, RECIPES, small.clock, small.ids)
        db.between = rival.step
        small.reconciler.step()
        assert db.between is None
        assert small.statuses(wanted.id) == ["pending", "pending"]
        small.passes(6)
        assert small.statuses(wanted.id) == ["ready", "ready"]
        assert len(small.driver.starts) == 2
    finally:
        other.close()
        db.close()


def test_two_planners_never_fill_one_place_with_two_deployments(database_url: str) -> None:
    """The rival places another deployment where this one was about to go."""
    db = Interleaved(database_url)
    other = Database(database_url)
    try:
        small = Small(db)
        small.passes(1)
        first = small.want(with_need(stored_deployment(1, replicas=1), devices=2))
        second = with_need(stored_deployment(2, replicas=1), devices=1)

        def come_between() -> None:
            other.write(lambda tx: deployments.update(tx, first, replace(first, deleted_at_ms=1)))
            other.write(lambda tx: deployments.insert(tx, second))
            ReplicaReconciler(
                other, {"local": small.driver}, RECIPES, small.clock, small.ids
            ).step()

        db.between = come_between
        small.reconciler.step()
        assert small.statuses(first.id) == []
        assert small.statuses(second.id) == ["pending"]
    finally:
        other.close()
        db.close()


def test_a_start_that_the_driver_refuses_fails_with_its_words(small: Small) -> None:
    class Refusing(FakeDriver):
        def ensure(
            self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
        ) -> None:
            raise PermissionError("not on this machine")

    small.driver = Refusing(small.clock, [FakeNode("a", NODE)])
    small.reconciler = small.new_reconciler()
    wanted = small.want()
    small.passes(2)
    found = small.deployment(wanted.id)
    assert found.failures == 1
    assert found.reason is not None
    assert "it could not be started: not on this machine" in found.reason


def test_a_driver_that_raises_is_a_silent_cluster(small: Small) -> None:
    wanted = small.want()
    small.passes(5)

    class Broken(FakeDriver):
        def view(self) -> ClusterView:
            raise RuntimeError("bug")

    small.driver = Broken(small.clock, [])
    small.reconciler = small.new_reconciler()
    small.passes(3)
    assert small.statuses(wanted.id) == ["unknown"]


def test_one_deployment_that_cannot_be_recorded_stops_no_other(small: Small) -> None:
    broken = replace(stored_deployment(1), spec=replace(stored_deployment().spec, engine="none"))
    refused = stored_deployment(2)
    refused = replace(refused, spec=replace(refused.spec, engine_options=(("refuse", "yes"),)))
    small.want(broken)
    small.want(refused)
    good = small.want(stored_deployment(3))
    small.passes(5)
    assert small.statuses(good.id) == ["ready"]
    assert small.deployment(broken.id).reason == (
        "0 of 1 ready; 1 waiting: there is no engine 'none'; known: tiny"
    )
    assert small.deployment(refused.id).reason == (
        "0 of 1 ready; 1 waiting: tiny refuses this option"
    )


@pytest.mark.slow
def test_rows_and_logs_of_a_crash_loop_are_pruned(small: Small) -> None:
    for start in range(1, ENDED_ROWS_KEPT + 6):
        small.driver.add_fault(Crash(start, after_ms=10))
    wanted = small.want()
    for _ in range(ENDED_ROWS_KEPT + 5):
        small.passes(3, step_ms=30_000)
    rows = [r for r in small.replicas(wanted.id) if r.status is ReplicaStatus.FAILED]
    assert len(rows) == ENDED_ROWS_KEPT
    ended = [p for p in small.driver.processes() if p.ended_at_ms is not None]
    assert len(ended) <= ENDED_KEPT + 1


def test_draining_all_leaves_nothing_and_the_next_start_begins_anew(small: Small) -> None:
    wanted = small.want(stored_deployment(replicas=2))
    pending = small.want(stored_deployment(2))
    small.passes(1)
    small.passes(4)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        small.clock.advance(round(seconds * 1_000))

    assert small.reconciler.drain_all(10, wait=wait) == ()
    assert 0.9 <= sum(waits) <= 2
    assert small.statuses(wanted.id) == ["stopped", "stopped"]
    found = small.deployment(wanted.id)
    assert (found.status, found.ready_replicas) == (DeploymentStatus.PENDING, 0)
    assert found.reason == "the control plane shuts down"
    replica = small.replicas(wanted.id)[0]
    assert [e.kind for e in small.story(replica.id)][-2:] == [
        "replica.stopping",
        "replica.stopped",
    ]
    small.reconciler = small.new_reconciler()
    small.passes(5)
    assert small.statuses(wanted.id)[-2:] == ["ready", "ready"]
    assert small.statuses(pending.id)[-1] == "ready"


def test_draining_ends_what_will_not_go(small: Small) -> None:
    small.driver._drain_ms = 10**9
    wanted = small.want()
    small.passes(5)
    left = small.reconciler.drain_all(
        1, wait=lambda seconds: small.clock.advance(round(seconds * 1_000))
    )
    assert left == ()
    assert small.statuses(wanted.id) == ["stopped"]


def test_draining_a_silent_cluster_confirms_nothing(small: Small) -> None:
    wanted = small.want()
    small.passes(5)
    small.driver.add_fault(Silence(0, 10**12))
    left = small.reconciler.drain_all(
        1, wait=lambda seconds: small.clock.advance(round(seconds * 1_000))
    )
    assert left == tuple(replica.id for replica in small.replicas(wanted.id))
    assert small.statuses(wanted.id) == ["stopping"]


def test_the_plan_report_changes_nothing_and_holds_no_secret(small: Small) -> None:
    wanted = small.want()
    report = small.reconciler.report_plan()
    assert [action["action"] for action in report["plan"]["actions"]] == ["place", "setstatus"]
    assert small.replicas(wanted.id) == []
    with small.db.read() as tx:
        assert fleet.list_clusters(tx) == []
    small.passes(5)
    report = small.reconciler.report_plan()
    assert report["plan"] == {"actions": [], "unplaced": []}
    text = json.dumps(report)
    for replica in small.replicas(wanted.id):
        assert replica.secret not in text
    assert from_json(text).deployments[0].id == wanted.id


def test_a_cancelled_start_is_not_made_late(small: Small) -> None:
    """Between the commit and the call the user deletes, and another planner records the end."""
    wanted = small.want()
    reconciler = small.reconciler
    snapshot = reconciler._look(record=True)
    plan = reconciler._plan(snapshot)
    placed = reconciler._commit(snapshot, plan)
    seen = small.deployment(wanted.id)
    small.change(seen, replace(seen, deleted_at_ms=small.clock.now_ms()))
    rival = small.new_reconciler()
    rivals_view = rival._look(record=True)
    rival._commit(rivals_view, rival._plan(rivals_view))
    reconciler._act(snapshot, plan, placed)
    with small.db.read() as tx:
        assert replicas.list_holding(tx)[0].status is ReplicaStatus.STOPPING
    assert not small.driver.starts


def test_what_is_started_says_whose_it_is_and_its_class(small: Small) -> None:
    made = stored_deployment()
    spec = replace(made.spec, priority_class=PriorityClass.SPOT)
    wanted = small.want(replace(made, spec=spec))
    small.passes(2)
    (replica,) = small.replicas(wanted.id)
    assert replica.launch.tenancy == Tenancy("acme", "default")
    assert replica.launch.priority_class is PriorityClass.SPOT
    assert [it.launch for it in small.driver.processes()] == [replica.launch]


def test_a_replica_on_several_nodes_holds_and_names_all_of_them(small: Small) -> None:
    calls: list[tuple[str, tuple[str, ...]]] = []

    class Noting(FakeDriver):
        def ensure(
            self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
        ) -> None:
            calls.append((node_name, tuple(peers)))
            super().ensure(replica_id, node_name, launch, peers)

    nodes = [FakeNode(name, NODE, rack=rack) for name, rack in (("a", "x"), ("b", "y"), ("c", "y"))]
    small.driver = Noting(small.clock, nodes)
    small.reconciler = small.new_reconciler()
    made = with_need(stored_deployment(replicas=2), memory_gib=10)
    wanted = small.want(replace(made, spec=replace(made.spec, nodes=2)))
    small.passes(6)
    (replica,) = small.replicas(wanted.id)
    assert replica.status is ReplicaStatus.READY
    assert calls == [("b", ("c",))]
    with small.db.read() as tx:
        names = {node.id: node.name for node in fleet.list_nodes(tx)}
    assert [names[node_id] for node_id in replica.node_ids] == ["b", "c"]
    assert "placed on nodes b, c" in [event.message for event in small.story(replica.id)]
    assert "2 nodes of one rack" in str(small.deployment(wanted.id).reason)
    small.driver.add_fault(LoseNode("c", at_ms=0, until_ms=1 << 40))
    small.passes(1)
    assert small.statuses(wanted.id) == ["failed"]


def test_a_rack_that_is_reserved_for_another_organization_is_left(small: Small) -> None:
    nodes = [FakeNode(name, NODE, rack=name) for name in ("a", "b")]
    small.driver = FakeDriver(small.clock, nodes)
    small.reconciler = small.new_reconciler()
    wanted = small.want()
    small.passes(6)
    other = Organization(small.ids.new("org"), "other", small.clock.now_ms())
    small.db.write(lambda tx: tenancy.insert_organization(tx, other))
    kept = RackReservation("rsv_1", other.id, "local", "a")
    small.db.write(lambda tx: reservations.insert(tx, kept, 1))
    small.passes(10)
    with small.db.read() as tx:
        names = {node.id: node.name for node in fleet.list_nodes(tx)}
    found = [(names[r.node_id], str(r.status)) for r in small.replicas(wanted.id)]
    assert found == [("a", "stopped"), ("b", "ready")]
    own = RackReservation("rsv_2", ORGANIZATION.id, "local", "b")
    small.db.write(lambda tx: reservations.insert(tx, own, 1))
    small.passes(3)
    assert small.statuses(wanted.id) == ["stopped", "ready"]
