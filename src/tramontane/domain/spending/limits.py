"""Limits: how much an organization, a project or a key may use, of all models or of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tramontane.domain.spending.pricing import NANO_PER_MICRO


class LimitScope(StrEnum):
    """Whose use a limit bounds."""

    ORGANIZATION = "organization"
    PROJECT = "project"
    API_KEY = "api_key"


class LimitMeter(StrEnum):
    """What a limit counts. Requests and tokens per window of a minute, budget per month (UTC)."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    IN_FLIGHT = "in_flight"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. ``model`` None bounds the sum over all models; None in a bound leaves it open.

    ``budget_micro`` is in micro-euros per calendar month, UTC.
    """

    id: str
    scope: LimitScope
    subject_id: str
    model: str | None = None
    requests_per_minute_max: int | None = None
    tokens_per_minute_max: int | None = None
    requests_in_flight_max: int | None = None
    budget_micro: int | None = None


def bound_of(limit: Limit, meter: LimitMeter) -> int | None:
    """Return how much of ``meter`` the limit allows, in the unit of asks; None: it is open."""
    match meter:
        case LimitMeter.REQUESTS:
            return limit.requests_per_minute_max
        case LimitMeter.TOKENS:
            return limit.tokens_per_minute_max
        case LimitMeter.IN_FLIGHT:
            return limit.requests_in_flight_max
        case LimitMeter.BUDGET:
            micro = limit.budget_micro
            return None if micro is None else micro * NANO_PER_MICRO


def meters_of(limit: Limit) -> Iterator[LimitMeter]:
    """Yield the meters that the limit bounds."""
    return (meter for meter in LimitMeter if bound_of(limit, meter) is not None)
