"""Slurm jobs as what the driver reports: observations of replicas and of attempts.

Pure: from listed jobs to values. A job is ours when its comment carries our installation's mark,
its name or its folder is the id in it, and its user is one of those that the cluster's settings
name. Name and comment can be changed by hand: one that was ours stays ours, by its number.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from tramontane.domain import ids
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptRecord, AttemptState
from tramontane.domain.observation import Observation, RunState
from tramontane.domain.resources import NOTHING, Resources
from tramontane.drivers.slurm.dialects.records import ExitStatus, SlurmJob
from tramontane.drivers.slurm.reasons import (
    REQUEUE_REASON,
    SECOND_RUN,
    SUSPEND_REASON,
    attempt_state,
    end_reason,
    is_suspended,
    pending_reason,
    was_requeued,
)

_MARK: Final = "tramontane"
_RACK: Final = "rack"
_FIELD: Final = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Mark:
    """What a job's comment says: whose it is, and which. ``in_one_rack`` is its one wish."""

    installation_id: str
    id: str
    in_one_rack: bool = False

    def __str__(self) -> str:
        wish = f":{_RACK}" if self.in_one_rack else ""
        return f"{_MARK}:{self.installation_id}:{self.id}{wish}"


def mark_of(comment: str) -> Mark | None:
    """Return what a comment says, None when it is none of Tramontane's."""
    kind, *fields = comment.split(":")
    if kind != _MARK or len(fields) not in {2, 3} or not all(map(_FIELD.fullmatch, fields)):
        return None
    return Mark(fields[0], fields[1], in_one_rack=fields[2:] == [_RACK])


def ours(
    jobs: Iterable[SlurmJob],
    installation_id: str,
    users: Collection[str],
    known: Mapping[int, SlurmJob] | None = None,
) -> Mapping[str, tuple[SlurmJob, ...]]:
    """Return our jobs by id, the one that counts first.

    ``known`` are those that were ours when they were seen last, by number and under our names.
    Names and comments are seen by all and can be copied into a job of one's own, from inside of a
    job too: of several users' jobs of one id, only those of who had the first one count.
    """
    found: dict[str, list[SlurmJob]] = {}
    for job in jobs:
        named = _as_named(job, installation_id, known or {}) if job.user in users else None
        if named is not None:
            found.setdefault(named.name, []).append(named)
    return {id_: tuple(sorted(_of_first_user(same), key=_rank)) for id_, same in found.items()}


def _as_named(
    job: SlurmJob, installation_id: str, known: Mapping[int, SlurmJob]
) -> SlurmJob | None:
    """Return a job of ours under the name and comment that we gave it, None if it is not ours."""
    mark = mark_of(job.comment)
    if mark is not None and mark.installation_id == installation_id:
        if mark.id == job.name:
            return job
        if mark.id == job.folder.rpartition("/")[2]:
            return replace(job, name=mark.id, is_renamed=True)
    was = known.get(job.job_id)
    if was is None or (was.user, was.folder) != (job.user, job.folder):
        return None
    return replace(job, name=was.name, comment=was.comment, is_renamed=True)


def surplus(same: tuple[SlurmJob, ...]) -> tuple[SlurmJob, ...]:
    """Return which of the jobs of one id are to be cancelled: what would be a second run.

    That is what waits behind another one, and what was put back into the queue. Others that run
    settle it between themselves: a run directory is claimed by one of them.
    """
    behind = [job for job in same[1:] if attempt_state(job) is AttemptState.QUEUED]
    again = [job for job in same if was_requeued(job) and is_alive(job) and job not in behind]
    return (*behind, *again)


def is_alive(job: SlurmJob) -> bool:
    """Tell whether a job waits or runs; one that is being cleaned up does not."""
    return not attempt_state(job).is_over and "COMPLETING" not in job.states


def first_run(job: SlurmJob, before: SlurmJob | None) -> SlurmJob:
    """Return what a listed job says of its first run: that is all that ever counts of an id.

    Of a job that was put back into the queue, the first run is over as soon as nothing of the job
    holds nodes; Slurm notes the moment as a new submission. ``before`` is what was known of it.
    """
    if not was_requeued(job):
        return job
    if before is None or before.job_id != job.job_id:
        before = replace(job, nodes=(), gpus=0, start_s=0)
    if attempt_state(job) is AttemptState.RUNNING:
        return replace(before, states=frozenset({"COMPLETING"}), restarts=max(1, job.restarts))
    return replace(
        before,
        states=frozenset({"REQUEUED"}),
        end_s=job.submit_s,
        exit_status=ExitStatus(),
        restarts=max(1, job.restarts),
    )


def best_of(jobs: Iterable[SlurmJob]) -> dict[str, SlurmJob]:
    """Return by name the job that counts among all of that name."""
    found: dict[str, list[SlurmJob]] = {}
    for job in jobs:
        found.setdefault(job.name, []).append(job)
    return {name: min(_of_first_user(same), key=_rank) for name, same in found.items()}


def _of_first_user(same: Sequence[SlurmJob]) -> list[SlurmJob]:
    """Return the jobs of whoever submitted the first of them: ids are random until then."""
    user = min(same, key=lambda job: job.job_id).user
    return [job for job in same if job.user == user]


def waits_for_rack(job: SlurmJob) -> bool:
    """Tell whether a job is held until Slurm was told that it needs one rack.

    What an administrator holds is not let go.
    """
    mark = mark_of(job.comment)
    is_waiting = attempt_state(job) is AttemptState.QUEUED
    is_by_us = job.is_held and job.reason != "JobHeldAdmin"
    return is_by_us and is_waiting and mark is not None and mark.in_one_rack


def observation(id_: str, job: SlurmJob) -> Observation:
    """Return a replica as its job shows it; its runner's report knows more."""
    state = attempt_state(job)
    node_name = job.nodes[0] if job.nodes else ""
    if state is AttemptState.QUEUED:
        reason = f"waits in the queue: {pending_reason(job.reason)}{_expected(job.start_s)}"
        return Observation(id_, node_name, RunState.STARTING, reason=reason)
    if state.is_over:
        return Observation(id_, node_name, RunState.EXITED, reason=end_reason(job))
    if is_suspended(job) or was_requeued(job):  # it serves nothing, whatever it said last
        reason = SUSPEND_REASON if is_suspended(job) else REQUEUE_REASON
        return Observation(id_, node_name, RunState.DRAINING, reason=reason)
    return Observation(id_, node_name, RunState.STARTING, ends_at_ms=_ends_at_ms(job))


def attempt(id_: str, job: SlurmJob, *, was_asked_to_end: bool = False) -> AttemptObservation:
    """Return an attempt as its job shows it.

    With ``was_asked_to_end``, a status other than 0 is how a command leaves that was told to.
    """
    state = attempt_state(job)
    reason = SUSPEND_REASON if is_suspended(job) else None
    if state is AttemptState.QUEUED:
        reason = pending_reason(job.reason)
    elif state.is_over:
        if was_asked_to_end and state is AttemptState.FAILED:
            state = AttemptState.CANCELLED
        reason = end_reason(job)
    is_started = bool(job.start_s) and state is not AttemptState.QUEUED and bool(job.nodes)
    return AttemptObservation(
        attempt_id=id_,
        state=state,
        reason=reason,
        node_names=job.nodes,
        devices=job.gpus if is_started else 0,
        started_at_ms=job.start_s * 1000 if is_started else None,
        ended_at_ms=job.end_s * 1000 if state.is_over else None,
        exit_code=_exit_code(state, job),
        starts_at_ms=job.start_s * 1000 or None if state is AttemptState.QUEUED else None,
        external_id=str(job.job_id),
    )


def record(id_: str, job: SlurmJob) -> AttemptRecord | None:
    """Return what accounting keeps of an attempt, None while it is not over."""
    state = attempt_state(job)
    if not state.is_over or not job.end_s:
        return None
    is_started = bool(job.start_s) and bool(job.nodes)
    return AttemptRecord(
        attempt_id=id_,
        state=state,
        started_at_ms=job.start_s * 1000 if is_started else None,
        ended_at_ms=job.end_s * 1000,
        devices=job.gpus if is_started else 0,
        external_id=str(job.job_id),
        exit_code=_exit_code(state, job),
        reason=end_reason(job),
        suspended_ms=job.suspended_s * 1000,
    )


def held_by(jobs: Iterable[SlurmJob], spot_qos: str | None) -> Mapping[str, Resources]:
    """Return by node what these jobs of ours hold that others need not make room for.

    That are replicas, and attempts of the class that gives way.
    """
    held: dict[str, Resources] = {}
    for job in jobs:
        is_replica = ids.prefix_of(job.name) == ids.REPLICA
        if not job.nodes or attempt_state(job) is not AttemptState.RUNNING:
            continue
        if not is_replica and (spot_qos is None or job.qos != spot_qos):
            continue
        count = len(job.nodes)
        share = Resources(job.cpus * 1000 // count, job.memory_mb // count << 20, job.gpus // count)
        for name in job.nodes:
            held[name] = held.get(name, NOTHING) + share
    return held


def _rank(job: SlurmJob) -> tuple[int, int, int]:
    """Order jobs of one id, and the runs of one job in accounting.

    First what another run followed, what runs, what ended having run, what waits; then the oldest.
    """
    state = attempt_state(job)
    did_nothing = job.exit_status.code == SECOND_RUN or not job.nodes
    if "REQUEUED" in job.states:
        rank = 0
    elif state is AttemptState.RUNNING:
        rank = 1
    elif state is AttemptState.QUEUED:
        rank = 3
    else:
        rank = 4 if did_nothing else 2
    return rank, job.job_id, job.submit_s


def _ends_at_ms(job: SlurmJob) -> int | None:
    """Return when its time is over; by Slurm's own word, which counts no suspension."""
    if not job.start_s or not job.time_limit_min:
        return None
    is_told = "RUNNING" in job.states and job.end_s > job.start_s
    return (job.end_s if is_told else job.start_s + job.time_limit_min * 60) * 1000


def _exit_code(state: AttemptState, job: SlurmJob) -> int | None:
    if state is AttemptState.SUCCEEDED:
        return 0
    if not state.is_over or not job.nodes:
        return None
    return -job.exit_status.signal or job.exit_status.code or None


def _expected(start_s: int) -> str:
    if not start_s:
        return ""
    at = datetime.fromtimestamp(start_s, UTC)
    return f"; Slurm expects it to start at {at:%Y-%m-%d %H:%M} UTC"
