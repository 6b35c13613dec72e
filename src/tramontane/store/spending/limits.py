"""Limits: one row for each subject and model, and what of its budget is used."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, delete, func, or_, select

from tramontane.domain.spending.limits import Limit, LimitMeter, LimitScope
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.quotas.owned import OwnedRows, Owner
from tramontane.store.tables import (
    api_keys,
    budget_spending,
    limits,
    slice_holds,
    slice_windows,
)

ALL_MODELS = ""  # what stands for "no model" in the column, where None would not be unique


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What of a budget is spent and what gateways hold of it, in nano-euros."""

    spent_nano: int = 0
    held_nano: int = 0


def find(tx: Transaction, subject_id: str, model: str | None) -> Limit | None:
    """Return the limit of that subject for that model (None: for all models together)."""
    its_model = limits.c.model == (model or ALL_MODELS)
    return ROWS.one(tx, limits.c.subject_id == subject_id, its_model)


def get_each(tx: Transaction, limit_ids: Collection[str]) -> dict[str, Limit]:
    """Return those of the limits that there are, by id."""
    query = select(limits).where(limits.c.id.in_(sorted(limit_ids)))
    return {row.id: _limit(row) for row in tx.execute(query)}


def list_budgets(
    tx: Transaction, owner: Owner | None, *, subject_id: str | None, after: str | None, limit: int
) -> list[Limit]:
    """Return a page of the limits that have a budget, as `OwnedRows.list_for` does of all."""
    filters = [limits.c.budget_micro.is_not(None)]
    return ROWS.list_for(
        tx, owner, subject_id=subject_id, filters=filters, after=after, limit=limit
    )


def budgets_of(tx: Transaction, subject_ids: Collection[str]) -> list[Limit]:
    """Return the limits of those subjects that have a budget."""
    query = select(limits).where(
        limits.c.budget_micro.is_not(None), limits.c.subject_id.in_(sorted(subject_ids))
    )
    return [_limit(row) for row in tx.execute(query)]


def requests_in_flight(tx: Transaction, api_key_ids: Collection[str]) -> dict[str, int]:
    """Return how many requests each of those keys may have open, for those that are bounded."""
    query = select(limits.c.subject_id, limits.c.requests_in_flight_max).where(
        limits.c.subject_id.in_(sorted(api_key_ids)),
        limits.c.model == ALL_MODELS,
        limits.c.requests_in_flight_max.is_not(None),
    )
    return {row.subject_id: row.requests_in_flight_max for row in tx.execute(query)}


def start_spending(tx: Transaction, limit_id: str, period: int, spent_nano: int) -> None:
    """Record what was spent in the month before the limit had a budget."""
    statement = tx.insert(budget_spending).values(
        limit_id=limit_id, period=period, spent_nano=spent_nano
    )
    statement = statement.on_conflict_do_update(
        index_elements=("limit_id", "period"), set_={"spent_nano": spent_nano}
    )
    tx.execute(statement)


def budget_use(tx: Transaction, limit_ids: Collection[str], period: int) -> dict[str, BudgetUse]:
    """Return what of those budgets is used in the month ``period`` (YYYYMM)."""
    spending = select(budget_spending.c.limit_id, budget_spending.c.spent_nano).where(
        budget_spending.c.limit_id.in_(sorted(limit_ids)), budget_spending.c.period == period
    )
    holding = (
        select(slice_holds.c.limit_id, func.sum(slice_holds.c.amount).label("held_nano"))
        .where(_of_budgets(limit_ids, period))
        .group_by(slice_holds.c.limit_id)
    )
    spent = {row.limit_id: row.spent_nano for row in tx.execute(spending)}
    held = {row.limit_id: int(row.held_nano) for row in tx.execute(holding)}
    return {each: BudgetUse(spent.get(each, 0), held.get(each, 0)) for each in limit_ids}


def _binding(owner: Owner) -> ColumnElement[bool]:
    """Return the condition on limits that bind a project, keys of it or its organization."""
    keys = select(api_keys.c.id).where(api_keys.c.project_id == owner.project_id)
    own = limits.c.subject_id.in_((owner.organization_id, owner.project_id))
    return or_(own, limits.c.subject_id.in_(keys))


def _of_budgets(limit_ids: Collection[str], period: int) -> ColumnElement[bool]:
    return (
        slice_holds.c.limit_id.in_(sorted(limit_ids))
        & (slice_holds.c.meter == LimitMeter.BUDGET.value)
        & (slice_holds.c.period == period)
    )


def _values(limit: Limit) -> dict[str, object]:
    return {
        "id": limit.id,
        "scope": limit.scope.value,
        "subject_id": limit.subject_id,
        "model": limit.model or ALL_MODELS,
        "requests_per_minute_max": limit.requests_per_minute_max,
        "tokens_per_minute_max": limit.tokens_per_minute_max,
        "requests_in_flight_max": limit.requests_in_flight_max,
        "budget_micro": limit.budget_micro,
    }


def _limit(row: AnyRow) -> Limit:
    return Limit(
        id=row.id,
        scope=LimitScope(row.scope),
        subject_id=row.subject_id,
        model=row.model or None,
        requests_per_minute_max=row.requests_per_minute_max,
        tokens_per_minute_max=row.tokens_per_minute_max,
        requests_in_flight_max=row.requests_in_flight_max,
        budget_micro=row.budget_micro,
    )


class _LimitRows(OwnedRows[Limit]):
    def remove(self, tx: Transaction, value_id: str) -> None:
        """Remove the limit and all that is recorded of its use."""
        for table in (slice_windows, slice_holds, budget_spending):
            tx.execute(delete(table).where(table.c.limit_id == value_id))
        super().remove(tx, value_id)


ROWS: Final = _LimitRows(limits, values_of=_values, value_of=_limit, binding=_binding)
