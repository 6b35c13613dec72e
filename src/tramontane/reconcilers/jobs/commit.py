"""Committing a plan: what concerns one job, in one guarded transaction of its own.

What was planned from a state that has moved on is not written: `StaleError` rolls it back, and the
next pass decides anew. Whether a node has room is decided again inside the transaction, so that
jobs and replicas never share a device, whoever plans them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tramontane.domain.event import Event
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus, check_transition
from tramontane.domain.jobs.snapshot import Move, SetJob, Settle, Start, StoreAction
from tramontane.domain.launch import PriorityClass
from tramontane.domain.planning.placement import Owner, rooms_of
from tramontane.store import events, fleet, replicas
from tramontane.store.db import StaleError, Transaction
from tramontane.store.jobs import attempts, jobs

ACTOR: Final = "reconciler/jobs"
# Clocks of clusters and ours differ a little; more than this between what we saw and what their
# accounting says is worth a line in the job's story.
DIFFERENCE_MS_MAX: Final = 1_000

# Records what an attempt cost: id, class, device-seconds and now.
Charge = Callable[[Transaction, str, PriorityClass, int, int], None]


@dataclass(frozen=True, slots=True)
class Intent:
    """All that is to be written about one job; ``seen`` None: it was over before.

    ``new`` are the attempts of its `Start` actions, ready to insert.
    """

    job_id: str
    seen: Job | None
    actions: Sequence[StoreAction]
    new: tuple[Attempt, ...]


def commit(tx: Transaction, intent: Intent, charge: Charge, now_ms: int) -> tuple[Attempt, ...]:
    """Write the intent and return the attempts that may be submitted.

    `StaleError` if what the intent was made from has changed; then nothing is written.
    """
    job = jobs.get(tx, intent.job_id)
    if job is None or (intent.seen is not None and job.revision != intent.seen.revision):
        raise StaleError("job", intent.job_id)
    for action in intent.actions:
        match action:
            case Move():
                _move(tx, job, action, now_ms)
            case Settle():
                _settle(tx, job, action, charge, now_ms)
            case Start() | SetJob():
                pass
    started = _insert(tx, job, intent.new, now_ms) if intent.new else ()
    for action in intent.actions:
        if isinstance(action, SetJob):
            _set_job(tx, job, action, now_ms)
    return started


def refuse(tx: Transaction, attempt_id: str, reason: str, now_ms: int) -> None:
    """Record that the cluster will never run the attempt."""
    attempt = attempts.get(tx, attempt_id)
    job = jobs.get(tx, attempt.job_id) if attempt else None
    if attempt is None or job is None or attempt.status is not AttemptStatus.PENDING:
        return
    new = replace(
        attempt,
        status=AttemptStatus.REFUSED,
        reason=reason,
        ended_at_ms=now_ms,
        changed_at_ms=now_ms,
    )
    _move(tx, job, Move(attempt, new), now_ms)


def told(job: Job, attempt: Attempt) -> str:
    """Return how an attempt is called in words."""
    index = f" of index {attempt.array_index}" if job.spec.array is not None else ""
    return f"attempt {attempt.number}{index}"


def _move(tx: Transaction, job: Job, action: Move, now_ms: int) -> None:
    seen, new = action.attempt, action.new
    attempts.update(tx, seen, new)
    if new.status is seen.status:
        return
    check_transition(seen, new.status)
    words = {
        AttemptStatus.QUEUED: "is queued",
        AttemptStatus.RUNNING: f"runs on {', '.join(new.node_names) or 'its node'}",
    }
    message = f"{told(job, new)} {words.get(new.status, new.status.value.replace('_', ' '))}"
    if new.reason:
        message += f": {new.reason}"
    events.append(tx, _event(job, new, new.status.value, message, now_ms))


def _settle(tx: Transaction, job: Job, action: Settle, charge: Charge, now_ms: int) -> None:
    seen, new = action.attempt, action.new
    attempts.update(tx, seen, new)
    charge(tx, new.id, job.spec.priority_class, new.device_seconds, now_ms)
    if not action.is_certain:
        message = f"{told(job, new)} is not in its cluster's accounting: counted as it was seen"
        events.append(tx, _event(job, new, "unaccounted", message, now_ms))
        return
    apart_ms = abs(_length_ms(seen) - _length_ms(new))
    if apart_ms > DIFFERENCE_MS_MAX or (seen.devices and seen.devices != new.devices):
        message = (
            f"{told(job, new)} took {_length_ms(new) / 1_000:g} s on {new.devices} devices by its "
            f"cluster's accounting, and {_length_ms(seen) / 1_000:g} s on {seen.devices} as it was "
            "seen: the accounting counts"
        )
        events.append(tx, _event(job, new, "accounted_differently", message, now_ms))


def _length_ms(attempt: Attempt) -> int:
    if attempt.started_at_ms is None or attempt.ended_at_ms is None:
        return 0
    return attempt.ended_at_ms - attempt.started_at_ms


def _insert(tx: Transaction, job: Job, new: Sequence[Attempt], now_ms: int) -> tuple[Attempt, ...]:
    """Insert the attempts whose places are free now; the others are planned again."""
    rooms = {}
    if any(attempt.node_id is not None for attempt in new):
        holdings = attempts.holdings(tx)
        rooms = rooms_of(fleet.list_nodes(tx), replicas.list_holding(tx), holdings)
    started: list[Attempt] = []
    need = job.spec.resources
    for attempt in new:
        where = ""
        if attempt.node_id is not None:
            room = rooms.get(attempt.node_id)
            if room is None or not room.holds(need) or not room.has_free(attempt.device_indexes):
                continue
            owner = Owner(job.id, 0)
            rooms[attempt.node_id] = room.take(owner, need, attempt.device_indexes)
            where = f", placed on node {room.node.name}"
        attempts.insert(tx, attempt)
        message = f"{told(job, attempt)} made{where}"
        events.append(tx, _event(job, attempt, "made", message, now_ms))
        started.append(attempt)
    return tuple(started)


def _set_job(tx: Transaction, seen: Job, action: SetJob, now_ms: int) -> None:
    new = replace(
        seen,
        status=action.status,
        reason=action.reason,
        cluster_id=action.cluster_id,
        started_at_ms=action.started_at_ms,
        ended_at_ms=action.ended_at_ms,
    )
    jobs.update(tx, seen, new)
    if new.status is seen.status:
        return
    words = {JobStatus.RUNNING: "runs", JobStatus.PENDING: "waits again"}
    message = words.get(new.status, new.status.value)
    event = Event(
        at_ms=now_ms,
        subject_id=seen.id,
        project_id=seen.project_id,
        kind=f"job.{new.status.value}",
        message=f"{message}: {new.reason}" if new.reason else message,
        actor=ACTOR,
        data={"from": seen.status.value},
    )
    events.append(tx, event)


def _event(job: Job, attempt: Attempt, kind: str, message: str, now_ms: int) -> Event:
    """Return an event of an attempt: it belongs to the story of its job."""
    return Event(
        at_ms=now_ms,
        subject_id=job.id,
        project_id=job.project_id,
        kind=f"attempt.{kind}",
        message=message,
        actor=ACTOR,
        data={"attempt_id": attempt.id, "number": attempt.number},
    )
