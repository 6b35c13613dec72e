"""Looking at jobs: the rows, the drivers' views and their accounting, as one snapshot."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tramontane.domain import ids
from tramontane.domain.fleet import Cluster, Node
from tramontane.domain.jobs.attempt import AttemptRecord
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus
from tramontane.domain.jobs.snapshot import JobCluster
from tramontane.domain.observation import ClusterView, Reachable, RunState, Unreachable
from tramontane.domain.planning.reported import with_reports
from tramontane.domain.replica import Replica
from tramontane.domain.report import RunnerReport
from tramontane.drivers.base import Driver, DriverUnavailableError
from tramontane.reconcilers.look import ask
from tramontane.store import fleet, replicas
from tramontane.store.db import Transaction
from tramontane.store.jobs import attempts, jobs
from tramontane.store.reports import runners

log = logging.getLogger(__name__)

# A cluster shows within a few of its polls what a runner says.
NEWS_MS: Final = 10_000

# Accounting is behind by a moment, nobody waits for it, and a question takes a tenth of a second.
ACCOUNT_MS_MIN: Final = 1_000

QuotaSource = Callable[[Transaction, str], int | None]


@dataclass(frozen=True, slots=True)
class JobRows:
    """What is recorded, read before the drivers are asked.

    That order makes silence mean something: an attempt that was recorded as started before its
    driver was asked, and is not in the answer, does not run.
    """

    jobs: tuple[Job, ...]
    attempts: tuple[Attempt, ...]
    clusters: tuple[Cluster, ...]
    nodes: tuple[Node, ...]
    replicas: tuple[Replica, ...]
    dependencies: Mapping[str, JobStatus]
    devices_max: Mapping[str, int]
    reports: Mapping[str, RunnerReport] = field(default_factory=dict[str, RunnerReport])

    @property
    def is_at_rest(self) -> bool:
        """Tell whether there is nothing to watch or to account."""
        return not self.jobs and not self.attempts


def read_rows(tx: Transaction, quota: QuotaSource) -> JobRows:
    """Return everything that planning needs from the store."""
    live = jobs.list_live(tx)
    found = [
        *attempts.list_of_jobs(tx, [job.id for job in live]),
        *attempts.list_live(tx),
        *attempts.list_unaccounted(tx),
    ]
    needed = {id_ for job in live for id_ in job.spec.depends_on}
    projects = {job.project_id for job in live}
    bounds = {project_id: quota(tx, project_id) for project_id in sorted(projects)}
    return JobRows(
        jobs=tuple(live),
        attempts=tuple({attempt.id: attempt for attempt in found}.values()),
        clusters=tuple(fleet.list_clusters(tx)),
        nodes=tuple(fleet.list_nodes(tx)) if live else (),
        replicas=tuple(replicas.list_holding(tx)) if live else (),
        dependencies=jobs.statuses_of(tx, needed),
        devices_max={id_: most for id_, most in bounds.items() if most is not None},
        reports=runners.list_of(tx, ids.ATTEMPT),
    )


def states_of(
    rows: JobRows, drivers: Mapping[str, Driver], views: Mapping[str, ClusterView]
) -> tuple[JobCluster, ...]:
    """Return each recorded cluster with its nodes and its driver's view (``views`` by name)."""
    silent = Unreachable("no driver is configured for it")
    return tuple(
        JobCluster(
            cluster,
            tuple(node for node in rows.nodes if node.cluster_id == cluster.id),
            cluster.name in drivers and drivers[cluster.name].queues,
            views.get(cluster.name, silent),
        )
        for cluster in rows.clusters
    )


def listed_ids(views: Mapping[str, ClusterView]) -> set[str]:
    """Return the ids of all attempts that reachable clusters list."""
    return {
        seen.attempt_id
        for view in views.values()
        if isinstance(view, Reachable)
        for seen in view.attempts
    }


def without_settled(
    views: Mapping[str, ClusterView], settled: Collection[str]
) -> dict[str, ClusterView]:
    """Return the views without the ends of attempts that are ``settled``: nothing follows from it.

    Clusters list what ended for as long as its logs are kept, which may be very much.
    """
    shown: dict[str, ClusterView] = {}
    for name, view in views.items():
        shown[name] = view
        if settled and isinstance(view, Reachable):
            told = (it for it in view.attempts if it.attempt_id not in settled)
            back = (it for it in view.attempts if it.attempt_id in settled)
            strays = (it for it in back if not it.state.is_over)
            shown[name] = replace(view, attempts=(*told, *strays))
    return shown


def ask_all(
    drivers: Mapping[str, Driver], read_reports: Callable[[], Mapping[str, RunnerReport]]
) -> dict[str, ClusterView]:
    """Return the view of each driver, by the name of its cluster.

    Reports are read after the drivers were asked: a runner says how it ended before its cluster
    can see that it did.
    """
    views = {name: ask(driver) for name, driver in drivers.items()}
    if not any(driver.queues for driver in drivers.values()):
        return views
    reports = read_reports()
    return {
        name: with_reports(view, reports) if drivers[name].queues else view
        for name, view in views.items()
    }


def has_news(rows: JobRows, now_ms: int) -> bool:
    """Tell whether a runner just told what its cluster has not shown yet: it may any moment."""
    for attempt in rows.attempts:
        report = rows.reports.get(attempt.id)
        if report is None or attempt.status.is_over or abs(now_ms - report.at_ms) > NEWS_MS:
            continue
        has_begun = report.run_state is not RunState.STARTING
        is_known = attempt.status is AttemptStatus.RUNNING
        if report.run_state is RunState.EXITED or (has_begun and not is_known):
            return True
    return False


class Accounts:
    """Asks drivers what their accounting says, no more often than it is worth."""

    def __init__(self, drivers: Mapping[str, Driver]) -> None:
        self._drivers = drivers
        self._asked_at_ms: dict[str, int] = {}

    def records(
        self, states: tuple[JobCluster, ...], rows: Collection[Attempt], now_ms: int
    ) -> tuple[tuple[AttemptRecord, ...], frozenset[str]]:
        """Return what is known of attempts that are over, or that their cluster lists no more.

        The other value are names of clusters whose accounting was asked and did not answer.
        """
        open_ids = {attempt.id for attempt in rows if not attempt.is_accounted}
        self._asked_at_ms = {i: ms for i, ms in self._asked_at_ms.items() if i in open_ids}
        found: list[AttemptRecord] = []
        silent: set[str] = set()
        for state in states:
            driver = self._drivers.get(state.cluster.name)
            ids = self._due(state, rows, now_ms)
            if driver is None or not ids:
                continue
            try:
                found += driver.account(ids).values()
            except DriverUnavailableError as error:
                log.warning("%s: its accounting does not answer: %s", state.cluster.name, error)
                silent.add(state.cluster.id)
            except Exception:
                log.exception("%s: its accounting failed", state.cluster.name)
                silent.add(state.cluster.id)
        return tuple(found), frozenset(silent)

    def _due(self, state: JobCluster, rows: Collection[Attempt], now_ms: int) -> list[str]:
        if not isinstance(state.view, Reachable):
            return []
        listed = {seen.attempt_id for seen in state.view.attempts}
        due: list[str] = []
        for attempt in rows:
            if attempt.cluster_id != state.cluster.id or attempt.is_accounted:
                continue
            if not attempt.status.is_over:
                if attempt.status is not AttemptStatus.PENDING and attempt.id not in listed:
                    due.append(attempt.id)
                continue
            asked_ms = self._asked_at_ms.get(attempt.id, attempt.changed_at_ms)
            pause_ms = (now_ms - attempt.changed_at_ms) // 4
            if now_ms - asked_ms >= min(60_000, max(pause_ms, ACCOUNT_MS_MIN)):
                self._asked_at_ms[attempt.id] = now_ms
                due.append(attempt.id)
        return due


def without_unlisted(
    states: tuple[JobCluster, ...], silent: frozenset[str], rows: Collection[Attempt]
) -> tuple[JobCluster, ...]:
    """Return ``states``, with those as unreachable that lost sight of an attempt and its account.

    What left a cluster's list is in its accounting; while that is silent nothing can be said.
    """
    shown: list[JobCluster] = []
    for state in states:
        is_blind = state.cluster.id in silent and isinstance(state.view, Reachable)
        if is_blind and isinstance(state.view, Reachable):
            listed = {seen.attempt_id for seen in state.view.attempts}
            gone = [
                it
                for it in rows
                if it.cluster_id == state.cluster.id
                and it.id not in listed
                and it.status in {AttemptStatus.QUEUED, AttemptStatus.RUNNING}
            ]
            if gone:
                why = Unreachable("its accounting does not answer")
                shown.append(replace(state, view=why))
                continue
        shown.append(state)
    return tuple(shown)
