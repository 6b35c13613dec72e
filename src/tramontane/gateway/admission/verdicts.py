"""What a request is told that its limits do not admit: which limit, and when to try again."""

from typing import Final

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import RouteKey
from tramontane.domain.spending.limits import Limit, LimitMeter, LimitScope
from tramontane.domain.spending.pricing import NANO_PER_MICRO
from tramontane.gateway import refusals
from tramontane.gateway.admission.held import Held

_QUOTA_RETRY_S_MAX: Final = 86_400.0  # a month's end is too far away to be waited for
_SOON_S: Final = 1.0
_PASSING_S: Final = 60.0  # a budget that lacks for less than this is only reserved by others

_WHOSE: Final = {
    LimitScope.ORGANIZATION: "organization",
    LimitScope.PROJECT: "project",
    LimitScope.API_KEY: "key",
}
_WHAT: Final = {
    LimitMeter.REQUESTS: "requests a minute",
    LimitMeter.TOKENS: "tokens a minute",
    LimitMeter.IN_FLIGHT: "requests in flight",
}

REVOKED: Final = Refusal(
    Code.INVALID_API_KEY,
    "the API key was revoked while the request waited; ask your project for a new one",
)


def used_up(held: Held, now: float, retry_at: float) -> Refusal:
    """Return the refusal of a limit that has no room before ``retry_at``."""
    wait_s = max(0.001, retry_at - now) if retry_at > now else _SOON_S
    if held.meter is LimitMeter.BUDGET:
        return _out_of_budget(held, wait_s)
    code = Code.RATE_LIMIT_EXCEEDED
    if held.meter is LimitMeter.TOKENS:
        code = Code.TOKEN_LIMIT_EXCEEDED
    message = (
        f"the limit of {held.bound} {_WHAT[held.meter]} of {_subject(held.limit)} is used up; "
        f"try again in {_told(wait_s)}, or ask for a higher limit"
    )
    return Refusal(code, message, retry_after_s=wait_s)


def _out_of_budget(held: Held, wait_s: float) -> Refusal:
    if wait_s < _PASSING_S:
        message = (
            f"what is left of this month's budget of {_subject(held.limit)} is reserved by "
            f"requests in flight; try again in {_told(wait_s)}"
        )
        return Refusal(Code.RATE_LIMIT_EXCEEDED, message, retry_after_s=wait_s)
    message = (
        f"this month's budget of {_euros(held.bound)} of {_subject(held.limit)} does not cover "
        "this request; lower max_tokens, raise the budget, or wait for the next month"
    )
    return Refusal(Code.INSUFFICIENT_QUOTA, message, retry_after_s=min(wait_s, _QUOTA_RETRY_S_MAX))


def never_fits(limit: Limit, cost_nano: int) -> Refusal:
    """Return the refusal of a request that could cost more than the whole budget."""
    bound = (limit.budget_micro or 0) * NANO_PER_MICRO
    message = (
        f"this request can cost up to {_euros(cost_nano)}, and the monthly budget of "
        f"{_subject(limit)} is {_euros(bound)}; lower max_tokens, or raise the budget"
    )
    return Refusal(Code.INSUFFICIENT_QUOTA, message)


def away(held: Held, now: float) -> Refusal:
    """Return the refusal of a limit of which nothing is left while the control plane is away."""
    if held.meter is LimitMeter.BUDGET:
        message = (
            f"the control plane does not answer, and what this gateway holds of the budget of "
            f"{_subject(held.limit)} is used up; try again"
        )
        return Refusal(Code.UNAVAILABLE, message, retry_after_s=_SOON_S)
    if held.meter is not LimitMeter.IN_FLIGHT and held.ends_at <= now:
        message = (
            f"the control plane does not answer, and this gateway's share of the limit of "
            f"{held.bound} {_WHAT[held.meter]} of {_subject(held.limit)} is too small; try again"
        )
        return Refusal(Code.UNAVAILABLE, message, retry_after_s=_SOON_S)
    is_window = held.meter is not LimitMeter.IN_FLIGHT
    return used_up(held, now, held.ends_at if is_window else now)


def gone(key: RouteKey | None, model: str) -> Refusal | None:
    """Return why a request that waits must not go on by a new route table, or None."""
    if key is None:
        return REVOKED
    if key.blocked is not None:
        return refusals.blocked(key.blocked)
    if key.models is not None and model not in key.models:
        return refusals.model_not_allowed(model)
    return None


def _subject(limit: Limit) -> str:
    whose = f"this {_WHOSE[limit.scope]}"
    return whose if limit.model is None else f"{whose} for the model {limit.model[:100]!r}"


def _euros(nano: int) -> str:
    """Return an amount in euros, rounded up to what is worth telling."""
    micro = -(-nano // NANO_PER_MICRO)
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d}".rstrip("0").rstrip(".") + " EUR"


def _told(wait_s: float) -> str:
    return f"{wait_s:.0f} s" if wait_s >= 1 else f"{max(1, round(wait_s * 1000))} ms"
