"""What a driver's view makes of the recorded cluster and nodes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tramontane.domain import ids
from tramontane.domain.fleet import Cluster, ClusterStatus, Node, NodeStatus, Site
from tramontane.domain.observation import ClusterView, NodeObservation, Unreachable
from tramontane.domain.planning.snapshot import ClusterState

NewId = Callable[[str], str]
NOWHERE: Final = Site()
UNNAMED: Final = "its cluster no longer names it"


def merge_cluster(
    recorded: Cluster,
    nodes: Sequence[Node],
    view: ClusterView,
    *,
    seen_at_ms: int,
    new_id: NewId,
    site: Site = NOWHERE,
) -> ClusterState:
    """Return the cluster and nodes as they are now, given what is ``recorded``.

    A node that a reachable cluster no longer names is lost. Nothing is concluded from silence:
    the nodes of an unreachable cluster become unknown. ``seen_at_ms`` is when the cluster was
    last reachable; it is recorded for a node only together with another change, so that a fleet
    at rest is never written. ``site`` is where the cluster stands. A node that is no longer
    drained has no wish to be: whoever ended that, there or here, had the last word.
    """
    if isinstance(view, Unreachable):
        cluster = replace(recorded, status=ClusterStatus.UNKNOWN, reason=view.reason)
        silent = [_changed(node, seen_at_ms, status=NodeStatus.UNKNOWN) for node in nodes]
        return ClusterState(cluster, tuple(silent), view)
    cluster = replace(recorded, status=ClusterStatus.READY, reason=None)
    by_name = {node.name: node for node in nodes}
    named = {observation.name for observation in view.nodes}
    seen = [
        _observed(
            by_name.get(observation.name)
            or Node(
                new_id(ids.NODE),
                cluster.id,
                observation.name,
                NodeStatus.READY,
                observation.capacity,
                observation.devices,
                seen_at_ms,
            ),
            observation,
            site,
            seen_at_ms,
        )
        for observation in view.nodes
    ]
    gone = [
        replace(_changed(node, node.last_seen_at_ms, status=NodeStatus.LOST), reason=UNNAMED)
        for node in nodes
        if node.name not in named
    ]
    return ClusterState(cluster, tuple(sorted(seen + gone, key=lambda node: node.name)), view)


def _observed(node: Node, seen: NodeObservation, site: Site, seen_at_ms: int) -> Node:
    status = NodeStatus.READY
    if seen.is_lost:
        status = NodeStatus.LOST
    elif seen.is_drained:
        status = NodeStatus.DRAINED
    changed = replace(
        node,
        status=status,
        capacity=seen.capacity,
        devices=seen.devices,
        rack=seen.rack,
        site=site.name,
        country=site.country,
        reason=None if status is NodeStatus.READY else seen.reason,
    )
    if status is NodeStatus.READY:
        changed = replace(changed, is_resume_wanted=False)
        if node.status is NodeStatus.DRAINED:
            changed = replace(changed, wanted_drain_reason=None, counted_from_ms=seen_at_ms)
    return node if changed == node else replace(changed, last_seen_at_ms=seen_at_ms)


def _changed(node: Node, seen_at_ms: int, *, status: NodeStatus) -> Node:
    if node.status is status:
        return node
    return replace(node, status=status, last_seen_at_ms=seen_at_ms)
