"""How long what is left of an ended job is kept: its files, its place in the list, its bill.

Two steps, each final. First its files are given up: what its commands wrote, its checkpoints, its
logs. Later, or when its owner says so, the job is taken out of the list, and of it stays what its
bill needs. A job that another one waits for is left alone: that one may read what it wrote.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from tramontane.domain.jobs.job import Job, JobSpec
from tramontane.domain.refusal import Code, Refusal

DAY_MS: Final = 86_400_000
FILES_DAYS: Final = 30
LISTED_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class Retention:
    """How long after its end a job's files stay, and the job in the list; None: for ever."""

    files_ms: int | None = FILES_DAYS * DAY_MS
    listed_ms: int | None = LISTED_DAYS * DAY_MS

    def files_kept_until_ms(self, job: Job) -> int | None:
        """Return when the job's files go, at the earliest; None: never yet, or they are gone."""
        if job.files_removed_at_ms is not None:
            return None
        if job.files_expired_at_ms is not None:
            return job.files_expired_at_ms
        if job.ended_at_ms is None or self.files_ms is None:
            return None
        return job.ended_at_ms + self.files_ms


def retention_of_days(files_days: int, listed_days: int) -> Retention:
    """Return what settings in days mean; 0 is for ever. Raises ValueError with what to change."""
    if listed_days and not 0 < files_days <= listed_days:
        kept = f"{files_days} days" if files_days else "for ever (0)"
        least = f"to {files_days} or more, or " if files_days else ""
        msg = (
            f"job_files_keep_days keeps files {kept} and jobs_keep_days lists their jobs for "
            f"{listed_days} days only; set jobs_keep_days {least}to 0 (for ever)"
        )
        raise ValueError(msg)
    return Retention(
        files_days * DAY_MS if files_days else None, listed_days * DAY_MS if listed_days else None
    )


def gives_up_files(job: Job, needed: Collection[str], retention: Retention, now_ms: int) -> bool:
    """Tell whether the files of ``job`` were kept long enough; ``needed`` are ids waited for."""
    if not job.status.is_over or job.files_expired_at_ms is not None or job.id in needed:
        return False
    until_ms = retention.files_kept_until_ms(job)
    return until_ms is not None and until_ms <= now_ms


def leaves_list(job: Job, needed: Collection[str], retention: Retention, now_ms: int) -> bool:
    """Tell whether ``job`` was listed long enough: never before its files are gone."""
    if job.ended_at_ms is None or job.files_removed_at_ms is None or job.id in needed:
        return False
    is_due = retention.listed_ms is not None and job.ended_at_ms + retention.listed_ms <= now_ms
    return job.deleted_at_ms is None and is_due


def check_deletable(job: Job, waiting: Collection[Job]) -> Refusal | None:
    """Return why ``job`` cannot be deleted now; ``waiting`` are the jobs that wait for it."""
    if not job.status.is_over:
        message = (
            f"the job {job.id} is {job.status} and only one that is over can be deleted: cancel "
            "it, or wait for its end, first"
        )
        return Refusal(Code.CONFLICT, message)
    if waiting:
        named = ", ".join(it.id for it in list(waiting)[:3])
        message = (
            f"the job {job.id} is needed: {named} depends on it and is not over; cancel that, or "
            "wait for its end, first"
        )
        return Refusal(Code.IN_USE, message)
    return None


def given_up(job: Job, now_ms: int) -> Job:
    """Return the job with its files given up. One that never had a cluster has none."""
    expired_at_ms = now_ms if job.files_expired_at_ms is None else job.files_expired_at_ms
    removed_at_ms = job.files_removed_at_ms
    if job.cluster_id is None and removed_at_ms is None:
        removed_at_ms = now_ms
    return replace(job, files_expired_at_ms=expired_at_ms, files_removed_at_ms=removed_at_ms)


def taken_out(job: Job, now_ms: int) -> Job:
    """Return the job out of the list, without what its bill does not need."""
    return replace(
        given_up(job, now_ms),
        spec=emptied(job.spec),
        reason=None,
        idempotency_key=None,
        digest="",
        deleted_at_ms=now_ms,
    )


def emptied(spec: JobSpec) -> JobSpec:
    """Return the spec without what its owner wrote: the shape stays, the bill follows from it."""
    return replace(spec, command=(), env=(), file_paths=(), depends_on=())
