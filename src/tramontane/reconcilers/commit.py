"""Committing a plan: the intent of each deployment in one guarded transaction of its own.

What was planned from a state that has moved on is not written: `StaleError` rolls the deployment's
part back, and the next pass decides anew. Whether there is room is decided again inside the
transaction, from the rows of that moment, so that two planners can neither share a device nor
place a replica twice. A place that is not free is left out, and the rest is written: two
deployments may each count on what the other is about to free, and one has to go first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tramontane.domain.deployment import Deployment
from tramontane.domain.event import Event
from tramontane.domain.planning.placement import Owner, rooms_of
from tramontane.domain.planning.plan import SetStatus, StoreAction, Transition
from tramontane.domain.planning.snapshot import ReplicaSnapshot
from tramontane.domain.replica import HOLDS_CAPACITY, Replica
from tramontane.store import deployments, events, fleet, replicas
from tramontane.store.db import StaleError, Transaction
from tramontane.store.jobs import attempts
from tramontane.store.replicas import ReplicaChanges

ACTOR: Final = "reconciler/replicas"
# Rows of ended replicas stay for their stories; a crash loop must not fill the table.
ENDED_ROWS_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Intent:
    """All that is to be written about one deployment, as it was ``seen``.

    ``new`` are the replicas of its `Place` actions, ready to insert.
    """

    deployment_id: str
    actions: Sequence[StoreAction]
    seen: ReplicaSnapshot
    new: tuple[Replica, ...]


def commit(tx: Transaction, intent: Intent, now_ms: int) -> tuple[Replica, ...]:
    """Write the intent and return the replicas that were placed.

    `StaleError` if what the intent was made from has changed; then nothing is written.
    """
    seen = next(d for d in intent.seen.deployments if d.id == intent.deployment_id)
    current = deployments.get_for(tx, None, seen.id)
    if current is None or current.revision != seen.revision:
        raise StaleError("deployment", seen.id)
    has_ended = False
    for action in intent.actions:
        if isinstance(action, Transition):
            _transition(tx, action, intent.seen, now_ms)
            has_ended = has_ended or action.to not in HOLDS_CAPACITY
    placed = _insert(tx, intent, now_ms) if intent.new else ()
    for action in intent.actions:
        if isinstance(action, SetStatus):
            _set_status(tx, seen, action, now_ms)
    if has_ended:
        replicas.prune(tx, seen.id, ENDED_ROWS_KEPT)
    return placed


def _transition(
    tx: Transaction, action: Transition, snapshot: ReplicaSnapshot, now_ms: int
) -> None:
    seen = next(replica for replica in snapshot.replicas if replica.id == action.replica_id)
    changes: ReplicaChanges = {"reason": action.message}
    if action.address is not None:
        changes["address"] = action.address
    if action.ready_at_ms is not None:
        changes["ready_at_ms"] = action.ready_at_ms
    replicas.transition(
        tx, seen, action.to, now_ms=now_ms, actor=ACTOR, message=action.message, **changes
    )


def _insert(tx: Transaction, intent: Intent, now_ms: int) -> tuple[Replica, ...]:
    deployment_id = intent.deployment_id
    planned = {
        replica.id
        for replica in intent.seen.replicas
        if replica.holds_capacity and replica.deployment_id == deployment_id
    }
    holding = replicas.list_holding(tx)
    ended = {a.replica_id for a in intent.actions if isinstance(a, Transition)}
    recorded = {replica.id for replica in holding if replica.deployment_id == deployment_id}
    # Those that this very plan saw end are gone from the rows by now; any other difference is news.
    if recorded - planned or planned - recorded - ended:
        raise StaleError("deployment", deployment_id)
    rooms = rooms_of(fleet.list_nodes(tx), holding, attempts.holdings(tx))
    placed: list[Replica] = []
    for replica in intent.new:
        need, indexes = replica.launch.resources, replica.launch.device_indexes
        there = [rooms[node_id] for node_id in replica.node_ids if node_id in rooms]
        has_room = len(there) == len(replica.node_ids) and all(room.holds(need) for room in there)
        if not has_room or not there[0].has_free(indexes):
            continue
        owner = Owner(deployment_id, replica.generation)
        rooms[replica.node_id] = there[0].take(owner, need, indexes)
        for node_id in replica.peer_node_ids:
            rooms[node_id] = rooms[node_id].take_any(owner, need)
        replicas.insert(tx, replica)
        names = ", ".join(room.node.name for room in there)
        events.append(tx, _placed(replica, names, now_ms))
        placed.append(replica)
    return tuple(placed)


def _placed(replica: Replica, node_names: str, now_ms: int) -> Event:
    indexes = replica.launch.device_indexes
    devices = f", devices {', '.join(map(str, indexes))}" if indexes else ""
    return Event(
        at_ms=now_ms,
        subject_id=replica.id,
        project_id=replica.project_id,
        kind="replica.placed",
        message=f"placed on node{'s' * bool(replica.peer_node_ids)} {node_names}{devices}",
        actor=ACTOR,
        data={"deployment_id": replica.deployment_id, "generation": replica.generation},
    )


def _set_status(tx: Transaction, seen: Deployment, action: SetStatus, now_ms: int) -> None:
    new = replace(
        seen,
        status=action.status,
        ready_replicas=action.ready_replicas,
        reason=action.reason,
        observed_generation=action.observed_generation,
        failures=action.failures,
        retry_at_ms=action.retry_at_ms,
        start_ms=action.start_ms,
    )
    deployments.update(tx, seen, new)
    if new.status is not seen.status:
        event = Event(
            at_ms=now_ms,
            subject_id=seen.id,
            project_id=seen.project_id,
            kind=f"deployment.{new.status.value}",
            message=action.reason or f"{action.ready_replicas} ready",
            actor=ACTOR,
            data={"from": seen.status.value, "generation": seen.generation},
        )
        events.append(tx, event)
