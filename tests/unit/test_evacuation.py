"""Who has to leave a node or a cluster, when, and that its successor is there first."""

from dataclasses import replace

import pytest

from tests.support.planning import (
    GIB,
    NODE,
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
from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.observation import Observation, RunState, Unreachable
from tramontane.domain.planning.plan import Place, SetStatus, Transition
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.domain.upkeep.evacuation import MARGIN_MS, STOP_MARGIN_MS, lead_ms, leaving

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
DRAINED = NodeStatus.DRAINED
ME = deployment_of(replicas=1, status=DeploymentStatus.READY, ready_replicas=1)
TIGHT = Resources(8_000, 16 * GIB)  # as much as a node has


def ends_in(left_ms: int, replica: Replica) -> Observation:
    return replace(seen(replica), ends_at_ms=NOW_MS + left_ms)


def why(replica: Replica, left_ms: int, start_ms: int = 5_000, count: int = 1) -> str | None:
    it = leaving(
        replica, {}, ends_in(left_ms, replica), start_ms=start_ms, now_ms=NOW_MS, count=count
    )
    return it and f"{it.why}{' now' if it.is_due else ''}"


def test_a_lead_grows_with_the_start_the_drain_and_how_many_follow_one_another() -> None:
    assert lead_ms(5_000, 30) == 10_000 + 30_000 + MARGIN_MS
    assert lead_ms(600_000, 120, 3) == 3 * (1_200_000 + 120_000 + MARGIN_MS)


def test_a_successor_is_wanted_in_time_and_the_last_moment_to_drain_is_kept() -> None:
    old = replica_of(1, ME, ready_at_ms=NOW_MS - DAY_MS)  # drains for up to 30 s
    assert why(old, lead_ms(5_000, 30) + 1) is None
    assert why(old, lead_ms(5_000, 30)) == "its time on the cluster ends soon"
    assert why(old, lead_ms(5_000, 30) + 1, count=2) == "its time on the cluster ends soon"
    assert why(old, 30_000 + STOP_MARGIN_MS + 1) == "its time on the cluster ends soon"
    assert why(old, 30_000 + STOP_MARGIN_MS) == "its time on the cluster is over now"
    assert why(old, -1) == "its time on the cluster is over now"


def test_a_short_time_is_served_for_half_before_a_successor_is_wanted() -> None:
    whole_ms = 2 * MINUTE_MS  # far below the lead of a start of ten minutes
    for served_ms, expected in (
        (0, None),
        (whole_ms // 2 - 1, None),
        (whole_ms // 2, "its time on the cluster ends soon"),
        (whole_ms * 3 // 4, "its time on the cluster is over now"),
    ):
        replica = replica_of(1, ME, ready_at_ms=NOW_MS - served_ms)
        assert why(replica, whole_ms - served_ms, start_ms=10 * MINUTE_MS) == expected


def test_one_that_never_served_is_not_replaced_for_its_time() -> None:
    assert why(replica_of(1, ME, ReplicaStatus.STARTING), 1) is None


def test_a_node_that_is_drained_or_kept_for_others_is_left() -> None:
    first, second = typed_id(ids.NODE, 1), typed_id(ids.NODE, 2)
    wide = replace(replica_of(1, ME), peer_node_ids=(second,))

    def said(nodes: dict[str, Node], *closed: str) -> str | None:
        found = leaving(wide, nodes, None, start_ms=0, now_ms=NOW_MS, closed=closed)
        return found and f"{found.why}{' now' if found.is_due else ''}"

    assert said({}) is None
    assert said({first: node_of(1), second: node_of(2)}, typed_id(ids.NODE, 3)) is None
    assert said({second: drained(2)}) == "its node node-2 is drained"
    for closed in (first, second):
        assert said({}, closed) == "its rack is reserved for another organization"


def plan_of(
    replicas: tuple[Replica, ...],
    nodes: tuple[Node, ...],
    me: Deployment = ME,
    need: Resources = TIGHT,
    observations: tuple[Observation, ...] | None = None,
):
    return plan_replicas(
        snapshot_of((me,), replicas, nodes=nodes, need=need, observations=observations)
    )


def told(actions: tuple[object, ...]) -> SetStatus:
    return next(action for action in actions if isinstance(action, SetStatus))


def drained(number: int, reason: str | None = None) -> Node:
    return replace(node_of(number, NODE, DRAINED), reason=reason)


def test_the_successor_comes_first_and_elsewhere() -> None:
    old = replica_of(1, ME, need=TIGHT)
    nodes = (drained(1, "new disks"), node_of(2))
    actions = plan_of((old,), nodes).actions
    assert [a.node_id for a in actions if isinstance(a, Place)] == [typed_id(ids.NODE, 2)]
    assert not [a for a in actions if isinstance(a, Transition)]
    status = told(actions)
    assert status.status is DeploymentStatus.READY
    assert status.reason == (
        "1 of 1 ready; 1 starting; 1 to be replaced: its node node-1 is drained"
    )
    starting = replica_of(2, ME, ReplicaStatus.STARTING, node=2, need=TIGHT)
    waiting = plan_of((old, starting), nodes).actions
    assert not [a for a in waiting if isinstance(a, (Place, Transition))]
    new = replica_of(2, ME, node=2, need=TIGHT)
    moves = plan_of((old, new), nodes).actions
    assert [(a.replica_id, a.to, a.message) for a in moves if isinstance(a, Transition)] == [
        (old.id, ReplicaStatus.STOPPING, "its node node-1 is drained")
    ]


def test_without_room_it_serves_on_and_the_deployment_says_why() -> None:
    old = replica_of(1, ME, need=TIGHT)
    plan = plan_of((old,), (drained(1),))
    assert not [a for a in plan.actions if isinstance(a, (Place, Transition))]
    status = told(plan.actions)
    assert (status.status, status.ready_replicas) == (DeploymentStatus.READY, 1)
    assert status.reason == (
        "1 of 1 ready; 1 to be replaced: its node node-1 is drained; "
        "1 waiting: needs 8 CPU, 16.0 GiB memory, and no node is ready"
    )
    rested = replace(ME, reason=status.reason)
    assert plan_of((old,), (drained(1),), me=rested).actions == ()


def test_at_the_end_of_its_time_it_drains_whether_or_not_another_serves() -> None:
    old = replica_of(1, ME, need=TIGHT, ready_at_ms=NOW_MS - DAY_MS)
    plan = plan_of((old,), (node_of(1),), observations=(ends_in(10_000, old),))
    moves = [(a.to, a.message) for a in plan.actions if isinstance(a, Transition)]
    assert moves == [(ReplicaStatus.STOPPING, "its time on the cluster is over")]
    assert told(plan.actions).status is DeploymentStatus.PENDING


def test_a_start_on_a_drained_node_goes_only_when_another_took_its_place() -> None:
    me = deployment_of(replicas=1)
    start = replica_of(1, me, ReplicaStatus.STARTING, need=TIGHT)
    alone = plan_of((start,), (drained(1),), me=me)
    assert not [a for a in alone.actions if isinstance(a, Transition)]
    other = replica_of(2, me, ReplicaStatus.STARTING, node=2, need=TIGHT)
    moves = plan_of((start, other), (drained(1), node_of(2)), me=me).actions
    assert [a.replica_id for a in moves if isinstance(a, Transition)] == [start.id]


def test_of_a_scale_down_the_leaving_one_is_the_victim() -> None:
    me = deployment_of(replicas=1)
    there = tuple(replica_of(n, me, node=n) for n in (1, 2))
    moves = plan_of(there, (drained(1), node_of(2)), me=me, need=SMALL).actions
    assert [a.replica_id for a in moves if isinstance(a, Transition)] == [there[0].id]


def test_a_silent_cluster_makes_nobody_leave() -> None:
    old = replica_of(1, ME, need=TIGHT)
    unknown = replace(node_of(1), status=NodeStatus.UNKNOWN, reason="new disks")
    snapshot = snapshot_of((ME,), (old,), nodes=(unknown, node_of(2)), view=Unreachable("away"))
    assert not [a for a in plan_replicas(snapshot).actions if isinstance(a, Place)]


def test_a_lost_node_is_lost_even_if_something_on_it_still_answers() -> None:
    old = replica_of(1, ME)
    lost = node_of(1, NODE, NodeStatus.LOST)
    actions = plan_of((old,), (lost, node_of(2)), observations=(seen(old),)).actions
    assert [(a.to, a.message) for a in actions if isinstance(a, Transition)] == [
        (ReplicaStatus.FAILED, "its node was lost")
    ]
    assert [a.node_id for a in actions if isinstance(a, Place)] == [typed_id(ids.NODE, 2)]


@pytest.mark.parametrize("state", [RunState.STARTING, RunState.READY])
def test_a_lost_peer_loses_the_replica(state: RunState) -> None:
    wide = replica_of(1, ME, peer_node_ids=(typed_id(ids.NODE, 2),))
    nodes = (node_of(1), node_of(2, NODE, NodeStatus.LOST))
    actions = plan_of((wide,), nodes, observations=(seen(wide, state),)).actions
    assert [a.to for a in actions if isinstance(a, Transition)] == [ReplicaStatus.FAILED]
    drained_peer = (node_of(1), drained(2))
    kept = plan_of((wide,), drained_peer, observations=(seen(wide),)).actions
    assert "its node node-2 is drained" in str(told(kept).reason)
