"""Which nodes are drained because what runs on them keeps failing.

A node is suspected when the last few things that ended on it all failed and belonged to different
owners: one broken deployment or one tenant's broken jobs say nothing about a machine. Never more
than a small part of a cluster is drained so, because what looks like many bad machines at once is
most likely something else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tramontane.domain.fleet import Node, NodeStatus

OWNERS_MIN: Final = 2
# Of a cluster: one node, or a tenth of many. A cluster of one node is never drained so.
PART_MAX: Final = 10
# What ended before is no longer held against a node; it bounds what has to be read, too.
WINDOW_MS: Final = 24 * 3_600_000
# A node that is lost takes all down that runs there, and clusters tell it within so long.
ONE_LOSS_MS: Final = 60_000
AUTOMATIC: Final = "drained by Tramontane: "
_WORDS_MAX: Final = 60  # of each failure's reason: how it ended, not what it printed


@dataclass(frozen=True, slots=True)
class Ending:
    """How a replica or an attempt ended on a node, or that it works there.

    ``owner`` is whose fault it may be besides the node's: a deployment, a job, or, of a command
    that left with a status, the project that wrote it. ``was_lost``: it ended with its node.
    """

    subject_id: str
    owner: str
    node_id: str
    at_ms: int
    has_failed: bool
    reason: str | None = None
    was_lost: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """A node to drain. ``reason`` holds the evidence in words, ``subject_ids`` by id."""

    node: Node
    reason: str
    subject_ids: tuple[str, ...]


def failures_in_row(endings: Iterable[Ending], nodes: Iterable[Node]) -> dict[str, list[Ending]]:
    """Return, by node id, what failed there since anything worked there, newest first.

    Of what one loss of the node ended, only the last: it is one failure, whatever ran there.
    """
    counted_from = {node.id: node.counted_from_ms for node in nodes}
    found: dict[str, list[Ending]] = {node_id: [] for node_id in counted_from}
    worked: set[str] = set()
    lost_at: dict[str, int] = {}
    for ending in sorted(endings, key=lambda it: (-it.at_ms, it.subject_id)):
        node_id = ending.node_id
        if node_id in worked or ending.at_ms < counted_from.get(node_id, ending.at_ms + 1):
            continue
        if not ending.has_failed:
            worked.add(node_id)
            continue
        if ending.was_lost:
            later_ms = lost_at.get(node_id)
            lost_at[node_id] = ending.at_ms
            if later_ms is not None and later_ms - ending.at_ms <= ONE_LOSS_MS:
                continue
        found[node_id].append(ending)
    return found


def plan_drains(
    nodes: Sequence[Node], endings: Iterable[Ending], failures_max: int
) -> tuple[Drain, ...]:
    """Return the nodes to drain now, after ``failures_max`` failures in a row (0: never).

    Those with the most failures go first, as far as their cluster can spare nodes.
    """
    if failures_max <= 0:
        return ()
    rows = failures_in_row(endings, nodes)
    suspects = [
        node
        for node in nodes
        if node.status is NodeStatus.READY
        and node.wanted_drain_reason is None
        and len(rows[node.id]) >= failures_max
        and len({it.owner for it in rows[node.id][:failures_max]}) >= OWNERS_MIN
    ]
    spare = _spare(nodes)
    drains: list[Drain] = []
    for node in sorted(suspects, key=lambda node: (-len(rows[node.id]), node.name, node.id)):
        if spare[node.cluster_id] > 0:
            spare[node.cluster_id] -= 1
            drains.append(_drain(node, rows[node.id][:failures_max]))
    return tuple(drains)


def _spare(nodes: Iterable[Node]) -> dict[str, int]:
    """Return how many more nodes of each cluster may be drained so."""
    sizes: dict[str, int] = {}
    drained: dict[str, int] = {}
    for node in nodes:
        sizes[node.cluster_id] = sizes.get(node.cluster_id, 0) + 1
        is_ours = (node.wanted_drain_reason or "").startswith(AUTOMATIC)
        drained[node.cluster_id] = drained.get(node.cluster_id, 0) + is_ours
    return {id_: _most(size) - drained[id_] for id_, size in sizes.items()}


def _most(size: int) -> int:
    return max(1, size // PART_MAX) if size > 1 else 0


def _drain(node: Node, failures: Sequence[Ending]) -> Drain:
    told = "; ".join(f"{it.subject_id}: {_first_words(it.reason)}" for it in failures)
    reason = f"{AUTOMATIC}the last {len(failures)} on it failed ({told})"
    return Drain(node, reason, tuple(it.subject_id for it in failures))


def _first_words(reason: str | None) -> str:
    first = (reason or "no reason is known").partition("\n")[0].strip()
    return first if len(first) <= _WORDS_MAX else f"{first[: _WORDS_MAX - 1]}…"
