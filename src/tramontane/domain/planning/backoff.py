"""When to try again after a replica failed: capped exponential backoff, per deployment."""

from dataclasses import dataclass
from typing import Final

FIRST_WAIT_MS: Final = 1_000
# A minute between tries costs little when the cause stays, and little time when it goes away.
WAIT_MS_MAX: Final = 60_000
# A replica that served this long was no failed start: what ended it is new, so try at once.
STABLE_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Backoff:
    """``failures`` in a row, and the time before which no start is tried."""

    failures: int
    retry_at_ms: int

    @property
    def last_failure_ms(self) -> int:
        """Return when the last failure was counted."""
        return self.retry_at_ms - wait_ms(self.failures)


def wait_ms(failures: int) -> int:
    """Return how long to wait after so many ``failures`` in a row: 0, 1 s, 2 s, 4 s ... 60 s."""
    if failures <= 0:
        return 0
    return min(WAIT_MS_MAX, FIRST_WAIT_MS << min(failures - 1, 16))


def after_failure(backoff: Backoff, *, served_ms: int, now_ms: int) -> Backoff:
    """Return the backoff after a replica ended by itself, having served for ``served_ms``."""
    failures = 0 if served_ms >= STABLE_MS else backoff.failures + 1
    return Backoff(failures, now_ms + wait_ms(failures))


def after_stability(backoff: Backoff, *, ready_at_ms: int | None, now_ms: int) -> Backoff:
    """Return the backoff given the newest replica that is ready, since ``ready_at_ms``.

    Only a replica that became ready after the last failure clears it: an older one that still
    serves says nothing about whether a start works.
    """
    if backoff.failures == 0 or ready_at_ms is None:
        return backoff
    is_proof = ready_at_ms >= backoff.last_failure_ms and now_ms - ready_at_ms >= STABLE_MS
    return Backoff(0, 0) if is_proof else backoff
