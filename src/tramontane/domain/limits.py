"""Limits: how much an organization, a project or a key may use, of all models or of one."""

from dataclasses import dataclass
from enum import StrEnum


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
