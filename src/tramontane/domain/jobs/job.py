"""Jobs: work that ends, what is wanted of it, and the attempts that were made at it.

A job is one command, or an array of them told apart by an index. Each start is an attempt of its
own: `attempt.JobLaunch` is what a cluster is handed, `Attempt` is what is recorded of it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tramontane.domain.jobs.attempt import AttemptState, JobLaunch, ShippedFile, Topology
from tramontane.domain.launch import PriorityClass, Tenancy
from tramontane.domain.resources import Resources

ARRAY_INDEX_ENV: Final = "TRAMONTANE_ARRAY_INDEX"
ARRAY_COUNT_ENV: Final = "TRAMONTANE_ARRAY_COUNT"
SCRIPT_PATH: Final = "tramontane-script"  # where a job's script is laid, beside its files


class JobStatus(StrEnum):
    """Status words, lower case as everywhere."""

    PENDING = "pending"  # nothing of it runs now; its reason says what it waits for
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more happens to it."""
        return self not in {JobStatus.PENDING, JobStatus.RUNNING}


class AttemptStatus(StrEnum):
    """Where an attempt is: what its cluster says, and what happens before it can say anything."""

    PENDING = "pending"  # recorded; its cluster has not confirmed that it has it
    QUEUED = AttemptState.QUEUED.value
    RUNNING = AttemptState.RUNNING.value
    SUCCEEDED = AttemptState.SUCCEEDED.value
    FAILED = AttemptState.FAILED.value
    CANCELLED = AttemptState.CANCELLED.value
    PREEMPTED = AttemptState.PREEMPTED.value
    NODE_FAILED = AttemptState.NODE_FAILED.value
    TIMED_OUT = AttemptState.TIMED_OUT.value
    REFUSED = "refused"  # its cluster will never run it

    @property
    def is_over(self) -> bool:
        """Tell whether nothing of it runs, nor ever will."""
        return self not in LIVE


LIVE: Final = frozenset({AttemptStatus.PENDING, AttemptStatus.QUEUED, AttemptStatus.RUNNING})
# Ends that are the command's own: another try counts against the job's retries.
FAILURES: Final = frozenset({AttemptStatus.FAILED, AttemptStatus.TIMED_OUT})
# Ends that are the cluster's doing: another attempt follows by itself.
INTERRUPTIONS: Final = frozenset({AttemptStatus.PREEMPTED, AttemptStatus.NODE_FAILED})

_OVER: Final = frozenset(AttemptStatus) - LIVE
TRANSITIONS: Final[dict[AttemptStatus, frozenset[AttemptStatus]]] = {
    AttemptStatus.PENDING: frozenset({AttemptStatus.QUEUED, AttemptStatus.RUNNING}) | _OVER,
    AttemptStatus.QUEUED: frozenset({AttemptStatus.RUNNING}) | _OVER,
    AttemptStatus.RUNNING: _OVER,
} | {over: frozenset() for over in _OVER}


class IllegalAttemptError(AssertionError):
    """A bug: an attempt was asked to go where the table does not lead."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What is wanted. ``resources`` are those of each of the ``nodes``.

    ``command`` runs once on each node. ``file_paths`` are relative paths of what is laid into the
    working folder first. ``env`` may hold secrets. Nothing starts before all of ``depends_on``
    (ids of jobs) have succeeded. With ``array`` the command runs that many times, told apart by
    `ARRAY_INDEX_ENV`. ``retries`` are further tries of each index after a failure. ``cluster`` is
    a name; None lets Tramontane choose.
    """

    command: tuple[str, ...]
    resources: Resources
    time_limit_s: int
    nodes: int = 1
    env: tuple[tuple[str, str], ...] = ()
    file_paths: tuple[str, ...] = ()
    priority_class: PriorityClass = PriorityClass.STANDARD
    retries: int = 0
    depends_on: tuple[str, ...] = ()
    array: int | None = None
    topology: Topology = Topology.ANY
    hang_after_s: int | None = None
    cluster: str | None = None

    @property
    def devices(self) -> int:
        """Return how many devices one attempt holds, on all its nodes."""
        return self.nodes * self.resources.devices


@dataclass(frozen=True, slots=True)
class Job:
    """A wish (``spec``), and what became of it.

    ``cancelled_at_ms`` is when somebody asked for its end. ``cluster_id`` is where its attempts
    go, once that was chosen: they share a folder. ``idempotency_key`` and ``digest`` tell a
    repeated request from a new one. Of one that is over: since when its files are not kept any
    more, since when they are really gone, and since when it is not listed any more.
    """

    id: str
    project_id: str
    name: str
    spec: JobSpec
    created_at_ms: int
    status: JobStatus = JobStatus.PENDING
    reason: str | None = None
    cluster_id: str | None = None
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    cancelled_at_ms: int | None = None
    idempotency_key: str | None = None
    digest: str = ""
    files_expired_at_ms: int | None = None
    files_removed_at_ms: int | None = None
    deleted_at_ms: int | None = None
    revision: int = 1

    @property
    def indexes(self) -> range:
        """Return the indexes that it runs: one, or as many as its array has."""
        return range(self.spec.array or 1)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of one index of a job.

    ``number`` counts the attempts at its index from 1. ``node_id`` and ``device_indexes`` are
    set where Tramontane placed it; ``node_names`` and ``devices`` (on all nodes) are what its
    cluster says. ``starts_at_ms`` is the cluster's estimate. ``external_id`` is the cluster's
    number for it. Once ``is_accounted``, its times, devices and ``device_seconds`` are those of the
    cluster's own accounting. Once ``is_forgotten``, its logs are gone with its job's files.
    """

    id: str
    job_id: str
    project_id: str
    array_index: int
    number: int
    cluster_id: str
    secret: str
    created_at_ms: int
    changed_at_ms: int
    status: AttemptStatus = AttemptStatus.PENDING
    node_id: str | None = None
    device_indexes: tuple[int, ...] = ()
    node_names: tuple[str, ...] = ()
    devices: int = 0
    reason: str | None = None
    exit_code: int | None = None
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    starts_at_ms: int | None = None
    external_id: str | None = None
    device_seconds: int = 0
    is_accounted: bool = False
    is_forgotten: bool = False
    revision: int = 1


def check_transition(attempt: Attempt, to: AttemptStatus) -> None:
    """Raise `IllegalAttemptError` unless the table allows ``to``."""
    if to not in TRANSITIONS[attempt.status]:
        msg = f"{attempt.id} cannot go from {attempt.status} to {to}"
        raise IllegalAttemptError(msg)


def device_seconds(devices: int, started_at_ms: int | None, ended_at_ms: int | None) -> int:
    """Return seconds of one device, rounded to the nearest; 0 for what never started."""
    if started_at_ms is None or ended_at_ms is None:
        return 0
    return (devices * max(0, ended_at_ms - started_at_ms) + 500) // 1_000


def launch_of(
    job: Job, attempt: Attempt, files: tuple[ShippedFile, ...], tenancy: Tenancy
) -> JobLaunch:
    """Return what ``attempt`` starts: the same whenever it is asked."""
    spec, env = job.spec, job.spec.env
    if spec.array is not None:
        own = (ARRAY_INDEX_ENV, str(attempt.array_index)), (ARRAY_COUNT_ENV, str(spec.array))
        env = (*env, *own)
    return JobLaunch(
        job_id=job.id,
        name=job.name,
        number=attempt.number,
        argv=spec.command,
        env=env,
        files=files,
        nodes=spec.nodes,
        resources=spec.resources,
        topology=spec.topology,
        priority_class=spec.priority_class,
        time_limit_s=spec.time_limit_s,
        hang_after_s=spec.hang_after_s,
        tenancy=tenancy,
        secret=attempt.secret,
        device_indexes=attempt.device_indexes,
    )
