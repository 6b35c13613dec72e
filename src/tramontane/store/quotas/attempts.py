"""The bill of attempts: each with its class and its cost, and sums over them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from tramontane.domain.jobs.job import Attempt, JobSpec
from tramontane.domain.launch import PriorityClass
from tramontane.store.codec import decode
from tramontane.store.db import Transaction
from tramontane.store.jobs import attempts as attempt_rows
from tramontane.store.jobs.tables import attempts, jobs
from tramontane.store.quotas.tables import attempt_costs
from tramontane.store.statements import page


@dataclass(frozen=True, slots=True)
class BilledAttempt:
    """One attempt that started. Without a cost, it is not accounted yet."""

    attempt: Attempt
    job_name: str
    priority_class: PriorityClass
    device_hour_micro: int | None = None
    cost_nano: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptTotal:
    """A sum over the accounted attempts of one project in one class."""

    project_id: str
    priority_class: PriorityClass
    attempts: int
    device_seconds: int
    cost_nano: int


@dataclass(frozen=True, slots=True)
class BillRange:
    """Which attempts: of a project (None: all) and a job, that started within the times."""

    project_id: str | None = None
    job_id: str | None = None
    from_ms: int = 0
    to_ms: int = 1 << 62


def list_billed(
    tx: Transaction, which: BillRange, *, after: str | None, limit: int
) -> list[BilledAttempt]:
    """Return a page of attempts, in the order in which they were made."""
    scope, filters = _conditions(which)
    rows = page(tx, attempts, scope=scope, filters=filters, after=after, limit=limit)
    found = attempt_rows.list_among(tx, [row.id for row in rows])
    owners = _jobs(tx, sorted({each.job_id for each in found}))
    query = select(attempt_costs).where(attempt_costs.c.attempt_id.in_([it.id for it in found]))
    costs = {row.attempt_id: row for row in tx.execute(query)}
    billed: list[BilledAttempt] = []
    for each in found:
        name, priority_class = owners[each.job_id]
        cost = costs.get(each.id)
        if cost is None:
            billed.append(BilledAttempt(each, name, priority_class))
        else:
            told = PriorityClass(cost.priority_class)
            billed.append(BilledAttempt(each, name, told, cost.device_hour_micro, cost.cost_nano))
    return billed


def totals(tx: Transaction, which: BillRange) -> list[AttemptTotal]:
    """Return the sums by project and class."""
    scope, filters = _conditions(which)
    keys = (attempts.c.project_id, attempt_costs.c.priority_class)
    query = (
        select(
            *keys,
            func.count().label("attempts"),
            func.sum(attempt_costs.c.device_seconds).label("device_seconds"),
            func.sum(attempt_costs.c.cost_nano).label("cost_nano"),
        )
        .join(attempt_costs, attempt_costs.c.attempt_id == attempts.c.id)
        .where(*scope, *filters)
        .group_by(*keys)
        .order_by(*keys)
    )
    return [
        AttemptTotal(
            project_id=row.project_id,
            priority_class=PriorityClass(row.priority_class),
            attempts=row.attempts,
            device_seconds=int(row.device_seconds),
            cost_nano=int(row.cost_nano),
        )
        for row in tx.execute(query)
    ]


def count_open(tx: Transaction, which: BillRange) -> int:
    """Return how many of the attempts are not accounted yet."""
    scope, filters = _conditions(which)
    is_open = attempts.c.is_accounted == 0
    query = select(func.count()).select_from(attempts).where(*scope, *filters, is_open)
    return tx.execute(query).scalar_one()


def _jobs(tx: Transaction, job_ids: Sequence[str]) -> dict[str, tuple[str, PriorityClass]]:
    query = select(jobs.c.id, jobs.c.name, jobs.c.spec).where(jobs.c.id.in_(job_ids))
    return {
        row.id: (row.name, decode(row.spec, JobSpec).priority_class) for row in tx.execute(query)
    }


def _conditions(
    which: BillRange,
) -> tuple[list[ColumnElement[bool]], list[ColumnElement[bool]]]:
    """Return what bounds the list, and what narrows it further."""
    scope = [] if which.project_id is None else [attempts.c.project_id == which.project_id]
    if which.job_id is not None:
        scope.append(attempts.c.job_id == which.job_id)
    started = attempts.c.started_at_ms
    return scope, [started >= which.from_ms, started < which.to_ms]
