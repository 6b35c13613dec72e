"""Limits, budgets and prices as replies."""

from tramontane.domain.spending import limits
from tramontane.domain.spending.pricing import NANO_PER_MICRO
from tramontane.services.spending.limits import Budget
from tramontane.services.spending.prices import PricedModel
from tramontane.wire import cloud_spending as wire


def limit(value: limits.Limit) -> wire.Limit:
    """Return the view of a limit."""
    return wire.Limit(
        id=value.id,
        scope=value.scope,
        subject_id=value.subject_id,
        model=value.model,
        requests_per_minute_max=value.requests_per_minute_max,
        tokens_per_minute_max=value.tokens_per_minute_max,
        requests_in_flight_max=value.requests_in_flight_max,
        budget_micro=value.budget_micro,
    )


def budget(value: Budget) -> wire.Budget:
    """Return the view of a budget."""
    bound_micro = value.limit.budget_micro or 0
    used_nano = value.use.spent_nano + value.use.held_nano
    return wire.Budget(
        id=value.limit.id,
        scope=value.limit.scope,
        subject_id=value.limit.subject_id,
        model=value.limit.model,
        budget_micro=bound_micro,
        spent_nano=value.use.spent_nano,
        held_nano=value.use.held_nano,
        remaining_nano=max(0, bound_micro * NANO_PER_MICRO - used_nano),
        period=f"{value.period // 100:04}-{value.period % 100:02}",
        ends_at_ms=value.ends_at_ms,
    )


def prices(value: PricedModel) -> wire.ModelPrices:
    """Return the view of what a model costs."""
    stored = value.stored.prices
    return wire.ModelPrices(
        id=value.model.id,
        model=value.model.name,
        prompt_micro=stored.prompt_micro,
        completion_micro=stored.completion_micro,
        cached_micro=stored.cached_micro,
        request_micro=stored.request_micro,
        changed_at_ms=value.stored.changed_at_ms,
    )
