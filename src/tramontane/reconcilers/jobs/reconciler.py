"""The job reconciler: look, plan, commit the intent, then act on the drivers by id.

No driver is called inside a transaction, and only what the store says is ever submitted. A crash
after any of the four leaves a state that the next pass continues from.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tramontane.domain import ids as kinds
from tramontane.domain.jobs.attempt import JobLaunch
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, launch_of
from tramontane.domain.jobs.plan import plan_jobs
from tramontane.domain.jobs.snapshot import (
    ForgetAttempt,
    JobPlan,
    JobSnapshot,
    Start,
    StopAttempt,
    Submit,
)
from tramontane.domain.launch import PriorityClass, Tenancy
from tramontane.domain.observation import Reachable
from tramontane.domain.report import RunnerReport
from tramontane.drivers.base import Driver, DriverUnavailableError
from tramontane.reconcilers.jobs import drain, look
from tramontane.reconcilers.jobs.commit import Charge, Intent, commit, refuse
from tramontane.reconcilers.look import prune_reports
from tramontane.runtime.clock import Clock, IdSource
from tramontane.store import fleet, tenancy
from tramontane.store.db import Database, StaleError, StoreUnavailableError, Transaction
from tramontane.store.jobs import attempts, jobs
from tramontane.store.reports import runners

log = logging.getLogger(__name__)

SECRET_BYTES: Final = 24  # of an attempt's bearer token: 192 bits
# A submit is a call over the network; more of them in one pass could outlast the lease.
SUBMITS_MAX: Final = 50
STOP_AGAIN_MS: Final = 5_000
# With no job anywhere, the store is looked at this often for one that another process took.
REST_PAUSE_S: Final = 2.0
# With no job anywhere, clusters are asked this often whether something strays there.
STRAYS_MS: Final = 60_000


def _no_quota(_tx: Transaction, _project_id: str) -> int | None:
    return None


def _no_charge(
    _tx: Transaction, _attempt_id: str, _class: PriorityClass, _seconds: int, _now_ms: int
) -> None:
    return None


class JobReconciler:
    """Makes attempts at jobs until each is over.

    ``drivers`` maps the name of each cluster to its driver. ``quota`` returns how many devices a
    project may use at once, ``charge`` records what an attempt cost. What it remembers between
    passes can be lost: that costs a call that is repeated.
    """

    def __init__(
        self,
        db: Database,
        drivers: Mapping[str, Driver],
        clock: Clock,
        ids: IdSource,
        *,
        quota: look.QuotaSource = _no_quota,
        charge: Charge = _no_charge,
    ) -> None:
        self._db = db
        self._drivers = drivers
        self._clock = clock
        self._ids = ids
        self._quota = quota
        self._charge = charge
        self._accounts = look.Accounts(drivers)
        self._submit_errors: dict[str, str] = {}
        self._stopped_at_ms: dict[str, int] = {}
        self._settled: set[str] = set()  # listed, over and accounted: both are final
        self._looked_at_ms = 0
        self._has_news = False
        self._is_at_rest = False

    def pause_s(self, interval_s: float) -> float:
        """Return the seconds to the next pass: longer than ``interval_s`` while there is no job.

        A new job wakes the loop of the control plane that took it; another one finds it then.
        """
        return max(interval_s, REST_PAUSE_S) if self._is_at_rest else interval_s

    def step(self) -> bool:
        """Make one pass; return whether anything is under way, so that the next comes soon."""
        snapshot = self._look()
        self._is_at_rest = snapshot is None
        if snapshot is None:
            return False
        plan = plan_jobs(snapshot)
        made = self._commit(snapshot, plan)
        self._act(snapshot, plan, made)
        return bool(plan.writes) or self._has_news or _is_under_way(snapshot)

    def drain_all(
        self,
        clusters: Mapping[str, Driver],
        timeout_s: float,
        *,
        wait: Callable[[float], None] = time.sleep,
    ) -> tuple[str, ...]:
        """Stop every attempt on ``clusters`` and wait until all ended, about ``timeout_s``.

        Call it when no loop runs any more. The next start makes other attempts. Returns the ids
        of those whose end could not be confirmed.
        """
        return drain.drain_attempts(self._db, clusters, self._clock, timeout_s, wait=wait)

    def _look(self) -> JobSnapshot | None:
        """Return what there is to plan from, None when there is nothing to do at all."""
        now_ms = self._clock.now_ms()
        with self._db.read() as tx:
            rows = look.read_rows(tx, self._quota)
        live = [attempt.id for attempt in rows.attempts if not attempt.status.is_over]
        prune_reports(self._db, rows.reports, live)
        if rows.is_at_rest and now_ms - self._looked_at_ms < STRAYS_MS:
            return None
        self._looked_at_ms = now_ms
        self._has_news = look.has_news(rows, now_ms)
        views = look.ask_all(self._drivers, self._read_reports)
        self._settled &= look.listed_ids(views)
        views = look.without_settled(views, self._settled)
        found = self._with_listed(rows.attempts, look.listed_ids(views))
        states = look.states_of(rows, self._drivers, views)
        records, silent = self._accounts.records(states, found, now_ms)
        self._remember(found)
        return JobSnapshot(
            now_ms=self._clock.now_ms(),
            jobs=rows.jobs,
            attempts=found,
            clusters=look.without_unlisted(states, silent, found),
            dependencies=tuple(rows.dependencies.items()),
            records=records,
            submit_errors=tuple(self._submit_errors.items()),
            devices_max=tuple(rows.devices_max.items()),
            replicas=rows.replicas,
        )

    def _read_reports(self) -> Mapping[str, RunnerReport]:
        with self._db.read() as tx:
            return runners.list_of(tx, kinds.ATTEMPT)

    def _with_listed(self, known: Sequence[Attempt], listed: set[str]) -> tuple[Attempt, ...]:
        """Return the recorded attempts, and those with ``listed`` ids beside them.

        Read after the drivers were asked: a listed id without a row then really has none.
        """
        unknown = listed - {attempt.id for attempt in known}
        if not unknown:
            return tuple(known)
        with self._db.read() as tx:
            return (*known, *attempts.list_among(tx, unknown))

    def _remember(self, found: Sequence[Attempt]) -> None:
        live = {attempt.id for attempt in found if not attempt.status.is_over}
        self._settled |= {it.id for it in found if it.status.is_over and it.is_accounted}
        self._submit_errors = {i: e for i, e in self._submit_errors.items() if i in live}
        now_ms = self._clock.now_ms()
        self._stopped_at_ms = {
            i: ms for i, ms in self._stopped_at_ms.items() if now_ms - ms < STOP_AGAIN_MS
        }

    def _commit(self, snapshot: JobSnapshot, plan: JobPlan) -> list[Attempt]:
        """Write the plan, job by job; return the attempts that were made."""
        seen = {job.id: job for job in snapshot.jobs}
        made: list[Attempt] = []
        for job_id, actions in plan.writes:
            job = seen.get(job_id)
            new = tuple(
                self._new_attempt(action, job, snapshot.now_ms)
                for action in actions
                if isinstance(action, Start) and job is not None
            )
            intent = Intent(job_id, job, actions, new)
            try:
                made += self._db.write(
                    lambda tx, intent=intent: commit(tx, intent, self._charge, snapshot.now_ms)
                )
            except StaleError as stale:
                log.info("%s: planned again: %s", job_id, stale)
            except StoreUnavailableError:
                raise
            except Exception:
                log.exception("%s: its plan could not be recorded", job_id)
        return made

    def _new_attempt(self, start: Start, job: Job, now_ms: int) -> Attempt:
        return Attempt(
            id=self._ids.new(kinds.ATTEMPT),
            job_id=job.id,
            project_id=job.project_id,
            array_index=start.array_index,
            number=start.number,
            cluster_id=start.cluster_id,
            secret=self._ids.entropy(SECRET_BYTES).hex(),
            created_at_ms=now_ms,
            changed_at_ms=now_ms,
            node_id=start.node_id,
            device_indexes=start.device_indexes,
        )

    def _act(self, snapshot: JobSnapshot, plan: JobPlan, made: list[Attempt]) -> None:
        names = {state.cluster.id: state.cluster.name for state in snapshot.clusters}
        planned = [call for call in plan.calls if isinstance(call, Submit)]
        due = [*planned, *(Submit(it.cluster_id, it.id) for it in made)][:SUBMITS_MAX]
        self._look_up(due, names)
        for call in due:
            self._submit(call.attempt_id, names)
        for call in plan.calls:
            match call:
                case StopAttempt():
                    self._stop(call, names[call.cluster_id], snapshot.now_ms)
                case ForgetAttempt():
                    self._forget(call, names[call.cluster_id])
                case Submit():
                    pass

    def _look_up(self, due: Sequence[Submit], names: Mapping[str, str]) -> None:
        """Have clusters that queue look for all that is to start with one question each."""
        for cluster_id in sorted({call.cluster_id for call in due}):
            ids = [call.attempt_id for call in due if call.cluster_id == cluster_id]
            driver = self._drivers.get(names.get(cluster_id, ""))
            if driver is None or not driver.queues or len(ids) == 1:
                continue
            try:
                driver.account(ids)
            except DriverUnavailableError as error:
                log.info("%s: its accounting does not answer: %s", driver.name, error)
            except Exception:
                log.exception("%s: its accounting failed", driver.name)

    def _submit(self, attempt_id: str, names: Mapping[str, str]) -> None:
        """Submit what the store says, now, is to be started: the last look before acting."""
        with self._db.read() as tx:
            found = _submittable(tx, attempt_id)
        if found is None:
            return
        attempt, launch, node_name = found
        driver = self._drivers.get(names.get(attempt.cluster_id, ""))
        if driver is None:
            return
        try:
            driver.submit(attempt.id, launch, node_name)
        except DriverUnavailableError as error:
            if self._submit_errors.get(attempt.id) != str(error):  # maybe five times a second
                log.warning("%s: its start is tried again: %s", attempt.id, error)
            self._submit_errors[attempt.id] = str(error)
        except ValueError as error:
            log.warning("%s: its cluster refuses it: %s", attempt.id, error)
            reason, now_ms = str(error), self._clock.now_ms()
            self._db.write(lambda tx: refuse(tx, attempt.id, reason, now_ms))
        except Exception as error:
            log.exception("%s: it could not be submitted", attempt.id)
            self._submit_errors[attempt.id] = f"its driver failed: {type(error).__name__}"
        else:
            self._submit_errors.pop(attempt.id, None)

    def _stop(self, call: StopAttempt, cluster: str, now_ms: int) -> None:
        if call.attempt_id in self._stopped_at_ms:
            return
        try:
            self._drivers[cluster].stop(call.attempt_id, drain=call.drain)
            self._stopped_at_ms[call.attempt_id] = now_ms
        except DriverUnavailableError as error:
            log.warning("%s: its end is asked for again: %s", call.attempt_id, error)
        except Exception:
            log.exception("%s: it could not be asked to end", call.attempt_id)

    def _forget(self, call: ForgetAttempt, cluster: str) -> None:
        try:
            self._drivers[cluster].forget(call.attempt_id)
        except DriverUnavailableError as error:
            log.warning("%s: it is forgotten later: %s", call.attempt_id, error)
        except Exception:
            log.exception("%s: it could not be forgotten", call.attempt_id)


def _submittable(tx: Transaction, attempt_id: str) -> tuple[Attempt, JobLaunch, str | None] | None:
    attempt = attempts.get(tx, attempt_id)
    if attempt is None or attempt.status is not AttemptStatus.PENDING:
        return None
    job = jobs.get(tx, attempt.job_id)
    if job is None or job.status.is_over or job.cancelled_at_ms is not None:
        return None
    project = tenancy.get_project(tx, job.project_id)
    owner = tenancy.get_organization(tx, project.organization_id) if project else None
    if project is None or owner is None:
        return None
    names = {node.id: node.name for node in fleet.list_nodes(tx, attempt.cluster_id)}
    node_name = None if attempt.node_id is None else names.get(attempt.node_id)
    launch = launch_of(job, attempt, jobs.files_of(tx, job.id), Tenancy(owner.name, project.name))
    return attempt, launch, node_name


def _is_under_way(snapshot: JobSnapshot) -> bool:
    """Tell whether something starts, stops or ends where it can be seen."""
    heard = {s.cluster.id for s in snapshot.clusters if isinstance(s.view, Reachable)}
    ending = {job.id for job in snapshot.jobs if job.cancelled_at_ms is not None}
    return any(
        attempt.cluster_id in heard
        and (
            attempt.status is AttemptStatus.PENDING
            or (not attempt.status.is_over and attempt.job_id in ending)
        )
        for attempt in snapshot.attempts
    )
