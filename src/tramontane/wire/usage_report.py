"""What gateways ask of the control plane: the route table, and to take their usage events.

A malformed event must not hold up the others, so each is checked by itself: the report is a list
of anything, and `read_event` says of each what it is or what is wrong with it.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tramontane.domain.usage import Outcome, TokenSource, UsageEvent
from tramontane.wire.cloud_types import TIME_MS_MAX, Query, Reply, Strict

EVENTS_MAX: Final = 1_000  # in one report; at 650 bytes each it stays below the body limit
WAIT_S_MAX: Final = 60  # of one long poll; proxies cut idle connections after a minute
TOKENS_MAX: Final = 1 << 40  # of one request: a thousand times the longest context there is
COST_NANO_MAX: Final = 10**15  # of one request: a million euros; a sum of thousands fits 64 bits
DURATION_MS_MAX: Final = 1 << 40  # 34 years

_Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
_Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Tokens = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
_Duration = Annotated[int, Field(ge=0, le=DURATION_MS_MAX)]


class RouteTableQuery(Query):
    """Which route table the gateway has, and how long it is ready to wait for another."""

    revision: Annotated[int | None, Field(ge=0, le=(1 << 63) - 1)] = None
    wait_s: Annotated[float, Field(ge=0, le=WAIT_S_MAX, allow_inf_nan=False)] = 0


class UsageReport(Strict):
    """Up to a thousand events; each is checked by itself."""

    events: Annotated[list[Any], Field(max_length=EVENTS_MAX)]


class Rejected(Reply):
    """An event that was not accepted, and why; sending it again as it is changes nothing."""

    index: int
    reason: str


class UsageReceipt(Reply):
    """What became of a report: every event is accepted, a duplicate or rejected."""

    accepted: int
    duplicates: int
    rejected: list[Rejected]


class _EventIn(Strict):
    id: _Id
    request_id: _Id
    organization_id: _Id
    project_id: _Id
    api_key_id: _Id
    deployment_id: _Id
    replica_id: _Id
    model: _Text
    endpoint: _Text
    outcome: Literal["completed", "cut", "failed"]
    status: Annotated[int, Field(ge=0, le=599)]
    is_stream: bool
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    cached_tokens: _Tokens
    token_source: Literal["engine", "counted"]
    started_at_ms: Annotated[int, Field(ge=0, le=TIME_MS_MAX)]
    duration_ms: _Duration
    first_byte_ms: _Duration | None
    gateway: _Text
    cost_nano: Annotated[int, Field(ge=0, le=COST_NANO_MAX)] = 0
    holder: Annotated[str, Field(max_length=64, pattern=r"^[!-~]*$")] = ""


_EVENT: Final = TypeAdapter(_EventIn)


def read_event(value: object) -> UsageEvent | str:
    """Return the usage event in ``value``, or one line that says what is wrong with it."""
    try:
        event = _EVENT.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        return f"{field}: {first['msg']}" if field else str(first["msg"])
    fields = event.model_dump()
    fields["outcome"] = Outcome(event.outcome)
    fields["token_source"] = TokenSource(event.token_source)
    return UsageEvent(**fields)
