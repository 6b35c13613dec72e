"""The plan of the replica reconciler: from a snapshot to explicit actions, and nothing else.

Order of thought: what the drivers saw becomes transitions; each deployment then says whom to stop
and how many to add; the additions of all are placed, those of deployments that have nothing
first and of older ones before younger; statuses are worded last, from all that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tramontane.domain.deployment import Deployment
from tramontane.domain.fleet import Node
from tramontane.domain.observation import (
    Reachable,
    RunState,
    Unreachable,
)
from tramontane.domain.planning.backoff import Backoff, after_failure, after_stability
from tramontane.domain.planning.calls import orphans, plan_calls, stray_attempts
from tramontane.domain.planning.deployment_status import Facts, describe, wait_of
from tramontane.domain.planning.placement import Owner, Room, explain_no_room, find_spot, rooms_of
from tramontane.domain.planning.plan import (
    Action,
    Place,
    Plan,
    SetStatus,
    Transition,
    Unplaced,
)
from tramontane.domain.planning.rollout import plan_rollout
from tramontane.domain.planning.snapshot import Need, ReplicaSnapshot
from tramontane.domain.planning.watch import Watch, next_status
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.domain.upkeep.evacuation import Leaving, leaving

_STARTS: Final = frozenset({ReplicaStatus.PENDING, ReplicaStatus.STARTING})


@dataclass(slots=True)
class _Draft:
    """One deployment while the plan is being made."""

    deployment: Deployment
    replicas: list[Replica] = field(default_factory=list[Replica])
    ended: list[Replica] = field(default_factory=list[Replica])
    actions: list[Action] = field(default_factory=list[Action])
    backoff: Backoff = field(default_factory=lambda: Backoff(0, 0))
    start_ms: int = 0
    missing: int = 0
    unplaced: Unplaced | None = None
    leaving: dict[str, Leaving] = field(default_factory=dict[str, Leaving])
    waits: tuple[str, ...] = ()
    closed: frozenset[str] = frozenset()


def plan_replicas(snapshot: ReplicaSnapshot) -> Plan:
    """Return what to do next; an empty plan when there is nothing to do.

    The plan depends on the snapshot alone, whatever the order of its tuples. Carrying it out and
    planning again from the result ends in an empty plan.
    """
    watch = Watch(snapshot)
    drafts = _draft(snapshot)
    nodes = {node.id: node for state in snapshot.clusters for node in state.nodes}
    for draft in drafts:
        draft.closed = _closed(draft.deployment.project_id, snapshot)
        _observe(draft, watch, snapshot.now_ms)
        _keep_busy(draft, watch)
        _find_leaving(draft, watch, nodes, snapshot.now_ms)
        _roll(draft)
    _place_missing(drafts, snapshot)
    for draft in drafts:
        _set_status(draft, snapshot)
    actions = [action for draft in drafts for action in draft.actions]
    actions += plan_calls(snapshot, watch)
    unplaced = tuple(draft.unplaced for draft in drafts if draft.unplaced is not None)
    return Plan(tuple(actions), unplaced)


def _draft(snapshot: ReplicaSnapshot) -> list[_Draft]:
    ordered = sorted(snapshot.deployments, key=lambda d: (d.created_at_ms, d.id))
    drafts = {deployment.id: _Draft(deployment) for deployment in ordered}
    for replica in sorted(snapshot.replicas, key=lambda r: (r.created_at_ms, r.id)):
        draft = drafts.get(replica.deployment_id)
        if draft is not None:
            (draft.replicas if replica.holds_capacity else draft.ended).append(replica)
    for draft in drafts.values():
        deployment = draft.deployment
        draft.start_ms = deployment.start_ms
        # A new generation is a new start: what failed before it says nothing about it.
        if deployment.observed_generation == deployment.generation:
            draft.backoff = Backoff(deployment.failures, deployment.retry_at_ms)
    return list(drafts.values())


def _observe(draft: _Draft, watch: Watch, now_ms: int) -> None:
    failed: list[Replica] = []
    after: list[Replica] = []
    for replica in draft.replicas:
        sighting = watch.sight(replica)
        transition = next_status(replica, sighting, now_ms)
        if transition is None:
            after.append(replica)
            continue
        draft.actions.append(transition)
        changed = _changed(replica, transition, now_ms)
        if changed.holds_capacity:
            after.append(changed)
        else:
            draft.ended.append(changed)
        is_own_fault = not sighting.is_node_lost
        is_current = replica.generation == draft.deployment.generation
        if changed.status is ReplicaStatus.FAILED and is_own_fault and is_current:
            failed.append(replica)
        if replica.status is ReplicaStatus.STARTING and changed.status is ReplicaStatus.READY:
            draft.start_ms = _start_ms(replica, now_ms)
    draft.replicas = after
    _count_failures(draft, failed, now_ms)


def _start_ms(replica: Replica, now_ms: int) -> int:
    """Return how long the start took; no longer than it may, if nobody looked for a while."""
    passed_ms = now_ms - replica.created_at_ms
    return max(1, min(passed_ms, replica.launch.ready_timeout_s * 1_000))


def _changed(replica: Replica, transition: Transition, now_ms: int) -> Replica:
    is_ready = transition.to is ReplicaStatus.READY
    return replace(
        replica,
        status=transition.to,
        reason=transition.message,
        changed_at_ms=now_ms,
        address=transition.address or replica.address,
        ready_at_ms=transition.ready_at_ms if is_ready else replica.ready_at_ms,
    )


def _count_failures(draft: _Draft, failed: Sequence[Replica], now_ms: int) -> None:
    """Count one failure per pass, however many ended in it: they most likely share the cause."""
    if failed:
        served_ms = min(0 if r.ready_at_ms is None else now_ms - r.ready_at_ms for r in failed)
        draft.backoff = after_failure(draft.backoff, served_ms=served_ms, now_ms=now_ms)
        return
    ready = [r for r in draft.replicas if r.status is ReplicaStatus.READY]
    current = [r for r in ready if r.generation == draft.deployment.generation]
    newest = max((r.ready_at_ms for r in current if r.ready_at_ms is not None), default=None)
    draft.backoff = after_stability(draft.backoff, ready_at_ms=newest, now_ms=now_ms)


def _keep_busy(draft: _Draft, watch: Watch) -> None:
    """Keep the last replica of what scales to zero while its engine says that it has requests.

    A gateway that the control plane cannot hear may still be sending them.
    """
    scale = draft.deployment.scale
    if scale is None or not draft.deployment.wakes or draft.deployment.wanted_replicas:
        return
    seen = [watch.sight(r).observation for r in draft.replicas if r.is_routable]
    if any(it is not None and (it.requests_running or it.requests_waiting) for it in seen):
        draft.deployment = replace(draft.deployment, scale=replace(scale, wanted=1))


def _find_leaving(draft: _Draft, watch: Watch, nodes: Mapping[str, Node], now_ms: int) -> None:
    """Find who has to leave, and what those that start wait for."""
    active = [r for r in draft.replicas if r.status is not ReplicaStatus.STOPPING]
    seen = {r.id: watch.sight(r).observation for r in active}
    count = sum(it is not None and it.ends_at_ms is not None for it in seen.values())
    for replica in active:
        found = leaving(
            replica,
            nodes,
            seen[replica.id],
            start_ms=draft.start_ms,
            now_ms=now_ms,
            count=count,
            closed=draft.closed,
        )
        if found is not None:
            draft.leaving[replica.id] = found
    waits = (wait_of(seen[r.id]) for r in active if r.status in _STARTS)
    draft.waits = tuple(wait for wait in waits if wait is not None)


def _roll(draft: _Draft) -> None:
    """Turn victims into transitions, in place of what was just observed of them, if anything."""
    rollout = plan_rollout(draft.deployment, draft.replicas, draft.leaving)
    draft.missing = rollout.missing
    victims = {victim.id for victim in rollout.victims}
    draft.actions = [
        action
        for action in draft.actions
        if not (isinstance(action, Transition) and action.replica_id in victims)
    ]
    for victim in rollout.victims:
        why = _why_stopped(draft, victim)
        draft.actions.append(
            Transition(victim.id, draft.deployment.id, ReplicaStatus.STOPPING, why)
        )
    draft.replicas = [
        replace(r, status=ReplicaStatus.STOPPING) if r.id in victims else r for r in draft.replicas
    ]
    draft.leaving = {id_: it for id_, it in draft.leaving.items() if id_ not in victims}


def _why_stopped(draft: _Draft, victim: Replica) -> str:
    deployment = draft.deployment
    if deployment.deleted_at_ms is not None:
        return "its deployment was deleted"
    if victim.id in draft.leaving:
        return draft.leaving[victim.id].why
    is_old = victim.generation != deployment.generation
    if is_old:
        return "replaced by a newer generation"
    return f"scaled down: {deployment.scale.reason}" if deployment.scale else "scaled down"


def _place_missing(drafts: list[_Draft], snapshot: ReplicaSnapshot) -> None:
    needs = {need.deployment_id: need for need in snapshot.needs}
    clusters = {state.cluster.id: state.cluster.name for state in snapshot.clusters}
    rooms = _open_rooms(drafts, snapshot)
    turns = [
        (len(draft.replicas) + count, draft.deployment.created_at_ms, draft.deployment.id, draft)
        for draft in drafts
        if draft.backoff.retry_at_ms <= snapshot.now_ms
        for count in range(draft.missing)
    ]
    for _, _, deployment_id, draft in sorted(turns, key=lambda turn: turn[:3]):
        if draft.unplaced is None:
            refusal = _place_one(draft, needs.get(deployment_id), rooms, clusters)
            placed = sum(isinstance(action, Place) for action in draft.actions)
            if refusal is not None:
                draft.unplaced = Unplaced(deployment_id, draft.missing - placed, refusal)


def _place_one(
    draft: _Draft, known: Need | None, rooms: dict[str, Room], clusters: Mapping[str, str]
) -> str | None:
    """Place one replica in ``rooms``; return why not, or None when it was placed."""
    if known is None or known.resources is None:
        return (known and known.refusal) or "its model version is not in the catalogue"
    need = known.resources
    deployment, spec = draft.deployment, draft.deployment.spec
    owner = Owner(deployment.id, deployment.generation)
    allowed = {
        node_id: room
        for node_id, room in rooms.items()
        if spec.cluster in {None, clusters[room.node.cluster_id]} and node_id not in draft.closed
    }
    spot = find_spot(allowed, owner, need, spec.nodes)
    if spot is None:
        return explain_no_room(allowed, need, spec.nodes, spec.cluster)
    rooms[spot.node_id] = rooms[spot.node_id].take(owner, need, spot.device_indexes)
    for node_id in spot.peer_node_ids:
        rooms[node_id] = rooms[node_id].take_any(owner, need)
    draft.actions.append(
        Place(
            deployment.id,
            deployment.generation,
            spot.cluster_id,
            spot.node_id,
            spot.device_indexes,
            need,
            spot.peer_node_ids,
        )
    )
    return None


def _open_rooms(drafts: list[_Draft], snapshot: ReplicaSnapshot) -> dict[str, Room]:
    """Return the rooms that may be used: a node gets nothing while an orphan lives on it."""
    planned = {replica.id for draft in drafts for replica in (*draft.replicas, *draft.ended)}
    holding = [replica for draft in drafts for replica in draft.replicas]
    holding += [r for r in snapshot.replicas if r.id not in planned]
    occupied = {
        (state.cluster.id, observation.node_name)
        for state, observation in orphans(snapshot)
        if observation.run_state is not RunState.EXITED
    }
    occupied |= stray_attempts(snapshot.clusters, snapshot.holdings)
    nodes = [
        node
        for state in snapshot.clusters
        if isinstance(state.view, Reachable)
        for node in state.nodes
        if (state.cluster.id, node.name) not in occupied
    ]
    return rooms_of(nodes, holding, snapshot.holdings, _used(snapshot))


def _closed(project_id: str, snapshot: ReplicaSnapshot) -> frozenset[str]:
    """Return the ids of the nodes whose racks are kept for others than this project."""
    kept = {(it.cluster, it.rack): it.project_ids for it in snapshot.kept_racks}
    if not kept:
        return frozenset()
    return frozenset(
        node.id
        for state in snapshot.clusters
        for node in state.nodes
        if project_id not in kept.get((state.cluster.name, node.rack or ""), (project_id,))
    )


def _used(snapshot: ReplicaSnapshot) -> dict[str, Resources]:
    """Return what others hold, by node id."""
    used: dict[str, Resources] = {}
    for state in snapshot.clusters:
        if isinstance(state.view, Reachable):
            ids = {node.name: node.id for node in state.nodes}
            used |= {ids[seen.name]: seen.used for seen in state.view.nodes if seen.name in ids}
    return used


def _set_status(draft: _Draft, snapshot: ReplicaSnapshot) -> None:
    deployment = draft.deployment
    silent = {
        state.cluster.id: f"{state.cluster.name}: {state.view.reason}"
        for state in snapshot.clusters
        if isinstance(state.view, Unreachable)
    }
    errors = dict(snapshot.start_errors)
    pending = [r.id for r in draft.replicas if r.status is ReplicaStatus.PENDING]
    facts = Facts(
        deployment=deployment,
        replicas=tuple(draft.replicas),
        last_failure=_last_failure(draft),
        failures=draft.backoff.failures,
        is_waiting=draft.missing > 0 and draft.backoff.retry_at_ms > snapshot.now_ms,
        placed=sum(isinstance(action, Place) for action in draft.actions),
        unplaced=draft.unplaced,
        silent_clusters=silent,
        start_error=next((errors[id_] for id_ in pending if id_ in errors), None),
        waits=draft.waits,
        leaving=tuple(it.why for it in draft.leaving.values()),
    )
    described = describe(facts)
    wanted = SetStatus(
        deployment.id,
        described.status,
        described.ready_replicas,
        described.reason,
        deployment.generation,
        draft.backoff.failures,
        draft.backoff.retry_at_ms,
        draft.start_ms,
    )
    if wanted != _status_of(deployment):
        draft.actions.append(wanted)


def _status_of(d: Deployment) -> SetStatus:
    return SetStatus(
        d.id,
        d.status,
        d.ready_replicas,
        d.reason,
        d.observed_generation,
        d.failures,
        d.retry_at_ms,
        d.start_ms,
    )


def _last_failure(draft: _Draft) -> str | None:
    generation = draft.deployment.generation
    failed = [
        r for r in draft.ended if r.status is ReplicaStatus.FAILED and r.generation == generation
    ]
    last = max(failed, key=lambda r: (r.changed_at_ms, r.id), default=None)
    return last.reason if last else None
