"""Values for tests of jobs: small, explicit, the same each time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.support.planning import GIB, NOW_MS, node_of, typed_id
from tramontane.domain import ids
from tramontane.domain.fleet import Cluster, ClusterStatus, Node
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptRecord, AttemptState
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobSpec
from tramontane.domain.jobs.plan import plan_jobs
from tramontane.domain.jobs.snapshot import JobCluster, JobPlan, JobSnapshot
from tramontane.domain.observation import ClusterView, NodeObservation, Reachable
from tramontane.domain.resources import Resources

CLUSTER_ID = typed_id(ids.CLUSTER, 1)
NEED = Resources(1_000, GIB, 1)


def spec_of(**fields: Any) -> JobSpec:
    """Return the spec of a job that needs one device."""
    return replace(JobSpec(("true",), NEED, 60), **fields)


def job_of(number: int = 1, *, spec: JobSpec | None = None, **fields: Any) -> Job:
    """Return the same job for the same number; ``fields`` of the spec go to the spec."""
    named = {name: fields.pop(name) for name in list(fields) if name in JobSpec.__slots__}
    return replace(
        Job(
            id=typed_id(ids.JOB, number),
            project_id=typed_id(ids.PROJECT, 1),
            name=f"job-{number}",
            spec=spec or spec_of(**named),
            created_at_ms=NOW_MS - 100_000 + number,
        ),
        **fields,
    )


def attempt_of(
    job: Job,
    status: AttemptStatus = AttemptStatus.RUNNING,
    *,
    number: int = 1,
    index: int = 0,
    **fields: Any,
) -> Attempt:
    """Return an attempt at an index of the job, placed on the first node."""
    return replace(
        Attempt(
            id=attempt_id(job, number, index),
            job_id=job.id,
            project_id=job.project_id,
            array_index=index,
            number=number,
            cluster_id=CLUSTER_ID,
            secret="very-secret",
            created_at_ms=NOW_MS - 50_000,
            changed_at_ms=NOW_MS - 40_000,
            status=status,
            node_id=typed_id(ids.NODE, 1),
            device_indexes=(0,),
            is_accounted=status.is_over,
        ),
        **fields,
    )


def attempt_id(job: Job, number: int = 1, index: int = 0) -> str:
    """Return the id that `attempt_of` gives."""
    jobs = {typed_id(ids.JOB, n): n for n in range(1, 30)}
    return typed_id(ids.ATTEMPT, jobs[job.id] * 10_000 + index * 100 + number)


def listed(
    attempt: Attempt, state: AttemptState = AttemptState.RUNNING, **fields: Any
) -> AttemptObservation:
    """Return what a cluster lists of an attempt."""
    return AttemptObservation(attempt.id, state, node_names=("node-1",), **fields)


def record_of(attempt: Attempt, state: AttemptState, **fields: Any) -> AttemptRecord:
    """Return what accounting keeps of ten seconds of an attempt on two devices."""
    made = AttemptRecord(attempt.id, state, NOW_MS - 10_000, NOW_MS, 2, "4711")
    return replace(made, **fields)


def cluster_of(
    *attempts: AttemptObservation,
    queues: bool = False,
    nodes: Sequence[Node] | None = None,
    view: ClusterView | None = None,
    number: int = 1,
) -> JobCluster:
    """Return a cluster that lists ``attempts``, with one node of two devices unless told."""
    name = "local" if number == 1 else f"cluster-{number}"
    cluster = Cluster(typed_id(ids.CLUSTER, number), name, "fake", ClusterStatus.READY, NOW_MS)
    found = (node_of(devices=2),) if nodes is None else tuple(nodes)
    seen = tuple(NodeObservation(node.name, node.capacity, node.devices) for node in found)
    return JobCluster(cluster, found, queues, view or Reachable(seen, (), attempts))


def snapshot_of(
    *jobs: Job,
    attempts: Sequence[Attempt] = (),
    clusters: Sequence[JobCluster] | None = None,
    **fields: Any,
) -> JobSnapshot:
    """Return a snapshot of one cluster unless told."""
    known = (cluster_of(),) if clusters is None else tuple(clusters)
    return JobSnapshot(NOW_MS, jobs, tuple(attempts), known, **fields)


def plan_of(*jobs: Job, **fields: Any) -> JobPlan:
    """Return the plan of a snapshot."""
    return plan_jobs(snapshot_of(*jobs, **fields))


def writes_of(plan: JobPlan, kind: type[Any], job: Job | None = None) -> list[Any]:
    """Return the writes of one kind, of one job if told."""
    return [
        action
        for job_id, actions in plan.writes
        if job is None or job_id == job.id
        for action in actions
        if isinstance(action, kind)
    ]
