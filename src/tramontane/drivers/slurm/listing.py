"""What the cluster looked like a moment ago: asked once for all who look.

In the steady state slurmctld gets at most one question per poll interval: the jobs, and now and
then the nodes or the partitions in their place. When something of ours started or ended, the
nodes are asked for besides. An outage is remembered for as long.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.dialects.records import SlurmJob, SlurmNode, SlurmPartition
from tramontane.drivers.slurm.jobs import ours
from tramontane.drivers.slurm.rest.api import SlurmApi

NODES_EVERY: Final = 5  # poll intervals
PARTITIONS_EVERY: Final = 600
OUTAGE_S: Final = 1.0  # after a failed question, besides the interval: not to pile on


@dataclass(frozen=True, slots=True)
class Seen:
    """One state of the cluster. ``jobs`` are ours by id, the one that counts first.

    ``jobs_at`` is when the question for them was asked, on the monotonic clock.
    ``jobs_with_nodes`` are those that were known when the nodes were asked for.
    """

    jobs: Mapping[str, tuple[SlurmJob, ...]] = field(
        default_factory=dict[str, tuple[SlurmJob, ...]]
    )
    jobs_at: float = -1e9
    nodes: tuple[SlurmNode, ...] = ()
    jobs_with_nodes: tuple[SlurmJob, ...] = ()
    partition: SlurmPartition | None = None


class Listing:
    """Keeps the newest `Seen`; for any number of threads.

    ``partition`` None means the cluster's default one. ``known`` returns the jobs that were ours
    when they were seen last, by number.
    """

    def __init__(
        self,
        api: SlurmApi,
        installation_id: str,
        users: Collection[str],
        *,
        partition: str | None,
        poll_interval_s: float,
        known: Callable[[], Mapping[int, SlurmJob]] = dict,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._installation_id = installation_id
        self._users = users
        self._partition = partition
        self._poll_interval_s = poll_interval_s
        self._known = known
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seen = Seen()
        self._asked_at = -1e9
        self._round = 0
        self._are_nodes_due = False
        self._is_complete = False
        self._outage: tuple[float, str] | None = None

    def current(self) -> Seen:
        """Return what was seen within the poll interval; ask if that is too long ago.

        Raises `DriverUnavailableError`.
        """
        with self._lock:
            return self._refresh(self._monotonic() - self._asked_at >= self._poll_interval_s)

    def since(self, moment: float) -> Seen:
        """Return what was seen by a question for the jobs that was asked after ``moment``.

        Raises `DriverUnavailableError`.
        """
        with self._lock:
            if self._seen.jobs_at <= moment:
                self._refresh(is_due=True, jobs_first=True)
            return self._seen

    def nodes_changed(self) -> None:
        """Have the nodes asked for next."""
        with self._lock:
            self._are_nodes_due = True

    def _refresh(self, is_due: bool, *, jobs_first: bool = False) -> Seen:  # noqa: FBT001
        now = self._monotonic()
        if self._outage is not None and now - self._outage[0] < self._poll_interval_s + OUTAGE_S:
            raise DriverUnavailableError(self._outage[1])
        if not is_due and self._outage is None:
            return self._seen
        try:
            self._ask(jobs_first=jobs_first)
        except DriverUnavailableError as error:
            self._outage = self._monotonic(), str(error)
            raise
        self._outage = None
        return self._seen

    def _ask(self, *, jobs_first: bool) -> None:
        self._asked_at = self._monotonic()
        if not self._is_complete:
            self._ask_partitions()
            self._ask_jobs()
            self._ask_nodes()
            self._is_complete = True
            return
        self._round += 1
        if not jobs_first and self._round % PARTITIONS_EVERY == 0:
            self._ask_partitions()
        elif not jobs_first and self._round % NODES_EVERY == 0:
            self._ask_nodes()
        else:
            self._ask_jobs()
            if self._are_nodes_due and not jobs_first:
                self._ask_nodes()

    def _ask_jobs(self) -> None:
        asked_at = self._monotonic()
        known = self._known()
        listed = self._api.jobs(lambda record: self._may_be_ours(record, known))
        jobs = ours(listed, self._installation_id, self._users, known)
        if _holders(jobs) != _holders(self._seen.jobs):
            self._are_nodes_due = True  # what others hold is the difference to what we hold
        self._seen = replace(self._seen, jobs=jobs, jobs_at=asked_at)

    def _ask_nodes(self) -> None:
        nodes = tuple(self._api.nodes())
        known = tuple(job for same in self._seen.jobs.values() for job in same)
        self._seen = replace(self._seen, nodes=nodes, jobs_with_nodes=known)
        self._are_nodes_due = False

    def _ask_partitions(self) -> None:
        listed = self._api.partitions()
        named = (p for p in listed if p.name == self._partition)
        default = (p for p in listed if p.is_default and self._partition is None)
        self._seen = replace(self._seen, partition=next(named, next(default, None)))

    def _may_be_ours(self, record: Mapping[str, Any], known: Mapping[int, SlurmJob]) -> bool:
        """Tell at a glance whether a listed job may be ours: most are others'."""
        comment, job_id = record.get("comment"), record.get("job_id")
        if isinstance(comment, str) and self._installation_id in comment:
            return True
        return isinstance(job_id, int) and job_id in known


def _holders(jobs: Mapping[str, tuple[SlurmJob, ...]]) -> frozenset[int]:
    """Return the numbers of the jobs that hold nodes, or did until they ended."""
    return frozenset(
        job.job_id
        for same in jobs.values()
        for job in same
        if job.nodes and "RUNNING" in job.states
    )
