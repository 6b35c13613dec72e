"""Attempts: what is recorded of each start of a job. Those that cost are never deleted."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from sqlalchemy import ColumnElement, select

from tramontane.domain.jobs.job import Attempt, AttemptStatus
from tramontane.domain.jobs.snapshot import holding_of
from tramontane.domain.planning.placement import Holding
from tramontane.store.codec import decode, encode
from tramontane.store.db import AnyRow, StaleError, Transaction
from tramontane.store.jobs import jobs
from tramontane.store.jobs.tables import (
    ATTEMPT_HAS_ENDED,
    ATTEMPT_IS_LIVE,
    ATTEMPT_IS_UNACCOUNTED,
    attempts,
)
from tramontane.store.jobs.tables import jobs as job_rows
from tramontane.store.statements import LIMIT_DEFAULT, check_limit, insert_if_free, update_guarded

BATCH_MAX: Final = 200  # rows of what is settled in one pass
AMONG_MAX: Final = 500  # ids in one question: databases allow some thousands


def insert(tx: Transaction, attempt: Attempt) -> None:
    """Insert it; `StaleError` when the job has an attempt with its index and number."""
    values = _values(attempt) | {
        "id": attempt.id,
        "job_id": attempt.job_id,
        "project_id": attempt.project_id,
        "array_index": attempt.array_index,
        "number": attempt.number,
        "cluster_id": attempt.cluster_id,
        "secret": attempt.secret,
        "created_at_ms": attempt.created_at_ms,
        "node_id": attempt.node_id,
        "device_indexes": encode(attempt.device_indexes),
        "revision": attempt.revision,
    }
    if not insert_if_free(tx, attempts, values, unique=("job_id", "array_index", "number")):
        raise StaleError("job", attempt.job_id)


def update(tx: Transaction, seen: Attempt, new: Attempt) -> Attempt:
    """Write ``new`` over ``seen`` and return it with its revision; `StaleError` if it moved on."""
    revision = update_guarded(
        tx,
        attempts,
        noun="attempt",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_values(new),
    )
    return replace(new, revision=revision)


def get(tx: Transaction, attempt_id: str) -> Attempt | None:
    """Return the attempt with that id, of whatever project."""
    row = tx.execute(select(attempts).where(attempts.c.id == attempt_id)).one_or_none()
    return _attempt(row) if row else None


def get_numbered(
    tx: Transaction, job_id: str, array_index: int, number: int | None
) -> Attempt | None:
    """Return one attempt at an index of the job, the newest without ``number``."""
    query = select(attempts).where(
        attempts.c.job_id == job_id, attempts.c.array_index == array_index
    )
    if number is not None:
        query = query.where(attempts.c.number == number)
    row = tx.execute(query.order_by(attempts.c.number.desc()).limit(1)).one_or_none()
    return _attempt(row) if row else None


def list_of(
    tx: Transaction, job_id: str, *, after: tuple[int, int] = (-1, 0), limit: int = LIMIT_DEFAULT
) -> list[Attempt]:
    """Return a page of the job's attempts by index and number, from the pair ``after`` on."""
    check_limit(limit)
    index, number = after
    query = (
        select(attempts)
        .where(
            attempts.c.job_id == job_id,
            (attempts.c.array_index > index)
            | ((attempts.c.array_index == index) & (attempts.c.number > number)),
        )
        .order_by(attempts.c.array_index, attempts.c.number)
        .limit(limit)
    )
    return [_attempt(row) for row in tx.execute(query)]


def list_of_jobs(tx: Transaction, job_ids: Collection[str]) -> list[Attempt]:
    """Return every attempt at these jobs."""
    if not job_ids:
        return []
    return _list(tx, attempts.c.job_id.in_(sorted(job_ids)))


def list_live(tx: Transaction) -> list[Attempt]:
    """Return every attempt that is not over, of all projects, oldest first."""
    return _list(tx, ATTEMPT_IS_LIVE)


def list_unaccounted(tx: Transaction) -> list[Attempt]:
    """Return some attempts, live ones too, whose cost is not certain yet, oldest first."""
    return _list(tx, ATTEMPT_IS_UNACCOUNTED, limit=BATCH_MAX)


def list_ended_since(tx: Transaction, since_ms: int, *, limit: int) -> list[Attempt]:
    """Return those that ended at ``since_ms`` or later, of all projects, newest first."""
    query = (
        select(attempts)
        .where(ATTEMPT_HAS_ENDED, attempts.c.ended_at_ms >= since_ms)
        .order_by(attempts.c.ended_at_ms.desc(), attempts.c.id.desc())
        .limit(limit)
    )
    return [_attempt(row) for row in tx.execute(query)]


def list_among(tx: Transaction, attempt_ids: Collection[str]) -> list[Attempt]:
    """Return those attempts among ``attempt_ids`` that there are."""
    ids = sorted(attempt_ids)
    found: list[Attempt] = []
    for start in range(0, len(ids), AMONG_MAX):
        found += _list(tx, attempts.c.id.in_(ids[start : start + AMONG_MAX]))
    return sorted(found, key=lambda it: (it.created_at_ms, it.id))


def holdings(tx: Transaction) -> list[Holding]:
    """Return what every live attempt holds."""
    live = list_live(tx)
    found = {job.id: job for job in jobs.list_live(tx)} if live else {}
    return [holding_of(it, found[it.job_id]) for it in live if it.job_id in found]


def secret_of(tx: Transaction, attempt_id: str) -> str | None:
    """Return what the runner of the attempt shows, None when there is no such attempt."""
    query = select(attempts.c.secret).where(attempts.c.id == attempt_id)
    return tx.execute(query).scalar_one_or_none()


def is_wanted(tx: Transaction, attempt_id: str) -> bool:
    """Tell whether the attempt is to go on: it is not over and its job was not cancelled."""
    query = (
        select(attempts.c.id)
        .join(job_rows, job_rows.c.id == attempts.c.job_id)
        .where(attempts.c.id == attempt_id, ATTEMPT_IS_LIVE, job_rows.c.cancelled_at_ms.is_(None))
    )
    return tx.execute(query).one_or_none() is not None


def _list(
    tx: Transaction, condition: ColumnElement[bool], limit: int | None = None
) -> list[Attempt]:
    query = select(attempts).where(condition).order_by(attempts.c.created_at_ms, attempts.c.id)
    return [_attempt(row) for row in tx.execute(query.limit(limit))]


def _values(attempt: Attempt) -> dict[str, object]:
    """Return what changes in an attempt's life; its place and its secret never do."""
    return {
        "status": attempt.status.value,
        "changed_at_ms": attempt.changed_at_ms,
        "node_names": encode(attempt.node_names),
        "devices": attempt.devices,
        "reason": attempt.reason,
        "exit_code": attempt.exit_code,
        "started_at_ms": attempt.started_at_ms,
        "ended_at_ms": attempt.ended_at_ms,
        "starts_at_ms": attempt.starts_at_ms,
        "external_id": attempt.external_id,
        "device_seconds": attempt.device_seconds,
        "is_accounted": int(attempt.is_accounted),
        "is_forgotten": int(attempt.is_forgotten),
    }


def _attempt(row: AnyRow) -> Attempt:
    return Attempt(
        id=row.id,
        job_id=row.job_id,
        project_id=row.project_id,
        array_index=row.array_index,
        number=row.number,
        cluster_id=row.cluster_id,
        secret=row.secret,
        created_at_ms=row.created_at_ms,
        changed_at_ms=row.changed_at_ms,
        status=AttemptStatus(row.status),
        node_id=row.node_id,
        device_indexes=decode(row.device_indexes, tuple[int, ...]),
        node_names=decode(row.node_names, tuple[str, ...]),
        devices=row.devices,
        reason=row.reason,
        exit_code=row.exit_code,
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
        starts_at_ms=row.starts_at_ms,
        external_id=row.external_id,
        device_seconds=row.device_seconds,
        is_accounted=bool(row.is_accounted),
        is_forgotten=bool(row.is_forgotten),
        revision=row.revision,
    )
