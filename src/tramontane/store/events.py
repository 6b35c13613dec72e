"""The story of every object: past facts, numbered, never changed."""

from dataclasses import replace

from sqlalchemy import ColumnElement, insert, select

from tramontane.domain.event import Event
from tramontane.store.codec import decode_event_data, encode_event_data
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.statements import LIMIT_DEFAULT, check_limit
from tramontane.store.tables import events


def append(tx: Transaction, event: Event) -> Event:
    """Write the event in the transaction that makes it true; return it with its number."""
    statement = (
        insert(events)
        .values(
            at_ms=event.at_ms,
            subject_id=event.subject_id,
            project_id=event.project_id,
            kind=event.kind,
            message=event.message,
            actor=event.actor,
            data=encode_event_data(event.data),
        )
        .returning(events.c.sequence)
    )
    return replace(event, sequence=tx.execute(statement).scalar_one())


def story(
    tx: Transaction,
    subject_id: str,
    project_id: str | None,
    *,
    after: int = 0,
    limit: int = LIMIT_DEFAULT,
) -> list[Event]:
    """Return what happened to one object, oldest first, from the number ``after`` on.

    ``project_id`` sees only its own events; None sees all.
    """
    check_limit(limit)
    query = (
        select(events)
        .where(
            events.c.subject_id == subject_id,
            events.c.sequence > after,
            *_of_project(project_id),
        )
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return [_event(row) for row in tx.execute(query)]


def last_of(tx: Transaction, subject_id: str, *, limit: int = LIMIT_DEFAULT) -> list[Event]:
    """Return the newest events of one object, oldest of them first."""
    check_limit(limit)
    query = (
        select(events)
        .where(events.c.subject_id == subject_id)
        .order_by(events.c.sequence.desc())
        .limit(limit)
    )
    return [_event(row) for row in reversed(tx.execute(query).all())]


def recent(
    tx: Transaction,
    project_id: str | None,
    *,
    before: int | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[Event]:
    """Return the newest events (None: of all projects), newest first, older than ``before``."""
    check_limit(limit)
    query = select(events).where(*_of_project(project_id))
    if before is not None:
        query = query.where(events.c.sequence < before)
    rows = tx.execute(query.order_by(events.c.sequence.desc()).limit(limit))
    return [_event(row) for row in rows]


def _of_project(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [events.c.project_id == project_id]


def _event(row: AnyRow) -> Event:
    return Event(
        at_ms=row.at_ms,
        subject_id=row.subject_id,
        project_id=row.project_id,
        kind=row.kind,
        message=row.message,
        actor=row.actor,
        data=decode_event_data(row.data),
        sequence=row.sequence,
    )
