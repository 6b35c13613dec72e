"""The plan of the job reconciler: from a snapshot to explicit actions, and nothing else.

Order of thought: what clusters say becomes moves of attempts; each job then says whether it goes
on, and which of its indexes want another attempt; those get places, the higher class and the
older job first; statuses are worded last, from all that. Calls to drivers follow rows that are
committed, never the wishes of the plan in the making.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus
from tramontane.domain.jobs.lines import Line, LineState, lines_of
from tramontane.domain.jobs.places import Places
from tramontane.domain.jobs.snapshot import (
    DriverAction,
    ForgetAttempt,
    JobPlan,
    JobSnapshot,
    Move,
    SetJob,
    Sightings,
    Start,
    StopAttempt,
    StoreAction,
    Submit,
)
from tramontane.domain.jobs.watch import ended, seen_now, settled
from tramontane.domain.jobs.wording import describe
from tramontane.domain.launch import PriorityClass
from tramontane.domain.observation import Reachable

# Of one job in one pass: rows of a large array are written in several short transactions.
STARTS_MAX: Final = 100
# Attempts of one project that wait on clusters. Queues have an end, and those before it are all
# looked at again and again: nobody fills them alone. The others wait here, at no cost to anyone.
QUEUED_MAX: Final = 1_000
_QUEUED: Final = frozenset({AttemptStatus.PENDING, AttemptStatus.QUEUED})
# A job that was asked to end and does not is ended at once, this long after its grace.
CANCEL_MS_MAX: Final = 60_000
# How a runner leaves that was asked to end (128 + SIGTERM), and what dies of SIGTERM itself.
_ASKED_TO_END: Final = frozenset({143, -15})
_ORDER: Final = {name: rank for rank, name in enumerate(PriorityClass)}


@dataclass(slots=True)
class _Draft:
    """One job while the plan is being made. ``attempts`` are as they are now."""

    job: Job
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    writes: list[StoreAction] = field(default_factory=list[StoreAction])
    lines: list[Line] = field(default_factory=list[Line])
    starts: list[Start] = field(default_factory=list[Start])
    waiting: str | None = None  # why nothing of it starts now
    is_doomed: bool = False  # it can never start


def plan_jobs(snapshot: JobSnapshot) -> JobPlan:
    """Return what to do next; an empty plan when there is nothing to do."""
    sightings = Sightings(snapshot)
    drafts = {job.id: _Draft(job) for job in sorted(snapshot.jobs, key=_turn)}
    others: dict[str, list[StoreAction]] = {}
    for attempt in snapshot.attempts:
        draft = drafts.get(attempt.job_id)
        now = seen_now(attempt, sightings, snapshot.now_ms)
        if draft is not None:
            now = _cancelled(draft.job, attempt, now, sightings, snapshot.now_ms)
            draft.attempts.append(now)
        writes = others.setdefault(attempt.job_id, []) if draft is None else draft.writes
        if now != attempt:
            writes.append(Move(attempt, now))
        elif attempt.status.is_over and not attempt.is_accounted:
            settle = settled(attempt, sightings.record(attempt), snapshot.now_ms)
            writes += [settle] if settle else []
    for draft in drafts.values():
        draft.lines = lines_of(draft.job, draft.attempts)
    _start(drafts, snapshot)
    for draft in drafts.values():
        _set_job(draft, sightings, snapshot)
    groups = [(draft.job.id, draft.writes) for draft in drafts.values()] + list(others.items())
    # What frees room is written before what takes it.
    groups.sort(key=lambda group: any(isinstance(action, Start) for action in group[1]))
    writes = tuple((job_id, tuple(actions)) for job_id, actions in groups if actions)
    return JobPlan(writes, tuple(_calls(snapshot, sightings)))


def _turn(job: Job) -> tuple[int, int, str]:
    return (_ORDER[job.spec.priority_class], job.created_at_ms, job.id)


def _cancelled(
    job: Job, attempt: Attempt, now: Attempt, sightings: Sightings, now_ms: int
) -> Attempt:
    """Return the attempt as over when its job is to end and its cluster never showed it.

    A runner that hears of it first ends its command by itself; what its cluster then calls a
    failure is none, of the job or of the node.
    """
    if job.cancelled_at_ms is None or attempt.status.is_over:
        return now
    if now.status is AttemptStatus.FAILED and now.exit_code in _ASKED_TO_END:
        return replace(now, status=AttemptStatus.CANCELLED, reason="ended as asked")
    if now.status.is_over:
        return now
    if sightings.is_waiting_to_be_listed(attempt):
        return ended(now, AttemptStatus.CANCELLED, "cancelled before it started", now_ms)
    return now


def _start(drafts: Mapping[str, _Draft], snapshot: JobSnapshot) -> None:
    """Give places to the lines that want an attempt now."""
    live = [
        (attempt, draft.job)
        for draft in drafts.values()
        for attempt in draft.attempts
        if not attempt.status.is_over
    ]
    places = Places(snapshot, live)
    queued = Counter(a.project_id for a, _ in live if a.status in _QUEUED)
    known = dict(snapshot.dependencies)
    for draft in drafts.values():
        due = [line for line in draft.lines if line.state is LineState.DUE]
        if not due or draft.job.cancelled_at_ms is not None:
            continue
        draft.waiting, draft.is_doomed = _dependencies(draft.job, known)
        ready = [line for line in due if line.due_at_ms <= snapshot.now_ms]
        if draft.waiting is None:
            _start_lines(draft, ready, places, QUEUED_MAX - queued[draft.job.project_id])
            queued[draft.job.project_id] += len(draft.starts)


def _dependencies(job: Job, known: Mapping[str, JobStatus]) -> tuple[str | None, bool]:
    """Return what the job waits for, if anything, and whether that can never come."""
    for job_id in job.spec.depends_on:
        status = known.get(job_id)
        if status is None or (status.is_over and status is not JobStatus.SUCCEEDED):
            return f"it depends on {job_id}, which {_fate(status)}", True
    waiting = [id_ for id_ in job.spec.depends_on if known[id_] is not JobStatus.SUCCEEDED]
    return (f"waits for {', '.join(waiting[:3])}" if waiting else None), False


def _fate(status: JobStatus | None) -> str:
    if status is None:
        return "is gone"
    return "was cancelled" if status is JobStatus.CANCELLED else str(status)


def _start_lines(draft: _Draft, ready: list[Line], places: Places, room: int) -> None:
    job = draft.job
    if ready and room <= 0:
        draft.waiting = f"{QUEUED_MAX} attempts of its project are queued already"
        return
    cluster_id = job.cluster_id
    for line in ready[: min(STARTS_MAX, room)]:
        since_ms = line.last.changed_at_ms if line.last else job.created_at_ms
        place = places.find(_bound(job, cluster_id), since_ms)
        if isinstance(place, str):
            draft.waiting = place
            return
        cluster_id = place.cluster_id
        start = Start(
            job.id,
            line.index,
            line.next_number,
            place.cluster_id,
            place.node_id,
            place.device_indexes,
        )
        draft.starts.append(start)
        draft.writes.append(start)


def _bound(job: Job, cluster_id: str | None) -> Job:
    """Return the job as bound to a cluster: its attempts share a folder there."""
    return job if job.cluster_id == cluster_id else replace(job, cluster_id=cluster_id)


def _set_job(draft: _Draft, sightings: Sightings, snapshot: JobSnapshot) -> None:
    job = draft.job
    told = describe(
        job,
        draft.lines,
        waiting=draft.waiting,
        is_doomed=draft.is_doomed,
        started=frozenset(start.array_index for start in draft.starts),
        sightings=sightings,
        submit_errors=dict(snapshot.submit_errors),
    )
    begun = [a.started_at_ms for a in draft.attempts if a.started_at_ms is not None]
    chosen = draft.starts[0].cluster_id if draft.starts else None
    wanted = SetJob(
        job.id,
        told.status,
        told.reason,
        job.cluster_id or chosen,
        min(begun, default=None),
        snapshot.now_ms if told.status.is_over else None,
    )
    if wanted != _state_of(job):
        draft.writes.append(wanted)


def _state_of(job: Job) -> SetJob:
    return SetJob(
        job.id, job.status, job.reason, job.cluster_id, job.started_at_ms, job.ended_at_ms
    )


def _calls(snapshot: JobSnapshot, sightings: Sightings) -> list[DriverAction]:
    jobs = {job.id: job for job in snapshot.jobs}
    rows = {(a.cluster_id, a.id): a for a in snapshot.attempts}
    calls: list[DriverAction] = []
    for attempt in _in_turn(snapshot.attempts):
        job = jobs.get(attempt.job_id)
        if job is not None and not attempt.status.is_over:
            calls += _call_for(job, attempt, sightings, snapshot.now_ms)
    for state in snapshot.clusters:
        for seen in state.view.attempts if isinstance(state.view, Reachable) else ():
            row = rows.get((state.cluster.id, seen.attempt_id))
            if seen.state.is_over:
                if row is None:
                    calls.append(ForgetAttempt(state.cluster.id, seen.attempt_id))
            elif row is None or row.status.is_over:
                calls.append(StopAttempt(state.cluster.id, seen.attempt_id, drain=False))
    return calls


def _in_turn(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return the attempts by age, those of all projects in turn: one of many delays no other."""
    turns: Counter[str] = Counter()
    ordered: list[tuple[int, Attempt]] = []
    for attempt in sorted(attempts, key=lambda a: (a.created_at_ms, a.id)):
        if attempt.status is AttemptStatus.PENDING:
            turns[attempt.project_id] += 1
        ordered.append((turns[attempt.project_id], attempt))
    return [attempt for _, attempt in sorted(ordered, key=lambda item: item[0])]


def _call_for(job: Job, attempt: Attempt, sightings: Sightings, now_ms: int) -> list[DriverAction]:
    if not isinstance(sightings.view_of(attempt), Reachable):
        return []
    is_unlisted = sightings.is_waiting_to_be_listed(attempt)
    if job.cancelled_at_ms is not None:
        seen = sightings.observation(attempt)
        if seen is not None and seen.state.is_over:
            return []
        is_overdue = now_ms - job.cancelled_at_ms > CANCEL_MS_MAX
        return [StopAttempt(attempt.cluster_id, attempt.id, drain=not (is_overdue or is_unlisted))]
    if is_unlisted and not sightings.is_on_lost_node(attempt):
        return [Submit(attempt.cluster_id, attempt.id)]
    return []
