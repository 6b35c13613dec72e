"""What a job's status is, and its reason in words for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus
from tramontane.domain.jobs.lines import Line, LineState
from tramontane.domain.jobs.snapshot import Sightings
from tramontane.domain.observation import Unreachable


@dataclass(frozen=True, slots=True)
class Told:
    """A status and why."""

    status: JobStatus
    reason: str | None


def describe(
    job: Job,
    lines: Sequence[Line],
    *,
    waiting: str | None,
    is_doomed: bool,
    started: frozenset[int],
    sightings: Sightings,
    submit_errors: Mapping[str, str],
) -> Told:
    """Return what is to be told of ``job``.

    ``waiting`` says why nothing more of it starts, ``is_doomed`` that nothing ever will;
    ``started`` are the indexes that get an attempt now.
    """
    going = [line for line in lines if line.state is LineState.LIVE]
    is_to_end = job.cancelled_at_ms is not None or is_doomed
    if not going and (is_to_end or all(line.state.is_over for line in lines)):
        return _ended(job, lines, waiting if is_doomed else None)
    running = [
        line.last for line in going if line.last and line.last.status is AttemptStatus.RUNNING
    ]
    if job.cancelled_at_ms is not None:
        status = JobStatus.RUNNING if running else JobStatus.PENDING
        return Told(status, _silence(going, sightings) or "is being cancelled")
    if running:
        told = _counts(lines) if job.spec.array is not None else running[0].reason
        return Told(JobStatus.RUNNING, _silence(going, sightings) or told)
    reason = _silence(going, sightings) or _why_pending(
        lines, waiting, started, sightings, submit_errors
    )
    return Told(JobStatus.PENDING, reason)


def _ended(job: Job, lines: Sequence[Line], doom: str | None) -> Told:
    if all(line.state is LineState.SUCCEEDED for line in lines):
        return Told(JobStatus.SUCCEEDED, None)
    if job.cancelled_at_ms is not None:
        return Told(JobStatus.CANCELLED, "cancelled as asked")
    if doom is not None:
        return Told(JobStatus.FAILED, doom)
    failed = [line for line in lines if line.state is LineState.FAILED]
    if not failed:
        first = next(line for line in lines if line.state is LineState.CANCELLED)
        return Told(JobStatus.CANCELLED, f"cancelled on its cluster; {first.reason}")
    if job.spec.array is None:
        return Told(JobStatus.FAILED, failed[0].reason)
    first = f"index {failed[0].index}: {failed[0].reason}"
    return Told(JobStatus.FAILED, f"{len(failed)} of {len(lines)} failed; {first}")


def _why_pending(
    lines: Sequence[Line],
    waiting: str | None,
    started: frozenset[int],
    sightings: Sightings,
    submit_errors: Mapping[str, str],
) -> str | None:
    """Return why nothing of it runs: what the first index that is not over waits for."""
    first = next((line for line in lines if not line.state.is_over), None)
    if first is None:
        return None
    if first.state is LineState.LIVE and first.last is not None:
        return _why_not_running(first.last, sightings, submit_errors)
    if first.index in started:
        return f"{first.reason}; the next one starts" if first.reason else "starts"
    if waiting is not None:
        return f"{first.reason}; {waiting}" if first.reason else waiting
    return f"{first.reason}; the next one follows soon" if first.reason else None


def _why_not_running(
    attempt: Attempt, sightings: Sightings, submit_errors: Mapping[str, str]
) -> str:
    name = sightings.cluster_name(attempt.cluster_id)
    if attempt.status is AttemptStatus.PENDING:
        error = submit_errors.get(attempt.id)
        return f"its start is tried again: {error}" if error else "starts"
    told = f"queued on {name}" + (f": {attempt.reason}" if attempt.reason else "")
    if attempt.starts_at_ms is None:
        return told
    at = datetime.fromtimestamp(attempt.starts_at_ms // 60_000 * 60, UTC)
    return f"{told}; expected to start at {at:%Y-%m-%d %H:%M} UTC"


def _silence(going: Sequence[Line], sightings: Sightings) -> str | None:
    for line in going:
        view = sightings.view_of(line.last) if line.last else None
        if line.last is not None and isinstance(view, Unreachable):
            name = sightings.cluster_name(line.last.cluster_id)
            return f"cluster {name} does not answer: {view.reason}"
    return None


def _counts(lines: Sequence[Line]) -> str:
    states = Counter(line.state for line in lines)
    running = sum(
        line.last is not None and line.last.status is AttemptStatus.RUNNING for line in lines
    )
    told = [f"{running} of {len(lines)} run"]
    if states[LineState.SUCCEEDED]:
        told.append(f"{states[LineState.SUCCEEDED]} succeeded")
    if states[LineState.FAILED]:
        told.append(f"{states[LineState.FAILED]} failed")
    return ", ".join(told)
