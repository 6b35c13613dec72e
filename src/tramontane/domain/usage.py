"""Usage: one event per request that reached an engine, counted exactly once by its id."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    CUT = "cut"  # the client left, the gateway died or the engine died before the end
    FAILED = "failed"  # the engine answered with an error


class TokenSource(StrEnum):
    """Where the token counts come from."""

    ENGINE = "engine"  # the engine's own usage object
    COUNTED = "counted"  # chunks that passed the gateway before the request was cut


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """What one request used. Token counts are whole tokens; times are milliseconds.

    Names (``model``) stand beside ids so that the event still explains itself after the
    deployment or the model is deleted. ``cost_nano`` is in nano-euros, by the prices of the time;
    ``holder`` is the incarnation of the gateway whose slices it was spent from, "" if unknown.
    """

    id: str
    request_id: str
    organization_id: str
    project_id: str
    api_key_id: str
    deployment_id: str
    replica_id: str
    model: str
    endpoint: str
    outcome: Outcome
    status: int
    is_stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    token_source: TokenSource
    started_at_ms: int
    duration_ms: int
    first_byte_ms: int | None
    gateway: str
    cost_nano: int = 0
    holder: str = ""


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """Sums over usage events of one group in one hour (``hour_ms`` is its first millisecond)."""

    hour_ms: int
    project_id: str
    api_key_id: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_nano: int = 0
