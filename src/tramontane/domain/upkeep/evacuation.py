"""Which replicas have to leave where they are, why, and when one must stop for it.

A replica leaves a node that is drained, a rack that was reserved for others, and a cluster that is
about to end it. It is replaced like one of an older generation: its successor is ready before it
stops. With no room for a successor it serves on, as long as it can. Nothing of this is recorded:
it follows from what was seen.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.observation import Observation
from tramontane.domain.replica import Replica

# Between the moment when a successor is wanted and the last one when it can still take over:
# for placing it, for a queue of the cluster, and for a start that takes longer than the last one.
MARGIN_MS: Final = 60_000
# Routes must forget a replica before it may drain, and it must have drained before its end.
STOP_MARGIN_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Leaving:
    """``why`` in words, without any number that changes with time.

    It is told to tenants, so why a node is drained is left out: that may speak of others.

    ``is_due``: it must begin to drain now, whether or not it has a successor.
    """

    why: str
    is_due: bool = False


def lead_ms(start_ms: int, drain_timeout_s: int, count: int = 1) -> int:
    """Return how long before its end a replica's successor is wanted.

    ``start_ms`` is how long the last start took: twice that, the drain, and a margin. Of ``count``
    replicas that may all end together one is replaced after the other.
    """
    return count * (2 * start_ms + 1_000 * drain_timeout_s + MARGIN_MS)


def leaving(
    replica: Replica,
    nodes: Mapping[str, Node],
    seen: Observation | None,
    *,
    start_ms: int,
    now_ms: int,
    count: int = 1,
    closed: Collection[str] = (),
) -> Leaving | None:
    """Return why ``replica`` has to leave, None while it may stay.

    ``nodes`` are known by id. ``seen`` is what its cluster says of it, None when it says nothing:
    then only its node can make it leave. ``closed`` are the nodes, by id, that are kept for others.
    ``count`` replicas of its deployment have an end. One
    whose time on the cluster is short serves at least half of it before a successor is wanted, and
    three quarters before it stops: so each of them serves, and their number is bounded by the time
    that passes.
    """
    if seen is not None and seen.ends_at_ms is not None and replica.ready_at_ms is not None:
        left_ms = seen.ends_at_ms - now_ms
        whole_ms = max(0, seen.ends_at_ms - replica.ready_at_ms)
        drain_s = replica.launch.drain_timeout_s
        if left_ms <= min(1_000 * drain_s + STOP_MARGIN_MS, whole_ms // 4):
            return Leaving("its time on the cluster is over", is_due=True)
        if left_ms <= min(lead_ms(start_ms, drain_s, count), whole_ms // 2):
            return Leaving("its time on the cluster ends soon")
    for node_id in replica.node_ids:
        node = nodes.get(node_id)
        if node is not None and node.status is NodeStatus.DRAINED:
            return Leaving(f"its node {node.name} is drained")
        if node_id in closed:
            return Leaving("its rack is reserved for another organization")
    return None
