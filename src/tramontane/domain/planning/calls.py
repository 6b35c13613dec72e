"""The calls to drivers: start what is recorded, stop what no route names, end what nobody owns."""

from collections.abc import Iterable
from typing import Final

from tramontane.domain.observation import Observation, Reachable, RunState, Unreachable
from tramontane.domain.planning.placement import Holding
from tramontane.domain.planning.plan import DriverAction, Ensure, Forget, Stop, StopOrphan
from tramontane.domain.planning.snapshot import ClusterState, ReplicaSnapshot
from tramontane.domain.planning.watch import Watch
from tramontane.domain.replica import Replica, ReplicaStatus

# Gateways hear of a new route table within milliseconds; a second covers a slow one.
SETTLE_MS: Final = 1_000
# A drain that outlasts its own limit by this much is ended at once.
DRAIN_GRACE_MS: Final = 60_000
# `logs` shows the last few ended replicas of a deployment; older reports and logs are dropped.
ENDED_KEPT: Final = 3


def plan_calls(snapshot: ReplicaSnapshot, watch: Watch) -> list[DriverAction]:
    """Return the calls that the recorded replicas and the listed processes need.

    Calls follow rows that are committed, never the wishes of the plan in the making.
    """
    replicas = sorted(snapshot.replicas, key=lambda r: (r.created_at_ms, r.id))
    actions: list[DriverAction] = []
    for replica in replicas:
        action = _act_on(replica, snapshot, watch)
        if action is not None:
            actions.append(action)
    ordered = sorted(orphans(snapshot), key=lambda o: (o[0].cluster.id, o[1].replica_id))
    for state, observation in ordered:
        if observation.run_state is not RunState.EXITED:
            actions.append(StopOrphan(state.cluster.id, observation.replica_id))
    return actions + _forgets(snapshot)


def orphans(snapshot: ReplicaSnapshot) -> Iterable[tuple[ClusterState, Observation]]:
    """Yield what drivers list whose replica is not recorded there, or recorded as ended."""
    holding = {(r.cluster_id, r.id) for r in snapshot.replicas if r.holds_capacity}
    for state in snapshot.clusters:
        if isinstance(state.view, Reachable):
            for observation in state.view.observations:
                if (state.cluster.id, observation.replica_id) not in holding:
                    yield state, observation


def stray_attempts(
    states: Iterable[ClusterState], holdings: Iterable[Holding]
) -> set[tuple[str, str]]:
    """Return where attempts at jobs run that nobody counts: pairs of cluster id and node name."""
    known = {holding.attempt_id for holding in holdings}
    return {
        (state.cluster.id, node_name)
        for state in states
        if isinstance(state.view, Reachable)
        for attempt in state.view.attempts
        if attempt.attempt_id not in known and not attempt.state.is_over
        for node_name in attempt.node_names
    }


def _act_on(replica: Replica, snapshot: ReplicaSnapshot, watch: Watch) -> DriverAction | None:
    """Return the call that a recorded replica needs now, if any."""
    sighting = watch.sight(replica)
    if isinstance(sighting.view, Unreachable) or sighting.is_node_lost:
        return None
    seen = sighting.observation
    if replica.status is ReplicaStatus.PENDING and seen is None:
        return Ensure(replica.cluster_id, replica.id)
    if replica.status is not ReplicaStatus.STOPPING or seen is None:
        return None
    since_ms = snapshot.now_ms - replica.changed_at_ms
    overdue_ms = replica.launch.drain_timeout_s * 1_000 + DRAIN_GRACE_MS
    if seen.run_state is not RunState.EXITED and since_ms > overdue_ms:
        return Stop(replica.cluster_id, replica.id, drain=False)
    if seen.run_state in {RunState.EXITED, RunState.DRAINING}:
        return None
    if replica.ready_at_ms is None:  # no route ever named it: nothing to wait for
        return Stop(replica.cluster_id, replica.id, drain=False)
    if replica.id in snapshot.routed_replica_ids or since_ms < SETTLE_MS:
        return None
    return Stop(replica.cluster_id, replica.id, drain=True)


def _forgets(snapshot: ReplicaSnapshot) -> list[DriverAction]:
    """Drop ended processes: all but the newest few of each live deployment."""
    live = {deployment.id for deployment in snapshot.deployments}
    ended = {r.id: r for r in snapshot.replicas if not r.holds_capacity}
    listed = [
        (state.cluster.id, observation.replica_id, ended.get(observation.replica_id))
        for state, observation in orphans(snapshot)
        if observation.run_state is RunState.EXITED
    ]
    listed.sort(key=lambda item: (-item[2].created_at_ms if item[2] else 0, item[1]))
    kept: dict[str, int] = {}
    actions: list[DriverAction] = []
    for cluster_id, replica_id, replica in listed:
        if replica is not None and replica.deployment_id in live:
            kept[replica.deployment_id] = kept.get(replica.deployment_id, 0) + 1
            if kept[replica.deployment_id] <= ENDED_KEPT:
                continue
        actions.append(Forget(cluster_id, replica_id))
    return actions
