"""What an observation means for a replica: the only place where the world changes a status.

The rule of rules: a cluster that did not answer says nothing. Its replicas become unknown, keep
their place, and nothing replaces them until the cluster answers.
"""

from dataclasses import dataclass
from typing import Final

from tramontane.domain.fleet import NodeStatus
from tramontane.domain.observation import Observation, Reachable, RunState, Unreachable
from tramontane.domain.planning.plan import Transition
from tramontane.domain.planning.snapshot import ReplicaSnapshot
from tramontane.domain.replica import Replica, ReplicaStatus

REASON_CHARS_MAX: Final = 4_000
# A driver lists what it was asked to start at once. Whoever took that many seconds of calls and
# still does not list it has lost it: another replica must be placed, or nothing ever starts.
UNLISTED_MS_MAX: Final = 60_000
# A runner says so of an end that somebody asked for. We ask only for those that are stopping.
_ASKED: Final = "ended as asked"
ENDED_FROM_OUTSIDE: Final = "it was ended from outside, and not by Tramontane"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known about one replica now: its cluster, its nodes and the driver's observation.

    A replica on several nodes is lost with the first of them, whatever is said of the others.
    ``start_error`` is what its driver said when its start was last tried in vain.
    """

    view: Reachable | Unreachable
    is_node_lost: bool
    observation: Observation | None
    start_error: str | None = None


class Watch:
    """The clusters of a snapshot, asked replica by replica."""

    def __init__(self, snapshot: ReplicaSnapshot) -> None:
        clusters = snapshot.clusters
        self._start_errors = dict(snapshot.start_errors)
        self._views = {state.cluster.id: state.view for state in clusters}
        self._lost = {
            node.id for state in clusters for node in state.nodes if node.status is NodeStatus.LOST
        }
        self._observations = {
            (state.cluster.id, observation.replica_id): observation
            for state in clusters
            if isinstance(state.view, Reachable)
            for observation in state.view.observations
        }

    def sight(self, replica: Replica) -> Sighting:
        """Return what is known about ``replica``; a cluster without a driver is unreachable."""
        return Sighting(
            self._views.get(replica.cluster_id, Unreachable("no driver is configured for it")),
            any(node_id in self._lost for node_id in replica.node_ids),
            self._observations.get((replica.cluster_id, replica.id)),
            self._start_errors.get(replica.id),
        )


def next_status(replica: Replica, sighting: Sighting, now_ms: int) -> Transition | None:
    """Return the transition that ``sighting`` calls for, or None when nothing changed.

    A pending replica on a cluster that does not answer stays pending: it is started, by the same
    id, when the cluster answers. A draining process that we did not stop ends soon: its replica
    stops, so that no route names it when it does.
    """
    if isinstance(sighting.view, Unreachable):
        if replica.status in {ReplicaStatus.STARTING, ReplicaStatus.READY}:
            return _to(replica, ReplicaStatus.UNKNOWN, sighting.view.reason)
        return None
    if sighting.is_node_lost:
        return _ended(replica, "its node was lost")
    seen = sighting.observation
    if seen is None:
        return _unlisted(replica, sighting.start_error, now_ms)
    match seen.run_state:
        case RunState.EXITED:
            return _ended(replica, seen.reason or "it ended without a reason")
        case RunState.DRAINING:
            if replica.status is ReplicaStatus.STOPPING:
                return None
            why = f"it {seen.reason}" if seen.reason else "it began to drain by itself"
            return _to(replica, ReplicaStatus.STOPPING, why)
        case RunState.STARTING:
            return _observed_starting(replica)
        case RunState.READY:
            return _observed_ready(replica, seen, now_ms)


def _observed_starting(replica: Replica) -> Transition | None:
    if replica.status is ReplicaStatus.PENDING:
        return _to(replica, ReplicaStatus.STARTING, "its process was started")
    if replica.status is ReplicaStatus.UNKNOWN:
        # A replica that served before keeps its route: the engine did not end.
        to = ReplicaStatus.STARTING if replica.ready_at_ms is None else ReplicaStatus.READY
        return _to(replica, to, "its cluster answers again")
    return None


def _observed_ready(replica: Replica, seen: Observation, now_ms: int) -> Transition | None:
    if replica.status is ReplicaStatus.PENDING:
        return _to(replica, ReplicaStatus.STARTING, "its process was started")
    if replica.status not in {ReplicaStatus.STARTING, ReplicaStatus.UNKNOWN}:
        return None
    again = replica.status is ReplicaStatus.UNKNOWN
    return Transition(
        replica.id,
        replica.deployment_id,
        ReplicaStatus.READY,
        "its cluster answers again" if again else "its engine answers",
        address=seen.address,
        ready_at_ms=now_ms if replica.ready_at_ms is None else replica.ready_at_ms,
    )


def _unlisted(replica: Replica, start_error: str | None, now_ms: int) -> Transition | None:
    if replica.status is not ReplicaStatus.PENDING:
        return _ended(replica, "it is gone: its cluster does not know it")
    if now_ms - replica.created_at_ms > UNLISTED_MS_MAX:
        why = start_error or "its cluster was asked, and never listed it"
        return _ended(replica, f"it could not be started: {why}")
    return None


def _ended(replica: Replica, reason: str) -> Transition:
    if replica.status is ReplicaStatus.STOPPING:
        return _to(replica, ReplicaStatus.STOPPED, "it ended as asked")
    if _ASKED in reason:
        return _to(replica, ReplicaStatus.FAILED, ENDED_FROM_OUTSIDE)
    return _to(replica, ReplicaStatus.FAILED, reason)


def _to(replica: Replica, to: ReplicaStatus, message: str) -> Transition:
    return Transition(replica.id, replica.deployment_id, to, message[-REASON_CHARS_MAX:])
