"""Jobs and attempts as replies: what is shown of each."""

from dataclasses import asdict

from tramontane.domain.jobs import job as domain
from tramontane.domain.jobs.retention import Retention
from tramontane.wire import cloud_jobs as wire
from tramontane.wire.cloud_replies import Resources


def job(value: domain.Job, retention: Retention) -> wire.Job:
    """Return the view of a job: of its environment the names only, and how long it is kept."""
    spec = value.spec
    return wire.Job(
        id=value.id,
        project_id=value.project_id,
        name=value.name,
        status=value.status,
        reason=value.reason,
        is_cancelling=value.cancelled_at_ms is not None and not value.status.is_over,
        command=list(spec.command),
        nodes=spec.nodes,
        resources=Resources(**asdict(spec.resources)),
        environment=[name for name, _ in spec.env],
        files=list(spec.file_paths),
        priority_class=spec.priority_class,
        time_limit_s=spec.time_limit_s,
        retries=spec.retries,
        depends_on=list(spec.depends_on),
        array=spec.array,
        topology=spec.topology,
        hang_after_s=spec.hang_after_s,
        cluster=spec.cluster,
        cluster_id=value.cluster_id,
        created_at_ms=value.created_at_ms,
        started_at_ms=value.started_at_ms,
        ended_at_ms=value.ended_at_ms,
        files_kept_until_ms=retention.files_kept_until_ms(value),
        files_removed_at_ms=value.files_removed_at_ms,
    )


def attempt(value: domain.Attempt) -> wire.Attempt:
    """Return the view of an attempt, without its secret."""
    return wire.Attempt(
        id=value.id,
        job_id=value.job_id,
        index=value.array_index,
        number=value.number,
        status=value.status,
        reason=value.reason,
        exit_code=value.exit_code,
        cluster_id=value.cluster_id,
        external_id=value.external_id,
        node_names=list(value.node_names),
        devices=value.devices,
        device_seconds=value.device_seconds,
        is_accounted=value.is_accounted,
        created_at_ms=value.created_at_ms,
        starts_at_ms=value.starts_at_ms,
        started_at_ms=value.started_at_ms,
        ended_at_ms=value.ended_at_ms,
    )
