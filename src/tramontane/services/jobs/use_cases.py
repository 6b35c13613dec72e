"""Jobs: submitted, looked at and cancelled. The job reconciler does the rest.

A request here records a wish and nothing else; what could never run is refused before that.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.jobs.attempt import ShippedFile
from tramontane.domain.jobs.fit import check_fit, facts_of
from tramontane.domain.jobs.job import Attempt, Job, JobSpec, JobStatus
from tramontane.domain.jobs.retention import Retention, check_deletable
from tramontane.domain.jobs.rules import NewJob, check_wish, spec_of
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.quotas.bounds import check_class, devices_max_for
from tramontane.services.scope import (
    Page,
    list_scope,
    live_project_named,
    not_found,
    page_of,
    project_named,
    visible_project_id,
)
from tramontane.store import events, fleet
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import attempts, jobs, retained
from tramontane.store.statements import LIMIT_MAX

# All jobs that are not over are planned together: no project makes that slow for the others.
LIVE_JOBS_MAX: Final = 5_000
LIVE_CHARS_MAX: Final = 32 << 20  # of their commands and environments
RETRY_S: Final = 60.0


class Jobs:
    """Use cases of jobs. ``wake`` is called after a change, outside of transactions.

    ``retention`` is how long ended jobs are kept; ``wake_retention`` is called when one is deleted.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: IdSource,
        wake: Callable[[], None],
        *,
        retention: Retention,
        wake_retention: Callable[[], None],
    ) -> None:
        self.retention = retention
        self._db = db
        self._clock = clock
        self._ids = ids
        self._wake = wake
        self._wake_retention = wake_retention

    def create(self, principal: Principal, wish: NewJob, idempotency_key: str | None = None) -> Job:
        """Record a new job; refused when it could never run as it is wished.

        A second request with the same key and the same wish returns the job of the first.
        """
        refusal = check_wish(wish)
        if refusal is not None:
            raise RefusedError(refusal)
        spec, files = spec_of(wish)
        job = Job(
            id=self._ids.new(kinds.JOB),
            project_id="",
            name=wish.name,
            spec=spec,
            created_at_ms=self._clock.now_ms(),
            idempotency_key=idempotency_key,
            digest=hashlib.sha256(repr(replace(wish, project=None)).encode()).hexdigest(),
        )
        created = self._db.write(lambda tx: _create(tx, principal, wish, job, files))
        self._wake()
        return created

    def get(self, principal: Principal, ref: str, project: str | None) -> Job:
        """Return one job, by its id or by its name: then the newest of that name."""
        with self._db.read() as tx:
            return job_named(tx, principal, ref, project)

    def list(
        self,
        principal: Principal,
        *,
        project: str | None,
        status: JobStatus | None,
        after: str | None,
        limit: int,
        newest_first: bool,
    ) -> Page[Job]:
        """Return a page of the jobs that the principal may see."""
        with self._db.read() as tx:
            found = jobs.list_for(
                tx,
                list_scope(tx, principal, project),
                status=status,
                after=after,
                limit=limit + 1,
                newest_first=newest_first,
            )
        return page_of(found, limit)

    def cancel(self, principal: Principal, ref: str, project: str | None) -> Job:
        """Want the job no more: what runs of it ends. One that is over stays as it is."""

        def write(tx: Transaction) -> Job:
            seen = job_named(tx, principal, ref, project)
            if seen.status.is_over or seen.cancelled_at_ms is not None:
                return seen
            now_ms = self._clock.now_ms()
            stored = jobs.update(tx, seen, replace(seen, cancelled_at_ms=now_ms))
            events.append(tx, _event(stored, principal, "cancel_asked", "to be cancelled", now_ms))
            return stored

        cancelled = self._db.write(write)
        self._wake()
        return cancelled

    def delete(self, principal: Principal, job_id: str, project: str | None) -> str:
        """Delete a job that is over, and return its id; a second time changes nothing.

        It is listed no more at once; its files are removed soon after. Its story stays, and what
        its attempts cost. Refused while it goes on, and while another job waits for it.
        """

        def write(tx: Transaction) -> None:
            if kinds.prefix_of(job_id) != kinds.JOB:
                raise _is_a_name(job_named(tx, principal, job_id, project))
            scope = _scope(tx, principal, project)
            seen = jobs.get_for(tx, scope, job_id)
            if seen is None:
                _check_was_deleted(tx, scope, job_id)
                return
            refusal = check_deletable(seen, retained.waiting_for(tx, [seen]).get(seen.id, []))
            if refusal is not None:
                raise RefusedError(refusal)
            now_ms = self._clock.now_ms()
            retained.take_out(tx, seen, now_ms)
            message = "deleted: its files are removed, what it cost stays on the bill"
            events.append(tx, _event(seen, principal, "deleted", message, now_ms))

        self._db.write(write)
        self._wake_retention()
        return job_id

    def attempts(
        self, principal: Principal, ref: str, project: str | None, *, after: str | None, limit: int
    ) -> Page[Attempt]:
        """Return a page of the attempts at a job, by index and number."""
        with self._db.read() as tx:
            job = job_named(tx, principal, ref, project)
            position = (-1, 0)
            if after is not None:
                last = attempts.get(tx, after)
                if last is None or last.job_id != job.id:
                    message = "after must be the id of an item of this list: start without it"
                    raise refuse(Code.INVALID_VALUE, message, param="after")
                position = (last.array_index, last.number)
            found = attempts.list_of(tx, job.id, after=position, limit=limit + 1)
        return page_of(found, limit)


def job_named(tx: Transaction, principal: Principal, ref: str, project: str | None) -> Job:
    """Return the job that ``ref`` (id, or name: then the newest) means.

    A name is looked up in ``project`` if given, else in the principal's own.
    """
    if kinds.prefix_of(ref) == kinds.JOB:
        found = jobs.get_for(tx, _scope(tx, principal, project), ref)
    else:
        found = jobs.get_named(tx, project_named(tx, principal, project).id, ref)
    if found is None:
        raise not_found("job", ref)
    return found


def billed_job_id(tx: Transaction, principal: Principal, ref: str, project: str | None) -> str:
    """Return the id of the job that ``ref`` means, of a deleted one too: its bill is kept."""
    if kinds.prefix_of(ref) == kinds.JOB:
        kept = jobs.get(tx, ref)
        scope = _scope(tx, principal, project)
        if kept is not None and scope in {None, kept.project_id}:
            return kept.id
    return job_named(tx, principal, ref, project).id


def _scope(tx: Transaction, principal: Principal, project: str | None) -> str | None:
    """Return the project in which an id is looked for; None: in all."""
    if project is not None:
        return project_named(tx, principal, project).id
    return visible_project_id(principal)


def _is_a_name(job: Job) -> RefusedError:
    message = (
        f"{job.name} is a name: now it means {job.id}, and once that is deleted another job; "
        "delete a job by its id"
    )
    return refuse(Code.INVALID_VALUE, message, param="job")


def _check_was_deleted(tx: Transaction, scope: str | None, job_id: str) -> None:
    """Refuse unless there was such a job: what is left of it tells, or else its story."""
    left = jobs.get(tx, job_id)
    projects = {left.project_id} if left is not None else set[str | None]()
    if left is None:
        told = events.last_of(tx, job_id, limit=LIMIT_MAX)
        projects = {event.project_id for event in told if event.kind == "job.deleted"}
    if not projects or (scope is not None and scope not in projects):
        raise not_found("job", job_id)


def _create(
    tx: Transaction,
    principal: Principal,
    wish: NewJob,
    made: Job,
    files: tuple[ShippedFile, ...],
) -> Job:
    project = live_project_named(tx, principal, wish.project)
    known = _known(tx, project.id, made)
    if known is not None:
        return known
    _check_room(tx, project.id)
    check_class(tx, project.id, made.spec.priority_class, "job")
    needed = tuple(_needed(tx, project.id, ref) for ref in made.spec.depends_on)
    spec = replace(made.spec, depends_on=tuple(dict.fromkeys(needed)))
    _check_fits(tx, project.id, spec)
    job = replace(made, project_id=project.id, spec=spec)
    jobs.insert(tx, job, files)
    each = f"{spec.nodes} x {spec.resources.describe()}"
    message = f"job {job.name} submitted: {each}, class {spec.priority_class}"
    events.append(tx, _event(job, principal, "created", message, job.created_at_ms))
    return job


def _check_room(tx: Transaction, project_id: str) -> None:
    count, chars = jobs.live_size(tx, project_id)
    if count < LIVE_JOBS_MAX and chars < LIVE_CHARS_MAX:
        return
    message = (
        f"{count} jobs of the project are not over, and at most {LIVE_JOBS_MAX} may be at a time, "
        f"with {LIVE_CHARS_MAX >> 20} MiB of commands and environments in all: wait for some to "
        "end, or make one job with an array of them"
    )
    raise refuse(Code.RATE_LIMIT_EXCEEDED, message, retry_after_s=RETRY_S)


def _known(tx: Transaction, project_id: str, made: Job) -> Job | None:
    """Return the job that an earlier request with the same idempotency key made."""
    if made.idempotency_key is None:
        return None
    known = jobs.get_by_key(tx, project_id, made.idempotency_key)
    if known is not None and known.digest != made.digest:
        message = (
            f"the idempotency key was used for another job, {known.id}: send a new key with what "
            "is not the same request"
        )
        raise refuse(Code.CONFLICT, message)
    return known


def _needed(tx: Transaction, project_id: str, ref: str) -> str:
    """Return the id of a job that another one waits for."""
    is_id = kinds.prefix_of(ref) == kinds.JOB
    found = jobs.get_for(tx, project_id, ref) if is_id else jobs.get_named(tx, project_id, ref)
    if found is None:
        raise not_found("job", ref, param="depends_on")
    if found.status in {JobStatus.FAILED, JobStatus.CANCELLED}:
        message = (
            f"the job would wait for {ref}, which is {found.status} and will never succeed: submit "
            "that one again first, or leave it out of depends_on"
        )
        raise refuse(Code.CONFLICT, message, param="depends_on")
    return found.id


def _check_fits(tx: Transaction, project_id: str, spec: JobSpec) -> None:
    nodes = fleet.list_nodes(tx)
    facts = [
        facts_of(cluster.name, [node for node in nodes if node.cluster_id == cluster.id])
        for cluster in fleet.list_clusters(tx)
    ]
    refusal = check_fit(spec, facts, devices_max_for(tx, project_id))
    if refusal is not None:
        raise RefusedError(refusal)


def _event(job: Job, principal: Principal, kind: str, message: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=job.id,
        project_id=job.project_id,
        kind=f"job.{kind}",
        message=message,
        actor=principal.key_id,
    )
