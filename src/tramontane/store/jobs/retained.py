"""What is left of ended jobs: whose files go, who is no longer listed, and what their bill needs.

Attempts that started are lines of a bill and stay for ever; so does the row of a job that has any,
without what its owner wrote. Everything else is deleted.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, delete, select, tuple_, update

from tramontane.domain.jobs.job import Job
from tramontane.domain.jobs.retention import given_up, taken_out
from tramontane.store.codec import encode
from tramontane.store.db import Transaction
from tramontane.store.jobs import jobs as job_rows
from tramontane.store.jobs.tables import (
    ATTEMPT_IS_UNACCOUNTED,
    JOB_IS_EXPIRED,
    JOB_IS_LIVE,
    JOB_IS_UNEXPIRED,
    JOB_IS_WITHOUT_FILES,
    attempts,
    jobs,
)
from tramontane.store.quotas.tables import attempt_costs

Position = tuple[int, str]  # a time and an id: where a page ended
_WAITS: Final = '"depends_on":["'  # in the text of a spec


def list_unexpired(
    tx: Transaction, *, ended_before_ms: int, after: Position | None, limit: int
) -> list[Job]:
    """Return jobs that ended by then and whose files are kept, the longest ago first."""
    is_due = JOB_IS_UNEXPIRED & (jobs.c.ended_at_ms <= ended_before_ms)
    return _page(tx, is_due, (jobs.c.ended_at_ms, jobs.c.id), after, limit)


def list_expired(
    tx: Transaction, *, cluster_id: str, after: Position | None, limit: int
) -> list[Job]:
    """Return jobs whose files are to be removed from the cluster and are not gone yet."""
    is_due = JOB_IS_EXPIRED & (jobs.c.cluster_id == cluster_id)
    return _page(tx, is_due, (jobs.c.files_expired_at_ms, jobs.c.id), after, limit)


def list_without_files(
    tx: Transaction, *, ended_before_ms: int, after: Position | None, limit: int
) -> list[Job]:
    """Return jobs that ended by then, are listed and have no files any more."""
    is_due = JOB_IS_WITHOUT_FILES & (jobs.c.ended_at_ms <= ended_before_ms)
    return _page(tx, is_due, (jobs.c.ended_at_ms, jobs.c.id), after, limit)


def waiting_for(tx: Transaction, among: Sequence[Job]) -> dict[str, list[Job]]:
    """Return the jobs that are not over and depend on one of ``among``, by that one's id."""
    if not among:
        return {}
    ids = {job.id for job in among}
    projects = sorted({job.project_id for job in among})
    # Of what waits for nothing, the spec need not be read.
    may_wait = jobs.c.spec.contains(_WAITS, autoescape=True)
    query = select(jobs).where(JOB_IS_LIVE, jobs.c.project_id.in_(projects), may_wait)
    found: dict[str, list[Job]] = {}
    for row in tx.execute(query.order_by(jobs.c.created_at_ms, jobs.c.id)):
        waiting = job_rows.job_in(row)
        for id_ in ids & set(waiting.spec.depends_on):
            found.setdefault(id_, []).append(waiting)
    return found


def attempt_ids(tx: Transaction, job_id: str) -> list[str]:
    """Return the ids of all attempts at the job."""
    query = select(attempts.c.id).where(attempts.c.job_id == job_id)
    return list(tx.execute(query.order_by(attempts.c.array_index, attempts.c.number)).scalars())


def is_settled(tx: Transaction, job_id: str) -> bool:
    """Tell whether the cost of every attempt at the job is recorded."""
    query = select(attempts.c.id).where(attempts.c.job_id == job_id, ATTEMPT_IS_UNACCOUNTED)
    return tx.execute(query.limit(1)).one_or_none() is None


def give_up_files(tx: Transaction, seen: Job, now_ms: int) -> Job:
    """Record that the job's files are not kept any more; `StaleError` if it moved on."""
    return job_rows.update(tx, seen, given_up(seen, now_ms))


def take_out(tx: Transaction, seen: Job, now_ms: int) -> None:
    """Take the job out of every list; `StaleError` if it moved on.

    What its owner wrote goes now, and what its bill does not need once its files are gone.
    """
    new = taken_out(seen, now_ms)
    job_rows.update(tx, seen, new)
    kept = {"spec": encode(new.spec), "idempotency_key": None, "digest": new.digest}
    tx.execute(update(jobs).where(jobs.c.id == seen.id).values(kept))
    if new.files_removed_at_ms is not None:
        _keep_the_bill(tx, seen.id)


def note_files_removed(tx: Transaction, job_id: str, now_ms: int) -> bool:
    """Record that nothing of the job's files is left; False when that was known."""
    query = (
        update(jobs)
        .where(jobs.c.id == job_id, JOB_IS_EXPIRED)
        .values(files_removed_at_ms=now_ms, revision=jobs.c.revision + 1)
        .returning(jobs.c.deleted_at_ms)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        return False
    forgotten = {"is_forgotten": 1, "revision": attempts.c.revision + 1}
    tx.execute(update(attempts).where(attempts.c.job_id == job_id).values(forgotten))
    if row.deleted_at_ms is not None:
        _keep_the_bill(tx, job_id)
    return True


def _keep_the_bill(tx: Transaction, job_id: str) -> None:
    """Delete what no bill shows: attempts that never started, and a job that has no other."""
    is_its = attempts.c.job_id == job_id
    never_started = select(attempts.c.id).where(is_its, attempts.c.started_at_ms.is_(None))
    tx.execute(delete(attempt_costs).where(attempt_costs.c.attempt_id.in_(never_started)))
    tx.execute(delete(attempts).where(is_its, attempts.c.started_at_ms.is_(None)))
    tx.execute(update(attempts).where(is_its).values(secret="", reason=None))
    has_attempts = select(attempts.c.id).where(is_its).exists()
    tx.execute(delete(jobs).where(jobs.c.id == job_id, ~has_attempts))


def _page(
    tx: Transaction,
    condition: ColumnElement[bool],
    order: tuple[ColumnElement[int | None], ColumnElement[str]],
    after: Position | None,
    limit: int,
) -> list[Job]:
    query = select(jobs).where(condition)
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(*after))
    return [job_rows.job_in(row) for row in tx.execute(query.order_by(*order).limit(limit))]
