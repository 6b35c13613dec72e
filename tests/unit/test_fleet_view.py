"""What a view makes of the recorded cluster and nodes."""

from dataclasses import replace

from tests.support.planning import NODE, NOW_MS, node_of, state_of, typed_id
from tramontane.domain import ids
from tramontane.domain.fleet import ClusterStatus, Node, NodeStatus
from tramontane.domain.observation import (
    ClusterView,
    NodeObservation,
    Reachable,
    Unreachable,
)
from tramontane.domain.planning.fleet_view import merge_cluster
from tramontane.domain.planning.snapshot import ClusterState

CLUSTER = state_of(()).cluster
LATER_MS = NOW_MS + 5_000


def merge(nodes: list[Node], view: ClusterView) -> ClusterState:
    made = typed_id(ids.NODE, 99)
    return merge_cluster(CLUSTER, nodes, view, seen_at_ms=LATER_MS, new_id=lambda _prefix: made)


def test_a_fleet_at_rest_stays_as_it_is() -> None:
    node = node_of(1)
    seen = Reachable((NodeObservation("node-1", NODE),), ())
    assert merge([node], seen).nodes == (node,)


def test_a_new_node_gets_an_id_and_a_changed_one_keeps_it() -> None:
    seen = Reachable(
        (NodeObservation("node-1", NODE, is_drained=True), NodeObservation("x", NODE)), ()
    )
    drained, new = merge([node_of(1)], seen).nodes
    assert (drained.id, drained.status) == (node_of(1).id, NodeStatus.DRAINED)
    assert drained.last_seen_at_ms == LATER_MS
    assert (new.id, new.name, new.status) == (typed_id(ids.NODE, 99), "x", NodeStatus.READY)


def test_a_node_that_is_named_lost_or_no_longer_named_is_lost() -> None:
    named = Reachable((NodeObservation("node-1", NODE, is_lost=True),), ())
    assert [n.status for n in merge([node_of(1), node_of(2)], named).nodes] == [NodeStatus.LOST] * 2


def test_silence_makes_the_cluster_and_its_nodes_unknown() -> None:
    state = merge([node_of(1)], Unreachable("timed out"))
    assert (state.cluster.status, state.cluster.reason) == (ClusterStatus.UNKNOWN, "timed out")
    assert state.nodes[0].status is NodeStatus.UNKNOWN
    assert replace(state.nodes[0], status=NodeStatus.READY, last_seen_at_ms=NOW_MS) == node_of(1)
    again = merge(list(state.nodes), Reachable((NodeObservation("node-1", NODE),), ()))
    assert again.nodes[0].status is NodeStatus.READY
    assert again.cluster.reason is None
