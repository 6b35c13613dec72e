"""The retention reconciler: removes what ended jobs left, once it was kept long enough.

It records first that a job's files are given up, then has their cluster remove them, piece by
piece, then records that they are gone. A cluster that does not answer keeps them until it does.
After a crash at any point the next pass goes on; nothing is removed that was not given up before.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from tramontane.domain.event import Event
from tramontane.domain.jobs.job import Job
from tramontane.domain.jobs.retention import Retention, gives_up_files, leaves_list
from tramontane.domain.launch import Tenancy
from tramontane.domain.observation import Unreachable
from tramontane.drivers.base import Driver, DriverUnavailableError
from tramontane.reconcilers.look import ask
from tramontane.runtime.clock import Clock
from tramontane.store import events, fleet, tenancy
from tramontane.store.db import Database, StoreUnavailableError, Transaction
from tramontane.store.jobs import jobs, retained
from tramontane.store.jobs.retained import Position

log = logging.getLogger(__name__)

ACTOR: Final = "reconciler/retention"
ROWS_MAX: Final = 200  # in one transaction
REMOVALS_MAX: Final = 20  # in one pass, of each cluster; each ends within ten seconds
# What cannot be removed is tried again after a minute, two, four ... and then every hour.
WAIT_MS_MIN: Final = 60_000
WAIT_MS_MAX: Final = 3_600_000
REMEMBERED_MAX: Final = 10_000

_IsDue = Callable[[Job, Collection[str], Retention, int], bool]
_Record = Callable[[Transaction, Job, int], None]


class _Read(Protocol):
    """Reads a page of a list."""

    def __call__(self, tx: Transaction, *, after: Position | None, limit: int) -> list[Job]: ...


@dataclass(frozen=True, slots=True)
class _Task:
    """A job whose files are to be removed, and what its driver has to know."""

    job_id: str
    attempt_ids: tuple[str, ...]
    tenancy: Tenancy


@dataclass(frozen=True, slots=True)
class _Patience:
    """How often removing a job's files failed, and when to try again."""

    failures: int
    until_ms: int


class RetentionReconciler:
    """Watches jobs that are over. ``drivers`` are by the name of their cluster.

    What it remembers between passes can be lost: that costs a call that fails again.
    """

    def __init__(
        self, db: Database, drivers: Mapping[str, Driver], clock: Clock, retention: Retention
    ) -> None:
        self._db = db
        self._drivers = drivers
        self._clock = clock
        self._retention = retention
        # Lists are walked through in turns, so that nothing that has to wait holds up the others.
        self._positions: dict[str, Position | None] = {}
        self._patience: dict[str, _Patience] = {}

    def step(self) -> bool:
        """Make one pass; return whether more is to be done at once. With nothing to do: no write.

        Whatever its cost, it is bounded; so is each call that it makes.
        """
        files_ms, listed_ms = self._retention.files_ms, self._retention.listed_ms
        now_ms = self._clock.now_ms()
        has_more = False
        if files_ms is not None:
            before = partial(retained.list_unexpired, ended_before_ms=now_ms - files_ms)
            has_more |= self._walk("unexpired", before, gives_up_files, _give_up)
        for name, driver in self._drivers.items():
            has_more |= self._remove(name, driver)
        if listed_ms is not None:
            before = partial(retained.list_without_files, ended_before_ms=now_ms - listed_ms)
            has_more |= self._walk("without files", before, leaves_list, _take_out)
        return has_more

    def _walk(self, which: str, read: _Read, is_due: _IsDue, record: _Record) -> bool:
        """Record what is due of a page of jobs that ended; return whether more is to be done."""
        found, has_more = self._next(which, read, ROWS_MAX, _ended)
        with self._db.read() as tx:
            due = self._due(tx, found, is_due)
        if not due:
            return has_more

        def write(tx: Transaction) -> None:
            rows = [jobs.get(tx, job.id) for job in due]  # as they are at this moment
            for job in self._due(tx, [job for job in rows if job is not None], is_due):
                record(tx, job, self._clock.now_ms())

        self._db.write(write)
        return True

    def _due(self, tx: Transaction, found: Sequence[Job], is_due: _IsDue) -> list[Job]:
        now_ms, needed = self._clock.now_ms(), retained.waiting_for(tx, found)
        return [job for job in found if is_due(job, needed, self._retention, now_ms)]

    def _remove(self, name: str, driver: Driver) -> bool:
        """Have a cluster remove what it is to remove, each job's files a piece further."""
        with self._db.read() as tx:
            cluster = fleet.get_cluster(tx, name)
        if cluster is None:
            return False
        read = partial(retained.list_expired, cluster_id=cluster.id)
        found, has_more = self._next(name, read, REMOVALS_MAX, _expired)
        due = [job for job in found if not self._is_resting(job.id)]
        if not due or isinstance(ask(driver), Unreachable):
            return has_more and not due
        for job in due:
            has_more |= self._remove_one(driver, job)
        return has_more

    def _remove_one(self, driver: Driver, job: Job) -> bool:
        """Remove a piece of one job's files; tell whether that did something."""
        with self._db.read() as tx:
            task = _task_of(tx, job)
        if task is None:
            return False  # its cost follows from what lies there
        try:
            is_gone = driver.remove_job(task.job_id, task.attempt_ids, task.tenancy)
        except DriverUnavailableError as error:
            self._wait(job.id, str(error))
            return False
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("%s: its files could not be removed", job.id)
            self._wait(job.id, "its driver failed")
            return False
        self._patience.pop(job.id, None)
        if is_gone:
            self._db.write(lambda tx: self._record_removed(tx, job))
        return True

    def _record_removed(self, tx: Transaction, job: Job) -> None:
        now_ms = self._clock.now_ms()
        if retained.note_files_removed(tx, job.id, now_ms):
            message = "its files are removed: working folder, checkpoints and logs"
            events.append(tx, _event(job.id, job.project_id, "files_removed", message, now_ms))

    def _is_resting(self, job_id: str) -> bool:
        patience = self._patience.get(job_id)
        return patience is not None and self._clock.now_ms() < patience.until_ms

    def _wait(self, job_id: str, why: str) -> None:
        before = self._patience.get(job_id)
        failures = 1 if before is None else before.failures + 1
        wait_ms = min(WAIT_MS_MIN << min(failures - 1, 10), WAIT_MS_MAX)
        if len(self._patience) >= REMEMBERED_MAX:
            self._patience.clear()
        self._patience[job_id] = _Patience(failures, self._clock.now_ms() + wait_ms)
        log.warning("%s: its files are removed later: %s", job_id, why)

    def _next(
        self, which: str, read: _Read, limit: int, position_of: Callable[[Job], Position]
    ) -> tuple[list[Job], bool]:
        """Return the next page of a list, and whether another one follows it."""
        after = self._positions.get(which)
        with self._db.read() as tx:
            found = read(tx, after=after, limit=limit)
            is_again = not found and after is not None
            if is_again:
                found = read(tx, after=None, limit=limit)
        is_full = len(found) == limit
        self._positions[which] = position_of(found[-1]) if is_full else None
        return found, is_full and not is_again


def _ended(job: Job) -> Position:
    return job.ended_at_ms or 0, job.id


def _expired(job: Job) -> Position:
    return job.files_expired_at_ms or 0, job.id


def _give_up(tx: Transaction, job: Job, now_ms: int) -> None:
    retained.give_up_files(tx, job, now_ms)


def _take_out(tx: Transaction, job: Job, now_ms: int) -> None:
    retained.take_out(tx, job, now_ms)
    message = "no longer listed: it ended long enough ago"
    events.append(tx, _event(job.id, job.project_id, "deleted", message, now_ms))


def _task_of(tx: Transaction, job: Job) -> _Task | None:
    """Return what is to be removed; None while the cost of an attempt is not recorded."""
    project = tenancy.get_project(tx, job.project_id)
    owner = tenancy.get_organization(tx, project.organization_id) if project else None
    if project is None or owner is None or not retained.is_settled(tx, job.id):
        return None
    ids = tuple(retained.attempt_ids(tx, job.id))
    return _Task(job.id, ids, Tenancy(owner.name, project.name))


def _event(job_id: str, project_id: str, kind: str, message: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=job_id,
        project_id=project_id,
        kind=f"job.{kind}",
        message=message,
        actor=ACTOR,
    )
