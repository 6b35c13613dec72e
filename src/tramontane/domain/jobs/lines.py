"""One line of attempts per index of a job: is it over, does it go on, is another attempt due?"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from tramontane.domain.jobs.job import FAILURES, INTERRUPTIONS, Attempt, AttemptStatus, Job
from tramontane.domain.planning.backoff import wait_ms

# Evictions and lost nodes are nobody's fault and do not end a job, unless they never stop.
INTERRUPTIONS_MAX: Final = 100


class LineState(Enum):
    """What is to be said of a line."""

    LIVE = auto()  # its last attempt goes on
    DUE = auto()  # it wants another attempt, from `Line.due_at_ms` on
    SUCCEEDED = auto()
    FAILED = auto()
    CANCELLED = auto()

    @property
    def is_over(self) -> bool:
        """Tell whether no attempt goes on and none follows."""
        return self not in {LineState.LIVE, LineState.DUE}


@dataclass(frozen=True, slots=True)
class Line:
    """The attempts at one index, oldest first. ``reason`` says how the last one ended."""

    index: int
    state: LineState
    last: Attempt | None = None
    due_at_ms: int = 0
    reason: str | None = None

    @property
    def next_number(self) -> int:
        """Return the number of the attempt that would follow."""
        return self.last.number + 1 if self.last else 1


def lines_of(job: Job, attempts: Iterable[Attempt]) -> list[Line]:
    """Return the line of each index of ``job``, whose ``attempts`` they all are."""
    by_index: dict[int, list[Attempt]] = {index: [] for index in job.indexes}
    for attempt in sorted(attempts, key=lambda a: (a.array_index, a.number)):
        by_index[attempt.array_index].append(attempt)
    return [_line(job, index, made) for index, made in by_index.items()]


def _line(job: Job, index: int, made: list[Attempt]) -> Line:
    if not made:
        return Line(index, LineState.DUE)
    last = made[-1]
    reason = f"attempt {last.number} {_word(last)}" + (f": {last.reason}" if last.reason else "")
    if not last.status.is_over:
        return Line(index, LineState.LIVE, last)
    if last.status is AttemptStatus.SUCCEEDED:
        return Line(index, LineState.SUCCEEDED, last)
    if last.status is AttemptStatus.CANCELLED:
        return Line(index, LineState.CANCELLED, last, reason=reason)
    if last.status in INTERRUPTIONS:
        return _interrupted(index, made, reason)
    failures = sum(attempt.status in FAILURES for attempt in made)
    if last.status not in FAILURES or failures > job.spec.retries:
        return Line(index, LineState.FAILED, last, reason=reason)
    due_at_ms = last.changed_at_ms + wait_ms(failures)
    return Line(index, LineState.DUE, last, due_at_ms, reason)


def _interrupted(index: int, made: list[Attempt], reason: str) -> Line:
    last = made[-1]
    if sum(attempt.status in INTERRUPTIONS for attempt in made) > INTERRUPTIONS_MAX:
        msg = f"it was interrupted more than {INTERRUPTIONS_MAX} times; {reason}"
        return Line(index, LineState.FAILED, last, reason=msg)
    in_a_row = 0
    for attempt in reversed(made):
        if attempt.status not in INTERRUPTIONS:
            break
        in_a_row += 1
    # The first one is followed at once: the cluster has done with it what it wanted.
    return Line(index, LineState.DUE, last, last.changed_at_ms + wait_ms(in_a_row - 1), reason)


def _word(attempt: Attempt) -> str:
    words = {
        AttemptStatus.PREEMPTED: "was evicted",
        AttemptStatus.NODE_FAILED: "lost its node",
        AttemptStatus.TIMED_OUT: "ran into its time limit",
        AttemptStatus.REFUSED: "was refused",
        AttemptStatus.CANCELLED: "was cancelled",
    }
    return words.get(attempt.status, str(attempt.status))
