"""What ended on which node, and whether that speaks for or against the node."""

from collections.abc import Iterable
from typing import Final

from tramontane.domain.fleet import Node
from tramontane.domain.jobs.job import Attempt, AttemptStatus
from tramontane.domain.planning.watch import ENDED_FROM_OUTSIDE
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.upkeep.health import Ending

# A replica that never came to run, that its cluster forgot, or that somebody ended there by hand
# says nothing about its node.
_NOT_THE_NODE: Final = (
    "it could not be started",
    "it is gone",
    ENDED_FROM_OUTSIDE,
    "was cancelled",
    "was put back into the queue",
)
_LOST: Final = ("its node was lost", "its node failed")  # as views and clusters say it
# A command that fails is most likely wrong, so all those of one project are one owner; when a
# cluster itself says that the node failed, each job is one.
_FAILURES: Final = frozenset({AttemptStatus.FAILED, AttemptStatus.NODE_FAILED})


def endings_of(
    replicas: Iterable[Replica], attempts: Iterable[Attempt], nodes: Iterable[Node]
) -> list[Ending]:
    """Return what the ``replicas`` and ``attempts`` say about ``nodes``.

    What ran on several nodes and failed says nothing: nobody knows which of them it was.
    """
    ids = {(node.cluster_id, node.name): node.id for node in nodes}
    found: list[Ending] = []
    for replica in replicas:
        found += _of_replica(replica)
    for attempt in attempts:
        found += _of_attempt(attempt, ids)
    return found


def _of_replica(replica: Replica) -> list[Ending]:
    if replica.status is ReplicaStatus.FAILED:
        reason = replica.reason or ""
        if replica.peer_node_ids or reason.startswith(_NOT_THE_NODE):
            return []
        return [
            Ending(
                replica.id,
                replica.deployment_id,
                replica.node_id,
                replica.changed_at_ms,
                has_failed=True,
                reason=replica.reason,
                was_lost=any(words in reason for words in _LOST),
            )
        ]
    if replica.ready_at_ms is None:
        return []
    is_over = not replica.holds_capacity
    at_ms = replica.changed_at_ms if is_over else replica.ready_at_ms
    return [
        Ending(replica.id, replica.deployment_id, node_id, at_ms, has_failed=False)
        for node_id in replica.node_ids
    ]


def _of_attempt(attempt: Attempt, ids: dict[tuple[str, str], str]) -> list[Ending]:
    has_failed = attempt.status in _FAILURES
    if attempt.ended_at_ms is None or not (has_failed or attempt.status is AttemptStatus.SUCCEEDED):
        return []
    named = (ids.get((attempt.cluster_id, name)) for name in attempt.node_names)
    node_ids = {node_id for node_id in (attempt.node_id, *named) if node_id is not None}
    if has_failed and len(node_ids) > 1:
        return []
    is_command = attempt.status is AttemptStatus.FAILED
    return [
        Ending(
            attempt.id,
            attempt.project_id if is_command else attempt.job_id,
            node_id,
            attempt.ended_at_ms,
            has_failed=has_failed,
            reason=attempt.reason,
            was_lost=attempt.status is AttemptStatus.NODE_FAILED,
        )
        for node_id in sorted(node_ids)
    ]
