"""The bill of attempts at jobs: what each held, for how long, in which class, and its cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tramontane.domain.jobs.job import device_seconds
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock
from tramontane.services.jobs.use_cases import billed_job_id
from tramontane.services.scope import list_scope
from tramontane.store.db import Database
from tramontane.store.quotas import attempts
from tramontane.store.quotas.attempts import AttemptTotal, BilledAttempt, BillRange


@dataclass(frozen=True, slots=True)
class Bill:
    """A page of attempts, and sums over all that were asked for.

    ``open_attempts`` are not accounted yet: they are in no sum.
    """

    attempts: Sequence[BilledAttempt]
    has_more: bool
    totals: Sequence[AttemptTotal]
    open_attempts: int


class AttemptBills:
    """Use cases of bills of attempts."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def read(
        self,
        principal: Principal,
        *,
        project: str | None,
        job: str | None,
        from_ms: int,
        to_ms: int,
        after: str | None,
        limit: int,
    ) -> Bill:
        """Return the attempts that started from ``from_ms`` to before ``to_ms``.

        What is not accounted yet is shown as far as it is seen now, without a cost.
        """
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            job_id = None if job is None else billed_job_id(tx, principal, job, project)
            which = BillRange(scope, job_id, from_ms, to_ms)
            found = attempts.list_billed(tx, which, after=after, limit=limit + 1)
            totals = attempts.totals(tx, which)
            open_attempts = attempts.count_open(tx, which)
        now_ms = self._clock.now_ms()
        shown = [_so_far(billed, now_ms) for billed in found[:limit]]
        return Bill(shown, len(found) > limit, totals, open_attempts)


def _so_far(billed: BilledAttempt, now_ms: int) -> BilledAttempt:
    seen = billed.attempt
    if seen.is_accounted:
        return billed
    ended_at_ms = now_ms if seen.ended_at_ms is None else seen.ended_at_ms
    used = device_seconds(seen.devices, seen.started_at_ms, ended_at_ms)
    return replace(billed, attempt=replace(seen, device_seconds=used))
