"""Limits and budgets: set by operators, read by those whom they bind."""

from dataclasses import dataclass

from tramontane.domain import ids as kinds
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.spending.limits import Limit, LimitScope, meters_of
from tramontane.domain.spending.slices import period_end_ms, period_of, period_start_ms
from tramontane.domain.tenancy import Principal
from tramontane.services.quotas.owned import (
    OwnedItems,
    Subject,
    Told,
    bound_subject,
    listed_subject_id,
    owner_of,
)
from tramontane.services.scope import Page, page_of
from tramontane.store import tenancy, usage
from tramontane.store.db import Transaction
from tramontane.store.spending import limits
from tramontane.store.spending.limits import BudgetUse


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a limit allows; None leaves a meter open."""

    requests_per_minute_max: int | None = None
    tokens_per_minute_max: int | None = None
    requests_in_flight_max: int | None = None
    budget_micro: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How a budget stands in the month ``period`` (YYYYMM), which ends at ``ends_at_ms``."""

    limit: Limit
    use: BudgetUse
    period: int
    ends_at_ms: int


class Limits(OwnedItems[Limit]):
    """Use cases of limits. What was counted against one goes with it."""

    noun = "limit"
    rows = limits.ROWS

    def set(
        self, principal: Principal, subject: Subject, model: str | None, bounds: Bounds
    ) -> Limit:
        """Give the subject these bounds for ``model``, in place of those that it had.

        A budget that was not there before counts what was already spent in this month.
        """
        limit_id = self._ids.new(kinds.LIMIT)

        def write(tx: Transaction) -> Limit:
            named = bound_subject(tx, principal, subject)
            seen = limits.find(tx, named.id, model)
            new = Limit(
                id=seen.id if seen else limit_id,
                scope=LimitScope(named.scope),
                subject_id=named.id,
                model=model,
                requests_per_minute_max=bounds.requests_per_minute_max,
                tokens_per_minute_max=bounds.tokens_per_minute_max,
                requests_in_flight_max=bounds.requests_in_flight_max,
                budget_micro=bounds.budget_micro,
            )
            if not any(meters_of(new)):
                message = "the limit bounds nothing: give one of " + ", ".join(_BOUNDS)
                raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param=_BOUNDS[0])
            self._put(tx, principal, seen, new)
            if new.budget_micro is not None and (seen is None or seen.budget_micro is None):
                _count_spent(tx, new, self._clock.now_ms())
            return new

        return self._change(write)

    def budgets(
        self, principal: Principal, subject: Subject, *, after: str | None, limit: int
    ) -> Page[Budget]:
        """Return a page of the limits that have a budget, and how each stands in this month."""
        period = period_of(self._clock.now_ms())
        ends_at_ms = period_end_ms(period)
        with self._db.read() as tx:
            subject_id = listed_subject_id(tx, principal, subject)
            owner = owner_of(principal)
            found = limits.list_budgets(
                tx, owner, subject_id=subject_id, after=after, limit=limit + 1
            )
            use = limits.budget_use(tx, [each.id for each in found], period)
        return page_of([Budget(each, use[each.id], period, ends_at_ms) for each in found], limit)

    def _told(self, tx: Transaction, item: Limit, /) -> Told:
        given = {name: getattr(item, name) for name in _BOUNDS}
        return Told(
            project_id=_project_id(tx, item),
            words=f"limit of {item.subject_id} for {item.model or 'all models'}",
            data={name: value for name, value in given.items() if value is not None},
        )


_BOUNDS = (
    "requests_per_minute_max",
    "tokens_per_minute_max",
    "requests_in_flight_max",
    "budget_micro",
)


def _count_spent(tx: Transaction, limit: Limit, now_ms: int) -> None:
    period = period_of(now_ms)
    spent_nano = usage.cost_of(
        tx, limit, from_ms=period_start_ms(period), to_ms=period_end_ms(period)
    )
    limits.start_spending(tx, limit.id, period, spent_nano)


def _project_id(tx: Transaction, limit: Limit) -> str | None:
    match limit.scope:
        case LimitScope.ORGANIZATION:
            return None
        case LimitScope.PROJECT:
            return limit.subject_id
        case LimitScope.API_KEY:
            key = tenancy.get_api_key_for(tx, None, limit.subject_id)
            return key.project_id if key else None
