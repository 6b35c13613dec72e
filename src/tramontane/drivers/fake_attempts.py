"""Attempts at jobs on a cluster that exists only in memory: the second half of the fake driver."""

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tramontane.domain.jobs.attempt import (
    AttemptObservation,
    AttemptRecord,
    AttemptState,
    JobLaunch,
)
from tramontane.drivers.faults import Evict, FailAttempt, Fault
from tramontane.runtime.clock import Clock

RUN_MS: Final = 4_000
QUEUE_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class FakeAttempt:
    """One attempt as it really is, whatever a view says of it.

    ``starts_at_ms`` and ``ends_at_ms`` may lie in the future: then it will be so, unless something
    happens to it before.
    """

    attempt_id: str
    launch: JobLaunch
    external_id: str
    node_names: tuple[str, ...]
    starts_at_ms: int
    ends_at_ms: int
    outcome: AttemptState
    exit_code: int | None = None
    reason: str | None = None

    def state_at(self, now_ms: int) -> AttemptState:
        """Return where in its life it is at ``now_ms``."""
        if self.ends_at_ms <= now_ms:
            return self.outcome
        return AttemptState.RUNNING if self.starts_at_ms <= now_ms else AttemptState.QUEUED

    def ended(self, at_ms: int, outcome: AttemptState, reason: str) -> "FakeAttempt":
        """Return it as ending at ``at_ms``, unless it ends before."""
        if self.ends_at_ms <= at_ms:
            return self
        return replace(self, ends_at_ms=at_ms, outcome=outcome, exit_code=None, reason=reason)


class FakeAttempts:
    """Simulated attempts; each runs for ``run_ms``, give or take a quarter.

    Where the cluster queues, they start ``queue_ms`` after they were submitted, on nodes of its
    choice. ``starts`` counts, per id, how often one was really started; more than once is a bug
    of whoever called. ``pieces`` is how much a job keeps: so many calls of `remove_job` remove
    it. ``faults`` returns the faults of the driver.
    """

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        node_names: Sequence[str],
        faults: Callable[[], Sequence[Fault]],
        *,
        queues: bool,
        run_ms: int = RUN_MS,
        queue_ms: int = QUEUE_MS,
    ) -> None:
        self.starts: Counter[str] = Counter()
        self.pieces: Counter[str] = Counter()
        self._clock = clock
        self._random = chance
        self._node_names = node_names
        self._faults = faults
        self._queues = queues
        self._run_ms = run_ms
        self._queue_ms = queue_ms if queues else 0
        self._attempts: dict[str, FakeAttempt] = {}
        self._forgotten: set[str] = set()

    def knows(self, attempt_id: str) -> bool:
        """Tell whether it was ever submitted."""
        return attempt_id in self._attempts

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None) -> None:
        """Start it, or queue it, unless that was ever done."""
        if attempt_id not in self._attempts and (self._queues or node_name in self._node_names):
            self.spawn(attempt_id, launch, node_name)

    def spawn(self, attempt_id: str, launch: JobLaunch, node_name: str | None) -> None:
        """Really start it."""
        self.starts[attempt_id] += 1
        self.pieces[launch.job_id] = max(1, self.pieces[launch.job_id])
        number = self.starts.total()
        starts_at_ms = self._clock.now_ms() + self._queue_ms
        quarter = self._run_ms // 4
        first = number % len(self._node_names)
        turned = [*self._node_names[first:], *self._node_names[:first]]
        attempt = FakeAttempt(
            attempt_id,
            launch,
            str(number),
            (node_name,) if node_name is not None else tuple(turned[: launch.nodes]),
            starts_at_ms,
            starts_at_ms + self._run_ms + self._random.randint(-quarter, quarter),
            AttemptState.SUCCEEDED,
            0,
        )
        for fault in self._faults():
            match fault:
                case FailAttempt(start=start) if start == number:
                    ended = attempt.ended(
                        starts_at_ms + fault.after_ms, AttemptState.FAILED, fault.reason
                    )
                    attempt = replace(ended, exit_code=1)
                case Evict(start=start) if start == number:
                    at_ms = starts_at_ms + fault.after_ms
                    attempt = attempt.ended(at_ms, AttemptState.PREEMPTED, "evicted")
                case _:
                    pass
        limit_ms = starts_at_ms + launch.time_limit_s * 1_000
        self._attempts[attempt_id] = attempt.ended(
            limit_ms, AttemptState.TIMED_OUT, f"it ran longer than {launch.time_limit_s} s"
        )

    def end(self, attempt_id: str, after_ms: int) -> None:
        """End it ``after_ms`` from now, as cancelled."""
        now_ms = self._clock.now_ms()
        attempt = self._attempts.get(attempt_id)
        if attempt is not None:
            is_queued = attempt.state_at(now_ms) is AttemptState.QUEUED
            at_ms = now_ms + (0 if is_queued else after_ms)
            self._attempts[attempt_id] = attempt.ended(
                at_ms, AttemptState.CANCELLED, "ended as asked"
            )

    def forget(self, attempt_id: str) -> None:
        """List it no more, if it is over; the accounting keeps it."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.state_at(self._clock.now_ms()).is_over:
            self._forgotten.add(attempt_id)

    def lives(self, job_id: str) -> bool:
        """Tell whether something of the job may still run."""
        now_ms = self._clock.now_ms()
        its = (it for it in self._attempts.values() if it.launch.job_id == job_id)
        return any(not it.state_at(now_ms).is_over for it in its)

    def remove_job(self, job_id: str, attempt_ids: Collection[str]) -> None:
        """Remove a piece of what the job keeps, if nothing of it lives."""
        if self.lives(job_id):
            return
        self._forgotten.update(id_ for id_ in attempt_ids if id_ in self._attempts)
        self.pieces[job_id] = max(0, self.pieces[job_id] - 1)

    def lose_node(self, node_name: str) -> None:
        """End what runs on the node."""
        for attempt in list(self._attempts.values()):
            if node_name in attempt.node_names:
                self._attempts[attempt.attempt_id] = attempt.ended(
                    self._clock.now_ms(), AttemptState.NODE_FAILED, f"node {node_name} was lost"
                )

    def crash(self, attempt_id: str) -> None:
        """End it from outside, now, as failed."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None:
            self._attempts[attempt_id] = attempt.ended(
                self._clock.now_ms(), AttemptState.FAILED, "signal 9"
            )

    def observe(self, lost: Collection[str], late_ms: int) -> tuple[AttemptObservation, ...]:
        """Return what the cluster lists; late reports are about states only."""
        now_ms = self._clock.now_ms()
        return tuple(
            self._observe(attempt, self._told_at(attempt, now_ms - late_ms))
            for attempt in self._attempts.values()
            if attempt.attempt_id not in self._forgotten
            and not (set(attempt.node_names) & set(lost))
        )

    def account(self, attempt_ids: Collection[str]) -> Mapping[str, AttemptRecord]:
        """Return what is kept of those that are over."""
        now_ms = self._clock.now_ms()
        found = (self._attempts[id_] for id_ in attempt_ids if id_ in self._attempts)
        return {a.attempt_id: _record(a) for a in found if a.state_at(now_ms).is_over}

    def log_of(self, attempt_id: str) -> str:
        """Return what it would have written by now."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt_id in self._forgotten:
            return ""
        state = attempt.state_at(self._clock.now_ms())
        if state is AttemptState.QUEUED:
            return ""
        text = f"running {' '.join(attempt.launch.argv)}\n"
        return text + (f"{attempt.reason or 'done'}\n" if state.is_over else "")

    def all(self) -> tuple[FakeAttempt, ...]:
        """Return every attempt as it really is, seen or unseen, forgotten or not."""
        return tuple(self._attempts.values())

    def _told_at(self, attempt: FakeAttempt, at_ms: int) -> int:
        return at_ms if self._queues else max(at_ms, attempt.starts_at_ms)

    def _observe(self, attempt: FakeAttempt, at_ms: int) -> AttemptObservation:
        state = attempt.state_at(at_ms)
        has_started = state is not AttemptState.QUEUED and attempt.starts_at_ms < attempt.ends_at_ms
        holds = attempt.launch.nodes * attempt.launch.resources.devices
        return AttemptObservation(
            attempt.attempt_id,
            state,
            reason=_reason(attempt, state),
            node_names=attempt.node_names if has_started else (),
            devices=holds if has_started else 0,
            started_at_ms=attempt.starts_at_ms if has_started else None,
            ended_at_ms=attempt.ends_at_ms if state.is_over else None,
            exit_code=attempt.exit_code if state.is_over else None,
            starts_at_ms=None if has_started or state.is_over else attempt.starts_at_ms,
            external_id=attempt.external_id,
        )


def _reason(attempt: FakeAttempt, state: AttemptState) -> str | None:
    if state is AttemptState.QUEUED:
        return "Resources"
    return attempt.reason if state.is_over else None


def _record(attempt: FakeAttempt) -> AttemptRecord:
    has_started = attempt.starts_at_ms < attempt.ends_at_ms
    return AttemptRecord(
        attempt.attempt_id,
        attempt.outcome,
        attempt.starts_at_ms if has_started else None,
        attempt.ends_at_ms,
        attempt.launch.nodes * attempt.launch.resources.devices if has_started else 0,
        attempt.external_id,
    )
