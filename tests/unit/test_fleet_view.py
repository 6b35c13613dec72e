"""What a view makes of the recorded cluster and nodes."""

from dataclasses import replace

from tests.support.planning import NODE, NOW_MS, node_of, state_of, typed_id
from tramontane.domain import ids
from tramontane.domain.fleet import ClusterStatus, Node, NodeStatus, Site
from tramontane.domain.observation import (
    ClusterView,
    NodeObservation,
    Reachable,
    Unreachable,
)
from tramontane.domain.planning.fleet_view import NOWHERE, UNNAMED, merge_cluster
from tramontane.domain.planning.snapshot import ClusterState

CLUSTER = state_of(()).cluster
LATER_MS = NOW_MS + 5_000


def merge(nodes: list[Node], view: ClusterView, site: Site = NOWHERE) -> ClusterState:
    made = typed_id(ids.NODE, 99)
    return merge_cluster(
        CLUSTER, nodes, view, seen_at_ms=LATER_MS, new_id=lambda _prefix: made, site=site
    )


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


def test_where_a_node_stands_and_why_it_is_drained_is_kept() -> None:
    told = NodeObservation("node-1", NODE, is_drained=True, reason="disks", rack="r7")
    site = Site("sines", "PT")
    (node,) = merge([node_of(1)], Reachable((told,), ()), site).nodes
    assert (node.rack, node.site, node.country, node.reason) == ("r7", "sines", "PT", "disks")
    assert merge([node], Reachable((told,), ()), site).nodes == (node,), "at rest"
    well = replace(told, is_drained=False)
    (back,) = merge([node], Reachable((well,), ()), site).nodes
    assert (back.status, back.reason) == (NodeStatus.READY, None)
    (lost,) = merge([back], Reachable((), ()), site).nodes
    assert (lost.status, lost.reason) == (NodeStatus.LOST, UNNAMED)
    assert merge([lost], Reachable((), ()), site).nodes == (lost,)
    assert merge([node], Unreachable("away"), site).nodes[0].reason == "disks"


def test_a_wish_to_drain_holds_until_somebody_ends_the_drain() -> None:
    wished = replace(node_of(1), wanted_drain_reason="disks")
    not_yet = Reachable((NodeObservation("node-1", NODE),), ())
    assert merge([wished], not_yet).nodes == (wished,)
    done = Reachable((NodeObservation("node-1", NODE, is_drained=True, reason="disks"),), ())
    (drained,) = merge([wished], done).nodes
    assert drained.wanted_drain_reason == "disks"
    away = merge([drained], Unreachable("away")).nodes
    assert merge(list(away), done).nodes[0].wanted_drain_reason == "disks"
    (ended,) = merge([drained], not_yet).nodes
    assert (ended.wanted_drain_reason, ended.counted_from_ms) == (None, LATER_MS)


def test_a_wish_to_resume_ends_when_the_node_is_no_longer_drained() -> None:
    resuming = replace(node_of(1), status=NodeStatus.DRAINED, is_resume_wanted=True)
    still = Reachable((NodeObservation("node-1", NODE, is_drained=True),), ())
    assert merge([resuming], still).nodes == (resuming,)
    (well,) = merge([resuming], Reachable((NodeObservation("node-1", NODE),), ())).nodes
    assert (well.status, well.is_resume_wanted) == (NodeStatus.READY, False)
