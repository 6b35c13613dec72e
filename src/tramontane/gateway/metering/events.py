"""What metering writes: a request that started, and the usage event of one that ended.

Both are msgspec structures, because one of each is made per request; `UsageLine` has the fields
of `domain.usage.UsageEvent`, one for one (a test holds them together).
"""

from collections.abc import Callable
from typing import Final

import msgspec

from tramontane.domain.ids import REQUEST, USAGE_EVENT
from tramontane.domain.spending.pricing import FREE, Prices, cost_nano
from tramontane.domain.usage import Outcome, TokenSource

# The status of a request whose client was told none before it left; nginx's convention.
STATUS_NONE: Final = 499


class Started(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A request that is handed to an engine, as its in-flight slot remembers it.

    It is written without the fields' names: a slot has 504 bytes.
    """

    request_id: str
    organization_id: str
    project_id: str
    api_key_id: str
    deployment_id: str
    replica_id: str
    model: str
    endpoint: str
    is_stream: bool
    started_at_ms: int
    prices: Prices = FREE


class UsageLine(msgspec.Struct, frozen=True, gc=False):
    """One usage event, as a line of the spool and as the control plane takes it."""

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
    cost_nano: int
    holder: str


encode: Final[Callable[[msgspec.Struct], bytes]] = msgspec.json.Encoder().encode


def event_id_of(request_id: str) -> str:
    """Return the id of the one usage event that the request ``request_id`` can ever have."""
    return USAGE_EVENT + request_id[len(REQUEST) :]


def ended(  # noqa: PLR0917 - called for every request: keywords would cost
    started: Started,
    gateway: str,
    holder: str,
    outcome: Outcome,
    status: int,
    tokens: tuple[int, int, int] | None,
    counted: tuple[int, int, int],
    duration_ms: int,
    first_byte_ms: int | None,
) -> UsageLine:
    """Return the usage event of a request.

    ``tokens`` are the engine's own prompt, completion and cached tokens. Without them ``counted``
    stand for them: the pieces of the stream that passed for the completion, and for the prompt
    what was told early. What an engine refused or broke costs nothing.
    """
    prompt_tokens, completion, cached = tokens or counted
    cost = 0
    if outcome is not Outcome.FAILED and started.prices is not FREE:
        cost = cost_nano(started.prices, prompt_tokens, completion, min(cached, prompt_tokens))
    return UsageLine(
        event_id_of(started.request_id),
        started.request_id,
        started.organization_id,
        started.project_id,
        started.api_key_id,
        started.deployment_id,
        started.replica_id,
        started.model,
        started.endpoint,
        outcome,
        status,
        started.is_stream,
        prompt_tokens,
        completion,
        cached,
        TokenSource.ENGINE if tokens else TokenSource.COUNTED,
        started.started_at_ms,
        duration_ms if duration_ms > 0 else 0,
        first_byte_ms,
        gateway,
        cost,
        holder,
    )
