"""Limits, budgets, prices, quotas and the bill of attempts as replies."""

from tramontane.domain.quotas import quota as quotas
from tramontane.domain.spending import limits
from tramontane.domain.spending.pricing import NANO_PER_MICRO
from tramontane.services.spending.attempts import Bill
from tramontane.services.spending.limits import Budget
from tramontane.services.spending.prices import PricedModel
from tramontane.store.quotas.attempts import BilledAttempt
from tramontane.store.quotas.class_prices import ClassPrice
from tramontane.wire import cloud_quotas
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


def quota(value: quotas.Quota) -> cloud_quotas.Quota:
    """Return the view of a quota."""
    named = value.priority_classes
    return cloud_quotas.Quota(
        id=value.id,
        scope=value.scope,
        subject_id=value.subject_id,
        devices_max=value.devices_max,
        share=value.share,
        priority_classes=None if named is None else [each.value for each in named],
    )


def reservation(value: quotas.RackReservation) -> cloud_quotas.Reservation:
    """Return the view of a reserved rack."""
    return cloud_quotas.Reservation(
        id=value.id,
        organization_id=value.organization_id,
        cluster=value.cluster,
        rack=value.rack,
    )


def class_price(value: ClassPrice) -> cloud_quotas.ClassPrice:
    """Return the view of what a class costs."""
    return cloud_quotas.ClassPrice(
        priority_class=value.priority_class.value,
        device_hour_micro=value.device_hour_micro,
        changed_at_ms=value.changed_at_ms,
    )


def attempt_bill(value: Bill) -> cloud_quotas.AttemptBill:
    """Return the view of a page of the bill."""
    data = [_billed(each) for each in value.attempts]
    return cloud_quotas.AttemptBill(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=value.has_more,
        totals=[
            cloud_quotas.AttemptTotal(
                project_id=total.project_id,
                priority_class=total.priority_class.value,
                attempts=total.attempts,
                device_seconds=total.device_seconds,
                cost_nano=total.cost_nano,
            )
            for total in value.totals
        ],
        open_attempts=value.open_attempts,
    )


def _billed(value: BilledAttempt) -> cloud_quotas.BilledAttempt:
    seen = value.attempt
    ended, started = seen.ended_at_ms, seen.started_at_ms or 0
    return cloud_quotas.BilledAttempt(
        id=seen.id,
        job_id=seen.job_id,
        job=value.job_name,
        project_id=seen.project_id,
        array_index=seen.array_index,
        number=seen.number,
        status=seen.status,
        priority_class=value.priority_class.value,
        devices=seen.devices,
        seconds=None if ended is None else (ended - started + 500) // 1_000,
        device_seconds=seen.device_seconds,
        device_hour_micro=value.device_hour_micro,
        cost_nano=value.cost_nano,
        started_at_ms=started,
        ended_at_ms=ended,
    )
