"""Planning replicas, at the edges: what is counted, what is said, and what replaces what."""

from dataclasses import replace

from tests.support.planning import (
    GIB,
    NOW_MS,
    deployment_of,
    node_of,
    replica_of,
    seen,
    snapshot_of,
    typed_id,
)
from tramontane.domain import ids
from tramontane.domain.deployment import AutoscaleSpec, DeploymentStatus, Scale
from tramontane.domain.fleet import NodeStatus
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptState
from tramontane.domain.observation import NodeObservation, Reachable, RunState
from tramontane.domain.planning.plan import Place, Plan, SetStatus, Transition
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.resources import Resources

READY, STARTING, FAILED = ReplicaStatus.READY, ReplicaStatus.STARTING, ReplicaStatus.FAILED
STOPPING = ReplicaStatus.STOPPING


def moves(plan: Plan) -> list[tuple[str, ReplicaStatus, str | None]]:
    found = [action for action in plan.actions if isinstance(action, Transition)]
    return [(move.replica_id, move.to, move.message) for move in found]


def status_in(plan: Plan) -> SetStatus:
    (told,) = [action for action in plan.actions if isinstance(action, SetStatus)]
    return told


def test_becoming_ready_is_no_failure_and_a_short_service_is_one() -> None:
    me = deployment_of()
    starting = replica_of(1, me, STARTING, created_at_ms=NOW_MS - 7_000)
    shown = (seen(starting, RunState.READY),)
    told = status_in(plan_replicas(snapshot_of((me,), (starting,), observations=shown)))
    assert (told.status, told.failures, told.start_ms) == (DeploymentStatus.READY, 0, 7_000)
    short = replica_of(1, me, ready_at_ms=NOW_MS - 5_000)
    ended = (seen(short, RunState.EXITED, "signal 9"),)
    plan = plan_replicas(snapshot_of((me,), (short,), observations=ended))
    assert (status_in(plan).failures, status_in(plan).retry_at_ms > NOW_MS) == (1, True)
    assert not [action for action in plan.actions if isinstance(action, Place)]


def test_a_start_that_nobody_looked_at_took_no_longer_than_it_may() -> None:
    me = deployment_of()
    for passed_ms, told_ms in ((10**9, 60_000), (0, 1)):
        starting = replica_of(1, me, STARTING, created_at_ms=NOW_MS - passed_ms)
        starting = replace(starting, launch=replace(starting.launch, ready_timeout_s=60))
        shown = (seen(starting, RunState.READY),)
        plan = plan_replicas(snapshot_of((me,), (starting,), observations=shown))
        assert status_in(plan).start_ms == told_ms


def test_whoever_stops_is_told_why() -> None:
    new = replica_of(2, deployment_of(), generation=2, created_at_ms=NOW_MS - 1)
    old = replica_of(1, deployment_of(), generation=1)
    two = deployment_of(generation=2, ready_replicas=1)
    plan = plan_replicas(snapshot_of((two,), (old, new)))
    assert moves(plan) == [(old.id, STOPPING, "replaced by a newer generation")]
    me = deployment_of(replicas=0)
    one = replica_of(1, me)
    assert moves(plan_replicas(snapshot_of((me,), (one,)))) == [(one.id, STOPPING, "scaled down")]
    me = replace(
        deployment_of(scale=Scale(0, NOW_MS, "no request")),
        spec=replace(me.spec, replicas=0, autoscale=AutoscaleSpec(0, 3, 4)),
    )
    plan = plan_replicas(snapshot_of((me,), (one,)))
    assert moves(plan) == [(one.id, STOPPING, "scaled down: no request")]


def test_what_stops_makes_one_move_and_is_not_to_be_replaced_any_more() -> None:
    me = deployment_of(replicas=0)
    starting = replica_of(1, me, STARTING)
    shown = (seen(starting, RunState.READY),)
    drained = (replace(node_of(1), status=NodeStatus.DRAINED), node_of(2))
    snapshot = snapshot_of((me,), (starting,), nodes=drained, observations=shown)
    plan = plan_replicas(snapshot)
    assert moves(plan) == [(starting.id, STOPPING, "its node node-1 is drained")]
    assert "to be replaced" not in str(status_in(plan).reason)
    other = replica_of(2, deployment_of(2), STARTING, node=2)
    both = (seen(starting, RunState.READY), seen(other, RunState.READY))
    snapshot = snapshot_of((me, deployment_of(2)), (starting, other), observations=both)
    plan = plan_replicas(snapshot)
    assert {(id_, to) for id_, to, _ in moves(plan)} == {(starting.id, STOPPING), (other.id, READY)}


def test_nothing_goes_beside_an_attempt_that_no_row_accounts_for() -> None:
    me, node = deployment_of(), node_of(1, devices=1)
    stray = AttemptObservation("att_stray", AttemptState.RUNNING, node_names=(node.name,))
    shown = (NodeObservation(node.name, node.capacity, node.devices),)
    for attempts, count in (((), 1), ((stray,), 0)):
        view = Reachable(shown, (), attempts)
        plan = plan_replicas(snapshot_of((me,), nodes=(node,), view=view))
        assert len([a for a in plan.actions if isinstance(a, Place)]) == count


def test_a_failure_of_an_older_version_is_not_the_last_one() -> None:
    me = deployment_of(generation=2, observed_generation=2, failures=1, retry_at_ms=NOW_MS + 2_000)
    old = replica_of(1, me, FAILED, generation=1, reason="old trouble")
    new = replica_of(2, me, FAILED, generation=2, reason="new trouble", changed_at_ms=1)
    told = str(status_in(plan_replicas(snapshot_of((me,), (old, new)))).reason)
    assert "old trouble" not in told
    assert told.endswith("last start failed: new trouble; next try after 1 s")
    due = replace(me, retry_at_ms=NOW_MS)
    told = str(status_in(plan_replicas(snapshot_of((due,), (old, new)))).reason)
    assert "next try" not in told


def test_the_oldest_of_those_who_have_as_much_comes_first() -> None:
    tight = (node_of(1, Resources(1_000, GIB)),)
    young, old = deployment_of(1, created_at_ms=9), deployment_of(2, created_at_ms=5)
    twin = deployment_of(3, created_at_ms=5)
    for deployments in ((young, old, twin), (twin, old, young)):
        plan = plan_replicas(snapshot_of(deployments, nodes=tight))
        (place,) = [action for action in plan.actions if isinstance(action, Place)]
        assert place.deployment_id == min(old.id, twin.id)


def test_replicas_that_follow_the_demand_and_have_one_wanted_are_not_kept_up() -> None:
    """Only the last one of what may go to zero is kept for its requests."""
    me = replace(deployment_of(), spec=replace(deployment_of().spec, replicas=0))
    one = replica_of(1, me)
    busy = (replace(seen(one), requests_running=3),)
    plan = plan_replicas(snapshot_of((me,), (one,), observations=busy))
    assert moves(plan) == [(one.id, STOPPING, "scaled down")]
    assert one.node_id == typed_id(ids.NODE, 1)
