"""What a cluster calls a failure of an attempt whose job was cancelled."""

import pytest

from tests.support.jobs import attempt_of, cluster_of, job_of, listed, plan_of, writes_of
from tests.support.planning import NOW_MS
from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.jobs.job import AttemptStatus, JobStatus
from tramontane.domain.jobs.snapshot import Move


@pytest.mark.parametrize(
    ("exit_code", "is_cancelled", "expected"),
    [
        # The runner heard of it before its cluster was asked to end it, and left by itself.
        (143, True, AttemptStatus.CANCELLED),
        (-15, True, AttemptStatus.CANCELLED),
        (143, False, AttemptStatus.FAILED),
        (1, True, AttemptStatus.FAILED),  # it failed just before
    ],
)
def test_an_end_by_sigterm_of_a_cancelled_job_is_no_failure(
    exit_code: int, *, is_cancelled: bool, expected: AttemptStatus
) -> None:
    asked_at_ms = NOW_MS - 1_000 if is_cancelled else None
    job = job_of(cancelled_at_ms=asked_at_ms, status=JobStatus.RUNNING)
    attempt = attempt_of(job, status=AttemptStatus.RUNNING)
    over = listed(attempt, AttemptState.FAILED, exit_code=exit_code, ended_at_ms=NOW_MS - 10)
    plan = plan_of(job, attempts=[attempt], clusters=[cluster_of(over)])
    (move,) = writes_of(plan, Move)
    assert (move.new.status, move.new.exit_code) == (expected, exit_code)
    assert (move.new.reason == "ended as asked") is (expected is AttemptStatus.CANCELLED)
