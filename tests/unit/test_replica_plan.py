"""The plan as a whole: what is decided together, and what is said about it."""

from dataclasses import replace

import pytest

from tests.support.planning import (
    GIB,
    NOW_MS,
    SMALL,
    deployment_of,
    node_of,
    replica_of,
    seen,
    snapshot_of,
    typed_id,
)
from tramontane.domain import ids
from tramontane.domain.deployment import AutoscaleSpec, Deployment, DeploymentStatus, Scale
from tramontane.domain.fleet import NodeStatus
from tramontane.domain.observation import Observation, Reachable, RunState, Unreachable
from tramontane.domain.planning.backoff import STABLE_MS
from tramontane.domain.planning.calls import DRAIN_GRACE_MS, ENDED_KEPT, SETTLE_MS
from tramontane.domain.planning.plan import (
    Ensure,
    Forget,
    Place,
    Plan,
    SetStatus,
    Stop,
    StopOrphan,
    Transition,
)
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.planning.snapshot import KeptRack, Need, ReplicaSnapshot
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.resources import Resources

READY, STARTING, FAILED = ReplicaStatus.READY, ReplicaStatus.STARTING, ReplicaStatus.FAILED
PENDING, STOPPING = ReplicaStatus.PENDING, ReplicaStatus.STOPPING


def status_in(plan: Plan) -> SetStatus:
    return next(action for action in plan.actions if isinstance(action, SetStatus))


def kinds(plan: Plan) -> list[str]:
    return [type(action).__name__ for action in plan.actions]


def test_a_new_deployment_is_placed_and_described() -> None:
    deployment = deployment_of(replicas=2, observed_generation=0)
    plan = plan_replicas(snapshot_of((deployment,)))
    places = [action for action in plan.actions if isinstance(action, Place)]
    assert [place.resources for place in places] == [SMALL, SMALL]
    assert len({place.node_id for place in places}) == 2
    told = status_in(plan)
    assert told.observed_generation == 1
    assert (told.status, told.reason) == (DeploymentStatus.PENDING, "0 of 2 ready; 2 starting")


def test_a_world_as_wanted_needs_nothing() -> None:
    deployment = deployment_of(replicas=2, status=DeploymentStatus.READY, ready_replicas=2)
    replicas = (replica_of(1, deployment), replica_of(2, deployment))
    plan = plan_replicas(snapshot_of((deployment,), replicas))
    assert plan == Plan((), ())


def test_only_recorded_replicas_are_started() -> None:
    deployment = deployment_of(replicas=2)
    pending = replica_of(1, deployment, PENDING, created_at_ms=NOW_MS)
    plan = plan_replicas(snapshot_of((deployment,), (pending,)))
    assert [a.replica_id for a in plan.actions if isinstance(a, Ensure)] == [pending.id]


def test_a_failure_is_counted_told_and_waited_for() -> None:
    deployment = deployment_of(failures=2, retry_at_ms=NOW_MS - 1)
    replica = replica_of(1, deployment, STARTING)
    ended = seen(replica, RunState.EXITED, "exit code 1:\nloading\nout of memory")
    plan = plan_replicas(snapshot_of((deployment,), (replica,), observations=(ended,)))
    assert kinds(plan) == ["Transition", "SetStatus"]
    told = status_in(plan)
    assert (told.failures, told.retry_at_ms) == (3, NOW_MS + 4_000)
    assert told.reason == (
        "0 of 1 ready; last start failed: exit code 1: out of memory; next try after 4 s"
    )


def test_after_the_wait_it_is_tried_again() -> None:
    deployment = deployment_of(failures=3, retry_at_ms=NOW_MS)
    early = plan_replicas(snapshot_of((deployment,), now_ms=NOW_MS - 1))
    assert "Place" not in kinds(early)
    assert "Place" in kinds(plan_replicas(snapshot_of((deployment,))))


def test_a_new_generation_does_not_wait_for_the_old_one() -> None:
    deployment = deployment_of(failures=6, retry_at_ms=NOW_MS + 60_000, generation=2)
    plan = plan_replicas(snapshot_of((deployment,)))
    assert "Place" in kinds(plan)
    assert status_in(plan).failures == 0


def test_an_engine_that_served_long_is_replaced_at_once() -> None:
    deployment = deployment_of()
    replica = replica_of(1, deployment, ready_at_ms=NOW_MS - STABLE_MS)
    ended = seen(replica, RunState.EXITED, "signal 9")
    plan = plan_replicas(snapshot_of((deployment,), (replica,), observations=(ended,)))
    assert kinds(plan)[:2] == ["Transition", "Place"]


def test_several_ends_in_one_pass_are_one_failure() -> None:
    deployment = deployment_of(replicas=3)
    replicas = tuple(replica_of(n, deployment, STARTING) for n in (1, 2, 3))
    ended = tuple(seen(replica, RunState.EXITED, "no") for replica in replicas)
    plan = plan_replicas(snapshot_of((deployment,), replicas, observations=ended))
    assert status_in(plan).failures == 1


def test_a_lost_node_is_nobodys_failure() -> None:
    deployment = deployment_of()
    replica = replica_of(1, deployment, ready_at_ms=NOW_MS - 10)
    nodes = (node_of(1, status=NodeStatus.LOST), node_of(2))
    plan = plan_replicas(snapshot_of((deployment,), (replica,), nodes=nodes))
    assert kinds(plan) == ["Transition", "Place", "SetStatus"]
    assert status_in(plan).failures == 0


def test_silence_replaces_nothing() -> None:
    deployment = deployment_of(status=DeploymentStatus.READY, ready_replicas=1)
    replica = replica_of(1, deployment)
    plan = plan_replicas(snapshot_of((deployment,), (replica,), view=Unreachable("timed out")))
    assert kinds(plan) == ["Transition", "SetStatus"]
    told = status_in(plan)
    assert told.status is DeploymentStatus.DEGRADED  # it may well serve
    assert told.reason is not None
    assert "does not answer (local: timed out)" in told.reason


def test_what_does_not_fit_says_how_much_is_missing() -> None:
    deployment = deployment_of(replicas=3, ready_replicas=1)
    need = Resources(1_000, 12 * GIB)
    replica = replica_of(1, deployment, need=need)
    plan = plan_replicas(snapshot_of((deployment,), (replica,), nodes=(node_of(1),), need=need))
    (unplaced,) = plan.unplaced
    assert unplaced.count == 2
    assert unplaced.reason == "needs 8.0 GiB memory more on the best node (node-1)"
    told = status_in(plan)
    assert told.reason == f"1 of 3 ready; 2 waiting: {unplaced.reason}"


def test_a_rollout_without_room_keeps_the_old_and_says_why() -> None:
    need = Resources(1_000, 12 * GIB)
    deployment = deployment_of(generation=2)
    old = replica_of(1, deployment, need=need, generation=1)
    plan = plan_replicas(snapshot_of((deployment,), (old,), nodes=(node_of(1),), need=need))
    assert kinds(plan) == ["SetStatus"]
    told = status_in(plan)
    assert told.status is DeploymentStatus.DEGRADED
    assert told.reason is not None
    assert "1 of them of the previous version; 1 waiting: needs 8.0 GiB memory more" in told.reason


def test_a_refusal_of_the_recipe_is_the_reason() -> None:
    deployment = deployment_of()
    snapshot = replace(
        snapshot_of((deployment,)), needs=(Need(deployment.id, None, "context too long"),)
    )
    plan = plan_replicas(snapshot)
    assert "Place" not in kinds(plan)
    assert status_in(plan).reason == "0 of 1 ready; 1 waiting: context too long"


def test_those_who_have_nothing_are_placed_first_then_the_older() -> None:
    room_for_three = (node_of(1, Resources(3_000, 3 * GIB)),)
    old = deployment_of(1, replicas=3)
    young = deployment_of(2, replicas=3)
    plan = plan_replicas(snapshot_of((young, old), nodes=room_for_three))
    placed = [action.deployment_id for action in plan.actions if isinstance(action, Place)]
    assert sorted(placed) == sorted([old.id, old.id, young.id])


def routed_stop(snapshot: ReplicaSnapshot) -> list[Stop]:
    return [action for action in plan_replicas(snapshot).actions if isinstance(action, Stop)]


def test_a_drain_waits_for_the_routes_and_then_a_moment() -> None:
    deployment = deployment_of(replicas=0)
    replica = replica_of(1, deployment, STOPPING, changed_at_ms=NOW_MS)
    deployments = (deployment,)
    named = frozenset({replica.id})
    later = NOW_MS + SETTLE_MS
    assert not routed_stop(snapshot_of(deployments, (replica,), routed=named, now_ms=later))
    assert not routed_stop(snapshot_of(deployments, (replica,), now_ms=later - 1))
    (stop,) = routed_stop(snapshot_of(deployments, (replica,), now_ms=later))
    assert stop.drain
    draining = (seen(replica, RunState.DRAINING),)
    again = snapshot_of(deployments, (replica,), observations=draining, now_ms=later)
    assert not routed_stop(again)


def test_a_drain_that_hangs_is_cut() -> None:
    deployment = deployment_of(replicas=0)
    replica = replica_of(1, deployment, STOPPING, changed_at_ms=NOW_MS)
    late = NOW_MS + 30_000 + DRAIN_GRACE_MS + 1
    draining = (seen(replica, RunState.DRAINING),)
    snapshot = snapshot_of((deployment,), (replica,), observations=draining, now_ms=late)
    (stop,) = routed_stop(snapshot)
    assert not stop.drain


def test_what_never_served_is_stopped_at_once() -> None:
    deployment = deployment_of(replicas=0)
    replica = replica_of(1, deployment, STOPPING, ready_at_ms=None, changed_at_ms=NOW_MS)
    (stop,) = routed_stop(snapshot_of((deployment,), (replica,)))
    assert not stop.drain


def test_orphans_are_stopped_and_their_node_gets_nothing_meanwhile() -> None:
    deployment = deployment_of()
    failed = replica_of(1, deployment, FAILED)
    stranger = replica_of(2, deployment, READY, node=2)
    observations = (seen(failed), seen(stranger))
    snapshot = snapshot_of((deployment,), (failed,), observations=observations)
    plan = plan_replicas(snapshot)
    stopped = [action.replica_id for action in plan.actions if isinstance(action, StopOrphan)]
    assert stopped == sorted([failed.id, stranger.id])
    assert "Place" not in kinds(plan)
    assert plan.unplaced[0].reason.endswith("no node is ready")


def test_an_orphan_on_a_silent_cluster_is_left_alone() -> None:
    snapshot = snapshot_of((), (), view=Unreachable("timed out"))
    assert plan_replicas(snapshot) == Plan((), ())


def test_the_newest_few_ended_processes_are_kept_for_their_logs() -> None:
    deployment = deployment_of(replicas=0, status=DeploymentStatus.STOPPED)
    ended = tuple(replica_of(n, deployment, FAILED) for n in range(1, ENDED_KEPT + 3))
    listed = tuple(seen(replica, RunState.EXITED) for replica in ended)
    stranger = replica_of(50, deployment)
    observations = (*listed, seen(stranger, RunState.EXITED))
    plan = plan_replicas(snapshot_of((deployment,), ended, observations=observations))
    forgotten = {action.replica_id for action in plan.actions if isinstance(action, Forget)}
    assert forgotten == {ended[0].id, ended[1].id, stranger.id}
    gone = plan_replicas(snapshot_of((), ended, observations=listed))
    assert len(gone.actions) == len(ended)


def test_a_deleted_deployment_drains_then_stops() -> None:
    deployment = deployment_of(deleted_at_ms=NOW_MS, status=DeploymentStatus.READY)
    replica = replica_of(1, deployment)
    plan = plan_replicas(snapshot_of((deployment,), (replica,)))
    (transition,) = [action for action in plan.actions if isinstance(action, Transition)]
    assert (transition.to, transition.message) == (STOPPING, "its deployment was deleted")
    assert status_in(plan).status is DeploymentStatus.STOPPING
    after = replace(deployment, status=DeploymentStatus.STOPPING)
    assert status_in(plan_replicas(snapshot_of((after,)))).status is DeploymentStatus.STOPPED


def test_the_start_is_measured() -> None:
    deployment = deployment_of()
    replica = replica_of(1, deployment, STARTING, created_at_ms=NOW_MS - 7_000)
    observations = (seen(replica, RunState.READY),)
    plan = plan_replicas(snapshot_of((deployment,), (replica,), observations=observations))
    assert status_in(plan).start_ms == 7_000


def test_a_start_tried_in_vain_is_told() -> None:
    deployment = deployment_of()
    pending = replica_of(1, deployment, PENDING, created_at_ms=NOW_MS)
    snapshot = replace(
        snapshot_of((deployment,), (pending,)), start_errors=((pending.id, "the disk is full"),)
    )
    told = status_in(plan_replicas(snapshot))
    assert told.reason == "0 of 1 ready; 1 starting; a start is tried again: the disk is full"


@pytest.mark.parametrize("lost", [True, False])
def test_patched_twice_quickly_leaks_nothing(lost: bool) -> None:
    deployment = deployment_of(generation=3)
    middle = replica_of(1, deployment, STARTING, generation=2)
    first = replica_of(2, deployment, READY, generation=1)
    observations: tuple[Observation, ...] = (
        (seen(first),)
        if lost
        else (
            seen(first),
            seen(middle, RunState.STARTING),
        )
    )
    plan = plan_replicas(snapshot_of((deployment,), (middle, first), observations=observations))
    moves = {a.replica_id: a.to for a in plan.actions if isinstance(a, Transition)}
    assert moves == {middle.id: FAILED if lost else STOPPING}
    assert ("Place" in kinds(plan)) is lost  # else its place comes free first


def test_a_last_replica_with_requests_is_kept() -> None:
    """Its deployment may go to zero, but its engine says that somebody still asks it."""
    made = deployment_of(scale=Scale(0, NOW_MS, "no request"), status=DeploymentStatus.READY)
    made = replace(made, spec=replace(made.spec, autoscale=AutoscaleSpec(0, 3, 4)))
    replica = replica_of(1, made)
    for running, waiting, is_kept in (
        (1, 0, True),
        (0, 2, True),
        (0, 0, False),
        (None, None, False),
    ):
        told = replace(seen(replica), requests_running=running, requests_waiting=waiting)
        plan = plan_replicas(snapshot_of((made,), (replica,), observations=(told,)))
        ends = [a for a in plan.actions if isinstance(a, Transition) and a.to is STOPPING]
        assert bool(ends) is not is_kept, (running, waiting)


def test_replicas_stay_on_the_cluster_that_is_asked_for() -> None:
    me = deployment_of()
    far = replace(me, spec=replace(me.spec, cluster="far"))
    plan = plan_replicas(snapshot_of((far,)))
    assert "Place" not in kinds(plan)
    assert "no node of cluster far is ready" in str(status_in(plan).reason)
    near = replace(me, spec=replace(me.spec, cluster="local"))
    assert "Place" in kinds(plan_replicas(snapshot_of((near,))))


def test_a_replica_on_several_nodes_is_placed_on_all_of_them_or_none() -> None:
    me = deployment_of(replicas=2)
    me = replace(me, spec=replace(me.spec, nodes=2))
    nodes = tuple(replace(node_of(n, devices=4), rack="r1") for n in (1, 2, 3))
    plan = plan_replicas(snapshot_of((me,), nodes=nodes, need=Resources(1_000, GIB, 4)))
    (place,) = [a for a in plan.actions if isinstance(a, Place)]
    names = [typed_id(ids.NODE, n) for n in (1, 2)]
    assert [place.node_id, *place.peer_node_ids] == names
    assert place.device_indexes == (0, 1, 2, 3)
    (unplaced,) = plan.unplaced
    assert unplaced.count == 1
    assert "the best rack (r1) has room on 1" in unplaced.reason


def test_what_others_use_is_no_room_for_a_replica() -> None:
    snapshot = snapshot_of((deployment_of(),), nodes=(node_of(1),))
    state = snapshot.clusters[0]
    assert isinstance(state.view, Reachable)

    def planned(used: Resources, me: Deployment = snapshot.deployments[0]) -> Plan:
        taken = replace(state.view.nodes[0], used=used)
        view = replace(state.view, nodes=(taken,))
        shared = replace(snapshot, deployments=(me,), clusters=(replace(state, view=view),))
        return plan_replicas(shared)

    plan = planned(Resources(7_500, 0))
    assert "Place" not in kinds(plan)
    told = status_in(plan)
    assert "others use what there would be for it" in str(told.reason)
    rested = replace(snapshot.deployments[0], reason=told.reason, status=told.status)
    assert planned(Resources(7_700, GIB), rested).actions == (), "no write for what others do"


def test_what_a_start_waits_for_is_told_without_the_estimate() -> None:
    me = deployment_of(observed_generation=1)
    start = replica_of(1, me, STARTING)

    def planned(reason: str, deployment: Deployment = me) -> Plan:
        seen_now = (seen(start, RunState.STARTING, reason),)
        return plan_replicas(snapshot_of((deployment,), (start,), observations=seen_now))

    told = status_in(planned("it waits for Resources; about 3 min"))
    assert told.reason == "0 of 1 ready; 1 starting (it waits for Resources)"
    rested = replace(me, status=told.status, reason=told.reason)
    assert planned("it waits for Resources; about 2 min", rested).actions == ()
    assert planned("it waits for Priority; about 2 min", rested).actions != ()


def test_a_rack_that_is_reserved_for_others_gets_nothing_and_is_left() -> None:
    me = deployment_of()
    nodes = tuple(replace(node_of(n), rack=f"r{n}") for n in (1, 2))
    theirs = KeptRack("local", "r1", ())
    plan = plan_replicas(replace(snapshot_of((me,), nodes=nodes), kept_racks=(theirs,)))
    assert [a.node_id for a in plan.actions if isinstance(a, Place)] == [nodes[1].id]
    mine = replace(theirs, project_ids=(me.project_id,))
    elsewhere = replace(theirs, cluster="far")
    for kept in (mine, elsewhere):
        plan = plan_replicas(replace(snapshot_of((me,), nodes=nodes), kept_racks=(kept,)))
        assert [a.node_id for a in plan.actions if isinstance(a, Place)] == [nodes[0].id]
    old = replica_of(1, me)
    moving = replace(snapshot_of((me,), (old,), nodes=nodes), kept_racks=(theirs,))
    told = plan_replicas(moving)
    assert [a.node_id for a in told.actions if isinstance(a, Place)] == [nodes[1].id]
    assert "1 to be replaced: its rack is reserved for another organization" in str(
        status_in(told).reason
    )
