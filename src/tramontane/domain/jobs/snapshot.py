"""The input of planning jobs, and what a plan consists of: frozen values, nothing else."""

from dataclasses import dataclass

from tramontane.domain.fleet import Cluster, Node
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptRecord
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus
from tramontane.domain.observation import ClusterView, Reachable, Unreachable
from tramontane.domain.planning.placement import Holding
from tramontane.domain.replica import Replica


@dataclass(frozen=True, slots=True)
class JobCluster:
    """A cluster and what its driver just said; ``queues``: it chooses when and where itself."""

    cluster: Cluster
    nodes: tuple[Node, ...]
    queues: bool
    view: ClusterView


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """What is wanted and what was seen at ``now_ms``.

    ``jobs`` are those that are not over. ``attempts`` are all of theirs, and of other jobs those
    that run, are listed by a driver or are not accounted. ``dependencies`` are statuses by id of
    what jobs depend on. ``records`` is what accounting told of attempts that are over.
    ``submit_errors`` are pairs of an attempt's id and what its driver said when it was last
    submitted in vain. ``devices_max`` are quotas by project id. ``replicas`` hold capacity.
    """

    now_ms: int
    jobs: tuple[Job, ...]
    attempts: tuple[Attempt, ...]
    clusters: tuple[JobCluster, ...]
    dependencies: tuple[tuple[str, JobStatus], ...] = ()
    records: tuple[AttemptRecord, ...] = ()
    submit_errors: tuple[tuple[str, str], ...] = ()
    devices_max: tuple[tuple[str, int], ...] = ()
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Record another attempt at an index of a job, where it is to run."""

    job_id: str
    array_index: int
    number: int
    cluster_id: str
    node_id: str | None = None
    device_indexes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """Record what became of an attempt: its ``attempt`` as it was seen, ``new`` as it is now."""

    attempt: Attempt
    new: Attempt


@dataclass(frozen=True, slots=True)
class Settle:
    """Record what accounting says of an attempt that is over; ``is_certain``: it said so."""

    attempt: Attempt
    new: Attempt
    is_certain: bool


@dataclass(frozen=True, slots=True)
class SetJob:
    """Record what became of a job; made only when something in it changed."""

    job_id: str
    status: JobStatus
    reason: str | None
    cluster_id: str | None
    started_at_ms: int | None
    ended_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Submit:
    """Have the driver start or queue a recorded attempt that it does not list yet."""

    cluster_id: str
    attempt_id: str


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Have the driver end an attempt; ``drain`` lets it save what it has."""

    cluster_id: str
    attempt_id: str
    drain: bool


@dataclass(frozen=True, slots=True)
class ForgetAttempt:
    """Have the driver drop what it keeps of an attempt that is over: its report and logs."""

    cluster_id: str
    attempt_id: str


StoreAction = Start | Move | Settle | SetJob
DriverAction = Submit | StopAttempt | ForgetAttempt


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Writes, by job, and calls to drivers that follow what was written before this plan."""

    writes: tuple[tuple[str, tuple[StoreAction, ...]], ...]
    calls: tuple[DriverAction, ...]


def holding_of(attempt: Attempt, job: Job) -> Holding:
    """Return what a live attempt holds."""
    return Holding(attempt.id, job.id, attempt.node_id, job.spec.resources, attempt.device_indexes)


class Sightings:
    """The clusters of a snapshot, asked attempt by attempt."""

    def __init__(self, snapshot: JobSnapshot) -> None:
        self._clusters = {state.cluster.id: state for state in snapshot.clusters}
        self._records = {record.attempt_id: record for record in snapshot.records}
        self._seen = {
            (state.cluster.id, seen.attempt_id): seen
            for state in snapshot.clusters
            if isinstance(state.view, Reachable)
            for seen in state.view.attempts
        }

    def view_of(self, attempt: Attempt) -> ClusterView:
        """Return what the attempt's cluster said; one without a driver said nothing."""
        state = self._clusters.get(attempt.cluster_id)
        return state.view if state else Unreachable("no driver is configured for it")

    def cluster_name(self, cluster_id: str) -> str:
        """Return the name of a cluster, or its id when it is not known."""
        state = self._clusters.get(cluster_id)
        return state.cluster.name if state else cluster_id

    def observation(self, attempt: Attempt) -> AttemptObservation | None:
        """Return what the attempt's cluster lists of it."""
        return self._seen.get((attempt.cluster_id, attempt.id))

    def record(self, attempt: Attempt) -> AttemptRecord | None:
        """Return what accounting says of it."""
        return self._records.get(attempt.id)

    def is_on_lost_node(self, attempt: Attempt) -> bool:
        """Tell whether the attempt was placed on a node that its cluster says is gone."""
        state = self._clusters.get(attempt.cluster_id)
        if state is None or attempt.node_id is None or not isinstance(state.view, Reachable):
            return False
        names = {node.id: node.name for node in state.nodes}
        alive = {node.name for node in state.view.nodes if not node.is_lost}
        return names.get(attempt.node_id) not in alive

    def is_waiting_to_be_listed(self, attempt: Attempt) -> bool:
        """Tell whether its reachable cluster has not shown that it has it."""
        return (
            attempt.status is AttemptStatus.PENDING
            and isinstance(self.view_of(attempt), Reachable)
            and self.observation(attempt) is None
        )
