"""When a failed start is tried again."""

from tests.support.planning import NOW_MS
from tramontane.domain.planning.backoff import (
    STABLE_MS,
    WAIT_MS_MAX,
    Backoff,
    after_failure,
    after_stability,
    wait_ms,
)


def test_waits_double_up_to_a_minute() -> None:
    waits = [wait_ms(failures) for failures in range(9)]
    assert waits == [0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
    assert wait_ms(1_000_000) == WAIT_MS_MAX


def test_a_failed_start_counts_and_the_end_of_a_stable_one_does_not() -> None:
    backoff = after_failure(Backoff(2, 0), served_ms=0, now_ms=NOW_MS)
    assert backoff == Backoff(3, NOW_MS + 4_000)
    assert backoff.last_failure_ms == NOW_MS
    assert after_failure(Backoff(2, 0), served_ms=STABLE_MS, now_ms=NOW_MS) == Backoff(0, NOW_MS)


def test_only_a_replica_that_became_ready_after_the_failure_clears_it() -> None:
    backoff = Backoff(3, NOW_MS + 4_000)
    later = NOW_MS + 2 * STABLE_MS

    def cleared(ready_at_ms: int | None, now_ms: int) -> bool:
        after = after_stability(backoff, ready_at_ms=ready_at_ms, now_ms=now_ms)
        return after == Backoff(0, 0)

    assert not cleared(None, later)
    assert not cleared(NOW_MS - 1, later)  # it served all along: no proof that a start works
    assert not cleared(later - STABLE_MS + 1, later)  # not long enough
    assert cleared(NOW_MS + 5_000, later)
