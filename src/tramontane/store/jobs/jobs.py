"""Jobs: what is wanted, what became of it, and what is shipped with it."""

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import ColumnElement, delete, func, select

from tramontane.domain.jobs.attempt import ShippedFile
from tramontane.domain.jobs.job import Job, JobSpec, JobStatus
from tramontane.store.codec import decode, encode
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.jobs.tables import (
    JOB_HAS_KEY,
    JOB_IS_LISTED,
    JOB_IS_LIVE,
    job_files,
    jobs,
)
from tramontane.store.statements import LIMIT_DEFAULT, insert_if_free, page, update_guarded
from tramontane.store.statements import insert as insert_row


def insert(tx: Transaction, job: Job, files: tuple[ShippedFile, ...]) -> bool:
    """Insert it with its files; False when another job of the project has its idempotency key."""
    values = _values(job) | {
        "id": job.id,
        "project_id": job.project_id,
        "name": job.name,
        "spec": encode(job.spec),
        "created_at_ms": job.created_at_ms,
        "idempotency_key": job.idempotency_key,
        "digest": job.digest,
        "revision": job.revision,
    }
    if job.idempotency_key is None:
        insert_row(tx, jobs, values)
    elif not insert_if_free(
        tx, jobs, values, unique=("project_id", "idempotency_key"), where=JOB_HAS_KEY
    ):
        return False
    if files:
        insert_row(tx, job_files, {"job_id": job.id, "files": encode(files)})
    return True


def get(tx: Transaction, job_id: str) -> Job | None:
    """Return the job with that id, of whatever project, or what is left of it once deleted."""
    row = tx.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    return job_in(row) if row else None


def get_for(tx: Transaction, project_id: str | None, job_id: str) -> Job | None:
    """Return the job if ``project_id`` may see it; None sees all projects."""
    query = select(jobs).where(jobs.c.id == job_id, JOB_IS_LISTED, *_of_project(project_id))
    row = tx.execute(query).one_or_none()
    return job_in(row) if row else None


def get_named(tx: Transaction, project_id: str, name: str) -> Job | None:
    """Return the newest job of the project with that name."""
    query = (
        select(jobs)
        .where(jobs.c.project_id == project_id, jobs.c.name == name, JOB_IS_LISTED)
        .order_by(jobs.c.created_at_ms.desc(), jobs.c.id.desc())
        .limit(1)
    )
    row = tx.execute(query).one_or_none()
    return job_in(row) if row else None


def get_by_key(tx: Transaction, project_id: str, idempotency_key: str) -> Job | None:
    """Return the project's job that was made under the key."""
    query = select(jobs).where(
        jobs.c.project_id == project_id, jobs.c.idempotency_key == idempotency_key, JOB_HAS_KEY
    )
    row = tx.execute(query).one_or_none()
    return job_in(row) if row else None


def list_for(
    tx: Transaction,
    project_id: str | None,
    *,
    status: JobStatus | None = None,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
    newest_first: bool = False,
) -> list[Job]:
    """Return a page of the project's jobs (None: of all projects)."""
    filters = [] if status is None else [jobs.c.status == status.value]
    rows = page(
        tx,
        jobs,
        scope=[JOB_IS_LISTED, *_of_project(project_id)],
        filters=filters,
        after=after,
        limit=limit,
        newest_first=newest_first,
    )
    return [job_in(row) for row in rows]


def list_live(tx: Transaction) -> list[Job]:
    """Return every job that is not over, oldest first."""
    query = select(jobs).where(JOB_IS_LIVE).order_by(jobs.c.created_at_ms, jobs.c.id)
    return [job_in(row) for row in tx.execute(query)]


def live_size(tx: Transaction, project_id: str) -> tuple[int, int]:
    """Return how many jobs of the project are not over, and how many characters they take."""
    query = select(func.count(), func.coalesce(func.sum(func.length(jobs.c.spec)), 0)).where(
        jobs.c.project_id == project_id, JOB_IS_LIVE
    )
    count, chars = tx.execute(query).one()
    return int(count), int(chars)


def statuses_of(tx: Transaction, job_ids: Collection[str]) -> dict[str, JobStatus]:
    """Return the statuses, by id, of those jobs that there are."""
    if not job_ids:
        return {}
    query = select(jobs.c.id, jobs.c.status).where(jobs.c.id.in_(sorted(job_ids)))
    return {row.id: JobStatus(row.status) for row in tx.execute(query)}


def update(tx: Transaction, seen: Job, new: Job) -> Job:
    """Write ``new`` over ``seen`` and return it with its revision; `StaleError` if it moved on.

    Once it is over, what it shipped is dropped.
    """
    revision = update_guarded(
        tx,
        jobs,
        noun="job",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_values(new),
    )
    if new.status.is_over:
        tx.execute(delete(job_files).where(job_files.c.job_id == seen.id))
    return replace(new, revision=revision)


def files_of(tx: Transaction, job_id: str) -> tuple[ShippedFile, ...]:
    """Return what the job ships; nothing once it is over."""
    query = select(job_files.c.files).where(job_files.c.job_id == job_id)
    text = tx.execute(query).scalar_one_or_none()
    return () if text is None else decode(text, tuple[ShippedFile, ...])


def _of_project(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [jobs.c.project_id == project_id]


def _values(job: Job) -> dict[str, object]:
    """Return what changes in a job's life."""
    return {
        "status": job.status.value,
        "reason": job.reason,
        "cluster_id": job.cluster_id,
        "started_at_ms": job.started_at_ms,
        "ended_at_ms": job.ended_at_ms,
        "cancelled_at_ms": job.cancelled_at_ms,
        "files_expired_at_ms": job.files_expired_at_ms,
        "files_removed_at_ms": job.files_removed_at_ms,
        "deleted_at_ms": job.deleted_at_ms,
    }


def job_in(row: AnyRow) -> Job:
    """Return the job that a row of the table holds."""
    return Job(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        spec=decode(row.spec, JobSpec),
        created_at_ms=row.created_at_ms,
        status=JobStatus(row.status),
        reason=row.reason,
        cluster_id=row.cluster_id,
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
        cancelled_at_ms=row.cancelled_at_ms,
        idempotency_key=row.idempotency_key,
        digest=row.digest,
        files_expired_at_ms=row.files_expired_at_ms,
        files_removed_at_ms=row.files_removed_at_ms,
        deleted_at_ms=row.deleted_at_ms,
        revision=row.revision,
    )
