"""Replicas: every change of status goes through the domain's table and leaves an event."""

from dataclasses import replace
from typing import Final, TypedDict, Unpack

from sqlalchemy import ColumnElement, delete, not_, select

from tramontane.domain.event import Event
from tramontane.domain.replica import TRANSITIONS, Replica, ReplicaStatus, check_transition
from tramontane.store import events
from tramontane.store.codec import decode_launch, decode_names, encode_launch, encode_names
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.statements import LIMIT_DEFAULT, page, update_guarded
from tramontane.store.statements import insert as insert_row
from tramontane.store.tables import REPLICA_HAS_ENDED, REPLICA_HOLDS_CAPACITY, replicas

STORY_LINES: Final = 20  # a replica's whole life is a handful of events


class ReplicaChanges(TypedDict, total=False):
    """What may change together with a status."""

    address: str | None
    ready_at_ms: int | None
    reason: str | None


def insert(tx: Transaction, replica: Replica) -> None:
    """Insert it."""
    values = _values(replica) | {
        "id": replica.id,
        "deployment_id": replica.deployment_id,
        "project_id": replica.project_id,
        "generation": replica.generation,
        "cluster_id": replica.cluster_id,
        "node_id": replica.node_id,
        "launch": encode_launch(replica.launch),
        "secret": replica.secret,
        "created_at_ms": replica.created_at_ms,
        "revision": replica.revision,
        "peer_node_ids": encode_names(replica.peer_node_ids or None),
    }
    insert_row(tx, replicas, values)


def get_for(tx: Transaction, project_id: str | None, replica_id: str) -> Replica | None:
    """Return the replica if ``project_id`` may see it; None sees all projects."""
    query = select(replicas).where(replicas.c.id == replica_id, *_of_project(project_id))
    row = tx.execute(query).one_or_none()
    return _replica(row) if row else None


def list_for(
    tx: Transaction,
    project_id: str | None,
    *,
    deployment_id: str | None = None,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[Replica]:
    """Return a page of the project's replicas (None: of all), ended ones too, oldest first."""
    scope = _of_project(project_id)
    if deployment_id is not None:
        scope.append(replicas.c.deployment_id == deployment_id)
    return [_replica(row) for row in page(tx, replicas, scope=scope, after=after, limit=limit)]


def list_holding(tx: Transaction) -> list[Replica]:
    """Return every replica that holds capacity, of all projects, oldest first."""
    return _list(tx, REPLICA_HOLDS_CAPACITY)


def list_ended_since(tx: Transaction, since_ms: int, *, limit: int) -> list[Replica]:
    """Return those that ended at ``since_ms`` or later, of all projects, newest first."""
    query = (
        select(replicas)
        .where(REPLICA_HAS_ENDED, replicas.c.changed_at_ms >= since_ms)
        .order_by(replicas.c.changed_at_ms.desc(), replicas.c.id.desc())
        .limit(limit)
    )
    return [_replica(row) for row in tx.execute(query)]


def list_of(tx: Transaction, deployment_id: str) -> list[Replica]:
    """Return every replica of the deployment that is still kept, oldest first."""
    return _list(tx, replicas.c.deployment_id == deployment_id)


def transition(
    tx: Transaction,
    seen: Replica,
    to: ReplicaStatus,
    *,
    now_ms: int,
    actor: str,
    message: str,
    **changes: Unpack[ReplicaChanges],
) -> Replica:
    """Move the replica to the status ``to``, with its event, and return it as it is now.

    The first time it is ready, ``ready_at_ms`` is ``now_ms`` unless given. Raises
    `IllegalTransitionError` with the replica's story when the table does not lead there, and
    `StaleError` when the replica moved on since it was read.
    """
    if to not in TRANSITIONS[seen.status]:
        check_transition(seen, to, _story(tx, seen.id))
    if to is ReplicaStatus.READY and seen.ready_at_ms is None:
        changes.setdefault("ready_at_ms", now_ms)
    moved = replace(seen, status=to, changed_at_ms=now_ms, **changes)
    revision = update_guarded(
        tx,
        replicas,
        noun="replica",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_values(moved),
    )
    events.append(
        tx,
        Event(
            at_ms=now_ms,
            subject_id=seen.id,
            project_id=seen.project_id,
            kind=f"replica.{to.value}",
            message=message,
            actor=actor,
            data={"from": seen.status.value, "deployment_id": seen.deployment_id},
        ),
    )
    return replace(moved, revision=revision)


def prune(tx: Transaction, deployment_id: str, keep: int) -> tuple[str, ...]:
    """Remove all but the ``keep`` newest ended replicas of the deployment; return their ids.

    Their events and usage stay.
    """
    query = (
        select(replicas.c.id)
        .where(replicas.c.deployment_id == deployment_id, not_(REPLICA_HOLDS_CAPACITY))
        .order_by(replicas.c.created_at_ms.desc(), replicas.c.id.desc())
        .offset(keep)
    )
    removed = tuple(tx.execute(query).scalars())
    if removed:
        tx.execute(delete(replicas).where(replicas.c.id.in_(removed)))
    return removed


def _story(tx: Transaction, replica_id: str) -> tuple[str, ...]:
    told = events.last_of(tx, replica_id, limit=STORY_LINES)
    return tuple(f"{event.at_ms} {event.kind} by {event.actor}: {event.message}" for event in told)


def _list(tx: Transaction, condition: ColumnElement[bool]) -> list[Replica]:
    query = select(replicas).where(condition).order_by(replicas.c.created_at_ms, replicas.c.id)
    return [_replica(row) for row in tx.execute(query)]


def _of_project(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [replicas.c.project_id == project_id]


def _values(replica: Replica) -> dict[str, object]:
    """Return what changes in a replica's life; its launch and place never do."""
    return {
        "status": replica.status.value,
        "changed_at_ms": replica.changed_at_ms,
        "address": replica.address,
        "ready_at_ms": replica.ready_at_ms,
        "reason": replica.reason,
    }


def _replica(row: AnyRow) -> Replica:
    return Replica(
        id=row.id,
        deployment_id=row.deployment_id,
        project_id=row.project_id,
        generation=row.generation,
        status=ReplicaStatus(row.status),
        cluster_id=row.cluster_id,
        node_id=row.node_id,
        launch=decode_launch(row.launch),
        secret=row.secret,
        created_at_ms=row.created_at_ms,
        changed_at_ms=row.changed_at_ms,
        address=row.address,
        ready_at_ms=row.ready_at_ms,
        reason=row.reason,
        peer_node_ids=decode_names(row.peer_node_ids) or (),
        revision=row.revision,
    )
