"""What a driver's view makes of the recorded cluster and nodes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tramontane.domain import ids
from tramontane.domain.fleet import Cluster, ClusterStatus, Node, NodeStatus
from tramontane.domain.observation import ClusterView, NodeObservation, Unreachable
from tramontane.domain.planning.snapshot import ClusterState

NewId = Callable[[str], str]


def merge_cluster(
    recorded: Cluster, nodes: Sequence[Node], view: ClusterView, *, seen_at_ms: int, new_id: NewId
) -> ClusterState:
    """Return the cluster and nodes as they are now, given what is ``recorded``.

    A node that a reachable cluster no longer names is lost. Nothing is concluded from silence:
    the nodes of an unreachable cluster become unknown. ``seen_at_ms`` is when the cluster was
    last reachable; it is recorded for a node only together with another change, so that a fleet
    at rest is never written.
    """
    if isinstance(view, Unreachable):
        cluster = replace(recorded, status=ClusterStatus.UNKNOWN, reason=view.reason)
        silent = [_changed(node, seen_at_ms, status=NodeStatus.UNKNOWN) for node in nodes]
        return ClusterState(cluster, tuple(silent), view)
    cluster = replace(recorded, status=ClusterStatus.READY, reason=None)
    by_name = {node.name: node for node in nodes}
    named = {observation.name for observation in view.nodes}
    seen = [
        _observed(by_name.get(observation.name), observation, cluster.id, seen_at_ms, new_id)
        for observation in view.nodes
    ]
    gone = [
        _changed(node, node.last_seen_at_ms, status=NodeStatus.LOST)
        for node in nodes
        if node.name not in named
    ]
    return ClusterState(cluster, tuple(sorted(seen + gone, key=lambda node: node.name)), view)


def _observed(
    node: Node | None, seen: NodeObservation, cluster_id: str, seen_at_ms: int, new_id: NewId
) -> Node:
    status = NodeStatus.READY
    if seen.is_lost:
        status = NodeStatus.LOST
    elif seen.is_drained:
        status = NodeStatus.DRAINED
    if node is None:
        node_id = new_id(ids.NODE)
        return Node(node_id, cluster_id, seen.name, status, seen.capacity, seen.devices, seen_at_ms)
    changed = replace(node, status=status, capacity=seen.capacity, devices=seen.devices)
    return node if changed == node else replace(changed, last_seen_at_ms=seen_at_ms)


def _changed(node: Node, seen_at_ms: int, *, status: NodeStatus) -> Node:
    if node.status is status:
        return node
    return replace(node, status=status, last_seen_at_ms=seen_at_ms)
